"""Occlusion maps (Zeiler and Fergus 2014), with random masks as in RISE (Petsiuk et al. 2018), for every family.

The baseline replaces a part of a slice. The relevance of the part is the decrease of the log odds, which is negative if
the part was evidence against the node.

Coarse parts are occluded first, and only those that carry most of the relevance are divided into the parts of `GRID`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.baseline import replace_with_baseline
from genretree.explanation.coordinates import STEPS, View, frequency_axis
from genretree.explanation.perturb import log_odds, map_slices, score_parts
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target

# Parts along frequency and time: an octave of the CQT, a pitch class, an eighth of the mel scale; 1.4 or 2.9 s.
GRID: Mapping[View, tuple[int, int]] = {"mel": (8, 8), "cqt": (7, 8), "chroma": (12, 4), "mel_16k": (8, 8)}
# Coarse parts: multiples of those of GRID. A pitch class is not divided in frequency, nor is an octave.
COARSE: Mapping[View, tuple[int, int]] = {"mel": (4, 4), "cqt": (7, 2), "chroma": (12, 1), "mel_16k": (4, 4)}
# Share of the relevance of a slice that the divided parts carry, and of the parts that are divided at most.
REFINED_RELEVANCE, REFINED_PARTS = 0.6, 0.2
_KEEP_PROBABILITY = 0.5  # of each part, in random masks
_VERSIONS = 16  # scored at a time

Maps = dict[View, Float32Array]  # by view, shape (n_slices, n_targets, rows, STEPS)


@lru_cache(maxsize=8)
def cells(view: View) -> Float32Array:
    """Return masks of the parts of a view, shape (n_parts, rows, STEPS); the parts partition the map."""
    along_frequency, along_time = GRID[view]
    rows = frequency_axis(view).rows
    masks = np.zeros((along_frequency * along_time, rows, STEPS), np.float32)
    for i, bands in enumerate(np.array_split(np.arange(rows), along_frequency)):
        for j, steps in enumerate(np.array_split(np.arange(STEPS), along_time)):
            masks[i * along_time + j, bands[0] : bands[-1] + 1, steps[0] : steps[-1] + 1] = 1
    masks.setflags(write=False)
    return masks


@lru_cache(maxsize=8)
def parents(view: View) -> NDArray[np.int64]:
    """Return the number of the coarse part that contains each part of a view, shape (n_parts,)."""
    (rows, columns), (coarse_rows, coarse_columns) = GRID[view], COARSE[view]
    row, column = np.divmod(np.arange(rows * columns), columns)
    numbers: NDArray[np.int64] = row * coarse_rows // rows * coarse_columns + column * coarse_columns // columns
    numbers.setflags(write=False)
    return numbers


def spread_cells(values: NDArray[np.floating], view: View) -> Float32Array:
    """Spread the value of each part, (..., n_parts), evenly over its cells, (..., rows, STEPS); preserves sums."""
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
    exhaustive: bool = False,
    on_coarse: Callable[[Maps], None] | None = None,
) -> Maps:
    """Compute the decrease of the log odds when parts of a slice are occluded.

    Parameters
    ----------
    views : sequence of str
        Views whose parts are occluded.
    masks : int
        0 occludes each part in turn. A positive number is the number of random masks, each of which occludes half of
        all parts; the relevance of a part is then the mean of the log odds with it minus the mean without it.
    seed : int
        Seed of random masks.
    exhaustive : bool
        Occlude every part. By default, parts of coarse parts with little relevance share that relevance evenly.
    on_coarse : callable, optional
        Called with maps of the coarse parts, as soon as they are there; not if `masks` or `exhaustive` is set.

    Returns
    -------
    mapping of view to float32 array, shape (n_slices, n_targets, rows, STEPS)
    """

    def occlude_randomly(index: int) -> Float64Array:
        own, empty = track_slices.select(slice(index, index + 1)), baseline.select(slice(index, index + 1))
        rng = np.random.default_rng((seed, index))
        occluded = rng.random((masks, sum(len(cells(view)) for view in views))) >= _KEEP_PROBABILITY
        parts = np.split(occluded.astype(np.float32), np.cumsum([len(cells(view)) for view in views])[:-1], axis=1)
        odds = []
        for at in range(0, masks, 64):
            masks_by_view = {
                view: np.tensordot(part[at : at + 64], cells(view), axes=1)
                for view, part in zip(views, parts, strict=True)
            }
            odds.append(log_odds(bundle, targets, replace_with_baseline(own, empty, masks_by_view)))
        return _contrast(occluded, np.concatenate(odds))

    def to_maps(values: Sequence[Float64Array]) -> Maps:
        """Spread the values of the parts of each slice, (n_parts of all views, n_targets), over maps."""
        cuts = np.cumsum([len(cells(view)) for view in views])[:-1]
        by_view = np.split(np.stack(values).transpose(0, 2, 1), cuts, axis=2)
        return {view: spread_cells(part, view) for view, part in zip(views, by_view, strict=True)}

    n = len(track_slices)
    if masks:
        return to_maps(list(map_slices(n, occlude_randomly, "occlude", progress)))
    lose = partial(_occlude_parts, bundle, track_slices, baseline, targets, progress=progress)
    if exhaustive:
        every = lose([{view: cells(view) for view in views}] * n, "occlude")
        return to_maps([np.concatenate(of_slice) for of_slice in every])
    coarse = lose([{view: _coarse_cells(view) for view in views}] * n, "coarse")
    values = [[_share(lost, view) for view, lost in zip(views, of_slice, strict=True)] for of_slice in coarse]
    if on_coarse is not None:
        on_coarse(to_maps([np.concatenate(of_slice) for of_slice in values]))
    divided = [
        {view: chosen[parents(view)] for view, chosen in zip(views, _choose(of_slice), strict=True)}
        for of_slice in coarse
    ]  # for each slice and view, whether each part is occluded itself
    fine = lose([{view: cells(view)[of_slice[view]] for view in views} for of_slice in divided], "occlude")
    for of_slice, is_divided, lost in zip(values, divided, fine, strict=True):
        for number, view in enumerate(views):
            of_slice[number][is_divided[view]] = lost[number]
    return to_maps([np.concatenate(of_slice) for of_slice in values])


def _share(coarse: Float64Array, view: View) -> Float64Array:
    """Share the relevance of coarse parts, (n_coarse, n_targets), evenly among their parts, (n_parts, n_targets)."""
    shared: Float64Array = (coarse / np.bincount(parents(view))[:, None])[parents(view)]
    return shared


def _occlude_parts(
    bundle: Bundle,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    masks: Sequence[Mapping[View, Float32Array]],
    what: str,
    progress: bool,
) -> list[list[Float64Array]]:
    """Occlude the masks of each slice in turn: by slice and view, the lost log odds, (n_masks, n_targets)."""
    makers: list[Callable[[], TrackSlices]] = [lambda: track_slices]
    counts = [len(track_slices)]
    for index, of_slice in enumerate(masks):
        own, empty = track_slices.select(slice(index, index + 1)), baseline.select(slice(index, index + 1))
        for view, of_view in of_slice.items():
            some = [of_view[at : at + _VERSIONS] for at in range(0, len(of_view), _VERSIONS)]
            makers += [partial(replace_with_baseline, own, empty, {view: those}) for those in some]
            counts.append(len(of_view))
    scored = np.concatenate(score_parts(bundle, targets, makers, what, progress))
    full, *lost = np.split(scored, np.cumsum(counts)[:-1])
    n_views = len(masks[0])
    return [
        [full[index] - odds for odds in lost[index * n_views : (index + 1) * n_views]] for index in range(len(masks))
    ]


@lru_cache(maxsize=8)
def _coarse_cells(view: View) -> Float32Array:
    """Return masks of the coarse parts of a view, shape (n_coarse, rows, STEPS)."""
    masks = np.zeros((int(np.prod(COARSE[view])), *cells(view).shape[1:]), np.float32)
    np.add.at(masks, parents(view), cells(view))
    masks.setflags(write=False)
    return masks


def _choose(coarse: Sequence[Float64Array]) -> list[NDArray[np.bool_]]:
    """Choose the coarse parts to divide: those with the greatest relevance for any target, over all views."""
    relevance = np.abs(np.concatenate(coarse))
    share = (relevance / np.maximum(relevance.sum(axis=0), 1e-12)).max(axis=1)
    order = np.argsort(-share, kind="stable")
    carried = np.cumsum(share[order]) / max(float(share.sum()), 1e-12)
    n_divided = min(int(np.searchsorted(carried, REFINED_RELEVANCE)) + 1, round(REFINED_PARTS * len(order)))
    chosen = np.zeros(len(share), np.bool_)
    chosen[order[:n_divided]] = True
    chosen &= share > 0
    return np.split(chosen, np.cumsum([len(values) for values in coarse])[:-1])


def _contrast(occluded: NDArray[np.bool_], odds: Float64Array) -> Float64Array:
    """Compute the mean log odds with each part minus the mean without it, shape (n_parts, n_targets).

    A part that was in all masks or in none has relevance 0.
    """
    absent = occluded.astype(np.float64)
    with_it = (1 - absent).T @ odds / np.maximum((1 - absent).sum(axis=0), 1)[:, None]
    without = absent.T @ odds / np.maximum(absent.sum(axis=0), 1)[:, None]
    share = absent.mean(axis=0)
    varied = (share > 0) & (share < 1)
    contrast: Float64Array = np.where(varied[:, None], with_it - without, 0.0)
    return contrast
