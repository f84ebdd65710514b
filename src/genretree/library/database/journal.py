"""The journal of tag changes, from which every file can be restored byte by byte."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genretree.errors import LibraryError
from genretree.files import stream_digest
from genretree.library.database.connection import Database, decode_path, encode_path
from genretree.library.database.path_selection import PathSelection
from genretree.library.database.records import PAGE, find_copies, update_content
from genretree.remote import is_url

_CHANGE = "id, run, path, state, temporary, before, after, before_mtime_ns, old, new, delta"


@dataclass(frozen=True)
class Change:
    """A change that a run made to a file.

    Parameters
    ----------
    id, run : int
    path : str
    database : str
        `begun` (may or may not be in place), `written`, `undoing` or `undone`.
    temporary : str
        The temporary copy next to the file.
    before, after : bytes
        Content hashes of the file before and after the change.
    before_mtime_ns : int
    old, new : mapping
        Tag values before and after: `genres` and `own`; in `new` also `wrote` (the genres as planned) and `theirs`
        (those of them that genretree did not predict).
    delta : bytes
        Binary delta from the new file back to the old one.
    """

    id: int
    run: int
    path: str
    state: str
    temporary: str
    before: bytes
    after: bytes
    before_mtime_ns: int
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    delta: bytes


@dataclass(frozen=True)
class Run:
    """A run that changed files: id, start time, model, command, and the numbers of written and undone changes."""

    id: int
    started: float
    model: str
    command: str
    written: int
    undone: int


def begin_run(database: Database, model: str, command: str) -> int:
    """Create a run and return its id; from now on, commits also survive a power failure."""
    database.connection.execute("PRAGMA synchronous = FULL")
    with database.transaction() as connection:
        return int(
            connection.execute(
                "INSERT INTO run (started, model, command) VALUES (?, ?, ?) RETURNING id", (time.time(), model, command)
            ).fetchone()[0]
        )


def begin_change(
    database: Database, run: int, path: str, temporary: str, before: bytes, mtime_ns: int, old: Mapping[str, Any]
) -> int:
    """Record that a file is about to be changed."""
    _follow_rename(database, path, before)
    row = (run, encode_path(path), encode_path(temporary), before, mtime_ns, json.dumps(old))
    with database.transaction() as connection:
        return int(
            connection.execute(
                "INSERT INTO change (run, path, state, temporary, before, before_mtime_ns, old, new) "
                "VALUES (?, ?, 'begun', ?, ?, ?, ?, '{}') RETURNING id",
                row,
            ).fetchone()[0]
        )


def fill_change(database: Database, change: int, after: bytes, new: Mapping[str, Any], delta: bytes) -> None:
    """Record how to undo a change, before it is made."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE change SET after = ?, new = ?, delta = ? WHERE id = ?", (after, json.dumps(new), delta, change)
        )


def finish_change(database: Database, change: int, size: int, mtime_ns: int) -> None:
    """Record that a change is in place."""
    entry = read_changes(database, "WHERE id = ?", (change,))[0]
    with database.transaction() as connection:
        connection.execute("UPDATE change SET state = 'written' WHERE id = ?", (change,))
        for path in _find_links(database, entry.path, entry.before):
            update_content(database, path, entry.before, entry.after, size, mtime_ns, entry.new)


def void_change(database: Database, change: int) -> None:
    """Record that a change was not made, before its copy is removed: a missing copy otherwise means that it was."""
    with database.transaction() as connection:
        connection.execute("UPDATE change SET after = x'' WHERE id = ? AND state = 'begun'", (change,))


def drop_change(database: Database, change: int) -> None:
    """Delete a change that was not made."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM change WHERE id = ?", (change,))


def begin_undo(database: Database, change: int, temporary: str) -> None:
    """Record that a file is about to be restored."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE change SET state = 'undoing', temporary = ? WHERE id = ?", (encode_path(temporary), change)
        )


def finish_undo(database: Database, chain: Sequence[Change], after: bytes, size: int, mtime_ns: int) -> None:
    """Record that the changes of a chain, newest first, are undone; `after` is the file's content hash now."""
    with database.transaction() as connection:
        connection.executemany("UPDATE change SET state = 'undone' WHERE id = ?", [(item.id,) for item in chain])
        oldest = chain[-1]
        for path in _find_links(database, oldest.path, chain[0].after):
            update_content(database, path, chain[0].after, after, size, mtime_ns, oldest.old)


