"""Genres and our own fields in the tags of mp3, flac, ogg, opus, m4a, wav and aiff files, by mutagen.

Several genres are written as each format has it: repeated Vorbis comments, several values of an MP4 atom, values apart
by NUL in ID3v2.4, by a slash in ID3v2.3. Nothing else in the tags is given another meaning: ID3 keeps its version, no
frame is translated, and the ID3v1 and APEv2 tags of an mp3 stay as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from genretree.library.payload import LayoutError, container, riff_chunks
from genretree.sound.containers import read_at

OWN_FIELDS = ("GENRETREE_PATH", "GENRETREE_CONFIDENCE", "GENRETREE_MODEL")
V23_SEPARATOR = "/"  # as ID3v2.3 has it for lists of names
_MP4_GENRE, _MP4_OWN = "\xa9gen", "----:com.apple.iTunes:"
_V1_BYTES = 128
_Found = TypeVar("_Found")


class TagError(Exception):
    """A file's tags can't be read or written."""


@dataclass(frozen=True)
class Carried:
    """What a file carries.

    Parameters
    ----------
    genres : tuple of str
        As players show them.
    own : mapping
        Our own fields that are there, by name.
    joined : bool
        Several genres are one text there (ID3v2.3).
    """

    genres: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    joined: bool = False

    def after(self, genres: Sequence[str]) -> tuple[str, ...]:
        """Give what `genres` would be, when they are written there and read again."""
        return (V23_SEPARATOR.join(genres),) if self.joined and genres else tuple(genres)


def read_tags(path: str | Path) -> Carried:
    """Read a file's genres and our own fields.

    Raises
    ------
    TagError
        If it is no file whose tags can be written, or they are damaged.
    """
    path = Path(path)
    return _guard(lambda: _READERS[_kind(path)](path))


def write_tags(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> None:
    """Set a file's genres and our own fields, in place, and leave all else as it is.

    Parameters
    ----------
    path : Path
        To be a copy that nobody needs yet.
    genres : sequence of str
        All that are to be there; none removes them.
    own : mapping
        Our own fields by name; one that is missing is removed.

    Raises
    ------
    TagError
        If it can't be done.
    """
    _guard(lambda: _WRITERS[_kind(path)](path, genres, own))


def _guard(act: Callable[[], _Found]) -> _Found:
    try:
        return act()
    except (TagError, OSError):
        raise
    except LayoutError as error:
        raise TagError(str(error)) from error
    except Exception as error:  # damaged tags bring about errors of any kind in mutagen
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):  # which mutagen wraps
            raise cause from error
        raise TagError(f"its tags are damaged ({type(error).__name__}: {error})") from error


def _kind(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        kind = container(file)
    if kind not in _READERS:
        raise TagError(f"{kind or 'unknown'} files can't be tagged; those that can: {', '.join(_READERS)}")
    return kind


# -- ID3: mp3, wav, aiff -----------------------------------------------------------------------------------------


def _read_mp3(path: Path) -> Carried:
    tags = _open_id3(path, "mp3", load_v1=True)
    found = _from_id3(tags)
    return found if found.genres else Carried(_ape_genres(path), found.own, found.joined)


def _read_wav(path: Path) -> Carried:
    found = _from_id3(_open_id3(path, "wav"))
    return found if found.genres else Carried(_info_genre(path), found.own, found.joined)


def _read_aiff(path: Path) -> Carried:
    return _from_id3(_open_id3(path, "aiff"))


def _from_id3(tags: Any) -> Carried:
    own = {}
    for frame in tags.getall("TXXX"):
        if frame.desc.upper() in OWN_FIELDS and frame.text:
            own[frame.desc.upper()] = str(frame.text[0])
    genres = [genre.strip() for frame in tags.getall("TCON") for genre in frame.genres]
    return Carried(tuple(filter(None, genres)), own, _id3_version(tags) == 3)


def _open_id3(path: Path, kind: str, load_v1: bool = False) -> Any:
    """Open a file's ID3 tags, or empty ones, without translating any frame to another version."""
    from mutagen import aiff, wave
    from mutagen.id3 import ID3, ID3NoHeaderError

    if kind == "mp3":
        try:
            return ID3(path, translate=False, load_v1=load_v1)
        except ID3NoHeaderError:
            pass
        try:
            return ID3(path, translate=False)  # what an ID3v1 tag says goes into the new one, too
        except ID3NoHeaderError:
            return ID3()
    file: Any = (wave.WAVE if kind == "wav" else aiff.AIFF)(path, translate=False)
    if file.tags is None:
        file.add_tags()
    return file.tags


def _id3_version(tags: Any) -> int:
    """Give the version to write: the one that is there; 4 for new tags, 3 for those older than can be written."""
    major = tags.version[1] if tags._header is not None else 4
    return 4 if major >= 4 else 3


