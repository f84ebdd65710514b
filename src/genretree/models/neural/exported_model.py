"""Models of neural bundles that run an exported network, without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from genretree.arrays import Float32Array, UInt8Array
from genretree.errors import BundleError
from genretree.models.base import ExportedFamily, LevelProbabilities, Model, SliceDataset
from genretree.models.features.image_statistics import dataset_statistics, image_statistics
from genretree.models.linear.hierarchical import LinearTree, read_head
from genretree.models.neural.settings import AstSettings, CnnSettings, EfficientNetSettings, NetworkSettings
from genretree.models.runtime.types import Runner
from genretree.sound.features import IMAGES, Inputs
from genretree.taxonomy import Taxonomy

_BATCH_SIZE = 32


def load_exported(folder: Path, run: Runner, taxonomy: Taxonomy, settings: NetworkSettings) -> Model:
    """Load the model of a bundle whose network is run by `run`.

    Raises
    ------
    BundleError
        If the linear classifier can't be read.
    """
    if settings.classifier == "network":
        return ExportedNetwork(run, taxonomy, settings)
    return ExportedFeatures(run, settings, *read_head(folder, None, taxonomy, settings.heads))


class _Exported:
    """Common part of both models."""

    input_features: tuple[str, ...] = (IMAGES,)
    has_weights: ClassVar[bool] = False  # what needs weights loads the bundle again, in torch

    def __init__(self, run: Runner, settings: NetworkSettings) -> None:
        self.run = run
        self.n_tta_shifts = settings.n_tta_shifts
        self.heads = settings.heads
        self.explain_methods = settings.explain_methods

    def save(self, folder: Path) -> list[str]:
        """Raise BundleError, since the weights are not loaded."""
        raise BundleError("an exported network can't be saved; load the bundle with `runtime='torch'`")

    def _iter_outputs(self, images: UInt8Array) -> Iterator[Float32Array]:
        """Yield the network's outputs for each shift of the images in time, arrays of shape (n, width)."""
        n = len(images)
        if not n:  # determines the width of the output
            images = np.zeros((1, *images.shape[1:]), np.uint8)
        for shift in range(self.n_tta_shifts):
            shifted = np.roll(images, round(shift * images.shape[-1] / self.n_tta_shifts), axis=3) if shift else images
            parts = [self.run(shifted[at : at + _BATCH_SIZE])[0].copy() for at in range(0, len(images), _BATCH_SIZE)]
            yield np.concatenate(parts)[:n]


class ExportedNetwork(_Exported):
    """An exported network with its own head."""

    def __init__(self, run: Runner, taxonomy: Taxonomy, settings: NetworkSettings) -> None:
        super().__init__(run, settings)
        self.taxonomy = taxonomy
        self.widths = [len(taxonomy.nodes(level)) for level in range(taxonomy.depth)]

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        outputs = [self._probabilities(scores) for scores in self._iter_outputs(inputs[IMAGES])]
        return [np.stack(level).mean(axis=0) for level in zip(*outputs, strict=True)]

    def _probabilities(self, scores: Float32Array) -> LevelProbabilities:
        from scipy.special import softmax

        if self.heads == "tree":
            return self.taxonomy.sum_levels(softmax(scores.astype(np.float64), axis=1))
        parts = np.split(scores.astype(np.float64), np.cumsum(self.widths)[:-1], axis=1)
        return [softmax(part, axis=1) for part in parts]


class ExportedFeatures(_Exported):
    """A linear classifier on the features of an exported network."""

    def __init__(self, run: Runner, settings: NetworkSettings, linear: LinearTree, statistics: bool) -> None:
        super().__init__(run, settings)
        self.linear = linear
        self.statistics = statistics

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        images = inputs[IMAGES]
        return self._classify(self._features(images), image_statistics(images) if self.statistics else None)

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices, with cached image statistics."""
        features = []
        for images in dataset.batches(_BATCH_SIZE):
            features.append(self._features(images))
            if tick is not None:
                tick(len(images))
        if not features:
            return self.predict_proba(dataset.inputs())
        return self._classify(np.concatenate(features), dataset_statistics(dataset) if self.statistics else None)

    def _features(self, images: UInt8Array) -> Float32Array:
        mean: Float32Array = np.mean(list(self._iter_outputs(images)), axis=0, dtype=np.float32)
        return mean

    def _classify(self, features: Float32Array, statistics: Float32Array | None) -> LevelProbabilities:
        return self.linear.predict([features] if statistics is None else [features, statistics])


CNN = ExportedFamily(settings_type=CnnSettings, load=load_exported)
EFFICIENTNET = ExportedFamily(settings_type=EfficientNetSettings, load=load_exported)
AST = ExportedFamily(settings_type=AstSettings, load=load_exported)
