"""From what a model says to what is written: the user's names, how deep, and how sure at least.

A mapping file is YAML:

min_confidence: 0.6         # go only as far down as this; where not even the first level is as sure, write nothing
depth: 2                    # levels at most
values: leaf                # or path: every level is a genre of its own
nodes:
  Soft_rock: Soft Rock      # another name
  Teen_pop: Pop             # the same name for several: their probabilities are added up
  Rock: [Rock, Guitar]      # several genres; also for all below that have no line of their own
  Opera:                    # nothing: such files are left alone
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from genretree.errors import LibraryError, SettingsError
from genretree.library.records import ModelCard
from genretree.models.contract import LevelProbabilities
from genretree.predict import cut_path
from genretree.scores import decode_levels, name_path
from genretree.settings import Settings
from genretree.taxonomy import NodePath, Taxonomy, format_path, same_name, split_path

Genres = tuple[str, ...]


class MappingSettings(Settings):
    """What a mapping file may say beside its nodes."""

    min_confidence: float = Field(0.0, ge=0, le=1, description="what a node's probability must reach to be written")
    depth: int | None = Field(None, ge=1, le=4, description="how many levels are written at most")
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
        """Give what is written for a node: its own rule's, or that of the nearest node above it, or its name."""
        for cut in range(len(node), 0, -1):
            if node[:cut] in self.rules:
                return self.rules[node[:cut]]
        return (node[-1],)


@dataclass(frozen=True)
class Decision:
    """What is to be written for a file.

    Parameters
    ----------
    genres : tuple of str
        None of them: nothing is written.
    path : tuple of str
        The node it is for, from the root down.
    confidence : float
        Its probability, 0 to 1; with that of all nodes of its level that are written alike.
    reason : str
        Why nothing is written: `unsure` or `left_alone`.
    """

    genres: Genres
    path: NodePath
    confidence: float
    reason: str = ""


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
    rules: dict[NodePath, Genres] = {}
    for name, genres in settings.nodes.items():
        node = find_node(tree, name)
        if node in rules:
            raise LibraryError(f"'{name}' stands for a node that has a line already: '{format_path(node)}'")
        listed = [genres] if isinstance(genres, str) else genres or []
        for genre in listed:
            if not genre.strip() or not genre.isprintable():
                raise LibraryError(f"'{name}': {genre!r} is no genre; leave the value empty to write nothing")
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


def decide(card: ModelCard, levels: LevelProbabilities, mapping: Mapping) -> Decision:
    """Choose what is written, from a file's probabilities: arrays of shape (1, n_nodes), one for each level."""
    tree, settings = card.taxonomy, mapping.settings
    joined = _join_alike(tree, levels, mapping)
    nodes = decode_levels(tree, card.heads, levels)[0]
    known, nodes = cut_path(tree, card.heads, joined, nodes, settings.min_confidence)
    known = min(known, settings.depth or tree.depth)
    path = _path(card, nodes, known)
    if not known:
        return Decision((), (), float(joined[0][0, nodes[0]]), "unsure")
    confidence = float(joined[known - 1][0, nodes[known - 1]])
    genres = mapping.genres(path)
    if not genres:
        return Decision((), path, confidence, "left_alone")
    if settings.values == "path":
        above = [mapping.genres(path[:cut]) for cut in range(1, len(path))]
        genres = tuple(dict.fromkeys(genre for step in (*above, genres) for genre in step))
    return Decision(genres, path, confidence)


def _path(card: ModelCard, nodes: NDArray[np.int64], known: int) -> NodePath:
    if card.heads == "tree" and known:
        return card.taxonomy.nodes(known - 1)[int(nodes[known - 1])]
    return name_path(card.taxonomy, card.heads, nodes)[:known]


def _join_alike(tree: Taxonomy, levels: LevelProbabilities, mapping: Mapping) -> LevelProbabilities:
    """Add up, within each level, the probabilities of nodes written alike; a node is as sure as any below it."""
    joined: list[NDArray[np.float64]] = []
    for level, probabilities in enumerate(levels):
        names = [mapping.genres(node) for node in tree.nodes(level)]
        totals: dict[Genres, float] = {}
        for name, value in zip(names, probabilities[0], strict=True):
            totals[name] = totals.get(name, 0.0) + float(value)
        joined.append(np.array([[totals[name] for name in names]]))
    for level in range(tree.depth - 2, -1, -1):
        for leaf in tree.ancestors:
            below = joined[level + 1][0, leaf[level + 1]]
            joined[level][0, leaf[level]] = max(joined[level][0, leaf[level]], below)
    return joined


def with_options(mapping: Mapping, min_confidence: float | None, depth: int | None) -> Mapping:
    """Give a mapping with a threshold or depth of its own, where these are not None."""
    given = {"min_confidence": min_confidence, "depth": depth}
    changes = {name: value for name, value in given.items() if value is not None}
    return Mapping(mapping.settings.model_copy(update=changes), mapping.rules)
