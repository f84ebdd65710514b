"""Limits on the size of a file's tags and number of parts, checked before mutagen reads them.

mutagen has no limits: 3 million empty chunks take half a minute and a gigabyte, and ID3 frames that decompress to
gigabytes are decompressed. Here each part costs one small read, and counting stops at a limit far above real files.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from genretree.sound.containers import MP4_BOXES, count_boxes, read_at, synchsafe

MAX_PARTS = 10_000  # chunks of a wav or aiff, or metadata blocks of a flac
MAX_BOXES = 100_000  # boxes of an mp4, at the top level and in moov
MAX_FRAMES = 20_000  # frames of an ID3 tag, items of an APE tag, comments of a flac
MAX_DECOMPRESSED = 64 << 20  # bytes, of all frames of a tag together
MAX_TEXT = 4 << 20  # bytes of a text frame
MAX_COPIED = 10_000_000_000  # bytes that mutagen copies: for each frame, and each text in it, all that follows
_OPAQUE = (b"A", b"G", b"P", b"M", b"U", b"W", b"X")  # first letters of frames with a single value, such as pictures
_LISTS = (b"SYL", b"SLT", b"ETC", b"EQU", b"MLL", b"MLT")
_LIST_ITEM = 3  # minimum bytes of an item
_FRAME_NAME = re.compile(rb"[A-Z][A-Z0-9]{2}")
_ID3_CHUNKS = (b"id3 ", b"ID3 ")
_CONTAINERS = (b"moov", b"udta", b"trak", b"mdia", b"minf", b"stbl", b"ilst", b"meta")


class CostlyTagsError(Exception):
    """A file has too many tags or parts, or tags that decompress to too much, to read them."""


def check_tags(path: str | Path) -> None:
    """Reject a file whose tags would take mutagen long to read.

    Parameters
    ----------
    path : path-like
        A regular file.

    Raises
    ------
    CostlyTagsError
        If it has more than 10,000 chunks or blocks, 100,000 mp4 boxes, 20,000 frames or items in a tag, compressed
        frames of more than 64 MiB, a text of more than 4 MiB, or enough frames or texts that mutagen would copy more
        than 10 GB.
    OSError
        If it cannot be read.
    """
    with Path(path).open("rb", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        start = _check_id3(file, 0, size)
        head = read_at(file, start, 12)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
            _check_chunks(file, start, size)
        elif head[:4] == b"fLaC":
            _check_flac(file, start + 4, size)
        elif head[4:8] in MP4_BOXES and count_boxes(file, start, size, _CONTAINERS, MAX_BOXES + 1) > MAX_BOXES:
            raise CostlyTagsError(f"has more than {MAX_BOXES:,} boxes")
        _check_ape(file, size)


def _check_id3(file: io.FileIO, at: int, size: int) -> int:
    """Check an ID3v2 tag if there is one; return its end, or `at`."""
    head = read_at(file, at, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return at
    major = head[3]
    length = min(synchsafe(head[6:10]), size - at - 10)
    source: io.FileIO | io.BytesIO = file
    first, stop = at + 10, at + 10 + length
    if major < 4 and head[5] & 0x80:  # mutagen first removes the bytes added by unsynchronisation
        source = io.BytesIO(read_at(file, first, length).replace(b"\xff\x00", b"\xff"))
        first, stop = 0, source.seek(0, io.SEEK_END)
    budget, n_copied = MAX_DECOMPRESSED, 0
    for number, (name, flags, begin, end) in enumerate(_frames(source, first, stop, major)):
        if number >= MAX_FRAMES:
            raise CostlyTagsError(f"its ID3 tag has more than {MAX_FRAMES:,} frames")
        compressed = (major == 4 and flags & 0x08) or (major == 3 and flags & 0x80)
        n_copied += stop - end
        if compressed or name[:1] not in _OPAQUE or name[:3] in _LISTS:
            data = read_at(source, begin, end - begin)
            if compressed:
                data = _decompress(data, budget)
                budget -= len(data)
            n_copied += _copied_within(name, data)
        if n_copied > MAX_COPIED:
            raise CostlyTagsError(f"reading its ID3 tag of {length:,} bytes would copy more than {MAX_COPIED:,} bytes")
    return at + 10 + length


def _copied_within(name: bytes, data: bytes) -> int:
    """Return the number of bytes that mutagen copies to parse a frame: for each item, the rest of the frame."""
    if name[:1] == b"T" or name[:3] == b"IPL":
        items = data.count(b"\0\0" if data[:1] in (b"\1", b"\2") else b"\0")
        return len(data) * items + (MAX_COPIED + 1 if len(data) > MAX_TEXT else 0)
    if name in (b"CHAP", b"CTOC"):
        return len(data) * sum(1 for _ in _FRAME_NAME.finditer(data))
    if name[:3] in _LISTS:
        return len(data) * (len(data) // _LIST_ITEM)
    return 0


def _frames(file: io.FileIO | io.BytesIO, at: int, end: int, major: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield name, flags, start and end of the consecutive frames of a tag."""
    name, head = (3, 6) if major == 2 else (4, 10)
    block, base = b"", at
    while at + head <= end:
        if at + head > base + len(block) or at < base:
            block, base = read_at(file, at, min(1 << 16, end - at)), at
        raw = block[at - base : at - base + head]
        if len(raw) < head or not raw[0]:
            return
        digits = raw[name : 2 * name]
        length = synchsafe(digits) if major == 4 and max(digits) < 128 else int.from_bytes(digits, "big")
        flags = int.from_bytes(raw[8:10], "big") if major > 2 else 0
        yield raw[:name], flags, at + head, min(end, at + head + length)
        at += head + length


