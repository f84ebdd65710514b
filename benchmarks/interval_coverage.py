r"""Coverage of 95 % confidence intervals of accuracies, and of their differences, with few artists.

    python benchmarks/interval_coverage.py [--samples 1000] [--seed 0] [--out TABLES.md]

Artists have 1 to about 40 tracks (log-normal, mean 4) and accuracies that differ (beta, or probit for two models), so
that tracks of one artist are correlated: intraclass correlations of 0.1, 0.3 and 0.5 (measured: 0.24 on Emotify, 0.53
on composed music), true accuracies of 0.6, 0.8 and 0.95, 5 to 100 artists. A cell of the table has the mean coverage
over these nine cases, the lowest of them, and the mean width. The genretree rows call `genretree.metrics.intervals`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from genretree.metrics.intervals import accuracy_limits, difference_limits, effective_groups

Array = NDArray[np.float64]
Limits = tuple[Array, Array]
ARTISTS = (5, 8, 13, 20, 30, 50, 100)
ACCURACIES = (0.6, 0.8, 0.95)
CORRELATIONS = (0.1, 0.3, 0.5)
RESAMPLES = 400
Z = 1.96


def sample_sizes(shape: tuple[int, int], rng: np.random.Generator, mean: float = 4, sigma: float = 0.8) -> Array:
    """Sample numbers of tracks by artist."""
    return np.maximum(1, np.round(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, shape)))


def sample_correct(
    n_samples: int, artists: int, accuracy: float, correlation: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Sample numbers of correct tracks and of tracks, shape (n_samples, artists)."""
    sizes = sample_sizes((n_samples, artists), rng)
    total = (1 - correlation) / correlation
    chances = rng.beta(accuracy * total, (1 - accuracy) * total, sizes.shape)
    return rng.binomial(sizes.astype(int), chances).astype(float), sizes


def sample_gains(
    n_samples: int, artists: int, accuracy: float, correlation: float, rng: np.random.Generator, points: float = 0.05
) -> tuple[Array, Array, Array]:
    """Sample two models whose errors share artist and track effects: sums of gains and of squares, and sizes."""
    sizes = sample_sizes((n_samples, artists), rng)
    owner = np.repeat(np.arange(sizes.size), sizes.astype(int).ravel())

    def latent(shared: float) -> list[Array]:
        """Two standard normal effects with a correlation, by artist and by track."""
        effects = []
        for count, weight in ((sizes.size, correlation), (len(owner), 1 - correlation)):
            common, own = rng.standard_normal(count), rng.standard_normal((2, count))
            pair = np.sqrt(weight) * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
            effects.append(pair[:, owner] if count == sizes.size else pair)
        return [effects[0][i] + effects[1][i] for i in range(2)]

    first, second = latent(0.7)
    gains = (first < stats.norm.ppf(accuracy)).astype(float) - (second < stats.norm.ppf(accuracy - points))
    sums = np.bincount(owner, weights=gains, minlength=sizes.size).reshape(sizes.shape).astype(float)
    squares = np.bincount(owner, weights=gains**2, minlength=sizes.size).reshape(sizes.shape).astype(float)
    return sums, squares, sizes


def _moments(sums: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """Number of tracks, mean, and cluster-robust variance of the mean."""
    n = sizes.sum(axis=1)
    mean = sums.sum(axis=1) / n
    artists = sizes.shape[1]
    variance = artists / (artists - 1) * ((sums - mean[:, None] * sizes) ** 2).sum(axis=1) / n**2
    return n, mean, variance


def student(sums: Array, sizes: Array) -> Limits:
    """Mean plus or minus t standard errors."""
    _, mean, variance = _moments(sums, sizes)
    half = stats.t.ppf(0.975, sizes.shape[1] - 1) * np.sqrt(variance)
    return mean - half, mean + half


def logit(sums: Array, sizes: Array) -> Limits:
    """The t interval on the logit scale; half a track is added to both outcomes, the variance at least binomial."""
    n, _, variance = _moments(sums, sizes)
    share = (sums.sum(axis=1) + 0.5) / (n + 1)
    spread = share * (1 - share)
    half = stats.t.ppf(0.975, sizes.shape[1] - 1) * np.sqrt(np.maximum(variance, spread / n)) / spread
    center = np.log(share / (1 - share))
    return 1 / (1 + np.exp(half - center)), 1 / (1 + np.exp(-half - center))


def effective_size(sums: Array, sizes: Array) -> Array:
    """Effective sample size by the cluster-robust variance, at most the number of tracks."""
    n, mean, variance = _moments(sums, sizes)
    size = np.where(variance > 0, mean * (1 - mean) / np.where(variance > 0, variance, 1), effective_groups(sizes))
    return np.minimum(size, n)


def wilson(sums: Array, sizes: Array, use_t: bool) -> Limits:
    """The score interval with the effective sample size, and normal or t quantiles."""
    share, n = sums.sum(axis=1) / sizes.sum(axis=1), effective_size(sums, sizes)
    quantile = stats.t.ppf(0.975, sizes.shape[1] - 1) if use_t else Z
    scale = 1 + quantile**2 / n
    center = (share + quantile**2 / (2 * n)) / scale
    half = quantile / scale * np.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2))
    return center - half, center + half


def korn_graubard(sums: Array, sizes: Array) -> Limits:
    """The exact binomial interval with the effective sample size (Korn and Graubard 1998)."""
    n, share, _ = _moments(sums, sizes)
    ratio = stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, sizes.shape[1] - 1)
    size = np.minimum(n, effective_size(sums, sizes) * ratio**2)
    hits = share * size
    low = np.where(hits > 0, stats.beta.ppf(0.025, np.maximum(hits, 1e-9), size - hits + 1), 0)
    misses = np.maximum(size - hits, 1e-9)
    return low, np.where(size - hits > 1e-9, stats.beta.ppf(0.975, hits + 1, misses), 1)


