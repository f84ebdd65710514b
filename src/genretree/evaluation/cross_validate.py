"""Cross-validation over whole groups (artists), plain or nested, with several seeds.

Comparing several settings on the folds that are then reported makes the best of them look better than it is. Nested
cross-validation (Stone 1974; Varma and Simon 2006) chooses within the training folds, by an inner cross-validation, and
reports the choice on folds that it has not seen.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array
from genretree.checks import require_path, require_type
from genretree.corpus.prepare import add_features
from genretree.corpus.splits import MAX_SEED, RECOVERED, WITHOUT_TRACKS, Split, fold_groups
from genretree.corpus.store import Store
from genretree.errors import SettingsError, TrainingError
from genretree.evaluation.evaluate import predict_rows
from genretree.files import atomic_path, write_text
from genretree.metrics.intervals import FEW_GROUPS, accuracy_interval, effective_groups
from genretree.metrics.scores import UnitScores, decode_levels, score_units
from genretree.models import family_names, get_family
from genretree.models.base import LevelProbabilities, training_inputs
from genretree.progress import progress_bar
from genretree.settings import MODALITIES, Settings
from genretree.training.data import parts_digest, unknown_groups
from genretree.training.recipes import Recipe
from genretree.training.train import train_once

NESTED = "nested"  # the name of the row of a nested cross-validation
_INNER = "inner"
_PRECISION_FILE = "precision.json"
_UNUSED = "unused"  # part of the tracks that an inner split may not see


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A family with settings, to be cross-validated under a name."""

    name: str
    family: str
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class LevelAccuracy:
    """Accuracy of one level over all folds.

    Parameters
    ----------
    name : str
    accuracy : float
        Mean over the seeds, 0 to 1.
    ci95 : (float, float)
        95 % confidence interval for new groups, of the mean over the seeds.
    by_seed : tuple of float
    """

    name: str
    accuracy: float
    ci95: tuple[float, float]
    by_seed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class CrossValidationRow:
    """Results of one candidate, or of the nested choice, by track.

    Parameters
    ----------
    name : str
        Name of the candidate, or `nested`.
    levels : tuple of LevelAccuracy
    overall, hierarchical_f1 : float
        Means over the seeds: mean of the levels' accuracies, and F1 of whole paths, 0 to 1.
    ece : tuple of float
        Expected calibration error of each level, mean over the seeds.
    expected : float or None
        For the nested choice, the overall accuracy that the inner cross-validation promised for the chosen candidates.
        What it exceeds `overall` by is the optimism of a choice.
    """

    name: str
    levels: tuple[LevelAccuracy, ...]
    overall: float
    hierarchical_f1: float
    ece: tuple[float, ...]
    expected: float | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The choice within the training folds of one fold: overall accuracies of the inner cross-validation by name."""

    seed: int
    fold: int
    chosen: str
    inner: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Result of a cross-validation.

    Parameters
    ----------
    store : str
    group_by : str
        What no fold divides: `artist`, `album`, `folder` or `track`.
    disjoint : str
        The same in a word, as in evaluations: `artist-disjoint`, `by guessed tracks`, `file-disjoint` or `LEAKING`.
    notes : tuple of str
        Warnings: few groups, leaves with a single group.
    nested : bool
    folds, inner_folds : int
    seeds : tuple of int
    tracks, groups : int
    effective_groups : float
        Inverse Simpson index of the groups' numbers of tracks.
    rows : tuple of CrossValidationRow
    selected : tuple of Selection
        Empty unless nested.
    precision : mapping of str to tuple of str
        Precisions in which the networks of each candidate were trained, one unless a saved fold has another; empty for
        candidates without a trained network.
    """

    store: str
    group_by: str
    disjoint: str
    notes: tuple[str, ...]
    nested: bool
    folds: int
    inner_folds: int
    seeds: tuple[int, ...]
    tracks: int
    groups: int
    effective_groups: float
    rows: tuple[CrossValidationRow, ...]
    selected: tuple[Selection, ...] = ()
    precision: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, for `results.json`."""
        return asdict(self)


def build_candidates(
    recipes: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    choices: Mapping[str, Sequence[Any]] | None = None,
) -> list[Candidate]:
    """Build candidates from recipes or families, settings for all of them, and a grid of further settings.

    Parameters
    ----------
    recipes : sequence of str
        Names or files of recipes, or names of families.
    settings : mapping, optional
        Settings that all candidates get.
    choices : mapping of str to sequence, optional
        Values to choose from, by setting; each combination is a candidate.

    Returns
    -------
    list of Candidate

    Raises
    ------
    SettingsError
        For an unknown recipe, family or setting, no recipe, several candidates of one name, or the setting `seed`.

    Examples
    --------
    >>> from genretree.evaluation.cross_validate import build_candidates
    >>> [each.name for each in build_candidates(["boosting"], choices={"components": [10, 20]})]
    ['boosting components=10', 'boosting components=20']
    """
    if not recipes:
        raise SettingsError("name at least one recipe or family to cross-validate")
    grid = dict(choices or {})
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise SettingsError(f"the choices of '{name}' must be a list such as [1, 2], got {values!r}")
    if "seed" in {*grid, *(settings or {})}:
        raise SettingsError("each seed of the cross-validation sets 'seed'; name the seeds in `seeds`")
    candidates = []
    for recipe_name in dict.fromkeys(recipes):
        recipe = None if recipe_name in family_names() else Recipe.load(recipe_name)
        family = recipe_name if recipe is None else recipe.family
        fixed = {**({} if recipe is None else recipe.settings), **(settings or {})}
        for values in product(*grid.values()):
            combination = dict(zip(grid, values, strict=True))
            name = " ".join([Path(recipe_name).stem, *(f"{key}={value}" for key, value in combination.items())])
            built = get_family(family).settings_type.build({**fixed, **combination})
            candidates.append(Candidate(name=name, family=family, settings=built))
    folders = Counter(_folder_name(each) for each in candidates)
    for each in candidates:
        if folders[_folder_name(each)] > 1:
            raise SettingsError(
                f"several candidates would be named '{each.name}'; name each value once, and rename recipe files that "
                "are in different folders but have the same name"
            )
    return candidates


def cross_validate(
    store: Store,
    out: str | Path,
    recipes: Sequence[str],
    *,
    settings: Mapping[str, Any] | None = None,
    choices: Mapping[str, Sequence[Any]] | None = None,
    folds: int = 5,
    nested: bool = False,
    inner_folds: int = 3,
    seeds: Sequence[int] = (0,),
    progress: bool = False,
) -> CrossValidation:
    """Cross-validate recipes on a store; every track is predicted by models that saw neither it nor its group.

    Each seed makes other folds and other initial weights. The probabilities of a fold are calibrated by the model that
    predicts it. All models of a candidate are trained in the precision that the first of them chose. An interrupted
    call continues where it stopped.

    Parameters
    ----------
    store : Store
    out : path
        Output folder for predictions, `results.json` and `results.md`.
    recipes : sequence of str
        Names or files of recipes, or names of families.
    settings : mapping, optional
        Settings that all candidates get.
    choices : mapping of str to sequence, optional
        Values to choose from, by setting; each combination is a candidate.
    folds : int, default 5
    nested : bool, default False
        Choose among the candidates within the training folds of each fold, and report the choice only.
    inner_folds : int, default 3
        Folds of the inner cross-validation.
    seeds : sequence of int, default (0,)
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    CrossValidation

    Raises
    ------
    CorpusError
        If the store has fewer groups than folds.
    SettingsError
        For an unknown recipe, family or setting, several candidates of one name, or seeds that are not different
        numbers of at least 0.
    TrainingError
        If `out` is not a folder.

    Examples
    --------
    >>> import genretree
    >>> from genretree.evaluation.cross_validate import cross_validate
    >>> settings = {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2}
    >>> result = cross_validate(genretree.Store("STORE"), "CV", ["boosting"], settings=settings, folds=2)
    >>> [row.name for row in result.rows], result.disjoint
    (['boosting'], 'artist-disjoint')
    """
    require_type("store", store, Store, "use genretree.Store, or genretree.prepare")
    out = check_out(out)
    check_seeds(seeds)
    if nested and inner_folds < 2:
        raise SettingsError(f"inner_folds must be at least 2, got {inner_folds}")
    candidates = build_candidates(recipes, settings, choices)
    store = add_needed_features(store, candidates, progress)
    outer = {seed: make_folds(store, folds, seed) for seed in seeds}
    rounds = len(seeds) * folds
    total = rounds * (1 + inner_folds * len(candidates)) if nested else rounds * len(candidates)
    selected = []
    predictions: dict[str, list[FoldPredictions]] = {}
    expected = []
    precisions: dict[str, set[str]] = {each.name: set() for each in candidates}
    with progress_bar(total, "cross-validate", "model", progress) as tick:

        def predict(split: Split, candidate: Candidate) -> FoldPredictions:
            found = predict_fold(store, split, candidate, split.seed, out, tick)
            precisions[candidate.name] |= found.precision
            return found

        for seed, splits in outer.items():
            if not nested:
                for candidate in candidates:
                    parts = [predict(split, candidate) for split in splits]
                    predictions.setdefault(candidate.name, []).append(FoldPredictions.join(parts))
                continue
            parts = []
            for split in splits:
                inner = _score_inner(store, split, candidates, inner_folds, predict)
                chosen = max(candidates, key=lambda each: inner[each.name])  # the first of equals
                selected.append(Selection(seed=seed, fold=split.fold or 0, chosen=chosen.name, inner=inner))
                expected.append(inner[chosen.name])
                parts.append(predict(split, chosen))
            predictions.setdefault(NESTED, []).append(FoldPredictions.join(parts))
    rows = tuple(
        _make_row(store, name, by_seed, float(np.mean(expected)) if nested else None)
        for name, by_seed in predictions.items()
    )
    sizes = np.unique(store.track_groups[next(iter(predictions.values()))[0].tracks], return_counts=True)[1]
    result = CrossValidation(
        store=str(store.folder),
        group_by=store.metadata.group_by,
        disjoint=describe_folds(store),
        notes=tuple(describe_few_groups(store, sizes)),
        nested=nested,
        folds=folds,
        inner_folds=inner_folds if nested else 0,
        seeds=tuple(seeds),
        tracks=int(sizes.sum()),
        groups=len(sizes),
        effective_groups=float(effective_groups(sizes)),
        rows=rows,
        selected=tuple(selected),
        precision={name: tuple(sorted(found)) for name, found in precisions.items()},
    )
    write_text(out / "results.json", json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    write_text(out / "results.md", format_cross_validation(result))
    return result


@dataclass(frozen=True)
class FoldPredictions:
    """Calibrated probabilities of the tracks of one or more test folds.

    Parameters
    ----------
    tracks : int64 array, shape (n,)
    levels : list of float64 arrays, one for each level, shape (n, n_nodes)
    independent : bool array, shape (n,)
        Whether a track was predicted with independent heads; a nested choice may differ between folds.
    precision : frozenset of str
        Precisions in which the networks of a single fold were trained.
    """

    tracks: Int64Array
    levels: LevelProbabilities
    independent: NDArray[np.bool_]
    precision: frozenset[str] = frozenset()

    @classmethod
    def join(cls, parts: Sequence[FoldPredictions]) -> FoldPredictions:
        """Join the predictions of several folds, sorted by track."""
        tracks = np.concatenate([part.tracks for part in parts])
        order = np.argsort(tracks, kind="stable")
        levels = [np.concatenate(each)[order] for each in zip(*(part.levels for part in parts), strict=True)]
        return cls(tracks[order], levels, np.concatenate([part.independent for part in parts])[order])

    def predicted(self, store: Store) -> Int64Array:
        """Predict a node for each level, shape (n, n_levels)."""
        by_heads = [decode_levels(store.taxonomy, heads, self.levels) for heads in ("independent", "tree")]
        return np.where(self.independent[:, None], *by_heads)

    def correct(self, store: Store) -> Float64Array:
        """Mark the correct levels, shape (n, n_levels), 0 or 1."""
        marks: Float64Array = (self.predicted(store) == store.taxonomy.ancestors[store.track_leaves[self.tracks]]) * 1.0
        return marks


def check_seeds(seeds: Sequence[int]) -> None:
    """Check the seeds of a cross-validation or a learning curve.

    Raises
    ------
    SettingsError
        If there is none, or they are not different numbers from 0 to 2**32 - 1.
    """
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise SettingsError(f"seeds must be different whole numbers from 0 to {MAX_SEED}, got {list(seeds)}")


def check_out(out: str | Path) -> Path:
    """Check the output folder, before anything is trained.

    Raises
    ------
    TrainingError
        If it is a file.
    """
    folder = require_path("out", out)
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder}: not a folder; choose another path")
    return folder


def add_needed_features(store: Store, candidates: Sequence[Candidate], progress: bool = False) -> Store:
    """Add the features that the candidates' families need, once for all folds."""
    needed = {name for candidate in candidates for name in training_inputs(candidate.settings)}
    store.check_modalities([name for name in MODALITIES if name in needed])
    features = sorted(needed - set(MODALITIES))
    return add_features(store, features, progress=progress) if features else store


