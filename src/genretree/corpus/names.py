"""Which names mean the same artist, and which groups of tracks follow from them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# Columns in which a cell may name several artists. An album's or a folder's name is one name, whatever it contains.
_OF_PEOPLE = {"artist", "artists", "albumartist", "albumartists", "performer", "performers", "composer", "composers"}
_FEATURING = re.compile(r"\s+[(\[]?(?:feat|ft|featuring)\b\.?\s+", re.IGNORECASE)


def fold_name(name: str) -> str:
    """Reduce a name to what is compared: Unicode NFC, letter case folded, runs of blanks as one."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def split_names(value: str, column: str) -> list[str]:
    """Split a cell into the names of several artists.

    Parameters
    ----------
    value : str
        Names are separated by ";", or by "feat.", "ft." or "featuring". Not by "&", "," or "/", which are parts of
        the names of bands.
    column : str
        What the cell is of; only a cell of artists, performers or composers is split.

    Returns
    -------
    list of str
        Without blank ones; empty for a blank cell.
    """
    value = " ".join(value.split())
    if re.sub(r"[\W_]", "", column.casefold()) not in _OF_PEOPLE:
        return [value] if value else []
    names = []
    for part in value.split(";"):
        pieces = [piece.strip() for piece in _FEATURING.split(f" {part}")]
        if len(pieces) > 1 and pieces[-1].endswith((")", "]")):
            pieces[-1] = pieces[-1][:-1].rstrip()
        names += [piece for piece in pieces if fold_name(piece)]
    return names


def join_by_name(values: Sequence[str], column: str) -> list[str]:
    """Give every track the group it belongs to.

    Parameters
    ----------
    values : sequence of str
        A cell for each track, with one name or several.
    column : str

    Returns
    -------
    list of str
        A name for each track, blank where none is known. Tracks that share a name have the same group, also through
        other tracks; it is called by the first name, as it is spelt first.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[str, int] = {}
    spelling: list[str] = []
    first: list[int] = []  # number of each track's first name, or -1
    edges: list[tuple[int, int]] = []
    for value in values:
        found = []
        for name in split_names(value, column):
            number = numbers.setdefault(fold_name(name), len(numbers))
            if number == len(spelling):
                spelling.append(name)
            found.append(number)
        first.append(found[0] if found else -1)
        edges += [(found[0], number) for number in found[1:]]
    if edges:
        one, other = np.array(edges).T
        graph = coo_array((np.ones(len(edges)), (one, other)), shape=(len(numbers), len(numbers)))
        components = connected_components(graph, directed=False)[1]
        leaders = np.unique(components, return_index=True)[1][components]
    else:
        leaders = np.arange(len(numbers))
    return [spelling[leaders[number]] if number >= 0 else "" for number in first]
