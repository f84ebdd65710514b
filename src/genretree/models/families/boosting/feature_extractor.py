"""Features of the family `boosting` other than components: image statistics and MusiCNN layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from genretree.arrays import Float32Array
from genretree.models.base import SliceDataset
from genretree.models.features.image_statistics import dataset_statistics, image_statistics
from genretree.models.pretrained.names import MusicnnName
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner
from genretree.sound.features import IMAGES, MEL_16K, Inputs

if TYPE_CHECKING:  # torch is imported only where a network is used
    from genretree.models.pretrained.musicnn import Musicnn
    from genretree.models.pretrained.musicnn_features import Backend

Feature = Literal["components", "statistics", "musicnn"]
_PATCHES = 4  # of each slice
_LAYERS = ("tags", "penultimate")


class FeatureExtractor:
    """Extractor of features that need no fitting.

    Parameters
    ----------
    features : sequence of "statistics", "musicnn"
    networks : mapping of name to network
        Networks for the feature `musicnn`.
    """

    def __init__(self, features: Sequence[Feature], networks: Mapping[MusicnnName, Musicnn]) -> None:
        self.features = [name for name in features if name != "components"]
        self.networks = dict(networks)
        self.backends: Mapping[MusicnnName, Backend] | None = None

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the input features."""
        return (IMAGES, MEL_16K) if "musicnn" in self.features else (IMAGES,)

    def extract(self, inputs: Inputs) -> list[Float32Array]:
        """Compute the features of slices: one array (n, width) for each feature."""
        found = []
        for name in self.features:
            if name == "statistics":
                found.append(image_statistics(inputs[IMAGES]))
            else:
                from genretree.models.pretrained.musicnn_features import extract_features

                found.append(self._join(extract_features(self.backends or self.networks, inputs[MEL_16K], _PATCHES)))
        return found

    def extract_dataset(self, dataset: SliceDataset, progress: bool = False) -> list[Float32Array]:
        """Compute the features of stored slices, with a cache in the store."""
        found = []
        for name in self.features:
            if name == "statistics":
                found.append(dataset_statistics(dataset, progress))
            else:
                from genretree.models.pretrained.musicnn_features import extract_dataset_features

                features = extract_dataset_features(
                    dataset, self.networks, _PATCHES, progress=progress, backends=self.backends
                )
                found.append(self._join(features))
        return found

    def _join(self, features: Mapping[str, Float32Array]) -> Float32Array:
        return np.concatenate([features[f"{name}/{layer}"] for name in self.networks for layer in _LAYERS], axis=1)

    def graphs(self) -> dict[str, Graph]:
        """Return the MusiCNN networks."""
        if not self.networks:
            return {}
        from genretree.models.pretrained.musicnn_features import network_graphs

        return network_graphs(self.networks)

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the networks with another runtime."""
        if not self.networks:
            return
        from genretree.models.pretrained.musicnn_features import run_networks

        self.backends = run_networks(self.networks, runners)

    def save(self, folder: Path) -> list[str]:
        """Write the networks."""
        if not self.networks:
            return []
        from genretree.models.pretrained.musicnn_features import save_networks

        return save_networks(self.networks, folder)

    @classmethod
    def load(cls, folder: Path, features: Sequence[Feature], networks: Sequence[MusicnnName]) -> Self:
        """Load the networks, if any are needed. Raises OSError, SafetensorError or RuntimeError."""
        if "musicnn" not in features:
            return cls(features, {})
        from genretree.models.pretrained.musicnn_features import load_networks

        return cls(features, load_networks(networks, folder))
