"""Checks that an audio file is complete, from the lengths that it declares.

Decoders accept truncated files without an error, so completeness is checked separately. Nothing is decoded here.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from genretree.sound.containers import OPEN_ENDED, TS_PACKET, count_boxes, find_chain, mpeg_frame_size, read_at
from genretree.sound.ogg import read_chain

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")

# Real files are far below these limits: a day of audio in fragments of half a second has 350,000 boxes.
_MAX_BOXES = 400_000
_MAX_INDEX_BOXES = 20_000
_MP4_PARENTS = {b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"udta", b"ilst"}
_MAX_CHUNKS = 10_000
_MAX_TAGS = 64
_MAX_JOINED_FILES = 1000
_FLV_HEADER = b"FLV\x01"
# A tag of audio, video or metadata: type, size, time, and the stream ID, which is always 0
_FLV_TAG = re.compile(rb"[\x08\x09\x12].{7}\0\0\0", re.DOTALL)
_FLAC_HEADER = b"fLaC\0\0\0\x22"  # followed by the header of the first metadata block, STREAMINFO
_SIZE_TOLERANCE = 64  # bytes, less than a millisecond: some programs include a header or chunk in the size


class MissingPaddingError(Exception):
    """A chunk of odd length has no padding byte, so the chunks after it cannot be found."""


class TooManyPartsError(Exception):
    """A file has more chunks, boxes or tags than any real file, and reading them would take too long."""


@dataclass(frozen=True)
class Layout:
    """The structure of a file, from the lengths that it declares.

    Parameters
    ----------
    problem : str
        Evidence that the end is missing; "" if there is none.
    parts : tuple of (int, int)
        Start and end in bytes, without surrounding tags. A chained Ogg file has several parts, and so have concatenated
        wav, aiff, caf, flac, tta, avi or flv files.
    frames : int
        Number of frames that an mp3 declares; 0 if unknown.
    options : dict
        Options for FFmpeg's demuxer.
    trailing_start : int
        Start of bytes after the end of the format's own data, which belong to no part; 0 if there are none. With a
        `problem`, these bytes may also be the remains of more audio.
    """

    problem: str
    parts: tuple[tuple[int, int], ...]
    frames: int = 0
    options: dict[str, str] = field(default_factory=dict)
    trailing_start: int = 0


def read_layout(file: io.FileIO, container: str, start: int, size: int) -> Layout:
    """Compare a file's size with the lengths that it declares. Its content begins at `start`.

    Raises
    ------
    TooManyPartsError
        If it has more than 10,000 chunks or links, 400,000 boxes, or 20,000 boxes in an mp4's index.
    MissingPaddingError
        If a chunk of odd length before the audio of a wav or aiff file is not padded.
    """
    if start > size:
        return Layout("it ends within its ID3 tag", ((0, size),))
    whole = ((0, size),)
    if container in _CHUNKS:
        return _read_chunk_files(file, container, size)
    if container == "ogg":
        try:
            chain = read_chain(file, size)
        except ValueError as error:
            raise TooManyPartsError(str(error)) from error
        return Layout(chain.problem, tuple(chain.links), trailing_start=chain.trailing_start)
    if container == "tta":
        return _read_tta(file, start, size)
    if container == "flac":
        return _read_flac(file, start, size)
    if container in _READERS:
        return _READERS[container](file, size)
    if container in ("mp3", "aac", "ac3", "dts"):  # tags after the last frame look like damage
        end = max(start, end_of_audio(file, size))
        if container == "mp3":
            head = read_at(file, start, 1 << 17)
            start += max(0, find_chain(head, 0, mpeg_frame_size, start + len(head) >= size))
            return Layout("", ((start, end),), _declared_frames(read_at(file, start, 256), end - start))
        return Layout("", ((start, end),))
    if container == "au":
        return Layout(_missing_au_end(file, size), whole)
    if container == "asf":
        return Layout(_missing_asf_end(file, size), whole)
    if container == "matroska":
        return Layout(_missing_matroska_end(file, size), whole)
    return Layout("", whole)


@dataclass(frozen=True)
class _ChunkLayout:
    """The chunk structure of a container: sizes of header, name and size fields, and the name of the audio chunk."""

    header: int
    name: int
    field: int
    order: Literal["little", "big"]
    audio_chunk: bytes
    padding: int
    inclusive: bool = False  # whether a chunk's size counts its own name and size field


# Signatures: the magic number, then, after a size field, the file type.
_SIGNATURES = {
    "wav": ((b"RIFF", b"RIFX", b"RF64"), (b"WAVE",)),
    "aiff": ((b"FORM",), (b"AIFF", b"AIFC")),
    "caf": ((b"caff",), ()),
}
_COMMON_CHUNKS = (b"fmt ", b"data", b"fact", b"LIST", b"bext", b"COMM", b"SSND", b"id3 ", b"ID3 ")
_CHUNKS = {
    "wav": _ChunkLayout(12, 4, 4, "little", b"data", 2),
    "aiff": _ChunkLayout(12, 4, 4, "big", b"SSND", 2),
    "caf": _ChunkLayout(8, 4, 8, "big", b"data", 1),
    "w64": _ChunkLayout(40, 16, 8, "little", _W64_DATA, 8, inclusive=True),
}


def _read_chunk_files(file: io.FileIO, container: str, size: int) -> Layout:
    """Read the layout of a file made of chunks, and of the files concatenated after it."""
    layout, next_start = _read_chunks(file, container, 0, size)
    parts = list(layout.parts)
    options, problem = dict(layout.options), layout.problem
    while next_start and not problem:
        if len(parts) >= _MAX_JOINED_FILES:
            raise TooManyPartsError(f"is made of more than {_MAX_JOINED_FILES:,} files")
        layout, next_start = _read_chunks(file, container, next_start, size)
        parts += layout.parts
        options |= layout.options  # earlier parts end with their audio, whatever they declare
        problem = layout.problem
    return Layout(problem, tuple(parts), options=options)


def _read_tta(file: io.FileIO, start: int, size: int) -> Layout:
    """Read the frame sizes of a TTA file, and of the files concatenated after it."""
    starts, at = [0], start
    while at < size:
        head = read_at(file, at, 22)
        sr, n_samples = int.from_bytes(head[10:14], "little"), int.from_bytes(head[14:18], "little")
        frame = 256 * sr // 245
        frames = -(-n_samples // frame) if frame else 0
        sizes = np.frombuffer(read_at(file, at + 22, min(4 * frames, size)), "<u4")
        if not frames or len(sizes) < frames:
            break
        at += 22 + 4 * frames + 4 + int(sizes.sum(dtype=np.int64))
        at = _find_header(file, at, size, b"TTA1", _is_tta_header)
        _append_joined(starts, at, size)
    return Layout("", _zip_parts(starts, size))


def _read_flac(file: io.FileIO, start: int, size: int) -> Layout:
    """Find concatenated FLAC files: FFmpeg loses frames where they meet."""
    starts, at = [start], start
    while at < size:
        at += 4
        for _ in range(_MAX_CHUNKS):  # a picture block may contain any bytes
            head = read_at(file, at, 4).ljust(4, b"\0")
            at += 4 + int.from_bytes(head[1:], "big")
            if head[0] & 0x80 or at >= size:
                break
        at = _find_header(file, at, size, _FLAC_HEADER, _is_flac_header)
        _append_joined(starts, at, size)
    ends = [max(begin, end_of_audio(file, end)) for begin, end in zip(starts, [*starts[1:], size], strict=True)]
    return Layout("", tuple(zip(starts, ends, strict=True)))


def _read_avi(file: io.FileIO, size: int) -> Layout:
    """Compare the sizes of the RIFF chunks: one for each AVI file, plus 'AVIX' chunks beyond 1 GB."""
    starts, at, problem = [0], 0, ""
    head = read_at(file, at, 12)
    while head[:4] == b"RIFF":
        if at and head[8:] == b"AVI ":
            _append_joined(starts, at, size)
        length = int.from_bytes(head[4:8], "little")
        if not length or length >= OPEN_ENDED:
            break
        if at + 8 + length > size + _SIZE_TOLERANCE:
            problem = f"it declares {at + 8 + length:,} bytes and contains {size:,}"
            break
        at += 8 + length + length % 2
        head = read_at(file, at, 12)
    return Layout(problem, _zip_parts(starts, size))


def _read_flv(file: io.FileIO, size: int) -> Layout:
    """Walk the tags of an FLV file, and of the files concatenated after it: FFmpeg decodes only the first."""
    starts, at = [0], 0
    while at < size:
        head = read_at(file, at, 13)
        length = int.from_bytes(head[1:4], "big")
        if head.startswith(_FLV_HEADER):
            if at:
                _append_joined(starts, at, size)
            at += max(9, int.from_bytes(head[5:9], "big")) + 4
        elif not _FLV_TAG.match(head):
            if _FLV_TAG.search(read_at(file, at, 1 << 20)):
                return Layout(f"no tag begins at byte {at:,}", _zip_parts(starts, size))
            return Layout("", _zip_parts(starts, at), trailing_start=at)
        elif at + 11 + length > size:
            return Layout(
                f"its last tag declares {length:,} bytes, but only {size - at - 11:,} are present",
                _zip_parts(starts, size),
            )
        else:
            at += 11 + length + 4
    return Layout("", _zip_parts(starts, size))


def _read_ts(file: io.FileIO, size: int) -> Layout:
    """Check that an MPEG transport stream ends with complete packets; it declares no length."""
    tail = read_at(file, max(0, size - 2 * TS_PACKET), 2 * TS_PACKET)
    whole = tail[::TS_PACKET] in (b"GG", b"G")  # the first byte of every packet
    return Layout("" if whole else f"its last packet has less than {TS_PACKET} bytes", ((0, size),))


def _zip_parts(starts: list[int], end: int) -> tuple[tuple[int, int], ...]:
    return tuple(zip(starts, [*starts[1:], end], strict=True))


def _append_joined(starts: list[int], at: int, size: int) -> None:
    if at < size:
        starts.append(at)
    if len(starts) > _MAX_JOINED_FILES:
        raise TooManyPartsError(f"is made of more than {_MAX_JOINED_FILES:,} files")


def _find_header(file: io.FileIO, at: int, size: int, magic: bytes, is_header: Callable[[bytes], bool]) -> int:
    """Return the position of the next file's header, which may follow tags; `size` if there is none."""
    count = 0
    while at < size:
        data = read_at(file, at, 1 << 20)
        offset = data.find(magic)
        while offset >= 0:
            if is_header(data[offset : offset + 22] if offset + 22 <= len(data) else read_at(file, at + offset, 22)):
                return at + offset
            count += 1
            if count > _MAX_CHUNKS:
                raise TooManyPartsError(f"has more than {_MAX_CHUNKS:,} headers")
            offset = data.find(magic, offset + 1)
        at += max(1, len(data) - len(magic) + 1)
    return size


