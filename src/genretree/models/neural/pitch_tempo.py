"""Slices cut elsewhere, played a little higher or faster, mixed and mastered otherwise: whole batches at once.

Artists differ in tuning, tempo and the sound of their recordings, which says little of the genre; a network that learns
from a few of them must not go by it. All is done on the images, so it serves where there is no sound.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genretree.settings import CHROMA_BINS, CQT_BINS, N_MELS, SAMPLE_RATE, Modality

_SEMITONES = 12  # in an octave
_KNOTS = 6  # of a random equaliser's curve, spread evenly over the bands
_FINEST = 0.01  # semitones: pitches in between are rounded, so that the mel scale's rows are computed once


def shift_and_warp(
    pixels: Tensor, modalities: tuple[Modality, ...], starts: Tensor, tempos: Tensor, semitones: Tensor
) -> Tensor:
    """Cut slices out of longer pieces, played at another pitch and tempo.

    Parameters
    ----------
    pixels : float tensor, shape (n, modalities, size, length)
        Pieces to cut from, at least a slice long, the highest frequency in row 0.
    modalities : tuple of "mel", "cqt", "chroma"
    starts : tensor, shape (n,)
        Where each slice begins, in pixels.
    tempos : tensor, shape (n,)
        How many pixels of the piece one pixel of the slice takes; more than 1 is faster.
    semitones : tensor, shape (n,)
        How much higher; less than 0 is lower. Chroma turns round, as an octave does.

    Returns
    -------
    tensor, shape (n, modalities, size, size)
        Bilinear in between; beyond the edges the edge goes on.
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
    """Change the balance of the bands by a smooth random curve, and brightness and contrast of all.

    Parameters
    ----------
    pixels : float tensor, shape (n, modalities, size, size)
        From 0 to 1: a slice's own range in decibels.
    modalities : tuple of "mel", "cqt", "chroma"
        Chroma, which is scaled moment by moment, stays as it is.
    bands : float
        Spread of the curve, which mel and CQT have in common.
    level : float
        Spread of brightness, and of the logarithm of contrast.
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
    """Give the row that each row is taken from: shape (n, size)."""
    rows = torch.arange(size, device=semitones.device)[None, :]
    if modality == "cqt":
        return rows + semitones[:, None] * (size / CQT_BINS)
    if modality == "chroma":
        return (rows + semitones[:, None] * (size / CHROMA_BINS)) % size
    steps = (semitones / _FINEST).round().long().tolist()
    return torch.from_numpy(np.stack([_mel_rows(size, step) for step in steps])).to(semitones.device)


@lru_cache(maxsize=4096)
def _mel_rows(size: int, step: int) -> NDArray[np.float32]:
    import librosa

    edges = librosa.mel_frequencies(N_MELS + 2, fmin=0, fmax=SAMPLE_RATE / 2)
    top = float(librosa.hz_to_mel(edges[-1]))
    mels = top * (1 - (np.arange(size) + 0.5) / size)
    hertz = librosa.mel_to_hz(mels) * 2 ** (-step * _FINEST / _SEMITONES)
    found: NDArray[np.float32] = (size * (1 - librosa.hz_to_mel(hertz) / top) - 0.5).astype(np.float32)
    return found
