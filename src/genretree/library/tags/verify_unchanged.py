"""Verify that a write changed no tags except the genre and genretree's fields.

The tags are parsed from the file's bytes, since mutagen, which writes them, repairs and merges tags when it reads.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from genretree.library.tags.adapters import OWN_FIELDS, TagError, choose_tag
from genretree.library.tags.audio_digest import (
    LayoutError,
    boxes,
    detect_format,
    header_packets,
    mp3_audio_span,
    riff_chunks,
)
from genretree.library.tags.id3_frames import TagField, read_frames, tag_size
from genretree.library.tags.legacy_formats import OWN_INFO, read_ape, read_info, v1_texts
from genretree.sound.containers import read_at, sniff

_COPY = 1 << 20
_NAMED = 4  # maximum number of fields in a message
_ITUNES = b"com.apple.iTunes"
_COMMENT_BEHIND = {b"\x01vorbis": 7, b"OpusHead": 8, b"Speex   ": 0}  # bytes of the second packet before the comments
_PAIRS = (b"trkn", b"disk")
_TAG_PATH = (b"moov", b"udta", b"meta", b"ilst")
_MOVING = (b"trak", b"free", b"skip", b"mdat")  # compared by the audio hash, or padding


def check_unchanged(before: Path, after: Path) -> None:
    """Check that two files have the same tags, except for the genre and genretree's fields.

    Raises
    ------
    TagError
        If they differ; the message names the fields.
    """
    old, new = _tag_json(before), _tag_json(after)
    if not any(field[0] == "vendor" for field in old):  # new comments name the library that wrote them
        new = Counter(
            field for field in new.elements() if field[0] != "vendor" and field != ("behind the comments", b"")
        )
    changed = list(dict.fromkeys(str(field[0]) for field in (*(old - new), *(new - old))))
    if changed:
        named = ", ".join(changed[:_NAMED]) + (" ..." if len(changed) > _NAMED else "")
        twice = [name for name in changed if sum(n for field, n in old.items() if field[0] == name) > 1]
        why = "which are repeated" if twice else "which are damaged or unusual"
        raise TagError(f"other tags would change ({named}), {why}; save them again in a tag editor first")


def _tag_json(path: Path) -> Counter[TagField]:
    with path.open("rb", buffering=0) as file:
        format_, size = detect_format(file), file.seek(0, io.SEEK_END)
        if format_ not in _READERS:
            raise LayoutError(f"{format_ or 'unknown'} files can't be tagged")
        try:
            return Counter(field for field in _READERS[format_](file, size) if not _may_change(field))
        except (TagError, LayoutError, OSError):
            raise
        except Exception as error:  # damaged tags may raise errors of any type, which must not stop the run
            raise TagError(f"its tags can't be compared ({type(error).__name__}: {error})") from error


def _may_change(field: TagField) -> bool:
    """Return whether a field is the genre or one of genretree's."""
    name = field[0]
    if name == "TXXX":
        return len(field) > 1 and str(field[1]).upper() in OWN_FIELDS
    return name in ("TCON", "GENRE", *OWN_FIELDS)


def _mp3(file: io.FileIO, size: int) -> Iterator[TagField]:
    start, end = mp3_audio_span(file, size)
    head = read_at(file, 0, 10)
    length = tag_size(head)
    target = choose_tag(_path(file), "mp3")
    if length:
        yield from read_frames(read_at(file, 0, length))
    yield from _from_v1(target.v1, "TYER" if length and head[3] < 4 else "TDRC")
    yield "a second tag", read_at(file, length, start - length)
    tag = None
    with suppress(LayoutError):  # compared as bytes then
        tag = read_ape(file, size)
    if tag is not None:
        for item in tag.items:
            name = item.key.upper()
            yield (name,) if name == "GENRE" or name in OWN_FIELDS else (f"APE {item.key}", item.flags, item.value)
        yield "flags of the APE tag", tag.flags
        end = tag.end
    yield "the tags at the end", read_at(file, end, size - end)


def _path(file: io.FileIO) -> Path:
    return Path(cast(str, file.name))


def _from_v1(tag: bytes, year: str) -> Iterator[TagField]:
    """Yield the fields that an ID3v2 tag takes over from an ID3v1 tag."""
    for name, text in v1_texts(tag).items():
        yield (name, b"XXX", "", text) if name == "COMM" else (year if name == "TDRC" else name, text)


def _wav(file: io.FileIO, size: int) -> Iterator[TagField]:
    info = None
    with suppress(LayoutError):  # compared as bytes then
        info = read_info(file, size)
    yield from _riff(file, size, "little", (b"fmt ", b"data", b"fact"), skip=-1 if info is None else info[0])
    for name, data in [] if info is None else info[2]:
        yield ("GENRE",) if name in (b"IGNR", OWN_INFO) else (f"INFO {name.decode('latin-1')}", data)


