"""Interface of model families: data sets, models, fitting, and results."""

from __future__ import annotations

import csv
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from genretree.arrays import Array, Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.errors import BundleError, TrainingError
from genretree.files import atomic_path, release_pages
from genretree.settings import MODALITIES, Heads, Settings
from genretree.sound.features import IMAGES, Inputs, SliceInputs
from genretree.taxonomy import Taxonomy

LevelProbabilities = list[Float64Array]


@dataclass(frozen=True)
class SliceDataset:
    """Labelled slices of a store.

    Parameters
    ----------
    images : uint8 array, shape (n_stored, 3, size, size)
        Images of all slices of the store, usually memory-mapped. Only the selected rows are read.
    rows : int64 array, shape (n,)
        Row numbers of the slices in `images` and `features`.
    leaves : int64 array, shape (n,)
        Leaf index of each slice.
    tracks, groups : int64 array, shape (n,)
        Track and group (artist) number of each slice.
    features : mapping of str to array, shape (n_stored, ...)
        Further input features of the store, such as `mel_16k`.
    cache : Path, optional
        Folder for derived features that later runs can reuse.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.models.base import SliceDataset
    >>> images = np.zeros((4, 3, 32, 32), np.uint8)
    >>> dataset = SliceDataset(images, np.arange(4), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), np.arange(4))
    >>> len(dataset.select(np.array([2, 3])))
    2
    """

    images: UInt8Array
    rows: Int64Array
    leaves: Int64Array
    tracks: Int64Array
    groups: Int64Array
    features: Mapping[str, Array] = field(default_factory=dict)
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, positions: Int64Array) -> SliceDataset:
        """Select slices by position, an array of shape (k,)."""
        return replace(
            self, **{name: getattr(self, name)[positions] for name in ("rows", "leaves", "tracks", "groups")}
        )

    def next_slices(self) -> Int64Array:
        """Find the position of the next slice of the same track, or the slice's own if it is the last: shape (n,)."""
        places = {int(row): place for place, row in enumerate(self.rows)}
        own = np.arange(len(self.rows))
        after = np.array([places.get(int(row) + 1, place) for place, row in enumerate(self.rows)], dtype=np.int64)
        return np.where(self.tracks[after] == self.tracks, after, own)

    def inputs(self, positions: Int64Array | slice = slice(None)) -> SliceInputs:
        """Return the model inputs of the slices at some positions; arrays are read when accessed."""
        return SliceInputs({IMAGES: self.images, **self.features}, self.rows[positions])

    def require_feature(self, name: str, user: str) -> Array:
        """Return a feature of all slices of the store, shape (n_stored, ...).

        Parameters
        ----------
        name : str
        user : str
            What needs it, for the message.

        Raises
        ------
        TrainingError
            If the store lacks it.
        """
        if name not in self.features:
            raise TrainingError(
                f"{user} needs the feature {name}, but this store lacks it; if the store was made from audio, prepare "
                f"the same source into it again with the feature {name}; otherwise choose another family"
            )
        return self.features[name]

    def release(self) -> None:
        """Release the memory pages of the store that were read."""
        for array in (self.images, *self.features.values()):
            release_pages(array)

    def take(self, positions: Int64Array) -> UInt8Array:
        """Read the images at some positions, in the given order: shape (k, 3, size, size)."""
        images: UInt8Array = np.asarray(self.images[self.rows[positions]])  # a copy, since the index is an array
        release_pages(self.images)
        return images

    def batches(self, size: int) -> Iterator[UInt8Array]:
        """Yield all images in order, in batches of `size`."""
        for start in range(0, len(self.rows), size):
            yield np.asarray(self.images[self.rows[start : start + size]])
            release_pages(self.images)


