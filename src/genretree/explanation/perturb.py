"""Scoring perturbed versions of slices in parallel."""

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


def log_odds(bundle: Bundle, targets: Sequence[Target], track_slices: TrackSlices) -> Float64Array:
    """Compute the log odds of targets for slices, shape (n, n_targets)."""
    levels = score(bundle, track_slices)
    return np.stack([target.log_odds(levels) for target in targets], axis=1)


def map_slices(n: int, work: Callable[[int], Float64Array], what: str, progress: bool) -> Float64Array:
    """Call `work` with each slice number in a thread pool, and stack the results in order."""
    workers = max(1, min(n, available_processors()))
    with shared_by(workers), ThreadPoolExecutor(workers) as pool, progress_bar(n, what, "slice", progress) as tick:
        futures = [pool.submit(work, index) for index in range(n)]
        results = []
        for future in futures:
            results.append(future.result())
            tick()
    return np.stack(results)
