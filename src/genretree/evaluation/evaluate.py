"""Evaluation of a bundle on a store: metrics by slice and by track, at every level, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array
from genretree.bundle.bundle import Bundle
from genretree.checks import require_choice, require_integer, require_text, require_type
from genretree.corpus.splits import PARTS, PROTOCOL_NOTES, RECOVERED, WITHOUT_TRACKS, Split
from genretree.corpus.store import Store
from genretree.errors import CorpusError, TaxonomyError
from genretree.metrics.calibration import UNITS, Unit
from genretree.metrics.intervals import FEW_GROUPS
from genretree.metrics.scores import Difference, UnitScores, compare_accuracies, decode_levels, name_path, score_units
from genretree.models.base import LevelProbabilities, missing_features, predict_dataset
from genretree.progress import progress_bar
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy
from genretree.training.data import group_fingerprints, slice_dataset_of, unknown_groups

_LONG = ("tracks_seen", "groups_seen", "heard_before", "history", "reference")
_INTERNAL = ("outcomes", "marks")  # left out of metrics.json; tracks.csv has the outcomes


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """Result of one track.

    Parameters
    ----------
    name, group : str
        Path and group in the store.
    true, predicted : tuple of str
        Paths; with independent heads `predicted` has the label of each level.
    probabilities : tuple of float
        Probability of the predicted node at each level.
    true_probability : float
        Probability of the true leaf.
    right : tuple of bool
        Whether each level is correct.
    row : int
        Index into the store of the slice with the highest probability of the predicted leaf.
    """

    name: str
    group: str
    true: tuple[str, ...]
    predicted: tuple[str, ...]
    probabilities: tuple[float, ...]
    true_probability: float
    right: tuple[bool, ...]
    row: int


@dataclass(frozen=True)
class Correctness:
    """Correctness of slices and tracks, bool arrays (n, n_levels), and their group indices (n,)."""

    rows: Int64Array
    slice: NDArray[np.bool_]
    slice_groups: Int64Array
    track: NDArray[np.bool_]
    track_groups: Int64Array


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of a bundle on one part of a store, by slice and by track, and their conditions.

    Parameters
    ----------
    slice, track : UnitScores
        Metrics over slices, and over tracks, whose probabilities are averages over their slices.
    family : str
    heads : {"tree", "independent"}
    bundle, store : str
        Folders.
    part, split : str
        Part of the store that was scored, and the split it belongs to.
    group_by : str
        What the split does not divide: `artist`, `album`, `folder` or `track`.
    protocol : str
        How far the metrics apply to unseen music, in a sentence.
    disjoint : str
        The same in a word: `artist-disjoint`, `track-disjoint` ..., `file-disjoint` (other files, perhaps by artists of
        the training data), `LEAKING` or `unknown`.
    known_tracks, known_groups : int
        Tracks and groups of this part that are also in the training data.
    seed : int
        Seed of the calibration error by chance.
    settings, training : dict
        Settings and training record of the bundle.
    version : str
        Version of genretree.
    calibration : dict, optional
    outcomes : tuple of ItemResult
        Result of each track and slice.
    marks : Correctness
        Correctness of each track and slice, for paired tests.
    runtime : str
        Runtime and precision of the model's networks, such as `openvino bf16`.

    See Also
    --------
    genretree.evaluate : Compute one.
    genretree.evaluation.evaluate.compare_evaluations : Compare two with a paired test.

    Examples
    --------
    >>> import genretree
    >>> result = genretree.evaluate(genretree.load("BUNDLE"), genretree.Store("STORE"))
    >>> result.disjoint
    'artist-disjoint'
    >>> [level.name for level in result.track.levels]
    ['level_1', 'level_2']
    """

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
    disjoint: str
    known_tracks: int
    known_groups: int
    seed: int
    settings: dict[str, Any]
    training: dict[str, Any]
    version: str
    calibration: dict[str, Any] | None
    outcomes: tuple[ItemResult, ...]
    marks: Correctness
    runtime: str = ""

    @property
    def label(self) -> str:
        """The family, preceded by the bundle's name if they differ."""
        name = Path(self.bundle).name
        return self.family if name == self.family else f"{name} ({self.family})"

    @property
    def few_groups_note(self) -> str:
        """A warning if the groups are too few for the confidence intervals, otherwise empty."""
        scores = self.track
        if not scores.few_groups:
            return ""
        return (
            f"Few groups: {scores.groups} ({self.group_by}), as informative as {scores.effective_groups:.1f} of equal "
            f"size. Below {FEW_GROUPS}, intervals rest on an assumed correlation within groups, and results by class "
            "mostly measure single groups."
        )

    @property
    def units(self) -> tuple[Unit, ...]:
        """Units to report; only slices if the store has no tracks."""
        return ("slice",) if self.group_by in WITHOUT_TRACKS else UNITS

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, for `metrics.json`."""
        bare = replace(self, outcomes=(), marks=None)  # type: ignore[arg-type]
        content = {name: value for name, value in asdict(bare).items() if name not in _INTERNAL}
        content["training"] = {key: value for key, value in self.training.items() if key not in _LONG}
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
    """Evaluate a bundle on one part of a store.

    Parameters
    ----------
    bundle : Bundle
    store : Store
        Prepared with the same image settings. Its genres must be leaves of the bundle's taxonomy, by name.
    part : str
        `test`, `train`, `validation` or `all`.
    split : str, optional
        Split of the store; by default the one used for training if this is the same store, else `default`.
    seed : int
        Seed of the calibration error by chance.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Evaluation

    Raises
    ------
    ArgumentError
        If an argument is of the wrong type or out of range.
    CorpusError
        If the store has other image settings or genres that the bundle lacks, or the part is empty.

    See Also
    --------
    Evaluation : The result.
    genretree.evaluation.evaluate.compare_evaluations : Compare two with a paired test.

    Examples
    --------
    >>> import genretree
    >>> result = genretree.evaluate(genretree.load("BUNDLE"), genretree.Store("STORE"), part="all")
    >>> 0 <= result.track.levels[0].accuracy <= 1
    True
    """
    require_type("bundle", bundle, Bundle, "use genretree.load")
    require_type("store", store, Store, "use genretree.Store")
    require_choice("part", part, (*PARTS, "all"))
    if split is not None:
        require_text("split", split)
    require_integer("seed", seed, minimum=0)
    check_images(bundle, store)
    same_store = bundle.training.get("store", {}).get("digest") == store.metadata.digest
    split_name = split or (bundle.training["split"]["name"] if same_store else "default")
    parts = store.split(split_name) if part != "all" else None
    rows = store.rows(part, parts)
    if len(rows) == 0:
        raise CorpusError(f"{store.folder}: the part '{part}' of the split '{split_name}' is empty; try `part='all'`")
    leaves = match_leaves(bundle.taxonomy, store)
    levels = predict_rows(bundle, store, rows, progress)

    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    by_slice, by_track = bundle.calibrate(levels, "slice"), bundle.average_slices(levels, position)
    uncalibrated = replace(bundle, calibration=None).average_slices(levels, position)
    groups = store.track_groups
    known_tracks = set(bundle.training.get("tracks_seen", ()))
    known_groups = set(bundle.training.get("groups_seen", ()))
    known = [store.tracks["sha256"][track] in known_tracks for track in tracks]
    n_known_groups = len(
        {store.tracks["group"][track] for track in tracks if group_fingerprints(store, track) & known_groups}
    )
    tree, heads = bundle.taxonomy, bundle.model.heads
    slice_leaves, slice_groups = leaves[store.slice_tracks[rows]], groups[store.slice_tracks[rows]]
    slice_right = decode_levels(tree, heads, by_slice) == tree.ancestors[slice_leaves]
    predicted = decode_levels(tree, heads, by_track)
    track_right = predicted == tree.ancestors[leaves[tracks]]
    pretrained = set(bundle.training.get("heard_before", ()))
    n_pretrained = sum(store.tracks["sha256"][track] in pretrained for track in tracks)
    protocol, disjoint = _protocol(
        parts,
        sum(known),
        n_known_groups,
        store.metadata.group_by,
        bundle.training.get("group_by", ""),
        (int(unknown_groups(store)[tracks].sum()), int(bundle.training.get("unknown_groups", 0))),
    )
    if n_pretrained:
        protocol += f"; {n_pretrained} of these files were used to pretrain its weights, without their genres"
        disjoint = disjoint if disjoint == "LEAKING" else "seen in pretraining"
    return Evaluation(
        slice=score_units(tree, heads, by_slice, slice_leaves, slice_groups, seed, levels),
        track=score_units(tree, heads, by_track, leaves[tracks], groups[tracks], seed, uncalibrated),
        family=bundle.family,
        heads=heads,
        bundle=str(bundle.folder),
        store=str(store.folder),
        part=part,
        split="" if parts is None else parts.name,
        group_by=store.metadata.group_by,
        protocol=protocol,
        disjoint=disjoint,
        known_tracks=sum(known),
        known_groups=n_known_groups,
        seed=seed,
        settings=bundle.settings.model_dump(mode="json"),
        training=dict(bundle.training),
        version=version("genretree"),
        calibration=None if bundle.calibration is None else bundle.calibration.to_json(),
        outcomes=_track_results(bundle, store, leaves, predicted, by_track, levels[-1], rows),
        marks=Correctness(rows, slice_right, slice_groups, track_right, groups[tracks]),
        runtime=bundle.runtime,
    )


def describe_pair(first: Evaluation, second: Evaluation) -> str:
    """Return a title for the comparison of two evaluations."""
    names = f"{first.label} minus {second.label}"
    if first.disjoint == second.disjoint:
        return f"{names} ({first.disjoint})"
    caveat = "trained on different music, so the difference means little"
    return f"{names} ({first.disjoint} minus {second.disjoint}: {caveat})"


def compare_evaluations(first: Evaluation, second: Evaluation) -> dict[str, tuple[Difference, ...]]:
    """Compare the accuracies of two bundles on the same music, by `slice` and by `track`, for each level.

    Parameters
    ----------
    first, second : Evaluation

    Returns
    -------
    dict of str to tuple of Difference
        Keys `slice` and `track`; one difference, `first` minus `second`, for each level.

    Raises
    ------
    CorpusError
        If they were evaluated on different slices or levels.
    """
    names = [level.name for level in first.track.levels]
    same_levels = names == [level.name for level in second.track.levels]
    if first.store != second.store or not same_levels or not np.array_equal(first.marks.rows, second.marks.rows):
        raise CorpusError(
            f"{first.bundle} and {second.bundle} were evaluated on different music or levels; "
            "use the same store, part and split for both"
        )
    one, other = first.marks, second.marks
    return {
        "slice": compare_accuracies(names, one.slice, other.slice, one.slice_groups),
        "track": compare_accuracies(names, one.track, other.track, one.track_groups),
    }


def check_images(bundle: Bundle, store: Store) -> None:
    """Check that a store has the images and features that a bundle expects.

    Raises
    ------
    CorpusError
    """
    if bundle.images != store.settings:
        raise CorpusError(
            f"{store.folder}: has image settings {store.settings}, but {bundle.folder} needs {bundle.images}; "
            "prepare it again"
        )
    store.check_modalities(getattr(bundle.settings, "modalities", ()))
    if missing := missing_features(bundle.model, store.inputs()):
        raise CorpusError(
            f"{store.folder}: has no feature {', '.join(missing)}, which {bundle.folder} ({bundle.family}) needs; if "
            "the store was made from audio, prepare the same source into it with that feature, which adds it"
        )


def _track_results(
    bundle: Bundle,
    store: Store,
    leaves: Int64Array,
    predicted: Int64Array,
    averaged: LevelProbabilities,
    slice_leaves: Float64Array,
    rows: Int64Array,
) -> tuple[ItemResult, ...]:
    """Return the result of each track, sorted by track index."""
    tree, heads = bundle.taxonomy, bundle.model.heads
    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    results = []
    for place, track in enumerate(tracks.tolist()):
        nodes, leaf = predicted[place], int(leaves[track])
        own = np.flatnonzero(position == place)
        best = own[slice_leaves[own, nodes[-1]].argmax()]
        results.append(
            ItemResult(
                name=str(store.tracks["path"][track]),
                group=str(store.tracks["group"][track]),
                true=tree.leaves[leaf],
                predicted=name_path(tree, heads, nodes),
                probabilities=tuple(float(averaged[level][place, node]) for level, node in enumerate(nodes)),
                true_probability=float(averaged[-1][place, leaf]),
                right=tuple((nodes == tree.ancestors[leaf]).tolist()),
                row=int(rows[best]),
            )
        )
    return tuple(results)


def match_leaves(taxonomy: Taxonomy, store: Store) -> Int64Array:
    """Map each track's leaf to the bundle's taxonomy by name, shape (n_tracks,)."""
    if taxonomy.digest == store.taxonomy.digest:
        return store.track_leaves
    leaf_map = []
    for leaf in store.taxonomy.leaves:
        try:
            leaf_map.append(_find_either(taxonomy.find_leaf, leaf))
        except TaxonomyError as error:
            raise CorpusError(f"{store.folder}: the store's genres don't fit the bundle's tree: {error}") from error
    return np.array(leaf_map, dtype=np.int64)[store.track_leaves]


def _find_either(find: Callable[[Sequence[str] | str], int], leaf: Sequence[str]) -> int:
    """Find a leaf by its path, or by its last label if the taxonomies differ in depth."""
    try:
        return find(leaf)
    except TaxonomyError:
        return find(leaf[-1])


def predict_rows(bundle: Bundle, store: Store, rows: Int64Array, progress: bool = False) -> LevelProbabilities:
    """Predict uncalibrated probabilities for slices of a store: one array for each level, shape (n_rows, n_nodes)."""
    with progress_bar(len(rows), "evaluate", "slice", progress) as tick:
        return predict_dataset(bundle.model, slice_dataset_of(store, rows), tick)


def _protocol(
    parts: Split | None,
    known_tracks: int,
    known_groups: int,
    group_by: str,
    training_group_by: str,
    unknown: tuple[int, int],
) -> tuple[str, str]:
    """Return `protocol` and `disjoint` of an evaluation. Files are identified by content hash, groups by name."""
    if parts is not None and parts.protocol == "slice":
        return parts.note, "LEAKING"
    if known_tracks:
        note = f"LEAKING: {known_tracks} of these files are training data; the metrics do not apply to unseen music"
        return note, "LEAKING"
    if not training_group_by:
        return "unknown: the bundle does not record its training data", "unknown"
    if training_group_by != group_by:
        reason = f"the training data was grouped by {training_group_by}, this store by {group_by}"
        note = f"none of these files is training data; whether their groups are is unknown ({reason})"
        return note, "file-disjoint"
    if known_groups:
        note = f"none of these files is training data, but {known_groups} of their groups ({group_by}) are in it"
        return note, "file-disjoint"
    if any(unknown):
        count = f"{unknown[0]} of these tracks and of {unknown[1]} training tracks"
        return f"none of these files is training data, but the {group_by} of {count} is unknown", "file-disjoint"
    if group_by == RECOVERED:
        return PROTOCOL_NOTES["recovered"], "by guessed tracks"
    note = f"disjoint by {group_by}: none of these files and none of their groups is in the training data"
    return note, f"{group_by}-disjoint"
