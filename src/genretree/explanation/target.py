"""Explanation targets: a node of the tree against other nodes, and the log odds of the two."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.errors import TaxonomyError
from genretree.models.base import LevelProbabilities
from genretree.taxonomy import NodePath, Taxonomy, format_path, split_path

_MIN_PROBABILITY = 1e-9  # boosting may predict 0, whose logarithm is infinite


@dataclass(frozen=True)
class Target:
    """A node and the nodes that it is contrasted with: "why Rock and not Pop".

    Parameters
    ----------
    node : tuple of str
        Its path from the root.
    against : tuple of paths
    level, nodes : int, tuple of int
        Level of the node, and its index in that level.
    other_level, others : int, tuple of int
        The same for the nodes in `against`.
    """

    node: NodePath
    against: tuple[NodePath, ...]
    level: int
    nodes: tuple[int, ...]
    other_level: int
    others: tuple[int, ...]

    @property
    def question(self) -> str:
        """The target in words: `why Rock and not Pop, Jazz`."""
        return f"why {self.node[-1]} and not {', '.join(path[-1] for path in self.against)}"

    def log_odds(self, levels: LevelProbabilities) -> NDArray[np.float64]:
        """Compute the natural log odds of the node against the others, shape (n,)."""
        own = levels[self.level][:, self.nodes].sum(axis=1)
        other = levels[self.other_level][:, self.others].sum(axis=1)
        odds: NDArray[np.float64] = np.log(np.maximum(own, _MIN_PROBABILITY)) - np.log(
            np.maximum(other, _MIN_PROBABILITY)
        )
        return odds


def find_node(taxonomy: Taxonomy, name: str | Sequence[str]) -> tuple[int, int]:
    """Find a node at any level by its name or path, and return its level and index.

    Parameters
    ----------
    taxonomy : Taxonomy
    name : str or sequence of str
        `"Rock"`, `"Non_classic > Rock"`, `"Non_classic/Rock"` or `("Non_classic", "Rock")`.

    Raises
    ------
    TaxonomyError
        If no node matches (the message suggests the closest name), or more than one.
    """
    parts = tuple(_fold(part) for part in (split_path(name) if isinstance(name, str) else name))
    shown = name if isinstance(name, str) else format_path(name)
    matches = [
        (level, index)
        for level in range(taxonomy.depth)
        for index, node in enumerate(taxonomy.nodes(level))
        if len(node) == level + 1 and parts and tuple(map(_fold, node))[-len(parts) :] == parts
    ]
    exact = [position for position in matches if len(taxonomy.nodes(position[0])[position[1]]) == len(parts)]
    if len(parts) > 1 and exact:
        matches = exact
    if len(matches) == 1:
        return matches[0]
    if matches:
        options = ", ".join(f"'{format_path(taxonomy.nodes(level)[index])}'" for level, index in matches)
        raise TaxonomyError(f"'{shown}' matches more than one node: {options}; give the path")
    names = {_fold(part): part for leaf in taxonomy.leaves for part in leaf}
    close = difflib.get_close_matches(parts[-1] if parts else "", names, n=1)
    hint = f"did you mean '{names[close[0]]}'?" if close else f"its nodes are: {', '.join(names.values())}"
    raise TaxonomyError(f"'{shown}' is not a node of the tree; {hint}")


def make_target(taxonomy: Taxonomy, level: int, index: int, against: str | Sequence[str] | None = None) -> Target:
    """Contrast a node with its siblings, or with another node.

    A node without siblings is contrasted with all other nodes of its level.

    Raises
    ------
    TaxonomyError
        If `against` is the node itself, an ancestor or a descendant of it, or not in the tree.
    """
    nodes = taxonomy.nodes(level)
    node = nodes[index]
    if against is not None:
        other_level, other = find_node(taxonomy, against)
        path = taxonomy.nodes(other_level)[other]
        if path[: len(node)] == node or node[: len(path)] == path:
            raise TaxonomyError(
                f"'{format_path(node)}' cannot be contrasted with '{format_path(path)}': one contains the other; "
                "choose a node outside its path"
            )
        return Target(node, (path,), level, (index,), other_level, (other,))
    others = [position for position, path in enumerate(nodes) if position != index and path[:-1] == node[:-1]]
    others = others or [position for position in range(len(nodes)) if position != index]
    if not others:
        raise TaxonomyError(
            f"'{format_path(node)}' is the only node of its level, so there is no node to contrast it with"
        )
    return Target(node, tuple(nodes[position] for position in others), level, (index,), level, tuple(others))


def targets_of_path(taxonomy: Taxonomy, nodes: Sequence[int]) -> list[Target]:
    """Contrast each node of a path, given as one index per level, with its siblings.

    Levels with a single node are skipped. A leaf above the deepest level repeats on the levels below and counts once.
    """
    targets: list[Target] = []
    for level, index in enumerate(nodes):
        path = taxonomy.nodes(level)[index]
        if len(taxonomy.nodes(level)) > 1 and all(target.node != path for target in targets):
            targets.append(make_target(taxonomy, level, int(index)))
    return targets


def _fold(name: str) -> str:
    return name.strip().replace("-", "_").replace(" ", "_").casefold()
