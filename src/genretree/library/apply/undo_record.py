"""The undo record of a write in place: a hidden file next to the audio file, from which a torn write is undone.

It is written before the audio file and removed when that is complete. While it exists, the write does not count. Every
process that locks the file finds the record and first restores the file, so that a write that was torn by another
process, with another database, is never read as the file's content.

The record is found by the file's name; and by an extended attribute of the file, which it keeps when it is renamed or
moved, and which all its hard links share. The record has the file's inode, so that a file that took the place of the
torn one is not mistaken for it.
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

from genretree.library.apply.file_lock import LockedError, lock_inode, lock_path, remove_stale_lock_file
from genretree.library.tags.tag_region import MAX_REGION, TagRegion

_MAGIC_1 = b"genretree undo record 1\n"  # without the inode
_MAGIC = b"genretree undo record 2\n"
_HEAD = struct.Struct("<qqqq32s")  # size and modification time of the file, offset and length of the region, token
_INODE = struct.Struct("<Q")
_ATTRIBUTE = "user.genretree.undo"
_HAS_ATTRIBUTES = hasattr(os, "setxattr")  # Linux
_DIGEST = 16
_LOCK_STEM = len(".genretree-") + 16  # characters of the name of a record that the name of the lock file has, too
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
    inode : int
        Inode of the file; 0 if unknown.
    """

    size: int
    mtime_ns: int
    token: str
    region: TagRegion
    inode: int = 0

    def pack(self) -> bytes:
        """Return the bytes of the record, with a checksum."""
        region = self.region
        head = _HEAD.pack(self.size, self.mtime_ns, region.start, len(region.old), self.token.encode())
        content = head + _INODE.pack(self.inode) + zlib.compress(region.old + region.new)
        return _MAGIC + hashlib.blake2b(content, digest_size=_DIGEST).digest() + content

    @classmethod
    def unpack(cls, data: bytes) -> UndoRecord | None:
        """Read a record; None if it is incomplete, so that the file was not written to yet."""
        digest, content = data[len(_MAGIC) :][:_DIGEST], data[len(_MAGIC) + _DIGEST :]
        if not data.startswith((_MAGIC, _MAGIC_1)) or hashlib.blake2b(content, digest_size=_DIGEST).digest() != digest:
            return None
        try:
            size, mtime_ns, start, length, token = _HEAD.unpack_from(content)
            inode, at = 0, _HEAD.size
            if data.startswith(_MAGIC):
                (inode,), at = _INODE.unpack_from(content, at), at + _INODE.size
            both = zlib.decompressobj().decompress(content[at:], 2 * MAX_REGION)
        except (struct.error, zlib.error):
            return None
        if not 0 < length <= MAX_REGION or len(both) != 2 * length or not 0 <= start <= size - length:
            return None
        region = TagRegion(start, both[:length], both[length:])
        return cls(size, mtime_ns, token.decode("ascii", "replace"), region, inode)

    def is_of(self, status: os.stat_result, name: Path) -> bool:
        """Return whether a file is the one that the record at a path was made for, whatever its name is now."""
        return self.inode == status.st_ino and name.lstat().st_dev == status.st_dev


def record_path(path: Path) -> Path:
    """Return the path of an audio file's undo record, which does not depend on the process or its database."""
    return lock_path(path).with_suffix(".undo")


def choose_record_path(path: Path, inode: int) -> Path:
    """Return a path for a new undo record: another one if a file that had the same name left its record behind."""
    name = record_path(path)
    return name.with_name(f"{name.stem}-{inode:x}.undo") if os.path.lexists(name) else name


def list_records(folder: Path) -> dict[Path, UndoRecord | None]:
    """Read all undo records in a folder; None for those that are incomplete or can't be read."""
    found: dict[Path, UndoRecord | None] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries if _is_record_name(entry.name)):
            found[folder / name] = None
            with suppress(OSError):
                found[folder / name] = UndoRecord.unpack(_read(folder / name))
    return found


def _is_record_name(name: str) -> bool:
    return name.startswith(".genretree-") and name.endswith(".undo")


def find_record(path: Path) -> Path | None:
    """Find the undo record of an audio file by the file's name or by its extended attribute.

    The record of another file, which had this name before, is not returned, unless this file has both old and new bytes
    of the record: then it is a copy of the other one, torn in the same way.
    """
    name = record_path(path)
    marked = _read_mark(path)
    others = [] if marked is None else [marked, path.with_name(marked.name)]
    if marked is None and not os.path.lexists(name):
        return None
    try:
        status = path.lstat()
    except OSError:
        return None
    for candidate in (*others, name):
        try:
            record = UndoRecord.unpack(_read(candidate))
            if record is None:
                if candidate == name:  # only the process that locks this name may be writing it
                    return candidate
            elif record.inode in (0, status.st_ino) or is_torn_copy(path, record):
                return candidate
        except FileNotFoundError:
            continue
        except OSError:
            if candidate == name:
                return candidate
    return None


