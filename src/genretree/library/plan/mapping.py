"""Map predictions to the genres to write: custom names, maximum and minimum depth, and a confidence threshold.

A mapping file is YAML:

min_confidence: 0.6         # the threshold that a node's probability must reach
depth: 2                    # maximum level
min_depth: 1                # minimum level: if it does not reach the threshold, nothing is written
values: leaf                # or path: write every level, from min_depth on, as a separate genre
genres: 2                   # maximum number of nodes: the most probable path, and other nodes of its level
min_other: 0.2              # what the probability of the other nodes must reach
separator: "; "             # write several genres as one text, for players that split it
placeholders: [Other, Misc] # genres that count as none
nodes:
  Soft_rock: Soft Rock      # custom name
  Teen_pop: Pop             # nodes with the same name are merged, and their probabilities summed
  Rock: [Rock, Guitar]      # several genres; also for all nodes below without a line of their own
  Opera:                    # no value: such files are skipped
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, StringConstraints

from genretree.errors import LibraryError, SettingsError
from genretree.library.database.records import ModelKey
from genretree.library.tags.genre_fields import is_separator
from genretree.metrics.scores import decode_levels
from genretree.models.base import LevelProbabilities
from genretree.prediction.predict import cut_path
from genretree.settings import Heads, Settings
from genretree.taxonomy import (
    UNSPECIFIED,
    NodePath,
    Taxonomy,
    drop_unspecified,
    format_path,
    is_same_branch,
    load_yaml,
    same_name,
    split_path,
)

Genres = tuple[str, ...]
DEFAULT_MIN_CONFIDENCE = 0.5  # above this, a calibrated prediction is more likely right than wrong
V1_PREFIX = "ID3v1:"  # of a placeholder that only counts in an ID3v1 tag, where many programs write it unasked
DEFAULT_PLACEHOLDERS = (
    *("Other", "Unknown", "Unknown genre", "Unknown/Other", "<Unknown>", "Genre", "No genre", "None", "Default"),
    *("Undefined", "Misc", "Misc.", "Miscellaneous", f"{V1_PREFIX}Blues", f"{V1_PREFIX}Other"),
)
DEFAULT_MIN_OTHER = 0.2  # at most half as probable as the first: 0.5 for both would allow no second genre


class MappingSettings(Settings):
    """The settings of a mapping file, apart from its nodes."""

    min_confidence: float = Field(
        DEFAULT_MIN_CONFIDENCE, ge=0, le=1, description="what a node's probability must reach to be written"
    )
    depth: int | None = Field(None, ge=1, le=4, description="how many levels are written at most")
    min_depth: int | None = Field(None, ge=1, le=4, description="the highest level that is written, 1 the top")
    values: Literal["leaf", "path"] = Field("leaf", description="the deepest name only, or every level's")
    genres: int = Field(1, ge=1, le=20, description="how many nodes of one level are written at most")
    min_other: float = Field(
        DEFAULT_MIN_OTHER, ge=0, le=1, description="what the probability of a further node must reach to be written"
    )
    separator: str = Field("", description="text between several genres that are written as one; empty for a list")
    placeholders: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = Field(
        default_factory=lambda: list(DEFAULT_PLACEHOLDERS),
        description="genres that count as none; with `ID3v1:` in front, only if no other tag has a genre",
    )
    nodes: dict[str, str | list[str] | None] = Field(default_factory=dict, description="genres by node")


@dataclass(frozen=True)
class Mapping:
    """A mapping from the nodes of a tree to genres.

    Parameters
    ----------
    settings : MappingSettings
    rules : mapping
        Genres by node path; files of a node with an empty tuple are skipped.
    """

    settings: MappingSettings = field(default_factory=MappingSettings)
    rules: MappingType[NodePath, Genres] = field(default_factory=dict)

    def genres(self, node: NodePath) -> Genres:
        """Return a node's genres: those of its rule, or of the nearest rule above it, or its name."""
        node = drop_unspecified(node)
        for cut in range(len(node), 0, -1):
            if node[:cut] in self.rules:
                return self.rules[node[:cut]]
        return (node[-1],)

    def are_placeholders(self, genres: Sequence[str], from_v1: Callable[[], bool] = lambda: False) -> bool:
        """Return whether all genres of a file are placeholders, such as `Other`, so that it counts as having none.

        Parameters
        ----------
        genres : sequence of str
        from_v1 : callable
            Returns whether they are in an ID3v1 tag only; called only if that matters.
        """
        listed = {genre.strip().casefold() for genre in self.settings.placeholders}
        names = {genre.strip().casefold() for genre in genres}
        if not names or names <= listed:
            return bool(names)
        return all(f"{V1_PREFIX.casefold()}{name}" in listed for name in names) and from_v1()

    def is_deep_enough(self, node: NodePath, level: int, tree: Taxonomy) -> bool:
        """Return whether a node's level (1 is the top) reaches the minimum depth, or a rule applies to it."""
        return level >= self.min_written_depth(tree) or self.has_rule(node)

    def has_rule(self, node: NodePath) -> bool:
        """Return whether a node, or one above it, has a rule."""
        return any(node[:cut] in self.rules for cut in range(1, len(node) + 1))

    def min_written_depth(self, tree: Taxonomy) -> int:
        """Return the highest level to write; 1 is the top.

        The default is the second level, if the tree has one: names at the top, such as `Non_classic`, are categories
        rather than useful genre tags. In a tree whose paths may stop above a leaf it is the first, unless that has only
        two nodes.
        """
        stops = any(leaf[-1] == UNSPECIFIED for leaf in tree.leaves) and len(tree.nodes(0)) > 2
        default = 1 if stops else 2
        return min(self.settings.min_depth or default, self.settings.depth or tree.depth, tree.depth)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The genres to write for a file.

    Parameters
    ----------
    genres : tuple of str
        If empty, nothing is written.
    path : tuple of str
        Path of the predicted node; if the confidence is too low, of the node that does not reach the threshold.
    confidence : float
        Probability of that node and of all nodes with the same genres, in [0, 1].
    reason : str
        Why nothing is written: `unsure` or `left_alone`.
    message : str
        Details, such as `confidence too low: Rock 41 % (Non_classic 93 %)`.
    others : tuple of (NodePath, float)
        Further nodes whose genres are written, and their probabilities, most probable first. They are of the same
        level as the path, so none is an ancestor of another.
    """

    genres: Genres
    path: NodePath
    confidence: float
    reason: str = ""
    message: str = ""
    others: tuple[tuple[NodePath, float], ...] = ()


def load_mapping(path: Path, tree: Taxonomy) -> Mapping:
    """Read a mapping file.

    Raises
    ------
    LibraryError
        If the file is invalid, or names an unknown node; the message suggests the closest name.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LibraryError(f"{path}: the mapping file can't be read ({error})") from error
    if not isinstance(content, dict):
        raise LibraryError(f"{path}: a mapping file has lines like `min_confidence: 0.6` and `nodes:`")
    try:
        return parse_mapping(content, tree)
    except (LibraryError, SettingsError) as error:
        raise LibraryError(f"{path}: {error}") from error


