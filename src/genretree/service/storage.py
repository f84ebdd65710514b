"""The private temporary folder of a service, its space limit, and the uploads in it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from genretree.service.errors import Problem, busy

_PREFIX = "genretree-serve-"
_LOCK = "lock"
_MIN_AGE_SECONDS = 60.0  # a younger folder without a lock may be about to get one
_MIN_FREE_BYTES = 16 << 20
_MAX_DISK_SHARE = 0.9  # of the free space at the start; workers and other programs write there too

log = logging.getLogger(__name__)


class PrivateFolder:
    """A temporary folder with access for this user only, removed when the service ends.

    The service holds a lock on it, so that another service recognises leftovers even after a kill.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
        self._lock: IO[bytes] = (self.path / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def exists(self) -> bool:
        """Whether the folder still exists: some systems remove old temporary folders."""
        return (self.path / _LOCK).exists()

    def touch(self) -> None:
        """Update the modification time, so that cleaners of temporary folders leave it."""
        with contextlib.suppress(OSError):
            for path in (self.path / _LOCK, self.path):
                os.utime(path)

    def available_bytes(self, limit: int) -> int:
        """Return the bytes that may be stored: `limit`, but at most 90 % of the free space."""
        return min(limit, int(_MAX_DISK_SHARE * shutil.disk_usage(self.path).free))

    @property
    def disk_is_full(self) -> bool:
        """Whether the disk has less free space than a small upload needs."""
        return shutil.disk_usage(self.path).free < _MIN_FREE_BYTES

    def close(self) -> None:
        """Remove the folder and its content."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def clear_leftovers(parent: Path | None = None) -> list[Path]:
    """Remove folders left by killed services of this user; returns their paths.

    Links are not followed. Folders of other users or running services are not touched.
    """
    removed = []
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        if _is_leftover(path):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _is_leftover(path: Path) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        # In a folder that others can write to, the lock could be their file.
        if stat.S_IMODE(status.st_mode) & 0o022:
            return False
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return path.is_dir() and time.time() - status.st_mtime > _MIN_AGE_SECONDS
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


class Storage:
    """Counts the bytes stored in the private folder.

    Parameters
    ----------
    limit : int
        Maximum bytes.

    Attributes
    ----------
    make_room : callable
        Called with the bytes to reserve if they exceed the limit; may delete files and release their bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.make_room: Callable[[int], None] = lambda size: None

    def reserve(self, size: int) -> None:
        """Reserve bytes before they are written. Raises Problem (busy) if the limit is reached."""
        if self.used + size > self.limit:
            self.make_room(size)
        if self.used + size > self.limit:
            raise busy("the storage for uploads is full; try again later", 30)
        self.used += size

    def release(self, size: int) -> None:
        """Release bytes after they were removed."""
        self.used -= size


@dataclass
class Upload:
    """An uploaded file.

    Parameters
    ----------
    name : str
        The client's file name, for display only.
    path : Path
        Location in the private folder.
    size : int
        Bytes.
    """

    name: str
    path: Path
    size: int = 0


def claim_upload(uploads: list[Upload], path: Path) -> int:
    """Move the only upload to `path`, so that the end of its request does not remove it; returns its size."""
    (upload,) = uploads
    upload.path.rename(path)
    uploads.clear()
    return upload.size


def folder_missing(retry_seconds: int = 30) -> Problem:
    """Build the problem of a service whose private folder was removed."""
    return busy("the service's temporary folder is gone; restart the service", retry_seconds)


def disk_full(retry_seconds: int = 30) -> Problem:
    """Build the problem of a service whose disk is full."""
    return busy("the disk of the service's temporary folder is full; free some space", retry_seconds)


def write_failed(error: OSError) -> Problem:
    """Log a write error (disk full, folder removed) in one line, and build its problem."""
    log.warning("can't write to the temporary folder: %s", error.strerror or error)
    return busy("the service can't write to its disk; try again later", 30)
