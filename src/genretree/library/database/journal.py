"""The journal of what was written into files: with it every one of them can be made again, byte by byte."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genretree.errors import LibraryError
from genretree.library.database.connection import Database, decode_path, encode_path
from genretree.library.database.records import PAGE, find_copies, move_content
from genretree.library.tags.binary_delta import stream_digest
from genretree.remote import is_url

_CHANGE = "id, run, path, state, temporary, before, after, before_mtime_ns, old, new, delta"


@dataclass(frozen=True)
class Change:
    """One file that a run changed.

    Parameters
    ----------
    id, run : int
    path : str
    state : str
        `begun`: not known to be in place; `written`; `undoing`; `undone`.
    temporary : str
        The temporary copy next to the file.
    before, after : bytes
        Hashes of the whole file.
    before_mtime_ns : int
    old, new : mapping
        What its tags held and hold: `genres`, `own`; of the new ones also `wrote` (the genres as they were meant) and
        `theirs` (those of them that were not ours).
    delta : bytes
        How to get the old bytes from the new ones.
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
    """A call of apply that changed files: number, time, model, command, and how many changes stand or were undone."""

    id: int
    started: float
    model: str
    command: str
    written: int
    undone: int


def begin_run(state: Database, model: str, command: str) -> int:
    """Return a number to a call that is about to change files; power may fail from now on, too."""
    state.connection.execute("PRAGMA synchronous = FULL")
    with state.transaction() as connection:
        return int(
            connection.execute(
                "INSERT INTO run (started, model, command) VALUES (?, ?, ?) RETURNING id", (time.time(), model, command)
            ).fetchone()[0]
        )


def begin_change(
    state: Database, run: int, path: str, temporary: str, before: bytes, mtime_ns: int, old: Mapping[str, Any]
) -> int:
    """Record that a file is about to be changed."""
    _adopt(state, path, before)
    row = (run, encode_path(path), encode_path(temporary), before, mtime_ns, json.dumps(old))
    with state.transaction() as connection:
        return int(
            connection.execute(
                "INSERT INTO change (run, path, state, temporary, before, before_mtime_ns, old, new) "
                "VALUES (?, ?, 'begun', ?, ?, ?, ?, '{}') RETURNING id",
                row,
            ).fetchone()[0]
        )


def fill_change(state: Database, change: int, after: bytes, new: Mapping[str, Any], delta: bytes) -> None:
    """Record how to undo a change, before it is made."""
    with state.transaction() as connection:
        connection.execute(
            "UPDATE change SET after = ?, new = ?, delta = ? WHERE id = ?", (after, json.dumps(new), delta, change)
        )


def finish_change(state: Database, change: int, size: int, mtime_ns: int) -> None:
    """Record that a change is in place."""
    found = read_changes(state, "WHERE id = ?", (change,))[0]
    with state.transaction() as connection:
        connection.execute("UPDATE change SET state = 'written' WHERE id = ?", (change,))
        move_content(state, found.path, found.before, found.after, size, mtime_ns, found.new)


def void_change(state: Database, change: int) -> None:
    """Record that a change was not made, before its copy is removed: a missing copy otherwise means that it was."""
    with state.transaction() as connection:
        connection.execute("UPDATE change SET after = x'' WHERE id = ? AND state = 'begun'", (change,))


def drop_change(state: Database, change: int) -> None:
    """Forget a change that was not made."""
    with state.transaction() as connection:
        connection.execute("DELETE FROM change WHERE id = ?", (change,))


def begin_undo(state: Database, change: int, temporary: str) -> None:
    """Record that a file is about to be restored."""
    with state.transaction() as connection:
        connection.execute(
            "UPDATE change SET state = 'undoing', temporary = ? WHERE id = ?", (encode_path(temporary), change)
        )


def finish_undo(state: Database, chain: Sequence[Change], after: bytes, size: int, mtime_ns: int) -> None:
    """Record that the changes of a chain, the newest first, are undone; `after` is what the file holds now."""
    with state.transaction() as connection:
        connection.executemany("UPDATE change SET state = 'undone' WHERE id = ?", [(item.id,) for item in chain])
        oldest = chain[-1]
        move_content(state, oldest.path, chain[0].after, after, size, mtime_ns, oldest.old)


def stop_undo(state: Database, change: int) -> None:
    """Record that a file could not be restored."""
    with state.transaction() as connection:
        connection.execute("UPDATE change SET state = 'written' WHERE id = ?", (change,))


def last_change(state: Database, path: str) -> Change | None:
    """Return the last change of a file that stands."""
    rows = read_changes(state, "WHERE path = ? AND state = 'written' ORDER BY id DESC LIMIT 1", (encode_path(path),))
    return rows[0] if rows else None


def last_change_to(state: Database, content: bytes | None) -> Change | None:
    """Return the last change that stands and made this content, whatever the file's path was then."""
    rows = read_changes(state, "WHERE after = ? AND state = 'written' ORDER BY id DESC LIMIT 1", (content,))
    return rows[0] if rows else None


def first_genres(state: Database, change: Change) -> tuple[str, ...]:
    """Return the genres that a file had before the first of the changes that led to this one without an edit."""
    query = "WHERE path = ? AND id < ? AND state = 'written' ORDER BY id DESC"
    genres = change.old["genres"]
    for earlier in read_changes(state, query, (encode_path(change.path), change.id)):
        if earlier.new["genres"] != genres:
            break
        genres = earlier.old["genres"]
    return tuple(genres)


