"""Fine-tuning of the MusiCNN networks together with a linear classifier that was fitted on them first.

This is linear probing followed by fine-tuning (Kumar et al. 2022): the classifier starts at its optimum for the
published networks. Batch normalisation keeps the published statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import set_seed

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.models.base import FitContext, SliceDataset
from genretree.models.features.image_statistics import dataset_statistics
from genretree.models.linear.logistic import LinearHead
from genretree.models.neural.settings import NetworkSettings
from genretree.models.neural.trainer import train_network
from genretree.models.pretrained.musicnn import PATCH_FRAMES, Musicnn
from genretree.models.pretrained.musicnn_features import IMAGES, cut_patches, pool_patches
from genretree.models.pretrained.names import MusicnnName
from genretree.sound.features import MEL_16K
from genretree.sound.mel_16k import compress

_TRAIN_PATCHES = 2  # random patches of each slice and epoch


class FineTunedMusicnn(nn.Module):
    """MusiCNN networks and linear classifiers as one module.

    Parameters
    ----------
    networks : mapping of name to Musicnn
    layers : sequence of str
        Layers that the classifiers use, in this order, then image statistics if `images` is among them.
    heads : sequence of LinearHead or None
        One classifier for each level, or for the leaves; None for a level with a single class.
    """

    def __init__(
        self, networks: Mapping[MusicnnName, Musicnn], layers: Sequence[str], heads: Sequence[LinearHead | None]
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(name): network for name, network in networks.items()})
        self.layers = [layer for layer in layers if layer != IMAGES]
        self.uses_images = IMAGES in layers
        self.initial_heads = list(heads)
        self.heads = nn.ModuleList(_Linear(head) for head in heads if head is not None)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: there is no dropout, and batch normalisation keeps the published statistics."""
        return super().train(False)

    def forward(self, patches: Tensor, statistics: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Compute the loss for patches (n, k, 187, 96), statistics (n, width), classes (n, n_heads), weights (n,)."""
        parts = []
        for network in self.networks.values():
            outputs = pool_patches(network(patches.flatten(0, 1)), len(patches))
            parts += [outputs[layer] for layer in self.layers]
        features = torch.cat([*parts, statistics], dim=1)
        losses = [
            functional.cross_entropy(head(features), labels[:, place], reduction="none", ignore_index=-1)
            for place, head in enumerate(self.heads)
        ]
        return {"loss": (torch.stack(losses).mean(dim=0) * weights).mean()}

    def read_networks(self) -> dict[MusicnnName, Musicnn]:
        """Return the current networks."""
        return {name: network.eval().requires_grad_(False) for name, network in self.networks.items()}  # type: ignore[misc]

    def read_heads(self) -> list[LinearHead | None]:
        """Return the current classifiers."""
        modules = iter(self.heads)
        return [None if head is None else next(modules).read(head) for head in self.initial_heads]  # type: ignore[operator]


class _Linear(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(head.mean), persistent=False)
        self.register_buffer("scale", torch.from_numpy(head.scale), persistent=False)
        self.weight = nn.Parameter(torch.from_numpy(head.weights.copy()))
        self.bias = nn.Parameter(torch.from_numpy(head.bias.copy()))

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear((features - self.mean) / self.scale, self.weight, self.bias)

    def read(self, head: LinearHead) -> LinearHead:
        weights, bias = (value.detach().cpu().numpy().copy() for value in (self.weight, self.bias))
        return LinearHead(head.mean, head.scale, weights, bias, head.classes)


@dataclass(frozen=True)
class PatchTargets:
    """Slices with `mel_16k`, their class for each classifier (n, n_heads; -1: none), and sample weights (n,)."""

    dataset: SliceDataset
    classes: Int64Array
    weights: Float64Array


@dataclass(frozen=True)
class FineTuningResult:
    """Result of fine-tuning: history, and the validation loss before it and of the best epoch."""

    history: list[dict[str, float]]
    before: float
    after: float

    @property
    def helped(self) -> bool:
        """Whether the validation loss decreased."""
        return self.after < self.before


class PatchDataset(Dataset[Any]):
    """Slices as patches of `mel_16k`: random ones with a seed, evenly spaced ones without."""

    def __init__(self, targets: PatchTargets, patches: int, images: bool, seed: int | None = None) -> None:
        self.dataset = targets.dataset
        self.mel_16k = targets.dataset.features[MEL_16K]
        self.classes = targets.classes
        self.weights = targets.weights.astype(np.float32)
        self.patches = patches
        self.statistics = np.zeros((len(self.dataset), 0), np.float32)
        if images:
            self.statistics = dataset_statistics(self.dataset)
        self.rng = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> int:
        return position

    def __getitems__(self, positions: list[int]) -> dict[str, Tensor]:
        indices = np.array(positions)
        slices = [compress(self.mel_16k[row]) for row in self.dataset.rows[indices]]
        return {
            "patches": torch.from_numpy(np.stack([self._cut(mel) for mel in slices])),
            "statistics": torch.from_numpy(self.statistics[indices]),
            "labels": torch.from_numpy(self.classes[indices]),
            "weights": torch.from_numpy(self.weights[indices]),
        }

    def _cut(self, mel: Float32Array) -> Float32Array:
        if self.rng is None or len(mel) <= PATCH_FRAMES:
            found = cut_patches(mel, self.patches)
            return found if len(found) == self.patches else np.repeat(found[:1], self.patches, axis=0)
        starts = self.rng.integers(0, len(mel) - PATCH_FRAMES + 1, self.patches)
        return np.stack([mel[start : start + PATCH_FRAMES] for start in starts])


def fine_tune(
    model: FineTunedMusicnn,
    train_targets: PatchTargets,
    validation_targets: PatchTargets,
    patches: int,
    settings: NetworkSettings,
    context: FitContext,
) -> FineTuningResult:
    """Train all weights of a model; it keeps the epoch with the minimum validation loss."""
    set_seed(settings.seed)
    train_set = PatchDataset(train_targets, _TRAIN_PATCHES, model.uses_images, settings.seed)
    validation_set = PatchDataset(validation_targets, patches, model.uses_images)
    before = _loss(model, validation_set, settings.batch_size)
    history, metadata = train_network(model, train_set, validation_set, settings, context)
    model.to("cpu")
    return FineTuningResult(history, before, float(metadata["best_validation_loss"]))


def _loss(model: FineTunedMusicnn, validation_targets: PatchDataset, batch: int) -> float:
    """Compute the mean validation loss over batches, as in training."""
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(validation_targets), batch):
            positions = list(range(start, min(start + batch, len(validation_targets))))
            total += float(model(**validation_targets.__getitems__(positions))["loss"]) * len(positions)
    return total / len(validation_targets)
