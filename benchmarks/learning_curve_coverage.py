"""Coverage of the intervals of extrapolated learning curves, where the true curve is known.

    python benchmarks/learning_curve_coverage.py [--repeats 200] [--seed 0]

Accuracy follows limit - slope * artists ** -exponent. Tracks of an artist are correlated (0.4), and so are the sizes of
training samples on one track (0.8 in all, as the same model family errs on the same tracks). With a spread, each size
deviates from the curve, as other training artists would make it. The last cases are single classes of few artists,
whose recall is often the same at every size, such as 0 or 1. Prints for each case the true gain of ten more
artists in each class, the mean estimate, the coverage, and the mean width, in points. An exponent of 0.15 is not
among those that genretree fits.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from genretree.evaluation.learning_curve import MORE_ARTISTS, extrapolate

DESIGNS = ((20, 4, 3), (12, 16, 2), (13, 1, 4))  # artists of each class, classes, tracks of each artist
CURVES = ((0.9, 0.5, 0.5), (0.8, 0.3, 1.0), (0.75, 0.0, 0.5), (1.0, 0.7, 0.25), (0.95, 0.9, 0.15))
FEW_DESIGNS = ((8, 1, 2), (13, 1, 4))
FEW_CURVES = ((0.02, 0.0, 0.5), (0.15, 0.25, 0.5), (0.3, 0.5, 0.25), (1.0, 0.2, 1.0), (1.0, 0.1, 0.25))
ARTIST, TRACK = 0.4, 0.4  # shares of the variance that an artist's and a track's difficulty explain


def measure(
    design: tuple[int, int, int], curve: tuple[float, float, float], spread: float, repeats: int, seed: int
) -> tuple[float, float, float, float]:
    """Return the true gain, the mean estimate, the share of intervals that contain the truth, and their mean width."""
    artists, classes, tracks = design
    limit, slope, exponent = curve
    rng = np.random.default_rng(seed)
    sizes = np.array([size for size in (2, 4, 8, 16, 32) if size < 0.8 * artists] + [0.8 * artists], dtype=float)
    groups = np.repeat(np.arange(artists * classes), tracks)
    truth = slope * (artists**-exponent - (artists + MORE_ARTISTS) ** -exponent)
    found = []
    for _ in range(repeats):
        accuracy = limit - slope * sizes**-exponent + rng.normal(0, spread, len(sizes))
        difficulty = np.sqrt(ARTIST) * rng.normal(size=artists * classes)[groups]
        difficulty += np.sqrt(TRACK) * rng.normal(size=len(groups))
        scores = difficulty + np.sqrt(1 - ARTIST - TRACK) * rng.normal(size=(len(sizes), len(groups)))
        correct = (scores < norm.ppf(np.clip(accuracy, 0.01, 0.99))[:, None]).astype(float)
        result = extrapolate("all", sizes, correct, groups, float(artists))
        found.append((result.gain, *result.gain_ci95))
    gain, low, high = np.array(found).T
    return truth, float(gain.mean()), float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| artists x classes x tracks | true curve | spread | true gain | estimate | coverage, % | width |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    cases = [(design, curve, 0.0) for design in DESIGNS for curve in CURVES]
    cases += [(DESIGNS[0], curve, 0.02) for curve in CURVES[:2]]
    cases += [(design, curve, 0.0) for design in FEW_DESIGNS for curve in FEW_CURVES]
    for design, curve, spread in cases:
        truth, estimate, coverage, width = measure(design, curve, spread, given.repeats, given.seed)
        limit, slope, exponent = curve
        shown = f"{limit:g} - {slope:g} n^-{exponent:g}" if slope else f"{limit:g}"
        numbers = f"{100 * truth:.1f} | {100 * estimate:.1f} | {100 * coverage:.0f} | {100 * width:.1f}"
        print(f"| {' x '.join(map(str, design))} | {shown} | {100 * spread:g} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
