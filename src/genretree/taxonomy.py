"""Genre taxonomies: trees of genres with named levels, and the mapping between leaves and their ancestors.

A node is identified by its path from the root, `("Non_classic", "Rock", "Soft_rock")`. Leaves may have different
depths. A leaf that ends early represents itself at every deeper level, so each level is a complete partition of the
leaves, and a distribution over leaves gives one distribution for each level.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from genretree.checks import require_choice, require_integer, require_iterable, require_names, require_path
from genretree.errors import TaxonomyError
from genretree.files import is_encodable, is_unsafe, printable

MAX_LEVELS = 4
MAX_NAME = 200  # characters of a genre's or a level's name
_SEPARATOR = re.compile(r"\s*[/>]\s*")

NodePath = tuple[str, ...]
UNSPECIFIED = "(other)"  # a leaf at which a path stops: none of its siblings is indicated


@dataclass(frozen=True)
class Taxonomy:
    """A genre tree with 1 to 4 levels.

    Parameters
    ----------
    leaves : tuple of node paths
        Depth first; the position of a leaf is its index in every model.
    levels : tuple of str
        One name for each level, from the root down, as many as the deepest leaf has.

    Raises
    ------
    TaxonomyError
        For fewer than two leaves, more than four levels, an empty or repeated name, a leaf that also has children.

    See Also
    --------
    genretree.read_manifest : Infer the tree from the genres of a corpus.

    Examples
    --------
    >>> import genretree
    >>> tree = genretree.Taxonomy.from_nested({"Rock": ["Punk", "Indie"], "Jazz": None})
    >>> tree.leaves
    (('Rock', 'Punk'), ('Rock', 'Indie'), ('Jazz',))
    >>> tree.nodes(0)
    (('Rock',), ('Jazz',))
    >>> tree.find_leaf("Punk")
    0
    """

    leaves: tuple[NodePath, ...]
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.leaves) < 2:
            raise TaxonomyError(f"a genre tree needs at least 2 leaves, got {len(self.leaves)}; add another genre")
        depth = max(len(leaf) for leaf in self.leaves)
        if depth > MAX_LEVELS:
            deepest = max(self.leaves, key=len)
            raise TaxonomyError(f"'{format_path(deepest)}' is {depth} levels deep; a tree has at most {MAX_LEVELS}")
        if len(self.levels) != depth:
            raise TaxonomyError(f"{len(self.levels)} level names for a tree of {depth} levels")
        for level in self.levels:
            _check_text(level)
        if len(set(self.levels)) != depth:
            raise TaxonomyError(f"level names must differ: {list(self.levels)}")
        inner = {leaf[:cut] for leaf in self.leaves for cut in range(1, len(leaf))}
        seen: set[NodePath] = set()
        for leaf in self.leaves:
            for name in leaf:
                _check_name(name)
            if leaf in seen:
                raise TaxonomyError(f"'{format_path(leaf)}' is in the tree twice; remove one")
            if leaf in inner:
                raise TaxonomyError(
                    f"'{format_path(leaf)}' is a leaf but has children; move its music into one of them"
                )
            seen.add(leaf)
        spellings: dict[NodePath, NodePath] = {}
        for node in (leaf[:cut] for leaf in self.leaves for cut in range(1, len(leaf) + 1)):
            other = spellings.setdefault(_fold_path(node), node)
            if other != node:
                names = f"'{format_path(other)}' and '{format_path(node)}'"
                raise TaxonomyError(f"{names} differ only in letter case or separators; use one spelling")

    # -- construction ------------------------------------------------------------------------------------

    @classmethod
    def from_nested(cls, nested: Any, levels: Sequence[str] | None = None) -> Taxonomy:
        """Build a tree from nested mappings and lists, as in a YAML file.

        `{"Classic": ["classical"], "Non_classic": ["pop", "rock"]}`: keys of a mapping are nodes, a list contains
        leaves or further mappings, and a key with an empty value is a leaf.
        """
        leaves = tuple(_walk(nested, ()))
        if not leaves:
            raise TaxonomyError("the tree is empty")
        depth = max(len(leaf) for leaf in leaves)
        if levels is not None:
            require_iterable("levels", levels, "names")
        names = tuple(levels) if levels is not None else tuple(f"level_{i + 1}" for i in range(depth))
        return cls(leaves, names)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Taxonomy:
        """Read a tree from a YAML file: nested YAML, or the keys `tree` and `levels`, a list of level names."""
        path = require_path("path", path)
        if path.is_dir():
            raise TaxonomyError(f"{path}: a folder, not a tree file in YAML; a bundle's folder comes before the files")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaxonomyError(f"{path}: cannot read the tree file ({error})") from error
        return cls._from_yaml_text(text, str(path))

    @classmethod
    def builtin(cls, name: str = "ccmusic") -> Taxonomy:
        """Load a built-in tree by name."""
        return _load_builtin(name)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Taxonomy:
        """Load a tree from a YAML file, or a built-in tree by name."""
        path = require_path("name_or_path", name_or_path)
        if path.suffix.lower() in {".yaml", ".yml", ".json"} or path.exists():
            return cls.from_yaml(path)
        return cls.builtin(str(name_or_path))

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[str]], levels: Sequence[str] | None = None) -> Taxonomy:
        """Infer a tree from genre paths; siblings are in alphabetical order.

        Names that differ only in letter case, spaces, hyphens or underscores are one node, with the first spelling.
        """
        require_iterable("paths", paths, "genre paths")
        paths = [tuple(require_names("a path", path)) for path in paths]
        spellings: dict[NodePath, str] = {}
        spelt = set()
        for path in paths:
            ends = [_fold_path(path[: cut + 1]) for cut in range(len(path))]
            spelt.add(tuple(spellings.setdefault(end, name) for end, name in zip(ends, path, strict=True)))
        leaves = sorted(spelt)
        nested: dict[str, Any] = {}
        for leaf in leaves:
            branch = nested
            for name in leaf:
                branch = branch.setdefault(name, {})
        tree = cls.from_nested(nested, levels)
        inner_leaves = set(leaves) - set(tree.leaves)
        if inner_leaves:
            name = format_path(min(inner_leaves))
            raise TaxonomyError(f"'{name}' contains music but has sub-genres; move the music into one of them")
        return tree

    @classmethod
    def _from_yaml_text(cls, text: str, source: str) -> Taxonomy:
        try:
            content = load_yaml(text)
        except yaml.YAMLError as error:
            raise TaxonomyError(f"{source}: not valid YAML: {error}") from error
        if content is None:
            raise TaxonomyError(f"{source}: the file is empty; write a tree of genres, as in docs/formats.md")
        levels = None
        if isinstance(content, dict) and set(content) == {"levels", "tree"}:
            content, levels = content["tree"], content["levels"]
            if levels is not None and not isinstance(levels, list):
                raise TaxonomyError(f"{source}: levels must be a list of names, got {levels!r}")
        try:
            return cls.from_nested(content, levels)
        except TaxonomyError as error:
            raise TaxonomyError(f"{source}: {error}") from error

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Taxonomy:
        """Restore a tree from the result of `to_json`."""
        try:
            leaves, levels = content["leaves"], content["levels"]
            if not (isinstance(leaves, list) and isinstance(levels, list) and all(isinstance(x, list) for x in leaves)):
                raise TypeError("leaves must be a list of lists of names, levels a list of names")
            return cls(tuple(map(tuple, leaves)), tuple(levels))
        except (KeyError, TypeError) as error:
            raise TaxonomyError(f"not a saved genre tree: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the names in index order: `{"levels": [...], "leaves": [[...], ...]}`."""
        return {"levels": list(self.levels), "leaves": [list(leaf) for leaf in self.leaves]}

    # -- access -------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @cached_property
    def digest(self) -> str:
        """Hash of names and order; two trees with the same digest are interchangeable."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:16]

    @cached_property
    def _nodes(self) -> tuple[tuple[NodePath, ...], ...]:
        return tuple(tuple(dict.fromkeys(leaf[: level + 1] for leaf in self.leaves)) for level in range(self.depth))

    def nodes(self, level: int | str) -> tuple[NodePath, ...]:
        """Return the nodes of a level in index order; leaves that end above represent themselves.

        Parameters
        ----------
        level : int or str
            Index of the level, 0 for the top, or its name, one of `levels`.

        Raises
        ------
        ArgumentError
            If there is no such level.
        """
        return self._nodes[self._find_level(level)]

    def _find_level(self, level: int | str) -> int:
        if isinstance(level, str):
            require_choice("level", level, self.levels)
            return self.levels.index(level)
        require_integer("level", level, -self.depth, self.depth - 1)  # negative levels count from the deepest
        return level

    @cached_property
    def ancestors(self) -> NDArray[np.int64]:
        """Index of every leaf's node at every level, shape (n_leaves, depth)."""
        columns = []
        for level in range(self.depth):
            index = {node: i for i, node in enumerate(self.nodes(level))}
            columns.append([index[leaf[: level + 1]] for leaf in self.leaves])
        return np.array(columns, dtype=np.int64).T

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], ...]:
        labels = []
        for level in range(self.depth):
            names = [node[-1] for node in self.nodes(level)]
            labels.append(
                tuple(
                    name if names.count(name) == 1 else format_path(node)
                    for name, node in zip(names, self.nodes(level), strict=True)
                )
            )
        return tuple(labels)

    def labels(self, level: int | str) -> tuple[str, ...]:
        """Return the names of a level's nodes in index order; a name in two branches is replaced by its path.

        `level` is an index or a name, as for `nodes`.
        """
        return self._labels[self._find_level(level)]

    def find_leaf(self, genre: str | Sequence[str]) -> int:
        """Return the index of a leaf from its name or path.

        Parameters
        ----------
        genre : str or sequence of str
            `"Soft_rock"`, `"Non_classic/Rock/Soft_rock"`, `"Non_classic > Rock > Soft_rock"` or a sequence of names.
            Letter case, space, hyphen or underscore, and Unicode normalisation are ignored.

        Returns
        -------
        int

        Raises
        ------
        TaxonomyError
            If no leaf, or more than one, has that name; the message suggests similar names.
        """
        given = (genre,) if isinstance(genre, str) else tuple(require_names("genre", genre))
        requested = tuple(_fold(name) for name in given)
        matches = self._find(requested)
        if not matches and isinstance(genre, str):
            requested = tuple(_fold(name) for name in split_path(genre))
            matches = self._find(requested)
        if len(matches) == 1:
            return matches[0]
        shown = genre if isinstance(genre, str) else format_path(genre)
        if matches:
            options = ", ".join(f"'{format_path(self.leaves[i])}'" for i in matches)
            raise TaxonomyError(f"'{shown}' is ambiguous: {options}; use the path")
        raise TaxonomyError(f"'{shown}' is not a leaf of the tree{self._hint(requested)}")

    def _find(self, requested: tuple[str, ...]) -> list[int]:
        while len(requested) > 1 and requested[-1] == requested[-2] and not self._folded_index.get(requested):
            requested = requested[:-1]  # a short leaf repeated for deeper levels
        whole = self._folded_leaves.get(requested)  # a full path has precedence over the ending of another
        return self._folded_index.get(requested, []) if whole is None else [whole]

    @cached_property
    def _folded_leaves(self) -> dict[NodePath, int]:
        return {_fold_path(leaf): i for i, leaf in enumerate(self.leaves)}

    @cached_property
    def _folded_index(self) -> dict[tuple[str, ...], list[int]]:
        """Leaf indices by full path and by each of its endings."""
        index: dict[tuple[str, ...], list[int]] = {}
        for i, leaf in enumerate(self.leaves):
            folded = _fold_path(leaf)
            for cut in range(len(folded)):
                index.setdefault(folded[cut:], []).append(i)
        return index

    def _hint(self, requested: tuple[str, ...]) -> str:
        if not requested:
            return ""
        inner = {_fold(leaf[cut]) for leaf in self.leaves for cut in range(len(leaf) - 1)}
        if requested[-1] in inner:
            return "; it has sub-genres, use one of them"
        names = {_fold(leaf[-1]): leaf[-1] for leaf in self.leaves}
        close = difflib.get_close_matches(requested[-1], names, n=1)
        if close:
            return f"; did you mean '{names[close[0]]}'?"
        return f"; its leaves are: {', '.join(leaf[-1] for leaf in self.leaves)}"

    def sum_levels(self, leaf_probabilities: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Sum leaf probabilities for each level.

        Parameters
        ----------
        leaf_probabilities : ndarray, shape (n, n_leaves)

        Returns
        -------
        list of arrays, one for each level, shape (n, n_nodes of the level)
            A parent's probability is the sum of its children's, so levels are consistent.
        """
        levels = []
        for level in range(self.depth):
            totals = np.zeros((len(leaf_probabilities), len(self.nodes(level))), dtype=np.float64)
            for leaf, node in enumerate(self.ancestors[:, level]):
                totals[:, node] += leaf_probabilities[:, leaf]
            levels.append(totals)
        return levels

    def decode(self, levels: Sequence[NDArray[np.floating]]) -> NDArray[np.int64]:
        """Select one leaf, and so one path, for each row of level probabilities.

        The selected path maximises the sum of its nodes' probabilities over the levels, that is, the expected number of
        correct levels. The best node of each level could instead be a child of another parent.

        Parameters
        ----------
        levels : sequence of arrays, one for each level, shape (n, n_nodes)

        Returns
        -------
        ndarray of leaf indices, int64, shape (n,)
        """
        score = sum(probabilities[:, self.ancestors[:, level]] for level, probabilities in enumerate(levels))
        return np.asarray(np.argmax(score, axis=1), dtype=np.int64)


def is_same_branch(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether one of two nodes is an ancestor of the other, or both are the same."""
    n = min(len(one), len(other))
    return tuple(one[:n]) == tuple(other[:n])


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses repeated keys, of which PyYAML silently keeps the last, and references."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"references (*{event.anchor}) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' has two lines", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Read YAML written by people: keys that occur twice are refused, and so are references, which may be endless.

    Raises
    ------
    yaml.YAMLError
        If it is not valid.
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)  # a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


