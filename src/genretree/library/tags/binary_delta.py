"""Compute and apply small binary deltas that restore the old file from the new one after a change of tags.

Tags precede or follow the audio, so the old file is the new one with one long range of bytes shifted, and short ranges
replaced: tags, sizes in headers, numbers and checksums of Ogg pages. Pictures may shift by another distance than the
audio, where padding absorbs the growth of the tags; they are searched for.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 18
_GAP = 16  # up to this many equal bytes between two differences are cheaper to store than a second record
_LONG = 4096  # differences of at least this many bytes are searched for nearby
_PROBE = 32
_REACH = 1 << 20  # maximum distance of that search, in bytes
_RECORD = struct.Struct("<qq")  # offset in the old file, length; a negative length refers to bytes of the new file
_SOURCE = struct.Struct("<q")  # their offset in the new file
_HEAD = struct.Struct("<qqq")  # old size, start of the shifted range in the old file, and its shift


def make_delta(old: Path, new: Path) -> bytes:
    """Compute a delta from `new` back to `old`, in constant memory.

    Returns
    -------
    bytes
        The compressed delta, about as long as the changed tags.
    """
    with old.open("rb") as before, new.open("rb") as after:
        old_size, new_size = (os.fstat(file.fileno()).st_size for file in (before, after))
        shift = new_size - old_size
        cut = _best_split(before, after, old_size, shift)
        records = []
        for start, end, moved in ((0, cut, 0), (cut, old_size, shift)):
            for offset, literal in _differences(before, after, start, end, moved):
                low, near = 0, b""
                if len(literal) >= _LONG:
                    low = max(0, offset + min(0, shift) - _REACH)
                    near = _bytes(after, low, offset + len(literal) + max(0, shift) + _REACH - low).tobytes()
                records += _records(offset, literal, near, low)
    return zlib.compress(_HEAD.pack(old_size, cut, shift) + b"".join(records))


def make_region_delta(size: int, start: int, old: bytes, new: bytes) -> bytes:
    """Compute a delta, as `make_delta` does, between files of the same size that only differ from `start` on.

    Parameters
    ----------
    size : int
        Size of the files.
    start : int
        Offset of the bytes.
    old, new : bytes
        The bytes there, of the same length.
    """
    records = []
    for offset, literal in _differences(io.BytesIO(old), io.BytesIO(new), 0, len(old), 0):
        low = max(0, offset - _REACH)
        near = new[low : offset + len(literal) + _REACH] if len(literal) >= _LONG else b""
        records += _records(start + offset, literal, near, start + low)
    return zlib.compress(_HEAD.pack(size, size, 0) + b"".join(records))


def undo_in_region(
    read: Callable[[int, int], bytes], size: int, deltas: Sequence[bytes], max_bytes: int
) -> tuple[int, bytes, bytes] | None:
    """Apply deltas that do not change the size of a file to the bytes that they concern.

    Parameters
    ----------
    read : callable
        `read(start, count)` returns bytes of the file.
    size : int
        Size of the file.
    deltas : sequence of bytes
        From the newest to the oldest.
    max_bytes : int

    Returns
    -------
    (int, bytes, bytes) or None
        Offset, bytes there, and bytes that the deltas restore; None if a delta changes the size of the file, or if the
        bytes are more than `max_bytes`.
    """
    try:
        contents = [zlib.decompress(delta) for delta in deltas]
    except zlib.error:
        return None
    spans = []
    for content in contents:
        old_size, _, shift = _HEAD.unpack_from(content)
        if old_size != size or shift:
            return None
        for offset, literal, source in _literals(content):
            spans.append((offset, offset + (len(literal) if source is None else source[1])))
            if source is not None:
                spans.append((source[0], sum(source)))
    start, end = min((low for low, _ in spans), default=0), max((high for _, high in spans), default=0)
    if not 0 <= start < end <= size or end - start > max_bytes:
        return None
    now = read(start, end - start)
    restored = bytearray(now)
    for content in contents:
        new = bytes(restored)
        for offset, literal, source in _literals(content):
            data = literal if source is None else new[source[0] - start : sum(source) - start]
            restored[offset - start : offset - start + len(data)] = data
    return (start, now, bytes(restored)) if len(restored) == end - start == len(now) else None


def apply_delta(new: Path, delta: bytes, out: BinaryIO) -> bytes:
    """Restore the old file; returns its content hash, as `content_digest` does."""
    content = zlib.decompress(delta)
    old_size, cut, shift = _HEAD.unpack_from(content)
    digest = hashlib.blake2b(digest_size=16)
    literals = _literals(content)
    at_literal, literal, moved_from = next(literals, (old_size, b"", None))
    with new.open("rb") as source:
        at = 0
        while at < old_size:
            if at == at_literal:
                block = literal
                if moved_from is not None:
                    source.seek(moved_from[0])
                    block = source.read(moved_from[1])
                at_literal, literal, moved_from = next(literals, (old_size, b"", None))
            else:
                end = min(at + _BLOCK, at_literal, old_size, cut if at < cut else old_size)
                source.seek(at + (0 if at < cut else shift))
                block = source.read(end - at)
                if not block:
                    break
            out.write(block)
            digest.update(block)
            at += len(block)
    return digest.digest()


def _literals(content: bytes) -> Iterator[tuple[int, bytes, tuple[int, int] | None]]:
    """Yield offset and bytes of each record; or offset, no bytes, and (offset, length) in the new file."""
    at = _HEAD.size
    while at < len(content):
        offset, length = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        if length < 0:
            yield offset, b"", (_SOURCE.unpack_from(content, at)[0], -length)
            at += _SOURCE.size
        else:
            yield offset, content[at : at + length], None
            at += length


def _records(offset: int, literal: bytes, near: bytes, low: int) -> list[bytes]:
    """Encode bytes of the old file, or their position in the new one if `near`, its bytes from `low` on, has them."""
    middle = len(literal) // 2
    if len(literal) < _LONG:
        return [_RECORD.pack(offset, len(literal)) + literal] if literal else []
    position = near.find(literal[middle : middle + _PROBE])
    if position < 0:
        return _records(offset, literal[:middle], near, low) + _records(offset + middle, literal[middle:], near, low)
    before = _common_prefix(literal[:middle][::-1], near[max(0, position - middle) : position][::-1])
    behind = _common_prefix(literal[middle:], near[position : position + len(literal) - middle])
    start, end = middle - before, middle + behind
    moved = _RECORD.pack(offset + start, start - end) + _SOURCE.pack(low + position - before)
    return [
        *_records(offset, literal[:start], near, low),
        moved,
        *_records(offset + end, literal[end:], near, low),
    ]


def _common_prefix(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix."""
    size = min(len(one), len(other))
    unequal = np.flatnonzero(np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size))
    return int(unequal[0]) if len(unequal) else size


