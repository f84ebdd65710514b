"""A scikit-learn estimator that prepares audio files and trains on them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from genretree.bundle.bundle import save_bundle
from genretree.checks import (
    require_integer,
    require_iterable,
    require_names,
    require_number,
    require_path,
    require_paths,
)
from genretree.classifier import Classifier
from genretree.corpus.dataset import Dataset, Tree, cell_text
from genretree.corpus.manifest import Failure
from genretree.corpus.prepare import prepare
from genretree.corpus.splits import MAX_SEED
from genretree.errors import ArgumentError, SoundError
from genretree.models.base import training_inputs
from genretree.models.registry import get_family
from genretree.prediction.predict import PredictionError
from genretree.settings import ImageSettings
from genretree.taxonomy import NodePath, Taxonomy, format_path, join_names
from genretree.training.train import train

Label: TypeAlias = str | NodePath | int


class GenreClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Genre classifier of audio files with the interface of scikit-learn.

    Parameters
    ----------
    family : str
        A registered model family, such as `boosting`, `cnn` or `musicnn`.
    settings : mapping, optional
        Settings of the family.
    taxonomy : Taxonomy, nested dict, or path of a YAML file, optional
        By default inferred from the labels: `Rock/Punk` and `Rock/Indie` share the parent `Rock`.
    slice_seconds : float
        Length of a slice in seconds, 1 to 60.
    size : int
        Height and width of the spectrogram images in pixels, 32 to 1024.
    memory : path, optional
        Folder for the spectrogram images of each file, so that the folds of a cross-validation compute them once.
    workers : int, optional
        Processes and threads; by default one for each processor.
    random_state : int, RandomState or None
        Seed of the validation split; None draws one at random.
    progress : bool
        Show progress bars on standard error.
    callbacks : sequence of transformers.TrainerCallback, optional
        As for `genretree.train`.

    Attributes
    ----------
    model_ : Classifier
    classes_ : ndarray, shape (n_classes,)
        Labels of the leaves, sorted: as `y` spells them if it has text or numbers, otherwise paths such as
        `Rock > Punk`. Numbers keep the dtype of `y`.

    See Also
    --------
    genretree.train : Train on a prepared store.
    genretree.Classifier : The fitted model.

    Notes
    -----
    `fit` holds out part of the groups for early stopping and calibration. Without `groups`, tracks by one artist may be
    on both sides of that split; with metadata routing, call `set_fit_request(groups=True)`.

    `VotingClassifier`, `StackingClassifier` and `cross_val_predict(method="predict_proba")` encode labels as integers
    before they call `fit`. Each integer is then a genre of a tree with one level, so leave out `taxonomy` there.

    Examples
    --------
    >>> import genretree
    >>> data = genretree.read_manifest("tracks.csv")
    >>> X = [track.path for track in data.tracks]
    >>> y = [data.taxonomy.leaves[track.leaf] for track in data.tracks]
    >>> settings = {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2}
    >>> model = genretree.GenreClassifier("boosting", settings=settings, slice_seconds=2.0, size=32, workers=1)
    >>> model.fit(X, y, groups=[track.group for track in data.tracks]).predict(["song.mp3"])
    array(['Rock > Punk'], dtype='<U12')
    """

    def __init__(
        self,
        family: str = "boosting",
        *,
        settings: Mapping[str, Any] | None = None,
        taxonomy: Tree = None,
        slice_seconds: float = 11.4,
        size: int = 224,
        memory: str | Path | None = None,
        workers: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        progress: bool = False,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.family = family
        self.settings = settings
        self.taxonomy = taxonomy
        self.slice_seconds = slice_seconds
        self.size = size
        self.memory = memory
        self.workers = workers
        self.random_state = random_state
        self.progress = progress
        self.callbacks = callbacks

    def fit(self, X: Sequence[str | Path], y: Sequence[Label], groups: Sequence[Any] | None = None) -> Self:
        """Train on audio files.

        Parameters
        ----------
        X : sequence of paths, shape (n_files,)
        y : sequence, shape (n_files,)
            Genre of each file: a leaf's name, a path such as `Rock/Punk` or `("Rock", "Punk")`, or, without
            `taxonomy`, an integer or a bool.
        groups : sequence, shape (n_files,), optional
            Artist (or album) of each file. A file whose group is None, NaN or empty is its own group.

        Returns
        -------
        GenreClassifier
            Itself.

        Raises
        ------
        ArgumentError
            If the lengths differ, or `y` spells one genre in two ways or has both text and numbers.
        SoundError
            If a file can't be used.
        CorpusError
            If no file can be used.
        TaxonomyError
            If there are fewer than two genres, or the tree is malformed.
        """
        memory = None if self.memory is None else require_path("memory", self.memory)
        seed = _as_seed(self.random_state)
        data = self._read(X, y, groups)
        labels = _label_leaves(data.taxonomy, y)
        classes = np.array(sorted(labels.values()), dtype=None if _is_text(y) else np.asarray(y).dtype)
        images = ImageSettings.build({"slice_seconds": self.slice_seconds, "size": self.size})
        with tempfile.TemporaryDirectory(prefix="genretree-") as work:
            settings = get_family(self.family).settings_type.build(self.settings)
            store = prepare(
                data.manifest,
                Path(work) / "store",
                images,
                workers=self.workers,
                seed=seed,
                progress=self.progress,
                cache=memory,
                features=training_inputs(settings),
            )
            for failure in store.failures:
                raise _as_sound_error(failure)
            bundle = train(
                store, self.family, Path(work) / "bundle", settings, callbacks=self.callbacks, progress=self.progress
            )
        self.model_ = Classifier.from_bundle(bundle)
        self._labels = labels
        self.classes_ = classes
        return self

    def predict(self, X: Sequence[str | Path]) -> NDArray[Any]:
        """Predict the label of each file's leaf, one of `classes_`: shape (n_files,).

        Raises
        ------
        SoundError
            If a file can't be used.
        """
        check_is_fitted(self, "model_")
        labels = []
        for result in self.model_.predict(_paths(X), workers=self.workers or 2):
            if isinstance(result, PredictionError):
                raise _as_sound_error(result)
            labels.append(self._labels[result.path])
        return np.array(labels, dtype=self.classes_.dtype)

    def predict_proba(self, X: Sequence[str | Path]) -> NDArray[np.float64]:
        """Compute the calibrated probabilities of the leaves, in the order of `classes_`: shape (n_files, n_classes).

        Raises
        ------
        SoundError
            If a file can't be used.
        """
        check_is_fitted(self, "model_")
        table = self.model_.predict_proba(_paths(X), workers=self.workers or 2)
        for error in table.errors:
            raise _as_sound_error(error)
        leaves = {label: leaf for leaf, label in self._labels.items()}
        return np.stack([table[leaves[label]] for label in self.classes_.tolist()], axis=1)

    def score(self, X: Sequence[str | Path], y: Sequence[Label], sample_weight: Any = None) -> float:
        """Compute the accuracy at the level of the leaves.

        Raises
        ------
        ArgumentError
            If the lengths differ.
        SoundError
            If a file can't be used.
        TaxonomyError
            If a label of `y` is not a leaf.
        """
        check_is_fitted(self, "model_")
        paths = _paths(X)
        y = _as_list("y", y, "genres", len(paths))
        if sample_weight is not None:
            sample_weight = _as_list("sample_weight", sample_weight, "numbers", len(paths))
            for weight in sample_weight:
                require_number("each of sample_weight", weight)
        tree = self.model_.taxonomy
        true = [self._labels[tree.leaves[tree.find_leaf(_as_genre(label))]] for label in y]
        return float(np.average(self.predict(paths) == np.array(true, self.classes_.dtype), weights=sample_weight))

    def save(self, folder: str | Path) -> Path:
        """Write the fitted model as a bundle, which `genretree.load` and the command line read; returns its folder."""
        check_is_fitted(self, "model_")
        return save_bundle(replace(self.model_, folder=require_path("folder", folder)))

    def _read(self, X: Sequence[str | Path], y: Sequence[Label], groups: Sequence[Any] | None) -> Dataset:
        paths = _paths(X)
        y = _as_list("y", y, "genres", len(paths))
        if groups is not None:
            groups = _as_list("groups", groups, "names", len(paths))
        if not _is_text(y) and self.taxonomy is not None:
            raise ArgumentError(
                f"y has numbers, such as {next(iter(y))!r}, which are not genres of `taxonomy`; pass names of its "
                "leaves, or leave out `taxonomy` where scikit-learn encodes the labels as integers"
            )
        records = [
            {"path": str(path.absolute()), "genre": label if isinstance(label, str) else join_names(label)}
            for path, label in zip(paths, map(_as_genre, y), strict=True)
        ]
        if groups is not None:
            for record, group in zip(records, groups, strict=True):
                record["artist"] = cell_text(group)
        data = Dataset.from_records(records, taxonomy=self.taxonomy, multiple_genres="keep")
        for failure in data.rejected:
            raise ArgumentError(f"{failure.path}: {failure.message}")
        return data


def _paths(X: Any) -> list[Path]:
    if isinstance(X, str | Path):
        raise ArgumentError("X must be a sequence of paths, got a single path; put it in a list")
    if getattr(X, "ndim", 1) != 1:  # iterating over a data frame yields the names of its columns
        raise ArgumentError(
            f"X must be a list of paths, got {type(X).__name__} of shape {X.shape}; pass its column of paths as a list"
        )
    return require_paths("X", X)


def _as_list(name: str, values: Any, of: str, n_files: int) -> list[Any]:
    """Check that there is one value for each file. Raises ArgumentError."""
    require_iterable(name, values, of)
    items = list(values)
    if len(items) != n_files:
        raise ArgumentError(f"X has {n_files} files and {name} has {len(items)} values; pass one value for each file")
    return items


def _as_genre(label: Any) -> str | NodePath:
    """Convert a label to the name of a genre, or the names of a path; a number is the name of a genre."""
    if isinstance(label, str):
        return label
    if _is_number(label):
        return str(label if isinstance(label, bool | np.bool_) else int(label))
    if not isinstance(label, Iterable) or isinstance(label, bytes):
        raise ArgumentError(f"each of y must be the name or path of a genre, or an integer, got {label!r}")
    return tuple(require_names("each path of y", label))


def _is_number(label: Any) -> bool:
    """Return whether a label is a whole number, as an integer or a float, or a bool."""
    return isinstance(label, Integral | np.bool_) or (isinstance(label, Real) and float(label).is_integer())


def _is_text(y: Iterable[Any]) -> bool:
    """Return whether labels are names and paths, not numbers. Raises ArgumentError for both."""
    are_numbers = {_is_number(label) for label in y}
    if len(are_numbers) > 1:
        raise ArgumentError("y has both text and numbers; use one of them for all labels")
    return are_numbers != {True}


def _label_leaves(tree: Taxonomy, y: Iterable[Any]) -> dict[NodePath, Any]:
    """Return the label of each leaf, as `y` has it, so that predictions compare equal to `y`."""
    labels: dict[NodePath, Any] = {}
    for label in y:
        genre = _as_genre(label)
        leaf = tree.leaves[tree.find_leaf(genre)]
        own = label if _is_number(label) or isinstance(label, str) else format_path(leaf)
        if labels.setdefault(leaf, own) != own:
            raise ArgumentError(f"y spells one genre in two ways, '{labels[leaf]}' and '{own}'; use one of them")
    return {leaf: labels.get(leaf, format_path(leaf)) for leaf in tree.leaves}


def _as_seed(random_state: Any) -> int:
    """Convert scikit-learn's `random_state` to a seed."""
    if isinstance(random_state, Integral):
        require_integer("random_state", random_state, 0, MAX_SEED)
        return int(random_state)
    try:
        return int(check_random_state(random_state).randint(2**31))
    except ValueError as error:
        raise ArgumentError(f"random_state must be an integer, a RandomState or None, got {random_state!r}") from error


def _as_sound_error(error: PredictionError | Failure) -> SoundError:
    path = error.file if isinstance(error, PredictionError) else error.path
    return SoundError(error.kind, path, error.message.removeprefix(f"{path}: "))  # type: ignore[arg-type]