def _flac(file: io.FileIO, size: int) -> Iterator[TagField]:
    at = sniff(file, size)[1]
    yield "the ID3 tag in front", _hash(file, 0, at)
    at += 4
    last = False
    while not last:
        head = read_at(file, at, 4)
        if len(head) < 4:
            raise LayoutError("its metadata has no end")
        last, type_, end = bool(head[0] & 0x80), head[0] & 0x7F, at + 4 + int.from_bytes(head[1:], "big")
        if type_ == 4:
            yield from _comments(read_at(file, at + 4, end - at - 4))
        elif type_ != 1:
            yield f"block {type_}", _hash(file, at + 4, end)
        at = end
    yield "the tag at the end", read_at(file, max(at, size - 128), 128) if _has_v1(file, size) else b""


def _has_v1(file: io.FileIO, size: int) -> bool:
    return read_at(file, max(0, size - 128), 3) == b"TAG"


def _ogg(file: io.FileIO, size: int) -> Iterator[TagField]:
    first_packets: dict[bytes, bytes] = {}
    for stream, place, packet in header_packets(file, size):
        first = first_packets.setdefault(stream, packet)
        skip = next((skip for magic, skip in _COMMENT_BEHIND.items() if first.startswith(magic)), None)
        if first.startswith(b"\x7fFLAC") and place:
            block = packet[0] & 0x7F
            yield from _comments(packet[4:]) if block == 4 else [("a header", block, packet[4:])] if block != 1 else ()
        elif skip is not None and place == 1:
            yield from _comments(packet[skip:])
        else:
            yield "a header", stream, place, packet


def _comments(data: bytes) -> Iterator[TagField]:
    """Yield the vendor, the fields, and any data after the fields of a Vorbis comment."""
    at = 4 + int.from_bytes(data[:4], "little")
    yield "vendor", data[4:at]
    count, at = int.from_bytes(data[at : at + 4], "little"), at + 4
    for _ in range(count):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + length > len(data):
            raise LayoutError("its comments are cut off")
        name, _, text = data[at + 4 : at + 4 + length].partition(b"=")
        yield name.decode("ascii", "backslashreplace").upper(), text
        at += 4 + length
    yield "behind the comments", data[at:].rstrip(b"\0")


def _mp4(file: io.FileIO, size: int) -> Iterator[TagField]:
    yield from _boxes_in(file, 0, size, ())


def _boxes_in(file: io.FileIO, low: int, high: int, above: tuple[bytes, ...]) -> Iterator[TagField]:
    for name, start, end in boxes(file, low, high):
        box_path = (*above, name)
        if name in _MOVING or (name == b"hdlr" and above[-1:] == (b"meta",)):
            continue  # the handler of a tag list has no information
        if box_path == _TAG_PATH[: len(box_path)]:
            yield from _boxes_in(file, start + (4 if name == b"meta" else 0), end, box_path)
        elif above[-1:] == (b"ilst",):
            yield _mp4_tag(file, name, start, end)
        else:
            yield name.decode("latin-1"), _hash(file, start, end)


def _mp4_tag(file: io.FileIO, name: bytes, start: int, end: int) -> TagField:
    if name in (b"\xa9gen", b"gnre"):
        return ("GENRE",)
    parts = [(inner, read_at(file, low, high - low)) for inner, low, high in boxes(file, start, end)]
    if name == b"----":
        mean, own = (b"".join(data[4:] for inner, data in parts if inner == key) for key in (b"mean", b"name"))
        label = own.decode("utf-8", "backslashreplace")
        if mean != _ITUNES or label not in OWN_FIELDS:
            label = f"{mean.decode('utf-8', 'backslashreplace')}:{label}"
        return (label, *(data for inner, data in parts if inner == b"data"))
    return (name.decode("latin-1"), *(_mp4_value(name, data) if inner == b"data" else data for inner, data in parts))


def _mp4_value(name: bytes, data: bytes) -> object:
    """Return a value; numbers are decoded, since their width in bytes may differ."""
    type_, content = int.from_bytes(data[:4], "big"), data[8:]
    if type_ == 21:
        return type_, int.from_bytes(content, "big", signed=True)
    return type_, content.rstrip(b"\0") if name in _PAIRS else content


def _riff(file: io.FileIO, size: int, order: str, sound: tuple[bytes, ...], skip: int = -1) -> Iterator[TagField]:
    for name, start, end in riff_chunks(file, size, order):
        if start == skip:
            continue
        if name.upper() == b"ID3 ":
            tag = read_at(file, start, end - start)
            yield from read_frames(tag) if tag_size(tag) else [("ID3", tag)]
        elif name not in sound:
            yield name.decode("latin-1"), _hash(file, start, end)


def _hash(file: io.FileIO, start: int, end: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    while start < end and (block := read_at(file, start, min(_COPY, end - start))):
        digest.update(block)
        start += len(block)
    return digest.digest()


_READERS: dict[str, Callable[[io.FileIO, int], Iterator[TagField]]] = {
    "mp3": _mp3,
    "flac": _flac,
    "ogg": _ogg,
    "mp4": _mp4,
    "wav": _wav,
    "aiff": lambda file, size: _riff(file, size, "big", (b"COMM", b"SSND")),
}