def format_path(path: Sequence[str]) -> str:
    """Format a node path for display: `Non_classic > Rock > Soft_rock`."""
    return " > ".join(path)


_WRITTEN = {"Classic": "Classical", "Non_classic": "Non-classical"}  # also in service/web/words.js
_COUNTED = re.compile(r"level[ _-]?\d|(?:fst|sec|thr)_level(?:_label)?")
_LEVELS = (("Genre",), ("Genre", "Subgenre"), ("Branch", "Genre", "Subgenre"), ("Branch", "Genre", "Subgenre", "Style"))


def display_name(name: str) -> str:
    """Write a node's name as people do.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Examples
    --------
    >>> from genretree.taxonomy import display_name
    >>> display_name("Adult_alternative_rock"), display_name("Non_classic"), display_name("Soul_or_RnB")
    ('Adult alternative rock', 'Non-classical', 'Soul or R&B')
    """
    if name in _WRITTEN:
        return _WRITTEN[name]
    spaced = re.sub(r"\bRnB\b", "R&B", name.replace("_", " "), flags=re.IGNORECASE)
    spaced = re.sub(r"^non (?=\S)", "Non-", spaced, flags=re.IGNORECASE)
    return spaced[:1].upper() + spaced[1:]


def display_path(path: Sequence[str]) -> str:
    """Write a node path as people do: `Non-classical > Rock > Soft rock`; `Classic > classical` is `Classical`."""
    names = [display_name(name) for name in path]
    return format_path([name for above, name in pairwise([None, *names]) if name is not None and name != above])