def _is_tta_header(head: bytes) -> bool:
    return zlib.crc32(head[:18]) == int.from_bytes(head[18:], "little")


def _is_flac_header(head: bytes) -> bool:
    return 16 <= int.from_bytes(head[8:10], "big") <= int.from_bytes(head[10:12], "big")  # samples of a block


def _read_chunks(file: io.FileIO, container: str, start: int, size: int) -> tuple[Layout, int]:
    """Return the layout of the file at `start` and the start of the next one, 0 if there is none."""
    layout = _CHUNKS[container]
    order: Literal["little", "big"] = "big" if read_at(file, start, 4) == b"RIFX" else layout.order
    head = layout.name + layout.field
    whole = ((start, size),)
    large = 0  # RF64 stores the true size of the audio in a separate chunk
    at = start + layout.header
    chunks = 0
    unpadded = ""
    while at + head <= size:
        chunks += 1
        if chunks > _MAX_CHUNKS:
            raise TooManyPartsError(f"has more than {_MAX_CHUNKS:,} chunks before its audio")
        raw = read_at(file, at, head + 16)
        name, length = raw[: layout.name], int.from_bytes(raw[layout.name : head], order)
        if layout.inclusive:
            length -= head
        if name == b"ds64":
            large = int.from_bytes(raw[head + 8 : head + 16], "little")
        if name == layout.audio_chunk:
            unknown = length <= 0 or length >= (OPEN_ENDED if layout.field == 4 else 1 << 62)
            length = large if unknown and large else length
            available = size - at - head
            if container == "wav" and not large and (unknown or _has_wrapped(length, available)):
                return Layout("", whole, options={"ignore_length": "1"}), 0
            problem = ""
            if not (unknown and not large) and length > available + _SIZE_TOLERANCE:
                problem = f"it declares {length:,} bytes of audio and contains {available:,}"
            next_start = 0 if unknown and not large else _find_joined(file, container, order, at + head + length, size)
            # FFmpeg would read everything after the audio of a wav, 8 bytes at a time where it is zeros.
            end = min(size, at + head + length) if container == "wav" else next_start or size
            return Layout(problem, ((start, end),)), next_start
        if length < 0:
            return Layout("", whole), 0
        at += head + length + -length % layout.padding
        if layout.padding == 2 and length % 2 and read_at(file, at - 1, 4) in _COMMON_CHUNKS:
            unpadded = unpadded or f"has a '{name.decode('latin-1')}' chunk of {length:,} bytes, an odd number, without"
    if unpadded:
        raise MissingPaddingError(f"{unpadded} the padding byte, so its audio cannot be found")
    return Layout("it ends before its audio begins", whole), 0


