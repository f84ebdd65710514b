"""Limits on the number of comments and ID3 frames in a file, checked before FFmpeg reads them.

FFmpeg compares each comment with all that it has already read: 60,000 comments, less than a megabyte, take a minute.
In the containers checked here it reads all of them in one call, which cannot be interrupted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from genretree.sound.complete import TooManyPartsError
from genretree.sound.containers import read_at
from genretree.sound.tag_bounds import count_id3_frames

MAX_COMMENTS = 5000  # real files have a few dozen
_MAX_BLOCKS = 10_000
_MAX_HEADER_PAGES = 10_000  # in an Ogg file: enough for pictures of 40 MB
_MAX_OTHER_HEADERS = 8  # header packets of a stream that is not audio
_MAGIC = (b"\x03vorbis", b"OpusTags", b"\x81kate\0\0\0\0", b"\x81theora", b"OVP80\x02 ")
_OGG_FLAC, _SPEEX = b"\x7fFLAC", b"Speex   "
_READ_SIZE = 1 << 20
_SIMPLE_TAG = b"\x67\xc8"  # Matroska element ID (RFC 9559)
_BYTES_PER_FALSE_MATCH = 10_000
_MIN_COMMENT_BYTES = 4  # the length field


def check_comments(file: io.FileIO, container: str, parts: Iterable[tuple[int, int]]) -> None:
    """Reject a flac, Ogg, Matroska, wav or aiff file with too many comments or ID3 frames.

    Parameters
    ----------
    file : io.FileIO
    container : str
        As returned by `sniff`; other containers are not checked.
    parts : iterable of (int, int)
        Start and end of each part that is decoded separately, in bytes.

    Raises
    ------
    TooManyPartsError
        If one part has more than 5,000.
    """
    if container in ("wav", "aiff"):  # FFmpeg reads such a tag in one call, which no time limit can interrupt
        for start, end in parts:
            if count_id3_frames(file, start, end, MAX_COMMENTS + 1) > MAX_COMMENTS:
                raise TooManyPartsError(f"has more than {MAX_COMMENTS:,} frames in its ID3 tags")
    elif container == "matroska":
        for start, end in parts:
            _check_matroska(file, start, end)
    elif container in _BLOCKS:
        for start, end in parts:
            count = 0
            for block in _BLOCKS[container](file, start, end):
                count += count_comments(block)
                if count > MAX_COMMENTS:
                    raise TooManyPartsError(f"has more than {MAX_COMMENTS:,} comments")


def _check_matroska(file: io.FileIO, start: int, end: int) -> None:
    """Count the IDs of tag elements anywhere in the data: an index may point to tags inside any element.

    In random data, one position in 65,536 matches by chance.
    """
    n_tags, tail = 0, b""
    for at in range(start, end, _READ_SIZE):
        data = tail + read_at(file, at, min(_READ_SIZE, end - at))
        n_tags += data.count(_SIMPLE_TAG)
        tail = data[-1:]
    if n_tags > MAX_COMMENTS + (end - start) // _BYTES_PER_FALSE_MATCH:
        raise TooManyPartsError(f"has more than {MAX_COMMENTS:,} comments")


def count_comments(block: bytes) -> int:
    """Return the number of comments that a block declares, at most as many as fit into it."""
    at = 4 + int.from_bytes(block[:4], "little")
    return min(int.from_bytes(block[at : at + 4], "little"), max(0, len(block) - at - 4) // _MIN_COMMENT_BYTES)


def _flac_blocks(file: io.FileIO, start: int, end: int) -> Iterator[bytes]:
    at = start + 4
    for _ in range(_MAX_BLOCKS):
        head = read_at(file, at, 4)
        if len(head) < 4 or at >= end:
            return
        length = int.from_bytes(head[1:], "big")
        if head[0] & 127 == 4:
            yield read_at(file, at + 4, length)
        at += 4 + length
        if head[0] & 128:
            return
    raise TooManyPartsError(f"has more than {_MAX_BLOCKS:,} metadata blocks")


def _ogg_blocks(file: io.FileIO, start: int, end: int) -> Iterator[bytes]:
    """Yield the comment data of each stream's header packets, until every stream has its first audio packet."""
    at = start
    packets: dict[bytes, bytearray] = {}
    first: dict[bytes, bytes] = {}
    count: dict[bytes, int] = {}
    started: set[bytes] = set()
    for _ in range(_MAX_HEADER_PAGES):
        head = read_at(file, at, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27 or at >= end or (first and started == set(first)):
            return
        lacing = head[27 : 27 + head[26]]
        serial, at = head[14:18], at + 27 + len(lacing)
        data = read_at(file, at, sum(lacing))
        at += len(data)
        offset = 0
        for length in lacing:
            packet = packets.setdefault(serial, bytearray())
            packet += data[offset : offset + length]
            offset += length
            if length < 255:
                whole = bytes(packets.pop(serial))
                magic_bytes = first.setdefault(serial, whole[:8])
                count[serial] = count.get(serial, 0) + 1
                if _is_audio_packet(magic_bytes, whole, count[serial]):
                    started.add(serial)
                yield from _ogg_comments(whole, magic_bytes)
    raise TooManyPartsError(f"has more than {_MAX_HEADER_PAGES:,} pages before its audio")


def _is_audio_packet(first: bytes, packet: bytes, number: int) -> bool:
    """Return whether a packet follows a stream's headers; `number` counts from 1."""
    if first.startswith(b"\x01vorbis"):
        return not (packet[:1] and packet[0] & 1)
    if first.startswith(_OGG_FLAC):
        return packet[:1] == b"\xff"
    return number > (2 if first.startswith((b"OpusHead", _SPEEX)) else _MAX_OTHER_HEADERS)


def _ogg_comments(packet: bytes, first: bytes) -> Iterator[bytes]:
    for magic in _MAGIC:
        if packet.startswith(magic):
            yield packet[len(magic) :]
    if first.startswith(_OGG_FLAC) and packet[:1] and packet[0] & 127 == 4:
        yield packet[4:]
    if first.startswith(_SPEEX):
        yield packet


_BLOCKS = {"flac": _flac_blocks, "ogg": _ogg_blocks}
