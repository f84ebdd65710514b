"""Grey levels of the data set's drawings, as the published study read them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1)
def magma_luminance() -> NDArray[np.uint8]:
    """Return the grey level, 0 to 255, that Pillow gives a stored level 0 to 255 drawn in magma: shape (256,).

    Stored images are linear in decibels. The study converted the drawings to grey (`convert("L")`), whose levels rise
    with the decibels, but not in proportion: level 128 becomes 101.
    """
    import matplotlib
    from PIL import Image

    # Rounded, as drawing does it; matplotlib's own `bytes=True` would cut off.
    colours = np.rint(255 * np.asarray(matplotlib.colormaps["magma"](np.arange(256)))[:, :3]).astype(np.uint8)
    luminance: NDArray[np.uint8] = np.array(Image.fromarray(colours[None]).convert("L"))[0]
    return luminance
