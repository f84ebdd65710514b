"""Artists as people really spell them, in the tags and tables that they really have."""

from __future__ import annotations

import csv
import struct
import unicodedata
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from mutagen.apev2 import APEv2
from mutagen.id3 import TALB, TIT2, TPE1

from genretree.cli import main
from genretree.corpus import file_tags
from genretree.corpus.dataset import Dataset
from genretree.corpus.file_tags import read_tags
from genretree.corpus.manifest import Manifest, read_manifest
from genretree.corpus.names import fold_name, join_by_name, split_names
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.taxonomy import Taxonomy
from genretree.training.data import fingerprint, group_fingerprints

DECOMPOSED = unicodedata.normalize("NFD", "Björk")


# -- names ---------------------------------------------------------------------------------------------------


def test_spellings_of_one_artist_are_one_group() -> None:
    values = ["Björk", DECOMPOSED, "BJÖRK", "The  Knife", " The\u00a0Knife ", "Bach", "bach", "Mozart", "Haydn", ""]
    assert join_by_name(values, "artist") == [*["Björk"] * 3, *["The Knife"] * 2, *["Bach"] * 2, "Mozart", "Haydn", ""]
    assert fold_name("STRASSE") == fold_name("Straße")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("Alpha; Beta", ["Alpha", "Beta"]),
        ("Alpha;Beta;", ["Alpha", "Beta"]),
        ("Alpha feat. Beta", ["Alpha", "Beta"]),
        ("Alpha (ft. Beta)", ["Alpha", "Beta"]),
        ("Alpha [Featuring Beta]; Gamma", ["Alpha", "Beta", "Gamma"]),
        ("Simon & Garfunkel", ["Simon & Garfunkel"]),
        ("Earth, Wind & Fire", ["Earth, Wind & Fire"]),
        ("AC/DC", ["AC/DC"]),
        ("Little Feat", ["Little Feat"]),
        ("Featherweight", ["Featherweight"]),
        ("  ", []),
        (";", []),
    ],
)
def test_several_artists_in_one_cell(value: str, names: list[str]) -> None:
    assert split_names(value, "Album Artist") == names


def test_an_album_is_one_name() -> None:
    assert split_names("Day; Night", "album") == ["Day; Night"]
    values = ["Day; Night", "Night", "day;  night", "DAY; NIGHT"]
    assert join_by_name(values, "album") == ["Day; Night", "Night", "Day; Night", "Day; Night"]


def test_tracks_that_share_an_artist_through_others_are_one_group() -> None:
    values = ["Delta", "Alpha; Beta", "Gamma", "Gamma feat. beta", "Epsilon", ""]
    assert join_by_name(values, "artist") == ["Delta", "Alpha", "Alpha", "Alpha", "Epsilon", ""]
    assert join_by_name([], "artist") == []


# -- CSV -----------------------------------------------------------------------------------------------------


def read(folder: Path, rows: list[tuple[str, ...]], header: str = "path,genre,artist", **options: Any) -> Manifest:
    path = folder / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])
    return read_manifest(path, **options)


def test_groups_of_a_table(tmp_path: Path) -> None:
    artists = ["Björk", DECOMPOSED, "BJÖRK", "The  Knife", "The Knife", "Bach", "bach", "Mozart", "Mozart", "Haydn"]
    made = read(tmp_path, [(f"{i}.mp3", "Rock" if i < 5 else "Pop", name) for i, name in enumerate(artists)])
    groups = [track.group for track in made.tracks]
    assert len(set(groups)) == 5
    assert groups[:3] == ["artist:Björk"] * 3
    assert made.tracks[2].metadata["artist"] == "BJÖRK"  # what the source says stays as it is


