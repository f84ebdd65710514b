"""Asking a model about many changed versions of the same slices, on all processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from genretree.arrays import Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.slices import TrackSlices, score
from genretree.explanation.target import Target
from genretree.parallel import available_processors, shared_by
from genretree.progress import progress_bar

Scored = Callable[[TrackSlices], Float64Array]  # versions of a slice to log odds of the targets, (n, n_targets)


def log_odds(bundle: Bundle, targets: Sequence[Target], track_slices: TrackSlices) -> Float64Array:
    """Give the log odds of targets for slices: shape (n, n_targets)."""
    levels = score(bundle, track_slices)
    return np.stack([target.log_odds(levels) for target in targets], axis=1)


def each_slice(n: int, work: Callable[[int], Float64Array], what: str, progress: bool) -> Float64Array:
    """Do some work for each slice, side by side; gives the results in order, stacked."""
    workers = max(1, min(n, available_processors()))
    with shared_by(workers), ThreadPoolExecutor(workers) as pool, progress_bar(n, what, "slice", progress) as tick:
        futures = [pool.submit(work, number) for number in range(n)]
        found = []
        for future in futures:
            found.append(future.result())
            tick()
    return np.stack(found)
