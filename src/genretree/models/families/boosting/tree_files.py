"""Training of the trees of the family `boosting`, and their files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.errors import BundleError, TrainingError
from genretree.files import atomic_path
from genretree.models.base import compute_class_weights
from genretree.models.families.boosting.checked_trees import CheckedTrees
from genretree.models.families.boosting.settings import BoostingSettings
from genretree.taxonomy import Taxonomy

_MIN_ITERATIONS = 5  # in each call of `fit`
_SECONDS_A_CALL = 15.0
_SECONDS_BETWEEN_DRAFTS = 30.0
_HELD_OUT_SHARE = 0.1  # scikit-learn's default, which the study used


def fit_classifier(
    features: Float32Array,
    truth: Int64Array,
    validation: tuple[Float32Array, Int64Array] | None,
    settings: BoostingSettings,
    started: Any,
    draft: Path,
    tick: Callable[[int], None],
) -> Any:
    """Fit a classifier, with early stopping on held-out slices and drafts for resumption.

    Parameters
    ----------
    features : array, shape (n, width)
    truth : array, shape (n,)
        Node of each training slice.
    validation : (features, nodes), optional
        The validation part, used for early stopping unless `settings.stopping` is "random_tenth".
    settings : BoostingSettings
    started : HistGradientBoostingClassifier or None
        Classifier of an interrupted run.
    draft : Path
        File that the classifier is saved to every half minute.
    tick : function
        Called with the number of new iterations.

    Returns
    -------
    HistGradientBoostingClassifier

    Raises
    ------
    TrainingError
        If all slices have the same genre.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = np.unique(truth)
    if len(known) < 2:
        raise TrainingError("all training slices have the same genre; check the labels and the split")
    weights = None  # with equal weights, scikit-learn's results would differ in rounding
    if settings.class_weight_power > 0:
        weights = compute_class_weights(truth, settings.class_weight_power)
    options: dict[str, Any] = {}
    if settings.stopping == "random_tenth":
        if not _can_stratify(truth):
            features, truth, weights, options = _split_unstratified(features, truth, weights, settings.seed)
    elif validation is not None:
        usable = np.isin(validation[1], known)  # a class absent from training has no score
        options = {"X_val": validation[0][usable], "y_val": validation[1][usable]} if usable.any() else {}
    classifier = started or HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.max_leaf_nodes,
        min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        max_features=settings.max_features,
        early_stopping=bool(options) or settings.stopping == "random_tenth",
        n_iter_no_change=settings.patience,
        random_state=settings.seed,
        warm_start=True,
    )
    # A few iterations at a time, to show progress and to save drafts; the result is that of a single call. The number
    # grows, because each call bins the features again.
    count, saved = _MIN_ITERATIONS, time.monotonic()
    while (before := getattr(classifier, "n_iter_", 0)) < settings.epochs and not _has_converged(classifier):
        began = time.monotonic()
        requested = min(before + count, settings.epochs)
        classifier.set_params(max_iter=requested).fit(features, truth, weights, **options)
        tick(classifier.n_iter_ - before)
        if classifier.n_iter_ < requested:
            break
        if time.monotonic() - saved > _SECONDS_BETWEEN_DRAFTS:
            write_draft(classifier, draft)
            saved = time.monotonic()
        per_iteration = (time.monotonic() - began) / count
        count = max(_MIN_ITERATIONS, min(2 * count, int(_SECONDS_A_CALL / max(per_iteration, 1e-6))))
    return classifier


def _has_converged(classifier: Any) -> bool:
    """Check scikit-learn's criterion of early stopping; a warm start would first grow another tree."""
    scores = getattr(classifier, "validation_score_", np.empty(0))
    patience = classifier.n_iter_no_change
    if not classifier.early_stopping or len(scores) <= patience:
        return False
    return bool((scores[-patience:] <= scores[-patience - 1] + classifier.tol).all())


def _can_stratify(truth: Int64Array) -> bool:
    """Check whether a tenth of the slices can contain each class, which scikit-learn requires."""
    counts = np.unique(truth, return_counts=True)[1]
    return bool(counts.min() >= 2 and np.ceil(_HELD_OUT_SHARE * len(truth)) >= len(counts))


def _split_unstratified(
    features: Float32Array, truth: Int64Array, weights: Float64Array | None, seed: int
) -> tuple[Float32Array, Int64Array, Float64Array | None, dict[str, Any]]:
    """Hold out a random tenth of a small training part, keeping one slice of each class."""
    firsts = np.unique(truth, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(truth)), firsts)
    size = min(len(others), int(np.ceil(_HELD_OUT_SHARE * len(truth))))
    held_out = np.random.default_rng(seed).choice(others, size, replace=False)
    learned = np.setdiff1d(np.arange(len(truth)), held_out)
    options = {"X_val": features[held_out], "y_val": truth[held_out]} if size else {}
    return features[learned], truth[learned], None if weights is None else weights[learned], options