def display_text(text: str) -> str:
    """Write the names of nodes in a sentence as people do."""
    return re.sub(
        r"\w+", lambda word: display_name(word[0]) if "_" in word[0] or word[0] in _WRITTEN else word[0], text
    )


def display_level(name: str, level: int, depth: int) -> str:
    """Name a level: by its own name, unless that only counts levels (`level_2`, `sec_level`).

    Parameters
    ----------
    name : str
    level : int
        Index from the root down.
    depth : int
        Number of levels of the tree.
    """
    if not _COUNTED.fullmatch(name):
        return display_name(name)
    return _LEVELS[depth - 1][level] if depth <= len(_LEVELS) and level < depth else f"Level {level + 1}"


@lru_cache(maxsize=8)
def _load_builtin(name: str) -> Taxonomy:
    folder = resources.files("genretree") / "taxonomies"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
        raise TaxonomyError(f"unknown built-in tree '{name}'; available: {', '.join(known)}")
    return Taxonomy._from_yaml_text(file.read_text(encoding="utf-8"), name)


def drop_unspecified(path: NodePath) -> NodePath:
    """Return a path without the leaf `UNSPECIFIED` at its end."""
    return path[:-1] if path and path[-1] == UNSPECIFIED else path


def split_path(text: str) -> NodePath:
    """Parse a node path with `/` or `>` between its names."""
    return tuple(part.strip() for part in _SEPARATOR.split(text) if part.strip())


