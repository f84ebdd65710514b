"""Matching of artist names, and the groups of tracks that share an artist."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# Columns in which a cell may name several artists. In other columns, such as album or folder, a cell is one name.
_PERSON_COLUMNS = {
    "artist",
    "artists",
    "albumartist",
    "albumartists",
    "performer",
    "performers",
    "composer",
    "composers",
}
_FEATURING = re.compile(r"\s+[(\[]?(?:feat|ft|featuring)\b\.?\s+", re.IGNORECASE)


def fold_name(name: str) -> str:
    """Normalise a name for comparison: Unicode NFC, case folding, single spaces."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def split_names(value: str, column: str) -> list[str]:
    """Split a cell into the names of several artists.

    Parameters
    ----------
    value : str
        Names separated by ";", "feat.", "ft." or "featuring", but not by "&", "," or "/", which occur in band names.
    column : str
        Name of the column; only artists, performers and composers are split.

    Returns
    -------
    list of str
        Non-blank names; empty for a blank cell.
    """
    value = " ".join(value.split())
    if re.sub(r"[\W_]", "", column.casefold()) not in _PERSON_COLUMNS:
        return [value] if value else []
    names = []
    for part in value.split(";"):
        pieces = [piece.strip() for piece in _FEATURING.split(f" {part}")]
        if len(pieces) > 1 and pieces[-1].endswith((")", "]")):
            pieces[-1] = pieces[-1][:-1].rstrip()
        names += [piece for piece in pieces if fold_name(piece)]
    return names


def join_by_name(values: Sequence[str], column: str) -> list[str]:
    """Return the group of each track.

    Parameters
    ----------
    values : sequence of str
        One cell for each track, with one name or several.
    column : str

    Returns
    -------
    list of str
        A name for each track, blank if unknown. Tracks that share a name, directly or through other tracks, have the
        same group, named after its first name in its first spelling.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[str, int] = {}
    spelling: list[str] = []
    first: list[int] = []  # number of each track's first name, or -1
    edges: list[tuple[int, int]] = []
    for value in values:
        numbers_found = []
        for name in split_names(value, column):
            number = numbers.setdefault(fold_name(name), len(numbers))
            if number == len(spelling):
                spelling.append(name)
            numbers_found.append(number)
        first.append(numbers_found[0] if numbers_found else -1)
        edges += [(numbers_found[0], number) for number in numbers_found[1:]]
    if edges:
        one, other = np.array(edges).T
        graph = coo_array((np.ones(len(edges)), (one, other)), shape=(len(numbers), len(numbers)))
        components = connected_components(graph, directed=False)[1]
        leaders = np.unique(components, return_index=True)[1][components]
    else:
        leaders = np.arange(len(numbers))
    return [spelling[leaders[number]] if number >= 0 else "" for number in first]
