"""Update the paths of a folder that was moved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from genretree.errors import LibraryError
from genretree.files import printable
from genretree.library.database.connection import Database, decode_path, encode_path, folder_range, range_below
from genretree.library.database.folders import list_folders

_NAMED = 5


@dataclass(frozen=True)
class MoveCounts:
    """Counts of what `move_folder` changed in the database.

    Parameters
    ----------
    files : int
        Files whose path was updated.
    known : int
        Files that were already known at their new path, and unchanged.
    missing : int
        Updated files that are missing at their new path.
    changes : int
        Journal entries whose path was updated.
    """

    files: int
    known: int
    missing: int
    changes: int


def move_folder(database: Database, old: str, new: str) -> MoveCounts:
    """Update the paths of all files below a folder that was moved or renamed, in one transaction.

    Parameters
    ----------
    database : Database
        Locked by the caller with `lock_database`.
    old, new : str
        Previous and current path of the folder.

    Raises
    ------
    LibraryError
        If the new folder is missing, no file is known below the old one, or the files at both paths conflict;
        nothing is changed then.
    """
    if not Path(new).is_dir():
        raise LibraryError(f"{printable(new)}: no such folder; move the folder first, then name where it is now")
    target = folder_range(new)[0]
    low, high = _range(old)
    if low == target:
        raise LibraryError(f"{printable(old)}: is the same folder as {printable(new)}")
    with database.transaction() as connection:
        files = connection.execute(
            "SELECT f.id, f.path, f.content, t.id, t.content FROM file f LEFT JOIN file t "
            "ON t.path = CAST(? || substr(f.path, ?) AS BLOB) AND NOT (t.path >= ? AND t.path < ?) "
            "WHERE f.path >= ? AND f.path < ?",
            (target, len(low) + 1, low, high, low, high),
        ).fetchall()
        changes = connection.execute(
            "SELECT id, path, temporary FROM change WHERE path >= ? AND path < ?", (low, high)
        ).fetchall()
        if not files and not changes:
            known = ", ".join(map(printable, list_folders(database))) or "no folder"
            raise LibraryError(
                f"{printable(old)}: {database.path} has no file below this folder; its files are in: {known}"
            )
        _check(files, low, target)
        moved = [(target + path[len(low) :], id_) for id_, path, _, twin, _ in files if twin is None]
        # Two steps, since a new path may still belong to another file: a/x.mp3 becomes a/a/x.mp3.
        connection.executemany("UPDATE file SET path = ? WHERE id = ?", [(b"\0" + path, id_) for path, id_ in moved])
        gone = [(path, not os.path.lexists(decode_path(path)), id_) for path, id_ in moved]
        connection.executemany("UPDATE file SET path = ?, gone = ? WHERE id = ?", gone)
        connection.executemany(
            "UPDATE change SET path = ?, temporary = ? WHERE id = ?",
            [
                (target + path[len(low) :], target + part[len(low) :] if part.startswith(low) else part, id_)
                for id_, path, part in changes
            ],
        )
    return MoveCounts(len(moved), len(files) - len(moved), sum(row[1] for row in gone), len(changes))


def _check(files: list[tuple[int, bytes, bytes | None, int | None, bytes | None]], low: bytes, target: bytes) -> None:
    """Refuse files that exist at both paths, or that are known at the new one with other content."""
    conflicts = []
    for _, path, content, twin, other in files:
        at = target + path[len(low) :]
        if at != path and os.path.lexists(decode_path(path)) and not _same_folder(path, at):
            conflicts.append(f"{printable(decode_path(path))} is still there")
        elif twin is not None and None not in (content, other) and content != other:
            conflicts.append(f"{printable(decode_path(at))} is known with other content")
    if conflicts:
        more = f", and {len(conflicts) - _NAMED} more" if len(conflicts) > _NAMED else ""
        raise LibraryError(
            f"nothing was changed: {'; '.join(conflicts[:_NAMED])}{more}; name the two paths of a folder that "
            "was moved as a whole"
        )


def _same_folder(path: bytes, at: bytes) -> bool:
    """Return whether the folders of two files are the same, as when a link was left at the old path."""
    old, new = Path(decode_path(path)).parent, Path(decode_path(at)).parent
    return new.exists() and old.samefile(new)


def _range(old: str) -> tuple[bytes, bytes]:
    """Return the range of the paths below a folder that no longer exists, or that is a link now."""
    absolute = Path(os.path.abspath(old))  # noqa: PTH100 (a link in the folder's place is not followed)
    return range_below(encode_path(absolute.parent.resolve() / absolute.name), os.fsencode(os.sep))
