"""Parse the frames of an ID3v2 tag as they are in the file, without repairing or merging any.

Specifications: ID3v2.2, v2.3 and v2.4 at id3.org.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from genretree.sound.containers import synchsafe
from genretree.sound.tag_bounds import MAX_DECOMPRESSED

TagField = tuple[object, ...]
_NAME = re.compile(rb"[A-Z][A-Z0-9]{2,3}")
_OLD_PICTURE = {"JPG": "image/jpeg", "PNG": "image/png"}
TEXT_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


def tag_size(head: bytes) -> int:
    """Return the size in bytes of the ID3v2 tag with this header (10 bytes), 0 if it is not one."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + synchsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)


def read_frames(tag: bytes) -> list[TagField]:
    """Parse an ID3v2 tag.

    Parameters
    ----------
    tag : bytes
        The whole tag with its header.

    Returns
    -------
    list of tuple
        Per frame, its name in v2.3 and v2.4, and its values: decoded text, and bytes for everything else. Empty frames
        are omitted; frames that can't be parsed are returned as bytes.
    """
    major, flags = tag[3], tag[5]
    body = tag[10 : 10 + synchsafe(tag[6:10])]
    if flags & 0x80 and major < 4:
        body = _resynchronise(body)
    if flags & 0x40 and major > 2 and not _NAME.fullmatch(body[:4]):
        body = body[synchsafe(body[:4]) if major == 4 else 4 + int.from_bytes(body[:4], "big") :]
    frames = list(_walk(body, major, plain=major < 4))
    if major == 4 and any(name == "?" for name, _, _ in frames):  # some programs write sizes in the format of v2.3
        other = list(_walk(body, major, plain=True))
        frames = other if all(name != "?" for name, _, _ in other) else frames
    fields = [_read_frame(name, _unpack(data, frame_flags, major, flags), major) for name, frame_flags, data in frames]
    return [field for field in fields if len(field) > 1]


def _walk(body: bytes, major: int, plain: bool) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, flags and data of the frames; data that is not a frame has the name `?`."""
    width, head = (3, 6) if major == 2 else (4, 10)
    at = 0
    while at + head <= len(body) and body[at]:
        name, raw = body[at : at + width], body[at + width : at + 2 * width]
        size = int.from_bytes(raw, "big") if plain else synchsafe(raw)
        if not _NAME.fullmatch(name) or at + head + size > len(body):
            break
        flags = int.from_bytes(body[at + 8 : at + 10], "big") if major > 2 else 0
        yield name.decode(), flags, body[at + head : at + head + size]
        at += head + size
    if rest := body[at:].strip(b"\0"):
        yield "?", 0, rest


def _unpack(data: bytes, flags: int, major: int, tag_flags: int) -> bytes:
    """Decode a frame's data according to its flags."""
    packed = bool(flags & (0x08 if major == 4 else 0x80))
    if packed or (major == 4 and flags & 0x01):
        data = data[4:]
    if major == 4 and (flags & 0x02 or tag_flags & 0x80):
        data = _resynchronise(data)
    if not packed:
        return data
    decompressor = zlib.decompressobj()
    try:
        unpacked = decompressor.decompress(data, MAX_DECOMPRESSED)
    except zlib.error:
        return data
    return data if decompressor.unconsumed_tail else unpacked


def _resynchronise(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff")


def _read_frame(name: str, data: bytes, major: int) -> TagField:
    if major == 2:
        name = _modern_name(name)
    try:
        return (name, *_content(name, data, major))
    except (ValueError, IndexError):
        return (name, data)


def _modern_name(name: str) -> str:
    from mutagen.id3 import Frames_2_2

    frame = Frames_2_2.get(name)
    return frame.__bases__[0].__name__ if frame is not None else name


def _content(name: str, data: bytes, major: int) -> TagField:
    """Return the values of a frame, () if it is empty. Raises ValueError or IndexError if it is damaged."""
    if not data:
        return ()
    if name == "?" or name[0] not in "TWCUA":
        return (data,)
    if name[0] == "T":
        return _texts(data[0], data[1:])
    if name in ("COMM", "USLT"):
        return (data[1:4], *_texts(data[0], data[4:], n_min=2))
    if name == "WXXX":
        title, address = _first_text(data[0], data[1:])
        return (title, address.rstrip(b"\0"))
    if name[0] == "W":
        return (data.rstrip(b"\0"),)
    if name == "APIC":
        cut = 4 if major == 2 else data.index(b"\0", 1) + 1
        mime_type = data[1:cut].rstrip(b"\0").decode("latin-1")
        title, picture = _first_text(data[0], data[cut + 1 :])
        return (_OLD_PICTURE.get(mime_type, mime_type), data[cut], title, picture)
    return (data,)


def _texts(encoding: int, data: bytes, n_min: int = 0) -> tuple[str, ...]:
    """Split text at NULs; empty strings at the end, after the first `n_min`, are padding."""
    texts = []
    while data:
        text, data = _first_text(encoding, data)
        texts.append(text)
    while len(texts) > n_min and not texts[-1]:
        texts.pop()
    return tuple(texts) if any(texts) else ()


def _first_text(encoding: int, data: bytes) -> tuple[str, bytes]:
    """Split data at the first NUL: decoded text, and the rest."""
    width = 2 if encoding in (1, 2) else 1
    end = data.find(b"\0" * width)
    while end % width and end >= 0:
        end = data.find(b"\0" * width, end + 1)
    raw, rest = (data, b"") if end < 0 else (data[:end], data[end + width :])
    name = TEXT_ENCODINGS[encoding]
    if name == "utf-16" and raw[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        name = "utf-16-le"
    return raw.decode(name), rest
