"""Read and write genres and genretree's fields in the tags of mp3, flac, ogg, opus, m4a, wav and aiff files.

Several genres are written in the way of each format: as repeated Vorbis comments, as several values of an MP4 atom,
separated by NUL in ID3v2.4 and APEv2, and by a slash in ID3v2.3 and ``LIST INFO``. All other tags retain their meaning:
the ID3 version stays, no frame is translated, and no tag is hidden by a new one. Without an ID3v2 tag, the genre is
written into the APEv2 tag of an mp3 or the INFO list of a wav; a new ID3v2 tag takes over the fields of an ID3v1 tag.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from genretree.library.tags.audio_digest import LayoutError, detect_format
from genretree.library.tags.id3_frames import tag_size
from genretree.library.tags.legacy_formats import (
    OWN_INFO,
    V1_BYTES,
    edit_ape,
    edit_info,
    info_own,
    info_text,
    read_ape,
    read_info,
    read_v1,
    split_end,
    v1_texts,
)
from genretree.sound.containers import read_at, sniff, synchsafe, synchsafe_bytes
from genretree.sound.tag_bounds import CostlyTagsError, check_tags

OWN_FIELDS = ("GENRETREE_PATH", "GENRETREE_CONFIDENCE", "GENRETREE_MODEL", "GENRETREE_GENRE", "GENRETREE_PREVIOUS")
V23_SEPARATOR = "/"  # the separator of ID3v2.3 for lists of names
_MP4_GENRE, _MP4_OWN = "\xa9gen", "----:com.apple.iTunes:"
_NEAR_END = 1 << 16
_T = TypeVar("_T")
_Padding = Callable[[Any], int] | None
_Writer = Callable[[Path, Sequence[str], Mapping[str, str], _Padding], None]


class TagError(Exception):
    """A file's tags can't be read or written."""


class UntaggableError(TagError):
    """Tags of this file format can't be written."""


@dataclass(frozen=True)
class TagValues:
    """Genres and `GENRETREE_*` fields of a file.

    Parameters
    ----------
    genres : tuple of str
        Genres as players show them.
    own : mapping of str to str
        genretree's fields by name.
    joined : bool
        Whether the format joins several genres to one text (ID3v2.3).
    """

    genres: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    joined: bool = False

    def after(self, genres: Sequence[str]) -> tuple[str, ...]:
        """Return `genres` as they would be read after writing them."""
        return (V23_SEPARATOR.join(genres),) if self.joined and genres else tuple(genres)


def read_tags(path: str | Path) -> TagValues:
    """Read a file's genres and genretree's fields.

    Raises
    ------
    TagError
        If tags of this format can't be written, or the tags are damaged.
    """
    path = Path(path)
    return _wrap_errors(lambda: _READERS[_detect_format(path)](path))


def write_tags(
    path: Path, genres: Sequence[str], own: Mapping[str, str], padding: Callable[[Any], int] | None = None
) -> None:
    """Set a file's genres and genretree's fields in place; everything else is unchanged.

    Parameters
    ----------
    path : Path
        A temporary copy, since a failure may leave it half-written.
    genres : sequence of str
        New genres; if empty, the genre is removed.
    own : mapping of str to str
        New values of genretree's fields by name; missing fields are removed.
    padding : callable, optional
        Chooses the size of the padding, given mutagen's `PaddingInfo`; default: mutagen's choice.

    Raises
    ------
    TagError
        If the tags can't be written.
    """
    _wrap_errors(lambda: _WRITERS[_detect_format(path)](path, genres, own, padding))


def _wrap_errors(act: Callable[[], _T]) -> _T:
    try:
        return act()
    except TagError:
        raise
    except LayoutError as error:
        raise TagError(str(error)) from error
    except Exception as error:  # mutagen raises errors of any type for damaged tags
        for cause in (error, error.__cause__ or error.__context__):  # mutagen wraps system errors
            if isinstance(cause, OSError) and cause.errno is not None:
                raise cause from error
        detail = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise TagError(f"its tags are damaged ({detail}); save them again in a tag editor") from error


def _detect_format(path: Path) -> str:
    try:
        check_tags(path)
    except CostlyTagsError as error:
        raise UntaggableError(f"{error}; convert it to another format") from error
    with path.open("rb", buffering=0) as file:
        format_ = detect_format(file)
    if format_ not in _READERS:
        raise UntaggableError(f"{format_ or 'unknown'} files can't be tagged; those that can: {', '.join(_READERS)}")
    return format_


# -- ID3, APEv2 and LIST INFO: mp3, wav, aiff ---------------------------------------------------------------------


