"""Read and edit APEv2 tags of mp3 files, ``LIST INFO`` chunks of wav files, and ID3v1 tags byte by byte.

A new ID3v2 tag hides these from most players, so the genre is written into the existing tag. mutagen can't do that: it
drops the ID3v1 tag after an APEv2 tag, and does not support ``LIST INFO``. Specifications: APEv2 at Hydrogenaudio, and
Microsoft's "Multimedia Programming Interface and Data Specifications 1.0".
"""

from __future__ import annotations

import codecs
import io
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genretree.library.tags.audio_digest import LayoutError, riff_chunks
from genretree.sound.containers import OPEN_ENDED, read_at

V1_BYTES = 128
OWN_INFO = b"GNTR"
"""Subchunk of ``LIST INFO`` with genretree's fields as JSON; players ignore it or show it as another field."""
_APE_MAGIC = b"APETAGEX"
_APE_HEADER = struct.Struct("<8sIIIIQ")  # magic, version, bytes of items and footer, number of items, flags, reserved
_APE_VERSION = 2000
_APE_HAS_HEADER, _APE_NO_FOOTER = 1 << 31, 1 << 30
_TEXT_ITEM = 0
_MAX_APE_BYTES = 1 << 26
_MAX_INFO_BYTES = 1 << 24
_MAX_RIFF = 0xFFFFFFFF


def split_end(file: io.FileIO, size: int) -> tuple[int, int]:
    """Return the offsets of the APEv2 tag and the ID3v1 tag at the end of a file.

    Returns
    -------
    (int, int)
        Offsets in bytes. They are equal without an APEv2 tag; the second is `size` without an ID3v1 tag.
    """
    v1 = size - V1_BYTES if size >= V1_BYTES and read_at(file, size - V1_BYTES, 3) == b"TAG" else size
    footer = read_at(file, max(0, v1 - 32), 32)
    if v1 < 32 or footer[:8] != _APE_MAGIC:
        return v1, v1
    _, _, length, _, flags, _ = _APE_HEADER.unpack(footer)
    return v1 - length - (32 if flags & _APE_HAS_HEADER else 0), v1