def parse_mapping(content: MappingType[str, Any], tree: Taxonomy) -> Mapping:
    """Build a mapping from the content of a mapping file."""
    settings = MappingSettings.build(content)
    _check_depths(settings)
    _check_separator(settings.separator)
    rules: dict[NodePath, Genres] = {}
    for name, genres in settings.nodes.items():
        node = find_node(tree, name)
        if node in rules:
            raise LibraryError(f"'{name}' repeats the node '{format_path(node)}'; keep one of the two lines")
        listed = [genres] if isinstance(genres, str) else genres or []
        for genre in listed:
            if not genre.strip() or not genre.isprintable():
                raise LibraryError(f"'{name}': {genre!r} is not a genre; leave the value empty to write nothing")
        rules[node] = tuple(dict.fromkeys(genre.strip() for genre in listed))
    return Mapping(settings, rules)


def find_node(tree: Taxonomy, name: str) -> NodePath:
    """Find a node at any level by its name or path.

    Raises
    ------
    LibraryError
        If not exactly one node matches; the message suggests the closest names.
    """
    nodes = list(dict.fromkeys(node for level in range(tree.depth) for node in tree.nodes(level)))
    parts = split_path(name)
    exact = [node for node in nodes if same_name(node, parts)]
    matches = exact or [node for node in nodes if same_name(node[-len(parts) :], parts)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        options = ", ".join(f"'{format_path(node)}'" for node in matches)
        raise LibraryError(f"'{name}' is ambiguous: {options}; use the path")
    names = {node[-1].casefold(): node for node in nodes}
    close = difflib.get_close_matches((parts[-1] if parts else name).casefold(), names, n=1)
    hint = f"did you mean '{format_path(names[close[0]])}'?" if close else f"it has: {', '.join(n[-1] for n in nodes)}"
    raise LibraryError(f"the tree has no node '{name}'; {hint}")


def decide(model_key: ModelKey, levels: LevelProbabilities, mapping: Mapping) -> Decision:
    """Decide which genres to write for a file.

    Nodes with the same genres are merged, wherever they are in the tree: their probabilities are summed before they are
    compared with others and with the threshold. Levels below `depth` are ignored. The path is decoded as in `predict`.

    Parameters
    ----------
    model_key : ModelKey
    levels : list of ndarray
        Probabilities, one array of shape (1, n_nodes) per level.
    mapping : Mapping

    Returns
    -------
    Decision
    """
    tree, settings = _cut_tree(model_key.taxonomy, mapping.settings.depth), mapping.settings
    totals = _sum_by_genres(tree, levels, mapping)
    joined = _merge_probabilities(tree, model_key.heads, totals, mapping)
    nodes = decode_levels(tree, model_key.heads, joined)[0]
    n_levels, nodes = cut_path(tree, model_key.heads, joined, nodes, settings.min_confidence)
    if model_key.heads == "tree" and n_levels:
        nodes = _most_probable_path(tree, levels, nodes, n_levels, mapping)
    path = [drop_unspecified(tree.nodes(level)[int(node)]) for level, node in enumerate(nodes)]
    names = [mapping.genres(node) for node in path]
    confidences = [totals[level][genres] for level, genres in enumerate(names)]
    if not n_levels or not mapping.is_deep_enough(path[n_levels - 1], n_levels, tree):
        level = max(n_levels, mapping.min_written_depth(tree) - 1)
        above = f" ({_percent(path[n_levels - 1], confidences[n_levels - 1])})" if n_levels else ""
        message = f"confidence too low: {_percent(path[level], confidences[level])}{above}"
        return Decision(genres=(), path=path[level], confidence=confidences[level], reason="unsure", message=message)
    node, genres = path[n_levels - 1], names[n_levels - 1]
    if not genres:
        return Decision(genres=(), path=node, confidence=confidences[n_levels - 1], reason="left_alone")
    others = _find_others(tree, levels, totals, n_levels, node, mapping)
    rows = [path[:n_levels], *([other[: level + 1] for level in range(n_levels)] for other, _ in others)]
    listed = [genre for steps in rows for genre in _written_genres(tree, steps, totals, mapping)]
    return Decision(genres=tuple(dict.fromkeys(listed)), path=node, confidence=confidences[n_levels - 1], others=others)


def _written_genres(
    tree: Taxonomy, steps: Sequence[NodePath], totals: list[dict[Genres, float]], mapping: Mapping
) -> list[str]:
    """Return the genres of the last node of a path; with `values: path`, after those of confident nodes above it."""
    genres = list(mapping.genres(steps[-1]))
    if mapping.settings.values == "leaf":
        return genres
    above = [
        genre
        for level, step in enumerate(steps[:-1])
        if totals[level][mapping.genres(step)] >= mapping.settings.min_confidence
        and mapping.is_deep_enough(step, level + 1, tree)
        for genre in mapping.genres(step)
    ]
    return above + genres


def _find_others(
    tree: Taxonomy,
    levels: LevelProbabilities,
    totals: list[dict[Genres, float]],
    n_levels: int,
    first: NodePath,
    mapping: Mapping,
) -> tuple[tuple[NodePath, float], ...]:
    """Find the most probable other nodes of a level; nodes with the same genres count once, with their sum."""
    settings, level, written = mapping.settings, n_levels - 1, mapping.genres(first)
    own = levels[level][0]
    best: dict[Genres, NodePath] = {}
    for index in np.argsort(-own, kind="stable").tolist():
        node = drop_unspecified(tree.nodes(level)[index])
        genres = mapping.genres(node)
        if genres and genres != written and mapping.is_deep_enough(node, n_levels, tree):
            best.setdefault(genres, node)
    ranked = sorted(best, key=lambda genres: -totals[level][genres])
    others: list[tuple[NodePath, float]] = []
    for genres in ranked:
        if len(others) == settings.genres - 1 or totals[level][genres] < settings.min_other:
            break
        if not any(is_same_branch(best[genres], node) for node in (first, *(node for node, _ in others))):
            others.append((best[genres], totals[level][genres]))
    return tuple(others)


def _percent(node: NodePath, chance: float) -> str:
    return f"{node[-1]} {100 * chance:.0f} %"


@lru_cache(maxsize=8)
def _cut_tree(tree: Taxonomy, depth: int | None) -> Taxonomy:
    """Return the upper levels of a tree, in the same order."""
    if depth is None or depth >= tree.depth:
        return tree
    return Taxonomy(tuple(dict.fromkeys(leaf[:depth] for leaf in tree.leaves)), tree.levels[:depth])


def _sum_by_genres(tree: Taxonomy, levels: LevelProbabilities, mapping: Mapping) -> list[dict[Genres, float]]:
    """Sum the probabilities of the nodes with the same genres, level by level.

    Nodes of higher levels count as well if their genres do not occur below them: if `Hip_hop` is written as `Rock`, it
    competes at the third level with all of `Rock`, although `Rock` has only sub-genres at that level.
    """
    totals_by_level = []
    for deepest in range(tree.depth):
        below: dict[NodePath, dict[Genres, float]] = {}
        for level in range(deepest, -1, -1):
            merged: dict[NodePath, dict[Genres, float]] = {}
            for node, totals in below.items():
                _add(merged.setdefault(node[: level + 1], {}), totals)
            for node, chance in zip(tree.nodes(level), levels[level][0], strict=True):
                genres = mapping.genres(node)
                by_name = not mapping.has_rule(node)  # so all nodes below it have its name as their genre, too
                if by_name or genres not in merged.setdefault(node, {}):
                    merged.setdefault(node, {})[genres] = float(chance)
            below = merged
        whole: dict[Genres, float] = {}
        for totals in below.values():
            _add(whole, totals)
        totals_by_level.append({genres: min(total, 1.0) for genres, total in whole.items()})
    return totals_by_level


def _add(to: dict[Genres, float], totals: MappingType[Genres, float]) -> None:
    for genres, total in totals.items():
        to[genres] = to.get(genres, 0.0) + total


def _merge_probabilities(
    tree: Taxonomy, heads: Heads, totals: list[dict[Genres, float]], mapping: Mapping
) -> LevelProbabilities:
    """Assign to each node the summed probability of its genres.

    In tree mode, a node gets at least the probability of each node below it, since nodes merged across branches may
    have a higher probability than either branch.
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


def _most_probable_path(
    tree: Taxonomy, levels: LevelProbabilities, nodes: NDArray[np.int64], n_levels: int, mapping: Mapping
) -> NDArray[np.int64]:
    """Return the path with the highest unmerged probability among those with the same genres."""
    names = [mapping.genres(node) for node in tree.nodes(n_levels - 1)]
    candidates = [row for row in tree.ancestors if names[row[n_levels - 1]] == names[nodes[n_levels - 1]]]
    own = levels[n_levels - 1][0]
    best = max(candidates, key=lambda row: float(own[row[n_levels - 1]]))
    return nodes if own[nodes[n_levels - 1]] >= own[best[n_levels - 1]] else best


def _check_separator(separator: str) -> None:
    if separator and not is_separator(separator):
        raise LibraryError(
            f"{separator!r} is not a separator: it must contain a punctuation mark, and no letters, digits or control "
            "characters; an example is `separator='; '`"
        )


def _check_depths(settings: MappingSettings) -> None:
    if settings.min_depth and settings.depth and settings.min_depth > settings.depth:
        raise LibraryError(f"min_depth, {settings.min_depth}, is deeper than depth, {settings.depth}")


def override_settings(
    mapping: Mapping,
    min_confidence: float | None = None,
    depth: int | None = None,
    min_depth: int | None = None,
    genres: int | None = None,
    separator: str | None = None,
) -> Mapping:
    """Return a mapping with the settings that are not None replaced.

    Raises
    ------
    LibraryError
        If `min_depth` is greater than `depth`, or `separator` is not a separator.
    """
    values = {"min_confidence": min_confidence, "depth": depth, "min_depth": min_depth, "genres": genres}
    changes = {name: value for name, value in {**values, "separator": separator}.items() if value is not None}
    settings = mapping.settings.model_copy(update=changes)
    _check_depths(settings)
    _check_separator(settings.separator)
    return Mapping(settings, mapping.rules)