@dataclass(frozen=True)
class TagTarget:
    """The tag of an mp3 or wav file that a genre is written to.

    Parameters
    ----------
    tag : {"id3", "ape", "info"}
        "ape" and "info" where a new ID3v2 tag would hide an APEv2 tag or INFO list.
    v1 : bytes
        ID3v1 tag whose fields are copied to the ID3v2 tag, since that hides it.
    """

    tag: str = "id3"
    v1: bytes = b""


def choose_tag(path: Path, format_: str) -> TagTarget:
    """Choose the tag of an mp3, wav or aiff file to write to.

    Raises
    ------
    LayoutError
        If any choice would hide another tag.
    """
    if format_ == "aiff" or _has_text(_open_id3(path, format_)):
        return TagTarget()
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        if format_ == "wav":
            return TagTarget() if read_info(file, size) is None else TagTarget("info")
        if read_ape(file, size) is not None:
            return TagTarget("ape")
        _check_no_hidden(file, size)
    return TagTarget("id3", read_v1(path))


def _has_text(tags: Any) -> bool:
    """Return whether ID3v2 tags contain text, so that players ignore other tags."""
    return any(frame.FrameID[0] == "T" or frame.FrameID in ("COMM", "USLT") for frame in tags.values()) or bool(
        tags.unknown_frames
    )


def _check_no_hidden(file: io.FileIO, size: int) -> None:
    """Refuse an mp3 without an ID3v2 tag whose other tags are where few programs find them."""
    _, v1 = split_end(file, size)
    tail = read_at(file, max(0, v1 - _NEAR_END), min(v1, _NEAR_END))
    if tail.endswith(b"LYRICS200") and b"APETAGEX" in tail:
        raise LayoutError("has an APE tag before a Lyrics3 tag, where few players find it; remove one of them")
    if tail[-10:-7] == b"3DI":
        raise LayoutError("its ID3v2 tag is at the end, where few players find it; save it again in a tag editor")
    if read_at(file, sniff(file, size)[1], 8) == b"APETAGEX":
        raise LayoutError("its APE tag is before the audio, where an ID3v2 tag would hide it; move it to the end")


def is_v1_genre(path: str | Path) -> bool:
    """Return whether a file's genre is in an ID3v1 tag and in no other tag.

    Raises
    ------
    TagError
        As `read_tags`.
    """
    path = Path(path)
    return _wrap_errors(
        lambda: _detect_format(path) == "mp3" and bool(_v1_genre(path)) and not _read_mp3(path, with_v1=False).genres
    )


def _read_mp3(path: Path, with_v1: bool = True) -> TagValues:
    tags = _open_id3(path, "mp3")
    values = _from_id3(tags)
    try:
        with path.open("rb", buffering=0) as file:
            ape = read_ape(file, file.seek(0, io.SEEK_END))
    except LayoutError:  # players read what they can, and mutagen does so below
        ape = None
    items = {item.key.casefold(): item for item in ape.items} if ape is not None else {}
    own = values.own
    if ape is not None and not own:  # another program may have added the ID3v2 tag later
        own = {name: items[name.casefold()].texts[0] for name in OWN_FIELDS if name.casefold() in items}
        values = TagValues(values.genres, own, values.joined and _has_text(tags))
    if values.genres:
        return values
    listed = items["genre"].texts if "genre" in items else _ape_genres(path) if ape is None else ()
    genres = tuple(filter(None, map(str.strip, listed))) or (_v1_genre(path) if with_v1 else ())
    return TagValues(genres, own, values.joined)


def _v1_genre(path: Path) -> tuple[str, ...]:
    from mutagen.id3 import TCON

    tag = read_v1(path)
    return tuple(TCON(encoding=0, text=[str(tag[127])]).genres) if tag and tag[127] < len(TCON.GENRES) else ()


def _read_wav(path: Path) -> TagValues:
    tags = _open_id3(path, "wav")
    values = _from_id3(tags)
    with path.open("rb", buffering=0) as file:
        try:
            info = read_info(file, file.seek(0, io.SEEK_END))
        except LayoutError:
            return values
    if info is None:
        return values
    own = info_own(info[2], OWN_FIELDS)
    if not _has_text(tags):
        values = TagValues((), own, joined=True)
    elif not values.own:  # another program has added the ID3v2 tag later
        values = TagValues(values.genres, own, values.joined)
    genre = info_text(info[2], b"IGNR")
    return values if values.genres or not genre else TagValues((genre,), values.own, values.joined)


def _read_aiff(path: Path) -> TagValues:
    return _from_id3(_open_id3(path, "aiff"))