def make_folds(store: Store, folds: int, seed: int) -> list[Split]:
    """Divide a store's tracks into folds of whole groups."""
    return fold_groups(store.track_leaves, store.track_groups, folds=folds, seed=seed, name=f"cv{seed}")


def predict_fold(
    store: Store, split: Split, candidate: Candidate, seed: int, out: Path, tick: Callable[..., None]
) -> FoldPredictions:
    """Train a candidate on a split and predict its test part; predictions that are saved in `out` are read."""
    has_seed = "seed" in type(candidate.settings).model_fields
    settings = candidate.settings.model_copy(update={"seed": seed}) if has_seed else candidate.settings
    path = out / "predictions" / _folder_name(candidate) / f"{split.name}.npz"
    run = [candidate.family, settings.model_dump(mode="json"), store.metadata.digest, parts_digest(split)]
    identity = json.dumps(run, sort_keys=True)
    found = _load_predictions(path, identity)
    if found is None:
        folder = path.with_suffix("")
        view = store.with_splits([split])
        chosen = _read_precision(path.parent / _PRECISION_FILE, store, candidate)
        bundle = train_once(view, candidate.family, folder, _fix_precision(settings, chosen), split=split.name)
        chosen = _trained_precision(bundle.training["facts"])
        rows = view.rows("test", split)
        tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
        levels = bundle.average_slices(predict_rows(bundle, view, rows), position)
        heads, precision = bundle.model.heads, frozenset(chosen.values())
        independent = np.full(len(tracks), heads == "independent")
        found = FoldPredictions(tracks.astype(np.int64), levels, independent, precision)
        arrays: dict[str, Any] = {f"level_{i}": level for i, level in enumerate(levels)}
        arrays |= {"heads": np.array(heads), "precision": np.array(sorted(precision), str)}
        if chosen:
            content = {"run": _describe_candidate(store, candidate), "precision": chosen}
            write_text(path.parent / _PRECISION_FILE, json.dumps(content))
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, tracks=tracks, identity=np.array(identity), **arrays)
        shutil.rmtree(folder, ignore_errors=True)  # a study of many models would fill the disk
    tick(1)
    return found