def test_several_genres_are_asked_about(tmp_path: Path) -> None:
    rows = [("0.mp3", "Rock;Pop", "a"), ("1.mp3", "Rock", "b"), ("2.mp3", "Pop | Jazz", "c"), ("3.mp3", "Pop", "d")]
    with pytest.raises(CorpusError, match=r"2 rows name several genres \(line 2: 'Rock;Pop', line 4: 'Pop \| Jazz'\)"):
        read(tmp_path, rows)
    first = read(tmp_path, rows, multiple_genres="first")
    assert first.taxonomy.leaves == (("Pop",), ("Rock",))
    assert [track.leaf for track in first.tracks] == [1, 1, 0, 0]
    skipped = read(tmp_path, rows, multiple_genres="skip")
    assert [track.name for track in skipped.tracks] == ["1.mp3", "3.mp3"]
    assert [failure.message for failure in skipped.rejected] == [
        "a.csv, line 2: several genres; left out",
        "a.csv, line 4: several genres; left out",
    ]
    assert ("Rock;Pop",) in read(tmp_path, rows, multiple_genres="keep").taxonomy.leaves
    with pytest.raises(CorpusError, match="multiple_genres must be one of"):
        read(tmp_path, rows, multiple_genres="none")


@pytest.mark.parametrize("cell", ["Pop, Rock", "Pop,Rock", "Pop\\Rock", "Pop;Rock", "Pop|Rock", "Pop\0Rock"])
def test_every_separator_is_asked_about(tmp_path: Path, cell: str) -> None:
    rows = [("0.mp3", cell, "a"), ("1.mp3", "Rock", "b"), ("2.mp3", "Pop", "c")]
    with pytest.raises(CorpusError, match=r"1 row names several genres .* a tree that has the text as a leaf"):
        read(tmp_path, rows)
    assert read(tmp_path, rows, multiple_genres="first").taxonomy.leaves == (("Pop",), ("Rock",))
    if "\0" not in cell:
        assert (cell,) in read(tmp_path, rows, multiple_genres="keep").taxonomy.leaves


@pytest.mark.parametrize("choice", ["ask", "first", "skip"])
def test_a_separator_without_a_second_name_is_not_several_genres(tmp_path: Path, choice: str) -> None:
    made = read(tmp_path, [("0.mp3", "Rock;", "a"), ("1.mp3", "; Pop", "b")], multiple_genres=choice)
    assert made.taxonomy.leaves == (("Pop",), ("Rock",))
    assert [track.name for track in made.tracks] == ["0.mp3", "1.mp3"]


def test_names_with_other_marks_are_one_name_and_a_slash_is_a_path(tmp_path: Path) -> None:
    tree = Taxonomy.from_nested({"Folk, World, & Country": {}, "R&B": {}})
    rows = [("0.mp3", "Folk, World, & Country", "a"), ("1.mp3", "R&B", "b")]
    assert [track.leaf for track in read(tmp_path, rows, tree=tree).tracks] == [0, 1]
    rows = [("0.mp3", "R&B", "a"), ("1.mp3", "Drum'n'Bass + Jungle", "b"), ("2.mp3", "Rock/Soft rock", "c")]
    assert read(tmp_path, rows).taxonomy.leaves == (("Drum'n'Bass + Jungle",), ("R&B",), ("Rock", "Soft rock"))


def test_a_leaf_of_the_tree_may_hold_a_separator(tmp_path: Path) -> None:
    tree = Taxonomy.from_nested({"Folk; World": {}, "Rock": {}})
    made = read(tmp_path, [("0.mp3", "folk; world", "a"), ("1.mp3", "Rock", "b")], tree=tree)
    assert [track.leaf for track in made.tracks] == [0, 1]
    with pytest.raises(CorpusError, match="1 row names several genres"):
        read(tmp_path, [("0.mp3", "Rock; Folk", "a"), ("1.mp3", "Rock", "b")], tree=tree)


