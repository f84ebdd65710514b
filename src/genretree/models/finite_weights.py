"""Weights must be numbers: NaN or infinity in one of them makes every prediction worthless, without an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genretree.errors import BundleError


def require_finite(path: Path, arrays: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity in the arrays of a file; arrays of whole numbers hold neither.

    Parameters
    ----------
    path : Path
        The file they were read from.
    arrays : mapping of str to numpy array or torch tensor

    Raises
    ------
    BundleError
        Names the file and the array.
    """
    for name, array in arrays.items():
        if not _is_finite(array):
            raise BundleError(f"{path}: '{name}' contains NaN or infinity; copy or train the bundle again")


def _is_finite(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
    # A tensor: not imported for it, as arrays alone need no torch.
    if not array.is_floating_point() and not array.is_complex():
        return True
    numbers = array.float() if array.element_size() == 1 else array  # torch has no isfinite for float8
    return bool(numbers.isfinite().all())
