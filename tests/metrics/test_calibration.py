from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from genretree.bundle.bundle import load_bundle
from genretree.corpus.splits import Split
from genretree.corpus.store import Store
from genretree.metrics.calibration import Calibration, average_by, fit_calibration, temper
from genretree.metrics.scores import score_units
from genretree.models.base import OutOfFoldPredictions
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy
from genretree.training.train import train

CCMUSIC = Taxonomy.builtin()
UNEVEN = Taxonomy.from_nested({"A": ["a", "b"], "B": {"C": ["c", "d"], "D": None}, "E": None})


def _calibrated(taxonomy: Taxonomy, n: int, heads: Heads = "tree") -> tuple[list[np.ndarray], np.ndarray]:
    """Draw probabilities, and leaves by these very probabilities."""
    rng = np.random.default_rng(0)
    leaves = rng.dirichlet(np.full(len(taxonomy.leaves), 0.3), n)
    truth = (leaves.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return taxonomy.sum_levels(leaves), truth


@pytest.mark.parametrize("heads", ["tree", "independent"])
@pytest.mark.parametrize("taxonomy", [CCMUSIC, UNEVEN])
def test_planted_temperatures_are_found_and_undone(taxonomy: Taxonomy, heads: Heads) -> None:
    levels, truth = _calibrated(taxonomy, 6000)
    planted = (0.4, 2.0, 0.6)[: taxonomy.depth]
    wrong = temper(levels, planted, taxonomy, heads)
    held = OutOfFoldPredictions(wrong, truth, np.arange(len(truth)))
    found = fit_calibration(held, taxonomy, heads, "here")
    np.testing.assert_allclose(found.track, 1 / np.array(planted), rtol=0.15)
    assert (found.tracks, found.source) == (6000, "here")
    assert found.slice == found.track  # each track has one slice here
    mended = temper(wrong, found.track, taxonomy, heads)
    groups = np.arange(len(truth))
    scores = score_units(taxonomy, heads, mended, truth, groups, 0, wrong)
    for level in scores.levels:
        assert level.trust.ece < 0.03
    assert max(level.trust.ece_before for level in scores.levels) > 0.08


@given(st.lists(st.floats(0.05, 20), min_size=3, max_size=3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_a_tempered_tree_still_adds_up(temperatures: list[float], seed: int) -> None:
    leaves = np.random.default_rng(seed).dirichlet(np.full(6, 0.2), 7)
    leaves[0] = [1, 0, 0, 0, 0, 0]  # certain, as a class never seen in training makes the others
    levels = UNEVEN.sum_levels(leaves)
    found = temper(levels, temperatures, UNEVEN, "tree")
    for level, expected in zip(found, UNEVEN.sum_levels(found[-1]), strict=True):
        np.testing.assert_allclose(level, expected, atol=1e-12)
        np.testing.assert_allclose(level.sum(axis=1), 1)
        assert np.isfinite(level).all()
    for level, expected in zip(temper(levels, (1, 1, 1), UNEVEN, "tree"), levels, strict=True):
        np.testing.assert_allclose(level, expected, atol=1e-7)


def test_the_temperature_is_the_maximum_of_the_posterior() -> None:
    taxonomy = Taxonomy.from_nested(["x", "y"])
    probabilities = np.tile([0.9, 0.1], (8, 1))
    right = np.arange(8) < 5  # too confident
    found = fit_calibration(
        OutOfFoldPredictions([probabilities], np.where(right, 0, 1), np.arange(8)), taxonomy, "tree", "here"
    )
    temperatures = np.linspace(0.5, 5, 45_001)
    odds = (0.9 / 0.1) ** (1 / temperatures)
    likelihood = 5 * np.log(odds / (1 + odds)) + 3 * np.log(1 / (1 + odds))
    prior = norm.logpdf(np.log(temperatures), scale=np.log(2) / 2)  # 95 % between 1/2 and 2
    assert found.track[0] == pytest.approx(temperatures[np.argmax(likelihood + prior)], abs=1e-3)


def test_slices_are_averaged_by_track() -> None:
    values, tracks = np.random.default_rng(0).random((9, 3)), np.array([2, 0, 0, 1, 2, 2, 0, 1, 2])
    expected = [values[tracks == track].mean(axis=0) for track in range(3)]
    np.testing.assert_allclose(average_by(values, tracks, 3), expected)


def test_few_tracks_hardly_move_the_temperature() -> None:
    levels, _ = _calibrated(CCMUSIC, 2)
    right = np.argmax(levels[-1], axis=1)  # always right and never sure: from two tracks nothing follows
    found = fit_calibration(OutOfFoldPredictions(levels, right, np.arange(2)), CCMUSIC, "tree", "here")
    assert all(0.3 < number < 3 for number in found.track)


def test_slices_of_a_track_count_as_one() -> None:
    levels, truth = _calibrated(CCMUSIC, 400)
    often = np.concatenate([np.arange(400), np.zeros(4000, int)])
    many = OutOfFoldPredictions([level[often] for level in levels], truth[often], often)
    few = OutOfFoldPredictions(levels, truth, np.arange(400))
    found, expected = (fit_calibration(held, CCMUSIC, "tree", "here") for held in (many, few))
    np.testing.assert_allclose(found.track, expected.track, rtol=1e-3)
    np.testing.assert_allclose(found.slice, expected.slice, rtol=1e-3)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"track": [1, 1], "slice": [1, 1, 1], "tracks": 3, "source": "x"},
        {"track": [1, 1, 0], "slice": [1, 1, 1], "tracks": 3, "source": "x"},
        {"track": [1, 1, 1], "slice": [1, 1, float("nan")], "tracks": 3, "source": "x"},
        {"track": [1, 1, 1], "slice": [1, 1, float("inf")], "tracks": 3, "source": "x"},
        {"track": [1, 1, 1], "slice": [1, 1, 1], "tracks": float("inf"), "source": "x"},
        {"track": 3, "slice": [1, 1, 1], "tracks": 3, "source": "x"},
    ],
)
def test_a_calibration_that_does_not_fit_refuses(content: dict) -> None:
    with pytest.raises(ValueError, match="not a"):
        Calibration.from_json(content, 3)