def _describe_candidate(store: Store, candidate: Candidate) -> list[Any]:
    """Identify what the trainings of a candidate have in common, as JSON types."""
    return [candidate.family, candidate.settings.model_dump(mode="json"), store.metadata.digest]


def _read_precision(path: Path, store: Store, candidate: Candidate) -> dict[str, str]:
    """Read the precision that the first training of a candidate chose, as `_trained_precision`; empty before that."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = content["run"] == _describe_candidate(store, candidate)
        # The hardware alone chooses fp16, so another machine that continues can't always use it.
        return {name: precision for name, precision in content["precision"].items() if same and precision != "fp16"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _trained_precision(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the precision in which a model was trained: under "", and under the names of an ensemble's members."""
    by_name = {"": metadata, **{name: own for name, own in metadata.items() if isinstance(own, Mapping)}}
    return {name: own["precision"] for name, own in by_name.items() if isinstance(own.get("precision"), str)}


def _fix_precision(settings: Settings, chosen: Mapping[str, str]) -> Settings:
    """Replace the precision `auto` by the chosen one, also of an ensemble's members.

    It depends on timed trial steps, so on a machine under load, folds could differ in it.
    """
    if "" in chosen and getattr(settings, "precision", "") == "auto":
        return settings.model_copy(update={"precision": chosen[""]})
    members = getattr(settings, "members", None)
    if not isinstance(members, Mapping):
        return settings
    fixed = {
        name: {**own, "precision": chosen[name]}
        if name in chosen
        and own.get("precision", "auto") == "auto"
        and "precision" in get_family(name).settings_type.model_fields
        else own
        for name, own in members.items()
    }
    return settings.model_copy(update={"members": fixed})


