"""What every model family promises, whatever it is made of."""

from __future__ import annotations

import csv
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from genretree.arrays import Array, Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.errors import BundleError
from genretree.files import atomic_path, release_pages
from genretree.settings import MODALITIES, Heads, Settings
from genretree.sound.features import IMAGES, Inputs, SliceInputs
from genretree.taxonomy import Taxonomy

LevelProbabilities = list[Float64Array]


@dataclass(frozen=True)
class SliceDataset:
    """Labelled slices to learn from.

    Parameters
    ----------
    images : uint8 array, shape (n_stored, 3, size, size)
        Usually memory-mapped; only the rows below are read.
    rows : array, shape (n,)
        Which images these examples are.
    leaves : array, shape (n,)
        Leaf index of each row.
    tracks, groups : array, shape (n,)
        Track and group (artist) number of each row.
    features : mapping of name to array, shape (n_stored, ...)
        What there is of the same slices apart from the images, such as `mel_16k`.
    cache : Path, optional
        A folder for what is computed of these slices and can be used again.
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
        """Keep some examples, by position."""
        return replace(
            self, **{name: getattr(self, name)[positions] for name in ("rows", "leaves", "tracks", "groups")}
        )

    def next_slices(self) -> Int64Array:
        """Give the position of the slice that comes next on the same track, or the slice's own: shape (n,)."""
        places = {int(row): place for place, row in enumerate(self.rows)}
        own = np.arange(len(self.rows))
        after = np.array([places.get(int(row) + 1, place) for place, row in enumerate(self.rows)], dtype=np.int64)
        return np.where(self.tracks[after] == self.tracks, after, own)

    def inputs(self, positions: Int64Array | slice = slice(None)) -> SliceInputs:
        """Give the inputs of a model for the examples at some positions; they are read where a model asks for them."""
        return SliceInputs({IMAGES: self.images, **self.features}, self.rows[positions])

    def release(self) -> None:
        """Release the pages of memory that reading from the store has filled."""
        for array in (self.images, *self.features.values()):
            release_pages(array)

    def take(self, positions: Int64Array) -> UInt8Array:
        """Read the images at some positions, in that order."""
        found: UInt8Array = np.asarray(self.images[self.rows[positions]])  # a copy, as the rows are a list
        release_pages(self.images)
        return found

    def batches(self, size: int) -> Iterator[UInt8Array]:
        """Yield all images in order, `size` at a time."""
        for start in range(0, len(self.rows), size):
            yield np.asarray(self.images[self.rows[start : start + size]])
            release_pages(self.images)


@dataclass(frozen=True)
class FitContext:
    """Where and how a family is trained.

    Parameters
    ----------
    folder : Path
        For checkpoints and logs. What an interrupted run left there is taken up again.
    progress : bool
        Show bars on standard error.
    """

    folder: Path
    progress: bool = False


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Probabilities of slices by a model, or a twin of it, that did not learn from them: what calibration learns from.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n, n_nodes)
    leaves, tracks : array, shape (n,)
        True leaf and track of each slice.
    """

    levels: LevelProbabilities
    leaves: Int64Array
    tracks: Int64Array

    def after(self, n: int) -> OutOfFoldPredictions:
        """Leave out the first so many slices."""
        return OutOfFoldPredictions([level[n:] for level in self.levels], self.leaves[n:], self.tracks[n:])


@dataclass(frozen=True)
class FitResult:
    """A trained model and what training recorded: one row of numbers for each epoch or iteration.

    A family that learns from the validation part too gives what it predicted out of fold as `held`.
    """

    model: Model
    history: list[dict[str, float]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    held: OutOfFoldPredictions | None = None


def compute_class_weights(classes: Int64Array, class_weight_power: float) -> Float64Array:
    """Weigh examples by their class's share to minus `class_weight_power`, 0 to 1: shape (n,), their mean is 1."""
    weights = np.bincount(classes)[classes] ** -float(class_weight_power)
    normal: Float64Array = weights / weights.mean()
    return normal


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write one row for each epoch or iteration as CSV."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(history)


