"""Recover from a process that was killed while it wrote tags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genretree.library.apply.file_lock import LockedError, lock_file, remove_stale_lock
from genretree.library.apply.replace_file import copy_token
from genretree.library.apply.undo_record import record_path, roll_back
from genretree.library.database import journal
from genretree.library.database.connection import Database, encode_path
from genretree.library.database.journal import Change, read_changes, read_file_state
from genretree.library.tags.adapters import TagError, read_tags


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
    example on a disk that is not mounted, stays open until the file is back.
    """
    outcomes = []
    for item in read_changes(database, "WHERE state IN ('begun', 'undoing')", ()):
        unused = Path(item.temporary).exists()  # replacing the file renames it
        unused = _roll_back(database, item) or unused
        if os.path.lexists(record_path(Path(item.path))):
            continue  # in use, or the file is missing or may not be written to by this user
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


def _roll_back(database: Database, item: Change) -> bool:
    """Undo a torn write to a file in place; returns whether it was the one of this change."""
    path, token = Path(item.path), copy_token(Path(item.temporary))

    def void(restored: str) -> None:
        if restored == token:
            journal.void_change(database, item.id)

    if not os.path.lexists(record_path(path)):
        return False
    with suppress(LockedError, OSError), lock_file(path) as locked:
        return locked and roll_back(path, void) == token
    return False


def _recover(database: Database, item: Change, unused: bool) -> Recovered | None:
    """Determine the outcome of an interrupted write; None while it is unknown."""
    now = read_file_state(item.path)
    if now is None and item.after and not unused:
        return None  # the new file may be in place
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
