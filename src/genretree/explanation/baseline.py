"""What is put in the place of music that is taken away: the slice's own noise floor.

Black would be a sound of its own, an edge that no music has. The floor of a row is a low percentile of it over time,
which is what is there between the notes; a tone that is held would still be in it, so that a low percentile over the
neighbouring rows is taken next, and smoothed. Chroma has no neighbours of another kind: its floor is one level. A floor
that never moves is no sound either, and sends a model that measures movement anywhere: so it fluctuates as noise does,
as strongly as the slice does from one pixel to the next. The noise is drawn once, the same for every slice.
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
_NEIGHBOURS = 1 / 4  # of the rows
_FLUCTUATION = 2 * 1.4826 / 2**0.5  # spread of noise that is blurred as images are, over its median step in time
_BLUR = 0.7  # pixels, of the noise; the frames of a spectrum overlap
_SEED = 0


def views_of(track_slices: TrackSlices) -> tuple[View, ...]:
    """Name what a model may see of slices: the three images, and mel power at 16 kHz where it listens."""
    return IMAGES if track_slices.mel_16k is None else (*IMAGES, SOUND)


def compute_baseline(track_slices: TrackSlices) -> TrackSlices:
    """Give slices of nothing but background, as the model would see them."""
    images = np.empty_like(track_slices.images)
    size = images.shape[-1]
    for number, view in enumerate(IMAGES):
        found = _floor(track_slices.images[:, number].astype(np.float32), view, _noise(view, size, size))
        images[:, number] = np.clip(np.rint(found), 0, 255)
    sound = None
    if track_slices.mel_16k is not None:
        heard = np.swapaxes(compress(track_slices.mel_16k), 1, 2)
        floor = _floor(heard, SOUND, _noise(SOUND, *heard.shape[1:]))
        sound = decompress(np.maximum(np.swapaxes(floor, 1, 2), 0))
    return track_slices.replace(images, sound)


def _floor(shown: Float32Array, view: View, noise: Float32Array) -> Float32Array:
    """Give the floor of slices, (n, rows, columns), with its noise."""
    rows = np.percentile(shown, _PERCENTILE, axis=2)
    strength = _FLUCTUATION * np.median(np.abs(np.diff(shown, axis=2)), axis=2).mean(axis=1)
    floor: Float32Array = _level(rows, view)[:, :, None] + strength[:, None, None] * noise
    return floor


@lru_cache(maxsize=8)
def _noise(view: View, rows: int, columns: int) -> Float32Array:
    """Draw noise of spread 1; rows of the same pitch class move together."""
    from scipy.ndimage import gaussian_filter

    drawn = np.random.default_rng(_SEED).standard_normal((CHROMA_BINS if view == "chroma" else rows, columns))
    blurred = gaussian_filter(drawn, (0 if view == "chroma" else _BLUR, _BLUR), mode="wrap")
    if view == "chroma":
        blurred = blurred[np.arange(rows) * CHROMA_BINS // rows]
    noise: Float32Array = (blurred / blurred.std()).astype(np.float32)
    return noise


def _level(rows: NDArray[np.floating], view: View) -> Float32Array:
    """Take what is low among neighbouring rows, shape (n, rows), and smooth it."""
    from scipy.ndimage import percentile_filter, uniform_filter1d

    if view == "chroma":
        lowest = np.percentile(rows, _PERCENTILE, axis=1, keepdims=True)
        return np.broadcast_to(lowest, rows.shape).astype(np.float32)
    width = max(3, round(_NEIGHBOURS * rows.shape[1]))
    low = percentile_filter(rows, _PERCENTILE, size=(1, width), mode="nearest")
    smooth: Float32Array = uniform_filter1d(low, width, axis=1, mode="nearest").astype(np.float32)
    return smooth


def replace_views(track_slices: TrackSlices, baseline: TrackSlices, absent: frozenset[View]) -> TrackSlices:
    """Put the background in the place of whole views."""
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
    """Put the background in the place of parts of one slice, once for each mask.

    Parameters
    ----------
    track_slice, background : TrackSlices
        One slice.
    masks : mapping of view to array, shape (n_masks, rows, steps)
        1 where music is taken away, 0 where it stays. Views that are not named stay as they are.

    Returns
    -------
    TrackSlices
        As many as there are masks.
    """
    n = len(next(iter(masks.values())))
    images = np.repeat(track_slice.images, n, axis=0)
    sound = None if track_slice.mel_16k is None else np.repeat(track_slice.mel_16k, n, axis=0)
    for view, mask in masks.items():
        if view == SOUND:
            if track_slice.mel_16k is not None and baseline.mel_16k is not None and sound is not None:
                share = stretch_mask(mask, *sound.shape[1:])
                heard, empty = compress(track_slice.mel_16k), compress(baseline.mel_16k)
                changed = decompress(heard + (empty - heard) * share)
                sound = np.where(share > 0, changed, sound)
            continue
        number = IMAGES.index(view)
        own, other = track_slice.images[:, number].astype(np.float32), baseline.images[:, number].astype(np.float32)
        share = spread_mask(mask, own.shape[-1])
        images[:, number] = np.rint(own + (other - own) * share)
    repeated = replace(track_slice.select(np.zeros(n, np.int64)), decibels=None)
    return repeated.replace(images, sound)
