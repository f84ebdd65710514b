"""Whether a sound file is whole, told from the lengths that it declares itself.

Decoders forgive a file that ends early; a library of music shouldn't. Nothing is decoded here.
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

# Files as people have them are far below these: a day in fragments of half a second has 350,000 boxes.
_MAX_BOXES = 400_000
_MAX_INDEX_BOXES = 20_000
_MP4_PARENTS = {b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"udta", b"ilst"}
_MAX_CHUNKS = 10_000
_MAX_TAGS = 64
_MAX_JOINED = 1000
_FLV_HEADER = b"FLV\x01"
# Sound, video or metadata, its size, time and stream, which is always 0
_FLV_TAG = re.compile(rb"[\x08\x09\x12].{7}\0\0\0", re.DOTALL)
_FLAC_HEADER = b"fLaC\0\0\0\x22"  # and the header of the first metadata block, STREAMINFO
_FEW_BYTES = 64  # less than a millisecond: some programs count a header or a chunk in


class MissingPaddingError(Exception):
    """A chunk of odd length has no padding byte, so that no chunk behind it is found."""


class TooManyPartsError(Exception):
    """A file is made of more chunks or boxes than any real one; reading them all would only cost time."""


@dataclass(frozen=True)
class Layout:
    """What a file's own lengths say of it.

    Parameters
    ----------
    problem : str
        What shows that its end is missing; "" if nothing does.
    parts : tuple of (int, int)
        Where it begins and ends in bytes, without the tags around it; a chained Ogg file, or several wav, aiff, caf,
        flac, tta, avi or flv files in sequence, have several parts.
    frames : int
        Frames that an mp3 declares; 0 if unknown.
    options : dict
        Options for FFmpeg's demuxer.
    foreign : int
        Where bytes begin, behind all that the format knows, which belong to no part of it; 0 if there are none. Where
        there is a problem, it is only that such bytes may be what is left of more sound.
    """

    problem: str
    parts: tuple[tuple[int, int], ...]
    frames: int = 0
    options: dict[str, str] = field(default_factory=dict)
    foreign: int = 0


def read_layout(file: io.FileIO, container: str, start: int, size: int) -> Layout:
    """Compare a file with the lengths that it declares. `start` is where its content begins.

    Raises
    ------
    TooManyPartsError
        If it has more than 10,000 chunks or links, 400,000 boxes, or 20,000 boxes in an mp4's index.
    MissingPaddingError
        If a chunk of odd length before the sound of a wav or aiff file is not padded.
    """
    if start > size:
        return Layout("it ends within its ID3 tag", ((0, size),))
    whole = ((0, size),)
    if container in _CHUNKS:
        return _read_joined(file, container, size)
    if container == "ogg":
        try:
            chain = read_chain(file, size)
        except ValueError as error:
            raise TooManyPartsError(str(error)) from error
        return Layout(chain.problem, tuple(chain.links), foreign=chain.foreign)
    if container == "tta":
        return _read_tta(file, start, size)
    if container == "flac":
        return _read_flac(file, start, size)
    if container in _READERS:
        return _READERS[container](file, size)
    if container in ("mp3", "aac", "ac3", "dts"):  # tags behind the last frame look like damage
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
    """How a file made of chunks is laid out: sizes of header, name and size field, and the chunk with the sound."""

    header: int
    name: int
    field: int
    order: Literal["little", "big"]
    sound: bytes
    padding: int
    inclusive: bool = False  # whether a chunk's size counts its own name and size field


# What a file begins with: first its magic number, then, behind a size, its type.
_BEGINNINGS = {
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


def _read_joined(file: io.FileIO, container: str, size: int) -> Layout:
    """Read the layout of a file, and of those that were joined to its end, as `cat` does."""
    layout, following = _read_chunks(file, container, 0, size)
    parts = list(layout.parts)
    options, problem = dict(layout.options), layout.problem
    while following and not problem:
        if len(parts) >= _MAX_JOINED:
            raise TooManyPartsError(f"is made of more than {_MAX_JOINED:,} files")
        layout, following = _read_chunks(file, container, following, size)
        parts += layout.parts
        options |= layout.options  # the parts before end with their sound, whatever they declare
        problem = layout.problem
    return Layout(problem, tuple(parts), options=options)


def _read_tta(file: io.FileIO, start: int, size: int) -> Layout:
    """Read the sizes of the frames of a TTA file, and of those that were joined to its end."""
    begins, at = [0], start
    while at < size:
        head = read_at(file, at, 22)
        rate, samples = int.from_bytes(head[10:14], "little"), int.from_bytes(head[14:18], "little")
        frame = 256 * rate // 245
        frames = -(-samples // frame) if frame else 0
        sizes = np.frombuffer(read_at(file, at + 22, min(4 * frames, size)), "<u4")
        if not frames or len(sizes) < frames:
            break
        at += 22 + 4 * frames + 4 + int(sizes.sum(dtype=np.int64))
        at = _find_header(file, at, size, b"TTA1", _is_tta_header)
        _append_joined(begins, at, size)
    return Layout("", _zip_parts(begins, size))


def _read_flac(file: io.FileIO, start: int, size: int) -> Layout:
    """Find the FLAC files that were joined to the end of another, as `cat` does: FFmpeg loses frames between them."""
    begins, at = [start], start
    while at < size:
        at += 4
        for _ in range(_MAX_CHUNKS):  # a picture may hold anything
            head = read_at(file, at, 4).ljust(4, b"\0")
            at += 4 + int.from_bytes(head[1:], "big")
            if head[0] & 0x80 or at >= size:
                break
        at = _find_header(file, at, size, _FLAC_HEADER, _is_flac_header)
        _append_joined(begins, at, size)
    ends = [max(begin, end_of_audio(file, end)) for begin, end in zip(begins, [*begins[1:], size], strict=True)]
    return Layout("", tuple(zip(begins, ends, strict=True)))


def _read_avi(file: io.FileIO, size: int) -> Layout:
    """Compare the sizes of the RIFF chunks: the first of each AVI file, further ones ('AVIX') beyond 1 GB."""
    begins, at, problem = [0], 0, ""
    head = read_at(file, at, 12)
    while head[:4] == b"RIFF":
        if at and head[8:] == b"AVI ":
            _append_joined(begins, at, size)
        length = int.from_bytes(head[4:8], "little")
        if not length or length >= OPEN_ENDED:
            break
        if at + 8 + length > size + _FEW_BYTES:
            problem = f"it declares {at + 8 + length:,} bytes and holds {size:,}"
            break
        at += 8 + length + length % 2
        head = read_at(file, at, 12)
    return Layout(problem, _zip_parts(begins, size))


def _read_flv(file: io.FileIO, size: int) -> Layout:
    """Follow the tags of an FLV file, and of those that were joined to its end: FFmpeg decodes the first one only."""
    begins, at = [0], 0
    while at < size:
        head = read_at(file, at, 13)
        length = int.from_bytes(head[1:4], "big")
        if head.startswith(_FLV_HEADER):
            if at:
                _append_joined(begins, at, size)
            at += max(9, int.from_bytes(head[5:9], "big")) + 4
        elif not _FLV_TAG.match(head):
            if _FLV_TAG.search(read_at(file, at, 1 << 20)):
                return Layout(f"no tag begins at byte {at:,}", _zip_parts(begins, size))
            return Layout("", _zip_parts(begins, at), foreign=at)
        elif at + 11 + length > size:
            return Layout(
                f"its last tag declares {length:,} bytes and {size - at - 11:,} are there", _zip_parts(begins, size)
            )
        else:
            at += 11 + length + 4
    return Layout("", _zip_parts(begins, size))


def _read_ts(file: io.FileIO, size: int) -> Layout:
    """See whether an MPEG transport stream ends with whole packets; it declares no length."""
    tail = read_at(file, max(0, size - 2 * TS_PACKET), 2 * TS_PACKET)
    whole = tail[::TS_PACKET] in (b"GG", b"G")  # the first byte of every packet
    return Layout("" if whole else f"its last packet has less than {TS_PACKET} bytes", ((0, size),))


def _zip_parts(begins: list[int], end: int) -> tuple[tuple[int, int], ...]:
    return tuple(zip(begins, [*begins[1:], end], strict=True))


def _append_joined(begins: list[int], at: int, size: int) -> None:
    if at < size:
        begins.append(at)
    if len(begins) > _MAX_JOINED:
        raise TooManyPartsError(f"is made of more than {_MAX_JOINED:,} files")


def _find_header(file: io.FileIO, at: int, size: int, magic: bytes, is_header: Callable[[bytes], bool]) -> int:
    """Find where the next file begins, behind tags or not; `size` if there is none."""
    count = 0
    while at < size:
        data = read_at(file, at, 1 << 20)
        place = data.find(magic)
        while place >= 0:
            if is_header(data[place : place + 22] if place + 22 <= len(data) else read_at(file, at + place, 22)):
                return at + place
            count += 1
            if count > _MAX_CHUNKS:
                raise TooManyPartsError(f"has more than {_MAX_CHUNKS:,} headers")
            place = data.find(magic, place + 1)
        at += max(1, len(data) - len(magic) + 1)
    return size


def _is_tta_header(head: bytes) -> bool:
    return zlib.crc32(head[:18]) == int.from_bytes(head[18:], "little")


def _is_flac_header(head: bytes) -> bool:
    return 16 <= int.from_bytes(head[8:10], "big") <= int.from_bytes(head[10:12], "big")  # samples of a block


def _read_chunks(file: io.FileIO, container: str, start: int, size: int) -> tuple[Layout, int]:
    """Read the layout of the file that begins at `start`; and where the next one begins, 0 if there is none."""
    layout = _CHUNKS[container]
    order: Literal["little", "big"] = "big" if read_at(file, start, 4) == b"RIFX" else layout.order
    head = layout.name + layout.field
    whole = ((start, size),)
    large = 0  # RF64 keeps the sound's true size in a chunk of its own
    at = start + layout.header
    chunks = 0
    unpadded = ""
    while at + head <= size:
        chunks += 1
        if chunks > _MAX_CHUNKS:
            raise TooManyPartsError(f"has more than {_MAX_CHUNKS:,} chunks before its sound")
        raw = read_at(file, at, head + 16)
        name, length = raw[: layout.name], int.from_bytes(raw[layout.name : head], order)
        if layout.inclusive:
            length -= head
        if name == b"ds64":
            large = int.from_bytes(raw[head + 8 : head + 16], "little")
        if name == layout.sound:
            unknown = length <= 0 or length >= (OPEN_ENDED if layout.field == 4 else 1 << 62)
            length = large if unknown and large else length
            there = size - at - head
            if container == "wav" and not large and (unknown or _has_wrapped(length, there)):
                return Layout("", whole, options={"ignore_length": "1"}), 0
            problem = ""
            if not (unknown and not large) and length > there + _FEW_BYTES:
                problem = f"it declares {length:,} bytes of sound and holds {there:,}"
            following = 0 if unknown and not large else _find_joined(file, container, order, at + head + length, size)
            # FFmpeg would walk over everything behind the sound of a wav, 8 bytes at a time where these are zeros.
            end = min(size, at + head + length) if container == "wav" else following or size
            return Layout(problem, ((start, end),)), following
        if length < 0:
            return Layout("", whole), 0
        at += head + length + -length % layout.padding
        if layout.padding == 2 and length % 2 and read_at(file, at - 1, 4) in _COMMON_CHUNKS:
            unpadded = unpadded or f"has a '{name.decode('latin-1')}' chunk of {length:,} bytes, an odd number, without"
    if unpadded:
        raise MissingPaddingError(f"{unpadded} the padding byte, so that its sound is not found")
    return Layout("it ends before its sound begins", whole), 0


def _find_joined(file: io.FileIO, container: str, order: Literal["little", "big"], end: int, size: int) -> int:
    """Find where another file of the same kind begins behind the sound and the chunks after it; 0 if none does."""
    magic, types = _BEGINNINGS.get(container, ((), ()))
    layout = _CHUNKS[container]
    for _ in range(_MAX_TAGS if magic else 0):
        raw = read_at(file, end, 13)
        padding = raw[:1] == b"\0"  # of a chunk of odd length; some programs leave it out
        raw, end = raw[padding:], end + padding
        if raw[:4] in magic and (not types or raw[8:12] in types):
            return end
        head = layout.name + layout.field
        end += head + int.from_bytes(raw[layout.name : head], order)
        if end >= size or not raw[:4].strip(b"\0"):
            break
    return 0


def _has_wrapped(length: int, there: int) -> bool:
    """Whether a size of four bytes is that of the sound modulo 4 GiB, give or take some chunks behind it."""
    more = there - length
    return more >= 1 << 32 and more % (1 << 32) < 1 << 20


def _missing_au_end(file: io.FileIO, size: int) -> str:
    head = read_at(file, 0, 12)
    order: Literal["little", "big"] = "little" if head[:4] == b"dns." else "big"
    offset, length = int.from_bytes(head[4:8], order), int.from_bytes(head[8:], order)
    if length >= OPEN_ENDED or offset + length <= size:
        return ""
    return f"it declares {length:,} bytes of sound and holds {max(0, size - offset):,}"


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
            return Layout(f"another file begins at byte {at:,}, and only the one before it can be decoded", whole)
        foreign = at if index and not fragments else 0  # what is behind a whole index may be anything
        index = index or name in (b"moov", b"moof")
        fragments = fragments or name == b"moof"
        if name == b"moov":
            end = min(size, at + length) if length else size
            if count_boxes(file, at + 8, end, _MP4_PARENTS, _MAX_INDEX_BOXES + 1) > _MAX_INDEX_BOXES:
                raise TooManyPartsError(f"has more than {_MAX_INDEX_BOXES:,} boxes in its index")
        if length == 0:  # the last box may run to the end of the file
            break
        if length < 8:
            return Layout(f"no box begins at byte {at:,}" if foreign else "", whole, foreign=foreign)
        if at + length > size:
            problem = f"its '{name.decode('latin-1')}' box declares {length:,} bytes and {size - at:,} are there"
            return Layout(problem, whole, foreign=foreign)
        at += length
    return Layout("" if index else "its index (the 'moov' box) is missing", whole)


_READERS = {"avi": _read_avi, "flv": _read_flv, "mp4": _read_mp4, "mpeg-ts": _read_ts}


def _missing_matroska_end(file: io.FileIO, size: int) -> str:
    """Compare the size of the segment, which holds everything but the header (RFC 8794, RFC 9559)."""
    head = read_at(file, 0, 1 << 12)
    length, at = _read_ebml_size(head, 4)
    at += length
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return ""
    length, at = _read_ebml_size(head, at + 4)
    return f"it declares {at + length:,} bytes and holds {size:,}" if at + length > size else ""


def _read_ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Give the size that is written here, 0 if it is not known, and where it ends."""
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
    return "" if live or declared <= size else f"it declares {declared:,} bytes and holds {size:,}"


def _declared_frames(frame: bytes, size: int) -> int:
    """Frames that an mp3's first frame (Xing, Info, VBRI) declares; 0 if none, or if all its bytes are there.

    Both must fall short: encoders disagree on whether tags count as bytes, and damage in the middle loses frames.
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
    """Give where the frames end and ID3v1, APEv2 and Lyrics3 tags begin."""
    end = size
    for _ in range(_MAX_TAGS):
        tail = read_at(file, max(0, end - 160), min(end, 160))
        if tail[-128:-125] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            length = max(32, int.from_bytes(tail[-20:-16], "little"))  # which counts the footer
            end -= length + (32 if tail[-9] & 0x80 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
        else:
            break
        if end <= 0:
            return size
    return end
