"""CSV tables of tracks or images: parsing, and detection of the genre columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from genretree.errors import CorpusError

_LEVEL_COLUMN = re.compile(r"^(?:level|genre|lvl)[ _-]?([1-4])$")
_CCMUSIC_LEVELS = ("fst_level", "sec_level", "thr_level")


class CsvTable:
    """A UTF-8 CSV with a header, separated by commas, semicolons or tabs.

    Parameters
    ----------
    source : Path

    Attributes
    ----------
    text : str
        The whole file.
    columns : list of str
        Names of the columns, without spaces around them.

    Raises
    ------
    CorpusError
        If the file can't be read as UTF-8.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        try:
            self.text = source.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{source}: cannot be read as a UTF-8 CSV ({error})") from error
        delimiter = max(",;\t", key=self.text.partition("\n")[0].count)
        self._reader = csv.DictReader(self.text.splitlines(keepends=True), delimiter=delimiter, strict=True)
        try:
            self.columns = [name.strip() for name in self._reader.fieldnames or []]
        except csv.Error as error:
            raise CorpusError(f"{source}, line 1: {error}") from error
        self._reader.fieldnames = self.columns

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield each row's line number and its cells, without spaces around them.

        Raises
        ------
        CorpusError
            If a row is not valid CSV.
        """
        try:
            for record in self._reader:
                cells = {key: (value or "").strip() for key, value in record.items() if isinstance(key, str)}
                yield self._reader.line_num, cells
        except csv.Error as error:
            raise CorpusError(f"{self.source}, line {self._reader.line_num}: {error}") from error


def find_level_columns(source: Path, columns: Sequence[str], levels: Sequence[str] | None = None) -> list[str]:
    """Return the genre columns: one for each level from the root down, or `genre` alone.

    Parameters
    ----------
    source : Path
        For error messages.
    columns : sequence of str
        All columns of the table.
    levels : sequence of str, optional
        Names of the level columns, if not the default ones.

    Raises
    ------
    CorpusError
        If there are no genre columns.
    """
    if levels:
        missing = [name for name in levels if name not in columns]
        if missing:
            raise CorpusError(f"{source}: no column {', '.join(missing)}; it has: {', '.join(columns)}")
        return list(levels)
    numbered = {int(match[1]): name for name in columns if (match := _LEVEL_COLUMN.match(name.lower()))}
    if numbered and sorted(numbered) == list(range(1, len(numbered) + 1)):
        return [numbered[i] for i in sorted(numbered)]
    published = [name for level in _CCMUSIC_LEVELS for name in columns if name in (level, f"{level}_label")]
    if published:
        return published
    if "genre" in columns:
        return ["genre"]
    raise CorpusError(
        f"{source}: needs a column 'genre', or one for each level (level_1, level_2 ...; or name them in `levels`); "
        f"it has: {', '.join(columns)}"
    )
