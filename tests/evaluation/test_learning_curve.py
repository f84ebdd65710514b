"""Learning curves over artists, and the coverage of their extrapolation."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from genretree.arrays import Float64Array
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, SettingsError
from genretree.evaluation.cross_validate import make_folds
from genretree.evaluation.learning_curve import (
    MORE_ARTISTS,
    LearningCurve,
    _summarise,
    choose_exponent,
    count_artists,
    extrapolate,
    fit_curve,
    format_curve,
    learning_curve,
    sample_artists,
)

QUICK = {"epochs": 2, "image_size": 16, "components": 6, "min_samples_leaf": 2}


def test_a_power_law_is_recovered() -> None:
    artists = np.array([2.0, 4, 8, 16, 32])
    for exponent in (0.5, 1.0):
        accuracy = 0.9 - 0.6 * artists**-exponent
        assert choose_exponent(artists, accuracy) == exponent
        assert fit_curve(artists, accuracy, exponent) == pytest.approx((0.9, 0.6))
    assert fit_curve(artists, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), 0.5)[1] == 0  # never falls with more artists
    assert fit_curve(artists, np.array([0.2, 0.6, 0.9, 0.99, 1.0]), 0.25)[0] == 1  # never exceeds 1


def test_the_interval_of_the_gain_covers_the_truth() -> None:
    artists = np.array([2.0, 4, 8, 16])
    expected = 0.85 - 0.5 * artists**-0.5
    truth = 0.5 * (20**-0.5 - (20 + MORE_ARTISTS) ** -0.5)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    covered = []
    for _ in range(25):
        # Tracks are easy or hard for all models, artists as well.
        ease = np.repeat(rng.beta(3, 3, 60), 4) * 0.5 + rng.random(240) * 0.5
        order = ease.argsort().argsort() / 240
        correct = (order[None] < expected[:, None]).astype(float)
        flips = rng.random(correct.shape) < 0.05
        correct = np.where(flips, rng.random(correct.shape) < expected[:, None], correct).astype(float)
        low, high = extrapolate("all", artists, correct, groups, 20.0).gain_ci95
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.85


def test_slow_growth_is_within_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exponent that is not fitted, of which the percentile bootstrap covered two thirds."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    measure = importlib.import_module("learning_curve_coverage").measure
    for design, curve in (
        ((20, 4, 3), (0.95, 0.9, 0.15)),
        ((12, 16, 2), (1.0, 0.7, 0.25)),
        ((13, 1, 4), (0.75, 0.0, 0.5)),
    ):
        _, _, coverage, width = measure(design, curve, 0.02, repeats=20, seed=1)
        assert coverage >= 0.9
        assert 0 < width < 0.2


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_recall_that_is_the_same_at_every_size_does_not_make_the_interval_zero(share: float) -> None:
    correct = np.tile((np.arange(16) < 16 * share).astype(float), (3, 1))
    result = extrapolate("Opera", np.array([2.0, 4, 5.3]), correct, np.repeat(np.arange(8), 2), 8.0)
    low, high = result.gain_ci95
    assert result.gain == pytest.approx(0)
    assert (high > 0.05) == (share < 1) and (low < -0.05) == (share > 0)  # as far as 0 and 1 leave room
    assert high - low > 0.05


def test_intervals_of_single_classes_with_few_artists_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a smallest deviation of each size, they covered it in 10 to 100 % of samples."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("learning_curve_coverage")
    for design in benchmark.FEW_DESIGNS:
        for curve in benchmark.FEW_CURVES:
            _, _, coverage, width = benchmark.measure(design, curve, 0.0, repeats=10, seed=1)
            assert coverage >= 0.9
            assert 0.05 < width < 0.35


def test_samples_are_nested_and_leave_the_test_part_alone(store: Store) -> None:
    split = make_folds(store, 2, 0)[0]
    one, two = (np.array(sample_artists(store, split, size, 0).parts) for size in (1, 2))
    tested = np.array(split.parts) == "test"
    assert ((one == "test") == tested).all() and ((two == "test") == tested).all()
    used = [np.isin(parts, ["train", "validation"]) for parts in (one, two)]
    assert (used[0] <= used[1]).all() and used[0].sum() < used[1].sum()
    for size, known in zip((1, 2), used, strict=True):
        counts = count_artists(store.track_leaves[known], store.track_groups[known], len(store.taxonomy.leaves))
        assert counts.max() == size


def test_the_command_measures_and_extrapolates(store: Store, tmp_path: Path) -> None:
    words = ["learning-curve", str(store.folder), "--recipe", "boosting", "--out", str(tmp_path), "--folds", "2"]
    words += ["--sizes", "1,2", "--quiet"]
    words += [text for name, value in QUICK.items() for text in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "more artists in each class would bring about" in result.output
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)  # from the saved predictions
    assert [round(point["artists"], 1) for point in content["points"]][:2] == [1.0, 2.0]
    assert content["overall"]["gain"] == pytest.approx(content["overall"]["more"] - content["overall"]["now"])
    wrong = CliRunner().invoke(main, [*words, "--sizes", "50"])
    assert wrong.exit_code == 1 and "--sizes" in wrong.output


def test_classes_with_few_artists_are_marked_or_listed_with_the_reason(store: Store, tmp_path: Path) -> None:
    counts = count_artists(store.track_leaves, store.track_groups, len(store.taxonomy.leaves))
    labels = store.track_leaves
    tracks, correct = np.arange(len(labels)), np.zeros((3, len(labels)))
    numbers = np.array([1.0, 2.0, counts.mean() / 2])

    def summarise(folds: int, sizes: Float64Array) -> LearningCurve:
        return _summarise(store, "boosting", folds, (0,), tracks, correct, sizes, counts)

    fine = summarise(2, np.array([0.5, 0.6, 0.7]))
    assert not fine.omitted and len(fine.leaves) == len(counts)
    assert all(item.few_artists and item.effective_artists <= item.artists < 10 for item in fine.leaves)
    text = format_curve(fine)
    assert text.count("(few) |") == len(counts) + fine.overall.few_artists and "few: fewer than 10 artists" in text
    content = json.loads(json.dumps(fine.to_json()))
    assert content["omitted"] == [] and all(item["few_artists"] for item in content["leaves"])

    more = int(counts.max()) + 1
    none = summarise(more, numbers)
    assert not none.leaves and [item.artists for item in none.omitted] == counts.tolist()
    assert f"no curve for {len(counts)} classes with fewer artists than folds ({more}): " in format_curve(none)
    assert none.to_json()["omitted"][0]["reason"] == f"fewer artists than folds ({more})"

    second = summarise(2, np.array([1.0, 20.0, 21.0]))
    assert not second.leaves
    assert "at most as many artists in training as the second size (20.0): " in format_curve(second)


def test_too_few_sizes_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least two sizes below"):
        learning_curve(store, tmp_path, "boosting", sizes=[2])


def test_negative_seeds_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="seeds must be different whole numbers"):
        learning_curve(store, tmp_path, "boosting", sizes=[1, 2], seeds=[0, -1])
    words = ["learning-curve", str(store.folder), "--recipe", "boosting", "--out", str(tmp_path), "--seeds=-1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "seeds must be different whole numbers from 0 to" in result.output
