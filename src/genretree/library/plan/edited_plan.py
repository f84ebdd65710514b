"""Read a preview that was edited in a spreadsheet, and plan exactly what it says."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

from genretree.errors import LibraryError
from genretree.files import printable
from genretree.library.database.connection import Database, decode_path
from genretree.library.database.journal import find_last_change
from genretree.library.database.records import FileResult, FileRow, ModelKey, iter_files
from genretree.library.plan.mapping import Decision
from genretree.library.plan.mapping import Mapping as Rules
from genretree.library.plan.planner import (
    ACTIONS,
    NO_DECISION,
    Filters,
    TagPlan,
    check_layout,
    evidence_fields,
    find_existing_genres,
    find_obstacle,
    is_up_to_date,
    join_genres,
    missing_action,
)
from genretree.library.plan.preview import PlanKey, PreviewRow, hash_genre, normalize_cell
from genretree.library.tags.adapters import format_genres
from genretree.library.tags.genre_fields import genre_fields
from genretree.taxonomy import Taxonomy, format_path

_COLUMNS = tuple(field.name for field in fields(PreviewRow))
_NEEDED = ("file", "action", "genre", "key")
_LEFT_OUT = frozenset({"", "skip", "no", "left_out"})  # words for an action cell, besides those of `ACTIONS`
_RENAMED = {"unheard": "not_analysed"}  # actions in the plans of 0.1
_CHANGED = "has changed since the plan was made; make a new preview"
_LISTED = 5
_MAX_CELL = 1 << 20  # characters
_GARBLED_MARK = "\ufeff".encode().decode("cp1252")  # a byte order mark that was taken for Windows-1252
_UNDEFINED = "\x81\x8d\x8f\x90\x9d"  # in Python's cp1252


class EditedPlan:
    """The rows of an edited plan, in a temporary database.

    Parameters
    ----------
    path : Path
        CSV file as `write_csv` writes it, with changed genres or actions, or with fewer rows or columns. Commas,
        semicolons and tabs, line ends of all systems, a byte order mark, and UTF-8, UTF-16 and Windows-1252 are
        accepted.

    Raises
    ------
    LibraryError
        If the file can't be read, has unknown columns, lacks one that is needed, or has a row that is damaged, or two
        for one file; the message names the lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: str | None = None
        self._rows = sqlite3.connect("")
        self._rows.execute(
            "CREATE TABLE line (number INTEGER, file TEXT PRIMARY KEY, action TEXT, genre TEXT, path TEXT, "
            "confidence TEXT, key TEXT, id INTEGER, repaired TEXT)"
        )
        self._rows.execute("CREATE INDEX by_repaired ON line (repaired)")
        for number, cells in _read_rows(path):
            self._add(number, cells)
        if self.model is None:
            raise LibraryError(f"{path}: has no rows, so nothing would be written")

    def _add(self, number: int, cells: dict[str, str]) -> None:
        where = f"{self.path}: line {number}"
        file, action = cells["file"].strip(), "_".join(cells["action"].casefold().split())
        action = _RENAMED.get(action, action)
        try:
            key = PlanKey.parse(cells["key"])
        except ValueError:
            raise LibraryError(f"{where}: the key {cells['key']!r} is damaged; copy it from the preview") from None
        if self.model is not None and key.model != self.model:
            raise LibraryError(f"{where}: was made with the model {key.model}, earlier lines with {self.model}")
        self.model = key.model
        if action not in ACTIONS and action not in _LEFT_OUT:
            raise LibraryError(
                f"{where}: unknown action '{printable(action)}'; use 'write', or 'skip' to leave the file out"
            )
        genre = normalize_cell(cells["genre"])
        if hash_genre(repaired := _repair(genre)) == key.genre:
            genre = repaired
        if not genre.isprintable() and hash_genre(genre) != key.genre:
            raise LibraryError(f"{where}: the genre {genre!r} contains control characters; type it again")
        row = (
            number,
            file,
            action,
            genre,
            cells.get("path", ""),
            cells.get("confidence", ""),
            cells["key"],
            _repair(file),
        )
        try:
            self._rows.execute("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)", row)
        except sqlite3.IntegrityError:
            query = "SELECT number FROM line WHERE file = ?"
            (first,) = self._rows.execute(query, (file,)).fetchone()
            raise LibraryError(f"{where}: repeats the file of line {first}: {file}; keep one of the two") from None

    def match(self, database: Database) -> None:
        """Find the file of every row.

        Raises
        ------
        LibraryError
            If a row's file is not in the database, or two files have the same name in the table.
        """
        for id_, stored in database.connection.execute("SELECT id, path FROM file"):
            shown = _as_cell(decode_path(stored))
            query = "SELECT number, id, file FROM line WHERE file = ?1 OR repaired = ?1 LIMIT 2"
            found = self._rows.execute(query, (shown,)).fetchall()
            if not found:
                continue
            row = found[0]
            if row[1] is not None or len(found) > 1:
                raise LibraryError(f"{self.path}: line {row[0]}: two files have the name {shown}; rename one of them")
            self._rows.execute("UPDATE line SET id = ? WHERE file = ?", (id_, row[2]))
        unknown = self._rows.execute(
            "SELECT number, file, count(*) OVER () FROM line WHERE id IS NULL ORDER BY number LIMIT ?", (_LISTED,)
        ).fetchall()
        if unknown:
            named = ", ".join(f"line {number} ({file or 'empty'})" for number, file, _ in unknown)
            more = unknown[0][2] - len(unknown)
            raise LibraryError(
                f"{self.path}: the library has no such files: {named}{f' and {more} more' if more else ''}; don't "
                "change the column 'file', and save the table as CSV UTF-8"
            )
        self._rows.execute("CREATE INDEX by_id ON line (id)")

    def find(self, file: int) -> tuple[str, str, str, str, PlanKey] | None:
        """Return action, genre, path, confidence and key of a file's row, by the file's id."""
        query = "SELECT action, genre, path, confidence, key FROM line WHERE id = ?"
        row = self._rows.execute(query, (file,)).fetchone()
        return None if row is None else (row[0], row[1], row[2], row[3], PlanKey.parse(row[4]))