def test_levels_are_asked_about_too(tmp_path: Path) -> None:
    rows = [("0.mp3", "A", "Rock;Pop"), ("1.mp3", "B", "Jazz")]
    with pytest.raises(CorpusError, match="several genres"):
        read(tmp_path, rows, "path,level_1,level_2")
    made = read(tmp_path, rows, "path,level_1,level_2", multiple_genres="first")
    assert made.taxonomy.leaves == (("A", "Rock"), ("B", "Jazz"))


def test_the_command_line_asks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,genre\n0.wav,Rock;Pop\n1.wav,Rock\n")
    words = ["prepare", str(tmp_path / "a.csv"), str(tmp_path / "store")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "multiple_genres" in result.output
    assert "no track" not in CliRunner().invoke(main, [*words, "--multiple-genres", "first"]).output


# -- folders -------------------------------------------------------------------------------------------------


def test_a_decomposed_folder_is_the_composed_node(tmp_path: Path) -> None:
    for folder in (unicodedata.normalize("NFD", "Variété"), "Rock"):
        (tmp_path / folder / "x").mkdir(parents=True)
        (tmp_path / folder / "x" / "1.mp3").write_bytes(b"")
    tree = Taxonomy.from_nested({"Variété": {}, "Rock": {}})
    made = read_manifest(tmp_path, tree)
    assert sorted(track.leaf for track in made.tracks) == [0, 1]
    assert not made.rejected
    inferred = read_manifest(tmp_path, depth=1)
    assert inferred.taxonomy.leaves == (("Rock",), ("Variété",))


def write_tone(path: Path, **options: Any) -> Path:
    sf.write(path, 0.1 * np.sin(np.arange(22050) / 20), 22050, **options)
    return path


def write_info(path: Path, **names: bytes) -> None:
    """A wav with an INFO chunk in front of its data."""
    inner = b"INFO" + b"".join(
        key.encode() + struct.pack("<I", len(text)) + text + b"\0" * (len(text) % 2) for key, text in names.items()
    )
    chunk = b"LIST" + struct.pack("<I", len(inner)) + inner
    content = write_tone(path).read_bytes()
    path.write_bytes(
        content[:4] + struct.pack("<I", len(content) - 8 + len(chunk)) + content[8:12] + chunk + content[12:]
    )


def test_tags_of_every_format_are_read(tmp_path: Path) -> None:
    wanted = {"artist": "Öne; Two", "album": "Three", "title": "Four"}
    frames = [TPE1(text=["Öne", "Two"]), TALB(text="Three"), TIT2(text="Four")]
    for name in ("id3.wav", "id3.aiff", "id3.mp3"):
        file = mutagen.File(write_tone(tmp_path / name))
        file.add_tags()
        for frame in frames:
            file.tags.add(frame)
        file.save()
        assert read_tags(tmp_path / name) == wanted, name
    for name in ("vorbis.flac", "vorbis.ogg"):
        file = mutagen.File(write_tone(tmp_path / name))
        file.update({"ARTIST": ["Öne", "Two"], "ALBUM": "Three", "TITLE": "Four"})
        file.save()
        assert read_tags(tmp_path / name) == wanted, name
    tags = APEv2()
    tags.update({"Artist": ["Öne", "Two"], "Album": "Three", "Title": "Four"})
    tags.save(write_tone(tmp_path / "ape.mp3"))
    assert read_tags(tmp_path / "ape.mp3") == wanted
    write_info(tmp_path / "info.wav", IART="Öne; Two".encode(), IPRD=b"Three\0", INAM=b"Four")
    assert read_tags(tmp_path / "info.wav") == wanted
    write_info(tmp_path / "old.wav", IART=b"\xd6ne")
    assert read_tags(tmp_path / "old.wav") == {"artist": "Öne"}


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [("x.mka", "matroska", "pcm_s16le"), ("x.wma", "asf", "wmav2"), ("x.wv", "wv", "wavpack"), ("x.m4a", "mp4", "aac")],
)
def test_tags_that_ffmpeg_writes_are_read(tmp_path: Path, name: str, container: str, codec: str) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / name), "w", format=container) as opened:
        opened.metadata.update({"artist": "Öne", "album": "Three", "title": "Four"})
        stream = opened.add_stream(codec, rate=22050, layout="mono", bit_rate=64000)
        samples = np.zeros((1, 4096), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 22050, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            opened.mux(packet)
    assert read_tags(tmp_path / name) == {"artist": "Öne", "album": "Three", "title": "Four"}


@pytest.mark.parametrize("name", ["a.wav", "a.mka", "a.mp3", "a.wma", "a.aiff", "a.ape", "a.wv"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF\xff\xff\xff\xffWAVELIST\xff\xff\xff\xffINFOIART\xff\xff\xff\xff",
        b"RIFF\x04\0\0\0WAVE" + b"LIST\x04\0\0\0INFO" * 2000,
        b"\x1a\x45\xdf\xa3" + b"\xff" * 100,
        b"APETAGEX" + b"\xff" * 24,
    ],
)
def test_damaged_tags_say_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_tags(tmp_path / name) == {}
    assert read_tags(tmp_path) == {}


def test_an_info_chunk_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tags, "_MAX_CHUNKS", 2)
    content = write_tone(tmp_path / "x.wav").read_bytes()
    info = b"LIST\x10\0\0\0INFOIART\x04\0\0\0name"
    (tmp_path / "x.wav").write_bytes(content[:12] + b"junk\0\0\0\0" * 3 + info + content[12:])
    assert read_tags(tmp_path / "x.wav") == {}


