"""How right a bundle is on a store: by slice and by whole track, at every level, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.bundle import Bundle
from genretree.corpus.splits import PROTOCOL_NOTES, RECOVERED, Split
from genretree.corpus.store import Store
from genretree.errors import CorpusError, TaxonomyError
from genretree.models.contract import LevelProbabilities, score_examples
from genretree.progress import progress_bar
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy
from genretree.train import examples_of, fingerprint

_RESAMPLES = 2000
_CONFIDENCE = 0.95

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ClassScores:
    """One class's precision, recall and F1, 0 to 1, and how many true examples it has."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class LevelScores:
    """How right one level is.

    Parameters
    ----------
    name : str
    accuracy, macro_f1 : float
        0 to 1. Macro-F1 is over the classes that occur, as truth or as prediction.
    ci95 : (float, float)
        95 % interval of the accuracy, by bootstrap over groups.
    classes : sequence of ClassScores
    confusion : nested lists, shape (n_classes, n_classes)
        Counts; rows are true, columns predicted.
    """

    name: str
    accuracy: float
    macro_f1: float
    ci95: tuple[float, float]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class UnitScores:
    """Scores over one kind of unit, slices or tracks.

    `overall` is the plain mean of the levels' accuracies, as in the published study. `contradictions` is the share of
    units whose levels name nodes of different branches: 0 by construction with the tree head.
    """

    n: int
    groups: int
    overall: float
    contradictions: float
    levels: tuple[LevelScores, ...]


@dataclass(frozen=True)
class Evaluation:
    """What `genretree evaluate` measures: the figures by `slice` and by `track`, and what they are figures of."""

    slice: UnitScores
    track: UnitScores
    family: str
    heads: Heads
    bundle: str
    store: str
    part: str
    split: str
    group_by: str
    protocol: str
    known_tracks: int
    known_groups: int
    seed: int
    settings: dict[str, Any]
    training: dict[str, Any]
    version: str

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, for `metrics.json`."""
        content = asdict(self)
        content["training"] = {
            key: value for key, value in self.training.items() if key not in ("tracks_seen", "groups_seen", "history")
        }
        return content


def evaluate(
    bundle: Bundle,
    store: Store,
    *,
    part: str = "test",
    split: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Score a bundle on one part of a store.

    Parameters
    ----------
    bundle : Bundle
    store : Store
        Prepared with the same image settings. Its genres must be leaves of the bundle's tree, by name.
    part : str
        `test`, `train`, `validation` or `all`.
    split : str, optional
        The store's split; by default the one the bundle was trained with if this is the same store, else `default`.
    seed : int
        Of the bootstrap.

    Raises
    ------
    CorpusError
        If the store was drawn with other settings, has genres the bundle doesn't know, or the part is empty.
    """
    check_images(bundle, store)
    same_store = bundle.training.get("store", {}).get("digest") == store.facts.digest
    split_name = split or (bundle.training["split"]["name"] if same_store else "default")
    parts = store.split(split_name) if part != "all" else None
    rows = store.rows(part, parts)
    if len(rows) == 0:
        raise CorpusError(f"{store.folder}: the part '{part}' of the split '{split_name}' is empty; try --part all")
    leaves = _match_leaves(bundle.taxonomy, store)
    levels = predict_rows(bundle, store, rows, progress)

    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    averaged = [average_by(probabilities, position, len(tracks)) for probabilities in levels]
    groups = store.track_groups
    known_tracks = set(bundle.training.get("tracks_seen", ()))
    known_groups = set(bundle.training.get("groups_seen", ()))
    known = [store.tracks["sha256"][track] in known_tracks for track in tracks]
    artists = {store.tracks["group"][track] for track in tracks}
    n_known_groups = sum(fingerprint(name) in known_groups for name in artists)
    return Evaluation(
        slice=score_units(
            bundle.taxonomy,
            bundle.model.heads,
            levels,
            leaves[store.slice_tracks[rows]],
            groups[store.slice_tracks[rows]],
            seed,
        ),
        track=score_units(bundle.taxonomy, bundle.model.heads, averaged, leaves[tracks], groups[tracks], seed),
        family=bundle.family,
        heads=bundle.model.heads,
        bundle=str(bundle.folder),
        store=str(store.folder),
        part=part,
        split="" if parts is None else parts.name,
        group_by=store.facts.group_by,
        protocol=_describe_protocol(
            parts, sum(known), n_known_groups, store.facts.group_by, bundle.training.get("group_by", "")
        ),
        known_tracks=sum(known),
        known_groups=n_known_groups,
        seed=seed,
        settings=bundle.settings.model_dump(mode="json"),
        training=dict(bundle.training),
        version=version("genretree"),
    )


def check_images(bundle: Bundle, store: Store) -> None:
    """Refuse a store whose images were not drawn the way the bundle learned."""
    if bundle.images != store.settings:
        raise CorpusError(
            f"{store.folder}: drawn with {store.settings}, but {bundle.folder} learned from {bundle.images}; "
            "prepare it again"
        )
    if bundle.model.needs_sound and store.mel_16k is None:
        raise CorpusError(f"{store.folder}: made from images alone, and {bundle.folder} ({bundle.family}) needs sound")


