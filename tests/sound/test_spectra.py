"""Spectra against librosa, against known signals, and block by block against the whole track."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import librosa
import numpy as np
import pytest
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from genretree.arrays import Float32Array
from genretree.errors import SettingsError
from genretree.settings import CQT_BINS, HOP_LENGTH, SAMPLE_RATE
from genretree.sound import engines, spectra
from genretree.sound.spectra import (
    ENGINES,
    Powers,
    Spectra,
    _overlapping,
    compute_spectra,
    estimate_tuning,
    resolve_engine,
    stream_spectra,
)


def compute_with_librosa(y: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Compute the recipe with librosa's public functions."""
    mel = librosa.feature.melspectrogram(y=y, sr=SAMPLE_RATE)
    cqt = np.abs(librosa.cqt(y, sr=SAMPLE_RATE)) ** 2
    chroma = np.abs(librosa.feature.chroma_stft(y=y, sr=SAMPLE_RATE)) ** 2
    return tuple(librosa.power_to_db(power, ref=np.max) for power in (mel, cqt, chroma))


def tone(frequency: float, seconds: float = 3.0) -> Float32Array:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(
        np.float32
    )


def parts(result: Spectra) -> tuple[Float32Array, Float32Array, Float32Array]:
    return result.mel, result.cqt, result.chroma


