"""Label issues against cleanlab, an independent implementation of confident learning by its authors."""

from __future__ import annotations

import numpy as np
import pytest

from genretree.audit.labels import find_label_issues

pytest.importorskip("cleanlab", reason="needs genretree[test-reference]")

from cleanlab.count import compute_confident_joint
from cleanlab.rank import get_normalized_margin_for_each_label


@pytest.mark.parametrize(("n", "n_classes"), [(300, 3), (500, 12), (2000, 30)])
def test_label_issues_and_margins_agree_with_cleanlab(n: int, n_classes: int) -> None:
    rng = np.random.default_rng(n)
    true = rng.integers(n_classes, size=n)
    labels = np.where(rng.random(n) < 0.15, rng.integers(n_classes, size=n), true)
    probabilities = rng.dirichlet(np.full(n_classes, 0.3), n)
    probabilities[np.arange(n), true] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)

    margins, _, flagged = find_label_issues(probabilities, labels)

    _, issues = compute_confident_joint(labels, probabilities, calibrate=False, return_indices_of_off_diagonals=True)
    assert len(issues) > 0
    np.testing.assert_array_equal(np.flatnonzero(flagged), np.sort(issues))
    expected = 2 * get_normalized_margin_for_each_label(labels, probabilities) - 1
    np.testing.assert_allclose(margins, expected, atol=1e-12)