def _find_joined(file: io.FileIO, container: str, order: Literal["little", "big"], end: int, size: int) -> int:
    """Return the start of another file of the same type after the audio and the chunks that follow; 0 if none."""
    magic, types = _SIGNATURES.get(container, ((), ()))
    layout = _CHUNKS[container]
    for _ in range(_MAX_TAGS if magic else 0):
        raw = read_at(file, end, 13)
        padding = raw[:1] == b"\0"  # after a chunk of odd length; some programs omit it
        raw, end = raw[padding:], end + padding
        if raw[:4] in magic and (not types or raw[8:12] in types):
            return end
        head = layout.name + layout.field
        end += head + int.from_bytes(raw[layout.name : head], order)
        if end >= size or not raw[:4].strip(b"\0"):
            break
    return 0


def _has_wrapped(length: int, available: int) -> bool:
    """Return whether a four-byte size is that of the audio modulo 4 GiB, allowing for chunks after it."""
    more = available - length
    return more >= 1 << 32 and more % (1 << 32) < 1 << 20


def _missing_au_end(file: io.FileIO, size: int) -> str:
    head = read_at(file, 0, 12)
    order: Literal["little", "big"] = "little" if head[:4] == b"dns." else "big"
    offset, length = int.from_bytes(head[4:8], order), int.from_bytes(head[8:], order)
    if length >= OPEN_ENDED or offset + length <= size:
        return ""
    return f"it declares {length:,} bytes of audio and contains {max(0, size - offset):,}"


