"""The fast engine against librosa: on music, on all signal types, at all lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genretree.arrays import Float32Array
from genretree.settings import HOP_LENGTH, SAMPLE_RATE
from genretree.sound.engines import compute_powers_librosa, estimate_tuning
from genretree.sound.fast import FastStream, compute_powers_fast
from genretree.sound.spectra import compute_spectra, stream_spectra

RNG = np.random.default_rng(0)
TIME = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
SIGNALS = {
    "noise": RNG.standard_normal(len(TIME)),
    "quiet noise": 1e-5 * RNG.standard_normal(len(TIME)),
    "loud noise": 1e4 * RNG.standard_normal(len(TIME)),
    "low sine": np.sin(2 * np.pi * 41.2 * TIME),
    "middle sine": 0.3 * np.sin(2 * np.pi * 452.0 * TIME),
    "high sine": np.sin(2 * np.pi * 3900.0 * TIME),
    "sweep": np.sin(2 * np.pi * 30 * 2 ** (7.8 * TIME / 3) * 3 / (7.8 * np.log(2))),
    "chord with vibrato": sum(np.sin(2 * np.pi * f * TIME + np.sin(30 * TIME)) for f in (131.0, 164.8, 196.2)),
    "impulse": np.eye(1, len(TIME), 31_234)[0],
    "impulses": (np.arange(len(TIME)) % 5_003 == 0).astype(float),
    "square": np.sign(np.sin(2 * np.pi * 110 * TIME)),
    "fading": np.exp(-4 * TIME) * RNG.standard_normal(len(TIME)),
    "sound and silence": np.where(TIME < 1.5, RNG.standard_normal(len(TIME)), 0),
    "silence": np.zeros(len(TIME)),
    "direct current": np.ones(len(TIME)),
}


def assert_close(y: Float32Array, pitched: bool = True) -> None:
    ours, theirs = (compute_spectra(y, engine=engine) for engine in ("fast", "librosa"))
    assert np.abs(ours.mel - theirs.mel).max() < 0.01
    # In the flat spectrum of an impulse, the only peaks are rounding errors, and so is the tuning estimated from them.
    assert np.abs(ours.chroma - theirs.chroma).max() < (1e-3 if pitched else 0.5)
    assert np.percentile(np.abs(ours.chroma - theirs.chroma), 99.9) < (1e-4 if pitched else 0.5)
    difference = np.abs(ours.cqt - theirs.cqt)
    assert difference.mean() < 0.002
    assert np.percentile(difference, 99.9) < 0.05


@pytest.mark.slow
def test_music(song: Float32Array) -> None:
    assert_close(song)
    ours, theirs = (compute_spectra(song, engine=engine).chroma for engine in ("fast", "librosa"))
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("name", list(SIGNALS))
def test_signal_types(name: str) -> None:
    y = SIGNALS[name].astype(np.float32)
    assert_close(y, not name.startswith("impulse"))
    ours, theirs = (engine(y, SAMPLE_RATE, 0.1).chroma for engine in (compute_powers_fast, compute_powers_librosa))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@given(st.integers(2048, 40_000), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore:n_fft=:UserWarning")
def test_every_length(count: int, seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    ours, theirs = compute_powers_fast(y, SAMPLE_RATE, None), compute_powers_librosa(y, SAMPLE_RATE, None)
    assert [part.shape for part in ours[:3]] == [part.shape for part in theirs[:3]]
    assert ours.tuning == theirs.tuning
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * other.max())


@pytest.mark.parametrize("cents", [-40, -15, 0, 25, 49])
def test_tuning_equals_librosa(cents: int) -> None:
    y = sum(np.sin(2 * np.pi * 220 * 2 ** ((note + cents / 100) / 12) * TIME) for note in (0, 4, 7, 16))
    assert (
        compute_powers_fast(y.astype(np.float32), SAMPLE_RATE, None).tuning
        == compute_powers_librosa(y.astype(np.float32), SAMPLE_RATE, None).tuning
    )


def test_tuning_of_a_long_track_equals_librosa(song: Float32Array) -> None:
    for y in (song, song[: 300 * 512 + 17], np.zeros(4096, np.float32)):
        stream = FastStream()
        stream.add(y)
        assert stream.tuning() == estimate_tuning(y)


@given(st.lists(st.integers(0, 200_000), max_size=6))
@settings(max_examples=15, deadline=None)
def test_blocks_equal_the_whole(song: Float32Array, cuts: list[int]) -> None:
    whole = compute_powers_fast(song[:200_000], SAMPLE_RATE, None)
    stream = FastStream()
    for block in np.split(song[:200_000], sorted(cuts)):
        stream.add(block)
    result = stream.finish(None)
    assert result.tuning == whole.tuning
    for one, other in zip(result[:3], whole[:3], strict=True):
        assert np.array_equal(one, other)


def test_an_explicit_tuning_is_used(song: Float32Array) -> None:
    short = song[: 4 * SAMPLE_RATE]
    ours, theirs = compute_powers_fast(short, SAMPLE_RATE, 0.23), compute_powers_librosa(short, SAMPLE_RATE, 0.23)
    assert ours.tuning == 0.23
    np.testing.assert_allclose(ours.chroma, theirs.chroma, rtol=1e-3, atol=1e-6)


def test_other_sample_rates_use_librosa(song: Float32Array) -> None:
    ours, theirs = compute_powers_fast(song[:50_000], 44_100, None), compute_powers_librosa(song[:50_000], 44_100, None)
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        assert np.array_equal(one, other)


def test_blocks_join_without_a_seam(song: Float32Array) -> None:
    whole = compute_spectra(song, engine="fast")
    with stream_spectra([song], engine="fast", block_frames=320) as stored:
        result = stored.read(0, stored.frames)
    for one, other in zip(result, (whole.mel, whole.cqt, whole.chroma), strict=True):
        difference = np.abs(one - other)
        assert difference.max() < 0.1
        assert difference.mean() < 1e-3
    assert whole.mel.shape[1] == 1 + len(song) // HOP_LENGTH
