"""A neural bundle whose network runs by an export: no torch, and nothing that takes seconds to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array, UInt8Array
from genretree.errors import BundleError
from genretree.models.base import LevelProbabilities, Model, SliceDataset
from genretree.models.features.image_statistics import dataset_statistics, image_statistics
from genretree.models.linear.hierarchical import LinearTree, read_head
from genretree.models.neural.settings import NetworkSettings
from genretree.models.runtime.types import Runner
from genretree.settings import Settings
from genretree.sound.features import IMAGES, Inputs
from genretree.taxonomy import Taxonomy

_SETTINGS = {"cnn": "CnnSettings", "efficientnet-b0": "EfficientNetSettings", "ast": "AstSettings"}
_BATCH = 32


def settings_without_torch(family: str) -> type[Settings] | None:
    """Give a family's settings if an export is all that its networks need; None if it has to be loaded with torch."""
    if family not in _SETTINGS:
        return None
    found: type[Settings] = getattr(import_module("genretree.models.neural.settings"), _SETTINGS[family])
    return found


def load_exported(folder: Path, run: Runner, taxonomy: Taxonomy, settings: NetworkSettings) -> Model:
    """Make the model of a bundle on what runs its network.

    Raises
    ------
    BundleError
        If its linear classifier can't be read.
    """
    if settings.classifier == "network":
        return ExportedNetwork(run, taxonomy, settings)
    return ExportedFeatures(run, settings, *read_head(folder, None, taxonomy, settings.heads))


class _Exported:
    """What both kinds share."""

    input_features: tuple[str, ...] = (IMAGES,)

    def __init__(self, run: Runner, settings: NetworkSettings) -> None:
        self.run = run
        self.n_tta_shifts = settings.n_tta_shifts
        self.heads = settings.heads
        self.explain_methods = settings.explain_methods

    def save(self, folder: Path) -> list[str]:
        """Refuse: the weights were not loaded."""
        raise BundleError("an exported network can't be saved; load the bundle with the runtime torch")

    def _look(self, images: UInt8Array) -> Iterator[Float32Array]:
        """Yield what the network gives for each turn of the images in time, arrays of shape (n, width)."""
        known = len(images)
        if not known:  # for the widths of what it gives
            images = np.zeros((1, *images.shape[1:]), np.uint8)
        for turn in range(self.n_tta_shifts):
            turned = np.roll(images, round(turn * images.shape[-1] / self.n_tta_shifts), axis=3) if turn else images
            parts = [self.run(turned[at : at + _BATCH])[0].copy() for at in range(0, len(images), _BATCH)]
            yield np.concatenate(parts)[:known]


class ExportedNetwork(_Exported):
    """An exported network with its own head, behind the contract of every family."""

    def __init__(self, run: Runner, taxonomy: Taxonomy, settings: NetworkSettings) -> None:
        super().__init__(run, settings)
        self.taxonomy = taxonomy
        self.widths = [len(taxonomy.nodes(level)) for level in range(taxonomy.depth)]

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        turns = [self._probabilities(scores) for scores in self._look(inputs[IMAGES])]
        return [np.stack(level).mean(axis=0) for level in zip(*turns, strict=True)]

    def _probabilities(self, scores: Float32Array) -> LevelProbabilities:
        from scipy.special import softmax

        if self.heads == "tree":
            return self.taxonomy.sum_levels(softmax(scores.astype(np.float64), axis=1))
        parts = np.split(scores.astype(np.float64), np.cumsum(self.widths)[:-1], axis=1)
        return [softmax(part, axis=1) for part in parts]


class ExportedFeatures(_Exported):
    """A linear classifier on what an exported network sees, behind the contract of every family."""

    def __init__(self, run: Runner, settings: NetworkSettings, linear: LinearTree, statistics: bool) -> None:
        super().__init__(run, settings)
        self.linear = linear
        self.statistics = statistics

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        images = inputs[IMAGES]
        return self._classify(self._features(images), image_statistics(images) if self.statistics else None)

    def predict_dataset(self, examples: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Score stored slices; statistics that were computed before are not computed again."""
        found = []
        for images in examples.batches(_BATCH):
            found.append(self._features(images))
            if tick is not None:
                tick(len(images))
        if not found:
            return self.predict_proba(examples.inputs())
        return self._classify(np.concatenate(found), dataset_statistics(examples) if self.statistics else None)

    def _features(self, images: UInt8Array) -> Float32Array:
        mean: Float32Array = np.mean(list(self._look(images)), axis=0, dtype=np.float32)
        return mean

    def _classify(self, features: Float32Array, statistics: Float32Array | None) -> LevelProbabilities:
        return self.linear.predict([features] if statistics is None else [features, statistics])