# -- APEv2 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApeItem:
    """One field of an APEv2 tag.

    Parameters
    ----------
    key : str
        Key as in the file; keys are not case-sensitive.
    flags : int
    value : bytes
        Text in UTF-8; several values are separated by NUL.
    """

    key: str
    flags: int
    value: bytes

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as text."""
        return tuple(self.value.decode("utf-8", "replace").split("\0"))


@dataclass(frozen=True)
class ApeTag:
    """An APEv2 tag at the end of a file, from byte `start` to byte `end`."""

    start: int
    end: int
    items: tuple[ApeItem, ...]
    flags: int


def read_ape(file: io.FileIO, size: int) -> ApeTag | None:
    """Read the APEv2 tag at the end of a file, before the ID3v1 tag if there is one; None without such a tag.

    Raises
    ------
    LayoutError
        If the tag is damaged or can't be edited safely.
    """
    start, end = split_end(file, size)
    if start == end:
        return None
    _, version, length, count, flags, _ = _APE_HEADER.unpack(read_at(file, end - 32, 32))
    if version != _APE_VERSION:
        raise LayoutError(f"its APE tag has version {version}, and only 2000 can be edited; convert it in a tag editor")
    if start < 0 or not 32 <= length <= _MAX_APE_BYTES or flags & _APE_NO_FOOTER:
        raise LayoutError("its APE tag is damaged (size or flags); save it again in a tag editor")
    if flags & _APE_HAS_HEADER and read_at(file, start, 20) != read_at(file, end - 32, 20):
        raise LayoutError("its APE tag is damaged (header and footer differ); save it again in a tag editor")
    return ApeTag(start, end, _ape_items(read_at(file, end - length, length - 32), count), flags)


def _ape_items(data: bytes, count: int) -> tuple[ApeItem, ...]:
    items: list[ApeItem] = []
    at = 0
    while at + 8 < len(data):
        length, flags = struct.unpack_from("<II", data, at)
        stop = data.find(b"\0", at + 8, at + 8 + 256)
        if stop < 0 or stop + 1 + length > len(data) or not data[at + 8 : stop].isascii():
            break
        items.append(ApeItem(data[at + 8 : stop].decode("ascii"), flags, data[stop + 1 : stop + 1 + length]))
        at = stop + 1 + length
    if at != len(data) or len(items) != count:
        raise LayoutError("its APE tag is damaged (items and size don't match); save it again in a tag editor")
    return tuple(items)


def edit_ape(path: Path, fields: Mapping[str, Sequence[str]]) -> None:
    """Set fields of a file's APEv2 tag in place; fields without values are removed.

    All other items, their order, and the ID3v1 tag after them are not changed.

    Raises
    ------
    LayoutError
        If the file has no such tag, or it can't be edited.
    """
    with path.open("r+b", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        tag = read_ape(file, size)
        if tag is None:
            raise LayoutError("has no APE tag")
        pending = {name.casefold(): (name, texts) for name, texts in fields.items()}
        items = []
        for item in tag.items:
            if item.key.casefold() in {name.casefold() for name in fields}:
                _, texts = pending.pop(item.key.casefold(), ("", ()))
                if texts:
                    items.append(_text_item(item.key, texts))
            else:
                items.append(item)
        items += [_text_item(name, texts) for name, texts in pending.values() if texts]
        body = b"".join(
            struct.pack("<II", len(item.value), item.flags) + item.key.encode() + b"\0" + item.value for item in items
        )
        header = b""
        end = _APE_MAGIC, _APE_VERSION, len(body) + 32, len(items)
        if tag.flags & _APE_HAS_HEADER:
            header = _APE_HEADER.pack(*end, tag.flags | 1 << 29, 0)
        footer = _APE_HEADER.pack(*end, tag.flags & ~(1 << 29), 0)
        tail = read_at(file, tag.end, size - tag.end)
        file.seek(tag.start)
        file.write(header + body + footer + tail)
        file.truncate()


def _text_item(name: str, texts: Iterable[str]) -> ApeItem:
    return ApeItem(name, _TEXT_ITEM, "\0".join(texts).encode())


# -- LIST INFO ---------------------------------------------------------------------------------------------------


def read_info(file: io.FileIO, size: int) -> tuple[int, int, list[tuple[bytes, bytes]]] | None:
    """Read the ``LIST INFO`` chunk of a wav file.

    Returns
    -------
    (int, int, list of (bytes, bytes)) or None
        Start and end of its content, and the names and contents of its subchunks; None without such a chunk.

    Raises
    ------
    LayoutError
        If there are several such chunks, or it is damaged.
    """
    chunks = [
        (start, end)
        for name, start, end in riff_chunks(file, size, "little")
        if name == b"LIST" and read_at(file, start, 4) == b"INFO"
    ]
    if not chunks:
        return None
    if len(chunks) > 1:
        raise LayoutError("has several INFO lists, which players read in different ways; save it again in a tag editor")
    start, end = chunks[0]
    if end - start > _MAX_INFO_BYTES or end - start != int.from_bytes(read_at(file, start - 4, 4), "little"):
        raise LayoutError("its INFO list is cut off or too large; save it again in a tag editor")
    return start, end, _info_fields(read_at(file, start + 4, end - start - 4))


def _info_fields(data: bytes) -> list[tuple[bytes, bytes]]:
    fields = []
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            break
        fields.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if data[at:].strip(b"\0"):
        raise LayoutError("its INFO list is damaged; save it again in a tag editor")
    return fields


def info_text(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """Return the text of a subchunk, or "" if it is missing."""
    return next((data.split(b"\0")[0].decode("utf-8", "replace").strip() for key, data in fields if key == name), "")


def info_own(fields: Iterable[tuple[bytes, bytes]], names: Iterable[str]) -> dict[str, str]:
    """Read genretree's fields with these names from an INFO list."""
    try:
        own = json.loads(info_text(fields, OWN_INFO) or "{}")
    except (ValueError, RecursionError):
        return {}
    return {name: own[name] for name in names if isinstance(own, dict) and isinstance(own.get(name), str)}