def _write_id3(kind: str) -> Callable[[Path, Sequence[str], Mapping[str, str]], None]:
    def write(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> None:
        from mutagen.id3 import TCON, TXXX, Encoding

        tags = _open_id3(path, kind)
        version = _id3_version(tags)
        if tags._header is not None and tags.version[1] < 3:
            tags.update_to_v23()
        encoding = Encoding.UTF8 if version == 4 else Encoding.UTF16
        tags.delall("TCON")
        if genres:
            # In v2.3 a text that begins with a bracket is a number of ID3v1's list, unless there are two.
            texts = list(genres) if version == 4 else [V23_SEPARATOR.join(genres)]
            tags.add(TCON(encoding=encoding, text=[f"({text}" if text.startswith("(") else text for text in texts]))
        for frame in [frame for frame in tags.getall("TXXX") if frame.desc.upper() in OWN_FIELDS]:
            tags.delall(frame.HashKey)
        for name, text in own.items():
            tags.add(TXXX(encoding=encoding, desc=name, text=[text]))
        tail = _read_v1(path) if kind == "mp3" else b""
        tags.save(path, v2_version=version, v23_sep=None)  # None: other frames' lists stay as they are
        if tail:
            with path.open("r+b") as file:
                file.seek(-_V1_BYTES, io.SEEK_END)
                file.write(tail)

    return write


def _read_v1(path: Path) -> bytes:
    with path.open("rb") as file:
        if file.seek(0, io.SEEK_END) < _V1_BYTES:
            return b""
        file.seek(-_V1_BYTES, io.SEEK_END)
        tail = file.read()
    return tail if tail[:3] == b"TAG" else b""


def _ape_genres(path: Path) -> tuple[str, ...]:
    from mutagen.apev2 import APENoHeaderError, APEv2

    try:
        found = APEv2(path).get("Genre")
    except APENoHeaderError:
        return ()
    return () if found is None else tuple(str(found).split("\0"))


def _info_genre(path: Path) -> tuple[str, ...]:
    """Read IGNR in the list INFO of a wav file, which mutagen doesn't know."""
    with path.open("rb", buffering=0) as file:
        for name, start, end in riff_chunks(file, path.stat().st_size, "little"):
            content = read_at(file, start, min(end - start, 1 << 16)) if name == b"LIST" else b""
            at = 4
            while content[:4] == b"INFO" and at + 8 <= len(content):
                length = int.from_bytes(content[at + 4 : at + 8], "little")
                if content[at : at + 4] == b"IGNR":
                    text = content[at + 8 : at + 8 + length].split(b"\0")[0]
                    return tuple(filter(None, [text.decode("utf-8", "replace").strip()]))
                at += 8 + length + length % 2
    return ()


# -- Vorbis comments: flac, ogg, opus ----------------------------------------------------------------------------


def _open_vorbis(path: Path) -> Any:
    from mutagen import File
    from mutagen.flac import FLAC
    from mutagen.oggflac import OggFLAC
    from mutagen.oggopus import OggOpus
    from mutagen.oggspeex import OggSpeex
    from mutagen.oggvorbis import OggVorbis

    file = File(path, options=[FLAC, OggVorbis, OggOpus, OggFLAC, OggSpeex])
    if file is None:
        raise TagError("holds a stream whose tags can't be written")
    if file.tags is None:
        file.add_tags()
    return file


def _read_vorbis(path: Path) -> Carried:
    tags = _open_vorbis(path).tags
    own = {name: tags[name][0] for name in OWN_FIELDS if tags.get(name)}
    return Carried(tuple(genre.strip() for genre in tags.get("GENRE", []) if genre.strip()), own)


def _write_vorbis(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> None:
    file = _open_vorbis(path)
    for name, texts in {"GENRE": list(genres), **{name: _listed(own.get(name)) for name in OWN_FIELDS}}.items():
        if texts:
            file.tags[name] = texts
        elif name in file.tags:
            del file.tags[name]
    file.save(path)


# -- MP4: m4a ----------------------------------------------------------------------------------------------------


def _read_mp4(path: Path) -> Carried:
    from mutagen.mp4 import MP4

    tags: Any = MP4(path).tags or {}
    own = {}
    for name in OWN_FIELDS:
        if values := tags.get(_MP4_OWN + name):
            own[name] = bytes(values[0]).decode("utf-8", "replace")
    return Carried(tuple(genre.strip() for genre in tags.get(_MP4_GENRE, []) if genre.strip()), own)


def _write_mp4(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> None:
    from mutagen.mp4 import MP4, MP4FreeForm

    file: Any = MP4(path)
    if file.tags is None:
        file.add_tags()
    fields = {_MP4_OWN + name: [MP4FreeForm(text.encode()) for text in _listed(own.get(name))] for name in OWN_FIELDS}
    for name, values in {_MP4_GENRE: list(genres), **fields}.items():
        if values:
            file.tags[name] = values
        elif name in file.tags:
            del file.tags[name]
    file.save(path)


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [text]


_READERS: dict[str, Callable[[Path], Carried]] = {
    "mp3": _read_mp3,
    "flac": _read_vorbis,
    "ogg": _read_vorbis,
    "mp4": _read_mp4,
    "wav": _read_wav,
    "aiff": _read_aiff,
}
_WRITERS: dict[str, Callable[[Path, Sequence[str], Mapping[str, str]], None]] = {
    "mp3": _write_id3("mp3"),
    "flac": _write_vorbis,
    "ogg": _write_vorbis,
    "mp4": _write_mp4,
    "wav": _write_id3("wav"),
    "aiff": _write_id3("aiff"),
}


def shown(genres: Iterable[str]) -> str:
    """Write genres for people."""
    return "; ".join(genres)