def _decompress(data: bytes, limit: int) -> bytes:
    """Return the longest decompression of data that may start at any of the first bytes."""
    max_count = b""
    for skipped in (4, 0, 5, 1):  # an optional data length or group byte comes first
        decompressor, output, pending = zlib.decompressobj(), bytearray(), data[skipped:]
        try:
            while pending and not decompressor.eof:
                output += decompressor.decompress(pending, 1 << 20)
                pending = decompressor.unconsumed_tail
                if len(output) > limit:
                    raise CostlyTagsError(f"its ID3 tag decompresses to more than {MAX_DECOMPRESSED >> 20} MiB")
        except zlib.error:
            continue
        max_count = max(max_count, bytes(output), key=len)
    return max_count


def _chunks(file: io.FileIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the chunks of the wav or aiff file at `start`."""
    order: Literal["little", "big"] = "big" if read_at(file, start, 4) in (b"FORM", b"RIFX") else "little"
    at = start + 12
    while at + 8 <= end:
        head = read_at(file, at, 8)
        length = int.from_bytes(head[4:], order)
        yield head[:4], at + 8, min(end, at + 8 + length)
        at += 8 + length + length % 2


def _check_chunks(file: io.FileIO, start: int, size: int) -> None:
    for number, (name, begin, end) in enumerate(_chunks(file, start, size)):
        if number >= MAX_PARTS:
            raise CostlyTagsError(f"has more than {MAX_PARTS:,} chunks")
        if name in _ID3_CHUNKS:
            _check_id3(file, begin, end)


def count_id3_frames(file: io.FileIO, start: int, end: int, max_count: int) -> int:
    """Count the frames of the ID3 tags in the chunks of a wav or aiff file, up to `max_count`."""
    count = 0
    for name, begin, stop in islice(_chunks(file, start, end), MAX_PARTS):
        tag = read_at(file, begin, 10) if name in _ID3_CHUNKS else b""
        if tag[:3] == b"ID3" and len(tag) == 10:
            frames = _frames(file, begin + 10, min(stop, begin + 10 + synchsafe(tag[6:10])), tag[3])
            count += sum(1 for _ in islice(frames, max_count - count))
        if count >= max_count:
            break
    return count


def _check_flac(file: io.FileIO, at: int, size: int) -> None:
    for _ in range(MAX_PARTS):
        head = read_at(file, at, 4)
        if len(head) < 4:
            return
        length = int.from_bytes(head[1:], "big")
        if head[0] & 127 == 4:
            _check_comments(read_at(file, at + 4, length))
        at += 4 + length
        if head[0] & 128 or at >= size:
            return
    raise CostlyTagsError(f"has more than {MAX_PARTS:,} metadata blocks")


def _check_comments(block: bytes) -> None:
    vendor = int.from_bytes(block[:4], "little")
    if int.from_bytes(block[4 + vendor : 8 + vendor], "little") > MAX_FRAMES:
        raise CostlyTagsError(f"has more than {MAX_FRAMES:,} comments")


def _check_ape(file: io.FileIO, size: int) -> None:
    for end in (size, size - 128):
        footer = read_at(file, max(0, end - 32), 32) if end >= 32 else b""
        if footer[:8] == b"APETAGEX" and int.from_bytes(footer[16:20], "little") > MAX_FRAMES:
            raise CostlyTagsError(f"its APE tag has more than {MAX_FRAMES:,} items")
