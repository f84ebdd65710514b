"""A lock for one sound file, so that two processes with databases of their own never write to it at the same time.

The lock is taken on a hidden file in the same folder, because the sound file itself is replaced by every write. The
operating system releases it when its process dies, so a lock file that a kill left behind blocks nobody.
"""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.02
_MODE = 0o666  # another user of the same folder has to be able to lock it, too
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_NOT_OURS = {errno.EACCES, errno.EPERM}


class LockedError(Exception):
    """Another process holds the lock of a file."""


def lock_path(path: Path) -> Path:
    """Return the path of a sound file's lock file.

    The name is the same on systems that spell the file's name in another letter case or Unicode normal form.
    """
    name = unicodedata.normalize("NFC", path.name).casefold()
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return path.with_name(f".genretree-{digest}.lock")


@contextmanager
def lock_file(path: Path, timeout: float | None = None) -> Iterator[bool]:
    """Hold the lock of a sound file during the block, and remove the lock file afterwards.

    Parameters
    ----------
    path : Path
        The sound file.
    timeout : float, optional
        Seconds to wait for another process; `WAIT_SECONDS` if None.

    Yields
    ------
    bool
        False if the file system has no locks, or the lock file belongs to a user who does not share it. Nothing is
        locked then, and callers have to rely on their own checks.

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
        raise LockedError("another process is writing to it; try again when that has finished") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED | _NOT_OURS:
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
            # While the lock is held: a waiting process that locks the removed file sees that and creates a new one.
            with suppress(OSError):  # Windows removes no open file; filelock does it there
                name.unlink(missing_ok=True)
        finally:
            lock.release()


def remove_stale_lock(path: Path) -> None:
    """Remove a lock file that a killed process left behind; one that is in use stays."""
    if os.path.lexists(lock_path(path)):
        with suppress(LockedError, OSError), lock_file(path, timeout=0):
            pass