def average_by(values: NDArray[np.float64], index: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Average rows that share an index: shape (rows, columns) to (n, columns)."""
    totals = np.zeros((n, values.shape[1]))
    np.add.at(totals, index, values)
    averaged: NDArray[np.float64] = totals / np.bincount(index, minlength=n)[:, None]
    return averaged


def decode_levels(taxonomy: Taxonomy, heads: Heads, levels: LevelProbabilities) -> Indices:
    """Choose a node for each level, shape (n, depth): one path with the tree head, each level's best without."""
    if heads == "tree":
        return taxonomy.ancestors[taxonomy.decode(levels)]
    return np.stack([probabilities.argmax(axis=1) for probabilities in levels], axis=1)


def score_units(
    taxonomy: Taxonomy, heads: Heads, levels: LevelProbabilities, leaves: Indices, groups: Indices, seed: int
) -> UnitScores:
    """Compare level probabilities with the true leaves.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n, n_nodes)
    leaves : array, shape (n,)
    groups : array, shape (n,)
        Group of each unit; the bootstrap draws whole groups.
    """
    predicted = decode_levels(taxonomy, heads, levels)
    true = taxonomy.ancestors[leaves]
    scores = tuple(
        _score_level(taxonomy.levels[level], taxonomy.labels(level), true[:, level], predicted[:, level], groups, seed)
        for level in range(taxonomy.depth)
    )
    paths = {tuple(path) for path in taxonomy.ancestors.tolist()}
    contradictions = float(np.mean([tuple(row) not in paths for row in predicted.tolist()]))
    overall = float(np.mean([level.accuracy for level in scores]))
    return UnitScores(len(leaves), len(np.unique(groups)), overall, contradictions, scores)


def _score_level(
    name: str, labels: Sequence[str], true: Indices, predicted: Indices, groups: Indices, seed: int
) -> LevelScores:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    every = np.arange(len(labels))
    occurring = np.union1d(true, predicted)
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=every, zero_division=0)
    classes = tuple(
        ClassScores(label, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, label in enumerate(labels)
    )
    right = true == predicted
    return LevelScores(
        name=name,
        accuracy=float(right.mean()),
        macro_f1=float(f1[occurring].mean()),
        ci95=bootstrap_interval(right, groups, seed),
        classes=classes,
        confusion=tuple(tuple(row) for row in confusion_matrix(true, predicted, labels=every).tolist()),
    )


def bootstrap_interval(right: NDArray[np.bool_], groups: Indices, seed: int) -> tuple[float, float]:
    """Give the 95 % interval of the share of right answers, drawing whole groups with replacement.

    Tracks of one artist rise and fall together, so artists, not tracks, are drawn (cluster bootstrap, percentile
    method, by `scipy.stats.bootstrap`). Where every group is right or every one wrong the bootstrap has no spread; the
    Wilson interval over the number of groups is given instead. One group says nothing about others: 0 to 1.
    """
    from scipy import stats

    index = np.unique(groups, return_inverse=True)[1]
    total = np.bincount(index).astype(float)
    hits = np.bincount(index, weights=right.astype(float))
    n = len(total)
    if n < 2:
        return 0.0, 1.0
    if right.all() or not right.any():
        exact = stats.binomtest(n if right.all() else 0, n).proportion_ci(_CONFIDENCE, method="wilson")
        return float(exact.low), float(exact.high)

    def share(hits: Any, total: Any, axis: int = -1) -> Any:
        return hits.sum(axis=axis) / total.sum(axis=axis)

    interval = stats.bootstrap(
        (hits, total),
        share,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _match_leaves(taxonomy: Taxonomy, store: Store) -> Indices:
    """Give every track's leaf in the bundle's tree, by name."""
    if taxonomy.digest == store.taxonomy.digest:
        return store.track_leaves
    table = []
    for leaf in store.taxonomy.leaves:
        try:
            table.append(_find_either(taxonomy.find_leaf, leaf))
        except TaxonomyError as error:
            raise CorpusError(f"{store.folder}: the store's genres don't fit the bundle's tree: {error}") from error
    return np.array(table, dtype=np.int64)[store.track_leaves]


def _find_either(find: Callable[[Sequence[str] | str], int], leaf: Sequence[str]) -> int:
    """Look a leaf up by its whole path, or, where the trees are of different depth, by its own name."""
    try:
        return find(leaf)
    except TaxonomyError:
        return find(leaf[-1])


def predict_rows(bundle: Bundle, store: Store, rows: Indices, progress: bool = False) -> LevelProbabilities:
    """Give the probabilities of every node for some slices of a store: by level, shape (n_rows, n_nodes)."""
    with progress_bar(len(rows), "evaluate", "slice", progress) as tick:
        return score_examples(bundle.model, examples_of(store, rows), tick)


def _describe_protocol(
    parts: Split | None, known_tracks: int, known_groups: int, group_by: str, learned_by: str
) -> str:
    """Say how far the figures speak of unseen music. Files are told by their bytes, groups by their names."""
    if parts is not None and parts.protocol == "slice":
        return parts.note
    if known_tracks:
        return f"LEAKING: {known_tracks} of these files were learned from; the figures say nothing about unseen music"
    if not learned_by:
        return "unknown: the bundle doesn't say what it learned from"
    if learned_by != group_by:
        how = f"the bundle was grouped by {learned_by}, this store by {group_by}"
        return f"none of these files was learned from; whether their groups were is unknown ({how})"
    if known_groups:
        return f"none of these files was learned from, but {known_groups} of their groups ({group_by}) were"
    if group_by == RECOVERED:
        return PROTOCOL_NOTES["recovered"]
    return f"disjoint by {group_by}: none of these files, and none of their groups, was learned from"
