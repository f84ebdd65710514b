"""Hash the audio of a file without its tags, to verify that writing tags does not change the audio.

Specifications: id3.org (ID3v2.3, v2.4), RFC 9639 (FLAC), RFC 3533 (Ogg), ISO/IEC 14496-12 (MP4), RIFF and EA IFF 85.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genretree.sound.containers import iter_boxes, read_at, sniff

_COPY = 1 << 20
_MAX_PARTS = 20_000  # typical files have dozens
_MAX_PAGES = 1_000_000  # of an Ogg file: 11 days of Vorbis; 5 hours at 20 ms per page
_HEADER_PACKETS = {b"\x01vorbis": 3, b"OpusHead": 2, b"\x7fFLAC": 1, b"Speex   ": 2}


class LayoutError(Exception):
    """The file's layout does not conform to its format."""


def detect_format(file: io.FileIO) -> str:
    """Return the file format by content: mp3, flac, ogg, mp4, wav, aiff ..., or "" if unknown."""
    return sniff(file, _size(file))[0]


def hash_audio(path: Path) -> str:
    """Hash the audio of an mp3, flac, ogg, opus, mp4, wav or aiff file, without its tags.

    Raises
    ------
    LayoutError
        If the file has another format or can't be parsed.
    """
    with path.open("rb", buffering=0) as file:
        format_ = detect_format(file)
        if format_ not in _PARTS:
            raise LayoutError(f"{format_ or 'unknown'} files can't be tagged")
        digest = hashlib.blake2b(digest_size=16)
        for part in _PARTS[format_](file, _size(file)):
            if isinstance(part, bytes):
                digest.update(part)
                continue
            start, end = part
            while start < end:
                block = read_at(file, start, min(_COPY, end - start))
                if not block:
                    raise LayoutError("it is shorter than its headers declare")
                digest.update(block)
                start += len(block)
        return digest.hexdigest()


def audio_parts(file: io.FileIO) -> tuple[str, list[tuple[int, int] | bytes]]:
    """Return a file's format, and what `hash_audio` hashes: byte ranges, and values that no place in the file has.

    Raises
    ------
    LayoutError
        As `hash_audio` does.
    """
    format_ = detect_format(file)
    if format_ not in _PARTS:
        raise LayoutError(f"{format_ or 'unknown'} files can't be tagged")
    return format_, list(_PARTS[format_](file, _size(file)))


def _size(file: io.FileIO) -> int:
    return file.seek(0, io.SEEK_END)


Spans = Iterator[tuple[int, int] | bytes]  # byte ranges of the file, and values whose position may change


def _mp3(file: io.FileIO, size: int) -> Spans:
    yield mp3_audio_span(file, size)


def mp3_audio_span(file: io.FileIO, size: int) -> tuple[int, int]:
    """Return the byte range of an mp3's audio: after its ID3v2 tags, before its APEv2 and ID3v1 tags."""
    start = sniff(file, size)[1]
    end = size
    if read_at(file, max(0, end - 128), 3) == b"TAG":
        end -= 128
    footer = read_at(file, max(0, end - 32), 32)
    if footer[:8] == b"APETAGEX":
        end -= int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 0x80 else 0)
    return start, max(start, end)


def _flac(file: io.FileIO, size: int) -> Spans:
    """Yield STREAMINFO, and everything after the metadata blocks."""
    at = sniff(file, size)[1] + 4
    while True:
        head = read_at(file, at, 4)
        if len(head) < 4:
            raise LayoutError("its metadata has no end")
        end = at + 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x7F == 0:
            yield at + 4, end
        at = end
        if head[0] & 0x80:
            break
    tail = 128 if read_at(file, max(0, size - 128), 3) == b"TAG" else 0
    yield at, size - tail


def _ogg(file: io.FileIO, size: int) -> Spans:
    """Yield granule position, lacing and data of the pages after the header packets, without number and checksum."""
    for page in _pages(file, size):
        if not page.header:
            yield page.start + 5, page.start + 18  # flags, granule position, serial number
            yield page.start + 26, page.end


@dataclass(frozen=True)
class _Page:
    """A page of an Ogg file: its offsets, its stream, and whether it belongs to the header packets."""

    start: int
    body: int
    end: int
    stream: bytes
    lacing: bytes
    header: bool