def _read_mp4(file: io.FileIO, size: int) -> Layout:
    whole = ((0, size),)
    at, index, fragments, boxes = 0, False, False, 0
    while at + 8 <= size:
        boxes += 1
        if boxes > _MAX_BOXES:
            raise TooManyPartsError(f"has more than {_MAX_BOXES:,} boxes")
        head = read_at(file, at, 16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if name == b"ftyp" and index and not fragments:  # FFmpeg reads one index; fragments may repeat theirs
            return Layout(f"another file begins at byte {at:,}; only the first can be decoded", whole)
        trailing_start = at if index and not fragments else 0  # anything may follow a complete index
        index = index or name in (b"moov", b"moof")
        fragments = fragments or name == b"moof"
        if name == b"moov":
            end = min(size, at + length) if length else size
            if count_boxes(file, at + 8, end, _MP4_PARENTS, _MAX_INDEX_BOXES + 1) > _MAX_INDEX_BOXES:
                raise TooManyPartsError(f"has more than {_MAX_INDEX_BOXES:,} boxes in its index")
        if length == 0:  # the last box may run to the end of the file
            break
        if length < 8:
            return Layout(
                f"no box begins at byte {at:,}" if trailing_start else "", whole, trailing_start=trailing_start
            )
        if at + length > size:
            problem = (
                f"its '{name.decode('latin-1')}' box declares {length:,} bytes, but only {size - at:,} are present"
            )
            return Layout(problem, whole, trailing_start=trailing_start)
        at += length
    return Layout("" if index else "its index (the 'moov' box) is missing", whole)


_READERS = {"avi": _read_avi, "flv": _read_flv, "mp4": _read_mp4, "mpeg-ts": _read_ts}


def _missing_matroska_end(file: io.FileIO, size: int) -> str:
    """Compare the size of the segment, which contains everything but the header (RFC 8794, RFC 9559)."""
    head = read_at(file, 0, 1 << 12)
    length, at = _read_ebml_size(head, 4)
    at += length
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return ""
    length, at = _read_ebml_size(head, at + 4)
    return f"it declares {at + length:,} bytes and contains {size:,}" if at + length > size else ""


def _read_ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Return the element size stored at `at`, 0 if unknown, and the position after it."""
    if at >= len(data) or not data[at]:
        return 0, at
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & (1 << 7 * width) - 1
    return (0 if value == (1 << 7 * width) - 1 else value), at + width


def _missing_asf_end(file: io.FileIO, size: int) -> str:
    head = read_at(file, 0, 1 << 16)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0:
        return ""
    declared = int.from_bytes(head[at + 40 : at + 48], "little")
    live = int.from_bytes(head[at + 88 : at + 92], "little") & 1
    return "" if live or declared <= size else f"it declares {declared:,} bytes and contains {size:,}"


def _declared_frames(frame: bytes, size: int) -> int:
    """Return the frame count in an mp3's first frame (Xing, Info, VBRI); 0 if there is none or no bytes are missing.

    Both counts must fall short: encoders disagree on whether tags count as bytes, and mid-file damage loses frames.
    """
    if len(frame) < 64:
        return 0
    if frame[36:40] == b"VBRI":
        frames, length = int.from_bytes(frame[50:54], "big"), int.from_bytes(frame[46:50], "big")
    else:
        mpeg1, mono = frame[1] & 0x08, frame[3] >> 6 == 3
        at = 4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17))
        if frame[at : at + 4] not in (b"Xing", b"Info"):
            return 0
        flags, at = frame[at + 7], at + 8
        frames = int.from_bytes(frame[at : at + 4], "big") if flags & 1 else 0
        at += 4 if flags & 1 else 0
        length = int.from_bytes(frame[at : at + 4], "big") if flags & 2 else 0
    return 0 if 0 < length <= size else frames


def end_of_audio(file: io.FileIO, size: int) -> int:
    """Return the position where the frames end and ID3v1, APEv2 and Lyrics3 tags begin."""
    end = size
    for _ in range(_MAX_TAGS):
        tail = read_at(file, max(0, end - 160), min(end, 160))
        if tail[-128:-125] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            length = max(32, int.from_bytes(tail[-20:-16], "little"))  # includes the footer
            end -= length + (32 if tail[-9] & 0x80 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
        else:
            break
        if end <= 0:
            return size
    return end
