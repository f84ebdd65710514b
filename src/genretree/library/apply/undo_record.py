"""The undo record of a write in place: a hidden file next to the audio file, from which a torn write is undone.

It is written before the audio file and removed when that is complete. While it exists, the write does not count. Every
process that locks the file finds the record by its name and first restores the file, so that a write that was torn
by another process, with another database, is never read as the file's content.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genretree.library.apply.file_lock import LockedError, lock_path
from genretree.library.tags.tag_region import MAX_REGION, TagRegion

_MAGIC = b"genretree undo record 1\n"
_HEAD = struct.Struct("<qqqq32s")  # size and modification time of the file, offset and length of the region, token
_DIGEST = 16
_MAX_BYTES = 4 * MAX_REGION


@dataclass(frozen=True)
class UndoRecord:
    """What restores a file after a torn write.

    Parameters
    ----------
    size, mtime_ns : int
        Size and modification time of the file before the write.
    token : str
        Names the write: 32 characters.
    region : TagRegion
    """

    size: int
    mtime_ns: int
    token: str
    region: TagRegion

    def pack(self) -> bytes:
        """Return the bytes of the record, with a checksum."""
        region = self.region
        head = _HEAD.pack(self.size, self.mtime_ns, region.start, len(region.old), self.token.encode())
        content = head + zlib.compress(region.old + region.new)
        return _MAGIC + hashlib.blake2b(content, digest_size=_DIGEST).digest() + content

    @classmethod
    def unpack(cls, data: bytes) -> UndoRecord | None:
        """Read a record; None if it is incomplete, so that the file was not written to yet."""
        digest, content = data[len(_MAGIC) :][:_DIGEST], data[len(_MAGIC) + _DIGEST :]
        if not data.startswith(_MAGIC) or hashlib.blake2b(content, digest_size=_DIGEST).digest() != digest:
            return None
        try:
            size, mtime_ns, start, length, token = _HEAD.unpack_from(content)
            both = zlib.decompressobj().decompress(content[_HEAD.size :], 2 * MAX_REGION)
        except (struct.error, zlib.error):
            return None
        if not 0 < length <= MAX_REGION or len(both) != 2 * length or not 0 <= start <= size - length:
            return None
        return cls(size, mtime_ns, token.decode("ascii", "replace"), TagRegion(start, both[:length], both[length:]))


def record_path(path: Path) -> Path:
    """Return the path of an audio file's undo record, which does not depend on the process or its database."""
    return lock_path(path).with_suffix(".undo")


def write_record(path: Path, record: UndoRecord, mode: int) -> None:
    """Write an undo record to disk.

    Parameters
    ----------
    path : Path
        The audio file.
    record : UndoRecord
    mode : int
        The mode of the audio file: whoever may read that may undo the write.

    Raises
    ------
    OSError
        If it can't be written, or if there is one already.
    """
    name = record_path(path)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(mode) & 0o666)
        try:
            write_all(descriptor, record.pack(), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(name.parent)
    except FileExistsError:
        raise
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def remove_record(path: Path) -> None:
    """Remove an undo record from disk: the write counts from now on."""
    record_path(path).unlink(missing_ok=True)
    sync_folder(path.parent)


def roll_back(path: Path, restored: Callable[[str], None] | None = None) -> str:
    """Restore a file after a torn write, and remove its undo record.

    If another program has changed the region since, the file is not touched.

    Parameters
    ----------
    path : Path
        The audio file, locked by the caller.
    restored : callable, optional
        Called with the token of the write before the record is removed.

    Returns
    -------
    str
        The token of the write; "" if there is no record, or if the file was not written to yet.

    Raises
    ------
    LockedError
        If the record or the file can't be opened.
    """
    name = record_path(path)
    try:
        data = _read(name)
        record = UndoRecord.unpack(data)
        if record is not None:
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                restore(descriptor, record)
            finally:
                os.close(descriptor)
    except FileNotFoundError:  # the record, or the file, which may come back
        return ""
    except OSError as error:
        raise LockedError(
            f"an interrupted write to it can't be undone ({error.strerror or error}); run the command as the user who "
            "may write to it"
        ) from error
    if record is not None and restored is not None:
        restored(record.token)
    remove_record(path)
    return "" if record is None else record.token


def _read(name: Path) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return stream.read(_MAX_BYTES)


def restore(descriptor: int, record: UndoRecord) -> None:
    """Write the old region back, unless another program has written something else there."""
    region = record.region
    if os.fstat(descriptor).st_size != record.size:
        return
    now, old, new = (
        np.frombuffer(data, np.uint8)
        for data in (os.pread(descriptor, len(region.old), region.start), region.old, region.new)
    )
    if len(now) != len(old) or np.array_equal(now, old) or not ((now == old) | (now == new)).all():
        return
    write_all(descriptor, region.old, region.start)
    os.utime(descriptor, ns=(os.fstat(descriptor).st_atime_ns, record.mtime_ns))
    os.fsync(descriptor)


def write_all(descriptor: int, data: bytes, start: int) -> None:
    """Write bytes at an offset."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, start)
        view, start = view[count:], start + count


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
