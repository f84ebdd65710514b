"""Docstrings of the public names: numpydoc's checks, and examples that run."""

from __future__ import annotations

import doctest
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

import genretree
from genretree.prediction.predict import LabelProbability, LevelPrediction, PathProbability, SlicePrediction
from genretree.settings import SAMPLE_RATE
from small_corpus import synthesise

# No docstring; a parameter without description; no return value, example or See Also section.
CHECKS = {"GL08", "PR01", "PR02", "RT01", "EX01", "SA01"}
GENRES = {"Punk": ("Rock/Punk", "Noise"), "Indie": ("Rock/Indie", "Fast_beat"), "Jazz": ("Jazz", "Drone")}
VALUES = {
    **{name: getattr(genretree, name) for name in genretree.__all__},
    **{value.__name__: value for value in (LabelProbability, LevelPrediction, PathProbability, SlicePrediction)},
}
SETTINGS = {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2}


@pytest.mark.parametrize("name", VALUES)
def test_a_public_docstring_is_complete(name: str) -> None:
    validate = pytest.importorskip("numpydoc.validate").validate
    value: Any = VALUES[name]
    where = "genretree" if name in genretree.__all__ else value.__module__
    errors = validate(f"{where}.{name}")["errors"]
    assert [error for error in errors if error[0] in CHECKS] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that examples run in: tracks.csv, music/, STORE, BUNDLE and song.mp3."""
    path = tmp_path_factory.mktemp("examples")
    (path / "music").mkdir()
    rows = ["path,genre,artist"]
    for name, (genre, sound) in GENRES.items():
        for artist in range(4):
            for track in range(2):
                file = f"music/{name}-{artist}-{track}.wav"
                sf.write(path / file, synthesise(sound, 10 * artist + track, 4.5), SAMPLE_RATE)
                rows.append(f"{file},{genre},{name} artist {artist}")
    (path / "tracks.csv").write_text("\n".join(rows) + "\n")
    sf.write(path / "song.mp3", synthesise("Noise", 99, 6.0), SAMPLE_RATE)
    before = Path.cwd()
    os.chdir(path)
    settings = genretree.ImageSettings(slice_seconds=2.0, size=32)
    store = genretree.prepare(genretree.read_manifest("tracks.csv"), "STORE", settings, workers=1)
    genretree.train(store, "boosting", "BUNDLE", SETTINGS)
    yield path
    os.chdir(before)


@pytest.mark.parametrize("name", VALUES)
def test_the_examples_of_a_public_name_run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value: Any = VALUES[name]
    tests = doctest.DocTestFinder(recurse=inspect.isclass(value)).find(
        value, name, globs=dict(inspect.getmodule(value).__dict__)
    )
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    n_run = 0
    for test in tests:
        runner.run(test, clear_globs=False)
        n_run += sum(doctest.SKIP not in example.options for example in test.examples)
    assert runner.failures == 0, capsys.readouterr().out
    assert n_run > 1
