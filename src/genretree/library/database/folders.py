"""List the folders of a library's files without a full table scan."""

from __future__ import annotations

import os

from genretree.errors import LibraryError
from genretree.library.database.connection import Database, decode_path, folder_range

_SEPARATORS = tuple(dict.fromkeys((b"/", os.fsencode(os.sep))))
_LISTED = 6


def check_folder(database: Database, folder: str) -> None:
    """Check that a folder contains known files.

    Raises
    ------
    LibraryError
        If it contains none; the message lists the folders that do.
    """
    low, high = folder_range(folder)
    if _first(database, low, high) is not None:
        return
    known = list_folders(database)
    where = f"its files are below: {', '.join(known)}" if known else "it is empty"
    raise LibraryError(f"{folder}: {database.path} has no file below this folder; {where}")


def list_folders(database: Database) -> list[str]:
    """Return the deepest folder that contains all files, or the few folders that it divides into."""
    top, branches = _find_branches(database, b"")
    if not branches or len(branches) > _LISTED:
        return [decode_path(top)] if top else []
    return [decode_path(_find_branches(database, branch)[0]) for branch in branches]


def _find_branches(database: Database, folder: bytes) -> tuple[bytes, list[bytes]]:
    """Descend while a folder contains only one other; return the last folder and its subfolders."""
    while True:
        branches, has_files = _list_branches(database, folder)
        if has_files or len(branches) != 1:
            return folder, [] if has_files else branches
        folder = branches[0]


def _list_branches(database: Database, folder: bytes) -> tuple[list[bytes], bool]:
    """Return at most `_LISTED` + 1 subfolders of a folder, and whether it contains files."""
    branches: list[bytes] = []
    at, end = folder, _range_end(folder) if folder else b"\xff" * 8
    while len(branches) <= _LISTED:
        path = _first(database, at, end)
        if path is None:
            return branches, False
        cuts = [cut for separator in _SEPARATORS if (cut := path.find(separator, len(folder))) >= 0]
        if not cuts:
            return branches, True
        branches.append(path[: min(cuts) + 1])
        at = _range_end(branches[-1])
    return branches, False


def _range_end(folder: bytes) -> bytes:
    return folder[:-1] + bytes([folder[-1] + 1])


def _first(database: Database, low: bytes, high: bytes) -> bytes | None:
    query = "SELECT path FROM file WHERE path >= ? AND path < ? ORDER BY path LIMIT 1"
    row = database.connection.execute(query, (low, high)).fetchone()
    return None if row is None else bytes(row[0])