def _repair(text: str) -> str:
    """Undo what Excel does to UTF-8 that it takes for Windows-1252; other text is returned unchanged."""
    try:
        return b"".join(_encode_windows(character) for character in text).decode("utf-8")
    except UnicodeError:
        return text


def _encode_windows(character: str) -> bytes:
    """Encode as Windows does: it maps the five bytes that Python's codec leaves undefined to control characters."""
    return character.encode("latin-1" if character in _UNDEFINED else "cp1252")


def _as_cell(path: str) -> str:
    return printable(path).strip()


def iter_edited_plans(
    database: Database,
    model: int,
    model_key: ModelKey,
    edited: EditedPlan,
    filters: Filters | None = None,
    separator: str | None = None,
) -> Iterator[TagPlan]:
    """Yield a plan for every row of an edited plan that writes, and for those that were left out, ordered by path.

    A row is written if its action is `write`, or if its genre was changed; not if its action was changed to another, or
    its genre is empty. A genre that was changed counts as the owner's, not as genretree's: later runs don't replace it,
    and the file gets no `GENRETREE_*` fields. Files that have changed since the plan was made are skipped.

    Parameters
    ----------
    database : Database
    model : int
    model_key : ModelKey
        The model of the plan.
    edited : EditedPlan
        Matched with the database.
    filters : Filters, optional
    separator : str, optional
        Text between several genres; by default that of the preview.
    """
    filters = filters or Filters()
    for row, result in iter_files(database, model, model_key, filters.folder):
        line = edited.find(row.id) if filters.selection.includes(row.path) else None
        if line is None:
            continue
        action, cell, path, confidence, key = line
        is_edited = hash_genre(cell) != key.genre
        writes = action == "write" or (action == key.action and is_edited)
        key = key if separator is None else replace(key, separator=separator)
        if writes and any(_split(cell)):
            decision = _read_decision(model_key.taxonomy, result, path, confidence)
            plan = TagPlan(row=row, result=result, decision=decision, action="write", separator=key.separator)
            yield check_layout(_plan_row(database, model_key, plan, cell, is_edited, key))
        elif key.action == "write" or writes:
            yield check_layout(TagPlan(row=row, result=result, decision=NO_DECISION, action="left_out"))


def _plan_row(
    database: Database, model_key: ModelKey, plan: TagPlan, cell: str, is_edited: bool, key: PlanKey
) -> TagPlan:
    row = plan.row
    if row.gone or row.error:
        return replace(plan, action=missing_action(row), message=row.message)
    is_same = row.content == key.content
    genres = _split_cell(cell, row.genres or ())
    plan = replace(plan, genres=genres)
    if not is_same and _was_written(database, row, key, join_genres(genres, key.separator)):
        return replace(plan, action="same")
    obstacle, message = find_obstacle(row) if is_same else ("changed", _CHANGED)
    if obstacle is not None:
        return replace(plan, action=obstacle, message=message or (_CHANGED if obstacle == "changed" else ""))
    existing = find_existing_genres(database, row, Rules())
    genres = _split_cell(cell, existing.other)
    if is_edited:
        decision = replace(plan.decision, genres=genres)
        plan = replace(plan, genres=genres, other_genres=genres, own={}, decision=decision, is_typed=True)
        is_same = plan.values == row.genres and not row.own
        return replace(plan, action="same") if is_same else plan
    theirs = {genre.casefold() for genre in existing.other}
    retained = tuple(genre for genre in genres if genre.casefold() in theirs)
    own = evidence_fields(plan.decision, model_key) | genre_fields(genres, existing.before)
    plan = replace(plan, genres=genres, other_genres=retained, own=own)
    return replace(plan, action="same") if is_up_to_date(row, existing.change, plan.values, own) else plan


