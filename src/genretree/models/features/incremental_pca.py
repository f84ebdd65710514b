"""Standardisation and PCA as in the published study, with StandardScaler and IncrementalPCA."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genretree.arrays import Float32Array, UInt8Array
from genretree.files import release_pages


def fit_incremental(
    rows: UInt8Array, components: int, batch_size: int, on_rows: Callable[[int], None] | None = None
) -> tuple[Float32Array, Float32Array, float]:
    """Fit scikit-learn's StandardScaler and IncrementalPCA on grey levels, one batch at a time.

    The batches are those of `IncrementalPCA(components, batch_size=batch_size).fit` on the whole array, so the result
    is the same up to rounding. The whole array in float32 would take 5.7 GB for the published data set.

    Parameters
    ----------
    rows : uint8 array, shape (n, pixels)
        Grey levels, 0 to 255. May be memory-mapped.
    components : int
        Number of principal components, at most the number of pixels and one less than the number of slices.
    batch_size : int
        Slices in each batch, at least `components`.
    on_rows : function, optional
        Called with the number of slices after each batch of each of the two passes.

    Returns
    -------
    weights : float32 array, shape (pixels, components)
    offset : float32 array, shape (components,)
        `grey / 255 @ weights + offset` equals the fitted pipeline's `transform`.
    explained : float
        Share of the variance that the components explain, 0 to 1.
    """
    from sklearn.decomposition import IncrementalPCA
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import gen_batches

    n, pixels = rows.shape
    n_components = min(components, n - 1, pixels)
    scaler, pca = StandardScaler(), IncrementalPCA(n_components, batch_size=batch_size)
    batches = list(gen_batches(n, batch_size, min_batch_size=n_components))
    for step in (scaler.partial_fit, lambda batch: pca.partial_fit(scaler.transform(batch, copy=False))):
        for batch in batches:
            step(_read_pixels(rows, batch))
            if on_rows is not None:
                on_rows(batch.stop - batch.start)
    weights = pca.components_.T / scaler.scale_[:, None]
    offset = -(scaler.mean_ @ weights) - pca.components_ @ pca.mean_
    explained = float(pca.explained_variance_ratio_.sum())
    return np.ascontiguousarray(weights, dtype=np.float32), offset.astype(np.float32), explained


def _read_pixels(rows: UInt8Array, batch: slice) -> Float32Array:
    pixels = rows[batch].astype(np.float32) / np.float32(255)
    release_pages(rows)
    return pixels
