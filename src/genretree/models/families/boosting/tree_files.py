"""Growing the trees of the family `boosting`, and its files."""

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

_FEWEST_ITERATIONS = 5  # grown at a time
_SECONDS_A_CALL = 15.0
_SECONDS_BETWEEN_DRAFTS = 30.0
_HELD_OUT_SHARE = 0.1  # scikit-learn's default, which the study used


def fit_classifier(
    features: Float32Array,
    truth: Int64Array,
    validation: tuple[Float32Array, Int64Array] | None,
    settings: BoostingSettings,
    begun: Any,
    draft: Path,
    tick: Callable[[int], None],
) -> Any:
    """Grow trees until the loss on held-out slices stops improving, or up to the number of rounds in the settings.

    Parameters
    ----------
    features : array, shape (n, width)
    truth : array, shape (n,)
        Node of each training slice.
    validation : (features, nodes), optional
        The validation part, which decides when to stop unless `settings.stopping` is "random_tenth".
    settings : BoostingSettings
    begun : HistGradientBoostingClassifier or None
        What an interrupted run had grown.
    draft : Path
        Gets what there is, every half minute.
    tick : function
        Called with the number of further rounds.

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
        raise TrainingError("all slices to train on have one and the same genre; check the split")
    weights = None  # told of weights that are all the same, scikit-learn computes another way
    if settings.class_weight_power > 0:
        weights = compute_class_weights(truth, settings.class_weight_power)
    options: dict[str, Any] = {}
    if settings.stopping == "random_tenth":
        if not _can_stratify(truth):
            features, truth, weights, options = _split_unstratified(features, truth, weights, settings.seed)
    elif validation is not None:
        usable = np.isin(validation[1], known)  # a class never seen in training has no score
        options = {"X_val": validation[0][usable], "y_val": validation[1][usable]} if usable.any() else {}
    classifier = begun or HistGradientBoostingClassifier(
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
    # A few iterations at a time, so that progress can be shown and a kill costs little; the result is that of a single
    # call. Each call bins the features again, so there are no more calls than that takes.
    count, saved = _FEWEST_ITERATIONS, time.monotonic()
    while (before := getattr(classifier, "n_iter_", 0)) < settings.epochs and not _has_converged(classifier):
        began = time.monotonic()
        wanted = min(before + count, settings.epochs)
        classifier.set_params(max_iter=wanted).fit(features, truth, weights, **options)
        tick(classifier.n_iter_ - before)
        if classifier.n_iter_ < wanted:
            break
        if time.monotonic() - saved > _SECONDS_BETWEEN_DRAFTS:
            write_draft(classifier, draft)
            saved = time.monotonic()
        per_iteration = (time.monotonic() - began) / count
        count = max(_FEWEST_ITERATIONS, min(2 * count, int(_SECONDS_A_CALL / max(per_iteration, 1e-6))))
    return classifier


def _has_converged(classifier: Any) -> bool:
    """Decide as scikit-learn does after each iteration; a warm start itself would first grow one more."""
    scores = getattr(classifier, "validation_score_", np.empty(0))
    patience = classifier.n_iter_no_change
    if not classifier.early_stopping or len(scores) <= patience:
        return False
    return bool((scores[-patience:] <= scores[-patience - 1] + classifier.tol).all())


def _can_stratify(truth: Int64Array) -> bool:
    """Whether a tenth can be drawn that has slices of each class, which scikit-learn insists on."""
    counts = np.unique(truth, return_counts=True)[1]
    return bool(counts.min() >= 2 and np.ceil(_HELD_OUT_SHARE * len(truth)) >= len(counts))


def _split_unstratified(
    features: Float32Array, truth: Int64Array, weights: Float64Array | None, seed: int
) -> tuple[Float32Array, Int64Array, Float64Array | None, dict[str, Any]]:
    """Hold out any tenth of a small training part, except slices that are the first of their class."""
    firsts = np.unique(truth, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(truth)), firsts)
    size = min(len(others), int(np.ceil(_HELD_OUT_SHARE * len(truth))))
    held = np.random.default_rng(seed).choice(others, size, replace=False)
    learned = np.setdiff1d(np.arange(len(truth)), held)
    options = {"X_val": features[held], "y_val": truth[held]} if size else {}
    return features[learned], truth[learned], None if weights is None else weights[learned], options


def write_draft(classifier: Any, draft: Path) -> None:
    """Write what has been grown so far."""
    from skops import io

    with atomic_path(draft) as temporary:
        io.dump(classifier, temporary)


def read_draft(draft: Path, target: Int64Array) -> Any:
    """Read what an interrupted run had grown; None if there is nothing."""
    if not draft.exists():
        return None
    trees, classifier = _read_skops(draft)
    if not np.isin(trees.classes_, target).all():
        raise BundleError(f"{draft}: its classes are not those of the tree; delete it and train again")
    return classifier


def record_history(
    classifiers: Sequence[Any],
    parts: Mapping[str, tuple[Float32Array, Int64Array]],
    taxonomy: Taxonomy,
    settings: BoostingSettings,
) -> list[dict[str, float]]:
    """Collect losses and accuracies, one row for each iteration and one before the first.

    Parameters
    ----------
    classifiers : sequence of HistGradientBoostingClassifier
        One of the leaves, or one for each level that has more than one node.
    parts : mapping of "train" and "validation" to (features, leaves)
        What the accuracies are measured on.
    taxonomy : Taxonomy
    settings : BoostingSettings

    Returns
    -------
    list of dict
        `train_loss` and `validation_loss` (`held_out_loss` where a tenth of the training slices decides) are the last
        classifier's; those above it have columns of their own (`train_loss_1`). `train_accuracy_LEVEL` and
        `validation_accuracy_LEVEL` are shares, 0 to 1.
    """
    watched = "held_out" if settings.stopping == "random_tenth" else "validation"
    longest = max(len(classifier.train_score_) for classifier in classifiers)
    rows: list[dict[str, float]] = [{"iteration": float(iteration)} for iteration in range(longest)]
    for number, classifier in enumerate(classifiers):
        suffix = "" if number == len(classifiers) - 1 else f"_{number + 1}"
        for name, scores in (("train", classifier.train_score_), (watched, classifier.validation_score_)):
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
                    chosen = taxonomy.ancestors[taxonomy.decode(taxonomy.sum_levels(spread))]
                    for level in levels:
                        right = float((chosen[:, level] == truth[:, level]).mean())
                        row[f"{part}_accuracy_{taxonomy.levels[level]}"] = right
                else:
                    chosen = classifier.classes_[shares.argmax(axis=1)]
                    right = float((chosen == truth[:, levels[number]]).mean())
                    row[f"{part}_accuracy_{taxonomy.levels[levels[number]]}"] = right
    return rows


def trees_file(number: int) -> str:
    """Name the file of a classifier's trees in a bundle."""
    return f"classifier-{number}.safetensors"


