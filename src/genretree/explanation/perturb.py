"""Scoring perturbed versions of slices in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from genretree.arrays import Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.slices import TrackSlices, score
from genretree.explanation.target import Target
from genretree.parallel import available_processors, shared_by
from genretree.progress import progress_bar

_Item = TypeVar("_Item")


def log_odds(bundle: Bundle, targets: Sequence[Target], track_slices: TrackSlices) -> Float64Array:
    """Compute the log odds of targets for slices, shape (n, n_targets)."""
    levels = score(bundle, track_slices)
    return np.stack([target.log_odds(levels) for target in targets], axis=1)


def score_parts(
    bundle: Bundle, targets: Sequence[Target], parts: Sequence[Callable[[], TrackSlices]], what: str, progress: bool
) -> list[Float64Array]:
    """Make and score versions of slices in a thread pool.

    Parts are small, so that no thread is left alone with the last slice of a track.

    Parameters
    ----------
    parts : sequence of callables
        Each returns some versions of a slice.
    what : str
        Title of the progress bar.

    Returns
    -------
    list of float64 arrays, shape (n_versions, n_targets)
        The log odds of each part, in order.
    """

    def score_part(make: Callable[[], TrackSlices]) -> Float64Array:
        return log_odds(bundle, targets, make())

    return _map(parts, score_part, what, "part", progress)


def map_slices(n: int, work: Callable[[int], Float64Array], what: str, progress: bool) -> Float64Array:
    """Call `work` with each slice number in a thread pool, and stack the results in order."""
    return np.stack(_map(range(n), work, what, "slice", progress))


def _map(
    items: Sequence[_Item], work: Callable[[_Item], Float64Array], what: str, unit: str, progress: bool
) -> list[Float64Array]:
    n = len(items)
    workers = max(1, min(n, available_processors()))
    with shared_by(workers), ThreadPoolExecutor(workers) as pool, progress_bar(n, what, unit, progress) as tick:
        results = []
        for future in [pool.submit(work, item) for item in items]:
            results.append(future.result())
            tick()
    return results
