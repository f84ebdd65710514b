"""The folders that a library's files are in, found without a full scan."""

from __future__ import annotations

import os

from genretree.errors import LibraryError
from genretree.library.database.connection import Database, decode_path, folder_range

_SEPARATORS = tuple(dict.fromkeys((b"/", os.fsencode(os.sep))))
_LISTED = 6


def check_folder(state: Database, folder: str) -> None:
    """Refuse a folder that no known file lies below.

    Raises
    ------
    LibraryError
        Says where there are files.
    """
    low, high = folder_range(folder)
    if _first(state, low, high) is not None:
        return
    known = list_folders(state)
    where = f"its files are below: {', '.join(known)}" if known else "it is empty"
    raise LibraryError(f"{folder}: {state.path} has no file below this folder; {where}")


def list_folders(state: Database) -> list[str]:
    """Return the few folders below which all files lie: the deepest one of all, or those that it divides into."""
    top, branches = _descend(state, b"")
    if not branches or len(branches) > _LISTED:
        return [decode_path(top)] if top else []
    return [decode_path(_descend(state, branch)[0]) for branch in branches]


def _descend(state: Database, folder: bytes) -> tuple[bytes, list[bytes]]:
    """Go down while there is nothing in a folder but one other: the last one, and the folders in it."""
    while True:
        branches, has_files = _look_into(state, folder)
        if has_files or len(branches) != 1:
            return folder, [] if has_files else branches
        folder = branches[0]


def _look_into(state: Database, folder: bytes) -> tuple[list[bytes], bool]:
    """Return the folders in a folder, but not more than are listed and one, and whether files lie in it."""
    branches: list[bytes] = []
    at, end = folder, _behind(folder) if folder else b"\xff" * 8
    while len(branches) <= _LISTED:
        path = _first(state, at, end)
        if path is None:
            return branches, False
        cuts = [cut for separator in _SEPARATORS if (cut := path.find(separator, len(folder))) >= 0]
        if not cuts:
            return branches, True
        branches.append(path[: min(cuts) + 1])
        at = _behind(branches[-1])
    return branches, False


def _behind(folder: bytes) -> bytes:
    return folder[:-1] + bytes([folder[-1] + 1])


def _first(state: Database, low: bytes, high: bytes) -> bytes | None:
    query = "SELECT path FROM file WHERE path >= ? AND path < ? ORDER BY path LIMIT 1"
    row = state.connection.execute(query, (low, high)).fetchone()
    return None if row is None else bytes(row[0])
