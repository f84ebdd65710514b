"""Limit genres to a whitelist, and replace them by their parents in a tree of genres, as in beets' plugin lastgenre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genretree.errors import LibraryError


@dataclass(frozen=True)
class GenreWhitelist:
    """Genres that may be written, and a canonical tree.

    Parameters
    ----------
    allowed : frozenset of str
        Names in lower case; if empty, all genres are allowed.
    branches : tuple of tuple of str
        Paths of the canonical tree, from general to specific, in lower case; empty without a tree.
    count : int, optional
        Maximum number of genres.

    Examples
    --------
    >>> rules = GenreWhitelist(frozenset({"rock"}), (("rock", "soft rock"),))
    >>> rules.apply(["Soft_rock", "Opera"])
    ('Rock',)
    """

    allowed: frozenset[str] = frozenset()
    branches: tuple[tuple[str, ...], ...] = ()
    count: int | None = None

    def apply(self, genres: Sequence[str]) -> tuple[str, ...]:
        """Return the allowed genres, or with a canonical tree their allowed parents, from specific to general.

        Without a whitelist, the tree replaces each genre by its most general parent. A genre keeps its spelling;
        parents are written in title case.
        """
        found: list[str] = []
        for genre in genres:
            candidates = [(_fold(genre), genre), *((name, name.title()) for name in self._parents(_fold(genre)))]
            if self.branches and not self.allowed:
                candidates = candidates[-1:]
            found += [shown for name, shown in candidates if not self.allowed or name in self.allowed]
        unique = {_fold(genre): genre for genre in reversed(found)}  # the first spelling of each
        kept = [genre for genre in dict.fromkeys(found) if unique[_fold(genre)] == genre]
        return tuple(kept[: self.count])

    def _parents(self, name: str) -> tuple[str, ...]:
        """Return the parents of a genre in the tree, the closest first."""
        for branch in self.branches:
            if name in branch:
                return branch[: branch.index(name)][::-1]
        return ()


def _fold(genre: str) -> str:
    return " ".join(genre.replace("_", " ").split()).casefold()


def load_whitelist(path: Path) -> frozenset[str]:
    """Read a whitelist: one genre per line; lines that begin with # are comments.

    Raises
    ------
    LibraryError
        If the file can't be read, or has no genres.
    """
    lines = (line.strip() for line in _read(path).splitlines())
    names = frozenset(_fold(line) for line in lines if line and not line.startswith("#"))
    if not names:
        raise LibraryError(f"{path}: the whitelist has no genres; write one on each line")
    return names


def load_canonical_tree(path: Path) -> tuple[tuple[str, ...], ...]:
    """Read a canonical tree: nested YAML lists and mappings of genres, from general to specific.

    Raises
    ------
    LibraryError
        If the file can't be read, or has no genres.
    """
    try:
        content = yaml.safe_load(_read(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise LibraryError(f"{path}: the tree of genres is not YAML ({error})") from error
    branches: list[tuple[str, ...]] = []
    _flatten(content, (), branches)
    if not branches:
        raise LibraryError(
            f"{path}: the tree of genres is empty; write it as nested lists, such as `- rock: [soft rock]`"
        )
    return tuple(branches)


def _flatten(node: Any, above: tuple[str, ...], branches: list[tuple[str, ...]]) -> None:
    if isinstance(node, dict):
        for name, below in node.items():
            _flatten(below, (*above, _fold(str(name))), branches)
    elif isinstance(node, list):
        for item in node:
            _flatten(item, above, branches)
    elif node is not None:
        branches.append((*above, _fold(str(node))))
    elif above:
        branches.append(above)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LibraryError(f"{path}: can't be read ({error})") from error
