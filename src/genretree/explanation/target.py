"""What is asked: a node of the tree against others, and its log odds."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.errors import TaxonomyError
from genretree.models.base import LevelProbabilities
from genretree.taxonomy import NodePath, Taxonomy, format_path, split_path

_LEAST = 1e-9  # a probability of 0, as trees may give, has no logarithm


@dataclass(frozen=True)
class Target:
    """A node against others: "why Rock and not Pop".

    Parameters
    ----------
    node : tuple of str
        Its path from the root.
    against : tuple of paths
    level, nodes : int, tuple of int
        Where the node stands: its level and its index there.
    other_level, others : int, tuple of int
        The same of those it is held against.
    """

    node: NodePath
    against: tuple[NodePath, ...]
    level: int
    nodes: tuple[int, ...]
    other_level: int
    others: tuple[int, ...]

    @property
    def question(self) -> str:
        """The question in words: `why Rock and not Pop, Jazz`."""
        return f"why {self.node[-1]} and not {', '.join(path[-1] for path in self.against)}"

    def log_odds(self, levels: LevelProbabilities) -> NDArray[np.float64]:
        """Give the log of the node's probability over that of the others, by the natural logarithm: shape (n,)."""
        own = levels[self.level][:, self.nodes].sum(axis=1)
        other = levels[self.other_level][:, self.others].sum(axis=1)
        odds: NDArray[np.float64] = np.log(np.maximum(own, _LEAST)) - np.log(np.maximum(other, _LEAST))
        return odds


def find_node(taxonomy: Taxonomy, name: str) -> tuple[int, int]:
    """Find a node at any level by its name or path; gives its level and index.

    Raises
    ------
    TaxonomyError
        If there is none, with the likely intended one, or more than one.
    """
    wanted = tuple(_fold(part) for part in split_path(name))
    found = [
        (level, index)
        for level in range(taxonomy.depth)
        for index, node in enumerate(taxonomy.nodes(level))
        if len(node) == level + 1 and wanted and tuple(map(_fold, node))[-len(wanted) :] == wanted
    ]
    exact = [place for place in found if len(taxonomy.nodes(place[0])[place[1]]) == len(wanted)]
    if len(wanted) > 1 and exact:
        found = exact
    if len(found) == 1:
        return found[0]
    if found:
        options = ", ".join(f"'{format_path(taxonomy.nodes(level)[index])}'" for level, index in found)
        raise TaxonomyError(f"'{name}' names more than one node: {options}; give the path")
    names = {_fold(part): part for leaf in taxonomy.leaves for part in leaf}
    close = difflib.get_close_matches(wanted[-1] if wanted else "", names, n=1)
    hint = f"did you mean '{names[close[0]]}'?" if close else f"its nodes are: {', '.join(names.values())}"
    raise TaxonomyError(f"'{name}' is not a node of the tree; {hint}")


def make_target(taxonomy: Taxonomy, level: int, index: int, against: str | None = None) -> Target:
    """Hold a node against its siblings, or against another node.

    A node without siblings is held against all others of its level.

    Raises
    ------
    TaxonomyError
        If the other node is the same, lies above or below it, or there is none of that name.
    """
    nodes = taxonomy.nodes(level)
    node = nodes[index]
    if against is not None:
        other_level, other = find_node(taxonomy, against)
        path = taxonomy.nodes(other_level)[other]
        if path[: len(node)] == node or node[: len(path)] == path:
            raise TaxonomyError(
                f"'{format_path(node)}' can't be held against '{format_path(path)}': one is a part of the other"
            )
        return Target(node, (path,), level, (index,), other_level, (other,))
    others = [place for place, path in enumerate(nodes) if place != index and path[:-1] == node[:-1]]
    others = others or [place for place in range(len(nodes)) if place != index]
    if not others:
        raise TaxonomyError(f"'{format_path(node)}' is the only node of its level; there is nothing to hold it against")
    return Target(node, tuple(nodes[place] for place in others), level, (index,), level, tuple(others))


def targets_of_path(taxonomy: Taxonomy, nodes: Sequence[int]) -> list[Target]:
    """Hold each node of a path, given as an index for each level, against its siblings.

    Levels of one node are left out; a leaf that ended above stands for itself below, and is asked for once.
    """
    found: list[Target] = []
    for level, index in enumerate(nodes):
        path = taxonomy.nodes(level)[index]
        if len(taxonomy.nodes(level)) > 1 and all(target.node != path for target in found):
            found.append(make_target(taxonomy, level, int(index)))
    return found


def _fold(name: str) -> str:
    return name.strip().replace("-", "_").replace(" ", "_").casefold()
