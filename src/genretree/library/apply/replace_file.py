"""Replace a file with an edited copy, safely against crashes and against other programs that write to it.

Other processes, with databases of their own or none, may work on the same file. Three things protect it: the copy has a
random name and is created exclusively; a lock is held from the copy to the replacement; and just before the replacement
the name must still lead to the file that was opened at the beginning, unchanged.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genretree.errors import LibraryError
from genretree.library.apply.file_lock import lock_file
from genretree.library.database import journal
from genretree.library.tags.adapters import TagError
from genretree.library.tags.audio_digest import LayoutError

_BLOCK = 1 << 20
CHANGED = "another program changed it at the same time; genretree did not write to it"


class RefusedError(Exception):
    """A file was left as it is; the text says why."""


@dataclass(frozen=True)
class Refusal:
    """A file that was left as it is, and why."""

    path: str
    reason: str


def name_copy(path: Path) -> Path:
    """Name the copy.

    The name is short, since the file's may be as long as the system allows; hidden, so that no walk takes it; and
    random, so that no other process has the same one, and recovery removes nobody else's.
    """
    return path.with_name(f".genretree-{secrets.token_hex(16)}.tmp")


def create_file(path: Path) -> BinaryIO:
    """Create a file that must not exist yet, for its owner only until it has the mode of the original."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb")


def copy_file(source: BinaryIO, target: Path) -> bytes:
    """Copy an open file to one that must not exist yet; returns the hash of what was copied."""
    digest = hashlib.blake2b(digest_size=16)
    source.seek(0)
    with create_file(target) as stream:
        while block := source.read(_BLOCK):
            digest.update(block)
            stream.write(block)
    return digest.digest()


@contextmanager
def exclusive_access(path: Path, source: BinaryIO, opened: os.stat_result) -> Iterator[None]:
    """Hold the file's lock; a failure that another program's change explains is reported as that change."""
    with lock_file(path):
        check_same_file(source, opened, path)
        try:
            yield
        except (RefusedError, TagError, LayoutError, LibraryError):
            check_same_file(source, opened, path)
            raise


def check_same_file(source: BinaryIO, opened: os.stat_result, path: Path) -> None:
    """Compare an open file with how it was when it was opened, and with what its name leads to now.

    Raises
    ------
    RefusedError
        If another program has written to it, replaced or removed it.
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

    What the file holds decides nothing here, since another process may have replaced it. The copy alone does: while it
    is there, it has not taken the file's place.

    Returns
    -------
    bool
        Whether it is certain that the file was left as it is and no copy remains. Otherwise recovery finds out.
    """
    try:
        journal.step_path(temporary).unlink(missing_ok=True)
        temporary.unlink()
    except FileNotFoundError:
        return not placing
    except OSError:
        return False
    return True


def copy_status(source: Path, target: Path, keep_mtime: bool) -> None:
    """Copy the file's owner, mode, extended attributes and, if wished, time."""
    status = source.stat()
    written = target.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may give files away
            os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)
    if not keep_mtime:
        os.utime(target, ns=(status.st_atime_ns, written.st_mtime_ns))


def replace_file(temporary: Path, path: Path, source: BinaryIO, opened: os.stat_result) -> os.stat_result:
    """Put a finished copy in the file's place, so that either of them is there whenever power fails.

    Returns
    -------
    stat_result
        Of the copy: what the name leads to afterwards may be another program's already.
    """
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
        status = os.fstat(stream.fileno())
    check_same_file(source, opened, path)
    if os.name == "nt":
        source.close()  # an open file can't be replaced there
    temporary.replace(path)
    if os.name == "posix":
        with suppress(OSError):  # some network file systems can't; the file is in place
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    return status
