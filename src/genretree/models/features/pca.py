"""Standardisation and PCA of a data matrix that doesn't fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from genretree.arrays import Array, Float32Array, Float64Array
from genretree.files import release_pages
from genretree.parallel import fast_bf16, keep_allocated_pages

_EXACT_BYTES = 1 << 30  # up to this size all rows are loaded and the components are exact
_OVERSAMPLING = 96


class Rows(Protocol):
    """A data matrix with a shape and slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and columns."""
        ...

    def __getitem__(self, rows: slice) -> Array:
        """Read a slice of rows."""
        ...


class StreamingPCA(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and principal component analysis that reads a few rows at a time.

    A scikit-learn estimator. If the rows fit into 1 GB, the components are computed from the eigenvectors of the rows'
    Gram matrix, which is exact and, with fewer rows than columns, much cheaper than a singular value decomposition.
    Otherwise they are computed by streamed randomised block power iteration (Halko, Martinsson and Tropp 2011,
    algorithm 4.4), in bf16 if the processor supports it.

    Parameters
    ----------
    n_components : int
        Number of components; at most the number of columns and one less than the number of rows.
    batch_size : int
        Rows in memory at a time.
    n_iter : int
        Number of power iterations of the streamed algorithm; each reads the data once.
    random_state : int
        Seed of the streamed algorithm.
    on_batch : function, optional
        Called after each batch, for a progress bar.

    Attributes
    ----------
    mean_, scale_ : float64 arrays, shape (n_features,)
        A constant column has scale 1.
    components_ : float32 array, shape (n_components_, n_features)
        Orthonormal components of the standardised columns, by decreasing variance.
    explained_variance_ratio_ : float64 array, shape (n_components_,)

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.models.features.pca import StreamingPCA
    >>> X = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    >>> StreamingPCA(n_components=3).fit(X).transform(X).shape
    (20, 3)
    """

    def __init__(
        self,
        n_components: int = 512,
        *,
        batch_size: int = 512,
        n_iter: int = 3,
        random_state: int = 0,
        on_batch: Callable[[], None] | None = None,
    ) -> None:
        self.n_components = n_components
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.random_state = random_state
        self.on_batch = on_batch

    def fit(self, X: Rows, y: object = None) -> Self:
        """Fit means, scales and components to rows of shape (n_samples, n_features)."""
        n, width = X.shape
        if n < 2:
            raise ValueError(f"PCA needs at least 2 rows, got {n}")
        self.n_features_in_ = width
        self.n_components_ = min(self.n_components, n - 1, width)
        exact = n * width * 4 <= _EXACT_BYTES
        if not exact:
            keep_allocated_pages()
        self._fit_scale(X)
        components, variances = self._exact(X) if exact else self._streamed(X)
        self.components_ = components
        varying = int(np.count_nonzero(self.spread_))  # each of these has variance 1 after standardisation
        self.explained_variance_ratio_ = variances / float(max(varying, 1))
        return self

    def transform(self, X: Array) -> Float32Array:
        """Project rows: (n, n_features) to (n, n_components_)."""
        check_is_fitted(self, "components_")
        weights, offset = self.affine()
        projected: Float32Array = np.asarray(X, dtype=np.float32) @ weights + offset
        return projected

    def affine(self) -> tuple[Float32Array, Float32Array]:
        """Return standardisation and projection as one matrix (n_features, n_components_) and one offset."""
        weights = (self.components_ / self.scale_).T
        offset = -(self.mean_ @ weights)
        return np.ascontiguousarray(weights, dtype=np.float32), offset.astype(np.float32)

    def n_batches(self, n: int, width: int) -> int:
        """Compute how often `on_batch` is called for `n` rows."""
        passes = 2 if n * width * 4 <= _EXACT_BYTES else self.n_iter + 2
        return passes * -(-n // self.batch_size)

    def _batches(self, X: Rows) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield float32 copies of a few rows at a time."""
        n = X.shape[0]
        for start in range(0, n, self.batch_size):
            rows = slice(start, min(start + self.batch_size, n))
            yield rows, torch.tensor(X[rows], dtype=torch.float32)
            self._finish_batch(X)

    def _finish_batch(self, X: Rows) -> None:
        release_pages(X)
        if self.on_batch is not None:
            self.on_batch()

    def _standardised(self, X: Rows) -> Iterator[tuple[slice, torch.Tensor]]:
        mean, scale = torch.from_numpy(self.mean_).float(), torch.from_numpy(self.scale_).float()
        for rows, batch in self._batches(X):
            yield rows, batch.sub_(mean).div_(scale)

    def _fit_scale(self, X: Rows) -> None:
        n, width = X.shape
        mean, squares, n_seen = np.zeros(width), np.zeros(width), 0
        for _, batch in self._batches(
            X
        ):  # Chan, Golub and LeVeque's update avoids the cancellation of a sum of squares
            count, batch_mean = len(batch), batch.mean(dim=0)
            squares += batch.sub_(batch_mean).square_().sum(dim=0).double().numpy()
            step = batch_mean.double().numpy() - mean
            squares += step**2 * n_seen * count / (n_seen + count)
            mean += step * count / (n_seen + count)
            n_seen += count
        self.mean_ = mean
        self.spread_ = np.where(squares / n > 1e-12, np.sqrt(squares / n), 0.0)
        self.scale_ = np.where(self.spread_ > 0, self.spread_, 1.0)

    def _exact(self, X: Rows) -> tuple[Float32Array, Float64Array]:
        from scipy.linalg import eigh

        n, width = X.shape
        rows = np.empty((n, width), dtype=np.float32)
        for where, batch in self._standardised(X):
            rows[where] = batch.numpy()
        gram = (rows @ rows.T).astype(np.float64)
        values, vectors = eigh(gram, subset_by_index=(n - self.n_components_, n - 1))
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        keep = values > values[0] * 1e-9
        self.n_components_ = int(keep.sum())
        lengths = np.sqrt(values[keep])
        components = (vectors[:, keep] / lengths).T.astype(np.float32) @ rows
        return components, values[keep] / n

    def _streamed(self, X: Rows) -> tuple[Float32Array, Float64Array]:
        n, width = X.shape
        block = min(self.n_components_ + _OVERSAMPLING, n, width)
        start = torch.Generator().manual_seed(self.random_state)
        basis = torch.randn((width, block), generator=start)
        # The iterations only rotate the basis towards the components, for which bf16 is accurate enough.
        bf16 = fast_bf16()
        multiply = self._multiply_bytes if bf16 and X[:1].dtype == np.uint8 else self._multiply
        for _ in range(self.n_iter):
            basis = torch.linalg.qr(multiply(X, basis, torch.bfloat16 if bf16 else torch.float32))[0]
        gram = torch.zeros((block, block), dtype=torch.float64)
        for _, batch in self._standardised(X):
            projected = batch @ basis
            gram += projected.T @ projected
        values, vectors = torch.linalg.eigh(gram)
        order = values.argsort(descending=True)[: self.n_components_]
        components = (basis @ vectors[:, order].float()).T.contiguous()
        return components.numpy(), values[order].numpy() / n

    def _multiply(self, X: Rows, basis: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Multiply a basis by the covariance of the standardised columns."""
        image, coarse = torch.zeros_like(basis), basis.to(dtype)
        for _, batch in self._standardised(X):
            rows = batch.to(dtype)
            image += rows.T @ (rows @ coarse)
        return image

    def _multiply_bytes(self, X: Rows, basis: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Multiply as `_multiply`, for bytes, which bf16 represents exactly, as it does their differences."""
        mean, scale = torch.from_numpy(self.mean_).float(), torch.from_numpy(self.scale_).float()
        centre = mean.round()
        rest = mean - centre
        scaled = basis / scale[:, None]
        offset, coarse = rest @ scaled, scaled.to(dtype)
        image, total = torch.zeros_like(basis), torch.zeros(basis.shape[1])
        for start in range(0, X.shape[0], self.batch_size):
            rows = torch.tensor(X[start : start + self.batch_size]).to(dtype).sub_(centre.to(dtype))
            projected = (rows @ coarse).float().sub_(offset).to(dtype)
            image += rows.T @ projected
            total += projected.sum(dim=0, dtype=torch.float32)
            self._finish_batch(X)
        return image.sub_(torch.outer(rest, total)).div_(scale[:, None])
