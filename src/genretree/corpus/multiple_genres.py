"""What becomes of rows of a table that name several genres in one cell, such as "Rock;Pop" or "Pop, Rock"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from genretree.errors import CorpusError, TaxonomyError
from genretree.taxonomy import Taxonomy

MultipleGenres = Literal["ask", "first", "skip", "keep"]
_SEPARATORS = re.compile(r"[;|,\\\0]")  # not "/", which separates the levels of one genre's path
_SHOWN = 3


class GenreCells:
    """Reads the genre of a row, and remembers the rows that name several.

    Parameters
    ----------
    source : Path
        The table, for messages.
    columns : sequence of str
        The columns that hold the genre.
    choice : {"ask", "first", "skip", "keep"}
        ask: an error by `check`; first: the first genre of the cell; skip: no genre; keep: the whole text is one name.
    tree : Taxonomy, optional
        A text that is a leaf of it is one name, whatever it contains.
    """

    def __init__(self, source: Path, columns: Sequence[str], choice: MultipleGenres, tree: Taxonomy | None) -> None:
        if choice not in get_args(MultipleGenres):
            raise CorpusError(f"multiple_genres must be one of {', '.join(get_args(MultipleGenres))}, got '{choice}'")
        self._source, self._columns, self._choice, self._tree = source, columns, choice, tree
        self._several: list[str] = []

    def settle(self, record: Mapping[str, str], place: str) -> dict[str, str] | None:
        """Return the record with one genre; None if it names several and is to be left out. `place` is for messages."""
        cells = {column: record[column] for column in self._columns}
        if self._choice == "keep" or not any(_SEPARATORS.search(cell) for cell in cells.values()):
            return dict(record)
        if self._is_leaf([cell for cell in cells.values() if cell]):
            return dict(record)
        firsts, several = {}, False
        for column, cell in cells.items():
            parts = [part.strip() for part in _SEPARATORS.split(cell) if part.strip()]
            if len(parts) > 1:
                several = True
                self._several.append(f"{place}: '{cell}'")
            firsts[column] = parts[0] if parts else ""
        return None if self._choice == "skip" and several else {**record, **firsts}

    def check(self) -> None:
        """Raise a CorpusError if rows name several genres and nobody said what to do with them."""
        if self._choice != "ask" or not self._several:
            return
        shown = ", ".join(self._several[:_SHOWN]) + (", ..." if len(self._several) > _SHOWN else "")
        what = "1 row names" if len(self._several) == 1 else f"{len(self._several)} rows name"
        raise CorpusError(
            f"{self._source}: {what} several genres ({shown}), but a track has one; write one genre in each row, or "
            "choose with multiple_genres: 'first' takes the first of them, 'skip' leaves such rows out, 'keep' takes "
            "the whole text for the name of one genre; a tree that has the text as a leaf makes it one name, too"
        )

    def _is_leaf(self, names: Sequence[str]) -> bool:
        if self._tree is None:
            return False
        try:
            self._tree.find_leaf(names if len(names) > 1 else names[0])
        except TaxonomyError:
            return False
        return True
