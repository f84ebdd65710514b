"""Several genres for a file: written as each format has them, read back with mutagen, and undone byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mutagen
import pytest
from click.testing import CliRunner, Result
from library_fakes import FORMATS, FakeClassifier, levels_of
from mutagen.id3 import ID3
from mutagen.wave import WAVE

from genretree.cli import main
from genretree.library.database.connection import open_database
from genretree.library.database.records import FileResult
from genretree.library.scan.analyse import analyse


class _Undecided(FakeClassifier):
    """Predicts Rock at 55 % and Pop at 35 %, for every file."""

    def score_file(self, path: Path) -> FileResult:
        return FileResult(levels_of(0.05, 0.05, 0.3, 0.25, 0.35), 4, 0.35, 3, False, "none")


def _run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def _genres(path: Path) -> list[str]:
    """The genre tag as mutagen reads it, without genretree's code."""
    if path.suffix == ".mp3":
        return [str(text) for text in ID3(path, translate=False)["TCON"].text]
    file: Any = WAVE(path, translate=False) if path.suffix == ".wav" else mutagen.File(path)
    if path.suffix in (".wav", ".aiff"):
        return [str(text) for text in file.tags["TCON"].text]
    return list(file.tags["\xa9gen"] if path.suffix == ".m4a" else file.tags["genre"])


@pytest.fixture
def library(music: Path, tmp_path: Path) -> tuple[Path, Path]:
    with open_database(tmp_path / "library.db", create=True) as database:
        analyse(database, [music], _Undecided)
    return tmp_path / "library.db", music


def test_two_genres_are_written_and_undone(library: tuple[Path, Path]) -> None:
    db, music = library
    before = {name: (music / name).read_bytes() for name in FORMATS}
    shown = [
        json.loads(line) for line in _run("library", "preview", "--db", db, "--genres", 2, "--json").stdout.splitlines()
    ]
    assert {row["genre"] for row in shown} == {"Rock; Pop"}
    assert {row["path"] for row in shown} == {"Other > Rock"}
    _run("library", "apply", "--db", db, "--genres", 2, "--write", "--quiet")
    # ID3v2.3 has no lists: a slash separates the names. mutagen does not read the INFO list of the wav.
    expected = {name: ["Rock", "Pop"] for name in FORMATS} | {"v23.mp3": ["Rock/Pop"]}
    found = {name: _genres(music / name) for name in FORMATS if name != "pcm.wav"}
    assert found == {name: genres for name, genres in expected.items() if name != "pcm.wav"}
    again = _run("library", "apply", "--db", db, "--genres", 2, "--write", "--quiet")
    assert "9 up to date" in again.output
    _run("library", "apply", "--db", db, "--write", "--quiet")
    assert {tuple(_genres(music / name)) for name in FORMATS if name != "pcm.wav"} == {("Rock",)}
    _run("library", "undo", 1, "--db", db, "--quiet")
    assert {name: (music / name).read_bytes() for name in FORMATS} == before


def test_a_file_is_in_the_playlists_of_all_its_genres(library: tuple[Path, Path], tmp_path: Path) -> None:
    db, _ = library
    _run("library", "playlists", tmp_path / "one", "--db", db)
    _run("library", "playlists", tmp_path / "two", "--db", db, "--genres", 2)
    one, two = (
        {path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*.m3u8")}
        for name in ("one", "two")
    )
    assert one == {"Other.m3u8", "Other/Rock.m3u8"}
    assert two == {"Other.m3u8", "Other/Rock.m3u8", "Other/Pop.m3u8"}
    lines = (tmp_path / "two" / "Other.m3u8").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 2 + len(FORMATS)
