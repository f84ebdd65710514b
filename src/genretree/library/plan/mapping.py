"""From what a model says to what is written: the user's names, how deep, and how sure at least.

A mapping file is YAML:

min_confidence: 0.6         # go only as far down as this
depth: 2                    # levels at most
min_depth: 1                # and at least: where these are not as sure, write nothing
values: leaf                # or path: every level, from min_depth on, is a genre of its own
nodes:
  Soft_rock: Soft Rock      # another name
  Teen_pop: Pop             # the same name for several: they are one, with the sum of their probabilities
  Rock: [Rock, Guitar]      # several genres; also for all below that have no line of their own
  Opera:                    # nothing: such files are left alone
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from genretree.errors import LibraryError, SettingsError
from genretree.library.database.records import ModelKey
from genretree.metrics.scores import decode_levels
from genretree.models.base import LevelProbabilities
from genretree.prediction.predict import cut_path
from genretree.settings import Heads, Settings
from genretree.taxonomy import NodePath, Taxonomy, format_path, same_name, split_path

Genres = tuple[str, ...]
LIKELY = 0.5  # what is as sure as this is sooner right than wrong, where probabilities are calibrated


class MappingSettings(Settings):
    """The settings of a mapping file, apart from its nodes."""

    min_confidence: float = Field(LIKELY, ge=0, le=1, description="what a node's probability must reach to be written")
    depth: int | None = Field(None, ge=1, le=4, description="how many levels are written at most")
    min_depth: int | None = Field(None, ge=1, le=4, description="the highest level that is written, 1 the top")
    values: Literal["leaf", "path"] = Field("leaf", description="the deepest name only, or every level's")
    nodes: dict[str, str | list[str] | None] = Field(default_factory=dict, description="genres by node")


@dataclass(frozen=True)
class Mapping:
    """Rules for writing genres of a tree.

    Parameters
    ----------
    settings : MappingSettings
    rules : mapping
        Genres by node path; an empty tuple writes nothing.
    """

    settings: MappingSettings = field(default_factory=MappingSettings)
    rules: MappingType[NodePath, Genres] = field(default_factory=dict)

    def genres(self, node: NodePath) -> Genres:
        """Return what is written for a node: its own rule's, or that of the nearest node above it, or its name."""
        for cut in range(len(node), 0, -1):
            if node[:cut] in self.rules:
                return self.rules[node[:cut]]
        return (node[-1],)

    def may_write(self, node: NodePath, level: int, tree: Taxonomy) -> bool:
        """Return whether a node that stands at a level, 1 the top, is deep enough, or has a line that asks for it."""
        return level >= self.least_depth(tree) or self.has_rule(node)

    def has_rule(self, node: NodePath) -> bool:
        """Return whether there is a line for a node, or for one above it."""
        return any(node[:cut] in self.rules for cut in range(1, len(node) + 1))

    def least_depth(self, tree: Taxonomy) -> int:
        """Return the highest level whose names are written, 1 the top.

        By default the second one, where there is one: a top such as `Classic` and `Non_classic` parts music and is no
        genre that anybody files by.
        """
        return min(self.settings.min_depth or 2, self.settings.depth or tree.depth, tree.depth)


