"""Recover a damaged database: copy readable rows, and complete them from backups and the files' tags."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from genretree.errors import LibraryError
from genretree.library.database.connection import Database, backups, encode_path, open_database
from genretree.library.database.encoding import genres_json, own_json
from genretree.library.database.records import PAGE, count_files
from genretree.library.tags.adapters import TagError, read_tags
from genretree.sound.walk import SoundWalk
from genretree.taxonomy import Taxonomy

_HEADER = b"SQLite format 3\0"
_PAGE_BYTES = 4096
_LAST = 1 << 62
_COLUMNS = {
    "model": "id, digest, family, heads, tree, bundle, note, used",
    "file": "id, path, size, mtime_ns, content, genres, error, message, seen, gone, tries, own",
    "result": "file, model, content, here, leaf, confidence, probabilities, slices, padded, runtime, error, message",
    "run": "id, started, model, command",
    "change": "id, run, path, state, temporary, before, after, before_mtime_ns, old, new, delta",
}


@dataclass
class RescuedTable:
    """Counts of the rows recovered from a table.

    Parameters
    ----------
    table : str
    saved : int
        Rows copied.
    refused : int
        Rows that are readable but invalid.
    gaps : int
        Unreadable ranges between readable rows.
    between : int
        Maximum number of rows in those ranges.
    end : int or None
        Number of the last readable row, if everything after it is unreadable.
    from_backups : int
        Additional rows copied from backups.
    """

    table: str
    saved: int = 0
    refused: int = 0
    gaps: int = 0
    between: int = 0
    end: int | None = None
    from_backups: int = 0

    @property
    def complete(self) -> bool:
        """Whether no loss was detected."""
        return not self.refused and not self.gaps and self.end is None


@dataclass
class MusicFields:
    """Counts of the files whose tags were read.

    Parameters
    ----------
    files : int
        Files found.
    carrying : int
        Files with `GENRETREE_*` fields, which are in the new database now.
    new : int
        Files with such fields that were not recovered from the damaged database.
    """

    files: int = 0
    carrying: int = 0
    new: int = 0


def rescue(damaged: Path, out: Path, music: Sequence[str] = ()) -> tuple[list[RescuedTable], MusicFields]:
    """Copy all readable rows of a database to a new one, for use with `undo` and `analyse`.

    Lost journal entries are taken from the database's backups. The damaged database, the backups and the music are
    not modified.

    Parameters
    ----------
    damaged : Path
    out : Path
        Path of the new database; must not exist.
    music : sequence of str
        Folders of music; the `GENRETREE_*` fields of their files are read into the new database.

    Returns
    -------
    list of Rescued
        One per table.
    MusicFields

    Raises
    ------
    LibraryError
        If nothing can be read, or `out` exists.
    """
    if not damaged.is_file():
        raise LibraryError(f"{damaged}: no such file; name the damaged database")
    if out.exists():
        raise LibraryError(f"{out}: already exists; name a new file in `out`")
    try:
        with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
            copy = _copy(damaged, Path(folder))
            with (
                closing(sqlite3.connect(copy, isolation_level=None)) as source,
                open_database(out, create=True) as database,
            ):
                source.execute("PRAGMA writable_schema = ON")  # lets SQLite read databases with a damaged schema
                found = _save(source, database)
                for backup in backups(damaged):
                    _add_journal(backup, Path(folder), database, found)
                _finish(database, found)
                fields = _read_music(database, music)
        if not fields.carrying and not any(table.saved + table.from_backups for table in found):
            raise LibraryError(f"{damaged}: nothing in it can be read; use a backup, or analyse the library again")
    except BaseException:
        for name in (out.name, f"{out.name}-wal", f"{out.name}-shm"):
            out.with_name(name).unlink(missing_ok=True)
        raise
    return found, fields


def _copy(damaged: Path, folder: Path) -> Path:
    """Copy a database, and repair the copy's length and first page so that SQLite opens it."""
    copy = folder / f"copy of {damaged.name}"
    log = damaged.with_name(f"{damaged.name}-wal")
    try:
        shutil.copyfile(damaged, copy)
        if log.exists():
            shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
    except OSError as error:
        raise LibraryError(f"{damaged}: cannot be copied to {folder} ({error.strerror or error})") from error
    size = copy.stat().st_size
    with copy.open("rb+") as stream:
        head = stream.read(100)
        sound = head.startswith(_HEADER) and int.from_bytes(head[16:18], "big") == _PAGE_BYTES
    if size >= _PAGE_BYTES and not sound:
        # The root pages of the tables are the same in all databases, so the first page of a new one fits.
        fresh = folder / "fresh.sqlite"
        open_database(fresh, create=True).close()
        page = bytearray(fresh.read_bytes()[:_PAGE_BYTES])
        page[28:32] = (size // _PAGE_BYTES).to_bytes(4, "big")
        with copy.open("rb+") as stream:
            stream.write(page)
    elif sound:
        pages = int.from_bytes(head[28:32], "big")
        if size < pages * _PAGE_BYTES <= size * 1000:
            os.truncate(copy, pages * _PAGE_BYTES)
    return copy


def _save(source: sqlite3.Connection, database: Database) -> list[RescuedTable]:
    found = []
    for table, columns in _COLUMNS.items():
        report = RescuedTable(table)
        source_columns = columns if table != "file" or _has_own(source) else columns.replace("own", "NULL")
        insert = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(columns.split(', ')))})"
        with database.transaction() as connection:
            for row in _rows(source, table, source_columns, report):
                try:
                    if not _CHECKS[table](row):
                        raise ValueError
                    connection.execute(insert, row)
                    report.saved += 1
                except (ValueError, TypeError, KeyError, AttributeError, sqlite3.IntegrityError):
                    report.refused += 1
        found.append(report)
    return found


