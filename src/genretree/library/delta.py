"""How to get the old file back, byte by byte, from the new one: what a change of tags leaves behind is small.

Tags lie in front of the sound or behind it, so the old file is the new one with a stretch of bytes moved as a whole,
and some others replaced: those of the tags, sizes in headers, numbers and checksums of Ogg pages.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 18
_GAP = 16  # equal bytes between two differences that are cheaper to repeat than to leave out
_RECORD = struct.Struct("<qq")  # an offset in the old file, a length
_HEAD = struct.Struct("<qqq")  # the old size, where the second stretch begins in it, and by how much it moved


def content_digest(path: Path) -> bytes:
    """Hash a whole file: BLAKE2b, 16 bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()


def make_delta(old: Path, new: Path) -> bytes:
    """Write down how `old` comes out of `new`; in memory that doesn't grow with the files.

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
                records.append(_RECORD.pack(offset, len(literal)) + literal)
    return zlib.compress(_HEAD.pack(old_size, cut, shift) + b"".join(records))


def apply_delta(new: Path, delta: bytes, out: BinaryIO) -> bytes:
    """Write the old file again; returns its hash, as `content_digest` gives it."""
    content = zlib.decompress(delta)
    old_size, cut, shift = _HEAD.unpack_from(content)
    digest = hashlib.blake2b(digest_size=16)
    literals = _literals(content)
    at_literal, literal = next(literals, (old_size, b""))
    with new.open("rb") as source:
        at = 0
        while at < old_size:
            if at == at_literal:
                piece = literal
                at_literal, literal = next(literals, (old_size, b""))
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


def _literals(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = _HEAD.size
    while at < len(content):
        offset, length = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        yield offset, content[at : at + length]
        at += length


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
