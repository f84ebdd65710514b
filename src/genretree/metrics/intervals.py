"""Confidence intervals of accuracies and their differences when the artists are few.

Tracks of one artist are correlated, so the number of artists limits what an accuracy says about other artists. With few
artists, a bootstrap over artists covers too little: with 5, a 95 % percentile interval contains the true accuracy in 70
of 100 cases (`benchmarks/interval_coverage.py`). The intervals here cover 95 % from 5 artists on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from genretree.arrays import Float64Array, Int64Array

CONFIDENCE = 0.95
FEW_GROUPS = 10  # below this effective number, the prior of the correlation counts for more than a third
_PRIOR_GROUPS = 6.0  # weight of the prior correlation
_PRIOR_CORRELATION = 0.5  # of correctness; measured: 0.24 on Emotify, 0.53 on composed music
_PRIOR_GAIN_CORRELATION = 0.1  # of differences, from which what two models share has gone
_MAX_CORRELATION = 1.5  # with very unequal groups, the variance may exceed that of fully correlated ones


def effective_groups(sizes: ArrayLike) -> Float64Array:
    """Compute the effective number of groups, the inverse Simpson index of their sizes (Simpson 1949; Kish 1965).

    Parameters
    ----------
    sizes : array, shape (..., n_groups)
        Number of examples of each group; 0 is allowed.

    Returns
    -------
    float64 array, shape (...)
        Between 1 and the number of groups: equal for groups of one size, 1 if one group has almost everything.

    Examples
    --------
    >>> from genretree.metrics.intervals import effective_groups
    >>> float(effective_groups([5, 5, 5, 5]))
    4.0
    >>> round(float(effective_groups([100, 1, 1, 1])), 2)
    1.06
    """
    sizes = np.asarray(sizes, dtype=float)
    number: Float64Array = sizes.sum(axis=-1) ** 2 / (sizes**2).sum(axis=-1)
    return number


def accuracy_interval(correct: ArrayLike, groups: Int64Array) -> tuple[float, float]:
    """Compute the 95 % confidence interval of an accuracy for new groups (artists).

    The score interval of a proportion (Wilson 1927) with the effective sample size and the t distribution instead of
    the normal one, as in surveys of clusters (Dean and Pagano 2015). The effective sample size follows from the
    cluster-robust variance. With few groups that variance is itself uncertain, so the intraclass correlation that it
    implies is averaged with 0.5, which counts as much as six groups. For a single group the interval is 0 to 1.

    Parameters
    ----------
    correct : array, shape (n,)
        Correctness, bool or 0 to 1 (a mean over seeds).
    groups : int64 array, shape (n,)
        Group of each example.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.metrics.intervals import accuracy_interval
    >>> correct = np.arange(60) % 5 > 0  # 80 %
    >>> low, high = accuracy_interval(correct, np.arange(60))  # 60 artists
    >>> round(low, 2), round(high, 2)
    (0.68, 0.88)
    >>> low, high = accuracy_interval(correct, np.arange(60) // 10)  # 6 artists
    >>> round(low, 2), round(high, 2)
    (0.52, 0.94)
    """
    sizes, (sums,) = sum_by_group(groups, correct)
    low, high = accuracy_limits(sums, sizes)
    return float(low), float(high)


def difference_interval(gains: ArrayLike, groups: Int64Array) -> tuple[float, float]:
    """Compute the 95 % confidence interval of the difference of two accuracies on the same examples, for new groups.

    The adjusted interval of paired proportions (Bonett and Price 2012), which adds one example to each of the two
    discordant cells, with effective sample size and t distribution as in `accuracy_interval`; the correlation is
    averaged with 0.1 instead of 0.5.

    Parameters
    ----------
    gains : array, shape (n,)
        Correctness of the first model minus that of the second, -1 to 1.
    groups : int64 array, shape (n,)
        Group of each example.

    Returns
    -------
    low, high : float
        For a single group, -1 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.metrics.intervals import difference_interval
    >>> gains = np.where(np.arange(60) % 5 == 0, 1, 0)  # one example in five
    >>> low, high = difference_interval(gains, np.arange(60) // 2)
    >>> round(low, 2), round(high, 2)
    (0.06, 0.33)
    """
    values = np.asarray(gains, dtype=float)
    sizes, (sums, squares) = sum_by_group(groups, values, values**2)
    low, high = difference_limits(sums, squares, sizes)
    return float(low), float(high)


def accuracy_limits(sums: ArrayLike, sizes: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Compute `accuracy_interval` from sums by group, for many samples at once.

    Parameters
    ----------
    sums, sizes : array, shape (..., n_groups)
        Number of correct examples and of all examples of each group.

    Returns
    -------
    low, high : float64 array, shape (...)
    """
    sums, sizes = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    if sizes.shape[-1] < 2:
        return np.zeros(sizes.shape[:-1]), np.ones(sizes.shape[:-1])
    share = sums.sum(axis=-1) / sizes.sum(axis=-1)
    n, quantile = _effective_sample(sums, sizes, share, share * (1 - share), _PRIOR_CORRELATION)
    scale = 1 + quantile**2 / n
    center = (share + quantile**2 / (2 * n)) / scale
    half = quantile / scale * np.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2))
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def difference_limits(sums: ArrayLike, squares: ArrayLike, sizes: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Compute `difference_interval` from sums by group, for many samples at once.

    Parameters
    ----------
    sums, squares, sizes : array, shape (..., n_groups)
        Sums of the gains and of their squares, and number of examples of each group.

    Returns
    -------
    low, high : float64 array, shape (...)
    """
    sums, sizes = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    if sizes.shape[-1] < 2:
        return -np.ones(sizes.shape[:-1]), np.ones(sizes.shape[:-1])
    total = sizes.sum(axis=-1)
    mean, square = sums.sum(axis=-1) / total, np.asarray(squares, dtype=float).sum(axis=-1) / total
    n, quantile = _effective_sample(sums, sizes, mean, square - mean**2, _PRIOR_GAIN_CORRELATION)
    mean, square = n * mean / (n + 2), (n * square + 2) / (n + 2)
    half = quantile * np.sqrt((square - mean**2) / (n + 2))
    return np.clip(mean - half, -1, 1), np.clip(mean + half, -1, 1)


def _effective_sample(
    sums: Float64Array, sizes: Float64Array, mean: Float64Array, variance: Float64Array, prior: float
) -> tuple[Float64Array, Float64Array]:
    """Return the effective sample size of correlated examples, and the quantile of the t distribution.

    `variance` is the variance of single examples. The correlation rho follows from the design effect
    1 + (m - 1) rho, where m is the mean size of an example's group.
    """
    from scipy.stats import t

    total = sizes.sum(axis=-1, keepdims=True)
    n = total[..., 0]
    shares = np.minimum(sizes / total, 0.999)
    residuals = (sums - mean[..., None] * sizes) ** 2 / (1 - shares)  # leverage correction, Bell and McCaffrey 2002
    robust = residuals.sum(axis=-1) / n**2
    number = effective_groups(sizes)
    excess = n / number - 1  # m - 1
    known = (variance > 0) & (excess > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.where(known, (robust * n / variance - 1) / excess, _PRIOR_CORRELATION)
    observed = np.clip(observed, 0, _MAX_CORRELATION)
    correlation = (number * observed + _PRIOR_GROUPS * prior) / (number + _PRIOR_GROUPS)
    quantile: Float64Array = np.asarray(t.ppf((1 + CONFIDENCE) / 2, number + _PRIOR_GROUPS - 1))
    return n / (1 + excess * correlation), quantile


def sum_by_group(groups: Int64Array, *values: ArrayLike) -> tuple[Float64Array, list[Float64Array]]:
    """Return the size of each group, and the sums of each of the values by group."""
    index = np.unique(groups, return_inverse=True)[1]
    sums = [np.bincount(index, weights=np.asarray(each, dtype=float)).astype(float) for each in values]
    return np.bincount(index).astype(float), sums