def _was_written(database: Database, row: FileRow, key: PlanKey, values: Sequence[str]) -> bool:
    """Return whether an earlier run, which was interrupted, has carried out this row of the plan."""
    change = find_last_change(database, row.path)
    if change is None or change.before != key.content or change.after != row.content:
        return False
    return tuple(values) == tuple(change.new["wrote"])


def _split_cell(cell: str, existing: Sequence[str]) -> tuple[str, ...]:
    """Split a cell into genres at semicolons; the file's own genres in front may contain semicolons themselves."""
    start = normalize_cell(format_genres(existing))
    if existing and (cell == start or cell.startswith(f"{start};")):
        rest = cell[len(start) :]
        return tuple(dict.fromkeys((*existing, *_split(rest))))
    return tuple(dict.fromkeys(_split(cell)))


def _split(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(";") if part.strip())


def _read_decision(tree: Taxonomy, result: FileResult | None, path: str, confidence: str) -> Decision:
    """Read path and confidence of a row; those of the model where a spreadsheet has damaged or removed them."""
    if result is None or result.levels is None:
        return NO_DECISION
    level, index = _index_nodes(tree).get(path.strip(), (tree.depth - 1, result.leaf))
    value = float(result.levels[level][0, index])
    with suppress(ValueError):
        value = float(confidence.strip().replace(",", "."))
    return Decision(genres=(), path=tree.nodes(level)[index], confidence=min(max(value, 0.0), 1.0))


@lru_cache(maxsize=4)
def _index_nodes(tree: Taxonomy) -> dict[str, tuple[int, int]]:
    """Return level and index of every node, by its path as it is shown."""
    return {
        format_path(node): (level, index) for level in range(tree.depth) for index, node in enumerate(tree.nodes(level))
    }


# -- CSV as spreadsheets write it ---------------------------------------------------------------------------------


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells by column of the rows that are not empty."""
    text = _read_text(path)
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.strip().casefold().startswith("sep="):  # a hint for Excel
        text, skipped = rest, 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_find_delimiter(text))
    try:
        header = [cell.strip().casefold() for cell in next(reader, [])]
        while header and not header[-1]:
            header.pop()
        _check_header(path, header)
        for row in reader:
            number = reader.line_num + skipped
            if not any(cell.strip() for cell in row):
                continue
            if any(cell.strip() for cell in row[len(header) :]):
                raise LibraryError(f"{path}: line {number}: has more cells than there are columns")
            cells = list(zip(header, (*row, *[""] * (len(header) - len(row))), strict=False))
            if any(cell.strip() for name, cell in cells if not name):
                raise LibraryError(f"{path}: line {number}: has a cell in a column without a name; remove it")
            yield number, {name: cell for name, cell in cells if name}
    except csv.Error as error:
        where = f"{path}: line {reader.line_num + skipped}"
        raise LibraryError(f"{where}: is not CSV ({error}); save it as CSV UTF-8") from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    if missing := [name for name in _NEEDED if name not in header]:
        raise LibraryError(
            f"{path}: lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; edit the CSV table that "
            "`library preview` writes"
        )
    if unknown := [name for name in header if name and name not in _COLUMNS]:
        named = ", ".join(repr(name) for name in unknown)
        raise LibraryError(f"{path}: unknown columns: {named}; remove them; a plan has: {', '.join(_COLUMNS)}")
    if repeated := {name for name in header if name and header.count(name) > 1}:
        raise LibraryError(f"{path}: has the column {min(repeated)} twice; remove one of them")


def _find_delimiter(text: str) -> str:
    """Return the delimiter that gives the first line most of the columns."""
    first = text.lstrip("\r\n").partition("\n")[0].casefold()
    return max(",;\t", key=lambda mark: sum(cell.strip(' "\r') in _COLUMNS for cell in first.split(mark)))


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LibraryError(f"{path}: can't be read ({error.strerror or error})") from error
    if content.startswith(b"PK\x03\x04"):
        raise LibraryError(f"{path}: is a spreadsheet; save it as CSV UTF-8")
    encodings: tuple[str, ...] = ("utf-8-sig", "cp1252")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ("utf-16",)
    elif content[1:4:2] == b"\0\0":  # every second byte of ASCII in UTF-16 is 0
        encodings = ("utf-16-le",)
    elif content[0:3:2] == b"\0\0":
        encodings = ("utf-16-be",)
    for encoding in encodings:
        try:
            return content.decode(encoding).removeprefix(_GARBLED_MARK)
        except UnicodeDecodeError:
            continue
    raise LibraryError(f"{path}: its text can't be decoded; save it as CSV UTF-8")
