"""Replace a file with an edited copy atomically, protected against crashes and concurrent writers.

Other processes may write to the same file, with or without a database. Three measures protect it: the copy has a random
name and is created exclusively; a lock is held from the copy to the replacement; and just before the replacement the
name must still refer to the file that was opened at the beginning, unchanged.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genretree.errors import LibraryError
from genretree.library.apply.file_lock import LockedError, lock_file, lock_inode
from genretree.library.apply.undo_record import find_record, roll_back, sync_folder
from genretree.library.database import journal
from genretree.library.tags.adapters import TagError
from genretree.library.tags.audio_digest import LayoutError

_BLOCK = 1 << 20
CHANGED = "another program changed it at the same time; genretree did not write to it"


class RefusedError(Exception):
    """A file was skipped and is unchanged; the message gives the reason."""


@dataclass(frozen=True)
class Refusal:
    """A skipped file and the reason."""

    path: str
    reason: str


def name_copy(path: Path) -> Path:
    """Return a path for the copy of a file.

    The name is short, since the file's name may have the maximum length; hidden, so that scans skip it; and random, so
    that no other process uses it and recovery removes no other process's copy.
    """
    return path.with_name(f".genretree-{secrets.token_hex(16)}.tmp")


def copy_token(temporary: Path) -> str:
    """Return the random part of the name of a copy, which names a write."""
    return temporary.stem.rpartition("-")[2]


def create_file(path: Path) -> BinaryIO:
    """Create a file that must not exist yet, accessible only to its owner until it gets the original's mode."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb")


def copy_file(source: BinaryIO, target: Path) -> bytes:
    """Copy an open file to a new one; returns the content hash of the copy."""
    digest = hashlib.blake2b(digest_size=16)
    source.seek(0)
    with create_file(target) as stream:
        while block := source.read(_BLOCK):
            digest.update(block)
            stream.write(block)
    return digest.digest()


@contextmanager
def exclusive_access(path: Path, source: BinaryIO, opened: os.stat_result) -> Iterator[bool]:
    """Hold the file's lock; a failure caused by another program's change is reported as that change.

    Yields
    ------
    bool
        False if the file system does not support locks.
    """
    with lock_file(path) as locked:
        _roll_back_locked(path, locked)
        with lock_inode(source.fileno()) if locked else nullcontext():
            check_same_file(source, opened, path)
            try:
                yield locked
            except (RefusedError, TagError, LayoutError, LibraryError):
                check_same_file(source, opened, path)
                raise


def undo_torn_write(path: Path) -> None:
    """Restore a file that a killed process was writing to in place.

    Raises
    ------
    LockedError
        If another process is writing to it, or if it can't be restored.
    """
    if find_record(path) is not None:
        with lock_file(path) as locked:
            _roll_back_locked(path, locked)


def _roll_back_locked(path: Path, locked: bool) -> None:
    name = find_record(path)
    if name is None:
        return
    if not locked:  # the record may belong to a process that is at work
        raise LockedError("another process is writing to it; try again when that has finished")
    roll_back(path, name=name)


def check_same_file(source: BinaryIO, opened: os.stat_result, path: Path) -> None:
    """Check that an open file is unchanged, and that its name still refers to it.

    Raises
    ------
    RefusedError
        If another program has modified, replaced or removed the file.
    """
    try:
        named = path.lstat()
    except FileNotFoundError:
        raise RefusedError("was removed by another program at the same time; nothing was written") from None
    stamps = {
        (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        for status in (opened, os.fstat(source.fileno()), named)
    }
    if len(stamps) > 1:
        raise RefusedError(CHANGED)


def remove_copy(temporary: Path, placing: bool) -> bool:
    """Remove the copy after a failure.

    The content of the file is not evidence, since another process may have replaced it. The copy is: as long as it
    exists, it has not replaced the file.

    Returns
    -------
    bool
        Whether the file is certainly unchanged and no copy is left; otherwise recovery determines the outcome.
    """
    try:
        journal.intermediate_path(temporary).unlink(missing_ok=True)
        temporary.unlink()
    except FileNotFoundError:
        return not placing
    except OSError:
        return False
    return True


def copy_status(source: Path, target: Path, keep_mtime: bool) -> None:
    """Copy owner, mode, extended attributes and, optionally, the modification time."""
    status = source.stat()
    written = target.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may change the owner
            os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)
    if not keep_mtime:
        os.utime(target, ns=(status.st_atime_ns, written.st_mtime_ns))


def replace_file(temporary: Path, path: Path, source: BinaryIO, opened: os.stat_result) -> os.stat_result:
    """Replace the file with the finished copy; after a power failure, one of the two is in place.

    Returns
    -------
    os.stat_result
        Status of the copy, since another program may have replaced the file again by now.
    """
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
        status = os.fstat(stream.fileno())
    check_same_file(source, opened, path)
    if os.name == "nt":
        source.close()  # Windows can't replace an open file
    temporary.replace(path)
    if os.name == "posix":
        sync_folder(path.parent)
    return status
