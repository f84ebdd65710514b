"""Cached filters equal librosa's, and a damaged cache is detected."""

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
def _fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    read_filters.cache_clear()


def test_filters_equal_librosa() -> None:
    filters_read = read_filters()
    np.testing.assert_array_equal(filters_read["mel"], librosa.filters.mel(sr=SAMPLE_RATE, n_fft=2048, n_mels=128))
    np.testing.assert_array_equal(filters_read["mel_16k"], librosa.filters.mel(sr=16000, n_fft=512, n_mels=96))
    for index, tuning in ((0, -0.5), (37, -0.13), (50, 0.0), (99, 0.49)):
        expected = librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=2048, tuning=tuning)
        np.testing.assert_allclose(filters_read["chroma"][index], expected, atol=1e-6)


def test_filters_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filters_read = read_filters()
    read_filters.cache_clear()
    monkeypatch.setattr(filters, "_compute_filters", lambda: pytest.fail("they were cached"))
    again = read_filters()
    assert filters_read.keys() == again.keys()
    assert all(np.array_equal(filters_read[name], again[name]) for name in filters_read)


@pytest.mark.parametrize("damage", ["cut", "changed", "text"])
def test_a_damaged_cache_is_replaced(tmp_path: Path, damage: str) -> None:
    filters_read = read_filters()
    (path,) = (tmp_path / "cache").iterdir()
    if damage == "changed":
        save_file({name: values + 1 for name, values in load_file(path).items()}, path)
    else:
        path.write_bytes(path.read_bytes()[:5000] if damage == "cut" else b"filters")
    read_filters.cache_clear()
    np.testing.assert_array_equal(read_filters()["cqt"], filters_read["cqt"])
    read_filters.cache_clear()
    assert filters._read(path) is not None  # and cached again


def test_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "file"))
    assert read_filters()["mel"].shape == (128, 1025)


def test_pitch_tuning_equals_librosa() -> None:
    rng = np.random.default_rng(0)
    for shift in rng.uniform(-0.5, 0.5, 20):
        notes = rng.integers(40, 90, 500) + shift + rng.normal(0, 0.05, 500)
        pitches = (440 * 2 ** ((notes - 69) / 12)).astype(np.float32)
        assert pitch_tuning(pitches) == pytest.approx(librosa.pitch_tuning(pitches), abs=1e-9)
