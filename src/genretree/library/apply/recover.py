"""Recover from a process that was killed while it wrote tags.

The file may have been renamed or moved since. It is found by its inode next to its undo record, among the files that
the database knows, and by a scan that comes across it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genretree.files import printable
from genretree.library.apply.file_lock import LockedError, lock_file, remove_stale_lock
from genretree.library.apply.replace_file import copy_token
from genretree.library.apply.undo_record import (
    UndoRecord,
    find_record,
    is_undone_to,
    list_records,
    record_path,
    roll_back,
)
from genretree.library.database import journal
from genretree.library.database.connection import Database, encode_path
from genretree.library.database.journal import Change, read_changes, read_file_state
from genretree.library.database.records import find_by_size, find_copies
from genretree.library.tags.adapters import TagError, read_tags
from genretree.remote import is_url
from genretree.sound.walk import FoundFile


@dataclass(frozen=True)
class Recovered:
    """The outcome for a file that was being written when a process was killed.

    Parameters
    ----------
    path : str
    message : str
        Whether the file was written or restored.
    edited : bool
        Whether another program has changed it since.
    """

    path: str
    message: str
    edited: bool = False


def recover(database: Database) -> list[Recovered]:
    """Determine the outcome of interrupted changes, and remove temporary files.

    Each file is in its old or its new state, unless another program has changed it since; then genretree's fields in
    its tags show which of the two that program opened, and the file is not touched. A change of a missing file, for
    example on a disk that is not mounted, stays open until the file is back or found elsewhere.
    """
    outcomes = []
    for item in read_changes(database, "WHERE state IN ('begun', 'undoing')", ()):
        unused = Path(item.temporary).exists()  # replacing the file renames it
        pending = _find_pending(database, item)
        if pending is not None:
            unused = _roll_back(database, item, pending) or unused
            if os.path.lexists(pending.record):
                continue  # in use, or the file is missing or may not be written to by this user
            item = read_changes(database, "WHERE id = ?", (item.id,))[0]  # it may have been found at another path
        if unused:
            journal.void_change(database, item.id)
        for leftover in (journal.intermediate_path(Path(item.temporary)), Path(item.temporary)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
        remove_stale_lock(Path(item.path))
        recovered = (
            _recover_undo(database, item, unused) if item.state == "undoing" else _recover(database, item, unused)
        )
        outcomes += [] if recovered is None else [recovered]
    return outcomes


@dataclass(frozen=True)
class _Pending:
    """A write in place that has an undo record, and its file if that is found."""

    record: Path
    file: Path | None


def _find_pending(database: Database, item: Change) -> _Pending | None:
    """Find the undo record of a change, and the file that it belongs to; None if there is no record."""
    path, token = Path(item.path), copy_token(Path(item.temporary))
    if path.exists() and (name := find_record(path)) is not None:
        return _Pending(name, path)
    for name, record in list_records(path.parent).items():
        if record is None and name == record_path(path):  # incomplete: the file was not written to
            return _Pending(name, path if path.exists() else None)
        if record is not None and record.token == token:
            return _Pending(name, _find_moved(database, item, name, record))
    return None


def _find_moved(database: Database, item: Change, name: Path, record: UndoRecord) -> Path | None:
    """Find the file of an undo record, which is not at its path any more."""
    for path in _iter_files(name.parent):
        with suppress(OSError):
            if record.is_of(path.lstat(), name):
                return path
    for known in find_by_size(database, record.size):
        path = Path(known)
        with suppress(OSError):
            status = path.lstat()
            if status.st_size == record.size and (
                record.is_of(status, name) or is_undone_to(path, record, item.before if item.state == "begun" else b"")
            ):
                return path
    return None


def _iter_files(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _roll_back(database: Database, item: Change, pending: _Pending) -> bool:
    """Undo a torn write to a file in place; returns whether it was the one of this change."""
    path, token = pending.file, copy_token(Path(item.temporary))
    if path is None:
        return False

    def void(restored: str) -> None:
        if restored == token:
            _void(database, item, str(path))

    with suppress(LockedError, OSError), lock_file(path) as locked:
        return locked and roll_back(path, void, pending.record) == token
    return False


def _void(database: Database, item: Change, path: str) -> None:
    """Record that a write was undone, and where its file is now."""
    if path != item.path:
        journal.move_open_change(database, item, path)
    journal.void_change(database, item.id)


@dataclass(frozen=True)
class Interrupted:
    """A write that is in progress, or that was interrupted.

    Parameters
    ----------
    path : str
        The file, or where it was.
    message : str
        What is known, and what to do.
    """

    path: str
    message: str


_STRAY = (
    "an interrupted write can't be undone, since its file was not found; put the file back, or run "
    "`genretree library analyse` on the folder where it is now; if it no longer exists, delete this record"
)
_NEXT = "the next `genretree library analyse`, `apply --write` or `undo`"


def list_interrupted(database: Database) -> list[Interrupted]:
    """List writes whose outcome is not determined yet; changes nothing."""
    found = []
    for item in read_changes(database, "WHERE state IN ('begun', 'undoing') ORDER BY id", ()):
        pending, path = _find_pending(database, item), item.path
        if pending is not None and pending.file is not None:
            path = str(pending.file)
            text = f"a write to it is in progress or was interrupted; {_NEXT} restores the old bytes"
        elif pending is not None:
            text = _explain_stray(pending.record)
        elif os.path.lexists(path):
            text = f"a write to it is in progress or was interrupted; {_NEXT} determines the outcome"
        else:
            text = (
                "a write to it was interrupted, and it is missing; put it back, or run `genretree library analyse` on "
                "the folder where it is now"
            )
        found.append(Interrupted(path, text))
    return found


def _explain_stray(record: Path) -> str:
    return (
        "a write to it was interrupted, and it is missing; put it back, or run `genretree library analyse` on the "
        f"folder where it is now; if it no longer exists, delete {printable(record)}"
    )


class TornFiles:
    """Restores torn files that a scan finds, before they are read, whatever database the write belongs to.

    Parameters
    ----------
    database : Database
        If it has the change, that is updated.

    Attributes
    ----------
    restored : int
        Number of files restored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder: Path | None = None
        self._records: dict[Path, UndoRecord | None] = {}
        self._seen: dict[Path, str] = {}
        self.restored = 0

    def restore(self, found: Iterator[FoundFile]) -> Iterator[FoundFile]:
        """Yield the files, with size and time as they are after a restoration."""
        for item in found:
            yield item if item.error or is_url(item.path) else self._check(item)

    def list_strays(self) -> list[Interrupted]:
        """Return the undo records whose files the scan has not found."""
        return [Interrupted(str(name), _STRAY) for name in self._seen if os.path.lexists(name)]

    def _check(self, item: FoundFile) -> FoundFile:
        path = Path(item.path)
        if path.parent != self._folder:
            self._folder, self._records = path.parent, list_records(path.parent)
            self._seen |= dict.fromkeys(self._records, "")
        name = find_record(path) or self._find_by_inode(path)
        if name is None:
            return item
        with suppress(LockedError, OSError), lock_file(path) as locked:
            if locked:
                self.restored += bool(roll_back(path, lambda token: self._void(token, item.path), name))
        status = path.stat()
        return replace(item, size=status.st_size, mtime_ns=status.st_mtime_ns)

    def _find_by_inode(self, path: Path) -> Path | None:
        for name, record in self._records.items():
            with suppress(OSError):
                if record is not None and record.is_of(path.lstat(), name):
                    return name
        return None

    def _void(self, token: str, path: str) -> None:
        for change in read_changes(self._database, "WHERE state IN ('begun', 'undoing')", ()):
            if copy_token(Path(change.temporary)) == token:
                _void(self._database, change, path)