def _find_links(database: Database, path: str, content: bytes) -> list[str]:
    """Return a file's path, and the known paths of its other hard links, which had this content."""
    paths = [path]
    with suppress(OSError):
        status = Path(path).stat()
        for other in find_copies(database, content) if status.st_nlink > 1 else []:
            if other != path and not is_url(other) and os.path.lexists(other):
                paths += [other] if os.path.samestat(Path(other).lstat(), status) else []
    return paths


def stop_undo(database: Database, change: int) -> None:
    """Record that a file could not be restored."""
    with database.transaction() as connection:
        connection.execute("UPDATE change SET state = 'written' WHERE id = ?", (change,))


def find_last_change(database: Database, path: str) -> Change | None:
    """Return the last change of a file that was written and not undone."""
    rows = read_changes(database, "WHERE path = ? AND state = 'written' ORDER BY id DESC LIMIT 1", (encode_path(path),))
    return rows[0] if rows else None


def find_change_to(database: Database, content: bytes | None) -> Change | None:
    """Return the last change, not undone, whose result has this content hash, at any path."""
    rows = read_changes(database, "WHERE after = ? AND state = 'written' ORDER BY id DESC LIMIT 1", (content,))
    return rows[0] if rows else None


def find_original_genres(database: Database, change: Change) -> tuple[str, ...]:
    """Return a file's genres before the first of genretree's changes that led to this one without other edits."""
    query = "WHERE path = ? AND id < ? AND state = 'written' ORDER BY id DESC"
    genres = change.old["genres"]
    for earlier in read_changes(database, query, (encode_path(change.path), change.id)):
        if earlier.new["genres"] != genres:
            break
        genres = earlier.old["genres"]
    return tuple(genres)


def _follow_rename(database: Database, path: str, content: bytes) -> None:
    """Move the changes of a renamed file to its new path, so that undo treats later changes as their successors."""
    if find_last_change(database, path) is not None:
        return
    change = find_change_to(database, content)
    if change is not None and not os.path.lexists(change.path):  # else it is a copy
        _set_path(database, change.path, path)


def _find_renamed(database: Database, chain: list[Change]) -> list[Change]:
    """Find the file of a chain by its content if it was renamed, and update the path of its changes."""
    old, after = chain[0].path, chain[0].after
    if os.path.lexists(old):
        return chain
    for path in find_copies(database, after):
        if path == old or is_url(path) or find_last_change(database, path) is not None:
            continue  # a copy that genretree wrote to has changes of its own
        now = read_file_state(path)
        if now is not None and now.content == after:
            _set_path(database, old, path)
            return [replace(item, path=path) for item in chain]
    return chain


def find_swapped(database: Database, chain: list[Change]) -> list[Change] | None:
    """Find the file of a chain whose path now belongs to another file, as after swapping two file names.

    The other file's changes get this path in return; its file is searched for when its chain is processed.
    """
    old, after = chain[0].path, chain[0].after
    for path in find_copies(database, after):
        if path == old or is_url(path):
            continue
        now = read_file_state(path)
        if now is None or now.content != after:
            continue
        other = find_last_change(database, path)
        if other is not None and other.after == after:
            continue  # a copy that genretree wrote to
        _swap_paths(database, old, path)
        return [replace(item, path=path) for item in chain]
    return None


def _swap_paths(database: Database, one: str, other: str) -> None:
    no_path = b"\0"  # not a valid file name
    with database.transaction() as connection:
        for old, new in (
            (encode_path(one), no_path),
            (encode_path(other), encode_path(one)),
            (no_path, encode_path(other)),
        ):
            connection.execute(
                "UPDATE change SET path = ? WHERE path = ? AND state IN ('written', 'undone')", (new, old)
            )


def _set_path(database: Database, old: str, new: str) -> None:
    with database.transaction() as connection:
        connection.execute(
            "UPDATE change SET path = ? WHERE path = ? AND state IN ('written', 'undone')",
            (encode_path(new), encode_path(old)),
        )


def move_open_change(database: Database, change: Change, path: str) -> None:
    """Set the path of a change that was interrupted, and of the file's other changes, if the file was moved."""
    moved = (encode_path(path), encode_path(change.path))
    with database.transaction() as connection:
        connection.execute("UPDATE change SET path = ? WHERE id = ?", (moved[0], change.id))
        if not os.path.lexists(change.path):
            connection.execute("UPDATE change SET path = ? WHERE path = ? AND state IN ('written', 'undone')", moved)


