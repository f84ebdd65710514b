"""Grey levels of the magma colour map, as the published study read the data set's images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1)
def magma_luminance() -> NDArray[np.uint8]:
    """Return the grey level, 0 to 255, that Pillow gives each stored level 0 to 255 in magma: shape (256,).

    Stored images are linear in dB. The study converted its images to grey (`convert("L")`), whose levels increase with
    dB, but not linearly: level 128 becomes 101.
    """
    import matplotlib
    from PIL import Image

    # Rounded, as matplotlib does when it renders; its `bytes=True` would truncate.
    colours = np.rint(255 * np.asarray(matplotlib.colormaps["magma"](np.arange(256)))[:, :3]).astype(np.uint8)
    luminance: NDArray[np.uint8] = np.array(Image.fromarray(colours[None]).convert("L"))[0]
    return luminance