# -- what follows --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    folder = tmp_path_factory.mktemp("few")
    artists = ["Öne; Two", "two", "", ""]
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = [(f"{i}.wav", "Rock" if i % 2 else "Pop", name) for i, name in enumerate(artists)]
        csv.writer(stream).writerows([("path", "genre", "artist"), *rows])
    for i in range(4):
        sf.write(folder / f"{i}.wav", 0.1 * np.sin(np.arange(30000) / (9 + i)), 22050)
    words = ["prepare", str(folder / "a.csv"), str(folder / "store"), "--size", "32", "--workers", "1", "--quiet"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return Store(folder / "store"), result.output


def test_prepare_says_how_many_artists_are_unknown(prepared: tuple[Store, str]) -> None:
    assert "2 of 4 tracks have no known artist. Each counts as a group of its own" in prepared[1]
    info = CliRunner().invoke(main, ["info", str(prepared[0].folder), "--json"])
    assert '"tracks_without_group": 2' in info.output


def test_an_artist_is_known_again_under_other_names(prepared: tuple[Store, str]) -> None:
    store = prepared[0]
    assert store.tracks["group"][:2] == ["artist:Öne", "artist:Öne"]
    first, second, third = (group_fingerprints(store, track) for track in range(3))
    assert first & second
    assert not first & third
    # A bundle of 0.1 knows a group as its source spells it.
    assert fingerprint("artist:two") in second
    assert fingerprint("artist:Öne; Two") in first


def test_records_are_asked_about_too(tmp_path: Path) -> None:
    records = [
        {"path": "0.mp3", "genre": "Rock;Pop"},
        {"path": "1.mp3", "genre": "Pop"},
        {"path": "2.mp3", "genre": "A"},
    ]
    with pytest.raises(CorpusError, match=r"1 row names several genres \(record 0: 'Rock;Pop'\)"):
        Dataset.from_records(records)
    assert Dataset.from_records(records, multiple_genres="first").taxonomy.leaves == (("A",), ("Pop",), ("Rock",))
    assert len(Dataset.from_records(records, multiple_genres="skip").manifest.tracks) == 2
    (tmp_path / "a.csv").write_text("path,genre\n0.mp3,Rock;Pop\n1.mp3,Pop\n")
    assert len(Dataset.from_csv(tmp_path / "a.csv", multiple_genres="keep").manifest.tracks) == 2