def _from_id3(tags: Any) -> TagValues:
    own = {}
    for frame in tags.getall("TXXX"):
        if frame.desc.upper() in OWN_FIELDS and frame.text:
            own[frame.desc.upper()] = str(frame.text[0])
    genres = [genre.strip() for frame in tags.getall("TCON") for genre in frame.genres]
    return TagValues(tuple(filter(None, genres)), own, _id3_version(tags) == 3)


def _open_id3(path: Path, format_: str) -> Any:
    """Open a file's ID3 tags, or empty ones, without translating frames to another version."""
    from mutagen import aiff, wave
    from mutagen.id3 import ID3, ID3NoHeaderError

    if format_ == "mp3":
        with path.open("rb", buffering=0) as source:
            declared, size = tag_size(read_at(source, 0, 10)), source.seek(0, io.SEEK_END)
        if declared > size:  # mutagen's error does not say why
            what = f"its ID3 tag is damaged: it declares {declared:,} bytes and the file has {size:,}"
            raise LayoutError(f"{what}; save its tags again in a tag editor")
        try:
            return ID3(path, translate=False, load_v1=False)
        except ID3NoHeaderError:
            return ID3()
    file: Any = (wave.WAVE if format_ == "wav" else aiff.AIFF)(path, translate=False)
    if file.tags is None:
        file.add_tags()
    return file.tags


def _id3_version(tags: Any) -> int:
    """Return the ID3v2 version to write: the existing one; 4 for new tags; 3 for older ones, which can't be written."""
    major = tags.version[1] if tags._header is not None else 4
    return 4 if major >= 4 else 3


def _write_id3(format_: str) -> _Writer:
    def write(path: Path, genres: Sequence[str], own: Mapping[str, str], padding: _Padding) -> None:
        from mutagen.id3 import TCON, TXXX, Encoding

        target = choose_tag(path, format_)
        if target.tag == "ape":
            edit_ape(path, {"Genre": list(genres), **{name: _listed(own.get(name)) for name in OWN_FIELDS}})
            return
        if target.tag == "info":
            edit_info(path, V23_SEPARATOR.join(genres), own)
            return
        _update_older_tag(path, format_, genres)
        carried_over = v1_texts(target.v1)
        if format_ == "mp3":
            _footer_to_padding(path)
        tags = _open_id3(path, format_)
        version = _id3_version(tags)
        if tags._header is not None and tags.version[1] < 3:
            tags.update_to_v23()
        _add_v1(tags, carried_over, version)
        encoding = Encoding.UTF8 if version == 4 else Encoding.UTF16
        tags.delall("TCON")
        if genres:
            # In v2.3, text in parentheses refers to ID3v1's list of genres, unless the parenthesis is doubled.
            texts = list(genres) if version == 4 else [V23_SEPARATOR.join(genres)]
            tags.add(TCON(encoding=encoding, text=[f"({text}" if text.startswith("(") else text for text in texts]))
        for frame in [frame for frame in tags.getall("TXXX") if frame.desc.upper() in OWN_FIELDS]:
            tags.delall(frame.HashKey)
        for name, text in own.items():
            tags.add(TXXX(encoding=encoding, desc=name, text=[text]))
        tail = read_v1(path) if format_ == "mp3" else b""
        # v23_sep=None: lists in other frames are not joined
        tags.save(path, v2_version=version, v23_sep=None, padding=padding)
        if tail:
            with path.open("r+b") as file:
                file.seek(-V1_BYTES, io.SEEK_END)
                file.write(tail)

    return write


