"""What was computed of a store's slices, kept in the store's cache folder."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from genretree.arrays import Float32Array, Int64Array
from genretree.files import atomic_path
from genretree.models.base import SliceDataset
from genretree.progress import progress_bar

_SAVE_SECONDS = 60.0
_AT_A_TIME = 16  # a second or two of hearing, so that the bar moves


class FeatureCache:
    """What was computed of a store's slices, kept in the store: rows of numbers, nan where unknown."""

    def __init__(self, examples: SliceDataset, name: str, width: int) -> None:
        self.path = None if examples.cache is None else examples.cache / name
        shape = (len(examples.images), width)
        self.values = np.full(shape, np.nan, np.float32)
        if self.path is not None and self.path.is_file():
            kept = np.load(self.path, allow_pickle=False)
            if kept.shape == shape and kept.dtype == np.float32:
                self.values = kept

    def read(
        self, rows: Int64Array, compute: Callable[[Int64Array], Float32Array], what: str, progress: bool
    ) -> Float32Array:
        """Give the values of rows; those that are not known yet are computed, some at a time, and kept."""
        missing = rows[np.isnan(self.values[rows, 0])]
        saved = time.monotonic()
        try:
            with progress_bar(len(missing), what, "slice", progress and len(missing) > 0) as tick:
                for start in range(0, len(missing), _AT_A_TIME):
                    some = missing[start : start + _AT_A_TIME]
                    self.values[some] = compute(some)
                    tick(len(some))
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
        finally:  # also what was computed before an interrupt
            if len(missing):
                self._save()
        found: Float32Array = self.values[rows]
        return found

    def _save(self) -> None:
        """Keep all; a store that can't be written to is no obstacle."""
        if self.path is None:
            return
        try:
            with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
                np.save(stream, self.values)
        except OSError:
            return
