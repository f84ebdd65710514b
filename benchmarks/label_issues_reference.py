"""Reference values for label issues, computed with cleanlab.

    python -m venv VENV && VENV/bin/pip install cleanlab==2.9.0
    VENV/bin/python benchmarks/label_issues_reference.py tests/data/cleanlab_label_issues.json

The file holds random class probabilities and labels, and what cleanlab computes from them: the thresholds of confident
learning, normalised margins, and the examples off the diagonal of the confident joint. `tests/test_audit.py` compares
`genretree.audit.labels` with these values. genretree is not imported, and cleanlab is not a dependency of it.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> None:
    """Write the reference values."""
    from cleanlab.count import compute_confident_joint, get_confident_thresholds
    from cleanlab.rank import get_label_quality_scores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    cases = []
    for seed, n, n_classes in ((0, 60, 2), (1, 80, 4), (2, 120, 7)):
        probabilities, labels = sample(seed, n, n_classes)
        _, indices = compute_confident_joint(
            labels, probabilities, calibrate=False, return_indices_of_off_diagonals=True
        )
        scores = get_label_quality_scores(labels, probabilities, method="normalized_margin", adjust_pred_probs=False)
        cases.append(
            {
                "probabilities": probabilities.tolist(),
                "labels": labels.tolist(),
                "thresholds": get_confident_thresholds(labels, probabilities).tolist(),
                "normalized_margins": scores.tolist(),
                "off_diagonal": sorted(int(index) for index in indices),
            }
        )
    content: dict[str, Any] = {"cleanlab": version("cleanlab"), "cases": cases}
    parser.parse_args().out.write_text(json.dumps(content) + "\n", encoding="utf-8")


def sample(seed: int, n: int, n_classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sample probabilities of true classes, and labels of which a fifth is wrong."""
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    concentration = np.full((n, n_classes), 0.6)
    concentration[np.arange(n), true] = 2.5
    probabilities = np.round(np.stack([rng.dirichlet(row) for row in concentration]), 4) + 1e-4
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    wrong = rng.random(n) < 0.2
    labels = np.where(wrong, (true + rng.integers(1, n_classes, n)) % n_classes, true)
    return probabilities, labels


if __name__ == "__main__":
    main()
