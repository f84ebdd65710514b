"""How many comments a file holds, counted before FFmpeg takes them.

FFmpeg looks for each comment among all that it has already: 60,000 of them, less than a megabyte, take it a minute.
Those of the containers here it takes all at once, so that it can't be stopped in between.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from genretree.sound.complete import TooManyPartsError
from genretree.sound.containers import read_at
from genretree.sound.tag_bounds import count_id3_frames

MAX_COMMENTS = 5000  # real files have some dozens
_MAX_BLOCKS = 10_000
_MAX_HEADER_PAGES = 10_000  # of an Ogg file: pictures of 40 MB and more
_OTHER_HEADERS = 8  # packets of streams that are not sound
_MAGIC = (b"\x03vorbis", b"OpusTags", b"\x81kate\0\0\0\0", b"\x81theora", b"OVP80\x02 ")
_OGG_FLAC, _SPEEX = b"\x7fFLAC", b"Speex   "
_PIECE = 1 << 20
_SIMPLE_TAG = b"\x67\xc8"  # of Matroska (RFC 9559)
_BYTES_PER_CHANCE = 10_000
_LEAST_BYTES = 4  # of a comment: its length


def check_comments(file: io.FileIO, container: str, parts: Iterable[tuple[int, int]]) -> None:
    """Refuse a flac, Ogg, Matroska, wav or aiff file with more comments or ID3 frames than FFmpeg reads in a moment.

    Parameters
    ----------
    file : io.FileIO
    container : str
        As `sniff` names it; other containers than these are not looked at.
    parts : iterable of (int, int)
        Where each part that is decoded by itself begins and ends, in bytes.

    Raises
    ------
    TooManyPartsError
        If there are more than 5,000 in one part.
    """
    if container in ("wav", "aiff"):  # FFmpeg reads such a tag at once, so that no limit of time ends it
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
    """Count what looks like the beginning of a tag, wherever it is: an index may point to tags within anything.

    In any other bytes there is one in 65,536.
    """
    found, last = 0, b""
    for at in range(start, end, _PIECE):
        data = last + read_at(file, at, min(_PIECE, end - at))
        found += data.count(_SIMPLE_TAG)
        last = data[-1:]
    if found > MAX_COMMENTS + (end - start) // _BYTES_PER_CHANCE:
        raise TooManyPartsError(f"has more than {MAX_COMMENTS:,} comments")


def count_comments(block: bytes) -> int:
    """Count the comments that a block declares, as far as they can be there."""
    at = 4 + int.from_bytes(block[:4], "little")
    return min(int.from_bytes(block[at : at + 4], "little"), max(0, len(block) - at - 4) // _LEAST_BYTES)


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
    """Yield what the header packets of each stream hold as comments, up to where all streams have begun to play."""
    at = start
    packets: dict[bytes, bytearray] = {}
    first: dict[bytes, bytes] = {}
    count: dict[bytes, int] = {}
    playing: set[bytes] = set()
    for _ in range(_MAX_HEADER_PAGES):
        head = read_at(file, at, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27 or at >= end or (first and playing == set(first)):
            return
        lacing = head[27 : 27 + head[26]]
        serial, at = head[14:18], at + 27 + len(lacing)
        data = read_at(file, at, sum(lacing))
        at += len(data)
        place = 0
        for length in lacing:
            packet = packets.setdefault(serial, bytearray())
            packet += data[place : place + length]
            place += length
            if length < 255:
                whole = bytes(packets.pop(serial))
                kind = first.setdefault(serial, whole[:8])
                count[serial] = count.get(serial, 0) + 1
                if _plays(kind, whole, count[serial]):
                    playing.add(serial)
                yield from _ogg_comments(whole, kind)
    raise TooManyPartsError(f"has more than {_MAX_HEADER_PAGES:,} pages before its sound")


def _plays(first: bytes, packet: bytes, number: int) -> bool:
    """Whether a packet comes behind a stream's headers; the first has the number 1."""
    if first.startswith(b"\x01vorbis"):
        return not (packet[:1] and packet[0] & 1)
    if first.startswith(_OGG_FLAC):
        return packet[:1] == b"\xff"
    return number > (2 if first.startswith((b"OpusHead", _SPEEX)) else _OTHER_HEADERS)


def _ogg_comments(packet: bytes, first: bytes) -> Iterator[bytes]:
    for magic in _MAGIC:
        if packet.startswith(magic):
            yield packet[len(magic) :]
    if first.startswith(_OGG_FLAC) and packet[:1] and packet[0] & 127 == 4:
        yield packet[4:]
    if first.startswith(_SPEEX):
        yield packet


_BLOCKS = {"flac": _flac_blocks, "ogg": _ogg_blocks}