@dataclass(frozen=True)
class Decision:
    """What is to be written for a file.

    Parameters
    ----------
    genres : tuple of str
        None of them: nothing is written.
    path : tuple of str
        The node it is for, from the root down; of an unsure one the node that should have been surer.
    confidence : float
        Its probability, 0 to 1; with that of all nodes that are written alike.
    reason : str
        Why nothing is written: `unsure` or `left_alone`.
    message : str
        More of it: `not sure enough: Rock 41 % (Non_classic 93 %)`.
    """

    genres: Genres
    path: NodePath
    confidence: float
    reason: str = ""
    message: str = ""


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys, the first of which would be dropped without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' has two lines", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_mapping(path: Path, tree: Taxonomy) -> Mapping:
    """Read a mapping file.

    Raises
    ------
    LibraryError
        If it isn't one, or names a node that the tree doesn't have; says which is likely meant.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LibraryError(f"{path}: the mapping file can't be read ({error})") from error
    if not isinstance(content, dict):
        raise LibraryError(f"{path}: a mapping file has lines like `min_confidence: 0.6` and `nodes:`")
    try:
        return make_mapping(content, tree)
    except (LibraryError, SettingsError) as error:
        raise LibraryError(f"{path}: {error}") from error


def make_mapping(content: MappingType[str, Any], tree: Taxonomy) -> Mapping:
    """Make a mapping of what a mapping file says."""
    settings = MappingSettings.build(content)
    _check_depths(settings)
    rules: dict[NodePath, Genres] = {}
    for name, genres in settings.nodes.items():
        node = find_node(tree, name)
        if node in rules:
            raise LibraryError(f"'{name}' stands for a node that has a line already: '{format_path(node)}'")
        listed = [genres] if isinstance(genres, str) else genres or []
        for genre in listed:
            if not genre.strip() or not genre.isprintable():
                raise LibraryError(f"'{name}': {genre!r} is not a genre; leave the value empty to write nothing")
        rules[node] = tuple(dict.fromkeys(genre.strip() for genre in listed))
    return Mapping(settings, rules)


def find_node(tree: Taxonomy, name: str) -> NodePath:
    """Find a node, a leaf or one that has children, by its name or its path.

    Raises
    ------
    LibraryError
        If none or more than one has that name; says which come near.
    """
    nodes = list(dict.fromkeys(node for level in range(tree.depth) for node in tree.nodes(level)))
    wanted = split_path(name)
    exact = [node for node in nodes if same_name(node, wanted)]
    found = exact or [node for node in nodes if same_name(node[-len(wanted) :], wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        options = ", ".join(f"'{format_path(node)}'" for node in found)
        raise LibraryError(f"'{name}' names more than one node: {options}; give the path")
    names = {node[-1].casefold(): node for node in nodes}
    close = difflib.get_close_matches((wanted[-1] if wanted else name).casefold(), names, n=1)
    hint = f"did you mean '{format_path(names[close[0]])}'?" if close else f"it has: {', '.join(n[-1] for n in nodes)}"
    raise LibraryError(f"the tree has no node '{name}'; {hint}")


def decide(card: ModelKey, levels: LevelProbabilities, mapping: Mapping) -> Decision:
    """Choose what is written, from a file's probabilities: arrays of shape (1, n_nodes), one for each level.

    Nodes that are written alike are one, wherever they stand in the tree: what competes with others, and is held
    against the threshold, is the sum of their probabilities. Levels below `depth` have no part in it. The path is
    chosen as `predict` does: the one that gets the most levels right, or the one that stays sure for longest.
    """
    tree, settings = _cut_tree(card.taxonomy, mapping.settings.depth), mapping.settings
    totals = _add_alike(tree, levels, mapping)
    joined = _join_alike(tree, card.heads, totals, mapping)
    nodes = decode_levels(tree, card.heads, joined)[0]
    known, nodes = cut_path(tree, card.heads, joined, nodes, settings.min_confidence)
    if card.heads == "tree" and known:
        nodes = _likeliest(tree, levels, nodes, known, mapping)
    path = [tree.nodes(level)[int(node)] for level, node in enumerate(nodes)]
    names = [mapping.genres(node) for node in path]
    sure = [totals[level][genres] for level, genres in enumerate(names)]
    if not known or not mapping.may_write(path[known - 1], known, tree):
        wanted = max(known, mapping.least_depth(tree) - 1)
        above = f" ({_percent(path[known - 1], sure[known - 1])})" if known else ""
        message = f"not sure enough: {_percent(path[wanted], sure[wanted])}{above}"
        return Decision((), path[wanted], sure[wanted], "unsure", message)
    node, genres = path[known - 1], names[known - 1]
    if not genres:
        return Decision((), node, sure[known - 1], "left_alone")
    if settings.values == "path":
        steps = [
            names[level]
            for level in range(known - 1)
            if sure[level] >= settings.min_confidence and mapping.may_write(path[level], level + 1, tree)
        ]
        genres = tuple(dict.fromkeys(genre for step in (*steps, genres) for genre in step))
    return Decision(genres, node, sure[known - 1])


def _percent(node: NodePath, chance: float) -> str:
    return f"{node[-1]} {100 * chance:.0f} %"


@lru_cache(maxsize=8)
def _cut_tree(tree: Taxonomy, depth: int | None) -> Taxonomy:
    """Return a tree's upper levels, in the same order."""
    if depth is None or depth >= tree.depth:
        return tree
    return Taxonomy(tuple(dict.fromkeys(leaf[:depth] for leaf in tree.leaves)), tree.levels[:depth])


