"""What every model family promises, whatever it is made of."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from genretree.errors import BundleError
from genretree.files import atomic_path, release_pages
from genretree.settings import Heads, Settings
from genretree.taxonomy import Taxonomy

LevelProbabilities = list[NDArray[np.float64]]


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
    mel_16k : float16 array, shape (n_stored, frames, 96), optional
        Sound at 16 kHz of the same slices; None where there are only images.
    cache : Path, optional
        A folder for what is computed of these slices and can be used again.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    leaves: NDArray[np.int64]
    tracks: NDArray[np.int64]
    groups: NDArray[np.int64]
    mel_16k: NDArray[np.float16] | None = None
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, positions: NDArray[np.int64]) -> SliceDataset:
        """Keep some examples, by position."""
        return replace(
            self, **{name: getattr(self, name)[positions] for name in ("rows", "leaves", "tracks", "groups")}
        )

    def next_slices(self) -> NDArray[np.int64]:
        """Give the position of the slice that comes next on the same track, or the slice's own: shape (n,)."""
        places = {int(row): place for place, row in enumerate(self.rows)}
        own = np.arange(len(self.rows))
        after = np.array([places.get(int(row) + 1, place) for place, row in enumerate(self.rows)], dtype=np.int64)
        return np.where(self.tracks[after] == self.tracks, after, own)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the images at some positions, in that order."""
        found: NDArray[np.uint8] = np.asarray(self.images[self.rows[positions]])  # a copy, as the rows are a list
        release_pages(self.images)
        return found

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
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
    leaves: NDArray[np.int64]
    tracks: NDArray[np.int64]

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


def compute_class_weights(classes: NDArray[np.int64], class_weight_power: float) -> NDArray[np.float64]:
    """Weigh examples by their class's share to minus `class_weight_power`, 0 to 1: shape (n,), their mean is 1."""
    weights = np.bincount(classes)[classes] ** -float(class_weight_power)
    normal: NDArray[np.float64] = weights / weights.mean()
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

    A model may also have `embed(images, mel_16k)`, which gives features of shape (n, n_features);
    `shuffle_weights(rng)`, which gives a copy of it with shuffled weights, for the sanity check of explanations;
    `predict_dataset(examples, tick)`; and `explain_methods`, names of methods of explaining other than occlusion.

    Attributes
    ----------
    heads : {"tree", "independent"}
        With "tree", a parent's probability is the sum of its children's.
    needs_sound : bool
        Whether it needs `mel_16k`.
    """

    heads: Heads
    needs_sound: bool

    def predict_levels(
        self, images: NDArray[np.uint8], mel_16k: NDArray[np.float16] | None = None
    ) -> LevelProbabilities:
        """Give the probabilities of every node.

        Parameters
        ----------
        images : uint8 array, shape (n, 3, size, size)
        mel_16k : float16 array, shape (n, frames, 96), optional
            For models that listen to sound.

        Returns
        -------
        list of float64 arrays, one for each level, shape (n, n_nodes)
            Rows sum to 1. With `heads == "tree"` a parent's probability is the sum of its children's.
        """
        ...

    def save(self, folder: Path) -> list[str]:
        """Write the weights into a folder, without pickle; returns the names of the files."""
        ...


def embed_slices(
    model: Model, images: NDArray[np.uint8], mel_16k: NDArray[np.float16] | None = None
) -> NDArray[np.float32]:
    """Compute a model's features of slices before its last layer: shape (n, n_features).

    Parameters
    ----------
    model : Model
    images : uint8 array, shape (n, 3, size, size)
    mel_16k : float16 array, shape (n, frames, 96), optional
        For models with `needs_sound`.

    Raises
    ------
    BundleError
        If the model has no features, or needs `mel_16k`.
    """
    own = getattr(model, "embed", None)
    if own is None:
        raise BundleError("this model has no embeddings")
    if model.needs_sound and mel_16k is None:
        raise BundleError("this model needs audio, and there are only images")
    found: NDArray[np.float32] = np.asarray(own(images, mel_16k), np.float32)
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
    own = getattr(model, "score_examples", None)
    if own is not None:
        found: LevelProbabilities = own(examples, tick)
        return found
    parts = []
    for start in range(0, max(1, len(examples)), batch_size):
        rows = examples.rows[start : start + batch_size]
        sound = examples.mel_16k if model.needs_sound else None  # most models don't listen: then it stays on disk
        mel_16k = None if sound is None else np.asarray(sound[rows])
        parts.append(model.predict_levels(np.asarray(examples.images[rows]), mel_16k))
        release_pages(examples.images)
        if sound is not None:
            release_pages(sound)
        if tick is not None:
            tick(len(rows))
    return [np.concatenate(levels) for levels in zip(*parts, strict=True)]


class Family(Protocol):
    """A kind of model: how it is set up, trained and read back."""

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
