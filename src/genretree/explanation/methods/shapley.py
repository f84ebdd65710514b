"""How much each view of the sound contributed: exact Shapley values (Shapley 1953; Lundberg and Lee 2017).

With three views there are 8 coalitions, with mel power at 16 kHz 16: all are asked for. A view that is absent is
replaced by its background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np

from genretree.arrays import Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.baseline import replace_views, views_of
from genretree.explanation.coordinates import View
from genretree.explanation.perturb import each_slice, log_odds
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target

_UNSEEN = 1e-4  # what rounding alone may change of log odds


@dataclass(frozen=True)
class ShapleyValues:
    """What each view contributed to the log odds of each target in each slice.

    Parameters
    ----------
    views : tuple of str
        The views that the model sees.
    values : array, shape (n_slices, n_targets, n_views)
        Their sum over the views is `full - none`, but for rounding.
    full, none : array, shape (n_slices, n_targets)
        Log odds of the slice as it is, and of its background alone.
    """

    views: tuple[View, ...]
    values: Float64Array
    full: Float64Array
    none: Float64Array


def subsets(views: Sequence[View]) -> list[frozenset[View]]:
    """Give all coalitions, the empty one first and the whole last."""
    return [frozenset(some) for size in range(len(views) + 1) for some in combinations(views, size)]


def shapley_weights(views: Sequence[View]) -> Float64Array:
    """Give the matrix, (n_views, n_coalitions), that makes Shapley values of the worths of `subsets(views)`."""
    coalitions = subsets(views)
    place = {some: number for number, some in enumerate(coalitions)}
    weights = np.zeros((len(views), len(coalitions)))
    for row, view in enumerate(views):
        for some in coalitions:
            if view in some:
                continue
            share = factorial(len(some)) * factorial(len(views) - len(some) - 1) / factorial(len(views))
            weights[row, place[some | {view}]] += share
            weights[row, place[some]] -= share
    return weights


def compute_shapley_values(
    bundle: Bundle, track_slices: TrackSlices, baseline: TrackSlices, targets: Sequence[Target], progress: bool = False
) -> ShapleyValues:
    """Ask the model about every coalition of views, and divide the log odds among them."""
    views = views_of(track_slices)
    everything = frozenset(views)
    coalitions = subsets(views)

    def ask(number: int) -> Float64Array:
        own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
        versions = [replace_views(own, empty, everything - some) for some in coalitions]
        return log_odds(bundle, targets, join(versions))

    worths = each_slice(len(track_slices), ask, "views", progress)  # (n_slices, n_coalitions, n_targets)
    values = np.einsum("vc,nct->ntv", shapley_weights(views), worths)
    seen = [place for place in range(len(views)) if np.abs(values[:, :, place]).max() > _UNSEEN] or [0]
    return ShapleyValues(tuple(views[place] for place in seen), values[:, :, seen], worths[:, -1], worths[:, 0])


def join(versions: Sequence[TrackSlices]) -> TrackSlices:
    """Lay several versions of slices one after the other."""
    first = versions[0]
    return TrackSlices(
        first.name,
        np.concatenate([version.images for version in versions]),
        {name: np.concatenate([version.features[name] for version in versions]) for name in first.features},
        np.concatenate([version.starts for version in versions]),
        first.seconds,
        padded=first.padded,
    )
