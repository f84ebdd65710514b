"""Handling of table rows with several genres in one cell, such as "Rock;Pop" or "Pop, Rock"."""

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
    """Reads the genre of a row, and records the rows with several.

    Parameters
    ----------
    source : Path
        The table, for error messages.
    columns : sequence of str
        The genre columns.
    policy : {"ask", "first", "skip", "keep"}
        ask: `check` raises an error; first: the first genre; skip: reject the row; keep: the whole text is one name.
    tree : Taxonomy, optional
        A text that is a leaf of the tree is one name.
    """

    def __init__(self, source: Path, columns: Sequence[str], policy: MultipleGenres, tree: Taxonomy | None) -> None:
        if policy not in get_args(MultipleGenres):
            raise CorpusError(f"multiple_genres must be one of {', '.join(get_args(MultipleGenres))}, got '{policy}'")
        self._source, self._columns, self._policy, self._tree = source, columns, policy, tree
        self._multiple_rows: list[str] = []

    def resolve(self, record: Mapping[str, str], place: str) -> dict[str, str] | None:
        """Return the record with one genre; None if it has several and is skipped. `place` is for messages."""
        cells = {column: record[column] for column in self._columns}
        if self._policy == "keep" or not any(_SEPARATORS.search(cell) for cell in cells.values()):
            return dict(record)
        if self._is_leaf([cell for cell in cells.values() if cell]):
            return dict(record)
        firsts, is_multiple = {}, False
        for column, cell in cells.items():
            parts = [part.strip() for part in _SEPARATORS.split(cell) if part.strip()]
            if len(parts) > 1:
                is_multiple = True
                self._multiple_rows.append(f"{place}: '{cell}'")
            firsts[column] = parts[0] if parts else ""
        return None if self._policy == "skip" and is_multiple else {**record, **firsts}

    def check(self) -> None:
        """Raise a CorpusError if rows have several genres and the policy is `ask`."""
        if self._policy != "ask" or not self._multiple_rows:
            return
        shown = ", ".join(self._multiple_rows[:_SHOWN]) + (", ..." if len(self._multiple_rows) > _SHOWN else "")
        what = "1 row names" if len(self._multiple_rows) == 1 else f"{len(self._multiple_rows)} rows name"
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
