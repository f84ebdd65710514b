"""Zero-shot classification: tags of the published MusiCNN networks, mapped to the nodes of a tree.

The mapping is data (`genretree/tags/*.yaml`) and reaches down to the level that the tags can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import expit

from genretree.arrays import Float64Array
from genretree.errors import BundleError
from genretree.models.base import LevelProbabilities, check_inputs
from genretree.models.families.musicnn.family import MusicnnSettings
from genretree.models.pretrained.musicnn import MSD_TAGS, MTT_TAGS, Musicnn
from genretree.models.pretrained.musicnn_features import extract_features, load_network
from genretree.models.pretrained.names import MusicnnName
from genretree.settings import Heads
from genretree.sound.features import MEL_16K, Inputs
from genretree.taxonomy import Taxonomy

_TAGS: Mapping[str, Sequence[str]] = {"msd": MSD_TAGS, "mtt": MTT_TAGS}


@dataclass(frozen=True)
class TagNode:
    """A node of the tree, the tags mapped to it and not to one of its children, and its children."""

    label: str
    tags: tuple[tuple[MusicnnName, int], ...]
    children: tuple[TagNode, ...] = ()


@dataclass(frozen=True)
class TagTree:
    """A mapping of tags to the nodes of a tree.

    Parameters
    ----------
    taxonomy : Taxonomy
        The tree, down to the level that the tags can distinguish.
    networks : tuple of names
    floor : float
        Score of every node without any tag.
    roots : tuple of TagNode
    """

    taxonomy: Taxonomy
    networks: tuple[MusicnnName, ...]
    floor: float
    roots: tuple[TagNode, ...]

    @classmethod
    def builtin(cls, name: str = "ccmusic") -> TagTree:
        """Load a mapping that is included in the package."""
        text = (resources.files("genretree") / "tags" / f"{name}.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        roots = tuple(_read_node(label, node) for label, node in content["tree"].items())
        nested = {root.label: [child.label for child in root.children] or None for root in roots}
        taxonomy = Taxonomy.from_nested(nested, content["levels"])
        return cls(taxonomy, tuple(content["networks"]), float(content["floor"]), roots)

    def leaf_probabilities(self, tags: Mapping[MusicnnName, Float64Array]) -> Float64Array:
        """Convert tag probabilities, (n, 50) for each network, to leaf probabilities, (n, n_leaves)."""
        columns: list[Float64Array] = []
        self._distribute(self.roots, np.ones(len(next(iter(tags.values())))), tags, columns)
        return np.stack(columns, axis=1)

    def _distribute(
        self,
        nodes: Sequence[TagNode],
        parent: Float64Array,
        tags: Mapping[MusicnnName, Float64Array],
        columns: list[Float64Array],
    ) -> None:
        """Distribute a parent's probability among its children, recursively down to the leaves."""
        evidence = np.stack([self._evidence(node, tags) for node in nodes])
        for node, share in zip(nodes, evidence / evidence.sum(axis=0), strict=True):
            if node.children:
                self._distribute(node.children, parent * share, tags, columns)
            else:
                columns.append(parent * share)

    def _evidence(self, node: TagNode, tags: Mapping[MusicnnName, Float64Array]) -> Float64Array:
        """Sum the tag probabilities of a node and its descendants."""
        own = sum((tags[network][:, tag] for network, tag in _all_tags(node)), start=np.zeros(1))
        return np.asarray(self.floor + own)


class TagModel:
    """Zero-shot model: MusiCNN networks with a mapping of their tags."""

    input_features: tuple[str, ...] = (MEL_16K,)
    heads: Heads = "tree"

    def __init__(self, tree: TagTree, networks: Mapping[MusicnnName, Musicnn], patches: int = 4) -> None:
        self.tree = tree
        self.networks = networks
        self.patches = patches

    @classmethod
    def load(cls, name: str = "ccmusic") -> TagModel:
        """Load a mapping by name, and the published weights from the cache.

        Raises
        ------
        TrainingError
            If the weights are missing.
        """
        tree = TagTree.builtin(name)
        return cls(tree, {network: load_network(network) for network in tree.networks})

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        check_inputs(self, inputs)
        features = extract_features(self.networks, inputs[MEL_16K], self.patches)
        tags = {name: expit(features[f"{name}/tags"].astype(np.float64)) for name in self.networks}
        return self.tree.taxonomy.sum_levels(self.tree.leaf_probabilities(tags))

    def save(self, folder: Path) -> list[str]:
        """Raise BundleError, since nothing was trained."""
        raise BundleError("a zero-shot model can't be saved as a bundle; train a family on a store instead")


def zero_shot_settings() -> MusicnnSettings:
    """Return the settings that correspond to the zero-shot model."""
    return MusicnnSettings.build({"networks": TagTree.builtin().networks})


def _all_tags(node: TagNode) -> list[tuple[MusicnnName, int]]:
    return [*node.tags, *(tag for child in node.children for tag in _all_tags(child))]


def _read_node(label: str, content: Mapping[str, Any]) -> TagNode:
    tags = tuple((network, _TAGS[network].index(tag)) for network in ("msd", "mtt") for tag in content.get(network, ()))
    children = tuple(_read_node(name, node) for name, node in content.get("children", {}).items())
    return TagNode(label, tags, children)  # type: ignore[arg-type]
