"""Files with older tags than ID3v2: writing must not hide anything that players show."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from library_fakes import fake_classifier
from mutagen.flac import FLAC
from mutagen.id3 import APIC, ID3

from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.database import records
from genretree.library.database.connection import Database, open_database
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import TagPlan, iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import hash_audio
from genretree.library.tags.verify_unchanged import check_unchanged

PATH = "Other > Rock > Soft_rock"
LONG = "A title that is longer than thirty characters"
Shown = dict[str, object]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


def _plans(database: Database, mode: str = "overwrite") -> list[TagPlan]:
    model, model_key = records.find_model(database)
    return list(iter_plans(database, model, model_key, Mapping(), mode))  # type: ignore[arg-type]


def _apply(database: Database) -> tuple[int, list[str]]:
    _, model_key = records.find_model(database)
    run, _, refused = apply_plans(database, _plans(database), model_key.digest)
    return run or 0, [item.reason for item in refused]


def _v1(
    title: bytes, artist: bytes = b"Artist", comment: bytes = b"a comment", track: int = 7, genre: int = 17
) -> bytes:
    end = comment.ljust(28, b"\0")[:28] + bytes([0, track])
    return (
        b"TAG" + b"".join(text.ljust(30, b"\0") for text in (title, artist, b"Album")) + b"1999" + end + bytes([genre])
    )


def _ape(*items: tuple[str, str], version: int = 2000, header: bool = True) -> bytes:
    body = b"".join(
        struct.pack("<II", len(text.encode()), 0) + key.encode() + b"\0" + text.encode() for key, text in items
    )
    flags = 1 << 31 if header else 0
    ends = [
        struct.pack("<8sIIIIQ", b"APETAGEX", version, len(body) + 32, len(items), flags | bit, 0)
        for bit in (1 << 29, 0)
    ]
    return (ends[0] if header else b"") + body + ends[1]


APE = (("Title", LONG), ("Artist", "One\0Two"), ("REPLAYGAIN_TRACK_GAIN", "-3.1 dB"), ("Comment", "Ä 名"))


def _ffprobe(path: Path) -> Shown:
    command = ["ffprobe", "-v", "error", "-show_entries", "format_tags:stream_tags", "-of", "json", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    tags = dict(found["format"].get("tags", {}))
    return {key.casefold(): text for key, text in tags.items() if not _may_change(key)}


def _taglib(path: Path) -> Shown:
    taglib = pytest.importorskip("taglib")
    with taglib.File(path) as file:
        return {key: list(texts) for key, texts in file.tags.items() if not _may_change(key)}


def _may_change(key: str) -> bool:
    return key.casefold() in ("genre", "gntr") or key.upper().startswith("GENRETREE")


def _info(*fields: tuple[bytes, bytes]) -> bytes:
    content = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in fields)
    return b"LIST" + struct.pack("<I", 4 + len(content)) + b"INFO" + content


INFO = _info(
    (b"INAM", LONG.encode() + b"\0"), (b"IART", "Ärtist\0".encode()), (b"ICRD", b"1999\0"), (b"ICMT", b"odd\0\0")
)


def _old(music: Path, name: str) -> Path:
    """Make one of the files of these tests."""
    bare = (music / "none.mp3").read_bytes()
    silent = b"ID3\x03\0\0\0\0\0\x40" + bytes(64)
    made = {
        "ape.mp3": lambda: bare + _ape(*APE),
        "ape_genre.mp3": lambda: bare + _ape(("gENRE", "Polka\0Waltz"), *APE),
        "ape_headless.mp3": lambda: bare + _ape(*APE, header=False),
        "ape_v1.mp3": lambda: bare + _ape(*APE) + _v1(LONG[:30].encode()),
        "ape_behind_silence.mp3": lambda: silent + bare + _ape(*APE),
        "v1.mp3": lambda: bare + _v1(b"A title   "),
        "v1_behind_silence.mp3": lambda: silent + bare + _v1(b"A title"),
        "v1_lyrics.mp3": lambda: bare + b"LYRICSBEGININD0000200000027LYRICS200" + _v1(b"A title"),
        "info_in_front.wav": lambda: _wav(music, before=INFO),
        "info_behind.wav": lambda: _wav(music, behind=INFO + b"more" + struct.pack("<I", 3) + b"odd\0"),
        "info_genre.wav": lambda: _wav(
            music, before=_info((b"INAM", b"x\0"), (b"IGNR", b"Polka\0"), (b"IART", b"y\0"))
        ),
    }
    path = music / "old" / name
    path.parent.mkdir()
    path.write_bytes(made[name]())
    return path


def _wav(music: Path, before: bytes = b"", behind: bytes = b"") -> bytes:
    content = (music / "pcm.wav").read_bytes()
    at = content.index(b"data")
    body = b"WAVE" + content[12:36] + before + content[at:] + behind
    return b"RIFF" + struct.pack("<I", len(body)) + body


OLD = {
    "ape.mp3": (),
    "ape_genre.mp3": ("Polka", "Waltz"),
    "ape_headless.mp3": (),
    "ape_v1.mp3": ("Rock",),
    "ape_behind_silence.mp3": (),
    "v1.mp3": ("Rock",),
    "v1_behind_silence.mp3": ("Rock",),
    "v1_lyrics.mp3": ("Rock",),
    "info_in_front.wav": (),
    "info_behind.wav": (),
    "info_genre.wav": ("Polka",),
}


@pytest.mark.parametrize("name", OLD)
def test_players_show_the_same_fields_as_before(music: Path, database: Database, name: str) -> None:
    path = _old(music, name)
    before, digest = path.read_bytes(), hash_audio(path)
    assert read_tags(path).genres == OLD[name]
    shown = _ffprobe(path)
    analyse(database, [path], fake_classifier())
    run, refused = _apply(database)
    assert not refused
    assert read_tags(path).genres == ("Soft_rock",)
    assert read_tags(path).own["GENRETREE_PATH"] == PATH
    assert hash_audio(path) == digest
    assert _ffprobe(path) == shown
    if name.startswith(("ape", "info")):
        assert path.read_bytes().count(b"TXXX") == 0, "a new ID3v2 tag hides the one that is there"
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", OLD)
def test_taglib_shows_the_same_fields_and_the_new_genre(music: Path, name: str) -> None:
    taglib = pytest.importorskip("taglib")
    path = _old(music, name)
    shown = _taglib(path)
    assert len(shown) > 1
    genres = ["Soft rock"] if path.suffix == ".wav" or name == "v1_behind_silence.mp3" else ["Soft rock", "Pöp"]
    write_tags(path, genres, {"GENRETREE_PATH": PATH})
    assert _taglib(path) == shown
    with taglib.File(path) as file:
        assert file.tags["GENRE"] == genres
    write_tags(path, [], {})
    assert _taglib(path) == shown


@pytest.mark.parametrize("name", OLD)
def test_writing_twice_is_writing_once(music: Path, name: str) -> None:
    path = _old(music, name)
    write_tags(path, ["Rock"], {"GENRETREE_PATH": PATH, "GENRETREE_MODEL": "0"})
    write_tags(path, ["Rock"], {"GENRETREE_PATH": PATH})
    assert read_tags(path).own == {"GENRETREE_PATH": PATH}
    once = path.read_bytes()
    write_tags(path, ["Rock"], {"GENRETREE_PATH": PATH})
    assert path.read_bytes() == once
    assert (path.stat().st_size - 8 == struct.unpack("<I", once[4:8])[0]) or path.suffix != ".wav"


@pytest.mark.parametrize("title", ["Tïtle", "Füße"])
def test_latin_1_in_an_id3v1_tag_stays_the_same_text(music: Path, title: str) -> None:
    path = music / "none.mp3"
    path.write_bytes(path.read_bytes() + _v1(title.encode("latin-1")))
    write_tags(path, ["Rock"], {})
    assert _ffprobe(path)["title"] == title
    assert str(ID3(path)["COMM::XXX"]) == "a comment"


@pytest.mark.parametrize(("text", "page"), [("Песня", "cp1251"), ("“x” €", "cp1252"), ("日本の歌", "shift_jis")])
def test_other_code_pages_of_an_id3v1_tag_keep_their_bytes(music: Path, text: str, page: str) -> None:
    path = music / "none.mp3"
    path.write_bytes(path.read_bytes() + _v1(text.encode(page)))
    copy = shutil.copy(path, music / "copy.mp3")
    write_tags(path, ["Rock"], {})
    title = ID3(path)["TIT2"]
    assert (title.encoding, str(title).encode("latin-1")) == (0, text.encode(page))
    check_unchanged(copy, path)


@pytest.mark.parametrize("title", ["Песня", "Ä title that is cut within an Ä"])
def test_an_id3v1_tag_in_utf_8_is_refused_since_players_disagree(music: Path, title: str) -> None:
    path = music / "none.mp3"
    path.write_bytes(path.read_bytes() + _v1(title.encode()[:30]))
    with pytest.raises(TagError, match="as UTF-8, which some players read as Latin-1"):
        write_tags(path, ["Rock"], {})


def test_a_picture_alone_does_not_hide_an_id3v1_tag(music: Path) -> None:
    path = music / "none.mp3"
    tags = ID3()
    tags.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=b"\x89PNG"))
    tags.save(path)
    path.write_bytes(path.read_bytes() + _v1(b"A title"))
    shown = _ffprobe(path)
    assert shown["title"] == "A title"
    copy = shutil.copy(path, music / "copy.mp3")
    write_tags(path, ["Rock"], {})
    assert _ffprobe(path) == shown
    check_unchanged(copy, path)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (_ape(*APE, version=1000), "version 1000"),
        (_ape(*APE)[:-20] + b"\x09\0\0\0" + _ape(*APE)[-16:], "damaged"),
        (_ape(*APE)[:-1] + b"\x01", ""),
        (_ape(*APE).replace(b"-3.1 dB", b"-3.1 dBBB"), "damaged"),
        (_ape(*APE)[:-20] + b"\xff\xff\xff\x7f" + _ape(*APE)[-16:], "damaged"),
        (_ape(*APE) + b"LYRICSBEGININD0000200000027LYRICS200" + _v1(b"A title"), "before a Lyrics3 tag"),
        (_v1(b"A title").replace(b"1999", b"199?"), "the year '199\\?'"),
    ],
)
def test_old_tags_that_can_not_be_edited_are_refused_with_a_reason(music: Path, tail: bytes, reason: str) -> None:
    path = music / "none.mp3"
    path.write_bytes(path.read_bytes() + tail)
    before = path.read_bytes()
    if reason:
        with pytest.raises(TagError, match=reason):
            write_tags(path, ["Rock"], {})
        assert path.read_bytes() == before
    else:
        write_tags(path, ["Rock"], {})


def test_an_ape_tag_before_the_audio_is_refused(music: Path) -> None:
    path = music / "none.mp3"
    path.write_bytes(_ape(*APE) + path.read_bytes())
    with pytest.raises(TagError, match="is before the audio"):
        write_tags(path, ["Rock"], {})


def test_an_id3_chunk_with_text_is_written_to_as_before(music: Path) -> None:
    from mutagen.id3 import TIT2
    from mutagen.wave import WAVE

    path = _old(music, "info_in_front.wav")
    file = WAVE(path)
    file.add_tags()
    file.tags.add(TIT2(encoding=3, text=["Another"]))
    file.save()
    before = path.read_bytes()
    write_tags(path, ["Rock"], {"GENRETREE_PATH": PATH})
    assert INFO in path.read_bytes()
    assert WAVE(path).tags["TCON"].text == ["Rock"]
    assert path.read_bytes() != before


def test_vorbis_comments_do_not_hide_the_id3_tags_of_a_flac(music: Path) -> None:
    path = music / "flac.flac"
    file = FLAC(path)
    file.delete()
    path.write_bytes(path.read_bytes() + _v1(b"A title"))
    with pytest.raises(TagError, match="which Vorbis comments would hide"):
        write_tags(path, ["Rock"], {})