@dataclass(frozen=True)
class FitContext:
    """Work folder and options of a training run.

    Parameters
    ----------
    folder : Path
        Folder for checkpoints and logs. Training resumes from the checkpoints of an interrupted run.
    progress : bool
        Show progress bars on standard error.
    callbacks : tuple
        Callbacks of the training loop, of the family's `callback_type`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from genretree.models.base import FitContext
    >>> FitContext(Path("bundle.partial")).progress
    False
    """

    folder: Path
    progress: bool = False
    callbacks: tuple[Any, ...] = ()


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Predictions for slices that a model, or its cross-validation copy, was not trained on.

    Calibration is fitted on them.

    Parameters
    ----------
    levels : list of float64 arrays, shape (n, n_nodes)
        Probabilities of the nodes, one array for each level.
    leaves, tracks : int64 array, shape (n,)
        True leaf and track of each slice.
    """

    levels: LevelProbabilities
    leaves: Int64Array
    tracks: Int64Array

    def after(self, n: int) -> OutOfFoldPredictions:
        """Drop the first `n` slices."""
        return OutOfFoldPredictions([level[n:] for level in self.levels], self.leaves[n:], self.tracks[n:])


@dataclass(frozen=True)
class FitResult:
    """Result of training a family.

    Parameters
    ----------
    model : Model
        The trained model.
    history : list of dict of str to float
        One row for each epoch or iteration.
    metadata : mapping
        Further information for the bundle, as JSON types.
    out_of_fold : OutOfFoldPredictions, optional
        Predictions for calibration, if the model was trained on the validation part too.
    """

    model: Model
    history: list[dict[str, float]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    out_of_fold: OutOfFoldPredictions | None = None


def compute_class_weights(classes: Int64Array, class_weight_power: float) -> Float64Array:
    """Compute sample weights of mean 1: class frequencies to the power of -`class_weight_power`, shape (n,)."""
    weights = np.bincount(classes)[classes] ** -float(class_weight_power)
    normalised: Float64Array = weights / weights.mean()
    return normalised


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the history as CSV, one row for each epoch or iteration."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(history)


class Model(Protocol):
    """A trained classifier of slices.

    Optional members:

    - `embed(inputs)` returns embeddings, an array of shape (n, embedding_dim).
    - `graphs(image_size)` and `set_backend(runners)` let other runtimes run its networks; see
      `genretree.models.runtime.graph.HasGraphs`.
    - `explain_methods`, a tuple, names the supported explanation methods other than occlusion, which need the methods
      of `genretree.models.differentiable.DifferentiableModel`.
    - `torch_module()` returns the `torch.nn.Module`.
    - `shuffle_weights(rng)` returns a copy with shuffled weights, for the sanity check of explanations.
    - `on_fastest_device()` returns a context manager that moves the network to a GPU while stored slices are predicted.
    - `predict_dataset(dataset, tick)` scores stored slices and may use cached features.
    - `predict_with_tags(inputs)` returns the result of `predict_proba` and the probabilities of mn04's tags, (n, 527),
      which tell music from speech.

    Attributes
    ----------
    heads : {"tree", "independent"}
        With "tree", a parent's probability is the sum of its children's.
    input_features : tuple of str
        Names of the input features: "images", "mel", "cqt", "chroma", "mel_16k", "wave_16k", or one of
        `register_feature`.
    """

    heads: Heads
    input_features: tuple[str, ...]

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node.

        Parameters
        ----------
        inputs : mapping of str to array, shape (n, ...)
            At least the features in `input_features`. `images` are uint8, (n, 3, size, size); `mel`, `cqt` and `chroma`
            uint8, (n, size, size); `mel_16k` is float16, (n, frames, 96); `wave_16k` int16, (n, samples).

        Returns
        -------
        list of float64 arrays, one for each level, shape (n, n_nodes)
            Rows sum to 1. With `heads == "tree"` a parent's probability is the sum of its children's.
        """
        ...

    def save(self, folder: Path) -> list[str]:
        """Write the weights to a folder, without pickle, and return the file names."""
        ...


def missing_features(model: Model, available: Container[str]) -> list[str]:
    """List the input features of a model that are not available."""
    return [name for name in model.input_features if name not in available]


def check_inputs(model: Model, inputs: Inputs) -> None:
    """Check that all input features of a model are available. Raises BundleError if one is missing."""
    if missing := missing_features(model, inputs):
        raise BundleError(
            f"this model needs the features {', '.join(model.input_features)}, but {', '.join(missing)} is missing; "
            "pass audio instead of images, or a store with this feature"
        )


