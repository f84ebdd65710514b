"""Labels that a classifier which never heard a track's group does not believe: confident learning.

After Northcutt, Jiang and Chuang (2021), "Confident learning: estimating uncertainty in dataset labels". Probabilities
come from folds that part no group; a label is doubted if another leaf is at least as probable as that leaf is, on the
average, for the tracks that carry it. The list is for people to listen to; nothing is changed.
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

STRENGTH = 0.001  # inverse regularisation; chosen on composed music


def find_mislabelled(
    store: Store, locator: Locator | None = None, seed: int = 0, progress: bool = False
) -> list[LabelIssue]:
    """Rank all tracks by how little their label is believed.

    Parameters
    ----------
    store : Store
    locator : Locator, optional
        Names the parts of a split.
    seed : int
        Of the folds.
    progress : bool

    Returns
    -------
    list of Doubt
        The most doubtful first.

    Raises
    ------
    CorpusError
        If there are too few leaves or groups to tell anything.
    """
    tracks, probabilities = predict_tracks(store, seed, progress)
    given = store.track_leaves[tracks]
    margins, rivals, flagged = find_label_issues(probabilities, given)
    locator = locator or Locator(store, ["all"] * store.n_slices)
    doubts = []
    for place in np.argsort(margins, kind="stable").tolist():
        where = locator.track(int(tracks[place]))
        own, other = int(given[place]), int(rivals[place])
        doubts.append(
            LabelIssue(
                where.track,
                where.path,
                format_path(store.taxonomy.leaves[own]),
                where.group,
                where.part,
                round(float(probabilities[place, own]), 4),
                format_path(store.taxonomy.leaves[other]),
                round(float(probabilities[place, other]), 4),
                round(float(margins[place]), 4),
                _parting(store.taxonomy, own, other),
                bool(flagged[place]),
            )
        )
    return doubts


def predict_tracks(store: Store, seed: int = 0, progress: bool = False) -> tuple[Int64Array, Float64Array]:
    """Predict every track by a classifier that learned from other groups only.

    Returns
    -------
    tracks : int64 array, shape (n,)
        Those with a slice that isn't silent, and with a leaf of the tree.
    probabilities : float64 array, shape (n, n_leaves)
        Means over the track's slices.
    """
    n_leaves = len(store.taxonomy.leaves)
    rows = store.rows()
    leaves = store.track_leaves[store.slice_tracks[rows]]
    rows = rows[(leaves >= 0) & (leaves < n_leaves)]
    own = store.slice_tracks[rows]
    leaves, groups = store.track_leaves[own], store.track_groups[own]
    folds = group_folds(leaves, groups, seed) if len(rows) else []
    if len(np.unique(leaves)) < 2 or not folds:
        raise CorpusError(f"{store.folder}: labels can't be checked with fewer than two leaves or two groups")
    examples = SliceDataset(store.images, rows, leaves, own, groups, cache=store.folder / "cache")
    features = dataset_statistics(examples, progress)
    weights = LabelledRows.of([examples]).weights
    with progress_bar(len(folds), "doubt labels", "fold", progress) as tick:
        found = predict_out_of_fold(features, leaves, groups, STRENGTH, n_leaves, seed, weights, tick=tick)
    tracks, place = np.unique(own, return_inverse=True)
    return tracks, average_by(found, place, len(tracks))


def find_label_issues(
    probabilities: Float64Array, given: Int64Array
) -> tuple[Float64Array, Int64Array, NDArray[np.bool_]]:
    """Doubt labels by confident learning.

    Parameters
    ----------
    probabilities : float64 array, shape (n, n_classes)
        By models that did not see the example.
    given : int64 array, shape (n,)
        Classes as labelled.

    Returns
    -------
    margins : float64 array, shape (n,)
        Probability of the given class minus that of the likeliest other, -1 to 1.
    rivals : int64 array, shape (n,)
        The likeliest other class.
    flagged : bool array, shape (n,)
        Whether the example counts as one of another class: of the classes whose probability reaches their own examples'
        mean, the likeliest isn't the given one.
    """
    n, n_classes = probabilities.shape
    here = np.arange(n)
    counts = np.bincount(given, minlength=n_classes)
    confidence = np.bincount(given, weights=probabilities[here, given], minlength=n_classes) / np.maximum(counts, 1)
    limits = np.where(counts > 0, confidence, np.inf)  # a class without examples is never suggested
    believed = np.where(probabilities >= limits, probabilities, -1.0)
    likeliest = believed.argmax(axis=1)
    others = probabilities.copy()
    others[here, given] = -1.0
    rivals = others.argmax(axis=1)
    margins = probabilities[here, given] - probabilities[here, rivals]
    flagged = (believed[here, likeliest] >= 0) & (likeliest != given)
    return margins, np.where(flagged, likeliest, rivals).astype(np.int64), flagged


def _parting(taxonomy: Taxonomy, one: int, other: int) -> str:
    """Name the first level on which two leaves differ."""
    level = int(np.flatnonzero(taxonomy.ancestors[one] != taxonomy.ancestors[other])[0])
    return taxonomy.levels[level]
