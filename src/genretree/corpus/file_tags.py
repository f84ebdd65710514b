"""Artist, album, title and album artist from the tags of audio files of all formats."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from genretree.sound.tag_bounds import check_tags

# Names of each field in ID3, in ASF (wma) and in the INFO chunk of a wav. Vorbis comments, APEv2, MP4 in mutagen, and
# Matroska use the key itself, in upper or lower case.
_NAMES = {
    "artist": ("TPE1", "Author", "IART"),
    "album": ("TALB", "WM/AlbumTitle", "IPRD"),
    "title": ("TIT2", "Title", "INAM"),
    "albumartist": ("TPE2", "album artist", "WM/AlbumArtist"),
    "compilation": ("TCMP", "cpil", "WM/IsCompilation"),
}
_FRONT_COVER = 3  # in ID3 and flac
_MATROSKA = b"\x1a\x45\xdf\xa3"
_MAX_CHUNKS = 1000  # of a wav, searched for INFO
_MAX_INFO = 1 << 20  # bytes of INFO to read


def read_tags(
    path: Path, fields: Sequence[str] = ("artist", "album", "title"), max_length: int | None = None
) -> dict[str, str]:
    """Read artist, album and title from a file's tags.

    Parameters
    ----------
    path : Path
    fields : sequence of str
        The fields to read; also `albumartist` and `compilation`.
    max_length : int, optional
        Characters of a value to keep.

    Returns
    -------
    dict
        The non-blank values of the fields; several values of one are separated by "; ". Empty if the
        tags cannot be read: damaged tags do not affect the audio, which is checked when it is decoded.
    """
    if not path.is_file():  # opening a named pipe would block
        return {}
    for read in (_read_mutagen, _read_other):
        try:
            check_tags(path)
            tags_found = {name: _join(values) for name, values in read(path, fields).items()}
        except Exception:
            continue
        if any(tags_found.values()):
            return {name: value[:max_length] for name, value in tags_found.items() if value}
    return {}


def read_cover(path: Path) -> bytes:
    """Read the cover picture from the tags of an mp3, flac, ogg, opus or m4a file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    bytes
        The content of the picture file; empty if there is none, or the tags cannot be read.
    """
    try:
        check_tags(path)
        import mutagen

        tags = mutagen.File(path)
        pictures = list(_iter_pictures(tags))
    except Exception:
        return b""
    # Type 3 is the front cover; other pictures may be of the artist or the label.
    return min(pictures, key=lambda picture: picture[0] != _FRONT_COVER, default=(0, b""))[1]


def _iter_pictures(file: Any) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the pictures in a file's tags."""
    from mutagen.flac import Picture

    for picture in getattr(file, "pictures", ()):  # flac
        yield int(picture.type), picture.data
    tags: Any = getattr(file, "tags", None) or {}
    if hasattr(tags, "getall"):  # ID3
        for frame in tags.getall("APIC"):
            yield int(frame.type), frame.data
    elif hasattr(tags, "get"):
        for data in tags.get("covr") or []:  # MP4
            yield _FRONT_COVER, bytes(data)
        for text in tags.get("metadata_block_picture") or []:  # Vorbis comments
            picture = Picture(base64.b64decode(text))
            yield int(picture.type), picture.data


def _join(values: Iterable[Any]) -> str:
    """Join distinct values; an ID3 frame may contain several, separated by NUL."""
    parts = [part.strip() for value in values for part in str(value).split("\0")]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _read_mutagen(path: Path, fields: Sequence[str]) -> dict[str, Iterable[Any]]:
    import mutagen

    tags = mutagen.File(path, easy=True)
    return {} if not tags else {name: _look_up(tags, (name, *_NAMES[name])) for name in fields}


def _look_up(tags: Any, names: Iterable[str]) -> Iterable[Any]:
    for name in names:
        try:
            value = tags.get(name)
        except (KeyError, ValueError):  # raised by easy tags for unknown names
            continue
        if value:
            return getattr(value, "text", None) or ([value] if isinstance(value, str) else value)
    return []


def _read_other(path: Path, fields: Sequence[str]) -> dict[str, Iterable[Any]]:
    """Read what mutagen does not: the INFO chunk of a wav, the tags of Matroska, and APEv2 after an mp3."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
            info = _read_info(stream)
            return {name: info.get(_NAMES[name][-1], []) for name in fields}
        if head[:4] == _MATROSKA:
            stream.seek(0)
            return _read_matroska(stream, fields)
    from mutagen.apev2 import APEv2

    tags = APEv2(path)
    return {name: _look_up(tags, (name, *_NAMES[name])) for name in fields}


def _read_info(stream: BinaryIO) -> dict[str, list[str]]:
    tags_found: dict[str, list[str]] = {}
    for _ in range(_MAX_CHUNKS):
        header = stream.read(8)
        if len(header) < 8:
            break
        name, size = struct.unpack("<4sI", header)
        start = stream.tell()
        if name == b"LIST" and stream.read(4) == b"INFO":
            content = stream.read(min(size - 4, _MAX_INFO)) if size > 4 else b""
            offset = 0
            while offset + 8 <= len(content):
                key, length = struct.unpack_from("<4sI", content, offset)
                tags_found.setdefault(key.decode("latin-1"), []).append(
                    _decode(content[offset + 8 : offset + 8 + length])
                )
                offset += 8 + length + length % 2
        stream.seek(start + size + size % 2)
    return tags_found


def _decode(raw: bytes) -> str:
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _read_matroska(stream: BinaryIO, fields: Sequence[str]) -> dict[str, Iterable[Any]]:
    import av

    # With an explicit format and an open file, FFmpeg neither guesses nor opens files by name.
    with av.open(stream, format="matroska") as container:
        tags: dict[str, str] = {}
        for metadata in (container.metadata, *(each.metadata for each in container.streams)):
            for name, value in metadata.items():
                tags.setdefault(name.casefold(), value)
    return {name: [tags[name]] if name in tags else [] for name in fields}
