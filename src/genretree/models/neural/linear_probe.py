"""Linear probing: a linear classifier on a network's features and image statistics replaces the network's head.

On a few hundred tracks, a linear classifier on a pretrained network, regularised by cross-validation over artists, is
more accurate than fine-tuning by gradient descent (linear probing: Alain and Bengio 2017; comparison with fine-tuning:
Kumar et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genretree.arrays import Float32Array, UInt8Array
from genretree.models.base import FitContext, FitResult, LevelProbabilities, Model, SliceDataset
from genretree.models.differentiable import Attention
from genretree.models.features.image_statistics import dataset_statistics, image_statistics
from genretree.models.linear.hierarchical import (
    Blocks,
    LabelledRows,
    LinearTree,
    choose_features,
    predict_out_of_fold_levels,
    read_head,
    write_head,
)
from genretree.models.neural.network import (
    GenreNetwork,
    NetworkModel,
    example_images,
    load_weights,
    network_features,
    shifted_features,
    shuffle_network,
)
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.progress import progress_bar
from genretree.sound.features import IMAGES, Inputs

_BATCH_SIZE = 32


FeatureBackend = Callable[[Tensor], Tensor]  # uint8 images (n, 3, size, size) to features (n, width)


class LinearNetworkModel:
    """A network without its head, and a linear classifier on its features."""

    input_features: tuple[str, ...] = (IMAGES,)

    def __init__(self, model: NetworkModel, linear: LinearTree, statistics: bool) -> None:
        self.model = model
        self.linear = linear
        self.statistics = statistics
        self.heads = linear.heads
        self.backend: FeatureBackend | None = None

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the network from stored images to features."""
        return {"network": Graph(_Features(self.network), example_images(image_size), ("features",))}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Compute the features with another runtime."""
        run = wrap_runner(runners["network"])
        self.backend = lambda images: run(images)[0]

    def on_fastest_device(self) -> AbstractContextManager[None]:
        """Compute on the GPU during the block, if there is one and no other runtime is set."""
        return self.model.on_fastest_device() if self.backend is None else nullcontext()

    @property
    def network(self) -> GenreNetwork:
        """The network whose features are classified."""
        network: GenreNetwork = self.model.network
        return network

    def torch_module(self) -> GenreNetwork:
        """Return the network."""
        return self.network

    @property
    def explain_methods(self) -> tuple[str, ...]:
        """Explanation methods other than occlusion."""
        return self.network.settings.explain_methods

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the images that the network sees."""
        return self.model.modalities

    def log_probabilities(self, images: Tensor, constants: Tensor | None = None) -> list[Tensor]:
        """Compute log probabilities by level, (n, n_nodes), of images (n, 3, size, size), with gradients.

        `constants` are the image statistics, if the classifier uses them.
        """
        features = shifted_features(self.network, images)
        pooled = features.reshape(self.network.settings.n_tta_shifts, -1, features.shape[1]).mean(dim=0)
        return _linear_levels(self.linear, pooled if constants is None else torch.cat([pooled, constants], dim=1))

    def constant_features(self, images: UInt8Array) -> Float32Array | None:
        """Compute the image statistics of images, (n, 3, size, size), if the classifier uses them."""
        return image_statistics(images) if self.statistics else None

    def gradcam_layer(self) -> nn.Module | None:
        """Return the last layer before the pooling of a convolutional network, or None for other networks."""
        return self.model.gradcam_layer()

    def attention(self) -> Attention | None:
        """Return the attention of a transformer, or None for other networks."""
        return self.model.attention()

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the classifier's features: shape (n, width)."""
        images = inputs[IMAGES]
        features = network_features(self.network, images, self.backend)
        return np.concatenate([features, image_statistics(images)], axis=1) if self.statistics else features

    def shuffle_weights(self, rng: np.random.Generator) -> LinearNetworkModel:
        """Copy the model and shuffle the values within each weight array."""
        network = NetworkModel(shuffle_network(self.network, rng))
        return LinearNetworkModel(network, self.linear.shuffle(rng), self.statistics)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        images = inputs[IMAGES]
        blocks = [network_features(self.network, images, self.backend)]
        return self.linear.predict([*blocks, image_statistics(images)] if self.statistics else blocks)

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices, with cached image statistics."""
        blocks = [compute_features(self.network, dataset, tick, self.backend)]
        return self.linear.predict([*blocks, dataset_statistics(dataset)] if self.statistics else blocks)

    def save(self, folder: Path) -> list[str]:
        """Write the weights of the network and of the classifier."""
        return [*self.model.save(folder), *write_head(folder, self.linear, self.statistics)]


def _linear_levels(linear: LinearTree, inputs: Tensor) -> list[Tensor]:
    """Compute log probabilities by level, (n, n_nodes): `LinearTree.predict` with gradients."""
    levels = []
    for level, head in zip(linear.levels, linear.linear, strict=True):
        width = len(linear.taxonomy.nodes(level))
        if head is None:
            levels.append(inputs.new_zeros(len(inputs), width))
            continue
        mean, scale, weights, bias = (
            torch.from_numpy(part) for part in (head.mean, head.scale, head.weights, head.bias)
        )
        scores = ((inputs - mean) / scale) @ weights.T + bias
        lowest = inputs.new_full((len(inputs), width), -30.0)  # classes absent from training
        levels.append(lowest.index_copy(1, torch.from_numpy(head.classes), scores.log_softmax(dim=1)))
    if linear.heads == "independent":
        return levels
    leaves, ancestors = levels[0], linear.taxonomy.ancestors
    return [
        torch.stack(
            [
                leaves[:, np.flatnonzero(ancestors[:, level] == node).tolist()].logsumexp(dim=1)
                for node in range(len(linear.taxonomy.nodes(level)))
            ],
            dim=1,
        )
        for level in range(linear.taxonomy.depth)
    ]


def load_model(network: GenreNetwork, folder: Path) -> Model:
    """Load a trained network, and its linear classifier if it has one."""
    model = load_weights(network, folder)
    if network.settings.classifier == "network":
        return model
    width = int(network.backbone.width)  # type: ignore[arg-type]
    return LinearNetworkModel(model, *read_head(folder, width, network.head.taxonomy, network.settings.heads))


def fit_classifier(
    model: NetworkModel, train: SliceDataset, validation: SliceDataset | None, context: FitContext
) -> FitResult:
    """Fit a linear classifier on a frozen network, on both parts: there is no early stopping that needs validation."""
    settings, taxonomy = model.network.settings, model.network.head.taxonomy
    parts = [train] if validation is None else [train, validation]
    labelled = LabelledRows.of(parts, settings.class_weight_power)
    with progress_bar(len(labelled.leaves), "features", "slice", context.progress) as tick, model.on_fastest_device():
        features = np.concatenate([compute_features(model.network, part, tick) for part in parts])
    candidates: list[Blocks] = [[features]]
    if settings.statistics:
        candidates.append([features, np.concatenate([dataset_statistics(part, context.progress) for part in parts])])
    n_leaves = len(taxonomy.leaves)
    history, number, C = choose_features(candidates, settings.Cs, labelled, n_leaves, settings.seed, context.progress)
    linear = LinearTree.fit(candidates[number], labelled, C, taxonomy, settings.heads)
    metadata: dict[str, Any] = {"statistics": number > 0, "C": C, "linear_parameters": linear.parameters}
    out_of_fold = predict_out_of_fold_levels(candidates[number], labelled, C, taxonomy, settings.heads, settings.seed)
    return FitResult(LinearNetworkModel(model, linear, number > 0), history, metadata, out_of_fold)


class _Features(nn.Module):
    """The network from stored images to features."""

    def __init__(self, network: GenreNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Compute the features of uint8 images (n, 3, size, size)."""
        return (self.network.backbone.features(self.network.read_images(images)),)  # type: ignore[operator]


def compute_features(
    network: GenreNetwork,
    dataset: SliceDataset,
    tick: Callable[[int], None] | None = None,
    backend: FeatureBackend | None = None,
) -> Float32Array:
    """Compute a network's features of stored slices, shape (n, width). `backend` replaces the network."""
    features: list[Float32Array] = []
    for images in dataset.batches(_BATCH_SIZE):
        features.append(network_features(network, images, backend))
        if tick is not None:
            tick(len(images))
    return _stack(features, network)


def _stack(parts: Sequence[Float32Array], network: GenreNetwork) -> Float32Array:
    none = np.zeros((0, int(network.backbone.width)), np.float32)  # type: ignore[arg-type]
    return np.concatenate([none, *parts])
