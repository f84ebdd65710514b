"""Genre paths without any training: the tags of the published MusiCNN networks, read as nodes of a tree.

Which tag speaks for which node is data (`genretree/tags/*.yaml`), down to the level that the tags can tell apart.
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
    """A node of the tree, the tags that speak for it and not for one of its children, and those children."""

    label: str
    tags: tuple[tuple[MusicnnName, int], ...]
    children: tuple[TagNode, ...] = ()


@dataclass(frozen=True)
class TagTree:
    """What tags say of a tree.

    Parameters
    ----------
    taxonomy : Taxonomy
        As far down as the tags reach.
    networks : tuple of names
    floor : float
        Evidence that every node has without any tag.
    roots : tuple of TagNode
    """

    taxonomy: Taxonomy
    networks: tuple[MusicnnName, ...]
    floor: float
    roots: tuple[TagNode, ...]

    @classmethod
    def builtin(cls, name: str = "ccmusic") -> TagTree:
        """Read a tree that comes with the package."""
        text = (resources.files("genretree") / "tags" / f"{name}.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        roots = tuple(_read_node(label, node) for label, node in content["tree"].items())
        nested = {root.label: [child.label for child in root.children] or None for root in roots}
        taxonomy = Taxonomy.from_nested(nested, content["levels"])
        return cls(taxonomy, tuple(content["networks"]), float(content["floor"]), roots)

    def leaf_probabilities(self, tags: Mapping[MusicnnName, Float64Array]) -> Float64Array:
        """Turn tag probabilities, (n, 50) for each network, into leaf probabilities, (n, n_leaves)."""
        columns: list[Float64Array] = []
        self._share(self.roots, np.ones(len(next(iter(tags.values())))), tags, columns)
        return np.stack(columns, axis=1)

    def _share(
        self,
        nodes: Sequence[TagNode],
        whole: Float64Array,
        tags: Mapping[MusicnnName, Float64Array],
        columns: list[Float64Array],
    ) -> None:
        """Share a parent's probability among its children, and theirs among their own, leaf by leaf."""
        evidence = np.stack([self._evidence(node, tags) for node in nodes])
        for node, share in zip(nodes, evidence / evidence.sum(axis=0), strict=True):
            if node.children:
                self._share(node.children, whole * share, tags, columns)
            else:
                columns.append(whole * share)

    def _evidence(self, node: TagNode, tags: Mapping[MusicnnName, Float64Array]) -> Float64Array:
        """Sum the tags of a node and of all below it."""
        own = sum((tags[network][:, tag] for network, tag in _all_tags(node)), start=np.zeros(1))
        return np.asarray(self.floor + own)


class TagModel:
    """The untrained classifier behind the contract of every family."""

    input_features: tuple[str, ...] = (MEL_16K,)
    heads: Heads = "tree"

    def __init__(self, tree: TagTree, networks: Mapping[MusicnnName, Musicnn], patches: int = 4) -> None:
        self.tree = tree
        self.networks = networks
        self.patches = patches

    @classmethod
    def load(cls, name: str = "ccmusic") -> TagModel:
        """Take the tag tree of that name and the weights in the cache.

        Raises
        ------
        TrainingError
            If the weights are not there; says how to get them.
        """
        tree = TagTree.builtin(name)
        return cls(tree, {network: load_network(network) for network in tree.networks})

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        check_inputs(self, inputs)
        heard = extract_features(self.networks, inputs[MEL_16K], self.patches)
        tags = {name: expit(heard[f"{name}/tags"].astype(np.float64)) for name in self.networks}
        return self.tree.taxonomy.sum_levels(self.tree.leaf_probabilities(tags))

    def save(self, folder: Path) -> list[str]:
        """Refuse: there is nothing here that was learned."""
        raise BundleError("what was never trained can't be saved as a bundle")


def untrained_settings() -> MusicnnSettings:
    """Give the settings that the untrained classifier stands for."""
    return MusicnnSettings.build({"networks": TagTree.builtin().networks})


def _all_tags(node: TagNode) -> list[tuple[MusicnnName, int]]:
    return [*node.tags, *(tag for child in node.children for tag in _all_tags(child))]


def _read_node(label: str, content: Mapping[str, Any]) -> TagNode:
    tags = tuple((network, _TAGS[network].index(tag)) for network in ("msd", "mtt") for tag in content.get(network, ()))
    children = tuple(_read_node(name, node) for name, node in content.get("children", {}).items())
    return TagNode(label, tags, children)  # type: ignore[arg-type]
