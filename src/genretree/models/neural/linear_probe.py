"""A linear classifier on a network's features and the statistics of the images, in the place of the network's head.

A network that was pretrained on much music knows more than what a few hundred tracks can teach its last layers by
gradient descent; a linear classifier whose strength is chosen over artists left out loses less (linear probing: Alain
and Bengio 2017; against fine-tuning: Kumar et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from genretree.arrays import Float32Array
from genretree.models.base import FitContext, FitResult, LevelProbabilities, Model, SliceDataset
from genretree.models.features.image_statistics import dataset_statistics, image_statistics
from genretree.models.linear.hierarchical import (
    Blocks,
    LabelledRows,
    LinearTree,
    choose_features,
    hold_out,
    read_head,
    write_head,
)
from genretree.models.neural.network import (
    GenreNetwork,
    NetworkModel,
    example_images,
    load_weights,
    network_features,
    shuffle_network,
)
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.progress import progress_bar
from genretree.sound.features import IMAGES, Inputs

_BATCH = 32


Look = Callable[[Tensor], Tensor]  # uint8 images (n, 3, size, size) to features (n, width)


class LinearNetworkModel:
    """A network, whose head is not used, and a linear classifier behind the contract of every family."""

    input_features: tuple[str, ...] = (IMAGES,)

    def __init__(self, model: NetworkModel, linear: LinearTree, statistics: bool) -> None:
        self.model = model
        self.linear = linear
        self.statistics = statistics
        self.heads = linear.heads
        self.look: Look | None = None

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Give the network from stored images to features."""
        return {"network": Graph(_Features(self.network), example_images(image_size), ("features",))}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Let another runtime compute the features."""
        run = wrap_runner(runners["network"])
        self.look = lambda images: run(images)[0]

    @property
    def network(self) -> GenreNetwork:
        """The network."""
        network: GenreNetwork = self.model.network
        return network

    def torch_module(self) -> nn.Module:
        """Return the network."""
        return self.network

    @property
    def explain_methods(self) -> tuple[str, ...]:
        """Methods of explaining other than occlusion."""
        return self.network.settings.explain_methods

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the features that the classifier sees: shape (n, width)."""
        images = inputs[IMAGES]
        seen = network_features(self.network, images, self.look)
        return np.concatenate([seen, image_statistics(images)], axis=1) if self.statistics else seen

    def shuffle_weights(self, rng: np.random.Generator) -> LinearNetworkModel:
        """Copy the model with the numbers within each array of weights shuffled."""
        network = NetworkModel(shuffle_network(self.network, rng))
        return LinearNetworkModel(network, self.linear.shuffle(rng), self.statistics)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        images = inputs[IMAGES]
        blocks = [network_features(self.network, images, self.look)]
        return self.linear.predict([*blocks, image_statistics(images)] if self.statistics else blocks)

    def predict_dataset(self, examples: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Score stored slices; statistics that were computed before are not computed again."""
        blocks = [compute_features(self.network, examples, tick, self.look)]
        return self.linear.predict([*blocks, dataset_statistics(examples)] if self.statistics else blocks)

    def save(self, folder: Path) -> list[str]:
        """Write the network's weights, and the classifier's."""
        return [*self.model.save(folder), *write_head(folder, self.linear, self.statistics)]


def load_model(network: GenreNetwork, folder: Path) -> Model:
    """Read a trained network, and the linear classifier on it if there is one."""
    model = load_weights(network, folder)
    if network.settings.classifier == "network":
        return model
    width = int(network.backbone.width)  # type: ignore[arg-type]
    return LinearNetworkModel(model, *read_head(folder, width, network.head.taxonomy, network.settings.heads))


def fit_classifier(
    model: NetworkModel, train: SliceDataset, validation: SliceDataset | None, context: FitContext
) -> FitResult:
    """Fit the classifier on a network as it is. `validation` is learned from too: nothing is stopped early here."""
    settings, taxonomy = model.network.settings, model.network.head.taxonomy
    parts = [train] if validation is None else [train, validation]
    known = LabelledRows.of(parts, settings.class_weight_power)
    with progress_bar(len(known.leaves), "look", "slice", context.progress) as tick:
        seen = np.concatenate([compute_features(model.network, part, tick) for part in parts])
    candidates: list[Blocks] = [[seen]]
    if settings.statistics:
        candidates.append([seen, np.concatenate([dataset_statistics(part, context.progress) for part in parts])])
    n_leaves = len(taxonomy.leaves)
    history, number, C = choose_features(candidates, settings.Cs, known, n_leaves, settings.seed, context.progress)
    linear = LinearTree.fit(candidates[number], known, C, taxonomy, settings.heads)
    facts: dict[str, Any] = {"statistics": number > 0, "strength": C, "linear_parameters": linear.parameters}
    held = hold_out(candidates[number], known, C, taxonomy, settings.heads, settings.seed)
    return FitResult(LinearNetworkModel(model, linear, number > 0), history, facts, held)


class _Features(nn.Module):
    """From stored images to features."""

    def __init__(self, network: GenreNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Describe uint8 images (n, 3, size, size)."""
        return (self.network.backbone.features(self.network.read_images(images)),)  # type: ignore[operator]


def compute_features(
    network: GenreNetwork, examples: SliceDataset, tick: Callable[[int], None] | None = None, look: Look | None = None
) -> Float32Array:
    """Give a network's features of stored slices, shape (n, width); `look` computes them in its place."""
    found: list[Float32Array] = []
    for images in examples.batches(_BATCH):
        found.append(network_features(network, images, look))
        if tick is not None:
            tick(len(images))
    return _stack(found, network)


def _stack(parts: Sequence[Float32Array], network: GenreNetwork) -> Float32Array:
    none = np.zeros((0, int(network.backbone.width)), np.float32)  # type: ignore[arg-type]
    return np.concatenate([none, *parts])
