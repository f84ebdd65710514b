"""A cache of computed features in a store's folder."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from genretree.arrays import Float32Array, Int64Array
from genretree.files import atomic_path
from genretree.models.base import SliceDataset
from genretree.progress import progress_bar

_SAVE_SECONDS = 60.0
_BATCH_SIZE = 16  # a second or two of computation between updates of the progress bar


class FeatureCache:
    """Computed features of a store's slices, saved in the store's cache folder.

    Parameters
    ----------
    dataset : SliceDataset
    name : str
        File name.
    width : int
        Number of features.
    """

    def __init__(self, dataset: SliceDataset, name: str, width: int) -> None:
        self.path = None if dataset.cache is None else dataset.cache / name
        shape = (len(dataset.images), width)
        self.values = np.full(shape, np.nan, np.float32)
        if self.path is not None and self.path.is_file():
            saved = np.load(self.path, allow_pickle=False)
            if saved.shape == shape and saved.dtype == np.float32:
                self.values = saved

    def read(
        self, rows: Int64Array, compute: Callable[[Int64Array], Float32Array], what: str, progress: bool
    ) -> Float32Array:
        """Return the features of rows, shape (n, width); missing ones are computed in batches and saved."""
        missing = rows[np.isnan(self.values[rows, 0])]
        saved = time.monotonic()
        try:
            with progress_bar(len(missing), what, "slice", progress and len(missing) > 0) as tick:
                for start in range(0, len(missing), _BATCH_SIZE):
                    batch = missing[start : start + _BATCH_SIZE]
                    self.values[batch] = compute(batch)
                    tick(len(batch))
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
        finally:  # saves the completed batches after an interrupt, too
            if len(missing):
                self._save()
        features: Float32Array = self.values[rows]
        return features

    def _save(self) -> None:
        """Save all features; a read-only store is not an error."""
        if self.path is None:
            return
        try:
            with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
                np.save(stream, self.values)
        except OSError:
            return
