"""Outputs of MusiCNN networks as further features of the family `tagger`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from genretree.arrays import Array, Float32Array
from genretree.models.base import SliceDataset
from genretree.models.pretrained.musicnn import Musicnn
from genretree.models.pretrained.musicnn_features import (
    WIDTHS,
    Backend,
    Layer,
    extract_dataset_features,
    extract_features,
    network_graphs,
    run_networks,
    save_networks,
)
from genretree.models.pretrained.names import MusicnnName
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner

LAYERS: tuple[Layer, ...] = ("tags", "penultimate")


class MusicnnBlocks:
    """MusiCNN networks, whose tags and penultimate layers are feature blocks.

    Parameters
    ----------
    networks : mapping of name to Musicnn
    patches : int
        Number of 3 s patches of each slice.
    """

    def __init__(self, networks: Mapping[MusicnnName, Musicnn], patches: int) -> None:
        self.networks = dict(networks)
        self.patches = patches
        self._backends: Mapping[MusicnnName, Backend] | None = None

    @property
    def widths(self) -> list[int]:
        """Widths of the feature blocks."""
        return [WIDTHS[layer] for _ in self.networks for layer in LAYERS]

    def graphs(self) -> dict[str, Graph]:
        """Return the networks as graphs."""
        return network_graphs(self.networks)

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the networks with another runtime."""
        self._backends = run_networks(self.networks, runners)

    @property
    def torch_networks(self) -> list[Musicnn]:
        """The networks that run in torch; none if another runtime is set."""
        return list(self.networks.values()) if self._backends is None else []

    def extract(self, mel_16k: Array) -> Float32Array:
        """Compute the features of slices, shape (n, n_features)."""
        return self._join(extract_features(self._backends or self.networks, mel_16k, self.patches))

    def extract_dataset(self, dataset: SliceDataset, progress: bool = False) -> Float32Array:
        """Compute the features of stored slices, with a cache in the store. Raises TrainingError."""
        return self._join(
            extract_dataset_features(
                dataset, self.networks, self.patches, progress=progress, backends=self._backends, family="tagger"
            )
        )

    def shuffle(self, rng: np.random.Generator) -> MusicnnBlocks:
        """Copy the networks and shuffle the values within each weight array."""
        from genretree.models.neural.network import shuffle_network  # imports transformers, which takes seconds

        return MusicnnBlocks({name: shuffle_network(net, rng) for name, net in self.networks.items()}, self.patches)

    def save(self, folder: Path) -> list[str]:
        """Write the networks to a bundle's folder, and return the file names."""
        return save_networks(self.networks, folder)

    def _join(self, outputs: Mapping[str, Float32Array]) -> Float32Array:
        return np.concatenate([outputs[f"{name}/{layer}"] for name in self.networks for layer in LAYERS], axis=1)
