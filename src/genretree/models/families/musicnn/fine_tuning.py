"""Let the MusiCNN networks learn on, together with a linear classifier that was fitted on them first.

As linear probing and then fine-tuning (Kumar et al. 2022): the classifier starts where it is best for the networks as
published, and all move slowly from there. Normalisations keep the statistics they were published with.
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

_LEARNED_PATCHES = 2  # of each slice and epoch, at random


class TunedMusicnn(nn.Module):
    """Networks and classifiers as one module.

    Parameters
    ----------
    networks : mapping of name to Musicnn
    layers : sequence of str
        Which layers the classifiers see, in this order, then the statistics of the images if `images` is among them.
    heads : sequence of LinearHead or None
        For each level that has a classifier of its own; None where there is nothing to tell apart.
    """

    def __init__(
        self, networks: Mapping[MusicnnName, Musicnn], layers: Sequence[str], heads: Sequence[LinearHead | None]
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(name): network for name, network in networks.items()})
        self.layers = [layer for layer in layers if layer != IMAGES]
        self.sees_images = IMAGES in layers
        self.given = list(heads)
        self.heads = nn.ModuleList(_Linear(head) for head in heads if head is not None)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, which changes nothing: there is no dropout, and normalisations stay as published."""
        return super().train(False)

    def forward(self, patches: Tensor, statistics: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Give the loss on patches (n, k, 187, 96), statistics (n, width or 0), classes (n, heads), weights (n,)."""
        parts = []
        for network in self.networks.values():
            heard = pool_patches(network(patches.flatten(0, 1)), len(patches))
            parts += [heard[layer] for layer in self.layers]
        features = torch.cat([*parts, statistics], dim=1)
        losses = [
            functional.cross_entropy(head(features), labels[:, place], reduction="none", ignore_index=-1)
            for place, head in enumerate(self.heads)
        ]
        return {"loss": (torch.stack(losses).mean(dim=0) * weights).mean()}

    def read_networks(self) -> dict[MusicnnName, Musicnn]:
        """Give the networks as they are now."""
        return {name: network.eval().requires_grad_(False) for name, network in self.networks.items()}  # type: ignore[misc]

    def read_heads(self) -> list[LinearHead | None]:
        """Give the classifiers as they are now."""
        learned = iter(self.heads)
        return [None if head is None else next(learned).read(head) for head in self.given]  # type: ignore[operator]


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
    """Slices with sound, the class of each for every classifier (n, heads; -1: none), and their weights (n,)."""

    examples: SliceDataset
    classes: Int64Array
    weights: Float64Array


@dataclass(frozen=True)
class FineTuningResult:
    """What fine-tuning did: validation loss with the networks as they came, and of the best epoch."""

    history: list[dict[str, float]]
    before: float
    after: float

    @property
    def helped(self) -> bool:
        """Whether the loss got less."""
        return self.after < self.before


class PatchDataset(Dataset[Any]):
    """Slices as patches of their sound: random ones to learn from, or evenly spread ones."""

    def __init__(self, lesson: PatchTargets, patches: int, images: bool, seed: int | None = None) -> None:
        self.examples = lesson.examples
        self.sound = lesson.examples.features[MEL_16K]
        self.classes = lesson.classes
        self.weights = lesson.weights.astype(np.float32)
        self.patches = patches
        self.statistics = np.zeros((len(self.examples), 0), np.float32)
        if images:
            self.statistics = dataset_statistics(self.examples)
        self.chance = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> int:
        return position

    def __getitems__(self, positions: list[int]) -> dict[str, Tensor]:
        chosen = np.array(positions)
        pieces = [compress(self.sound[row]) for row in self.examples.rows[chosen]]
        return {
            "patches": torch.from_numpy(np.stack([self._cut(piece) for piece in pieces])),
            "statistics": torch.from_numpy(self.statistics[chosen]),
            "labels": torch.from_numpy(self.classes[chosen]),
            "weights": torch.from_numpy(self.weights[chosen]),
        }

    def _cut(self, piece: Float32Array) -> Float32Array:
        if self.chance is None or len(piece) <= PATCH_FRAMES:
            found = cut_patches(piece, self.patches)
            return found if len(found) == self.patches else np.repeat(found[:1], self.patches, axis=0)
        starts = self.chance.integers(0, len(piece) - PATCH_FRAMES + 1, self.patches)
        return np.stack([piece[start : start + PATCH_FRAMES] for start in starts])


def fine_tune(
    model: TunedMusicnn,
    learned: PatchTargets,
    held: PatchTargets,
    patches: int,
    settings: NetworkSettings,
    context: FitContext,
) -> FineTuningResult:
    """Train all of a model; it keeps the epoch with the least loss on `patches` of each held slice."""
    set_seed(settings.seed)
    learn = PatchDataset(learned, _LEARNED_PATCHES, model.sees_images, settings.seed)
    check = PatchDataset(held, patches, model.sees_images)
    before = _loss(model, check, settings.batch_size)
    history, facts = train_network(model, learn, check, settings, context)
    model.to("cpu")
    return FineTuningResult(history, before, float(facts["best_validation_loss"]))


def _loss(model: TunedMusicnn, held: PatchDataset, batch: int) -> float:
    """Mean validation loss, batch by batch, as the training measures it."""
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(held), batch):
            positions = list(range(start, min(start + batch, len(held))))
            total += float(model(**held.__getitems__(positions))["loss"]) * len(positions)
    return total / len(held)