def test_a_calibration_survives_its_json() -> None:
    calibration = Calibration(track=(0.5, 1.2), slice=(2.0, 0.7), tracks=12, source="the validation part")
    content = calibration.to_json()
    assert content == {"track": [0.5, 1.2], "slice": [2.0, 0.7], "tracks": 12, "source": "the validation part"}
    assert Calibration.from_json(json.loads(json.dumps(content)), 2) == calibration


def test_training_calibrates_and_the_bundle_keeps_it(store: Store, tmp_path: Path) -> None:
    settings = {"epochs": 5, "image_size": 16, "components": 20}
    bundle = train(store, "boosting", tmp_path / "b", settings)
    assert bundle.calibration is not None
    assert bundle.calibration.source == "the validation part"
    assert bundle.calibration.tracks == store.split().parts.count("validation")
    assert load_bundle(tmp_path / "b").calibration == bundle.calibration
    content = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert content["calibration"]["track"] == list(bundle.calibration.track)
    parts = tuple("train" if part == "validation" else part for part in store.split().parts)
    Split(name="no-validation", protocol="group", seed=0, parts=parts).save(store.folder / "splits")
    without = train(store, "boosting", tmp_path / "c", settings, split="no-validation")
    assert without.calibration is None
    levels = [np.ones((1, len(store.taxonomy.nodes(level)))) for level in range(store.taxonomy.depth)]
    assert without.calibrate(levels, "track") is levels
    assert replace(bundle, calibration=None).calibrate(levels, "slice") is levels