def _adopt(state: Database, path: str, content: bytes) -> None:
    """Return the changes of a file that was renamed its new path, so that undo sees later ones as their successors."""
    if last_change(state, path) is not None:
        return
    change = last_change_to(state, content)
    if change is not None and not os.path.lexists(change.path):  # else it is a copy
        _move(state, change.path, path)


def _follow(state: Database, chain: list[Change]) -> list[Change]:
    """Find the file of a chain at another path if it was renamed, and note that path."""
    old, after = chain[0].path, chain[0].after
    if os.path.lexists(old):
        return chain
    for path in find_copies(state, after):
        if path == old or is_url(path) or last_change(state, path) is not None:
            continue  # a copy that we wrote to as well has changes of its own
        now = read_file_state(path)
        if now is not None and now.content == after:
            _move(state, old, path)
            return [replace(item, path=path) for item in chain]
    return chain


def find_exchanged(state: Database, chain: list[Change]) -> list[Change] | None:
    """Find the file of a chain whose path another file has now, as when two files exchanged their names.

    The other file's changes get the path in return, and are looked for in the same way when their turn comes.
    """
    old, after = chain[0].path, chain[0].after
    for path in find_copies(state, after):
        if path == old or is_url(path):
            continue
        now = read_file_state(path)
        if now is None or now.content != after:
            continue
        other = last_change(state, path)
        if other is not None and other.after == after:
            continue  # a copy that we wrote to as well
        _exchange(state, old, path)
        return [replace(item, path=path) for item in chain]
    return None


def _exchange(state: Database, one: str, other: str) -> None:
    nowhere = b"\0"  # the name of no file
    with state.transaction() as connection:
        for old, new in (
            (encode_path(one), nowhere),
            (encode_path(other), encode_path(one)),
            (nowhere, encode_path(other)),
        ):
            connection.execute(
                "UPDATE change SET path = ? WHERE path = ? AND state IN ('written', 'undone')", (new, old)
            )


def _move(state: Database, old: str, new: str) -> None:
    with state.transaction() as connection:
        connection.execute(
            "UPDATE change SET path = ? WHERE path = ? AND state IN ('written', 'undone')",
            (encode_path(new), encode_path(old)),
        )


def iter_chains(state: Database, run: int) -> Iterator[list[Change]]:
    """Yield, for each file that a run changed, the changes from the newest down to the run's first.

    A file that is no longer at its path is looked for, by its content, among the files that are known at other paths.
    """
    last = 0
    while True:
        firsts = read_changes(
            state, "WHERE run = ? AND id > ? AND state = 'written' ORDER BY id LIMIT ?", (run, last, PAGE)
        )
        if not firsts:
            return
        for first in firsts:
            first = read_changes(state, "WHERE id = ?", (first.id,))[0]  # its path may have been exchanged since
            chain = read_changes(
                state,
                "WHERE path = ? AND id >= ? AND state = 'written' ORDER BY id DESC",
                (encode_path(first.path), first.id),
            )
            if chain and chain[-1].id == first.id:
                yield _follow(state, chain)
        last = firsts[-1].id


def count_chains(state: Database, run: int) -> int:
    """Count the changes of a run that stand."""
    query = "SELECT count(*) FROM change WHERE run = ? AND state = 'written'"
    return int(state.connection.execute(query, (run,)).fetchone()[0])


def list_runs(state: Database) -> list[Run]:
    """Give all runs that changed anything, the last one first."""
    rows = state.connection.execute(
        "SELECT r.id, r.started, r.model, r.command, sum(c.state = 'written'), sum(c.state = 'undone') FROM run r "
        "JOIN change c ON c.run = r.id GROUP BY r.id ORDER BY r.id DESC"
    )
    return [Run(*row) for row in rows]


def find_run(state: Database, run: int | None) -> int:
    """Return the run with this number, or the last one that stands.

    Raises
    ------
    LibraryError
        If there is none.
    """
    runs = list_runs(state)
    if run is None:
        standing = [item.id for item in runs if item.written]
        if not standing:
            raise LibraryError(f"{state.path}: nothing to undo")
        return standing[0]
    if run not in [item.id for item in runs]:
        known = ", ".join(str(item.id) for item in runs) or "none"
        raise LibraryError(f"{state.path}: no run {run} that changed anything; there are: {known}")
    return run


def step_path(temporary: Path) -> Path:
    """Return where the next older content is written while several changes are undone in turn."""
    return temporary.with_suffix(".step")


@dataclass(frozen=True)
class FileState:
    """Content hash, size and time of a file."""

    content: bytes
    size: int
    mtime_ns: int


def read_file_state(path: str) -> FileState | None:
    """Hash a file; None if it cannot be read."""
    try:
        with Path(path).open("rb") as stream:  # once: another process may replace the file at any moment
            status = os.fstat(stream.fileno())
            content = stream_digest(stream)
    except OSError:
        return None
    return FileState(content, status.st_size, status.st_mtime_ns)


def read_changes(state: Database, where: str, arguments: tuple[Any, ...]) -> list[Change]:
    """Read the changes that an SQL clause selects."""
    rows = state.connection.execute(f"SELECT {_CHANGE} FROM change {where}", arguments).fetchall()
    return [
        Change(
            *(id_, run, decode_path(path), kind, decode_path(temporary), before, after, mtime_ns),
            *(json.loads(old), json.loads(new), delta or b""),
        )
        for id_, run, path, kind, temporary, before, after, mtime_ns, old, new, delta in rows
    ]
