"""Container detection by content: magic numbers, and chains of MPEG, AAC or AC-3 frame headers."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_WALK_BYTES = 1 << 20
_MAX_CHAIN_BYTES = 1 << 15  # more than three frames and a header: an AAC frame has at most 8,191 bytes
OPEN_ENDED = 0x7FFFF000  # programs that write to a pipe, and so can't know the length, declare at least this
_MAGIC = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"caff": "caf",
    b".snd": "au",
    b"dns.": "au",
    b"Creative Voice File": "voc",
    b"NIST_1A": "nist",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\x1a\x45\xdf\xa3": "matroska",
    b"wvpk": "wavpack",
    b"MAC ": "ape",
    b"TTA1": "tta",
    b"MPCK": "musepack",
    b"MP+": "musepack",
    b"DSD ": "dsf",
    b"#!AMR": "amr",
    b"FLV\x01": "flv",
    b"\x7f\xfe\x80\x01": "dts",
    b"\x00\x00\x01\xba": "mpeg-ps",
}
# FFmpeg's demuxer for each container. None of them opens other files: never add a playlist format here.
DEMUXERS = {
    **{name: name for name in ("asf", "ape", "tta", "dsf", "amr", "flv", "avi", "aac", "mp3", "dts")},
    **{name: name for name in ("wav", "aiff", "w64", "au", "caf", "flac", "ogg", "voc")},
    "matroska": "matroska",
    "wavpack": "wv",
    "musepack": "mpc",
    "mp4": "mov",
    "svx": "iff",
    "nist": "nistsphere",
    "ac3": "ac3",
    "mpeg-ps": "mpeg",
    "mpeg-ts": "mpegts",
}
MAX_ID3_TAGS = 256
MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


def sniff(file: io.FileIO, size: int) -> tuple[str, int]:
    """Return the name of the container, "" if unknown, and where the content starts after any ID3v2 tags."""
    start = tag = 0
    for _ in range(MAX_ID3_TAGS):
        head = read_at(file, start, 10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        tag = start
        start += 10 + synchsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)
    if start > size:
        start = _find_frames_in_tag(file, tag, start)
        if start > size:
            return "mp3", start
    head = read_at(file, start, 1 << 16)
    if not any(head):  # an interrupted download or a ripper's padding may precede an mp3's first frame
        start = _skip_zeros(file, start)
        head = read_at(file, start, 1 << 16)
    whole = start + len(head) == size
    container = _sniff_head(head, whole)
    # A picture larger than its tag declares, or long padding, may precede an mp3's first frame.
    if not container and start and not whole and head[:3] != b"ID3":
        more = read_at(file, start, _WALK_BYTES)
        container = "mp3" if find_chain(more, 0, mpeg_frame_size, start + len(more) == size) >= 0 else ""
    return container, start


def choose_demuxer(file: io.FileIO, container: str, start: int) -> str:
    """Return FFmpeg's name of the only demuxer allowed for this container."""
    head = read_at(file, start, 6)
    if container == "musepack" and head[:4] == b"MPCK":
        return "mpc8"
    if container == "ac3" and head[5] >> 3 > _AC3_BSID:
        return "eac3"
    return DEMUXERS[container]


def _skip_zeros(file: io.FileIO, start: int) -> int:
    """Return the position of the first non-zero byte in the next 16 MiB; `start` if there is none."""
    for base in range(start, start + (_WALK_BYTES << 4), _WALK_BYTES):
        data = read_at(file, base, _WALK_BYTES)
        if any(data):
            return base + len(data) - len(data.lstrip(b"\0"))
    return start


def _find_frames_in_tag(file: io.FileIO, tag: int, end: int) -> int:
    """Return the position of MPEG frames in an ID3v2 tag that declares more bytes than the file has; `end` if none."""
    offset = find_chain(read_at(file, tag + 10, _WALK_BYTES), 0, mpeg_frame_size, False)
    return tag + 10 + offset if offset >= 0 else end