def embed_slices(model: Model, inputs: Inputs) -> Float32Array:
    """Compute embeddings of slices, the input of a model's last layer: shape (n, embedding_dim).

    Parameters
    ----------
    model : Model
    inputs : mapping of str to array, shape (n, ...)
        At least the features in `model.input_features`.

    Returns
    -------
    float32 array, shape (n, embedding_dim)

    Raises
    ------
    BundleError
        If the model has no embeddings, or a feature is missing.
    """
    embed = getattr(model, "embed", None)
    if embed is None:
        raise BundleError("this model has no embeddings; use a model whose family defines `embed`")
    check_inputs(model, inputs)
    embeddings: Float32Array = np.asarray(embed(inputs), np.float32)
    return embeddings


def shuffle_weights(model: Model, rng: np.random.Generator) -> Model | None:
    """Copy a model and shuffle the values within each weight array; None if the model doesn't support this."""
    shuffle = getattr(model, "shuffle_weights", None)
    shuffled: Model | None = None if shuffle is None else shuffle(rng)
    return shuffled


def predict_dataset(
    model: Model, dataset: SliceDataset, tick: Callable[[int], None] | None = None, batch_size: int = 64
) -> LevelProbabilities:
    """Predict the probabilities of every node for stored slices: a list of arrays (n, n_nodes) by level.

    A model's own method of this name, which may use cached features, takes precedence. Networks of models with the
    method `on_fastest_device` run on a GPU if there is one, and are back on the CPU after it.

    Parameters
    ----------
    model : Model
    dataset : SliceDataset
    tick : function, optional
        Called with the number of slices after each batch.
    batch_size : int
        Slices in a batch.
    """
    on_fastest_device = getattr(model, "on_fastest_device", nullcontext)
    with on_fastest_device():
        return _predict_dataset(model, dataset, tick, batch_size)


def _predict_dataset(
    model: Model, dataset: SliceDataset, tick: Callable[[int], None] | None, batch_size: int
) -> LevelProbabilities:
    predict = getattr(model, "predict_dataset", None)
    if predict is not None:
        levels: LevelProbabilities = predict(dataset, tick)
        return levels
    parts = []
    for start in range(0, max(1, len(dataset)), batch_size):
        part = slice(start, start + batch_size)
        parts.append(model.predict_proba(dataset.inputs(part)))
        dataset.release()
        if tick is not None:
            tick(len(dataset.rows[part]))
    return [np.concatenate(batches) for batches in zip(*parts, strict=True)]


def training_inputs(settings: Settings) -> tuple[str, ...]:
    """List the input features that training with some settings needs: their `input_features`, or the three images."""
    return tuple(getattr(settings, "input_features", MODALITIES))


class Family(Protocol):
    """A model family: its settings, and how its models are trained and loaded.

    Its settings may have a property `input_features`, the names of the features that training needs. The default is
    the three images. The optional attribute `callback_type` names the class of callbacks that `fit` passes to its
    training loop, such as `transformers:TrainerCallback`.

    See Also
    --------
    genretree.models.register_family : Register a family under its name.
    genretree.testing.check_family : Check that a family conforms to this interface.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    distributed: ClassVar[bool]  # whether torchrun can train one model in several processes
    settings_type: ClassVar[type[Settings]]

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Train on slices. `validation`, from other groups, is for early stopping."""
        ...

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load what `Model.save` wrote. Raises BundleError if weights are missing or don't fit."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExportedFamily:
    """What loads bundles of a family with one exported network without importing torch.

    Parameters
    ----------
    settings_type : class
    load : callable
        `load(folder, run, taxonomy, settings)` returns the model of a bundle, whose network the `Runner` `run` runs.
    bf16 : bool
        Whether the precision "auto" may choose bf16.
    is_standalone : callable
        Whether a bundle with given settings, as JSON, has one network only.
    """

    settings_type: type[Settings]
    load: Callable[[Path, Any, Taxonomy, Any], Model]
    bf16: bool = True
    is_standalone: Callable[[Any], bool] = lambda settings: True