def _recover(database: Database, item: Change, unused: bool) -> Recovered | None:
    """Determine the outcome of an interrupted write; None while it is unknown."""
    now = read_file_state(item.path)
    if now is None and item.after and not unused:  # the new file may be in place, or have been moved since
        for path in find_copies(database, item.after):
            state = None if path == item.path or is_url(path) else read_file_state(path)
            if state is not None and state.content == item.after:
                journal.move_open_change(database, item, path)
                journal.finish_change(database, item.id, state.size, state.mtime_ns)
                return Recovered(path, "was written; undo restores it")
        return None
    if now is not None and now.content == item.after:
        journal.finish_change(database, item.id, now.size, now.mtime_ns)
        return Recovered(item.path, "was written; undo restores it")
    if now is None or now.content == item.before or unused or not item.after:
        journal.drop_change(database, item.id)
        edited = now is not None and now.content != item.before
        text = "was not written, and another program has changed it since" if edited else "is unchanged"
        return Recovered(item.path, text, edited)
    with database.transaction() as connection:
        connection.execute("UPDATE change SET state = 'written' WHERE id = ?", (item.id,))
    text = (
        "was written, and another program has changed it since; "
        "undo skips it, `force=True` removes genretree's fields from it"
    )
    return Recovered(item.path, text, edited=True)


def _recover_undo(database: Database, item: Change, unused: bool) -> Recovered | None:
    """Determine the outcome of an interrupted undo; None while it is unknown."""
    now = read_file_state(item.path)
    chain = read_changes(
        database, "WHERE path = ? AND id >= ? AND state <> 'undone' ORDER BY id DESC", _path_and_id(item)
    )
    if now is None and not unused:
        return None
    if now is not None and now.content == item.before:
        journal.finish_undo(database, chain, now.content, now.size, now.mtime_ns)
        return Recovered(item.path, "was restored")
    if now is None or now.content == chain[0].after or unused or not _has_fields(item.path, item.old):
        journal.stop_undo(database, item.id)
        edited = now is not None and now.content != chain[0].after
        text = "was not restored" + (", and another program has changed it since" if edited else "")
        return Recovered(item.path, text, edited)
    with database.transaction() as connection:
        connection.executemany("UPDATE change SET state = 'undone' WHERE id = ?", [(change.id,) for change in chain])
    return Recovered(item.path, "was restored, and another program has changed it since", edited=True)


def _has_fields(path: str, expected: Mapping[str, Any]) -> bool:
    """Return whether a file has these genretree fields, which other programs do not change."""
    try:
        return bool(read_tags(path).own == expected["own"])
    except (TagError, OSError):
        return False


def _path_and_id(item: Change) -> tuple[bytes, int]:
    return encode_path(item.path), item.id