def _sniff_head(head: bytes, whole: bool) -> str:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:8] == b"riff\x2e\x91\xcf\x11":
        return "w64"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"):
        return "svx"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[4:8] in MP4_BOXES:
        return "mp4"
    if is_chain(head, ac3_frame_size):
        return "ac3"
    if is_chain(head, _ts_packet_size):
        return "mpeg-ts"
    # Random bytes contain single matches for a frame header, but not three in a row at the right distances.
    if find_chain(head, 0, mpeg_frame_size, whole) >= 0:
        return "mp3"
    if find_chain(head, 0, adts_frame_size, whole) >= 0:
        return "aac"
    return ""


def is_text(file: io.FileIO) -> bool:
    """Return whether a file begins with UTF-8 text."""
    try:
        head = read_at(file, 0, 4096).decode()
    except UnicodeDecodeError as error:
        return error.start >= 4092  # only the last character is cut off
    return "\0" not in head


def read_at(file: io.FileIO | io.BytesIO, position: int, count: int) -> bytes:
    """Read up to `count` bytes from a position."""
    file.seek(position)
    return file.read(count)


def iter_boxes(file: io.FileIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, content start and content end of consecutive boxes of an MP4 file from `at`.

    The last box may declare an end beyond `end`.
    """
    while at + 8 <= end:
        head = read_at(file, at, 16)
        length, skip = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, skip = int.from_bytes(head[8:16], "big"), 16
        if length == 0:  # the last box may run to the end
            length = end - at
        if length < skip:
            return
        yield head[4:8], at + skip, at + length
        at += length


def count_boxes(file: io.FileIO, start: int, end: int, parents: Collection[bytes], max_count: int) -> int:
    """Count the boxes of an MP4 file between two positions, including those inside `parents`, up to `max_count`."""
    pending, count = [(start, end)], 0
    while pending:
        at, until = pending.pop()
        for name, low, high in islice(iter_boxes(file, at, until), max_count - count):
            count += 1
            if name in parents:
                pending.append((low + (4 if name == b"meta" else 0), min(until, high)))
    return count


def synchsafe(data: bytes) -> int:
    """Decode an ID3v2 synchsafe integer: seven bits per byte."""
    return sum((byte & 127) << 7 * position for position, byte in enumerate(reversed(data)))


def synchsafe_bytes(number: int) -> bytes:
    """Encode a four-byte ID3v2 synchsafe integer."""
    return bytes(number >> 7 * position & 127 for position in (3, 2, 1, 0))


FrameSize = Callable[[bytes, int], int]


def find_chain(data: bytes, start: int, frame_size: FrameSize, whole: bool) -> int:
    """Return the start of three matching frame headers in a row, or of two at the end of `whole` data; -1 if none."""
    head = data[start : start + 2 * _MAX_CHAIN_BYTES]  # usually found here
    if len(head) < len(data) - start:
        chains = _find_chains(head, frame_size, False)
        if len(chains) and chains[0] < _MAX_CHAIN_BYTES:
            return start + int(chains[0])
    chains = _find_chains(data[start:], frame_size, whole)
    return start + int(chains[0]) if len(chains) else -1


def _find_chains(data: bytes, frame_size: FrameSize, whole: bool) -> NDArray[np.int64]:
    """Return all positions where a chain begins, in ascending order; see `find_chain`."""
    sizes = _frame_sizes(data, frame_size)
    first = np.flatnonzero(sizes)
    second = first + sizes[first]
    is_same = _is_next_header(data, sizes, first, second)
    first, second = first[is_same], second[is_same]
    third = second + sizes[second]
    is_same = _is_next_header(data, sizes, first, third)
    return first[is_same | (third >= len(sizes)) if whole else is_same]


def _is_next_header(
    data: bytes, sizes: NDArray[np.int32], first: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether each of the other positions has a header of the same version, layer and sample rate."""
    octets = np.frombuffer(data, np.uint8)
    there = other < len(sizes)
    other = np.where(there, other, 0)
    difference = (octets[first + 1] ^ octets[other + 1]) & 0xFE | (octets[first + 2] ^ octets[other + 2]) & 0x0C
    is_same: NDArray[np.bool_] = there & (sizes[other] > 0) & (difference == 0)
    return is_same


def _frame_sizes(data: bytes, frame_size: FrameSize) -> NDArray[np.int32]:
    """Return `frame_size` at each position that has eight bytes from there on."""
    if len(data) < 8:
        return np.zeros(0, np.int32)
    sizes = np.zeros(len(data) - 7, np.int32)
    octets = np.frombuffer(data, np.uint8)
    # Neither type of header has 0xFF in its third byte, so long runs of 0xFF are skipped at no cost.
    positions = np.flatnonzero((octets[:-7] == 0xFF) & (octets[1:-6] >= 0xE0) & (octets[2:-5] != 0xFF))
    if not len(positions):
        return sizes
    second, third = octets[positions + 1].astype(np.int32), octets[positions + 2].astype(np.int32)
    if frame_size is mpeg_frame_size:
        sizes[positions] = _mpeg_sizes()[second << 8 | third]
    elif frame_size is adts_frame_size:
        fourth, fifth, sixth = (octets[positions + offset].astype(np.int32) for offset in (3, 4, 5))
        size = (fourth & 3) << 11 | fifth << 3 | sixth >> 5
        sizes[positions] = np.where((second & 0xF6 == 0xF0) & (third >> 2 & 15 <= 12) & (size >= 7), size, 0)
    else:
        raise NotImplementedError
    return sizes


@lru_cache(maxsize=1)
def _mpeg_sizes() -> NDArray[np.int32]:
    """Return the frame size for every second and third byte of a header."""
    sizes = np.zeros(1 << 16, np.int32)
    for second in range(0xE0, 0x100):
        sizes[second << 8 : (second + 1) << 8] = [_mpeg_header_size(second, third) for third in range(256)]
    return sizes


def mpeg_frame_size(data: bytes, at: int) -> int:
    """Return the size in bytes of the MPEG 1/2/2.5 audio frame (ISO 11172-3) at `at`; 0 if there is no header."""
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
    bitrate, sr_code, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second < 0xE0 or version == 1 or layer == 4 or bitrate in (0, 15) or sr_code == 3:
        return 0
    mpeg1 = version == 3
    sr = (44100, 48000, 32000)[sr_code] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1000 * _BITRATES[mpeg1, layer][bitrate - 1]
    if layer == 1:
        return (12 * bits // sr + padding) * 4
    return (144 if mpeg1 or layer == 2 else 72) * bits // sr + padding


_AC3_BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)  # kbit/s
_AC3_BSID = 10  # the last version of AC-3; higher ones are E-AC-3
TS_PACKET = 188


def is_chain(head: bytes, frame_size: FrameSize, frames: int = 3) -> bool:
    """Return whether data begin with `frames` frames in a row, the last of which may be cut off."""
    at = 0
    for number in range(frames):
        if at + 8 > len(head):
            return number > 0
        size = frame_size(head, at)
        if not size:
            return False
        at += size
    return True


def ac3_frame_size(data: bytes, at: int) -> int:
    """Return the size in bytes of the AC-3 or E-AC-3 frame (ETSI TS 102 366) at `at`; 0 if there is no header."""
    if data[at : at + 2] != b"\x0b\x77":
        return 0
    if data[at + 5] >> 3 > _AC3_BSID:
        return 2 * (((data[at + 2] & 7) << 8 | data[at + 3]) + 1) if data[at + 5] >> 3 <= 16 else 0
    sr_code, code = data[at + 4] >> 6, data[at + 4] & 63
    if sr_code == 3 or code >= 2 * len(_AC3_BITRATES):
        return 0
    bits = _AC3_BITRATES[code >> 1]
    return (4 * bits, 2 * (320 * bits // 147 + (code & 1)), 6 * bits)[sr_code]


def _ts_packet_size(data: bytes, at: int) -> int:
    return TS_PACKET if data[at] == 0x47 else 0


def adts_frame_size(data: bytes, at: int) -> int:
    """Return the size in bytes of the AAC frame with an ADTS header (ISO 14496-3) at `at`; 0 if there is no header."""
    if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or data[at + 2] >> 2 & 15 > 12:
        return 0
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return size if size >= 7 else 0


# For streams that consist of frames only, by demuxer.
FRAME_SIZES: dict[str, FrameSize] = {
    "mp3": mpeg_frame_size,
    "aac": adts_frame_size,
    "ac3": ac3_frame_size,
    "eac3": ac3_frame_size,
}