def _folder_name(candidate: Candidate) -> str:
    """Name the folder of a candidate's predictions."""
    return "".join(letter if letter.isalnum() or letter in "-=." else "_" for letter in candidate.name)


def _load_predictions(path: Path, identity: str) -> FoldPredictions | None:
    """Read saved predictions; None if there are none, or they are of another run."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if str(content["identity"]) != identity:
                return None
            tracks, independent = content["tracks"], str(content["heads"]) == "independent"
            levels = [content[name] for name in sorted(content.files) if name.startswith("level_")]
            precision = content["precision"].tolist() if "precision" in content.files else []
            return FoldPredictions(tracks, levels, np.full(len(tracks), independent), frozenset(precision))
    except (OSError, ValueError, KeyError):
        return None


def _score_inner(
    store: Store,
    split: Split,
    candidates: Sequence[Candidate],
    folds: int,
    predict: Callable[[Split, Candidate], FoldPredictions],
) -> dict[str, float]:
    """Cross-validate the candidates on the training folds of a split: overall accuracy by track and name."""
    parts = np.array(split.parts)
    known = np.flatnonzero(parts != "test")
    inner = fold_groups(
        store.track_leaves[known],
        store.track_groups[known],
        folds=folds,
        seed=split.seed,
        name=f"{split.name}-{_INNER}",
    )
    splits = []
    for each in inner:
        spread = np.full(len(parts), _UNUSED, dtype=object)
        spread[known] = each.parts
        splits.append(replace(each, parts=tuple(spread.tolist())))
    scores = {}
    for candidate in candidates:
        joined = FoldPredictions.join([predict(each, candidate) for each in splits])
        scores[candidate.name] = float(joined.correct(store).mean())
    return scores


def _make_row(
    store: Store, name: str, by_seed: Sequence[FoldPredictions], expected: float | None
) -> CrossValidationRow:
    tracks = by_seed[0].tracks
    groups, leaves = store.track_groups[tracks], store.track_leaves[tracks]
    marks = np.stack([each.correct(store) for each in by_seed])  # shape (n_seeds, n, n_levels)
    scores: list[UnitScores] = [
        score_units(store.taxonomy, "tree", each.levels, leaves, groups, 0, predicted=each.predicted(store))
        for each in by_seed
    ]
    levels = tuple(
        LevelAccuracy(
            name=level,
            accuracy=float(marks[:, :, i].mean()),
            ci95=accuracy_interval(marks[:, :, i].mean(axis=0), groups),
            by_seed=tuple(marks[:, :, i].mean(axis=1).tolist()),
        )
        for i, level in enumerate(store.taxonomy.levels)
    )
    return CrossValidationRow(
        name=name,
        levels=levels,
        overall=float(marks.mean()),
        hierarchical_f1=float(np.mean([each.hierarchical.f1 for each in scores])),
        ece=tuple(
            float(np.mean([each.levels[i].trust.ece for each in scores])) for i in range(len(store.taxonomy.levels))
        ),
        expected=expected,
    )


def describe_folds(store: Store) -> str:
    """Describe the folds of a store in a word, as `Evaluation.disjoint` does."""
    group_by = store.metadata.group_by
    if group_by == RECOVERED:
        return "by guessed tracks"
    if group_by in WITHOUT_TRACKS:
        return "LEAKING"
    return "file-disjoint" if unknown_groups(store).any() else f"{group_by}-disjoint"


def describe_few_groups(store: Store, sizes: Int64Array) -> list[str]:
    """Warn of few groups, and of leaves with a single one; `sizes` are the numbers of tracks of the groups."""
    notes = []
    number = float(effective_groups(sizes))
    if number < FEW_GROUPS:
        notes.append(
            f"few groups: {len(sizes)} ({store.metadata.group_by}), as informative as {number:.1f} of equal size; "
            f"below {FEW_GROUPS}, intervals rest on an assumed correlation within groups"
        )
    pairs = np.unique(np.stack([store.track_leaves, store.track_groups], axis=1), axis=0)[:, 0]
    counts = np.bincount(pairs[pairs >= 0], minlength=len(store.taxonomy.leaves))
    alone = [store.taxonomy.leaves[leaf][-1] for leaf in np.flatnonzero(counts == 1)]
    if alone:
        notes.append(
            f"a single group in {', '.join(alone)}: when its tracks are tested, no model has seen the class, so they "
            "count as errors"
        )
    if unknown := int(unknown_groups(store).sum()):
        notes.append(f"the {store.metadata.group_by} of {unknown} tracks is unknown; each counts as a group")
    if describe_folds(store) == "LEAKING":
        notes.append("LEAKING: the tracks of the slices are unknown, so slices of one track are on both sides")
    return notes


def format_cross_validation(result: CrossValidation) -> str:
    """Format the results as a Markdown table, followed by notes and, if nested, the choices."""
    seeds = ", ".join(map(str, result.seeds))
    kind = f"nested cross-validation, {result.inner_folds} inner folds" if result.nested else "cross-validation"
    header = ["model", "split", *(level.name for level in result.rows[0].levels), "Overall", "hierarchical F1", "ECE"]
    lines = [
        f"{result.folds}-fold {kind} of {result.store}, seeds {seeds}; {result.tracks} tracks of {result.groups} "
        f"groups ({result.group_by}); accuracy by track in % (95 % confidence interval for new groups).",
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * len(header)) + " |",
    ]
    for row in result.rows:
        cells = [
            f"{100 * level.accuracy:.1f} ({100 * level.ci95[0]:.1f} to {100 * level.ci95[1]:.1f})"
            + (f" [{', '.join(f'{100 * each:.1f}' for each in level.by_seed)}]" if len(level.by_seed) > 1 else "")
            for level in row.levels
        ]
        errors = ", ".join(f"{error:.3f}" for error in row.ece)
        end = [f"{100 * row.overall:.1f}", f"{100 * row.hierarchical_f1:.1f}", errors]
        lines.append("| " + " | ".join([row.name, result.disjoint, *cells, *end]) + " |")
    lines.append("")
    if result.nested:
        counts: dict[str, int] = {}
        for selection in result.selected:
            counts[selection.chosen] = counts.get(selection.chosen, 0) + 1
        chosen = ", ".join(f"{name} {count} of {len(result.selected)}" for name, count in counts.items())
        row = result.rows[0]
        lines.append(f"- Chosen within the training folds: {chosen} times.")
        if row.expected is not None:
            lines.append(
                f"- The inner folds promised an overall accuracy of {100 * row.expected:.1f} %; the outer folds gave "
                f"{100 * row.overall:.1f} %."
            )
    elif len(result.rows) > 1:
        lines.append(
            "- The best of several candidates looks better here than it is; publish the accuracy of a nested "
            "cross-validation."
        )
    trained = [f"{name} in {' and '.join(found)}" for name, found in result.precision.items() if found]
    if trained:
        lines.append(f"- Precision of the training: {', '.join(trained)}.")
    lines += [f"- {note[0].upper()}{note[1:]}." for note in result.notes]
    return "\n".join(lines) + "\n"