class Model(Protocol):
    """A trained classifier of slices.

    Optional members: `embed(inputs)`, which returns an array of shape (n, embedding_dim); `torch_module()`, which
    returns its `torch.nn.Module`; `explain_methods`, names of methods of explaining other than occlusion;
    `shuffle_weights(rng)`, which returns a copy of it with shuffled weights, for the sanity check of explanations; and
    `predict_dataset(examples, tick)`.

    Attributes
    ----------
    heads : {"tree", "independent"}
        With "tree", a parent's probability is the sum of its children's.
    input_features : tuple of str
        Names of the features that it needs: "images", "mel", "cqt", "chroma", "mel_16k", or one of `register_feature`.
    """

    heads: Heads
    input_features: tuple[str, ...]

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node.

        Parameters
        ----------
        inputs : mapping of str to array, shape (n, ...)
            At least the features that `input_features` names. `images` are uint8, (n, 3, size, size); `mel`, `cqt` and
            `chroma` uint8, (n, size, size); `mel_16k` float16, (n, frames, 96).

        Returns
        -------
        list of float64 arrays, one for each level, shape (n, n_nodes)
            Rows sum to 1. With `heads == "tree"` a parent's probability is the sum of its children's.
        """
        ...

    def save(self, folder: Path) -> list[str]:
        """Write the weights into a folder, without pickle; returns the names of the files."""
        ...


def missing_features(model: Model, available: Container[str]) -> list[str]:
    """List the input features of a model that are not available."""
    return [name for name in model.input_features if name not in available]


def check_inputs(model: Model, inputs: Inputs) -> None:
    """Raise BundleError unless there are all features that a model needs."""
    if missing := missing_features(model, inputs):
        raise BundleError(
            f"this model needs the features {', '.join(model.input_features)}, and {', '.join(missing)} is missing; "
            "pass audio instead of images, or a store that has it"
        )


def embed_slices(model: Model, inputs: Inputs) -> Float32Array:
    """Compute a model's embeddings of slices, the input of its last layer: shape (n, embedding_dim).

    Parameters
    ----------
    model : Model
    inputs : mapping of str to array, shape (n, ...)
        At least the features that `model.input_features` names.

    Raises
    ------
    BundleError
        If the model has no embeddings, or a feature is missing.
    """
    own = getattr(model, "embed", None)
    if own is None:
        raise BundleError("this model has no embeddings")
    check_inputs(model, inputs)
    found: Float32Array = np.asarray(own(inputs), np.float32)
    return found


def shuffle_weights(model: Model, rng: np.random.Generator) -> Model | None:
    """Copy a model with the numbers within each array of weights shuffled; None for one that has no such arrays."""
    own = getattr(model, "shuffle_weights", None)
    found: Model | None = None if own is None else own(rng)
    return found


def predict_dataset(
    model: Model, examples: SliceDataset, tick: Callable[[int], None] | None = None, batch_size: int = 64
) -> LevelProbabilities:
    """Give the probabilities of every node for stored slices: a list of arrays (n, n_nodes) by level.

    A model with a method of this name, which may use what lies in the cache, is asked by that.
    """
    own = getattr(model, "predict_dataset", None)
    if own is not None:
        found: LevelProbabilities = own(examples, tick)
        return found
    parts = []
    for start in range(0, max(1, len(examples)), batch_size):
        part = slice(start, start + batch_size)
        parts.append(model.predict_proba(examples.inputs(part)))
        examples.release()
        if tick is not None:
            tick(len(examples.rows[part]))
    return [np.concatenate(levels) for levels in zip(*parts, strict=True)]


def training_inputs(settings: Settings) -> tuple[str, ...]:
    """Names of the inputs that training with some settings needs: their `input_features`, or the three images."""
    return tuple(getattr(settings, "input_features", MODALITIES))


class Family(Protocol):
    """A kind of model: how it is set up, trained and read back.

    Its settings may have a property `input_features`, the names of the inputs that training needs; without it they are
    the three images.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    distributed: ClassVar[bool]  # whether several processes can train one model together
    settings_type: ClassVar[type[Settings]]

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Train on slices. `validation`, from other groups, decides when to stop."""
        ...

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Read what `Model.save` wrote. Raises BundleError if it doesn't fit; never fills in random weights."""
        ...