def iter_chains(database: Database, run: int) -> Iterator[list[Change]]:
    """Yield the changes of each file that a run changed, from the newest down to the run's first.

    A file that is missing at its path is searched for by content among the known files.
    """
    last = 0
    while True:
        firsts = read_changes(
            database, "WHERE run = ? AND id > ? AND state = 'written' ORDER BY id LIMIT ?", (run, last, PAGE)
        )
        if not firsts:
            return
        for first in firsts:
            first = read_changes(database, "WHERE id = ?", (first.id,))[0]  # its path may have been swapped since
            chain = read_changes(
                database,
                "WHERE path = ? AND id >= ? AND state = 'written' ORDER BY id DESC",
                (encode_path(first.path), first.id),
            )
            if chain and chain[-1].id == first.id:
                yield _find_renamed(database, chain)
        last = firsts[-1].id


def count_chains(database: Database, run: int, selection: PathSelection | None = None) -> int:
    """Count the changes of a run, to selected files, that are not undone."""
    if not selection:
        query = "SELECT count(*) FROM change WHERE run = ? AND state = 'written'"
        return int(database.connection.execute(query, (run,)).fetchone()[0])
    query = (
        "SELECT path, (SELECT f.path FROM file f WHERE f.content = c.after AND f.gone = 0 LIMIT 1) FROM change c "
        "WHERE run = ? AND state = 'written'"
    )
    rows = database.connection.execute(query, (run,))
    return sum(is_selected(database, selection, _current_path(path, moved)) for path, moved in rows.fetchall())


def is_selected(database: Database, selection: PathSelection, path: str) -> bool:
    """Return whether a file is selected under any of its known names, and skipped under none."""
    names = [path]
    with suppress(OSError):
        status = Path(path).lstat()
        rows = (
            database.connection.execute(
                "SELECT o.path FROM file f JOIN file o ON o.content = f.content "
                "WHERE f.path = ? AND o.path <> f.path AND o.gone = 0",
                (encode_path(path),),
            ).fetchall()
            if status.st_nlink > 1
            else []
        )
        for other in (decode_path(row[0]) for row in rows):
            with suppress(OSError):
                names += [other] if os.path.samestat(Path(other).lstat(), status) else []
    return selection.includes_file(names)


def _current_path(path: bytes, moved: bytes | None) -> str:
    """Return where the file of a change is now: at its path, or at that of a known file with its content."""
    return decode_path(path if moved is None or os.path.lexists(path) else moved)


def list_runs(database: Database) -> list[Run]:
    """List all runs that changed files, newest first."""
    rows = database.connection.execute(
        "SELECT r.id, r.started, r.model, r.command, sum(c.state = 'written'), sum(c.state = 'undone') FROM run r "
        "JOIN change c ON c.run = r.id GROUP BY r.id ORDER BY r.id DESC"
    )
    return [Run(*row) for row in rows]


def find_run(database: Database, run: int | None, selection: PathSelection | None = None) -> int:
    """Return the id of a run; None selects the last run that is not undone, of those that changed a selected file.

    Raises
    ------
    LibraryError
        If there is no such run.
    """
    runs = list_runs(database)
    if run is None:
        written = [item.id for item in runs if item.written]
        if selection:
            written = [number for number in written if count_chains(database, number, selection)]
        if not written:
            raise LibraryError(f"{database.path}: nothing to undo")
        return written[0]
    if run not in [item.id for item in runs]:
        known = ", ".join(str(item.id) for item in runs) or "none"
        raise LibraryError(f"{database.path}: no run {run} that changed anything; there are: {known}")
    return run


def intermediate_path(temporary: Path) -> Path:
    """Return the path for intermediate contents while several changes are undone one after another."""
    return temporary.with_suffix(".step")


@dataclass(frozen=True)
class FileState:
    """Content hash, size and modification time of a file."""

    content: bytes
    size: int
    mtime_ns: int


def read_file_state(path: str) -> FileState | None:
    """Hash a file; returns None if it can't be read."""
    try:
        with Path(path).open("rb") as stream:  # opened once: another process may replace the file at any moment
            status = os.fstat(stream.fileno())
            content = stream_digest(stream)
    except OSError:
        return None
    return FileState(content, status.st_size, status.st_mtime_ns)


def read_changes(database: Database, where: str, arguments: tuple[Any, ...]) -> list[Change]:
    """Return the changes that an SQL clause selects."""
    rows = database.connection.execute(f"SELECT {_CHANGE} FROM change {where}", arguments).fetchall()
    return [
        Change(
            *(id_, run, decode_path(path), database, decode_path(temporary), before, after, mtime_ns),
            *(json.loads(old), json.loads(new), delta or b""),
        )
        for id_, run, path, database, temporary, before, after, mtime_ns, old, new, delta in rows
    ]
