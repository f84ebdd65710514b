"""The baseline that replaces occluded parts of a slice: an estimate of the slice's own noise floor.

A black patch would add edges that do not occur in music. The floor of a row is a low percentile over time, which is the
level between notes. A sustained tone would remain in it, so a low percentile over neighbouring rows follows, then
smoothing. Chroma rows are pitch classes rather than neighbouring bands, so chroma has one level for all rows. A
constant floor is out of distribution for models that measure temporal change; the floor therefore fluctuates as noise
does, with the median step between adjacent pixels of the slice. The noise has a fixed seed and is the same for every
slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array
from genretree.explanation.coordinates import IMAGES, SOUND, View, spread_mask, stretch_mask
from genretree.explanation.slices import TrackSlices
from genretree.settings import CHROMA_BINS
from genretree.sound.mel_16k import compress, decompress

_PERCENTILE = 10
_NEIGHBOURS = 1 / 4  # share of the rows
_FLUCTUATION = 2 * 1.4826 / 2**0.5  # standard deviation of noise blurred as images are, over its median time step
_BLUR = 0.7  # pixels; the frames of a spectrogram overlap, so its noise is correlated
_SEED = 0


def views_of(track_slices: TrackSlices) -> tuple[View, ...]:
    """List the views of slices: the three images, and mel power at 16 kHz if the model uses it."""
    return IMAGES if track_slices.mel_16k is None else (*IMAGES, SOUND)


def compute_baseline(track_slices: TrackSlices) -> TrackSlices:
    """Compute the baseline of slices: slices of the same shape that hold the noise floor only."""
    images = np.empty_like(track_slices.images)
    size = images.shape[-1]
    for number, view in enumerate(IMAGES):
        floor_image = _floor(track_slices.images[:, number].astype(np.float32), view, _noise(view, size, size))
        images[:, number] = np.clip(np.rint(floor_image), 0, 255)
    sound = None
    if track_slices.mel_16k is not None:
        compressed = np.swapaxes(compress(track_slices.mel_16k), 1, 2)
        floor = _floor(compressed, SOUND, _noise(SOUND, *compressed.shape[1:]))
        sound = decompress(np.maximum(np.swapaxes(floor, 1, 2), 0))
    return track_slices.replace(images, sound)


def _floor(spectrograms: Float32Array, view: View, noise: Float32Array) -> Float32Array:
    """Estimate the floor of slices, shape (n, rows, columns), and add the noise."""
    rows = np.percentile(spectrograms, _PERCENTILE, axis=2)
    amplitude = _FLUCTUATION * np.median(np.abs(np.diff(spectrograms, axis=2)), axis=2).mean(axis=1)
    floor: Float32Array = _level(rows, view)[:, :, None] + amplitude[:, None, None] * noise
    return floor


@lru_cache(maxsize=8)
def _noise(view: View, rows: int, columns: int) -> Float32Array:
    """Generate noise of standard deviation 1; rows of one pitch class share their noise."""
    from scipy.ndimage import gaussian_filter

    white = np.random.default_rng(_SEED).standard_normal((CHROMA_BINS if view == "chroma" else rows, columns))
    blurred = gaussian_filter(white, (0 if view == "chroma" else _BLUR, _BLUR), mode="wrap")
    if view == "chroma":
        blurred = blurred[np.arange(rows) * CHROMA_BINS // rows]
    noise: Float32Array = (blurred / blurred.std()).astype(np.float32)
    return noise


def _level(rows: NDArray[np.floating], view: View) -> Float32Array:
    """Compute a smoothed low percentile over neighbouring rows, shape (n, rows)."""
    from scipy.ndimage import percentile_filter, uniform_filter1d

    if view == "chroma":
        lowest = np.percentile(rows, _PERCENTILE, axis=1, keepdims=True)
        return np.broadcast_to(lowest, rows.shape).astype(np.float32)
    width = max(3, round(_NEIGHBOURS * rows.shape[1]))
    low = percentile_filter(rows, _PERCENTILE, size=(1, width), mode="nearest")
    smooth: Float32Array = uniform_filter1d(low, width, axis=1, mode="nearest").astype(np.float32)
    return smooth


def replace_views(track_slices: TrackSlices, baseline: TrackSlices, absent: frozenset[View]) -> TrackSlices:
    """Replace whole views by the baseline."""
    images, sound = track_slices.images.copy(), track_slices.mel_16k
    for number, view in enumerate(IMAGES):
        if view in absent:
            images[:, number] = baseline.images[:, number]
    if SOUND in absent:
        sound = baseline.mel_16k
    return track_slices.replace(images, sound)


def replace_with_baseline(
    track_slice: TrackSlices, baseline: TrackSlices, masks: Mapping[View, Float32Array]
) -> TrackSlices:
    """Replace parts of one slice by the baseline, once per mask.

    Parameters
    ----------
    track_slice, baseline : TrackSlices
        One slice each.
    masks : mapping of view to array, shape (n_masks, rows, steps)
        1 where the baseline replaces the slice, 0 where the slice stays. Views without a mask stay unchanged.

    Returns
    -------
    TrackSlices
        One slice per mask.
    """
    n = len(next(iter(masks.values())))
    images = np.repeat(track_slice.images, n, axis=0)
    sound = None if track_slice.mel_16k is None else np.repeat(track_slice.mel_16k, n, axis=0)
    for view, mask in masks.items():
        if view == SOUND:
            if track_slice.mel_16k is not None and baseline.mel_16k is not None and sound is not None:
                share = stretch_mask(mask, *sound.shape[1:])
                compressed, empty = compress(track_slice.mel_16k), compress(baseline.mel_16k)
                changed = decompress(compressed + (empty - compressed) * share)
                sound = np.where(share > 0, changed, sound)
            continue
        number = IMAGES.index(view)
        own, other = track_slice.images[:, number].astype(np.float32), baseline.images[:, number].astype(np.float32)
        share = spread_mask(mask, own.shape[-1])
        images[:, number] = np.rint(own + (other - own) * share)
    repeated = replace(track_slice.select(np.zeros(n, np.int64)), decibels=None)
    return repeated.replace(images, sound)
