"""Probabilities of a tree's nodes from the probabilities of a tagger's tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float64Array, Int64Array
from genretree.errors import BundleError
from genretree.files import write_text
from genretree.taxonomy import UNSPECIFIED, NodePath, Taxonomy, format_path
from genretree.vocabulary import TAGGERS, Tagger, VocabularyMatch, tag_names

FILE = "tags.json"
_FORMAT = 1
_UNDECIDED = 0.3


@dataclass(frozen=True, kw_only=True)
class NodeTags:
    """Indices of the tags that indicate one node.

    Parameters
    ----------
    tags : mapping of tagger to array of int
        They count towards the node and all nodes above it.
    hints : array of int
        Tags of mn04 that only distinguish the node from its siblings.
    """

    tags: Mapping[Tagger, Int64Array]
    hints: Int64Array


class TagTree:
    """The tags of every node of a tree, and the probabilities that follow from them.

    A node's evidence is the sum of the probabilities of its tags and of those of the nodes below it. Siblings share
    their parent's probability in proportion to evidence and hints, plus a floor for each of them. The leaf
    `UNSPECIFIED` has the evidence of its parent's own tags and a share of that of its siblings, so that a path stops
    where no sibling stands out.

    Parameters
    ----------
    taxonomy : Taxonomy
    nodes : mapping of node to NodeTags
        Nodes without tags may be missing.
    floor : float
        Evidence of a node without any tag, above 0.
    """

    def __init__(self, taxonomy: Taxonomy, nodes: Mapping[NodePath, NodeTags], floor: float) -> None:
        self.taxonomy = taxonomy
        self.nodes = dict(nodes)
        self.floor = floor
        self._children: dict[NodePath, list[NodePath]] = {}
        for leaf in taxonomy.leaves:
            for cut in range(len(leaf)):
                siblings = self._children.setdefault(leaf[:cut], [])
                if leaf[: cut + 1] not in siblings:
                    siblings.append(leaf[: cut + 1])

    @classmethod
    def of(cls, match: VocabularyMatch, floor: float, taxonomy: Taxonomy | None = None) -> TagTree:
        """Build from the match of a vocabulary, for the part of the tree that tags reach, or for the whole tree."""
        nodes = {}
        for node in match.nodes:
            tags = {tagger: _indices(tagger, names) for tagger, names in node.tags.items() if names}
            if tags or node.hints:
                nodes[node.node] = NodeTags(tags=tags, hints=_indices("mn04", node.hints))
        return cls(match.taxonomy if taxonomy is None else taxonomy, nodes, floor)

    def leaf_probabilities(self, tags: Mapping[Tagger, Float64Array]) -> Float64Array:
        """Compute leaf probabilities.

        Parameters
        ----------
        tags : mapping of tagger to array, shape (n, n_tags)
            Tag probabilities, in [0, 1].

        Returns
        -------
        array, shape (n, n_leaves)
            Rows sum to 1.
        """
        n = len(next(iter(tags.values())))
        columns: dict[NodePath, Float64Array] = {}
        self._distribute((), np.ones(n), tags, columns)
        return np.stack([columns[leaf] for leaf in self.taxonomy.leaves], axis=1)

    def _distribute(
        self,
        parent: NodePath,
        probability: Float64Array,
        tags: Mapping[Tagger, Float64Array],
        columns: dict[NodePath, Float64Array],
    ) -> None:
        children = self._children[parent]
        evidence = np.stack([self._evidence(node, tags) + self._hints(node, tags) for node in children]) + self.floor
        if children[0][-1] == UNSPECIFIED:
            evidence[0] += _UNDECIDED * evidence[1:].sum(axis=0)
        for node, share in zip(children, evidence / evidence.sum(axis=0), strict=True):
            if node in self._children:
                self._distribute(node, probability * share, tags, columns)
            else:
                columns[node] = probability * share

    def _own(self, node: NodePath, tags: Mapping[Tagger, Float64Array]) -> Float64Array:
        total = np.zeros(len(next(iter(tags.values()))))
        if node in self.nodes:
            for tagger, indices in self.nodes[node].tags.items():
                if tagger in tags:
                    total += tags[tagger][:, indices].sum(axis=1)
        return total

    def _evidence(self, node: NodePath, tags: Mapping[Tagger, Float64Array]) -> Float64Array:
        if node[-1] == UNSPECIFIED:
            return self._own(node[:-1], tags)
        below = [child for child in self._children.get(node, ()) if child[-1] != UNSPECIFIED]
        return sum((self._evidence(child, tags) for child in below), start=self._own(node, tags))

    def _hints(self, node: NodePath, tags: Mapping[Tagger, Float64Array]) -> Float64Array:
        if node not in self.nodes or "mn04" not in tags:
            return np.zeros(len(next(iter(tags.values()))))
        hints: Float64Array = tags["mn04"][:, self.nodes[node].hints].sum(axis=1)
        return hints

    def save(self, folder: Path) -> list[str]:
        """Write the names of every node's tags as JSON."""
        nodes = [
            {
                "node": list(node),
                "tags": {tagger: [tag_names(tagger)[i] for i in indices] for tagger, indices in content.tags.items()},
                "hints": [tag_names("mn04")[i] for i in content.hints],
            }
            for node, content in self.nodes.items()
        ]
        write_text(folder / FILE, json.dumps({"format": _FORMAT, "nodes": nodes}, indent=1))
        return [FILE]

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy, floor: float) -> TagTree:
        """Read what `save` wrote.

        Raises
        ------
        BundleError
            If the file can't be read or names unknown nodes or tags.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            nodes = dict(_read_node(item) for item in content["nodes"])
            known = {leaf[:cut] for leaf in taxonomy.leaves for cut in range(1, len(leaf) + 1)}
            unknown = [node for node in nodes if node not in known]
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r} instead of {_FORMAT}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(f"{path}: can't be read ({error}); copy or make the bundle again") from error
        if unknown:
            raise BundleError(
                f"{path}: the tree has no node '{format_path(unknown[0])}'; copy or make the bundle again"
            )
        return cls(taxonomy, nodes, floor)


def _indices(tagger: Tagger, names: tuple[str, ...]) -> Int64Array:
    known = tag_names(tagger)
    return np.array([known.index(name) for name in names], np.int64)


def _read_node(item: Any) -> tuple[NodePath, NodeTags]:
    tags = {tagger: _indices(tagger, tuple(item["tags"][tagger])) for tagger in TAGGERS if tagger in item["tags"]}
    return tuple(map(str, item["node"])), NodeTags(tags=tags, hints=_indices("mn04", tuple(item["hints"])))
