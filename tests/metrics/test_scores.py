from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from genretree.metrics.intervals import accuracy_interval
from genretree.metrics.scores import compare_accuracies, decode_levels, name_path, score_hierarchy, score_units
from genretree.taxonomy import Taxonomy

CCMUSIC = Taxonomy.builtin()
TREE = Taxonomy.from_nested({"A": ["a", "b"], "B": {"C": ["c", "d"], "D": None}})  # leaves: a, b, c, d, D


def _random_case(n: int = 300) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    leaves = rng.integers(0, 14, n)  # two leaves don't occur, one of which is never predicted
    probabilities = rng.dirichlet(np.ones(16), n) + 0.1 * np.eye(16)[leaves]
    probabilities[:, 15] = 0
    return CCMUSIC.sum_levels(probabilities / probabilities.sum(axis=1, keepdims=True)), leaves, np.arange(n) // 10


@pytest.mark.filterwarnings("error::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_of_a_level_are_scikit_learns() -> None:
    levels, leaves, groups = _random_case()
    found = score_units(CCMUSIC, "independent", levels, leaves, groups, 0)
    for i, level in enumerate(found.levels):
        truth, predicted = CCMUSIC.ancestors[leaves, i], levels[i].argmax(axis=1)
        assert level.name == CCMUSIC.levels[i]
        assert level.accuracy == pytest.approx(accuracy_score(truth, predicted))
        assert level.ci95 == accuracy_interval(truth == predicted, groups)
        assert level.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
        assert level.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert level.kappa == pytest.approx(cohen_kappa_score(truth, predicted))
        classes = np.arange(levels[i].shape[1])
        assert np.array_equal(level.confusion, confusion_matrix(truth, predicted, labels=classes))
        expected = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
        columns = [(item.precision, item.recall, item.f1, item.support) for item in level.classes]
        np.testing.assert_allclose(columns, np.transpose(expected))
        assert tuple(item.name for item in level.classes) == CCMUSIC.labels(i)
        for k, share in level.top.items():
            assert share == pytest.approx(top_k_accuracy_score(truth, levels[i], k=k, labels=classes))
        assert set(level.top) == {k for k in (2, 3) if k < len(classes)}
    assert found.levels[0].branches == ()
    assert found.levels[1].branches == (4,)
    assert found.levels[2].branches == (1, 2, 3, 4, 7, 9, 11, 12)


def test_scores_of_units_name_their_numbers() -> None:
    levels, leaves, groups = _random_case()
    found = score_units(CCMUSIC, "independent", levels, leaves, groups, 0)
    assert (found.n, found.groups) == (300, 30)
    assert found.effective_groups == pytest.approx(30)  # all of the same size
    assert not found.few_groups
    assert found.overall == pytest.approx(np.mean([level.accuracy for level in found.levels]))
    predicted = decode_levels(CCMUSIC, "independent", levels)
    assert found.hierarchical == score_hierarchy(CCMUSIC, predicted, leaves)
    possible = {tuple(path) for path in CCMUSIC.ancestors}
    assert 0 < found.contradictions == pytest.approx(np.mean([tuple(row) not in possible for row in predicted]))
    uneven = np.minimum(groups, 2)
    few = score_units(CCMUSIC, "tree", levels, leaves, uneven, 0)
    assert few.effective_groups == pytest.approx(1 / sum((np.array([10, 10, 280]) / 300) ** 2))
    assert few.few_groups
    assert few.contradictions == 0


def test_a_tree_decodes_the_best_path_and_independent_heads_the_best_nodes() -> None:
    levels = [np.array([[0.45, 0.55]]), np.array([[0.4, 0.1, 0.3, 0.2]]), np.array([[0.1, 0.1, 0.1, 0.5, 0.2]])]
    path = decode_levels(TREE, "tree", levels)[0]
    assert path.tolist() == [1, 2, 3]
    assert name_path(TREE, "tree", path) == ("B", "C", "d")
    nodes = decode_levels(TREE, "independent", levels)[0]
    assert nodes.tolist() == [1, 0, 3]
    assert name_path(TREE, "independent", nodes) == ("B", "a", "d")
    trust = score_units(TREE, "tree", levels, np.array([3]), np.zeros(1, int), 0).levels[1].trust
    assert [item.confidence for item in (*trust.bins, *trust.bins_before)] == [0.3, 0.3]  # of C, not of a


@pytest.mark.filterwarnings("error")
def test_a_level_of_one_node_is_scored_without_warnings() -> None:
    one = Taxonomy.from_nested({"all": ["x", "y"]})
    levels = one.sum_levels(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]))
    found = score_units(one, "tree", levels, np.array([0, 1, 0]), np.arange(3), 0)
    assert (found.levels[0].accuracy, found.levels[0].kappa, found.levels[0].top) == (1, 0, {})
    assert found.levels[0].confusion == ((3,),)


def test_hierarchical_scores_are_those_worked_out_by_hand() -> None:
    # a taken for b: {A, b} and {A, a} share A; c for D: {B, D} and {B, C, c} share B; d for d; D for a: nothing.
    predicted = TREE.ancestors[[1, 4, 3, 0]]
    found = score_hierarchy(TREE, predicted, np.array([0, 2, 3, 4]))
    assert found.precision == pytest.approx((1 + 1 + 3 + 0) / (2 + 2 + 3 + 2))
    assert found.recall == pytest.approx((1 + 1 + 3 + 0) / (2 + 3 + 3 + 2))
    assert found.f1 == pytest.approx(2 * 5 / 9 * 5 / 10 / (5 / 9 + 5 / 10))
    assert found.tree_distance == pytest.approx((2 + 3 + 0 + 4) / 4)


