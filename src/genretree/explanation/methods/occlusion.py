"""Occlusion (Zeiler and Fergus 2014; random masks: Petsiuk et al. 2018, RISE): serves every family.

A part of a slice is replaced by its background, and the model is asked again. What its log odds lose is the part's
relevance; it is below 0 where the part spoke against the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.baseline import replace_with_baseline
from genretree.explanation.coordinates import STEPS, View, frequency_axis
from genretree.explanation.perturb import each_slice, log_odds
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target

# Parts along frequency and time: an octave of the CQT, a pitch class, an eighth of the mel scale; 1.4 or 2.9 s.
GRID: Mapping[View, tuple[int, int]] = {"mel": (8, 8), "cqt": (7, 8), "chroma": (12, 4), "mel_16k": (8, 8)}
_KEPT = 0.5  # chance of each part to stay, in random masks


Maps = dict[View, Float32Array]  # by view, shape (n_slices, n_targets, rows, STEPS)


@lru_cache(maxsize=8)
def cells(view: View) -> Float32Array:
    """Give the parts of a view, which don't overlap and leave nothing out: masks, shape (n_parts, rows, STEPS)."""
    along_frequency, along_time = GRID[view]
    rows = frequency_axis(view).rows
    masks = np.zeros((along_frequency * along_time, rows, STEPS), np.float32)
    for i, bands in enumerate(np.array_split(np.arange(rows), along_frequency)):
        for j, steps in enumerate(np.array_split(np.arange(STEPS), along_time)):
            masks[i * along_time + j, bands[0] : bands[-1] + 1, steps[0] : steps[-1] + 1] = 1
    masks.setflags(write=False)
    return masks


def spread_cells(values: NDArray[np.floating], view: View) -> Float32Array:
    """Spread what belongs to each part, (..., n_parts), evenly over it: (..., rows, STEPS); sums stay."""
    masks = cells(view)
    spread: Float32Array = np.tensordot(values, masks / masks.sum(axis=(1, 2), keepdims=True), axes=1).astype(
        np.float32
    )
    return spread


def gather_cells(maps: NDArray[np.floating], view: View) -> Float64Array:
    """Sum relevance, (..., rows, STEPS), over each part: (..., n_parts)."""
    return np.tensordot(maps, cells(view).astype(np.float64), axes=((-2, -1), (1, 2)))


def occlude(
    bundle: Bundle,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    views: Sequence[View],
    masks: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> Maps:
    """Map what the log odds lose where music is taken away.

    Parameters
    ----------
    views : sequence of str
        Which views to take parts of.
    masks : int
        0: each part by itself, exactly. Else so many random masks, each of which takes half of all parts away at once;
        a part's relevance is then the mean of the log odds with it less that without it.
    seed : int
        Of random masks.
    """

    def exactly(number: int) -> Float64Array:
        own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
        full = log_odds(bundle, targets, own)
        lost = [
            full - log_odds(bundle, targets, replace_with_baseline(own, empty, {view: cells(view)})) for view in views
        ]
        return np.concatenate(lost)

    def at_random(number: int) -> Float64Array:
        own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
        rng = np.random.default_rng((seed, number))
        taken = rng.random((masks, sum(len(cells(view)) for view in views))) >= _KEPT
        parts = np.split(taken.astype(np.float32), np.cumsum([len(cells(view)) for view in views])[:-1], axis=1)
        found = []
        for at in range(0, masks, 64):
            chosen = {
                view: np.tensordot(part[at : at + 64], cells(view), axes=1)
                for view, part in zip(views, parts, strict=True)
            }
            found.append(log_odds(bundle, targets, replace_with_baseline(own, empty, chosen)))
        return _contrast(taken, np.concatenate(found))

    lost = each_slice(len(track_slices), at_random if masks else exactly, "occlude", progress)
    cuts = np.cumsum([len(cells(view)) for view in views])[:-1]
    by_view = np.split(lost.transpose(0, 2, 1), cuts, axis=2)
    return {view: spread_cells(part, view) for view, part in zip(views, by_view, strict=True)}


def _contrast(taken: NDArray[np.bool_], odds: Float64Array) -> Float64Array:
    """Give the mean of the log odds with each part less that without it: (n_parts, n_targets).

    0 for a part that was always there, or never: nothing is known of it.
    """
    away = taken.astype(np.float64)
    with_it = (1 - away).T @ odds / np.maximum((1 - away).sum(axis=0), 1)[:, None]
    without = away.T @ odds / np.maximum(away.sum(axis=0), 1)[:, None]
    share = away.mean(axis=0)
    known = (share > 0) & (share < 1)
    contrast: Float64Array = np.where(known[:, None], with_it - without, 0.0)
    return contrast
