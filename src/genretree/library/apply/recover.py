"""Recover from a process that was killed while it wrote to files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genretree.library.apply.file_lock import remove_stale_lock
from genretree.library.database import journal
from genretree.library.database.connection import Database, encode_path
from genretree.library.database.journal import Change, read_changes, read_file_state
from genretree.library.tags.adapters import TagError, read_tags


@dataclass(frozen=True)
class Recovered:
    """A file that was being written when a process died, and its state.

    Parameters
    ----------
    path : str
    found : str
        In words.
    edited : bool
        Another program has changed it since.
    """

    path: str
    found: str
    edited: bool = False


def recover(state: Database) -> list[Recovered]:
    """Find out what became of changes that a process died over, and clear its temporary files away.

    A file is either as it was or as it was to be, never in between, unless another program has changed it since; then
    its tags tell which of the two that program found, and nothing is done to it. Where it is not to be found, on a disk
    that is not there at present, say, that stays open until it is.
    """
    found = []
    for item in read_changes(state, "WHERE state IN ('begun', 'undoing')", ()):
        unused = Path(item.temporary).exists()  # it goes when it takes the file's place
        if unused:
            journal.void_change(state, item.id)
        for leftover in (journal.step_path(Path(item.temporary)), Path(item.temporary)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
        remove_stale_lock(Path(item.path))
        recovered = _recover_undo(state, item, unused) if item.state == "undoing" else _recover(state, item, unused)
        found += [] if recovered is None else [recovered]
    return found


def _recover(state: Database, item: Change, unused: bool) -> Recovered | None:
    """Find out what became of a write."""
    now = read_file_state(item.path)
    if now is None and item.after and not unused:
        return None  # it may be in place
    if now is not None and now.content == item.after:
        journal.finish_change(state, item.id, now.size, now.mtime_ns)
        return Recovered(item.path, "was written; undo takes it back")
    if now is None or now.content == item.before or unused or not item.after:
        journal.drop_change(state, item.id)
        edited = now is not None and now.content != item.before
        text = "was not written, and another program has changed it since" if edited else "is as it was"
        return Recovered(item.path, text, edited)
    with state.transaction() as connection:
        connection.execute("UPDATE change SET state = 'written' WHERE id = ?", (item.id,))
    text = (
        "was written, and another program has changed it since; "
        "undo skips it, `force=True` removes genretree's fields from it"
    )
    return Recovered(item.path, text, edited=True)


def _recover_undo(state: Database, item: Change, unused: bool) -> Recovered | None:
    """Find out what became of the restoring of a file."""
    now = read_file_state(item.path)
    chain = read_changes(state, "WHERE path = ? AND id >= ? AND state <> 'undone' ORDER BY id DESC", _key(item))
    if now is None and not unused:
        return None
    if now is not None and now.content == item.before:
        journal.finish_undo(state, chain, now.content, now.size, now.mtime_ns)
        return Recovered(item.path, "was restored")
    if now is None or now.content == chain[0].after or unused or not _holds(item.path, item.old):
        journal.stop_undo(state, item.id)
        edited = now is not None and now.content != chain[0].after
        text = "was not restored" + (", and another program has changed it since" if edited else "")
        return Recovered(item.path, text, edited)
    with state.transaction() as connection:
        connection.executemany("UPDATE change SET state = 'undone' WHERE id = ?", [(part.id,) for part in chain])
    return Recovered(item.path, "was restored, and another program has changed it since", edited=True)


def _holds(path: str, facts: Mapping[str, Any]) -> bool:
    """Return whether a file's own fields of ours are these: other programs leave them alone."""
    try:
        return bool(read_tags(path).own == facts["own"])
    except (TagError, OSError):
        return False


def _key(item: Change) -> tuple[bytes, int]:
    return encode_path(item.path), item.id