def edit_info(path: Path, genre: str, own: Mapping[str, str]) -> None:
    """Set the genre and genretree's fields in the ``LIST INFO`` chunk of a wav file in place.

    All other subchunks are not changed; the chunks after it are shifted.

    Raises
    ------
    LayoutError
        If the file has no such chunk, or it can't be edited.
    """
    from mutagen._util import resize_bytes  # shifts the rest of a file block by block

    texts = {b"IGNR": genre, OWN_INFO: json.dumps(dict(own)) if own else ""}
    with path.open("r+b") as file:
        raw: io.FileIO = file.raw  # type: ignore[assignment]
        size = raw.seek(0, io.SEEK_END)
        riff = int.from_bytes(read_at(raw, 4, 4), "little")
        if read_at(raw, 0, 4) != b"RIFF" or not 4 <= riff < OPEN_ENDED or riff + 8 > size + 1:
            raise LayoutError(f"its RIFF header gives a size of {riff:,} bytes, the file has {size:,}; remux it first")
        info = read_info(raw, size)
        if info is None:
            raise LayoutError("has no INFO list")
        start, end, fields = info
        for name, text in texts.items():
            places = [place for place, (key, _) in enumerate(fields) if key == name]
            added = [(name, text.encode() + b"\0")] if text else []
            at = places[0] if places else len(fields)
            fields = [
                *(field for field in fields[:at] if field[0] != name),
                *added,
                *(field for field in fields[at:] if field[0] != name),
            ]
        parts = [name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in fields]
        content = b"INFO" + b"".join(parts)
        old = min(size, end + (end - start) % 2) - start
        if riff + len(content) - old > _MAX_RIFF:
            raise LayoutError("would grow beyond 4 GiB, more than a wav file can hold")
        file.seek(0)
        resize_bytes(file, old, len(content), start)
        for at, number in ((start - 4, len(content)), (4, riff + len(content) - old)):
            file.seek(at)
            file.write(struct.pack("<I", number))
        file.seek(start)
        file.write(content)


# -- ID3v1 -------------------------------------------------------------------------------------------------------


def read_v1(path: Path) -> bytes:
    """Read the ID3v1 tag of a file: 128 bytes, or b"" without one."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        tail = read_at(file, max(0, size - V1_BYTES), V1_BYTES)
    return tail if len(tail) == V1_BYTES and tail[:3] == b"TAG" else b""


def v1_texts(tag: bytes) -> dict[str, str]:
    """Return the fields of an ID3v1 tag, except the genre, by the names of the corresponding ID3v2 frames.

    The text is decoded as Latin-1, which is written as the same bytes, so that players that assume another code page
    show the same text as before.

    Raises
    ------
    LayoutError
        If players read the tag in different ways, so that an ID3v2 tag would change what some of them show.
    """
    if not tag:
        return {}
    numbered = tag[125] == 0 and tag[126] != 0
    raw = {"TIT2": tag[3:33], "TPE1": tag[33:63], "TALB": tag[63:93], "TDRC": tag[93:97], "COMM": tag[97:127]}
    if numbered:
        raw["COMM"] = tag[97:125]
    texts = {}
    for name, data in raw.items():
        data = data.split(b"\0")[0].strip(b" \t\n\f\r")
        if any(character > "\x7f" for character in codecs.getincrementaldecoder("utf-8")("replace").decode(data)):
            _check_code_page(data)
        if data:
            texts[name] = data.decode("latin-1")
    year = texts.get("TDRC", "0000")
    if len(year) != 4 or not (year.isascii() and year.isdigit()):
        raise LayoutError(f"its ID3v1 tag holds the year {year!r}, which an ID3v2 tag can't; correct it first")
    if numbered:
        texts["TRCK"] = str(tag[126])
    return texts


def _check_code_page(data: bytes) -> None:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)  # the last character may be cut off
    except UnicodeDecodeError:
        return
    if not text.isascii():
        raise LayoutError(
            f"its ID3v1 tag holds {text!r} as UTF-8, which some players read as Latin-1, so that an ID3v2 tag would "
            "change what one of them shows; save its tags as ID3v2 in a tag editor first"
        )
