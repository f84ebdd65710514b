"""A model family in a package of its own: the nearest centroid of small, blurred spectrogram images.

It is not a good classifier. It shows all that genretree needs of one: settings, `fit`, `predict_proba`, `save` and
`load`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.errors import BundleError
from genretree.models.base import FitContext, FitResult, LevelProbabilities, SliceDataset
from genretree.settings import Heads, Settings
from genretree.sound.features import Inputs
from genretree.taxonomy import Taxonomy

_FILE = "centroids.safetensors"


class NearestCentroidSettings(Settings):
    """Settings; unknown names and values out of range are refused by pydantic."""

    bands: int = Field(16, ge=1, le=32, description="rows and columns that each image is averaged to")
    sharpness: float = Field(10.0, gt=0, description="larger values give more confident probabilities")


class NearestCentroidModel:
    """The centroid of each leaf of the tree."""

    heads: Heads = "tree"  # a parent's probability is the sum of its children's
    input_features = ("images",)  # names of what predict_proba and embed need of a slice

    def __init__(self, centroids: NDArray[np.float32], taxonomy: Taxonomy, settings: NearestCentroidSettings) -> None:
        self.centroids = centroids
        self.taxonomy = taxonomy
        self.settings = settings

    def embed(self, inputs: Inputs) -> NDArray[np.float32]:
        """Average images to a few bands: shape (n, 3 * bands * bands). Optional; `genretree index` needs it."""
        return _average(inputs["images"], self.settings.bands)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Probabilities of every node: one array of shape (n, n_nodes) for each level."""
        features = self.embed(inputs)
        squared = ((features[:, None] - self.centroids[None]) ** 2).mean(axis=2, dtype=np.float64)
        scores = np.exp(-self.settings.sharpness * (squared - squared.min(axis=1, keepdims=True)))
        return self.taxonomy.sum_levels(scores / scores.sum(axis=1, keepdims=True))

    def save(self, folder: Path) -> list[str]:
        """Write the centroids; returns the names of the files."""
        save_file({"centroids": np.ascontiguousarray(self.centroids)}, folder / _FILE)
        return [_FILE]


class NearestCentroidFamily:
    """What genretree trains and loads."""

    name: ClassVar[str] = "nearest-centroid"
    summary: ClassVar[str] = "nearest centroid of blurred images (an example)"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[NearestCentroidSettings]] = NearestCentroidSettings

    @staticmethod
    def fit(
        train: SliceDataset,
        validation: SliceDataset | None,
        taxonomy: Taxonomy,
        settings: NearestCentroidSettings,
        context: FitContext,
    ) -> FitResult:
        """Average the slices of each leaf, in batches, so that memory stays bounded."""
        sums = np.zeros((len(taxonomy.leaves), 3 * settings.bands**2), np.float64)
        done = 0
        for images in train.batches(64):
            leaves = train.leaves[done : done + len(images)]
            np.add.at(sums, leaves, _average(images, settings.bands))
            done += len(images)
        counts = np.bincount(train.leaves, minlength=len(sums))
        centroids = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], 1e3).astype(np.float32)
        return FitResult(NearestCentroidModel(centroids, taxonomy, settings), history=[])

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: NearestCentroidSettings) -> NearestCentroidModel:
        """Read what `save` wrote; anything unexpected is a BundleError."""
        try:
            centroids = load_file(folder / _FILE)["centroids"]
        except (OSError, SafetensorError, KeyError) as error:
            raise BundleError(f"{folder / _FILE}: can't be read ({error}); copy the bundle again") from error
        shape = (len(taxonomy.leaves), 3 * settings.bands**2)
        if centroids.shape != shape or not np.isfinite(centroids).all():
            raise BundleError(f"{folder / _FILE}: not {shape} finite numbers; copy the bundle again")
        return NearestCentroidModel(centroids, taxonomy, settings)


def _average(images: NDArray[np.uint8], bands: int) -> NDArray[np.float32]:
    """Average images, (n, 3, size, size), to (n, 3 * bands * bands), in [0, 1]."""
    edges = np.linspace(0, images.shape[-1], bands + 1).astype(int)[:-1]
    widths = np.diff(np.append(edges, images.shape[-1]))
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float32), edges, axis=2), edges, axis=3)
    means = sums / (255 * widths[:, None] * widths[None, :])
    return np.asarray(means.reshape(len(images), 3 * bands * bands), np.float32)
