"""Confidence intervals with few artists: simulated coverage, special cases and the warning."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from genretree.metrics.intervals import accuracy_interval, accuracy_limits, difference_interval, effective_groups
from genretree.metrics.scores import score_units
from genretree.taxonomy import Taxonomy

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import interval_coverage as benchmark


@pytest.mark.parametrize("artists", [5, 13, 30])
@pytest.mark.parametrize("accuracy", [0.6, 0.95])
def test_intervals_of_few_artists_cover_where_the_bootstrap_does_not(artists: int, accuracy: float) -> None:
    sample = benchmark.sample_correct(600, artists, accuracy, 0.3, np.random.default_rng(artists))
    ours, width = benchmark.covered(accuracy_limits(*sample), accuracy, (0, 1))
    bootstrap, _ = benchmark.covered(benchmark.bootstrap(*sample, "percentile"), accuracy, (0, 1))
    assert ours >= 0.935
    assert ours > bootstrap
    assert width < 0.75


@pytest.mark.parametrize("artists", [5, 13, 30])
def test_intervals_of_differences_cover(artists: int) -> None:
    gains = benchmark.sample_gains(600, artists, 0.8, 0.3, np.random.default_rng(artists))
    coverage, _ = benchmark.covered(benchmark.difference_limits(*gains), 0.05, (-1, 1))
    assert coverage >= 0.935


def test_many_artists_of_one_track_give_the_wilson_interval() -> None:
    correct = np.arange(2000) % 4 > 0
    expected = binomtest(1500, 2000).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(correct, np.arange(2000)) == pytest.approx((expected.low, expected.high), abs=2e-4)


def test_a_group_more_narrows_the_interval() -> None:
    widths = []
    for artists in (3, 6, 12, 24, 48):
        correct = np.tile([True, True, True, False], artists)
        low, high = accuracy_interval(correct, np.repeat(np.arange(artists), 4))
        assert 0 <= low < 0.75 < high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_extremes_stay_in_range() -> None:
    groups = np.repeat(np.arange(4), 5)
    assert accuracy_interval(np.zeros(20), groups)[0] == pytest.approx(0, abs=1e-9)
    assert 0.3 < accuracy_interval(np.zeros(20), groups)[1] < 0.8
    assert accuracy_interval(np.ones(20), np.zeros(20, int)) == (0, 1)
    assert difference_interval(np.ones(20), np.zeros(20, int)) == (-1, 1)
    low, high = difference_interval(np.ones(20), groups)
    assert 0 < low < 1
    assert high == pytest.approx(1, abs=0.1)
    unequal = np.repeat([0, 1], [500, 1])
    low, high = accuracy_interval(np.arange(501) % 2 == 0, unequal)
    assert high - low > 0.4


def test_the_effective_number_is_the_inverse_simpson_index() -> None:
    assert float(effective_groups([4, 4, 4])) == pytest.approx(3)
    assert effective_groups(np.array([[9, 1, 0], [1, 1, 1]])).tolist() == pytest.approx([100 / 82, 3])


def test_few_artists_are_flagged() -> None:
    flat = Taxonomy.from_nested(["x", "y"])
    levels = [np.full((40, 2), 0.5)]
    few = score_units(flat, "tree", levels, np.arange(40) % 2, np.arange(40) // 8, 0)
    many = score_units(flat, "tree", levels, np.arange(40) % 2, np.arange(40), 0)
    assert (few.effective_groups, few.few_groups) == (5.0, True)
    assert (many.effective_groups, many.few_groups) == (40.0, False)
