"""Relevance of what a listener can check by ear: wide frequency bands, the harmony and onsets, with its noise.

A band is occluded as a whole, over the whole slice, in one view. Onsets are removed by a median over time, as in
harmonic-percussive separation (FitzGerald 2010): what rises above the median of half a second is cut off. The noise is
measured with slices that have inaudible noise (one grey level), whose log odds an ideal model would not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from genretree.arrays import Float32Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.bands import NOTE_BANDS, SOUND_BANDS, VIEWS, Aspect, Band, BandRelevance, band_rows
from genretree.explanation.baseline import replace_with_baseline
from genretree.explanation.coordinates import IMAGES, SOUND, STEPS, View, frequency_axis
from genretree.explanation.perturb import score_parts
from genretree.explanation.slices import TrackSlices, join
from genretree.explanation.target import Target
from genretree.sound.mel_16k import compress, decompress

_ONSET_SECONDS = 0.5
_NOISY_VERSIONS = 4
_NOISE = 1.0  # grey levels: about 0.3 dB where an image spans 80 dB
_MEL_NOISE = 0.01  # of the compressed mel power, which is about 2 in music


def measure_bands(
    bundle: Bundle,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    views: Sequence[View],
    seed: int = 0,
    progress: bool = False,
) -> tuple[BandRelevance, ...]:
    """Occlude each band of the views that the model uses, the harmony, and onsets.

    Parameters
    ----------
    views : sequence of str
        The views that the model uses.
    seed : int
        Seed of the inaudible noise.
    """
    parts: list[tuple[Aspect, Band]] = []
    parts += [("sound", band) for band, _ in SOUND_BANDS] if set(VIEWS["sound"]) & set(views) else []
    parts += [("notes", band) for band, _ in NOTE_BANDS] if "cqt" in views else []
    parts += [("harmony", "all")] if "chroma" in views else []
    masks = {view: np.zeros((len(parts), frequency_axis(view).rows, STEPS), np.float32) for view in views}
    for number, (aspect, band) in enumerate(parts):
        for view in VIEWS[aspect]:
            if view in masks:
                masks[view][number, band_rows(view, band)] = 1
    has_onsets = bool({"mel", "cqt", SOUND} & set(views))

    def disturb(own: TrackSlices) -> TrackSlices:
        noisy = [add_noise(own, seed + number) for number in range(_NOISY_VERSIONS)]
        return join([own, *noisy, *([remove_onsets(own, views)] if has_onsets else [])])

    makers: list[Callable[[], TrackSlices]] = []
    for index in range(len(track_slices)):
        own, empty = track_slices.select(slice(index, index + 1)), baseline.select(slice(index, index + 1))
        makers += [partial(disturb, own), *([partial(replace_with_baseline, own, empty, masks)] if parts else [])]
    scored = np.concatenate(score_parts(bundle, targets, makers, "bands", progress))
    odds = scored.reshape(len(track_slices), -1, len(targets))  # (n_slices, n_versions, n_targets)
    noise = odds[:, 1 : 1 + _NOISY_VERSIONS] - odds[:, :1]
    # The noise of a difference of two scores is in both of them.
    deviation = np.sqrt(2 * (noise**2).mean(axis=(0, 1)) / len(odds))
    lost = odds[:, :1] - odds[:, 1 + _NOISY_VERSIONS :]
    parts = [*([("onsets", "all")] if has_onsets else []), *parts]  # type: ignore[list-item]
    return tuple(
        BandRelevance(aspect=aspect, band=band, values=lost[:, number], noise=deviation)
        for number, (aspect, band) in enumerate(parts)
    )


def remove_onsets(track_slices: TrackSlices, views: Sequence[View]) -> TrackSlices:
    """Cut off what rises above the median over half a second, in each row of mel, CQT and mel power at 16 kHz."""
    from scipy.ndimage import median_filter

    images = track_slices.images.copy()
    width = _window(images.shape[-1], track_slices.seconds)
    for number, view in enumerate(IMAGES[:2]):
        if view in views:
            images[:, number] = np.minimum(images[:, number], median_filter(images[:, number], (1, 1, width)))
    sound = track_slices.mel_16k
    if sound is not None and SOUND in views:
        compressed = compress(sound)
        smooth = median_filter(compressed, (1, _window(compressed.shape[1], track_slices.seconds), 1))
        sound = decompress(np.minimum(compressed, smooth))
    return track_slices.replace(images, sound)


def _window(columns: int, seconds: float) -> int:
    return max(3, round(_ONSET_SECONDS / seconds * columns) | 1)


def add_noise(track_slices: TrackSlices, seed: int = 0) -> TrackSlices:
    """Add inaudible noise with a standard deviation of one grey level, or of 0.01 in compressed mel power."""
    rng = np.random.default_rng(seed)
    images = track_slices.images + rng.normal(0, _NOISE, track_slices.images.shape)
    sound = None
    if track_slices.mel_16k is not None:
        noise: Float32Array = rng.normal(0, _MEL_NOISE, track_slices.mel_16k.shape).astype(np.float32)
        sound = decompress(np.maximum(compress(track_slices.mel_16k) + noise, 0))
    return track_slices.replace(np.clip(np.rint(images), 0, 255).astype(np.uint8), sound)
