from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from genretree.models.neural.pitch_tempo import equalise, shift_and_warp
from genretree.settings import MODALITIES, SAMPLE_RATE, ImageSettings
from genretree.sound.slices import iter_slices

SIZE = 224


def _draw(folder: Path, samples: np.ndarray) -> torch.Tensor:
    """The images of one slice of 2 s, from 0 to 1: shape (1, 3, 224, 224)."""
    path = folder / f"{abs(hash(samples.tobytes()))}.wav"
    sf.write(path, samples, SAMPLE_RATE)
    piece = next(iter_slices(path, ImageSettings.build({"slice_seconds": 2.0, "size": SIZE})))
    return torch.from_numpy(piece.images.astype(np.float32))[None] / 255


def _tone(hertz: float) -> np.ndarray:
    time = np.arange(round(2.2 * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def _one(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_zero_settings_change_nothing() -> None:
    pixels = torch.rand(4, 3, 32, 32)
    same = shift_and_warp(pixels, MODALITIES, torch.zeros(4), torch.ones(4), torch.zeros(4))
    torch.testing.assert_close(same, pixels, atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset", [0, 5, 16, 32])
def test_slice_offset_cuts_between_slices(offset: int) -> None:
    pieces = torch.rand(2, 3, 32, 64)
    cut = shift_and_warp(pieces, MODALITIES, torch.full((2,), float(offset)), torch.ones(2), torch.zeros(2))
    torch.testing.assert_close(cut, pieces[..., offset : offset + 32], atol=1e-5, rtol=0)


@pytest.mark.parametrize("semitones", [-2.0, 1.0, 3.0])
@pytest.mark.parametrize("hertz", [233.08, 880.0, 1760.0])
def test_pitch_shift_matches_a_higher_tone(tmp_path: Path, hertz: float, semitones: float) -> None:
    low = _draw(tmp_path, _tone(hertz))
    high = _draw(tmp_path, _tone(hertz * 2 ** (semitones / 12)))
    moved = shift_and_warp(low, MODALITIES, _one(0.0), _one(1.0), _one(semitones))
    for number, name in enumerate(MODALITIES):
        expected, found = (
            float(
                (image[0, number].mean(dim=1) ** 8 * torch.arange(SIZE)).sum() / (image[0, number].mean(1) ** 8).sum()
            )
            for image in (high, moved)
        )
        # Within half a band of each kind: 128 mel bands, 84 of CQT, 12 of chroma.
        assert found == pytest.approx(expected, abs={"mel": 2.0, "cqt": 1.5, "chroma": 9.5}[name])


def test_a_faster_tempo_brings_beats_closer_around_the_middle() -> None:
    pieces = torch.zeros(1, 1, 8, 64)
    pieces[..., [16, 32, 48]] = 1.0
    faster = shift_and_warp(pieces[..., :64], ("mel",), _one((1 - 1.6) * 4 + 28), _one(1.6), _one(0.0))
    assert faster.shape == (1, 1, 8, 8)
    cut = shift_and_warp(pieces, ("cqt",), _one(10.0), _one(2.0), _one(0.0))[0, 0, 0]
    assert cut.argmax() == 3  # pixel 16 lies 6.5 after the start, 3.25 of the slice's pixels


def test_an_equaliser_is_smooth_and_leaves_chroma_alone() -> None:
    torch.manual_seed(0)
    pixels = torch.full((64, 3, 112, 20), 0.5)
    changed = equalise(pixels, MODALITIES, 0.1, 0.0)
    torch.testing.assert_close(changed[:, 2], pixels[:, 2])
    torch.testing.assert_close(changed[:, 0], changed[:, 1])
    curve = changed[:, 0, :, 0] - 0.5
    assert 0.05 < float(curve.std()) < 0.12
    assert float(curve.diff(dim=1).abs().max()) < 0.03
    assert float((changed[..., :1] - changed).abs().max()) == 0  # the same at every moment


def test_level_changes_stay_within_the_range() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(64, 2, 16, 16)
    changed = equalise(pixels, ("mel", "cqt"), 0.3, 0.3)
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert len({round(float(one.mean()), 4) for one in changed}) > 50
