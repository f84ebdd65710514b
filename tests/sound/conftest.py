from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sound_helpers import make_song


@pytest.fixture(scope="session")
def song() -> NDArray[np.float32]:
    """26 s at 22,050 Hz: two slices and a remainder."""
    return make_song(26, 22050)