def _add_alike(tree: Taxonomy, levels: LevelProbabilities, mapping: Mapping) -> list[dict[Genres, float]]:
    """Return for each level what its nodes are written as, and how likely that is right.

    Beside the level's own nodes those above count that are called so and have none left here: a song of hip hop that
    is written as `Rock` competes at the third level with all of `Rock`, though that has only sub-genres there.
    """
    found = []
    for deepest in range(tree.depth):
        below: dict[NodePath, dict[Genres, float]] = {}
        for level in range(deepest, -1, -1):
            merged: dict[NodePath, dict[Genres, float]] = {}
            for node, totals in below.items():
                _add(merged.setdefault(node[: level + 1], {}), totals)
            for node, chance in zip(tree.nodes(level), levels[level][0], strict=True):
                genres = mapping.genres(node)
                by_name = not mapping.has_rule(node)  # and so all that lies below it is that, too
                if by_name or genres not in merged.setdefault(node, {}):
                    merged.setdefault(node, {})[genres] = float(chance)
            below = merged
        whole: dict[Genres, float] = {}
        for totals in below.values():
            _add(whole, totals)
        found.append({genres: min(total, 1.0) for genres, total in whole.items()})
    return found


def _add(to: dict[Genres, float], totals: MappingType[Genres, float]) -> None:
    for genres, total in totals.items():
        to[genres] = to.get(genres, 0.0) + total


def _join_alike(
    tree: Taxonomy, heads: Heads, totals: list[dict[Genres, float]], mapping: Mapping
) -> LevelProbabilities:
    """Return every node the probability of what is written for it.

    In a tree a node counts as sure as any below it: what is merged across branches may be surer than each branch.
    """
    joined = [
        np.array([[totals[level][mapping.genres(node)] for node in tree.nodes(level)]], dtype=np.float64)
        for level in range(tree.depth)
    ]
    if heads == "tree":
        for level in range(tree.depth - 2, -1, -1):
            below = joined[level + 1][0, tree.ancestors[:, level + 1]]
            np.maximum.at(joined[level][0], tree.ancestors[:, level], below)
    return joined


def _likeliest(
    tree: Taxonomy, levels: LevelProbabilities, nodes: NDArray[np.int64], known: int, mapping: Mapping
) -> NDArray[np.int64]:
    """Of the paths that are written as this one is, give the one that is likeliest by itself."""
    names = [mapping.genres(node) for node in tree.nodes(known - 1)]
    alike = [row for row in tree.ancestors if names[row[known - 1]] == names[nodes[known - 1]]]
    own = levels[known - 1][0]
    best = max(alike, key=lambda row: float(own[row[known - 1]]))
    return nodes if own[nodes[known - 1]] >= own[best[known - 1]] else best


def _check_depths(settings: MappingSettings) -> None:
    if settings.min_depth and settings.depth and settings.min_depth > settings.depth:
        raise LibraryError(f"min_depth, {settings.min_depth}, is deeper than depth, {settings.depth}")


def with_options(
    mapping: Mapping, min_confidence: float | None = None, depth: int | None = None, min_depth: int | None = None
) -> Mapping:
    """Return a mapping with a threshold or depths of its own, where these are not None.

    Raises
    ------
    LibraryError
        If the depths contradict one another.
    """
    given = {"min_confidence": min_confidence, "depth": depth, "min_depth": min_depth}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = mapping.settings.model_copy(update=changes)
    _check_depths(settings)
    return Mapping(settings, mapping.rules)