def join_names(names: Iterable[str]) -> str:
    """Join the names of a path to a text that `split_path` parses to the same names.

    Raises
    ------
    TaxonomyError
        If a name contains `/` or `>`.
    """
    names = list(names)
    for name in names:
        _check_separators(name)
    return "/".join(names)


def same_name(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two paths are equal up to letter case and space, hyphen or underscore."""
    return _fold_path(one) == _fold_path(other)


def _fold(name: str) -> str:
    return re.sub(r"[\s_\-]+", "_", unicodedata.normalize("NFC", name).strip()).casefold()


def _fold_path(path: Sequence[str]) -> NodePath:
    return tuple(_fold(name) for name in path)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise TaxonomyError(f"{name!r} is not a genre name; quote it in the YAML file if it is meant as text")
    _check_text(name)
    _check_separators(name)


def _check_separators(name: str) -> None:
    if "/" in name or ">" in name:
        raise TaxonomyError(f"the genre name '{name}' contains '/' or '>', which separate the levels of a path")


def _check_text(name: Any) -> None:
    if not isinstance(name, str):
        raise TaxonomyError(f"{name!r} is not a name; quote it in the YAML file if it is meant as text")
    if is_unsafe(name) or not is_encodable(name):
        raise TaxonomyError(f"the name '{printable(name)}' contains control characters or invalid Unicode; remove them")
    if len(name) > MAX_NAME:
        raise TaxonomyError(f"the name '{name[:40]}...' has {len(name)} characters, more than {MAX_NAME}")


def _walk(nested: Any, above: NodePath) -> Iterable[NodePath]:
    if isinstance(nested, Mapping):
        for name, below in nested.items():
            _check_name(name)
            if below is None or below == [] or below == {}:
                yield (*above, name)
            else:
                yield from _walk(below, (*above, name))
    elif isinstance(nested, (list, tuple)):
        for item in nested:
            yield from _walk(item, above)
    elif isinstance(nested, str):
        _check_name(nested)
        yield (*above, nested)
    else:
        raise TaxonomyError(
            f"{nested!r} below '{format_path(above) or 'the root'}' is neither a name, a list nor a mapping"
        )
