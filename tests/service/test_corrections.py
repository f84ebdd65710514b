"""Corrected genres: one table for each tree, and copies of the audio."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from genretree.errors import SettingsError
from genretree.service.corrections import Corrections
from genretree.taxonomy import Taxonomy

OURS = Taxonomy.from_nested({"Rock": ["Soft rock", "Grunge"], "Jazz": ["Bebop", "Swing"]})
THEIRS = Taxonomy.from_nested({"Dance": ["House", "Techno"], "Folk": ["Celtic", "Polka"]})


@pytest.fixture
def song(tmp_path: Path) -> Path:
    song = tmp_path / "song.mp3"
    song.write_bytes(b"bytes")
    return song


def genres(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["genre"] for row in csv.DictReader(file)]


def test_each_tree_has_its_own_table(tmp_path: Path, song: Path) -> None:
    folder = tmp_path / "kept"
    corrections = Corrections(folder, {"a": OURS, "b": OURS, "c": THEIRS})
    assert corrections.table("a") == corrections.table("b") == folder / "corrections.csv"
    assert corrections.table("c") == folder / "corrections-c.csv"
    assert corrections.add("b", song, ("Rock", "Soft rock"), "song.mp3", {"title": "T"}) == 1
    assert corrections.add("c", song, ("Dance", "House"), "song.mp3", {}) == 1
    assert corrections.add("a", song, ("Jazz", "Bebop"), "song.mp3", {}) == 1
    assert (genres(corrections.table("a")), genres(corrections.table("c"))) == (["Jazz > Bebop"], ["Dance > House"])


def test_the_copy_stays_while_any_table_lists_it(tmp_path: Path, song: Path) -> None:
    corrections = Corrections(tmp_path / "kept", {"a": OURS, "c": THEIRS})
    corrections.add("a", song, ("Jazz", "Bebop"), "song.mp3", {})
    corrections.add("c", song, ("Dance", "House"), "song.mp3", {})
    assert corrections.remove("a", song, "song.mp3") == 0
    assert [path.read_bytes() for path in (tmp_path / "kept" / "audio").iterdir()] == [b"bytes"]
    assert corrections.remove("c", song, "song.mp3") == 0
    assert not list((tmp_path / "kept" / "audio").iterdir())


def test_a_table_of_another_tree_is_refused(tmp_path: Path, song: Path) -> None:
    Corrections(tmp_path, {"a": OURS}).add("a", song, ("Jazz", "Bebop"), "song.mp3", {})
    with pytest.raises(
        SettingsError, match=r"another tree than that of c: 'Jazz > Bebop' is not a leaf .* another folder"
    ):
        Corrections(tmp_path, {"c": THEIRS})