def is_torn_copy(path: Path, record: UndoRecord) -> bool:
    """Return whether a file contains both old and new bytes of a record, wherever the two differ."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        region = record.region
        is_complete = os.pread(descriptor, len(region.new), region.start) == region.new
        return not is_complete and _is_torn(descriptor, record)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def is_undone_to(path: Path, record: UndoRecord, content: bytes) -> bool:
    """Return whether a file would have this content hash after its old bytes were restored."""
    region = record.region
    with suppress(OSError), path.open("rb") as stream:
        if not _is_torn(stream.fileno(), record):
            return False
        digest, at = hashlib.blake2b(digest_size=16), 0
        while block := stream.read(1 << 20):
            low, high = max(at, region.start), min(at + len(block), region.end)
            if low < high:
                old = region.old[low - region.start : high - region.start]
                block = block[: low - at] + old + block[high - at :]
            digest.update(block)
            at += len(block)
        return digest.digest() == content
    return False


def _read_mark(path: Path) -> Path | None:
    """Return the path of the record that a file's extended attribute names."""
    if not _HAS_ATTRIBUTES:
        return None
    try:
        name = Path(os.fsdecode(os.getxattr(path, _ATTRIBUTE, follow_symlinks=False)))
    except (OSError, ValueError):
        return None
    return name if name.is_absolute() and _is_record_name(name.name) else None


def mark_file(descriptor: int, name: Path) -> None:
    """Store the path of its undo record in an open file's extended attributes, where the file system has them."""
    if _HAS_ATTRIBUTES:
        with suppress(OSError):
            os.setxattr(descriptor, _ATTRIBUTE, os.fsencode(name.absolute()))


def unmark_file(descriptor: int) -> None:
    """Remove that attribute."""
    if _HAS_ATTRIBUTES:
        with suppress(OSError):
            os.removexattr(descriptor, _ATTRIBUTE)


def write_record(name: Path, record: UndoRecord, mode: int) -> None:
    """Write an undo record to disk.

    Parameters
    ----------
    name : Path
        The record.
    record : UndoRecord
    mode : int
        The mode of the audio file: whoever may read that may undo the write.

    Raises
    ------
    OSError
        If it can't be written, or if there is one already.
    """
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


def remove_record(name: Path) -> None:
    """Remove an undo record from disk: the write counts from now on."""
    name.unlink(missing_ok=True)
    sync_folder(name.parent)


def roll_back(path: Path, restored: Callable[[str], None] | None = None, name: Path | None = None) -> str:
    """Restore a file after a torn write, and remove its undo record.

    If another program has changed the region since, the file is not touched.

    Parameters
    ----------
    path : Path
        The audio file, locked by the caller.
    restored : callable, optional
        Called with the token of the write before the record is removed.
    name : Path, optional
        The record; found by `find_record` if None.

    Returns
    -------
    str
        The token of the write; "" if there is no record, or if the file was not written to yet.

    Raises
    ------
    LockedError
        If the record or the file can't be opened.
    """
    name = find_record(path) if name is None else name
    if name is None:
        return ""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            with lock_inode(descriptor):
                record = UndoRecord.unpack(_read(name))
                if record is None:
                    remove_record(name)
                    unmark_file(descriptor)
                    return ""
                restore(descriptor, record)
                if restored is not None:
                    restored(record.token)
                if not record.inode or record.is_of(os.fstat(descriptor), name) or name == record_path(path):
                    remove_record(name)  # else this is a copy, and the record is still needed for the original
                unmark_file(descriptor)
                if name != record_path(path):  # the file had another name when a process was killed
                    remove_stale_lock_file(name.with_name(name.name[:_LOCK_STEM] + ".lock"))
                return record.token
        finally:
            os.close(descriptor)
    except FileNotFoundError:  # the record, or the file, which may come back
        return ""
    except OSError as error:
        raise LockedError(
            f"an interrupted write to it can't be undone ({error.strerror or error}); run the command as the user who "
            "may write to it"
        ) from error


def _read(name: Path) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return stream.read(_MAX_BYTES)


def restore(descriptor: int, record: UndoRecord) -> None:
    """Write the old region back, unless another program has written something else there."""
    region = record.region
    if not _is_torn(descriptor, record):
        return
    write_all(descriptor, region.old, region.start)
    os.utime(descriptor, ns=(os.fstat(descriptor).st_atime_ns, record.mtime_ns))
    os.fsync(descriptor)


def _is_torn(descriptor: int, record: UndoRecord) -> bool:
    region = record.region
    if os.fstat(descriptor).st_size != record.size:
        return False
    now, old, new = (
        np.frombuffer(data, np.uint8)
        for data in (os.pread(descriptor, len(region.old), region.start), region.old, region.new)
    )
    return len(now) == len(old) and not np.array_equal(now, old) and bool(((now == old) | (now == new)).all())


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
