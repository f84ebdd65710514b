from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genretree.corpus.store import Store
from genretree.errors import SettingsError
from genretree.models.families.boosting import family
from genretree.models.families.ensemble import EnsembleSettings, combine_members, fit_member_weights
from genretree.training.train import train

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"epochs": 5, "image_size": 16, "components": 10, "min_samples_leaf": 5}


def _probabilities(truth: np.ndarray, skill: float, seed: int) -> np.ndarray:
    """A member that adds noise to the truth: the more skill the less of it."""
    rng = np.random.default_rng(seed)
    scores = skill * np.eye(4)[truth] + rng.standard_normal((len(truth), 4))
    powers = np.exp(scores)
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_better_member_weighs_more_and_the_pool_beats_both() -> None:
    truth = np.random.default_rng(0).integers(0, 4, 3000)
    tracks = np.arange(3000) // 3
    good, poor, useless = (_probabilities(truth, skill, i) for i, skill in enumerate((2.0, 1.0, 0.0)))
    leaves = np.stack([good, poor, useless])
    weights = fit_member_weights(leaves, truth, tracks)
    assert weights[0] > weights[1] > weights[2]
    assert weights[2] == pytest.approx(0, abs=0.1)
    right = [(found.argmax(axis=1) == truth).mean() for found in (good, poor, combine_members(leaves, weights))]
    assert right[2] > right[0] > right[1]


def test_the_weights_are_those_of_the_least_log_loss() -> None:
    truth = np.random.default_rng(1).integers(0, 4, 500)
    tracks = np.arange(500)
    leaves = np.stack([_probabilities(truth, 1.5, 3), _probabilities(truth, 0.7, 4)])

    def loss(weights: np.ndarray) -> float:
        return float(-np.log(combine_members(leaves, weights)[np.arange(500), truth]).mean())

    found = fit_member_weights(leaves, truth, tracks)
    grid = [loss(np.array([a, b])) for a in np.linspace(0, 2, 21) for b in np.linspace(0, 2, 21)]
    assert loss(found) <= min(grid) + 1e-6


def test_one_member_that_is_sure_cannot_overrule_all_others() -> None:
    leaves = np.array([[[1.0, 0.0]], [[0.1, 0.9]], [[0.1, 0.9]], [[0.1, 0.9]]])
    found = combine_members(leaves, np.array([0.2, 1.0, 1.0, 1.0]))
    assert np.isfinite(found).all()
    assert found[0, 1] > 0.9


def test_an_interrupted_ensemble_goes_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"members": {"boosting": SMALL}, "folds": 3}
    whole = train(store, "ensemble", tmp_path / "whole", settings)
    fit, fitted = family.BoostingFamily.fit, []

    def interrupted(*arguments: Any) -> Any:
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(1)
        return fit(*arguments)

    monkeypatch.setattr(family.BoostingFamily, "fit", staticmethod(interrupted))
    with pytest.raises(KeyboardInterrupt):
        train(store, "ensemble", tmp_path / "cut", settings)
    fitted.clear()
    monkeypatch.setattr(family.BoostingFamily, "fit", staticmethod(lambda *a: (fitted.append(1), fit(*a))[1]))
    resumed = train(store, "ensemble", tmp_path / "cut", settings)
    assert len(fitted) == 2  # the third fold, and all
    images = np.asarray(store.images[:10])
    for one, other in zip(
        whole.model.predict_proba({"images": images}), resumed.model.predict_proba({"images": images}), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert set(whole.training["facts"]["weights"]) == {"boosting"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": {"cnnn": {}}}, "did you mean 'cnn'"),
        ({"members": {"cnn": {"dropuot": 1}}}, "did you mean 'dropout'"),
        ({"members": {"ensemble": {}}}, "can't be a member"),
        ({"members": {"cnn": {"heads": "independent"}}}, "members have the tree head"),
        ({"heads": "independent"}, "has the tree head"),
        ({"members": {}}, "at least 1"),
    ],
)
def test_members_are_checked_before_anything_is_trained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EnsembleSettings.build(settings)
