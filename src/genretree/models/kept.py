"""What was computed of a store's slices, kept in the store's cache folder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genretree.files import atomic_path
from genretree.models.contract import Examples

Floats = NDArray[np.float32]


class KeptRows:
    """What was computed of a store's slices, kept in the store: rows of numbers, nan where unknown."""

    def __init__(self, examples: Examples, name: str, width: int) -> None:
        self.path = None if examples.cache is None else examples.cache / name
        shape = (len(examples.images), width)
        self.values = np.full(shape, np.nan, np.float32)
        if self.path is not None and self.path.is_file():
            kept = np.load(self.path, allow_pickle=False)
            if kept.shape == shape and kept.dtype == np.float32:
                self.values = kept

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give those rows that are not known yet."""
        missing: NDArray[np.int64] = rows[np.isnan(self.values[rows, 0])]
        return missing

    def add(self, rows: NDArray[np.int64], values: Floats) -> None:
        """Take in the values of some rows."""
        self.values[rows] = values

    def save(self) -> None:
        """Keep all; a store that can't be written to is no obstacle."""
        if self.path is None:
            return
        try:
            with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
                np.save(stream, self.values)
        except OSError:
            return