def draft_file(number: int) -> str:
    """Name what an interrupted training leaves, and what genretree 0.1 also wrote into bundles."""
    return f"classifier-{number}.skops"


# What a stored classifier is made of. Anything else in the file is refused before it is built.
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
    """Read the trees of the nodes in `target`, on `width` features if that is known; also as 0.1 wrote them."""
    path = folder / trees_file(number)
    if path.exists():
        trees = CheckedTrees.load(path)
    else:
        path = folder / draft_file(number)
        trees, _ = _read_skops(path)
    if not np.isin(trees.classes_, target).all():
        raise BundleError(f"{path}: its classes are not those of the tree; copy or train the bundle again")
    if width is not None and trees.n_features != width:
        raise BundleError(f"{path}: sees {trees.n_features} features of {width}; copy or train the bundle again")
    return trees


def _read_skops(path: Path) -> tuple[CheckedTrees, Any]:
    """Read a classifier and its trees, which are checked before anything follows them."""
    from skops import io

    try:
        strange = set(io.get_untrusted_types(file=path)) - set(_TRUSTED)
        if strange:
            raise BundleError(f"{path}: holds types that don't belong there ({', '.join(sorted(strange))}); refused")
        classifier = io.load(path, trusted=list(_TRUSTED))
        return CheckedTrees.from_classifier(classifier), classifier
    except BundleError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes zipfile, json, numpy and skops raise
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
