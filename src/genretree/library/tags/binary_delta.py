"""How to get the old file back, byte by byte, from the new one: what a change of tags leaves behind is small.

Tags lie in front of the sound or behind it, so the old file is the new one with a stretch of bytes moved as a whole,
and some others replaced: those of the tags, sizes in headers, numbers and checksums of Ogg pages. Pictures move by
another distance than the sound does, where padding takes up what the tags have grown by; they are looked for.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 18
_GAP = 16  # equal bytes between two differences that are cheaper to repeat than to leave out
_LONG = 4096  # bytes that differ from here on are looked for elsewhere
_PROBE = 32
_REACH = 1 << 20  # and how far away
_RECORD = struct.Struct("<qq")  # an offset in the old file, a length; a negative one: of what stands elsewhere
_SOURCE = struct.Struct("<q")  # and where, in the new file
_HEAD = struct.Struct("<qqq")  # the old size, where the second stretch begins in it, and by how much it moved


def content_digest(path: Path) -> bytes:
    """Hash a whole file: BLAKE2b, 16 bytes."""
    with path.open("rb") as stream:
        return stream_digest(stream)


def stream_digest(stream: BufferedReader) -> bytes:
    """Hash an open file from where it stands, as `content_digest` does."""
    return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()


def make_delta(old: Path, new: Path) -> bytes:
    """Record how `old` comes out of `new`; in memory that doesn't grow with the files.

    Returns
    -------
    bytes
        Compressed; about as long as the tags that changed.
    """
    with old.open("rb") as before, new.open("rb") as after:
        old_size, new_size = (os.fstat(file.fileno()).st_size for file in (before, after))
        shift = new_size - old_size
        cut = _cheapest_cut(before, after, old_size, shift)
        records = []
        for start, end, moved in ((0, cut, 0), (cut, old_size, shift)):
            for offset, literal in _differences(before, after, start, end, moved):
                low, near = 0, b""
                if len(literal) >= _LONG:
                    low = max(0, offset + min(0, shift) - _REACH)
                    near = _bytes(after, low, offset + len(literal) + max(0, shift) + _REACH - low).tobytes()
                records += _records(offset, literal, near, low)
    return zlib.compress(_HEAD.pack(old_size, cut, shift) + b"".join(records))


def apply_delta(new: Path, delta: bytes, out: BinaryIO) -> bytes:
    """Write the old file again; returns its hash, as `content_digest` gives it."""
    content = zlib.decompress(delta)
    old_size, cut, shift = _HEAD.unpack_from(content)
    digest = hashlib.blake2b(digest_size=16)
    literals = _literals(content)
    at_literal, literal, moved_from = next(literals, (old_size, b"", None))
    with new.open("rb") as source:
        at = 0
        while at < old_size:
            if at == at_literal:
                piece = literal
                if moved_from is not None:
                    source.seek(moved_from[0])
                    piece = source.read(moved_from[1])
                at_literal, literal, moved_from = next(literals, (old_size, b"", None))
            else:
                end = min(at + _BLOCK, at_literal, old_size, cut if at < cut else old_size)
                source.seek(at + (0 if at < cut else shift))
                piece = source.read(end - at)
                if not piece:
                    break
            out.write(piece)
            digest.update(piece)
            at += len(piece)
    return digest.digest()


def _literals(content: bytes) -> Iterator[tuple[int, bytes, tuple[int, int] | None]]:
    """Yield offset and bytes, or offset, nothing, and where in the new file how many bytes stand."""
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
    """Write bytes of the old file down, or, if they stand near in the new one (from `low` on), where."""
    middle = len(literal) // 2
    if len(literal) < _LONG:
        return [_RECORD.pack(offset, len(literal)) + literal] if literal else []
    found = near.find(literal[middle : middle + _PROBE])
    if found < 0:
        return _records(offset, literal[:middle], near, low) + _records(offset + middle, literal[middle:], near, low)
    before = _alike(literal[:middle][::-1], near[max(0, found - middle) : found][::-1])
    behind = _alike(literal[middle:], near[found : found + len(literal) - middle])
    start, end = middle - before, middle + behind
    moved = _RECORD.pack(offset + start, start - end) + _SOURCE.pack(low + found - before)
    return [
        *_records(offset, literal[:start], near, low),
        moved,
        *_records(offset + end, literal[end:], near, low),
    ]


def _alike(one: bytes, other: bytes) -> int:
    """Count how many bytes are the same from the beginning on."""
    size = min(len(one), len(other))
    unequal = np.flatnonzero(np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size))
    return int(unequal[0]) if len(unequal) else size


def _cheapest_cut(before: BinaryIO, after: BinaryIO, old_size: int, shift: int) -> int:
    """Find where to go over from bytes that stayed in place to bytes that moved, so that the fewest differ."""
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
    """Say of each byte of a stretch of the old file whether it differs from the new file's, or has none there."""
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
