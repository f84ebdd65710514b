"""Detection of label errors by confident learning.

After Northcutt, Jiang and Chuang (2021), "Confident learning: estimating uncertainty in dataset labels". Out-of-fold
probabilities come from group-wise cross-validation. A label is flagged if another leaf reaches the mean probability of
that leaf over the tracks with that label. The list is meant for manual review; labels are not changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array
from genretree.audit.findings import LabelIssue, Locator
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.metrics.calibration import average_by
from genretree.models.base import SliceDataset
from genretree.models.features.image_statistics import dataset_statistics
from genretree.models.linear.hierarchical import LabelledRows
from genretree.models.linear.logistic import group_folds, predict_out_of_fold
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy, format_path

REGULARISATION = 0.001  # inverse regularisation C; selected on composed music


def find_mislabelled(
    store: Store, locator: Locator | None = None, seed: int = 0, progress: bool = False
) -> list[LabelIssue]:
    """Rank all tracks by the margin of their label.

    Parameters
    ----------
    store : Store
    locator : Locator, optional
        Lookup of the parts of a split.
    seed : int
        Seed of the folds.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    list of LabelIssue
        One per track, the lowest margin first.

    Raises
    ------
    CorpusError
        If there are fewer than two leaves or two groups.
    """
    tracks, probabilities = predict_tracks(store, seed, progress)
    labels = store.track_leaves[tracks]
    margins, alternatives, flagged = find_label_issues(probabilities, labels)
    locator = locator or Locator(store, ["all"] * store.n_slices)
    issues = []
    for position in np.argsort(margins, kind="stable").tolist():
        location = locator.track(int(tracks[position]))
        label, alternative = int(labels[position]), int(alternatives[position])
        issues.append(
            LabelIssue(
                track=location.track,
                path=location.path,
                genre=format_path(store.taxonomy.leaves[label]),
                group=location.group,
                part=location.part,
                probability=round(float(probabilities[position, label]), 4),
                suggested=format_path(store.taxonomy.leaves[alternative]),
                suggested_probability=round(float(probabilities[position, alternative]), 4),
                margin=round(float(margins[position]), 4),
                level=_first_different_level(store.taxonomy, label, alternative),
                flagged=bool(flagged[position]),
            )
        )
    return issues


def predict_tracks(store: Store, seed: int = 0, progress: bool = False) -> tuple[Int64Array, Float64Array]:
    """Predict every track with a classifier trained on other groups.

    Returns
    -------
    tracks : int64 array, shape (n,)
        Tracks with a leaf of the tree and at least one slice that is not silent.
    probabilities : float64 array, shape (n, n_leaves)
        Means over the slices of each track.
    """
    n_leaves = len(store.taxonomy.leaves)
    rows = store.rows()
    leaves = store.track_leaves[store.slice_tracks[rows]]
    rows = rows[(leaves >= 0) & (leaves < n_leaves)]
    own = store.slice_tracks[rows]
    leaves, groups = store.track_leaves[own], store.track_groups[own]
    folds = group_folds(leaves, groups, seed) if len(rows) else []
    if len(np.unique(leaves)) < 2 or not folds:
        raise CorpusError(
            f"{store.folder}: labels cannot be checked with fewer than two leaves or two groups; "
            "use a store with more genres or artists"
        )
    dataset = SliceDataset(store.images, rows, leaves, own, groups, cache=store.folder / "cache")
    features = dataset_statistics(dataset, progress)
    weights = LabelledRows.of([dataset]).weights
    with progress_bar(len(folds), "check labels", "fold", progress) as tick:
        slice_probabilities = predict_out_of_fold(
            features, leaves, groups, REGULARISATION, n_leaves, seed, weights, tick=tick
        )
    tracks, position = np.unique(own, return_inverse=True)
    return tracks, average_by(slice_probabilities, position, len(tracks))


def find_label_issues(
    probabilities: Float64Array, labels: Int64Array
) -> tuple[Float64Array, Int64Array, NDArray[np.bool_]]:
    """Find label issues by confident learning.

    Margins are twice the normalised margin of cleanlab minus 1, and the flagged examples are those off the diagonal of
    its confident joint.

    Parameters
    ----------
    probabilities : float64 array, shape (n, n_classes)
        Out-of-fold probabilities.
    labels : int64 array, shape (n,)
        Labels.

    Returns
    -------
    margins : float64 array, shape (n,)
        Probability of the label minus that of the most probable other class, -1 to 1.
    alternatives : int64 array, shape (n,)
        Suggested class: the most probable confident class of flagged examples, otherwise the most probable other class.
    flagged : bool array, shape (n,)
        Whether the most probable confident class is not the label. A class is confident if its probability reaches the
        mean over the examples with that label.

    Examples
    --------
    >>> import numpy as np
    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.95, 0.05]])
    >>> margins, alternatives, flagged = find_label_issues(probabilities, np.array([0, 0, 1, 1]))
    >>> flagged
    array([False, False, False,  True])
    >>> int(alternatives[3]), round(float(margins[3]), 2)
    (0, -0.9)
    """
    n, n_classes = probabilities.shape
    rows = np.arange(n)
    counts = np.bincount(labels, minlength=n_classes)
    confidence = np.bincount(labels, weights=probabilities[rows, labels], minlength=n_classes) / np.maximum(counts, 1)
    thresholds = np.where(counts > 0, confidence, np.inf)  # never suggest a class without examples
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    likeliest = confident.argmax(axis=1)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    alternatives = others.argmax(axis=1)
    margins = probabilities[rows, labels] - probabilities[rows, alternatives]
    flagged = (confident[rows, likeliest] >= 0) & (likeliest != labels)
    return margins, np.where(flagged, likeliest, alternatives).astype(np.int64), flagged


def _first_different_level(taxonomy: Taxonomy, one: int, other: int) -> str:
    """Return the name of the first level on which two leaves differ."""
    level = int(np.flatnonzero(taxonomy.ancestors[one] != taxonomy.ancestors[other])[0])
    return taxonomy.levels[level]
