"""A family from outside with a small torch network, which implements every optional member that a network can have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genretree.arrays import Float32Array
from genretree.errors import BundleError
from genretree.models.base import FitContext, FitResult, LevelProbabilities, SliceDataset
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner
from genretree.settings import Heads, Settings
from genretree.sound.features import Inputs
from genretree.taxonomy import Taxonomy

_FILE = "network.safetensors"
_ROWS, _CHANNELS = 8, 6


class TinySettings(Settings):
    """Settings of the family."""

    steps: int = 40


class TinyNetwork(nn.Module):
    """A convolution, the mean over time, and a linear layer: from grey levels to scores of the leaves."""

    def __init__(self, n_leaves: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, _CHANNELS, 5, stride=2, padding=2)
        self.relu = nn.ReLU()
        self.scores = nn.Linear(_CHANNELS * _ROWS, n_leaves)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Compute scores, (n, n_leaves), of images (n, 3, size, size)."""
        maps = self.relu(self.conv(images.float() / 128 - 1))
        pooled = nn.functional.interpolate(maps, size=(_ROWS, maps.shape[3]), mode="bilinear").mean(dim=3)
        return (self.scores(pooled.flatten(1)),)


class TinyModel:
    """A trained network."""

    heads: Heads = "tree"
    input_features = ("images",)
    explain_methods: tuple[str, ...] = ("integrated-gradients", "gradcam")

    def __init__(self, network: TinyNetwork, taxonomy: Taxonomy) -> None:
        self.network = network.eval()
        self.taxonomy = taxonomy
        self.runner: Runner | None = None

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node."""
        images = np.array(inputs["images"])
        with torch.inference_mode():
            scores = (
                self.network(torch.from_numpy(images))[0].numpy() if self.runner is None else self.runner(images)[0]
            )
        return self.taxonomy.sum_levels(torch.from_numpy(np.array(scores)).double().softmax(dim=1).numpy())

    def torch_module(self) -> nn.Module:
        """Return the network."""
        return self.network

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the network, for exports."""
        example = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
        return {"network": Graph(self.network, example, ("scores",))}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Compute the scores with another runtime."""
        self.runner = runners["network"]

    def log_probabilities(self, images: Tensor) -> list[Tensor]:
        """Compute log probabilities by level, with gradients."""
        leaves = self.network(images)[0].log_softmax(dim=1)
        return [
            torch.stack(
                [
                    leaves[:, np.flatnonzero(self.taxonomy.ancestors[:, level] == node).tolist()].logsumexp(dim=1)
                    for node in range(len(self.taxonomy.nodes(level)))
                ],
                dim=1,
            )
            for level in range(self.taxonomy.depth)
        ]

    def gradcam_layer(self) -> nn.Module | None:
        """Return the layer that Grad-CAM maps."""
        return self.network.relu

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute log probabilities of the leaves as embeddings."""
        with torch.inference_mode():
            return np.asarray(self.network(torch.from_numpy(np.array(inputs["images"])))[0].numpy(), np.float32)

    def save(self, folder: Path) -> list[str]:
        """Write the weights."""
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / _FILE)
        return [_FILE]


class TinyFamily:
    """The family."""

    name: ClassVar[str] = "tiny-network"
    summary: ClassVar[str] = "a small network from outside"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[TinySettings]] = TinySettings
    model_type: ClassVar[type[TinyModel]] = TinyModel

    @classmethod
    def fit(
        cls,
        train: SliceDataset,
        validation: SliceDataset | None,
        taxonomy: Taxonomy,
        settings: Any,
        context: FitContext,
    ) -> FitResult:
        """Train on all slices at once."""
        torch.manual_seed(0)
        network = TinyNetwork(len(taxonomy.leaves))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        images = torch.from_numpy(np.array(train.images[train.rows]))
        leaves = torch.from_numpy(train.leaves)
        for _ in range(settings.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images)[0], leaves).backward()
            optimizer.step()
        return FitResult(cls.model_type(network, taxonomy), history=[])

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy, settings: Any) -> TinyModel:
        """Read the weights."""
        network = TinyNetwork(len(taxonomy.leaves))
        try:
            network.load_state_dict(load_file(folder / _FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BundleError(f"{folder / _FILE}: can't be read ({error}); copy the bundle again") from error
        return cls.model_type(network, taxonomy)
