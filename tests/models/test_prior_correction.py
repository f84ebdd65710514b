"""Corrections of prior probabilities: without evidence they change nothing, and examples outweigh the prior."""

from __future__ import annotations

import numpy as np
import pytest

from genretree.models.linear.hierarchical import LabelledRows
from genretree.models.linear.prior_correction import (
    PriorCorrection,
    TrackRows,
    choose_regularisation,
    predict_corrected_out_of_fold,
)
from genretree.taxonomy import Taxonomy

TREE = Taxonomy.from_nested({"Calm": None, "Busy": {"Beat": ["Slow", "Fast"], "Noise": None}})
WIDTHS = [3, 5]


def _rows(n_tracks: int, n_slices: int = 2, signal: float = 2.0, seed: int = 0) -> tuple[np.ndarray, LabelledRows]:
    """Features that show the leaf, and labels of tracks by two artists each leaf and eight tracks."""
    rng = np.random.default_rng(seed)
    leaves = np.repeat(np.arange(n_tracks) % 4, n_slices)
    tracks = np.repeat(np.arange(n_tracks), n_slices)
    features = rng.normal(0, 1, (len(leaves), sum(WIDTHS))).astype(np.float32)
    features[np.arange(len(leaves)), leaves] += signal
    n = len(leaves)
    return features, LabelledRows(leaves, tracks, tracks // 2, np.ones(n))


def _prior(n: int) -> np.ndarray:
    return np.tile([0.1, 0.2, 0.3, 0.4], (n, 1))


def test_a_correction_without_signal_keeps_the_prior() -> None:
    features, labelled = _rows(8)
    prior = _prior(len(features))
    tracks = TrackRows.of(features, prior, labelled)
    fitted = PriorCorrection.fit(tracks, 1e-6, WIDTHS, TREE, "tree")
    for found, expected in zip(fitted.predict(features, prior), TREE.sum_levels(prior), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("heads", ["tree", "independent"])
def test_many_examples_outweigh_the_prior(heads: str) -> None:
    features, labelled = _rows(200)
    prior = _prior(len(features))
    tracks = TrackRows.of(features, prior, labelled)
    fitted = PriorCorrection.fit(tracks, 10.0, WIDTHS, TREE, heads)  # type: ignore[arg-type]
    held_out, truth = _rows(80, seed=1)
    levels = fitted.predict(held_out, _prior(len(held_out)))
    assert (levels[-1].argmax(axis=1) == truth.leaves).mean() > 0.7  # 0.25 by the prior
    for level in levels:
        np.testing.assert_allclose(level.sum(axis=1), 1)
    consistent = np.allclose(TREE.sum_levels(levels[-1])[0], levels[0], atol=1e-6)
    assert consistent == (heads == "tree")


def test_an_accurate_prior_is_corrected_less() -> None:
    features, labelled = _rows(40)
    unsure = _prior(len(features))
    sure = np.full_like(unsure, 0.01)
    sure[np.arange(len(sure)), labelled.leaves] = 0.97
    sizes = [
        np.abs(
            PriorCorrection.fit(TrackRows.of(features, prior, labelled), 3.0, WIDTHS, TREE, "tree").nodes[0].weights
        ).sum()  # type: ignore[union-attr]
        for prior in (sure, unsure)
    ]
    assert sizes[0] < 0.2 * sizes[1]


def test_a_branch_without_tracks_keeps_its_shares() -> None:
    features, labelled = _rows(40)
    kept = np.isin(labelled.leaves, [0, 3])
    some = LabelledRows(labelled.leaves[kept], labelled.tracks[kept], labelled.groups[kept], labelled.weights[kept])
    fitted = PriorCorrection.fit(TrackRows.of(features[kept], _prior(kept.sum()), some), 30.0, WIDTHS, TREE, "tree")
    assert fitted.nodes[-1] is None
    leaves = fitted.predict(features, _prior(len(features)))[-1]
    np.testing.assert_allclose(leaves[:, 1] / leaves[:, 2], 2 / 3)
    arrays = fitted.to_arrays()
    again = PriorCorrection.from_arrays(arrays, sum(WIDTHS), TREE, "tree")
    np.testing.assert_array_equal(again.predict(features, _prior(len(features)))[-1], leaves)
    with pytest.raises(ValueError, match="don't fit"):
        PriorCorrection.from_arrays(arrays, 4, TREE, "tree")
    with pytest.raises(ValueError, match="no corrections"):
        PriorCorrection.from_arrays({}, sum(WIDTHS), TREE, "tree")


def test_one_track_of_a_genre_is_enough_to_fit() -> None:
    features, labelled = _rows(4, n_slices=1)
    prior = _prior(4)
    fitted = PriorCorrection.fit(TrackRows.of(features, prior, labelled), 3.0, WIDTHS, TREE, "tree")
    leaves = fitted.predict(features, prior)[-1]
    indices = np.arange(4)
    assert (leaves[indices, labelled.leaves] > prior[indices, labelled.leaves]).all()


def test_regularisation_is_selected_only_with_enough_groups() -> None:
    features, labelled = _rows(40)  # 20 groups
    prior = _prior(len(features))
    few = TrackRows.of(features, prior, labelled)
    assert choose_regularisation(few, (30.0, 3.0), WIDTHS, TREE, 0, False) == ([], 3.0)
    features, labelled = _rows(64, signal=4.0)
    prior = _prior(len(features))
    many = TrackRows.of(features, prior, labelled)
    history, C = choose_regularisation(many, (0.001, 30.0), WIDTHS, TREE, 0, False)
    assert C == 30.0
    assert [row["C"] for row in history] == [0.001, 30.0]
    assert history[1]["validation_loss"] < history[0]["validation_loss"]
    predictions = predict_corrected_out_of_fold(features, prior, labelled, C, WIDTHS, TREE, "tree", 0)
    assert predictions is not None
    assert (predictions.levels[-1].argmax(axis=1) == labelled.leaves).mean() > 0.8
