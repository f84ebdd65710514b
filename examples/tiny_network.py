"""A model family with a small torch network, which can be exported and explained by gradients.

    from genretree.testing import check_family
    from tiny_network import TinyFamily

    check_family(TinyFamily)

It is not a good classifier. It shows the optional members of a network's model; `genretree-nearest-centroid` shows how
to make a family a package.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from torch import Tensor, nn

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
    """Settings of training."""

    steps: int = Field(40, ge=1, description="steps of the optimizer, each on all slices")


class TinyNetwork(nn.Module):
    """A convolution, the mean over time, and a linear layer: from stored images to scores of the leaves."""

    def __init__(self, n_leaves: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, _CHANNELS, 5, stride=2, padding=2)
        self.relu = nn.ReLU()
        self.classify = nn.Linear(_CHANNELS * _ROWS, n_leaves)

    def features(self, images: Tensor) -> Tensor:
        """Compute features, (n, 48), of images (n, 3, size, size) with values from 0 to 255."""
        maps = self.relu(self.conv(images.float() / 128 - 1))
        bands = nn.functional.interpolate(maps, size=(_ROWS, maps.shape[3]), mode="bilinear")
        return bands.mean(dim=3).flatten(1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Compute scores, (n, n_leaves)."""
        return (self.classify(self.features(images)),)


class TinyModel:
    """A trained network."""

    heads: Heads = "tree"
    input_features: tuple[str, ...] = ("images",)
    explain_methods: tuple[str, ...] = ("integrated-gradients", "gradcam")

    def __init__(self, network: TinyNetwork, taxonomy: Taxonomy) -> None:
        self.network = network.eval()
        self.taxonomy = taxonomy
        self.run: Runner | None = None

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict with torch, or with the runtime that `set_backend` got."""
        images = np.array(inputs["images"])
        if self.run is None:
            with torch.inference_mode():
                scores = self.network(torch.from_numpy(images))[0].numpy()
        else:
            scores = self.run(images)[0]
        return self.taxonomy.sum_levels(softmax(scores.astype(np.float64), axis=1))

    def save(self, folder: Path) -> list[str]:
        """Write the weights."""
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / _FILE)
        return [_FILE]

    # -- optional ----------------------------------------------------------------------------------------------------

    def embed(self, inputs: Inputs) -> NDArray[np.float32]:
        """Compute features, for nearest neighbours: shape (n, 48)."""
        with torch.inference_mode():
            return self.network.features(torch.from_numpy(np.array(inputs["images"]))).numpy()

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the network with an example of its input, for `genretree export`."""
        example = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
        return {"network": Graph(self.network, example, outputs=("scores",))}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Compute the scores with another runtime: a function of an array that returns a tuple of arrays."""
        self.run = runners["network"]

    def torch_module(self) -> nn.Module:
        """Return the network."""
        return self.network

    def log_probabilities(self, images: Tensor) -> list[Tensor]:
        """Compute the logarithms of `predict_proba` with gradients, for the methods in `explain_methods`."""
        leaves = self.network(images)[0].log_softmax(dim=1)
        ancestors = torch.from_numpy(self.taxonomy.ancestors)
        levels = []
        for level in range(self.taxonomy.depth):
            below = ancestors[:, level, None] == torch.arange(len(self.taxonomy.nodes(level)))
            levels.append(leaves[:, :, None].masked_fill(~below, -torch.inf).logsumexp(dim=1))
        return levels

    def gradcam_layer(self) -> nn.Module | None:
        """Return the last layer with a map of the image, for Grad-CAM."""
        return self.network.relu

    def shuffle_weights(self, rng: np.random.Generator) -> TinyModel:
        """Copy the model with shuffled weights, for the check of explanations."""
        network = copy.deepcopy(self.network)
        for value in network.parameters():
            value.data = value.data.flatten()[torch.from_numpy(rng.permutation(value.numel()))].reshape(value.shape)
        return TinyModel(network, self.taxonomy)


class TinyFamily:
    """What genretree trains and loads."""

    name: ClassVar[str] = "tiny-network"
    summary: ClassVar[str] = "a small network (an example)"
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
