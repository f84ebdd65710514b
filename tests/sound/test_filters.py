"""Kept filters: librosa's own numbers, and nothing but what was written."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genretree.settings import SAMPLE_RATE
from genretree.sound import filters
from genretree.sound.fast import pitch_tuning
from genretree.sound.filters import read_filters


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    read_filters.cache_clear()


def test_they_are_librosas() -> None:
    found = read_filters()
    np.testing.assert_array_equal(found["mel"], librosa.filters.mel(sr=SAMPLE_RATE, n_fft=2048, n_mels=128))
    np.testing.assert_array_equal(found["mel_16k"], librosa.filters.mel(sr=16000, n_fft=512, n_mels=96))
    for place, tuning in ((0, -0.5), (37, -0.13), (50, 0.0), (99, 0.49)):
        expected = librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=2048, tuning=tuning)
        np.testing.assert_allclose(found["chroma"][place], expected, atol=1e-6)


def test_they_are_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = read_filters()
    read_filters.cache_clear()
    monkeypatch.setattr(filters, "_work_out", lambda: pytest.fail("they were kept"))
    again = read_filters()
    assert made.keys() == again.keys()
    assert all(np.array_equal(made[name], again[name]) for name in made)


@pytest.mark.parametrize("harm", ["cut", "changed", "text"])
def test_what_was_not_written_here_is_worked_out_anew(tmp_path: Path, harm: str) -> None:
    made = read_filters()
    (path,) = (tmp_path / "cache").iterdir()
    if harm == "changed":
        save_file({name: values + 1 for name, values in load_file(path).items()}, path)
    else:
        path.write_bytes(path.read_bytes()[:5000] if harm == "cut" else b"filters")
    read_filters.cache_clear()
    np.testing.assert_array_equal(read_filters()["cqt"], made["cqt"])
    read_filters.cache_clear()
    assert filters._read(path) is not None  # and kept again


def test_without_a_place_to_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "file"))
    assert read_filters()["mel"].shape == (128, 1025)


def test_the_tuning_of_pitches_is_librosas() -> None:
    rng = np.random.default_rng(0)
    for shift in rng.uniform(-0.5, 0.5, 20):
        notes = rng.integers(40, 90, 500) + shift + rng.normal(0, 0.05, 500)
        pitches = (440 * 2 ** ((notes - 69) / 12)).astype(np.float32)
        assert pitch_tuning(pitches) == pytest.approx(librosa.pitch_tuning(pitches), abs=1e-9)
