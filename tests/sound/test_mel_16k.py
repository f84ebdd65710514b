from __future__ import annotations

import librosa
import numpy as np
import pytest

from genretree.settings import HOP_LENGTH, MEL_16K_RATE, SAMPLE_RATE, ImageSettings
from genretree.sound.mel_16k import MEL_16K_HOP, Mel16kTap, compress, compute_mel_16k, mel_16k_frames, to_half
from genretree.sound.slices import slice_track


def _music(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * pitch * time * (1 + 0.01 * time)) for pitch in (110, 440, 3000))
    return (0.1 * tones + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.05, 1.0, 20.0])
def test_it_equals_the_published_front_end(seconds: float) -> None:
    y = _music(seconds)
    at_16k = librosa.resample(y, orig_sr=SAMPLE_RATE, target_sr=MEL_16K_RATE, res_type="soxr_hq")
    mel = librosa.feature.melspectrogram(y=at_16k, sr=MEL_16K_RATE, n_fft=512, hop_length=256, n_mels=96).T
    expected = np.log10(10000 * mel + 1)
    result = compress(compute_mel_16k(y))
    assert abs(len(result) - len(expected)) <= 1
    frames = min(len(result), len(expected)) - 2  # the resampler's end differs between a stream and a whole
    np.testing.assert_allclose(result[:frames], expected[:frames], atol=3e-4)


def test_blocks_make_no_difference() -> None:
    y = _music(12.0)
    whole = compute_mel_16k(y)
    with Mel16kTap() as tap:
        cuts = np.split(y, [1, 100, 5000, 5001, 200_000])
        assert sum(len(block) for block in tap.through(cuts)) == len(y)
        result = tap.read(0, tap.frames)
    np.testing.assert_allclose(compress(result), compress(whole), atol=1e-3)


def test_a_pure_tone_lies_in_its_band() -> None:
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    result = compute_mel_16k(np.sin(2 * np.pi * 1000 * time).astype(np.float32))
    centres = librosa.mel_frequencies(98, fmax=MEL_16K_RATE / 2)[1:-1]
    assert result[60].argmax() == np.abs(centres - 1000).argmin()
    assert (compute_mel_16k(np.zeros(SAMPLE_RATE, np.float32)) == 0).all()


def test_a_slice_gets_the_mel_16k_of_its_own_time() -> None:
    settings = ImageSettings.build({"slice_seconds": 2.0, "size": 32})
    y = _music(9.0)
    y[: 4 * SAMPLE_RATE] = 0.0
    track_slices = list(slice_track(y, settings, features=["mel_16k"]))
    whole = compute_mel_16k(y)
    for track_slice in track_slices:
        assert track_slice.features["mel_16k"].shape == (mel_16k_frames(settings), 96)
        at = round(track_slice.start * MEL_16K_RATE / MEL_16K_HOP)
        at = min(at, len(whole) - len(track_slice.features["mel_16k"]))
        np.testing.assert_array_equal(
            track_slice.features["mel_16k"], whole[at : at + len(track_slice.features["mel_16k"])]
        )
    loud = [float(compress(track_slice.features["mel_16k"]).mean()) for track_slice in track_slices]
    assert loud[0] < 0.01 < loud[-1]
    assert next(slice_track(y, settings)).features == {}


def test_a_slice_of_11_4_seconds_has_712_frames() -> None:
    settings = ImageSettings()
    assert mel_16k_frames(settings) == 712
    assert (mel_16k_frames(settings) - 1) * MEL_16K_HOP / MEL_16K_RATE <= (
        settings.slice_frames - 1
    ) * HOP_LENGTH / SAMPLE_RATE


def test_frames_beyond_the_end_are_moved_back_and_too_many_refused() -> None:
    with Mel16kTap() as tap:
        list(tap.through([_music(1.0)]))
        np.testing.assert_array_equal(tap.read(tap.frames - 5, 10), tap.read(tap.frames - 10, 10))
        with pytest.raises(ValueError, match="of a track that has"):
            tap.read(0, tap.frames + 1)


def test_to_half_rounds_as_astype_does() -> None:
    """Every float16 from 0, the midpoints between them, and the adjacent float32 values."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([halves, between])
    values = np.concatenate([values, np.nextafter(values, np.float32(0)), np.nextafter(values, np.float32(1e9))])
    values = values[values < np.finfo(np.float16).max]
    np.testing.assert_array_equal(to_half(values).view(np.uint16), values.astype(np.float16).view(np.uint16))
