"""Exact Shapley values of the views of the audio (Shapley 1953; Lundberg and Lee 2017).

Three views have 8 coalitions, four (with mel power at 16 kHz) have 16; all are evaluated. The baseline replaces absent
views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import factorial

import numpy as np

from genretree.arrays import Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.baseline import replace_views, views_of
from genretree.explanation.coordinates import View
from genretree.explanation.perturb import score_parts
from genretree.explanation.slices import TrackSlices, join
from genretree.explanation.target import Target

_TOLERANCE = 1e-4  # rounding error of log odds; a view below it is not an input of the model


@dataclass(frozen=True, kw_only=True)
class ShapleyValues:
    """Contribution of each view to the log odds of each target in each slice.

    Parameters
    ----------
    views : tuple of str
        The views that the model uses.
    values : array, shape (n_slices, n_targets, n_views)
        The sum over views is `full - none`, up to rounding.
    full, none : array, shape (n_slices, n_targets)
        Log odds of the slice and of its baseline.
    """

    views: tuple[View, ...]
    values: Float64Array
    full: Float64Array
    none: Float64Array


def subsets(views: Sequence[View]) -> list[frozenset[View]]:
    """List all coalitions by size, from the empty one to all views."""
    return [frozenset(members) for size in range(len(views) + 1) for members in combinations(views, size)]


def shapley_weights(views: Sequence[View]) -> Float64Array:
    """Return the matrix, (n_views, n_coalitions), that maps the values of `subsets(views)` to Shapley values."""
    coalitions = subsets(views)
    column = {members: number for number, members in enumerate(coalitions)}
    weights = np.zeros((len(views), len(coalitions)))
    for row, view in enumerate(views):
        for members in coalitions:
            if view in members:
                continue
            share = factorial(len(members)) * factorial(len(views) - len(members) - 1) / factorial(len(views))
            weights[row, column[members | {view}]] += share
            weights[row, column[members]] -= share
    return weights


def compute_shapley_values(
    bundle: Bundle, track_slices: TrackSlices, baseline: TrackSlices, targets: Sequence[Target], progress: bool = False
) -> ShapleyValues:
    """Predict every coalition of views and compute the Shapley value of each view."""
    views = views_of(track_slices)
    everything = frozenset(views)
    coalitions = subsets(views)

    def make_versions(index: int, some: Sequence[frozenset[View]]) -> TrackSlices:
        own, empty = track_slices.select(slice(index, index + 1)), baseline.select(slice(index, index + 1))
        return join([replace_views(own, empty, everything - members) for members in some])

    halves = (coalitions[: len(coalitions) // 2], coalitions[len(coalitions) // 2 :])
    parts = [partial(make_versions, index, half) for index in range(len(track_slices)) for half in halves]
    scored = np.concatenate(score_parts(bundle, targets, parts, "views", progress))
    values_of_coalitions = scored.reshape(len(track_slices), len(coalitions), len(targets))
    values = np.einsum("vc,nct->ntv", shapley_weights(views), values_of_coalitions)
    used = [column for column in range(len(views)) if np.abs(values[:, :, column]).max() > _TOLERANCE] or [0]
    return ShapleyValues(
        views=tuple(views[column] for column in used),
        values=values[:, :, used],
        full=values_of_coalitions[:, -1],
        none=values_of_coalitions[:, 0],
    )
