"""The private folder of a service, and what may be kept in it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from genretree.service.errors import Problem, busy

_PREFIX = "genretree-serve-"
_LOCK = "lock"
_YOUNG = 60.0  # seconds: a folder without a lock may be one that is just being made
_USABLE = 0.9  # of what is free when a service starts; workers, and other programs, write there too

log = logging.getLogger(__name__)


class PrivateFolder:
    """A temporary folder that only this user can look into; it goes with the service.

    Its lock is held as long as the service lives. So another one can tell, even after a kill, what is left over.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
        self._lock: IO[bytes] = (self.path / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def exists(self) -> bool:
        """Whether it is still there: some systems remove what has been in a temporary folder for days."""
        return (self.path / _LOCK).exists()

    def touch(self) -> None:
        """Make it young again, so that it isn't taken for something forgotten."""
        with contextlib.suppress(OSError):
            for path in (self.path / _LOCK, self.path):
                os.utime(path)

    def room(self, wanted: int) -> int:
        """Give how many bytes may be kept in it: as many as wanted, but no more than most of what is free."""
        return min(wanted, int(_USABLE * shutil.disk_usage(self.path).free))

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def clear_leftovers(parent: Path | None = None) -> list[Path]:
    """Remove the folders that killed services of the same user left; gives which.

    Nothing is followed, and nothing touched that belongs to another user or to a service that lives.
    """
    found = []
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        if _is_left_over(path):
            shutil.rmtree(path, ignore_errors=True)
            found.append(path)
    return found


def _is_left_over(path: Path) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        # Only who may write into the folder could have put another file there: this user.
        if stat.S_IMODE(status.st_mode) & 0o022:
            return False
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return path.is_dir() and time.time() - status.st_mtime > _YOUNG
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
    """Counts the bytes that lie in the private folder.

    Parameters
    ----------
    limit : int
        The most that may lie there.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Count bytes before they are written. Raises Problem (busy) if there is no room."""
        if self.used + size > self.limit:
            raise busy("there is no room for more uploads now; try again later", 30)
        self.used += size

    def give_back(self, size: int) -> None:
        """Count bytes that were removed."""
        self.used -= size


@dataclass
class Upload:
    """A file that was sent.

    Parameters
    ----------
    name : str
        What its sender calls it: to be shown, never opened.
    path : Path
        Where it lies.
    size : int
        Bytes.
    """

    name: str
    path: Path
    size: int = 0


def take_over(uploads: list[Upload], path: Path) -> int:
    """Move the only upload elsewhere, where it stays; gives its size, which is no longer given back."""
    (upload,) = uploads
    upload.path.rename(path)
    uploads.clear()
    return upload.size


def folder_gone(seconds: int = 30) -> Problem:
    """Give the problem of a service whose private folder is there no more."""
    return busy("the service's temporary folder is gone; it has to be started again", seconds)


def cant_write(error: OSError) -> Problem:
    """Give the problem of a service whose disk is full, or whose folder is gone; its log has one line of it."""
    log.warning("the temporary folder can't be written: %s", error.strerror or error)
    return busy("the service can't store anything now; try again later", 30)