def _pages(file: io.FileIO, size: int) -> Iterator[_Page]:
    at = count = 0
    packets: dict[bytes, int] = {}  # remaining header packets by stream
    while at < size:
        count += 1
        if count > _MAX_PAGES:
            raise LayoutError(f"has more than {_MAX_PAGES:,} pages")
        head = read_at(file, at, 27)
        if head[:4] != b"OggS" or len(head) < 27:
            raise LayoutError("its pages don't follow one another")
        lacing = read_at(file, at + 27, head[26])
        body = at + 27 + head[26]
        stream = head[14:18]
        if head[5] & 2:
            packets[stream] = _header_packets(read_at(file, body, 13), lacing)
        header = packets.get(stream, 0) > 0
        if header:
            packets[stream] -= sum(length != 255 for length in lacing)
        yield _Page(at, body, body + sum(lacing), stream, lacing, header)
        at = body + sum(lacing)


def header_packets(file: io.FileIO, size: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield stream, number and content of the header packets of an Ogg file's streams."""
    numbers: dict[bytes, int] = {}
    begun: dict[bytes, bytearray] = {}
    for page in _pages(file, size):
        if not page.header:
            continue
        at = page.body
        for length in page.lacing:
            begun.setdefault(page.stream, bytearray()).extend(read_at(file, at, length))
            at += length
            if length < 255:
                number = numbers[page.stream] = numbers.get(page.stream, -1) + 1
                yield page.stream, number, bytes(begun.pop(page.stream))


def _header_packets(start: bytes, lacing: bytes) -> int:
    if start[:5] == b"\x7fFLAC":
        return 1 + int.from_bytes(start[7:9], "big") or 1 << 62
    return next((n for magic, n in _HEADER_PACKETS.items() if start.startswith(magic)), 0)


def _mp4(file: io.FileIO, size: int) -> Spans:
    """Yield the content of the media data boxes and of the tracks, and the offsets of the tracks' chunks."""
    top = list(boxes(file, 0, size))
    if any(name == b"moof" for name, _, _ in top):
        raise LayoutError("is fragmented (as streams are), and writing tags would damage it; remux it first")
    media = [(start, end) for name, start, end in top if name == b"mdat"]
    yield from media
    for name, start, end in top:
        if name == b"moov":
            for inner, low, high in boxes(file, start, end):
                if inner == b"trak":
                    yield from _track(file, low, high, media)


def _track(file: io.FileIO, low: int, high: int, media: list[tuple[int, int]]) -> Spans:
    """Yield the content of a track's boxes, with chunk offsets relative to the beginning of the media data."""
    for name, start, end in boxes(file, low, high):
        if name in (b"mdia", b"minf", b"stbl"):
            yield from _track(file, start, end, media)
        elif name in (b"stco", b"co64"):
            width = np.dtype(">u4" if name == b"stco" else ">u8")
            head, content = read_at(file, start, 8), read_at(file, start + 8, end - start - 8)
            count = int.from_bytes(head[4:], "big")
            if count * width.itemsize > len(content):
                raise LayoutError("its table of chunks is cut off")
            offsets = np.frombuffer(content, width, count).astype(np.int64)
            for place, (first, last) in enumerate(media):
                inside = (offsets >= first) & (offsets < last)
                yield np.where(inside, offsets - first, -1).tobytes() + bytes([place & 255])
        else:
            yield start, end


def boxes(file: io.FileIO, at: int, until: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end (of the content) of the boxes of an MP4 file in a byte range."""
    for count, (name, start, end) in enumerate(iter_boxes(file, at, until)):
        if count >= _MAX_PARTS:
            raise LayoutError(f"has more than {_MAX_PARTS:,} boxes")
        if end > until:
            break
        yield name, start, end
        at = end
    if at + 8 <= until:
        raise LayoutError("a box reaches beyond its end")


def _wav(file: io.FileIO, size: int) -> Spans:
    for name, start, end in riff_chunks(file, size, "little"):
        if name in (b"fmt ", b"data", b"fact"):
            yield start, end


def _aiff(file: io.FileIO, size: int) -> Spans:
    for name, start, end in riff_chunks(file, size, "big"):
        if name in (b"COMM", b"SSND"):
            yield start, end


def riff_chunks(file: io.FileIO, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the chunks of a RIFF ("little") or IFF ("big") file."""
    at, count = 12, 0
    while at + 8 <= size:
        count += 1
        if count > _MAX_PARTS:
            raise LayoutError(f"has more than {_MAX_PARTS:,} chunks")
        head = read_at(file, at, 8)
        length = int.from_bytes(head[4:], "little" if order == "little" else "big")
        yield head[:4], at + 8, min(size, at + 8 + length)
        at += 8 + length + length % 2


_PARTS: dict[str, Callable[[io.FileIO, int], Spans]] = {
    "mp3": _mp3,
    "flac": _flac,
    "ogg": _ogg,
    "mp4": _mp4,
    "wav": _wav,
    "aiff": _aiff,
}
TAGGABLE = frozenset(_PARTS)
