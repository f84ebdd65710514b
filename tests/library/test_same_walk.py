"""`predict`, `prepare` and `library analyse` find the same music in the same folder, and name the same problems."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from library_fakes import fake_classifier

from genretree.cli import main
from genretree.cli.output import echo_failures
from genretree.corpus.manifest import Failure, read_manifest
from genretree.library.database import records
from genretree.library.database.connection import open_database
from genretree.library.scan.analyse import analyse
from genretree.library.scan.classifier import FileError
from genretree.prediction.predict import PredictionError, find_files
from genretree.sound.suffixes import SUFFIXES
from genretree.training.pretrain import _open_sources

Found = tuple[set[str], dict[str, str]]  # real paths of the music, and the type of each problem by name


def _by_predict(music: Path, _: Path) -> Found:
    found = list(find_files([music, music / "Rock"]))
    paths = [os.path.realpath(item) for item in found if isinstance(item, Path)]
    assert len(set(paths)) == len(paths)
    return set(paths), {Path(item.file).name: item.kind for item in found if isinstance(item, PredictionError)}


def _by_prepare(music: Path, _: Path) -> Found:
    manifest = read_manifest(music)
    paths = [os.path.realpath(track.path) for track in manifest.tracks]
    assert len(set(paths)) == len(paths)
    return set(paths), {Path(failure.path).name: failure.kind for failure in manifest.rejected}


def _by_pretrain(music: Path, _: Path) -> Found:
    manifest = _open_sources([music])
    paths = [os.path.realpath(track.path) for track in manifest.tracks]
    return set(paths), {Path(failure.path).name: failure.kind for failure in manifest.rejected}


def _by_library(music: Path, scratch: Path) -> Found:
    problems = {}

    def report(path: str, outcome: object, *_: object) -> None:
        if isinstance(outcome, FileError):
            problems[Path(path).name] = outcome.error

    with open_database(scratch / "library.sqlite", create=True) as database:
        analyse(database, [music], fake_classifier(), report=report)
        model, model_key = records.find_model(database)
        return {row.path for row, result in records.iter_results(database, model, model_key) if result.levels}, problems


COMMANDS = [_by_predict, _by_prepare, _by_pretrain, _by_library]


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path.name))


@pytest.mark.posix
@pytest.mark.parametrize("find", COMMANDS)
def test_links_loops_pipes_and_odd_names(
    find: Callable[[Path, Path], Found], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    music, elsewhere = tmp_path / "M", tmp_path / "else"
    for name in ("Rock/0.mp3", "Rock/cover.jpg", "Classic/5.mp3", f"Classic/{os.fsdecode(b'caf' + bytes([233]))}.ogg"):
        _write(music / name)
    _write(elsewhere / "Pop" / "1.mp3")
    (music / "locked").mkdir()
    (music / "Pop").symlink_to("../else/Pop")
    (music / "Pop too").symlink_to("../else/Pop")
    (music / "Rock" / "again.mp3").symlink_to("0.mp3")
    (music / "Rock" / "gone.mp3").symlink_to("../nowhere.mp3")
    (music / "Jazz").symlink_to("../not mounted")
    (music / "Classic" / "loop").symlink_to("..")
    (elsewhere / "Pop" / "top").symlink_to(tmp_path)
    os.mkfifo(music / "Rock" / "pipe.mp3")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, problems = find(music, tmp_path)
    assert found == {
        *(str(music / name) for name in ("Rock/0.mp3", "Classic/5.mp3", "Classic/caf\udce9.ogg")),
        str(elsewhere / "Pop/1.mp3"),
    }
    expected = {"gone.mp3": "not_found", "Jazz": "not_found", "pipe.mp3": "unreadable", "locked": "unreadable"}
    assert problems == expected


@pytest.mark.parametrize("find", COMMANDS)
def test_every_format(find: Callable[[Path, Path], Found], tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        _write(tmp_path / "M" / "Rock" / f"x{suffix}")
        _write(tmp_path / "M" / "Pop" / f"y{suffix.upper()}")
    found, problems = find(tmp_path / "M", tmp_path)
    assert len(found) == 2 * len(SUFFIXES)
    assert not problems


def test_a_linked_folder_is_a_genre_of_the_links_name(tmp_path: Path) -> None:
    _write(tmp_path / "M" / "Rock" / "0.mp3")
    _write(tmp_path / "else" / "p" / "1.mp3")
    (tmp_path / "M" / "Pop").symlink_to("../else/p")
    manifest = read_manifest(tmp_path / "M")
    assert {track.name: manifest.taxonomy.leaves[track.leaf] for track in manifest.tracks} == {
        "Pop/1.mp3": ("Pop",),
        "Rock/0.mp3": ("Rock",),
    }


def test_predict_takes_files_as_named_and_those_of_folders_once(tmp_path: Path) -> None:
    _write(tmp_path / "a.mp3")
    _write(tmp_path / "b.dat")
    a, b = tmp_path / "a.mp3", tmp_path / "b.dat"
    assert list(find_files([a, a, b, tmp_path])) == [a, a, b]
    assert list(find_files([tmp_path, a, b])) == [a, b]
    assert list(find_files([tmp_path, tmp_path / "c.mp3"])) == [a, tmp_path / "c.mp3"]


def _sing(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 33075), 22050)


def test_prepare_reports_skipped_files(tmp_path: Path) -> None:
    music = tmp_path / "M"
    for i in range(2):
        _sing(music / ("Rock" if i else "Pop") / f"{i}.wav", i)
    _write(music / "Rock" / "cover.jpg")
    (music / "Jazz\x1b[2J").symlink_to("nowhere")
    options = ["--size", "32", "--slice-seconds", "1", "--workers", "1", "--quiet"]
    done = CliRunner().invoke(main, ["prepare", str(music), str(tmp_path / "s"), *options])
    assert done.exit_code == 0, done.output
    assert "failed (not_found): Jazz\\x1b[2J: is a dangling link" in done.stderr
    assert "Skipped 1 file of other types (.jpg 1)." in done.stderr
    as_json = CliRunner().invoke(main, ["prepare", str(music), str(tmp_path / "s"), *options, "--json"])
    content = json.loads(as_json.stdout)
    assert content["skipped"] == {"types": {".jpg": 1}, "links": 0}
    assert [failure["kind"] for failure in content["failures"]] == ["not_found"]


def test_many_failures_are_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [Failure(f"{i}.mp3", "not_audio" if i % 3 else "empty", f"{i}.mp3: no") for i in range(5000)]
    echo_failures(failures, "--json")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 4980 more: 5000 failed in all (not_audio 3333, empty 1667); --json lists them"