def _add_journal(backup: Path, folder: Path, database: Database, reports: list[RescuedTable]) -> None:
    """Add the runs and changes that only a backup holds; a backup of another library is ignored."""
    try:
        copy = _copy(backup, folder)
    except LibraryError:  # continue with the other backups
        return
    with closing(sqlite3.connect(copy, isolation_level=None)) as source:
        source.execute("PRAGMA writable_schema = ON")
        for id_, _, before in _readable(source, "change", "id, state, before"):
            saved = database.connection.execute("SELECT before FROM change WHERE id = ?", (id_,)).fetchone()
            if saved is not None and saved[0] != before:
                return
        for report in reports:
            if report.table in ("run", "change"):
                report.from_backups += _add_rows(source, database, report.table)


def _readable(source: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    for row in _rows(source, table, columns, RescuedTable(table)):
        if table != "change" or row[columns.split(", ").index("state")] in ("written", "undone"):
            yield row


def _add_rows(source: sqlite3.Connection, database: Database, table: str) -> int:
    columns = _COLUMNS[table]
    insert = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({', '.join('?' * len(columns.split(', ')))})"
    added = 0
    with database.transaction() as connection:
        for row in _readable(source, table, columns):
            with suppress(ValueError, TypeError, KeyError, AttributeError, sqlite3.IntegrityError):
                if _CHECKS[table](row):
                    added += connection.execute(insert, row).rowcount
    return added


def _finish(database: Database, reports: list[RescuedTable]) -> None:
    """Make the recovered rows consistent."""
    with database.transaction() as connection:
        # A backup may predate an undo; a later change that starts from the same content proves that undo.
        connection.execute(
            "UPDATE change SET state = 'undone' WHERE state = 'written' AND EXISTS (SELECT 1 FROM change later "
            "WHERE later.path = change.path AND later.id > change.id AND later.before = change.before "
            "AND later.state IN ('written', 'undone'))"
        )
        # A change needs its run to be undone; a result needs its model and file.
        connection.execute(
            "INSERT INTO run SELECT DISTINCT run, 0, '', 'rescued' FROM change WHERE run NOT IN (SELECT id FROM run)"
        )
        connection.execute(
            "DELETE FROM result WHERE file NOT IN (SELECT id FROM file) OR model NOT IN (SELECT id FROM model)"
        )
        connection.execute("INSERT OR REPLACE INTO setting SELECT 'round', max(seen) FROM file HAVING max(seen) > 0")
        counted = connection.execute("SELECT count(*) FROM result").fetchone()[0]
    for report in reports:
        if report.table == "result":
            report.refused += report.saved - counted
            report.saved = counted


def _read_music(database: Database, places: Sequence[str]) -> MusicFields:
    """Read genretree's fields in the tags of files into the database."""
    counted = MusicFields()
    known = sum(count_files(database))
    rows = _iter_fields(places, counted)
    while batch := list(islice(rows, PAGE)):
        with database.transaction() as connection:
            connection.executemany(
                "INSERT INTO file (path, size, mtime_ns, genres, own, seen) VALUES (?, ?, ?, ?, ?, 0) "
                "ON CONFLICT (path) DO UPDATE SET "
                "content = CASE WHEN size = excluded.size AND mtime_ns = excluded.mtime_ns THEN content END, "
                "size = excluded.size, mtime_ns = excluded.mtime_ns, genres = excluded.genres, own = excluded.own, "
                "error = '', message = '', gone = 0",
                batch,
            )
    counted.new = sum(count_files(database)) - known
    return counted


def _iter_fields(places: Sequence[str], counted: MusicFields) -> Iterator[tuple[Any, ...]]:
    for found in SoundWalk().find(places):
        if found.error:
            continue
        counted.files += 1
        try:
            values = read_tags(found.path)
            status = Path(found.path).stat()
        except (TagError, OSError):
            continue
        if values.own and (status.st_size, status.st_mtime_ns) == (found.size, found.mtime_ns):
            counted.carrying += 1
            genres, own = genres_json(values.genres), own_json(values.own)
            yield encode_path(found.path), found.size, found.mtime_ns, genres, own


def _has_own(source: sqlite3.Connection) -> bool:
    """Return whether the table `file` has the column `own`, which format 1 lacks."""
    with suppress(sqlite3.DatabaseError):
        return any(row[1] == "own" for row in source.execute("PRAGMA table_info(file)"))
    return True


def _rows(source: sqlite3.Connection, table: str, columns: str, report: RescuedTable) -> Iterator[tuple[Any, ...]]:
    """Yield the rows ordered by number, skipping unreadable ranges."""
    key = columns.split(", ", maxsplit=1)[0]
    query = f"SELECT {columns} FROM {table} NOT INDEXED WHERE {key} >= ? ORDER BY {key}"
    at, last = -1, 0
    while True:
        try:
            for row in source.execute(query, (at,)):
                yield row
                last = max(last, row[0])
        except sqlite3.DatabaseError:
            # Python's sqlite3 reads one row ahead, so read the last rows before the damage one by one.
            while (row := _read_one(source, query, last + 1)) is not None:
                yield row
                last = row[0]
            start = _next_readable(source, query, last + 1)
            if start is None:
                report.end = last
                return
            report.gaps += 1
            report.between += max(0, start - last - 1)
            at = start
        else:
            return


def _next_readable(source: sqlite3.Connection, query: str, first: int) -> int | None:
    """Return the lowest readable row number, found by bisection."""
    step, bad, good = 1, first - 1, None
    while first + step < _LAST:
        found = _probe(source, query, first + step - 1)
        if found is not None:
            good = found
            break
        bad = first + step - 1
        step *= 2
    if good is None:
        return None
    high = min(good, first + step - 1)
    while high - bad > 1:
        middle = (bad + high) // 2
        found = _probe(source, query, middle)
        if found is None:
            bad = middle
        else:
            high, good = middle, found
    return good


def _probe(source: sqlite3.Connection, query: str, at: int) -> int | None:
    row = _read_one(source, query, at)
    return None if row is None else int(row[0])


def _read_one(source: sqlite3.Connection, query: str, at: int) -> tuple[Any, ...] | None:
    with suppress(sqlite3.DatabaseError):
        row = source.execute(f"{query} LIMIT 1", (at,)).fetchone()
        # A damaged page may hold rows of other places; a lower number would cause an endless loop.
        return row if row is not None and isinstance(row[0], int) and row[0] >= at else None
    return None


def _check_model(row: tuple[Any, ...]) -> bool:
    Taxonomy.from_json(json.loads(row[4]))
    return all(isinstance(value, str) for value in row[1:7])


def _check_file(row: tuple[Any, ...]) -> bool:
    known = row[4] is None or (isinstance(row[4], bytes) and len(row[4]) == 16)
    genres, own = (None if value is None else json.loads(value) for value in (row[5], row[11]))
    tags = isinstance(genres, list | None) and isinstance(own, dict | None)
    return isinstance(row[1], bytes) and known and tags


def _check_result(row: tuple[Any, ...]) -> bool:
    return isinstance(row[2], bytes) and (row[6] is None or isinstance(row[6], bytes))


def _check_run(row: tuple[Any, ...]) -> bool:
    return isinstance(row[1], float) and isinstance(row[2], str) and isinstance(row[3], str)


def _check_change(row: tuple[Any, ...]) -> bool:
    names = all(isinstance(row[index], bytes) for index in (2, 4, 5, 6))
    tags = isinstance(json.loads(row[8]), dict) and isinstance(json.loads(row[9]), dict)
    return names and tags and row[3] in ("begun", "written", "undoing", "undone")


_CHECKS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "model": _check_model,
    "file": _check_file,
    "result": _check_result,
    "run": _check_run,
    "change": _check_change,
}