# -- against librosa -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_as_librosa(song: Float32Array) -> None:
    result = compute_spectra(song, engine="librosa")
    for ours, theirs in zip(parts(result), compute_with_librosa(song), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_the_same_as_librosa_at_any_level(song: Float32Array, level: float) -> None:
    """A quiet track reaches the amin of power_to_db, 1e-10."""
    quiet = song[: 5 * SAMPLE_RATE] * np.float32(level)
    for ours, theirs in zip(parts(compute_spectra(quiet, engine="librosa")), compute_with_librosa(quiet), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("count", [2048, 2049, 22050, 22527, 22528, 40000])
def test_shapes_and_range(song: Float32Array, count: int) -> None:
    result = compute_spectra(song[:count])
    frames = 1 + count // HOP_LENGTH
    assert [part.shape for part in parts(result)] == [(128, frames), (84, frames), (12, frames)]
    for part in parts(result):
        assert part.dtype == np.float32
        assert part.max() == 0
        assert part.min() >= -80
    assert (result.sr, result.hop_length) == (22050, 512)


# -- physics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semitone", [12, 24, 33, 45, 60, 75])
def test_a_tone_peaks_in_its_own_bins(semitone: int) -> None:
    frequency = 440 * 2 ** ((semitone + 24 - 69) / 12)  # semitones from C1, which is MIDI note 24
    result = compute_spectra(tone(frequency))
    middle = result.mel.shape[1] // 2
    assert result.cqt[:, middle].argmax() == semitone
    assert result.chroma[:, middle].argmax() == semitone % 12
    centres = librosa.mel_frequencies(130, fmin=0, fmax=SAMPLE_RATE / 2)[1:-1]
    own = int(np.abs(centres - frequency).argmin())
    assert abs(int(result.mel[:, middle].argmax()) - own) <= 1


def test_an_impulse_sounds_in_every_band_at_its_own_time() -> None:
    y = np.zeros(3 * SAMPLE_RATE, np.float32)
    at = 64 * HOP_LENGTH
    y[at] = 1
    result = compute_spectra(y)
    assert (result.mel.argmax(axis=1) == 64).all()
    assert np.ptp(result.mel[:, 64]) < 3  # Slaney's bands have equal area, so the response to an impulse is flat
    high = result.cqt[CQT_BINS // 2 :]
    assert (np.abs(high.argmax(axis=1) - 64) <= 1).all()


def test_silence_stays_silent() -> None:
    result = compute_spectra(np.zeros(SAMPLE_RATE, np.float32))
    for part in parts(result):
        assert np.isfinite(part).all()
        assert np.ptp(part) == 0


def test_level_does_not_matter(song: Float32Array) -> None:
    short = song[: 4 * SAMPLE_RATE]
    for loud, quiet in zip(parts(compute_spectra(short)), parts(compute_spectra(short / 4)), strict=True):
        np.testing.assert_allclose(loud, quiet, atol=2e-3)


@pytest.mark.parametrize("count", [2048, 1024 * 512 - 1, 1024 * 512, 26 * SAMPLE_RATE])
def test_tuning_is_what_librosa_estimates(song: Float32Array, count: int) -> None:
    detuned = song[:count]
    power = np.abs(librosa.stft(detuned)) ** 2
    assert estimate_tuning(detuned) == librosa.estimate_tuning(S=power, sr=SAMPLE_RATE, bins_per_octave=12)
    assert compute_spectra(detuned).chroma.shape[1] == power.shape[1]


@pytest.mark.parametrize("cents", [-30, 0, 20, 40])
def test_tuning_of_detuned_tones(cents: int) -> None:
    y = sum(tone(440 * 2 ** ((note - 69 + cents / 100) / 12)) for note in (81, 88, 93))
    assert estimate_tuning(y) == pytest.approx(cents / 100, abs=0.05)


# -- invalid input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [np.zeros((2, 5000)), np.zeros(2047), np.full(5000, np.nan), np.full(5000, np.inf)])
def test_bad_samples(y: Float32Array) -> None:
    with pytest.raises(ValueError, match=r"shape|2048|finite"):
        compute_spectra(y)
    with pytest.raises(ValueError, match=r"shape|2048|finite"):
        stream_spectra([y])


def test_engines() -> None:
    assert resolve_engine("auto") in ENGINES
    assert resolve_engine("librosa") == "librosa"
    with pytest.raises(SettingsError, match=r"auto, .*librosa"):
        compute_spectra(np.zeros(4096, np.float32), engine="quick")


# -- long tracks ---------------------------------------------------------------------------------------------


def test_one_block_is_the_same_to_the_last_bit(song: Float32Array) -> None:
    whole = compute_spectra(song)
    with stream_spectra(np.array_split(song, 7)) as stored:
        assert stored.frames == whole.mel.shape[1]
        assert stored.seconds == pytest.approx(26)
        for ours, theirs in zip(stored.read(0, stored.frames), parts(whole), strict=True):
            assert np.array_equal(ours, theirs)


def test_block_by_block_is_the_same_as_the_whole_track(song: Float32Array) -> None:
    """Measured over three and a half blocks: at most 1e-5 dB for mel and chroma, 4e-3 dB for CQT."""
    with stream_spectra(np.array_split(song, 9), block_frames=320) as stored:
        assert stored.frames == 1 + len(song) // HOP_LENGTH
        assert stored.seconds == pytest.approx(26)
        result = stored.read(0, stored.frames)
    mel, cqt, chroma = compute_with_librosa(song)
    assert np.abs(result[0] - mel).max() < 1e-3
    difference = np.abs(result[1] - cqt)
    assert difference.mean() < 1e-3
    assert np.percentile(difference, 99.9) < 0.02
    assert difference.max() < 0.1
    assert np.abs(result[2] - chroma).max() < 1e-3


def test_the_loudest_point_of_the_whole_track_counts(song: Float32Array) -> None:
    """A loud end lowers a quiet beginning that is already in the temporary file."""
    y = song.copy()
    y[: 20 * SAMPLE_RATE] *= 0.01
    whole = compute_spectra(y)
    with stream_spectra([y], block_frames=320) as stored:
        result = stored.read(100, 200)
    assert result[0].max() < -30
    np.testing.assert_allclose(result[0], whole.mel[:, 100:300], atol=1e-3)


def test_read_any_frames(song: Float32Array) -> None:
    with stream_spectra([song], block_frames=320) as stored:
        whole = stored.read(0, stored.frames)
        for start, count in ((0, 1), (319, 2), (500, 491), (stored.frames - 1, 1), (5, 0)):
            for part, piece in zip(whole, stored.read(start, count), strict=True):
                assert np.array_equal(part[:, start : start + count], piece)
        for start, count in ((-1, 2), (stored.frames, 1), (0, stored.frames + 1)):
            with pytest.raises(ValueError, match="of a track that has"):
                stored.read(start, count)
    with pytest.raises(ValueError, match="of a track that has"):
        stored.read(0, 1)


def test_no_more_than_a_block_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def engine(y: Float32Array, sr: int, tuning: float | None) -> Powers:
        lengths.append(len(y))
        frames = 1 + len(y) // HOP_LENGTH
        return Powers(*(np.ones((bins, frames), np.float32) for bins in (128, 84, 12)), tuning or 0.25)

    monkeypatch.setitem(ENGINES, "counting", engine)
    second = np.zeros(SAMPLE_RATE, np.float32)
    monkeypatch.setattr(spectra, "estimate_tuning", lambda y, sr: lengths.append(0) or 0.125)
    with stream_spectra((second for _ in range(900)), engine="counting", block_frames=1000) as stored:
        assert stored.frames == 1 + 900 * SAMPLE_RATE // HOP_LENGTH
        assert stored.tuning == 0.125
    assert max(lengths) <= (1000 + 2 * 96) * HOP_LENGTH
    assert len(lengths) == 1 + 39


def test_a_fault_in_the_middle_is_passed_on(song: Float32Array) -> None:
    def blocks():  # type: ignore[no-untyped-def]
        yield song
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        stream_spectra(blocks(), block_frames=320)
    with pytest.raises(ValueError, match="must be at least 96"):
        stream_spectra([song], block_frames=95)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 12), st.integers(0, 12))
def test_overlapping_blocks_cover_everything_once(sizes: list[int], size: int, context: int) -> None:
    size = max(size, context)
    track = np.arange(sum(sizes), dtype=np.float32)
    blocks = np.split(track, np.cumsum(sizes)[:-1]) if sizes else []
    covered = []
    for y, before, last in _overlapping(blocks, size, context):
        assert before == (context if covered else 0)
        if covered:
            assert y[0] == len(np.concatenate(covered)) - context
        stop = len(y) if last else before + size
        assert last or len(y) == before + size + context
        covered.append(y[before:stop])
    assert last
    assert np.array_equal(np.concatenate(covered), track)


def test_a_rate_too_low_for_the_highest_bin_is_a_value_error(song: Float32Array) -> None:
    with pytest.raises(ValueError, match="got 8000"):
        compute_spectra(song, sr=8000)


def test_one_process_at_a_time_compiles_librosa(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def import_locked(name: str) -> Any:
        (path,) = tmp_path.glob("genretree-librosa-*.lock")
        with pytest.raises(Timeout):
            FileLock(path, timeout=0).acquire()
        return import_module(name)

    monkeypatch.setattr(engines.tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(engines, "_COMPILED", ("util", "core.pitch"))
        patch.setattr(engines, "import_module", import_locked)
        assert engines.import_librosa.__wrapped__() is librosa
    FileLock(next(tmp_path.glob("*.lock")), timeout=0).acquire()  # released


def test_librosa_is_imported_where_nothing_can_be_locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines.tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=PermissionError))
    assert engines.import_librosa.__wrapped__() is librosa
