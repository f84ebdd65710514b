"""Lock single audio files, so that processes with different databases never write to the same file at the same time.

The lock is taken on a hidden file in the same folder, because each write replaces the audio file itself. The operating
system releases the lock when its process ends, so a lock file left by a killed process blocks no other process.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.02
_MODE = 0o666  # other users of the same folder must be able to lock it, too
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_NOT_PERMITTED = {errno.EACCES, errno.EPERM}


_IN_USE = "another process is writing to it; try again when that has finished"


class LockedError(Exception):
    """Another process holds the lock of a file."""


def lock_path(path: Path) -> Path:
    """Return the path of an audio file's lock file.

    It does not depend on the letter case and Unicode normal form of the name, which differ between systems.
    """
    name = unicodedata.normalize("NFC", path.name).casefold()
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return path.with_name(f".genretree-{digest}.lock")


@contextmanager
def lock_file(path: Path, timeout: float | None = None) -> Iterator[bool]:
    """Hold the lock of an audio file during the block, and remove the lock file afterwards.

    Parameters
    ----------
    path : Path
        The audio file.
    timeout : float, optional
        Seconds to wait for another process; `WAIT_SECONDS` if None.

    Yields
    ------
    bool
        False if the file system does not support locks, or the lock file belongs to another user and is not writable.
        Nothing is locked then, and callers must rely on their own checks.

    Raises
    ------
    LockedError
        If another process still holds it after `timeout`.
    OSError
        If the lock file can't be created, for example on a full disk.
    """
    name = lock_path(path)
    seconds = WAIT_SECONDS if timeout is None else timeout
    lock = FileLock(name, timeout=seconds, mode=_MODE, poll_interval=_POLL_SECONDS, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(_IN_USE) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED | _NOT_PERMITTED:
            raise
        if error.errno in _UNSUPPORTED:
            with suppress(OSError):
                name.unlink(missing_ok=True)
        yield False
        return
    try:
        yield True
    finally:
        try:
            # Removed under the lock: a waiting process that locks the removed file notices, and creates a new one.
            with suppress(OSError):  # Windows can't remove open files; filelock removes it there
                name.unlink(missing_ok=True)
        finally:
            lock.release()


@contextmanager
def lock_inode(descriptor: int, timeout: float | None = None) -> Iterator[None]:
    """Lock an open file under all its names during the block, where the file system can.

    The lock file excludes processes that use the same name; this lock those that use another hard link.

    Parameters
    ----------
    descriptor : int
        Not closed during the block.
    timeout : float, optional
        Seconds to wait for another process; `WAIT_SECONDS` if None.

    Raises
    ------
    LockedError
        If another process still holds it after `timeout`.
    """
    if sys.platform == "win32":
        yield
        return
    end = time.monotonic() + (WAIT_SECONDS if timeout is None else timeout)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                raise LockedError(_IN_USE) from None
            time.sleep(_POLL_SECONDS)
        except OSError:  # a network file system without such locks
            break
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def remove_stale_lock(path: Path) -> None:
    """Remove the lock file that a killed process left behind, unless another process uses it."""
    remove_stale_lock_file(lock_path(path))


def remove_stale_lock_file(name: Path) -> None:
    """Remove a lock file, unless another process uses it."""
    if os.path.lexists(name):
        lock = FileLock(name, timeout=0, mode=_MODE, fallback_to_soft=False)
        with suppress(Timeout, OSError), lock, suppress(OSError):
            name.unlink(missing_ok=True)
