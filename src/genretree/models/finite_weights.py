"""Check for NaN and infinity in weights, which would invalidate every prediction without an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genretree.errors import BundleError


def require_finite(path: Path, arrays: Mapping[str, Any]) -> None:
    """Check that the arrays of a file contain neither NaN nor infinity.

    Parameters
    ----------
    path : Path
        File that the arrays were read from.
    arrays : mapping of str to numpy array or torch tensor

    Raises
    ------
    BundleError
        If an array contains NaN or infinity; the message names the file and the array.
    """
    for name, array in arrays.items():
        if not _is_finite(array):
            raise BundleError(f"{path}: '{name}' contains NaN or infinity; copy or train the bundle again")


def _is_finite(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
    # A torch tensor. Its methods suffice, so that models without torch don't import it.
    if not array.is_floating_point() and not array.is_complex():
        return True
    numbers = array.float() if array.element_size() == 1 else array  # torch has no isfinite for float8
    return bool(numbers.isfinite().all())