def bootstrap(sums: Array, sizes: Array, method: str) -> Limits:
    """Resample artists: percentile, BCa (Efron 1987) or studentised."""
    artists = sizes.shape[1]
    weights = np.random.default_rng(1).multinomial(artists, np.full(artists, 1 / artists), RESAMPLES).astype(float)
    totals = weights @ sizes.T
    means = weights @ sums.T / totals  # shape (RESAMPLES, n_samples)
    n, mean, variance = _moments(sums, sizes)
    if method == "percentile":
        return np.quantile(means, 0.025, axis=0), np.quantile(means, 0.975, axis=0)
    if method == "BCa":
        below = ((means < mean).mean(axis=0) + (means <= mean).mean(axis=0)) / 2
        bias = stats.norm.ppf(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
        left_out = (sums.sum(axis=1)[:, None] - sums) / (n[:, None] - sizes)
        gaps = left_out.mean(axis=1)[:, None] - left_out
        skew = (gaps**3).sum(axis=1) / np.maximum(6 * (gaps**2).sum(axis=1) ** 1.5, 1e-12)
        order = np.sort(means, axis=0)
        limits = []
        for z in (-Z, Z):
            level = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
            limits.append(order[np.clip((level * RESAMPLES).astype(int), 0, RESAMPLES - 1), np.arange(len(n))])
        return limits[0], limits[1]
    squares = weights @ (sums**2).T - 2 * means * (weights @ (sums * sizes).T) + means**2 * (weights @ (sizes**2).T)
    errors = np.sqrt(np.maximum(artists / (artists - 1) * squares / totals**2, 1e-6))
    high, low = np.quantile((means - mean) / errors, (0.975, 0.025), axis=0)
    return mean - high * np.sqrt(variance), mean - low * np.sqrt(variance)


METHODS: dict[str, Callable[[Array, Array], Limits]] = {
    "percentile bootstrap": partial(bootstrap, method="percentile"),
    "BCa bootstrap": partial(bootstrap, method="BCa"),
    "studentised bootstrap": partial(bootstrap, method="studentised"),
    "t, cluster-robust": student,
    "t on the logit scale": logit,
    "Wilson, effective n, normal": partial(wilson, use_t=False),
    "Wilson, effective n, t": partial(wilson, use_t=True),
    "Clopper-Pearson, effective n": korn_graubard,
    "**genretree** (Wilson, effective n, shrunk correlation)": accuracy_limits,
}
PAIRED: dict[str, Callable[[Array, Array, Array], Limits]] = {
    "percentile bootstrap": lambda sums, squares, sizes: bootstrap(sums, sizes, "percentile"),
    "BCa bootstrap": lambda sums, squares, sizes: bootstrap(sums, sizes, "BCa"),
    "studentised bootstrap": lambda sums, squares, sizes: bootstrap(sums, sizes, "studentised"),
    "t, cluster-robust": lambda sums, squares, sizes: student(sums, sizes),
    "**genretree** (adjusted, effective n, shrunk correlation)": difference_limits,
}


def covered(limits: Limits, truth: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Share of intervals that contain the truth, and their mean width."""
    low, high = (np.clip(limit, *bounds) for limit in limits)
    return float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean())


def probit_correlation(accuracy: float, correlation: float) -> float:
    """Correlation of latent normals whose thresholded values have an intraclass correlation."""
    threshold = stats.norm.ppf(accuracy)

    def gap(rho: float) -> float:
        both = stats.multivariate_normal.cdf([threshold, threshold], cov=[[1, rho], [rho, 1]])
        return float((both - accuracy**2) / (accuracy * (1 - accuracy)) - correlation)

    return float(brentq(gap, 0.0, 0.999))


def tabulate(names: Sequence[str], results: dict[tuple[str, int], list[tuple[float, float]]]) -> str:
    """Format a Markdown table: mean coverage, lowest coverage and mean width by method and number of artists."""
    lines = [
        "| method | " + " | ".join(f"{artists} artists" for artists in ARTISTS) + " |",
        "| --- " * (len(ARTISTS) + 1) + "|",
    ]
    for name in names:
        cells = []
        for artists in ARTISTS:
            cases = np.array(results[name, artists])
            coverage, width = 100 * cases[:, 0], 100 * cases[:, 1]
            cells.append(f"{coverage.mean():.1f} ({coverage.min():.0f}), {width.mean():.0f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Simulate and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    single: dict[tuple[str, int], list[tuple[float, float]]] = {}
    paired: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for artists in ARTISTS:
        for accuracy in ACCURACIES:
            for correlation in CORRELATIONS:
                sample = sample_correct(options.samples, artists, accuracy, correlation, rng)
                for name, method in METHODS.items():
                    single.setdefault((name, artists), []).append(covered(method(*sample), accuracy, (0, 1)))
                latent = probit_correlation(accuracy, correlation)
                gains = sample_gains(options.samples, artists, accuracy, latent, rng)
                for name, compare in PAIRED.items():
                    paired.setdefault((name, artists), []).append(covered(compare(*gains), 0.05, (-1, 1)))
    text = (
        "Accuracy: mean coverage in % (lowest of nine cases), mean width in points\n\n"
        + tabulate(list(METHODS), single)
        + "\n\nDifference of two models' accuracies (5 points), the same\n\n"
        + tabulate(list(PAIRED), paired)
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