def _best_split(before: BinaryIO, after: BinaryIO, old_size: int, shift: int) -> int:
    """Return the start of the shifted range that leaves the fewest bytes different."""
    if shift == 0:
        return old_size
    stayed, moved = [0], [0]
    for start in range(0, old_size, _BLOCK):
        end = min(start + _BLOCK, old_size)
        stayed.append(stayed[-1] + int(_unequal(before, after, start, end, 0).sum()))
        moved.append(moved[-1] + int(_unequal(before, after, start, end, shift).sum()))
    costs = np.array(stayed) + (moved[-1] - np.array(moved))
    return min(int(costs.argmin()) * _BLOCK, old_size)


def _unequal(before: BinaryIO, after: BinaryIO, start: int, end: int, moved: int) -> NDArray[np.bool_]:
    """Compare a byte range of the old file with the new one; True where bytes differ or are missing."""
    old = _bytes(before, start, end - start)
    low, high = max(0, start + moved), max(0, end + moved)
    new = _bytes(after, low, high - low)
    unequal = np.ones(len(old), dtype=bool)
    first = low - (start + moved)
    unequal[first : first + len(new)] = old[first : first + len(new)] != new
    return unequal


def _differences(before: BinaryIO, after: BinaryIO, start: int, end: int, moved: int) -> Iterator[tuple[int, bytes]]:
    for at in range(start, end, _BLOCK):
        stop = min(at + _BLOCK, end)
        places = np.flatnonzero(_unequal(before, after, at, stop, moved))
        if not len(places):
            continue
        breaks = np.flatnonzero(np.diff(places) > _GAP)
        firsts = places[np.concatenate([[0], breaks + 1])]
        lasts = places[np.concatenate([breaks, [len(places) - 1]])]
        old = _bytes(before, at, stop - at)
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            yield at + first, old[first : last + 1].tobytes()


def _bytes(file: BinaryIO, start: int, count: int) -> NDArray[np.uint8]:
    file.seek(start)
    return np.frombuffer(file.read(count), np.uint8)
