"""Write new tags over the old ones and their padding, so that a kill at any byte can be undone.

The file keeps its size, its inode and with it its hard links. Everything is checked before the first byte is
written: that the region is outside the audio, and that its file still is the one that was read.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from genretree.library.apply.replace_file import CHANGED, RefusedError, check_same_file
from genretree.library.apply.undo_record import (
    UndoRecord,
    choose_record_path,
    mark_file,
    remove_record,
    restore,
    unmark_file,
    write_all,
    write_record,
)
from genretree.library.tags.tag_region import TagRegion

_BLOCK = 1 << 20


def hash_with_region(source: BinaryIO, region: TagRegion | None) -> tuple[bytes, bytes]:
    """Hash an open file in one pass, as it is and with the new bytes of a region.

    Returns
    -------
    (bytes, bytes)
        Content hashes as `content_digest` returns them; the second is empty without a region, or if the file does not
        have the region's old bytes.
    """
    now, then = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    at, same = 0, region is not None
    source.seek(0)
    while block := source.read(_BLOCK):
        now.update(block)
        if region is not None:
            low, high = max(at, region.start), min(at + len(block), region.end)
            if low < high:
                inside = slice(low - region.start, high - region.start)
                same = same and block[low - at : high - at] == region.old[inside]
                block = block[: low - at] + region.new[inside] + block[high - at :]
            then.update(block)
        at += len(block)
    return now.digest(), then.digest() if same else b""


def write_in_place(
    path: Path,
    source: BinaryIO,
    opened: os.stat_result,
    region: TagRegion,
    token: str,
    mtime_ns: int | None,
    not_written: Callable[[], None],
) -> os.stat_result:
    """Replace a region of a file.

    Parameters
    ----------
    path : Path
        Locked by the caller.
    source : binary file
        The same file, open for reading.
    opened : os.stat_result
        Its status when it was opened.
    region : TagRegion
    token : str
        Names the write in the undo record.
    mtime_ns : int or None
        Modification time to set; None for the current time.
    not_written : callable
        Called after a failure, once the file is certainly as it was.

    Returns
    -------
    os.stat_result
        Status of the file after the write.

    Raises
    ------
    RefusedError
        If another program changed the file at the same time.
    OSError
        If the undo record or the file can't be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except BaseException:
        not_written()
        raise
    try:
        record = UndoRecord(opened.st_size, opened.st_mtime_ns, token, region, opened.st_ino)
        name = choose_record_path(path, opened.st_ino)
        mark_file(descriptor, name)
        try:
            write_record(name, record, opened.st_mode)
        except BaseException:
            not_written()
            unmark_file(descriptor)
            raise
        try:
            if not os.path.samestat(os.fstat(descriptor), opened):
                raise RefusedError(CHANGED)
            check_same_file(source, opened, path)
            if os.pread(descriptor, len(region.old), region.start) != region.old:
                raise RefusedError(CHANGED)
            write_all(descriptor, region.new, region.start)
            if mtime_ns is not None:
                os.utime(descriptor, ns=(opened.st_atime_ns, mtime_ns))
            os.fsync(descriptor)
            _check_written(path, descriptor, region)
            status = os.fstat(descriptor)
        except BaseException:
            restore(descriptor, record)  # if this fails, the record stays for the next process that locks the file
            remove_record(name)
            unmark_file(descriptor)
            not_written()
            raise
        remove_record(name)
        unmark_file(descriptor)
    finally:
        os.close(descriptor)
    return status


def _check_written(path: Path, descriptor: int, region: TagRegion) -> None:
    """Check that the region is in the file, and that the file still has its name."""
    if os.pread(descriptor, len(region.new), region.start) != region.new:
        raise OSError(errno.EIO, "its disk does not return what was written")
    try:
        same = os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        same = False
    if not same:
        raise RefusedError(CHANGED)
