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
    """What was changed in the database.

    Parameters
    ----------
    files : int
        Files that have another path now.
    known : int
        Files that were already known at their new path; nothing was to be done with them.
    missing : int
        Those of `files` that are not at their new path on the disk.
    changes : int
        Entries of the journal that have another path now, so that undo finds the files.
    """

    files: int
    known: int
    missing: int
    changes: int


def move_folder(state: Database, old: str, new: str) -> MoveCounts:
    """Give all files below a folder that was moved or renamed their new paths, in one transaction.

    Parameters
    ----------
    state : Database
        Of which the caller is the `sole_worker`.
    old, new : str
        Where the folder was, and where it is now.

    Raises
    ------
    LibraryError
        If the new folder is missing, nothing is known below the old one, or files at both paths contradict each other;
        nothing is changed then.
    """
    if not Path(new).is_dir():
        raise LibraryError(f"{printable(new)}: no such folder; move the folder first, then name where it is now")
    target = folder_range(new)[0]
    low, high = _range(old)
    if low == target:
        raise LibraryError(f"{printable(old)}: is the same folder as {printable(new)}")
    with state.transaction() as connection:
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
            known = ", ".join(map(printable, list_folders(state))) or "nowhere"
            raise LibraryError(
                f"{printable(old)}: {state.path} knows no file below this folder; its files lie: {known}"
            )
        _check(files, low, target)
        moved = [(target + path[len(low) :], id_) for id_, path, _, twin, _ in files if twin is None]
        # In two steps, since a path may still be another file's: a/x.mp3 becomes a/a/x.mp3.
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
    """Refuse what is at both paths, or is another file at the new one."""
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
    """Return whether two files' folders are the same one, as where a link was left at the old path."""
    old, new = Path(decode_path(path)).parent, Path(decode_path(at)).parent
    return new.exists() and old.samefile(new)


def _range(old: str) -> tuple[bytes, bytes]:
    """Return the bounds of the paths below a folder that is gone, or in whose place there is a link now."""
    absolute = Path(os.path.abspath(old))  # noqa: PTH100 (a link in the folder's place is not followed)
    return range_below(encode_path(absolute.parent.resolve() / absolute.name), os.fsencode(os.sep))
