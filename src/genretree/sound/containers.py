"""What kind of file this is, by its content: magic numbers, and chains of MPEG or AAC frame headers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

_WALK_BYTES = 1 << 20
OPEN_ENDED = 0x7FFFF000  # sizes from here on are what programs write into a pipe, where they can't know the length
_FFMPEG_MAGIC = {
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\x1a\x45\xdf\xa3": "matroska",
    b"wvpk": "wavpack",
    b"MAC ": "ape",
    b"TTA1": "tta",
    b"MPCK": "musepack",
    b"MP+": "musepack",
    b"DSD ": "dsf",
    b"#!AMR": "amr",
}
FFMPEG_ONLY = {*_FFMPEG_MAGIC.values(), "mp4", "aac"}
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


def sniff(file: io.FileIO, size: int) -> tuple[str, int]:
    """Name of the container, "" if unknown, and where the content starts behind any ID3v2 tags."""
    start = tag = 0
    while (head := read_at(file, start, 10))[:3] == b"ID3" and len(head) == 10:
        tag = start
        start += 10 + _synchsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)
    if start > size:
        start = _behind_oversized_tag(file, tag, start)
        if start > size:
            return "mp3", start
    head = read_at(file, start, 1 << 16)
    return _sniff_head(head, start + len(head) == size), start


def _behind_oversized_tag(file: io.FileIO, tag: int, end: int) -> int:
    """Find the MPEG frames within an ID3v2 tag whose size reaches beyond the file; `end` if there are none."""
    found = find_chain(read_at(file, tag + 10, _WALK_BYTES), 0, mpeg_frame_size, False)
    return tag + 10 + found if found >= 0 else end


def corrected_id3(file: io.FileIO, start: int) -> bytes:
    """Return an ID3v2 header that ends where the sound starts, for a file whose own header reaches beyond the file.

    Parameters
    ----------
    file : io.FileIO
    start : int
        Where the sound starts in bytes, as `sniff` gives it.

    Returns
    -------
    bytes
        The first ten bytes to read the file with; none where its own are right.
    """
    head = read_at(file, 0, 10)
    if head[:3] != b"ID3" or start < 10 or 10 + _synchsafe(head[6:10]) <= file.seek(0, io.SEEK_END):
        return b""
    return head[:5] + bytes([head[5] & ~0x10]) + bytes((start - 10) >> 7 * place & 127 for place in (3, 2, 1, 0))


def _sniff_head(head: bytes, whole: bool) -> str:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:8] == b"riff\x2e\x91\xcf\x11":
        return "w64"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"caff", "caf"), (b".snd", "au")):
        if head.startswith(magic):
            return name
    for magic, name in _FFMPEG_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    # Any bytes hold something like one frame header; three in a row at the right distances they don't.
    if find_chain(head, 0, mpeg_frame_size, whole) >= 0:
        return "mp3"
    if find_chain(head, 0, adts_frame_size, whole) >= 0:
        return "aac"
    return ""


def is_text(file: io.FileIO) -> bool:
    """Whether the file begins like UTF-8 text."""
    try:
        head = read_at(file, 0, 4096).decode()
    except UnicodeDecodeError as error:
        return error.start >= 4092  # only the last character was cut
    return "\0" not in head


def read_at(file: io.FileIO, position: int, count: int) -> bytes:
    """Read up to `count` bytes from a position."""
    file.seek(position)
    return file.read(count)


def _synchsafe(data: bytes) -> int:
    return (data[0] & 127) << 21 | (data[1] & 127) << 14 | (data[2] & 127) << 7 | (data[3] & 127)


FrameSize = Callable[[bytes, int], int]


def walk_frames(file: io.FileIO, start: int, end: int, frame_size: FrameSize) -> tuple[int, bool]:
    """Jump from frame header to frame header: how many whole frames there are, and whether the last is cut off.

    Reads a piece at a time, since mapping a long file would count as this process's memory.
    """
    at, frames = start, 0
    piece, base = b"", start
    while at + 8 <= end:
        here = at - base
        if here + 8 > len(piece):
            piece, base, here = read_at(file, at, min(_WALK_BYTES, end - at)), at, 0
            if len(piece) < 8:
                break
        size = frame_size(piece, here)
        if size:
            if at + size > end:
                return frames, True
            frames += 1
            at += size
            continue
        piece, base = read_at(file, at, min(_WALK_BYTES, end - at)), at
        last = base + len(piece) >= end
        found = find_chain(piece, 1, frame_size, last)
        if found < 0 and last:
            return frames, False
        at = base + found if found >= 0 else base + len(piece) - (1 << 15)
    rest = read_at(file, at, end - at) if at < end else b""
    return frames, rest[:1] == b"\xff" and (len(rest) < 2 or rest[1] >= 0xE0)


def find_chain(data: bytes, start: int, frame_size: FrameSize, whole: bool) -> int:
    """First place with three like frame headers in a row, or two if `whole` data end with them; -1 if there is none."""
    at = data.find(b"\xff", start)
    while 0 <= at < len(data) - 7:
        here, count = at, 0
        key = data[at + 1] & 0xFE, data[at + 2] & 0x0C  # version and layer; sample rate
        while count < 3 and here + 8 <= len(data) and key == (data[here + 1] & 0xFE, data[here + 2] & 0x0C):
            size = frame_size(data, here)
            if not size:
                break
            here, count = here + size, count + 1
        if count == 3 or (whole and count == 2 and here + 8 > len(data)):
            return at
        at = data.find(b"\xff", at + 1)
    return -1


def mpeg_frame_size(data: bytes, at: int) -> int:
    """Bytes of the MPEG 1/2/2.5 audio frame (ISO 11172-3) whose header is here; 0 if there is none."""
    if data[at] != 0xFF:
        return 0
    return _mpeg_header_size(data[at + 1], data[at + 2])


# kbit/s for MPEG 1 layers 1, 2, 3 and MPEG 2/2.5 layer 1 and layers 2, 3
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@lru_cache(maxsize=4096)
def _mpeg_header_size(second: int, third: int) -> int:
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bitrate, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second < 0xE0 or version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0
    mpeg1 = version == 3
    hertz = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1000 * _BITRATES[mpeg1, layer][bitrate - 1]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (144 if mpeg1 or layer == 2 else 72) * bits // hertz + padding


def adts_frame_size(data: bytes, at: int) -> int:
    """Bytes of the AAC frame whose ADTS header (ISO 14496-3) is here; 0 if there is none."""
    if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or data[at + 2] >> 2 & 15 > 12:
        return 0
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return size if size >= 7 else 0