def _update_older_tag(path: Path, format_: str, genres: Sequence[str]) -> None:
    """Update what genretree wrote into an older tag, after another program has added an ID3v2 tag."""
    with suppress(LayoutError), path.open("rb", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        if format_ == "wav":
            info = read_info(file, size)
            if info is not None and any(name == OWN_INFO for name, _ in info[2]):
                edit_info(path, V23_SEPARATOR.join(genres), {})
        elif format_ == "mp3":
            ape = read_ape(file, size)
            if ape is not None and any(item.key.upper() in OWN_FIELDS for item in ape.items):
                edit_ape(path, {"Genre": list(genres), **dict.fromkeys(OWN_FIELDS, ())})


def _add_v1(tags: Any, texts: Mapping[str, str], version: int) -> None:
    """Add the fields of an ID3v1 tag to an ID3v2 tag, with the same bytes."""
    from mutagen.id3 import COMM, TYER, Encoding, Frames

    for name, text in texts.items():
        if name == "COMM":  # players show the comment without a description
            tags.add(COMM(encoding=Encoding.LATIN1, lang="XXX", desc="", text=[text]))
        elif name == "TDRC" and version == 3:
            tags.add(TYER(encoding=Encoding.LATIN1, text=[text]))
        else:
            tags.add(Frames[name](encoding=Encoding.LATIN1, text=[text]))


def _footer_to_padding(path: Path) -> None:
    """Convert the footer of an ID3v2.4 tag, which mutagen does not support, to padding."""
    with path.open("r+b") as file:
        head = file.read(10)
        size = synchsafe(head[6:10]) + 10
        if head[:4] == b"ID3\x04" and head[5] & 0x10 and size < 1 << 28:
            file.seek(size)
            if file.read(3) != b"3DI":
                raise LayoutError(
                    "its ID3v2 tag lacks the footer that its header declares; save it again in a tag editor"
                )
            file.seek(size)
            file.write(bytes(10))
            file.seek(5)
            file.write(bytes([head[5] & ~0x10]) + synchsafe_bytes(size))


def _ape_genres(path: Path) -> tuple[str, ...]:
    """Read the genre of an APEv2 tag at a position where it can't be edited."""
    from mutagen.apev2 import APENoHeaderError, APEv2, error

    try:
        genre = APEv2(path).get("Genre")
    except APENoHeaderError:
        return ()
    except error:
        return ()
    return () if genre is None else tuple(str(genre).split("\0"))


# -- Vorbis comments: flac, ogg, opus ----------------------------------------------------------------------------


def _open_vorbis(path: Path) -> Any:
    from mutagen import File
    from mutagen.flac import FLAC
    from mutagen.oggflac import OggFLAC
    from mutagen.oggopus import OggOpus
    from mutagen.oggspeex import OggSpeex
    from mutagen.oggvorbis import OggVorbis

    if _detect_format(path) == "flac":  # by content; if there is an ID3 tag first, mutagen decides by the file name
        file: Any = FLAC(path)
    else:
        file = File(path, options=[OggVorbis, OggOpus, OggFLAC, OggSpeex])
    if file is None:
        raise UntaggableError("holds a stream whose tags can't be written")
    if file.tags is None:
        file.add_tags()
    return file


def _read_vorbis(path: Path) -> TagValues:
    tags = _open_vorbis(path).tags
    own = {name: tags[name][0] for name in OWN_FIELDS if tags.get(name)}
    return TagValues(tuple(genre.strip() for genre in tags.get("GENRE", []) if genre.strip()), own)


def _has_id3(path: Path) -> bool:
    """Return whether a FLAC file begins with an ID3v2 tag with text, or ends with an ID3v1 tag."""
    return bool(read_v1(path)) or _has_text(_open_id3(path, "mp3"))


def _write_vorbis(path: Path, genres: Sequence[str], own: Mapping[str, str], padding: _Padding) -> None:
    file = _open_vorbis(path)
    if not file.tags and _has_id3(path):
        raise LayoutError("its tags are ID3, which Vorbis comments would hide; convert them in a tag editor first")
    for name, texts in {"GENRE": list(genres), **{name: _listed(own.get(name)) for name in OWN_FIELDS}}.items():
        if texts:
            file.tags[name] = texts
        elif name in file.tags:
            del file.tags[name]
    file.save(path, padding=padding)


# -- MP4: m4a ----------------------------------------------------------------------------------------------------


def _read_mp4(path: Path) -> TagValues:
    from mutagen.mp4 import MP4

    tags: Any = MP4(path).tags or {}
    own = {}
    for name in OWN_FIELDS:
        if values := tags.get(_MP4_OWN + name):
            own[name] = bytes(values[0]).decode("utf-8", "replace")
    return TagValues(tuple(genre.strip() for genre in tags.get(_MP4_GENRE, []) if genre.strip()), own)


def _write_mp4(path: Path, genres: Sequence[str], own: Mapping[str, str], padding: _Padding) -> None:
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
    file.save(path, padding=padding)


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [text]


_READERS: dict[str, Callable[[Path], TagValues]] = {
    "mp3": _read_mp3,
    "flac": _read_vorbis,
    "ogg": _read_vorbis,
    "mp4": _read_mp4,
    "wav": _read_wav,
    "aiff": _read_aiff,
}
_WRITERS: dict[str, _Writer] = {
    "mp3": _write_id3("mp3"),
    "flac": _write_vorbis,
    "ogg": _write_vorbis,
    "mp4": _write_mp4,
    "wav": _write_id3("wav"),
    "aiff": _write_id3("aiff"),
}


def format_genres(genres: Iterable[str]) -> str:
    """Join genres for display."""
    return "; ".join(genres)