def write_draft(classifier: Any, draft: Path) -> None:
    """Save a partly trained classifier."""
    from skops import io

    with atomic_path(draft) as temporary:
        io.dump(classifier, temporary)


def read_draft(draft: Path, target: Int64Array) -> Any:
    """Load the classifier of an interrupted run; None if there is none."""
    if not draft.exists():
        return None
    trees, classifier = _read_skops(draft)
    if not np.isin(trees.classes_, target).all():
        raise BundleError(f"{draft}: the classes don't match the tree; delete the file and train again")
    return classifier


def record_history(
    classifiers: Sequence[Any],
    parts: Mapping[str, tuple[Float32Array, Int64Array]],
    taxonomy: Taxonomy,
    settings: BoostingSettings,
) -> list[dict[str, float]]:
    """Collect losses and accuracies, with one row for each iteration and one before the first.

    Parameters
    ----------
    classifiers : sequence of HistGradientBoostingClassifier
        One classifier of the leaves, or one for each level with more than one node.
    parts : mapping of "train" and "validation" to (features, leaves)
        Data for the accuracies.
    taxonomy : Taxonomy
    settings : BoostingSettings

    Returns
    -------
    list of dict
        `train_loss` and `validation_loss` (`held_out_loss` with a held-out tenth) are those of the last classifier;
        those of upper levels have their own columns (`train_loss_1`). `train_accuracy_LEVEL` and
        `validation_accuracy_LEVEL` are in [0, 1].
    """
    held_out_name = "held_out" if settings.stopping == "random_tenth" else "validation"
    longest = max(len(classifier.train_score_) for classifier in classifiers)
    rows: list[dict[str, float]] = [{"iteration": float(iteration)} for iteration in range(longest)]
    for number, classifier in enumerate(classifiers):
        suffix = "" if number == len(classifiers) - 1 else f"_{number + 1}"
        for name, scores in (("train", classifier.train_score_), (held_out_name, classifier.validation_score_)):
            for row, score in zip(rows, scores, strict=False):
                row[f"{name}_loss{suffix}"] = -float(score)
    levels = [level for level in range(taxonomy.depth) if len(taxonomy.nodes(level)) > 1]
    for part, (features, leaves) in parts.items():
        truth = taxonomy.ancestors[leaves]
        for number, classifier in enumerate(classifiers):
            for row, shares in zip(rows[1:], classifier.staged_predict_proba(features), strict=False):
                if settings.heads == "tree":
                    spread = np.zeros((len(features), len(taxonomy.leaves)))
                    spread[:, classifier.classes_] = shares
                    predicted = taxonomy.ancestors[taxonomy.decode(taxonomy.sum_levels(spread))]
                    for level in levels:
                        accuracy = float((predicted[:, level] == truth[:, level]).mean())
                        row[f"{part}_accuracy_{taxonomy.levels[level]}"] = accuracy
                else:
                    predicted = classifier.classes_[shares.argmax(axis=1)]
                    accuracy = float((predicted == truth[:, levels[number]]).mean())
                    row[f"{part}_accuracy_{taxonomy.levels[levels[number]]}"] = accuracy
    return rows


def trees_file(number: int) -> str:
    """Return the file name of a classifier's trees in a bundle."""
    return f"classifier-{number}.safetensors"


def draft_file(number: int) -> str:
    """Return the file name of a draft, which genretree 0.1 also used in bundles."""
    return f"classifier-{number}.skops"


# Types of a stored classifier. Files with other types are rejected before anything is built.
_TRUSTED = (
    "numpy.dtype",
    "numpy.random._pickle.__randomstate_ctor",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


def load_trees(folder: Path, number: int, target: Int64Array, width: int | None) -> CheckedTrees:
    """Load the trees of the classifier of `target`, and check classes and, if known, the number of features.

    Files of genretree 0.1 are supported.
    """
    path = folder / trees_file(number)
    if path.exists():
        trees = CheckedTrees.load(path)
    else:
        path = folder / draft_file(number)
        trees, _ = _read_skops(path)
    if not np.isin(trees.classes_, target).all():
        raise BundleError(f"{path}: the classes don't match the tree; copy or train the bundle again")
    if width is not None and trees.n_features != width:
        raise BundleError(
            f"{path}: the trees use {trees.n_features} features, expected {width}; copy or train the bundle again"
        )
    return trees


def _read_skops(path: Path) -> tuple[CheckedTrees, Any]:
    """Load a classifier and its trees, and check both before use."""
    from skops import io

    try:
        untrusted = set(io.get_untrusted_types(file=path)) - set(_TRUSTED)
        if untrusted:
            raise BundleError(
                f"{path}: contains untrusted types ({', '.join(sorted(untrusted))}); copy or train the bundle again"
            )
        classifier = io.load(path, trusted=list(_TRUSTED))
        return CheckedTrees.from_classifier(classifier), classifier
    except BundleError:
        raise
    except Exception as error:  # damaged and hostile files raise many types of errors
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
