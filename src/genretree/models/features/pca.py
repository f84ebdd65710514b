"""Standardisation and principal components of more rows than fit into memory."""

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

_EXACT_BYTES = 1 << 30  # up to this size all rows are held in memory and the components are exact
_OVERSAMPLING = 96


class Rows(Protocol):
    """What is read of a data matrix: its shape, and any stretch of its rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __getitem__(self, rows: slice) -> Array:
        """Some rows in order."""
        ...


class StreamingPCA(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Standardise each column, then project on the leading principal components, reading a few rows at a time.

    A scikit-learn estimator. Where the rows fit into 1 GB the components come from the eigenvectors of the rows' Gram
    matrix, which is exact and, with fewer rows than columns, far cheaper than a singular value decomposition. Beyond
    that they come from randomised block power iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), streamed, in
    bf16 where the processor computes in it.

    Parameters
    ----------
    n_components : int
        Components to keep; at most one less than there are rows, and no more than columns.
    batch_size : int
        Rows in memory at a time.
    n_iter : int
        Power iterations of the streamed form; each reads the data once.
    random_state : int
        Seed of the streamed form.
    on_batch : function, optional
        Called after each batch that was read, for a progress bar.

    Attributes
    ----------
    mean_, scale_ : float64 arrays, shape (n_features,)
        A constant column has scale 1.
    components_ : float32 array, shape (n_components_, n_features)
        Of the standardised columns, orthonormal, the greatest variance first.
    explained_variance_ratio_ : float64 array, shape (n_components_,)
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
        """Learn means, scales and components from rows of shape (n_samples, n_features)."""
        n, width = X.shape
        if n < 2:
            raise ValueError(f"principal components need at least 2 rows, got {n}")
        self.n_features_in_ = width
        self.n_components_ = min(self.n_components, n - 1, width)
        exact = n * width * 4 <= _EXACT_BYTES
        if not exact:
            keep_allocated_pages()
        self._fit_scale(X)
        components, variances = self._exact(X) if exact else self._streamed(X)
        self.components_ = components
        varying = int(np.count_nonzero(self.spread_))  # each of these has variance 1 once standardised
        self.explained_variance_ratio_ = variances / float(max(varying, 1))
        return self

    def transform(self, X: Array) -> Float32Array:
        """Project rows: shape (n, n_features) to (n, n_components_)."""
        check_is_fitted(self, "components_")
        weights, offset = self.affine()
        projected: Float32Array = np.asarray(X, dtype=np.float32) @ weights + offset
        return projected

    def affine(self) -> tuple[Float32Array, Float32Array]:
        """Give standardisation and projection as one matrix (n_features, n_components_) and one offset."""
        weights = (self.components_ / self.scale_).T
        offset = -(self.mean_ @ weights)
        return np.ascontiguousarray(weights, dtype=np.float32), offset.astype(np.float32)

    def n_batches(self, n: int, width: int) -> int:
        """How often `on_batch` is called for n rows."""
        passes = 2 if n * width * 4 <= _EXACT_BYTES else self.n_iter + 2
        return passes * -(-n // self.batch_size)

    def _batches(self, X: Rows) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the data once, as float32 copies of a few rows."""
        n = X.shape[0]
        for start in range(0, n, self.batch_size):
            rows = slice(start, min(start + self.batch_size, n))
            yield rows, torch.tensor(X[rows], dtype=torch.float32)
            self._was_read(X)

    def _was_read(self, X: Rows) -> None:
        release_pages(X)
        if self.on_batch is not None:
            self.on_batch()

    def _standardised(self, X: Rows) -> Iterator[tuple[slice, torch.Tensor]]:
        mean, scale = torch.from_numpy(self.mean_).float(), torch.from_numpy(self.scale_).float()
        for rows, batch in self._batches(X):
            yield rows, batch.sub_(mean).div_(scale)

    def _fit_scale(self, X: Rows) -> None:
        n, width = X.shape
        mean, squares, seen = np.zeros(width), np.zeros(width), 0
        for _, batch in self._batches(X):  # Chan, Golub and LeVeque's update: no cancellation, unlike a sum of squares
            count, batch_mean = len(batch), batch.mean(dim=0)
            squares += batch.sub_(batch_mean).square_().sum(dim=0).double().numpy()
            step = batch_mean.double().numpy() - mean
            squares += step**2 * seen * count / (seen + count)
            mean += step * count / (seen + count)
            seen += count
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
        # The iterations only turn the basis towards the components, and bring it back each time: bf16 does for that.
        bf16 = fast_bf16()
        turn = self._turn_bytes if bf16 and X[:1].dtype == np.uint8 else self._turn
        for _ in range(self.n_iter):
            basis = torch.linalg.qr(turn(X, basis, torch.bfloat16 if bf16 else torch.float32))[0]
        gram = torch.zeros((block, block), dtype=torch.float64)
        for _, batch in self._standardised(X):
            projected = batch @ basis
            gram += projected.T @ projected
        values, vectors = torch.linalg.eigh(gram)
        order = values.argsort(descending=True)[: self.n_components_]
        components = (basis @ vectors[:, order].float()).T.contiguous()
        return components.numpy(), values[order].numpy() / n

    def _turn(self, X: Rows, basis: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """Multiply a basis by the covariance of the standardised columns."""
        image, coarse = torch.zeros_like(basis), basis.to(kind)
        for _, batch in self._standardised(X):
            rows = batch.to(kind)
            image += rows.T @ (rows @ coarse)
        return image

    def _turn_bytes(self, X: Rows, basis: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """Do the same for bytes, which bf16 holds exactly, as it does their differences; scales go to the basis."""
        mean, scale = torch.from_numpy(self.mean_).float(), torch.from_numpy(self.scale_).float()
        centre = mean.round()
        rest = mean - centre
        scaled = basis / scale[:, None]
        offset, coarse = rest @ scaled, scaled.to(kind)
        image, total = torch.zeros_like(basis), torch.zeros(basis.shape[1])
        for start in range(0, X.shape[0], self.batch_size):
            rows = torch.tensor(X[start : start + self.batch_size]).to(kind).sub_(centre.to(kind))
            projected = (rows @ coarse).float().sub_(offset).to(kind)
            image += rows.T @ projected
            total += projected.sum(dim=0, dtype=torch.float32)
            self._was_read(X)
        return image.sub_(torch.outer(rest, total)).div_(scale[:, None])