def test_all_right_and_all_wrong() -> None:
    leaves = np.array([0, 2, 3, 4])
    right = score_hierarchy(TREE, TREE.ancestors[leaves], leaves)
    assert (right.precision, right.recall, right.f1, right.tree_distance) == (1, 1, 1, 0)
    wrong = score_hierarchy(TREE, TREE.ancestors[[4, 0, 1, 1]], leaves)
    assert (wrong.precision, wrong.recall, wrong.f1) == (0, 0, 0)


def test_nodes_of_two_branches_count_with_all_their_ancestors() -> None:
    contradicting = np.array([[0, 2, 2]])  # A, C, c
    found = score_hierarchy(TREE, contradicting, np.array([2]))
    assert found.precision == pytest.approx(3 / 4)
    assert found.recall == 1
    assert found.tree_distance == 0


def _trust(confidence: np.ndarray, right: np.ndarray, before: np.ndarray | None = None):
    """Trust in a flat tree of two leaves of which the first is always named."""
    flat = Taxonomy.from_nested(["x", "y"])
    levels = [np.stack([confidence, 1 - confidence], axis=1)]
    earlier = None if before is None else [np.stack([before, 1 - before], axis=1)]
    found = score_units(flat, "tree", levels, np.where(right, 0, 1), np.arange(len(right)), 0, earlier)
    return found.levels[0].trust


def test_the_calibration_error_is_the_gap_weighed_by_bins() -> None:
    confidence = np.repeat([0.65, 0.95], [100, 300])
    right = np.concatenate([np.arange(100) < 40, np.arange(300) < 285])
    trust = _trust(confidence, right, np.full(400, 0.75))
    assert trust.ece == pytest.approx(0.25 * 0.25 + 0.75 * 0.0)
    assert trust.ece_before == pytest.approx(abs(0.75 - 325 / 400))
    assert [item.n for item in trust.bins] == [100, 300]
    assert trust.bins[0].accuracy == pytest.approx(0.4)
    assert [item.confidence for item in trust.bins] == pytest.approx([0.65, 0.95])
    assert [(item.confidence, item.n) for item in trust.bins_before] == [(pytest.approx(0.75), 400)]


def test_bins_are_of_equal_width_and_the_last_includes_1() -> None:
    trust = _trust(np.array([0.85, 0.95, 1.0]), np.array([True, True, False]))
    assert [item.n for item in trust.bins] == [1, 2]
    assert trust.ece == pytest.approx((0.15 + 2 * abs(0.975 - 0.5)) / 3)


def test_the_curve_begins_with_the_most_confident_example() -> None:
    trust = _trust(np.array([0.7, 0.9, 0.8, 0.6]), np.array([True, False, True, True]))
    assert trust.curve[0] == (0.05, 0)
    assert trust.curve[9] == (0.5, 0.5)
    assert trust.accuracy_at_80 == pytest.approx(2 / 3)


def test_chance_alone_explains_the_error_of_good_probabilities() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.5, 1, 60)
    assert _trust(confidence, confidence > 0.6).ece_chance == _trust(confidence, confidence > 0.7).ece_chance
    errors = [_trust(confidence, rng.random(60) < confidence).ece for _ in range(60)]
    assert _trust(confidence, rng.random(60) < confidence).ece_chance == pytest.approx(np.mean(errors), rel=0.15)


def test_the_surest_are_answered_first() -> None:
    confidence = np.linspace(0.51, 0.99, 100)
    trust = _trust(confidence, np.arange(100) >= 20)  # the 20 least sure are wrong
    assert trust.accuracy_at_80 == 1
    assert trust.curve[-1] == (1.0, pytest.approx(0.8))
    assert trust.curve[0] == (pytest.approx(0.05), 1.0)


def test_a_difference_is_distinguished_from_none() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(50), 4)
    first, second = rng.random((200, 1)) < 0.85, rng.random((200, 1)) < 0.6
    better = compare_accuracies(["x"], first, second, groups)[0]
    assert better.name == "x"
    assert better.ci95[0] > 0
    assert better.p_value < 0.001
    assert better.difference == pytest.approx(first.mean() - second.mean())
    assert better.only_first - better.only_second == round(200 * better.difference)
    same = compare_accuracies(["x"], first, first, groups)[0]
    assert (same.difference, same.p_value) == (0, 1)
    assert same.ci95 == pytest.approx((-0.03, 0.03), abs=0.01)  # what 50 groups may hide
    other = compare_accuracies(["x"], second, first, groups)[0]
    assert other.difference == -better.difference
    low, high = compare_accuracies(["x"], first, second, np.zeros(200, int))[0].ci95
    assert high - low > 0.7  # one group says nothing of others


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = np.array([True] * 10 + [False] * 2)[:, None]
    found = compare_accuracies(["x"], first, ~first, np.arange(12))[0]
    assert (found.only_first, found.only_second) == (10, 2)
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)


def test_one_artist_alone_is_not_significant() -> None:
    groups = np.repeat(np.arange(10), 20)
    first = np.zeros((200, 1), bool)
    first[:20] = True  # one artist of ten
    found = compare_accuracies(["x"], first, np.zeros((200, 1), bool), groups)[0]
    assert found.p_value < 0.001  # tracks taken as independent
    assert found.ci95[0] < 0  # artists are not
