"""Augmentation of images in batches: time offset, pitch shift, tempo change, equaliser and level.

These simulate differences between artists in tuning, tempo and sound, which carry little information on the genre. All
of it works on the images, so no audio is needed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genretree.settings import CHROMA_BINS, CQT_BINS, SAMPLE_RATE, Modality
from genretree.sound.mel_scale import hz_to_mel, mel_to_hz

_SEMITONES = 12  # in an octave
_KNOTS = 6  # evenly spaced points of a random equaliser curve
_PITCH_STEP = 0.01  # semitones; pitch shifts are rounded to it, so that the rows of the mel scale can be cached


def shift_and_warp(
    pixels: Tensor, modalities: tuple[Modality, ...], starts: Tensor, tempos: Tensor, semitones: Tensor
) -> Tensor:
    """Cut slices from longer images, with changed pitch and tempo.

    Parameters
    ----------
    pixels : float tensor, shape (n, modalities, size, length)
        Images to cut from, at least `size` long, with the highest frequency in row 0.
    modalities : tuple of "mel", "cqt", "chroma"
    starts : tensor, shape (n,)
        Start of each slice, in pixels.
    tempos : tensor, shape (n,)
        Tempo factors, in source pixels for each pixel of the slice; more than 1 is faster.
    semitones : tensor, shape (n,)
        Pitch shifts, on the CPU; negative values shift down. Chroma wraps around, being octave-invariant.

    Returns
    -------
    tensor, shape (n, modalities, size, size)
        Bilinear interpolation, with edge pixels repeated beyond the edges.
    """
    n, channels, size, length = pixels.shape
    columns = starts[:, None] + (torch.arange(size, device=pixels.device) + 0.5) * tempos[:, None]
    rows = torch.stack([_source_rows(name, size, semitones) for name in modalities], dim=1).to(pixels.device)
    grid = pixels.new_empty((n, channels, size, size, 2))
    grid[..., 0] = (columns * (2 / length) - 1)[:, None, None, :]
    grid[..., 1] = ((rows + 0.5) * (2 / size) - 1)[:, :, :, None]
    cut = functional.grid_sample(
        pixels.reshape(n * channels, 1, size, length),
        grid.reshape(n * channels, size, size, 2),
        padding_mode="border",
        align_corners=False,
    )
    return cut.reshape(n, channels, size, size)


def equalise(pixels: Tensor, modalities: tuple[Modality, ...], bands: float, level: float) -> Tensor:
    """Add a smooth random curve over the bands, and change brightness and contrast.

    Parameters
    ----------
    pixels : float tensor, shape (n, modalities, size, size)
        Values in [0, 1], the slice's own range in decibels.
    modalities : tuple of "mel", "cqt", "chroma"
        Chroma, which is normalised frame by frame, is not changed.
    bands : float
        Standard deviation of the curve, which is the same for mel and CQT.
    level : float
        Standard deviation of the brightness and of the log contrast.
    """
    n, _, size, _ = pixels.shape
    device = pixels.device
    knots = torch.randn(n, 1, _KNOTS, device=device) * bands
    curve = functional.interpolate(knots, size=size, mode="linear", align_corners=True)[:, :, :, None]
    contrast = (torch.randn(n, 1, 1, 1, device=device) * level).exp()
    moved = pixels * contrast + (torch.randn(n, 1, 1, 1, device=device) * level + curve)
    tuned = torch.tensor([name != "chroma" for name in modalities], device=device)[None, :, None, None]
    return torch.where(tuned, moved.clamp(0, 1), pixels)


def _source_rows(modality: Modality, size: int, semitones: Tensor) -> Tensor:
    """Compute the source row of each row: shape (n, size)."""
    rows = torch.arange(size, device=semitones.device)[None, :]
    if modality == "cqt":
        return rows + semitones[:, None] * (size / CQT_BINS)
    if modality == "chroma":
        return (rows + semitones[:, None] * (size / CHROMA_BINS)) % size
    steps = (semitones / _PITCH_STEP).round().long().tolist()
    return torch.from_numpy(np.stack([_mel_rows(size, step) for step in steps])).to(semitones.device)


@lru_cache(maxsize=4096)
def _mel_rows(size: int, step: int) -> NDArray[np.float32]:
    top = float(hz_to_mel(SAMPLE_RATE / 2))
    mels = top * (1 - (np.arange(size) + 0.5) / size)
    hertz = mel_to_hz(mels) * 2 ** (-step * _PITCH_STEP / _SEMITONES)
    rows: NDArray[np.float32] = (size * (1 - hz_to_mel(hertz) / top) - 0.5).astype(np.float32)
    return rows
