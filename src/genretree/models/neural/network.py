"""What all neural families share: images in, level probabilities out, weights as safetensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from genretree.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.errors import BundleError
from genretree.models.base import LevelProbabilities, compute_class_weights
from genretree.models.finite_weights import require_finite
from genretree.models.neural.epoch_accuracy import EpochAccuracy
from genretree.models.neural.head import TreeHead
from genretree.models.neural.pitch_tempo import equalise, shift_and_warp
from genretree.models.neural.settings import NetworkSettings
from genretree.models.neural.spec_augment import mix_pairs, spec_augment
from genretree.models.pretrained.names import BACKBONE_FILE, WEIGHTS_FILE
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.settings import MODALITIES
from genretree.sound.features import IMAGES, Inputs
from genretree.sound.luminance import magma_luminance
from genretree.taxonomy import Taxonomy

_BATCH = 32
_MASK_REFERENCE_SIZE = 224  # pixels; mask widths are given for this image size, as published

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class GenreNetwork(nn.Module):
    """A backbone that scores images, and the tree head.

    Parameters
    ----------
    backbone : nn.Module
        Its `features` takes float images of shape (n, modalities, size, size), about -2 to 2, and gives (n, width); its
        `classify` takes those and gives (n, head.n_scores).
    head : TreeHead
    settings : NetworkSettings
    mean, scale : float or sequence of float
        What is taken off pixels of 0 to 1, and what they are then divided by; one number, or one for each modality.
    """

    mean: Tensor
    scale: Tensor
    leaf_weights: Tensor
    luminance: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        head: TreeHead,
        settings: NetworkSettings,
        mean: float | Sequence[float] = 0.5,
        scale: float | Sequence[float] = 0.25,
    ) -> None:
        super().__init__()
        self.student: nn.Linear | None = None
        self.frozen = False
        self.accuracy: EpochAccuracy | None = None  # counts the answers to labelled batches while it trains
        self.backbone = backbone
        self.head = head
        self.settings = settings
        self.channels = [MODALITIES.index(name) for name in settings.modalities]
        for name, value in (("mean", mean), ("scale", scale)):
            self.register_buffer(name, torch.as_tensor(value).float().reshape(1, -1, 1, 1), persistent=False)
        table = torch.from_numpy(magma_luminance()).float() if settings.pixels == "luminance" else None
        self.register_buffer("luminance", table, persistent=False)
        self.register_buffer("leaf_weights", torch.ones(head.widths[-1]), persistent=False)

    def add_distillation_head(self, width: int) -> None:
        """Learn what a teacher says too, `width` numbers of each slice."""
        self.student = nn.Linear(self.backbone.width, width)  # type: ignore[arg-type]

    def remove_distillation_head(self) -> None:
        """Forget what was needed for learning from a teacher only."""
        self.student = None

    def freeze(self, frozen: bool) -> None:
        """Keep the backbone's normalisations as they are, or let them learn again."""
        self.frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but for the normalisations of a frozen backbone: they would follow the new images."""
        super().train(mode)
        if self.frozen:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def balance_leaves(self, leaves: Int64Array) -> None:
        """Weight leaves in the loss by training slices of shape (n,), to a mean of 1; see `class_weight_power`."""
        weights = compute_class_weights(leaves, self.settings.class_weight_power)
        self.leaf_weights[torch.from_numpy(leaves)] = torch.from_numpy(weights).float()

    def read_images(self, images: Tensor) -> Tensor:
        """Turn stored uint8 images (n, 3, size, size) into the backbone's input, about -2 to 2."""
        return self._normalise(self._reduce(images))

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        next_slices: Tensor | None = None,
        teacher_targets: Tensor | None = None,
        following_lessons: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Score images; with labels or lessons, give the loss too.

        Parameters
        ----------
        images : uint8 tensor, shape (n, 3, size, size)
        labels : int64 tensor, shape (n,), optional
            Leaf indices.
        next_slices : uint8 tensor, shape (n, 3, size, size), optional
            The slices that come next on the same tracks; the same as `images` where there is none.
        teacher_targets, following_lessons : float tensors, shape (n, lesson), optional
            What a teacher says of both.
        """
        if not self.training:
            return self._score(self.read_images(images), labels, teacher_targets)
        pixels, moved = self._change(self._reduce(images), None if next_slices is None else self._reduce(next_slices))
        if teacher_targets is not None and following_lessons is not None:
            # The teacher's outputs are means over time, so those of a slice in between lie between.
            teacher_targets = torch.lerp(teacher_targets, following_lessons, moved[:, None])
        pixels = self._mask(self._normalise(pixels))
        if labels is None:
            return self._score(pixels, labels, teacher_targets)
        pixels, partners, shares = mix_pairs(pixels, self.settings.mixup)
        features = self.backbone.features(pixels)  # type: ignore[operator]
        scores = self.backbone.classify(features)  # type: ignore[operator]
        losses = shares * self._weighed(scores, labels) + (1 - shares) * self._weighed(scores, labels[partners])
        if teacher_targets is not None:
            taught = torch.lerp(teacher_targets[partners], teacher_targets, shares[:, None])
            losses = self.settings.genre_weight * losses + self._distillation_loss(features, taught)
        self._count(scores, torch.where(shares < 0.5, labels[partners], labels))  # of a mixture its greater part
        return {"loss": losses.mean(), "scores": scores}

    def _score(self, pixels: Tensor, labels: Tensor | None, teacher_targets: Tensor | None) -> dict[str, Tensor]:
        features = self.backbone.features(pixels)  # type: ignore[operator]
        scores: Tensor = self.backbone.classify(features)  # type: ignore[operator]
        if labels is None:
            return {"scores": scores}
        self._count(scores, labels)
        if teacher_targets is not None and self.settings.genre_weight == 0:
            return {"loss": self._distillation_loss(features, teacher_targets).mean(), "scores": scores}
        return {"loss": self.head.loss(scores, labels), "scores": scores}

    def _count(self, scores: Tensor, labels: Tensor) -> None:
        if self.accuracy is not None and self.settings.genre_weight > 0:
            self.accuracy.add(self.head, scores, labels, self.training)

    def _distillation_loss(self, features: Tensor, teacher_targets: Tensor) -> Tensor:
        """Mean squared error of what the student hears: shape (n,)."""
        if self.student is None:
            raise ValueError("there is a teacher but no student")
        losses: Tensor = (self.student(features).float() - teacher_targets).square().mean(dim=1)
        return losses

    def _weighed(self, scores: Tensor, labels: Tensor) -> Tensor:
        weighed: Tensor = self.leaf_weights[labels] * self.head.losses(scores, labels)
        return weighed

    def _reduce(self, images: Tensor) -> Tensor:
        """Choose the modalities and average down, to pixels of 0 to 1."""
        size = self.settings.image_size
        chosen = images if self.channels == [0, 1, 2] else images[:, self.channels]
        pixels = chosen.float() if self.luminance is None else self.luminance[chosen.long()]
        if pixels.shape[-1] != size:
            pixels = functional.interpolate(pixels, size=(size, size), mode="area")
        return pixels / 255

    def _normalise(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.mean) / self.scale).contiguous(memory_format=torch.channels_last)

    def _change(self, pixels: Tensor, next_slices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cut, warp and equalise as the settings say; gives too how far each slice moved towards the following."""
        chosen = self.settings
        n, device = len(pixels), pixels.device
        moved = torch.zeros(n, device=device)
        if next_slices is not None:
            moved = torch.rand(n, device=device) * (next_slices != pixels).flatten(1).any(dim=1)
        if next_slices is not None or chosen.pitch_change or chosen.tempo_change:
            size = chosen.image_size
            tempos = 1 + (2 * torch.rand(n, device=device) - 1) * chosen.tempo_change
            semitones = (2 * torch.rand(n, device=device) - 1) * chosen.pitch_change
            # Around the middle of the slice, whatever the tempo.
            starts = moved * size + (1 - tempos) * size / 2
            pieces = pixels if next_slices is None else torch.cat([pixels, next_slices], dim=3)
            pixels = shift_and_warp(pieces, chosen.modalities, starts, tempos, semitones)
        if chosen.equaliser or chosen.level_jitter:
            pixels = equalise(pixels, chosen.modalities, chosen.equaliser, chosen.level_jitter)
        return pixels, moved

    def _mask(self, pixels: Tensor) -> Tensor:
        chosen = self.settings
        scale = chosen.image_size / _MASK_REFERENCE_SIZE
        return spec_augment(
            pixels,
            chosen.mask_probability,
            chosen.time_masks,
            round(chosen.time_mask_width * scale),
            chosen.frequency_masks,
            round(chosen.frequency_mask_width * scale),
        )


class NetworkModel:
    """A trained network behind the contract of every family."""

    input_features: tuple[str, ...] = (IMAGES,)

    def __init__(self, network: GenreNetwork) -> None:
        self.network: GenreNetwork = network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.heads = network.settings.heads
        self.explain_methods = network.settings.explain_methods
        self.score: Callable[[Tensor], Tensor] = lambda images: self.network(images)["scores"]

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Give the network from stored images to scores."""
        return {"network": Graph(_Scores(self.network), example_images(image_size), ("scores",))}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Let another runtime score images."""
        run = wrap_runner(runners["network"])
        self.score = lambda images: run(images)[0]

    def predict_proba(self, inputs: Inputs, batch_size: int = 32) -> LevelProbabilities:
        """Predict the probabilities of every node by level, (n, n_nodes), in float32 unless a runner says otherwise."""
        images = inputs[IMAGES]
        device = next(self.network.parameters()).device
        found: list[list[Float64Array]] = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
                found.append([level.cpu().numpy() for level in self._average(batch)])
        if not found:
            return [np.zeros((0, width)) for width in self.network.head.widths]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the pooled features: shape (n, width)."""
        return network_features(self.network, inputs[IMAGES])

    def torch_module(self) -> nn.Module:
        """Return the network."""
        return self.network

    def shuffle_weights(self, rng: np.random.Generator) -> NetworkModel:
        """Copy the model with the numbers within each array of weights shuffled."""
        return NetworkModel(shuffle_network(self.network, rng))

    def _average(self, batch: Tensor) -> list[Tensor]:
        """Give the probabilities by level, averaged over turns of the images in time."""
        turned = shift_in_time(batch, self.network.settings.n_tta_shifts)
        scored = [self.network.head.log_probabilities(self.score(some)) for some in turned]
        return [torch.stack([one.double().exp() for one in level]).mean(dim=0) for level in zip(*scored, strict=True)]

    def save(self, folder: Path) -> list[str]:
        """Write all weights as safetensors, and what a transformers backbone is made like as JSON."""
        weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        config = getattr(self.network.backbone, "config", None)
        if config is None:
            return [WEIGHTS_FILE]
        made = json.loads(config.to_json_string(use_diff=False))
        made["_name_or_path"] = ""  # a folder of this disk, perhaps, and nothing is read from there
        (folder / BACKBONE_FILE).write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return [WEIGHTS_FILE, BACKBONE_FILE]


class _Scores(nn.Module):
    """From stored images to scores."""

    def __init__(self, network: GenreNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Score uint8 images (n, 3, size, size)."""
        return (self.network(images)["scores"],)


def example_images(size: int) -> Tensor:
    """Give noise as stored images are: uint8, shape (2, 3, size, size)."""
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shift_in_time(images: Tensor, turns: int) -> Iterator[Tensor]:
    """Yield images as they are and turned round in time, in so many equal steps."""
    return (images.roll(round(turn * images.shape[-1] / turns), dims=3) for turn in range(turns))


def network_features(
    network: GenreNetwork, images: UInt8Array, look: Callable[[Tensor], Tensor] | None = None
) -> Float32Array:
    """Compute a network's features of images, averaged over `n_tta_shifts` shifts in time: shape (n, width).

    `look`, from uint8 images (n, 3, size, size) to features (n, width), takes the network's place.
    """
    device = next(network.parameters()).device
    compute = look or (lambda some: network.backbone.features(network.read_images(some)))  # type: ignore[operator]
    found = [np.zeros((0, int(network.backbone.width)), np.float32)]  # type: ignore[arg-type]
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(np.array(images[start : start + _BATCH])).to(device)
            turned = [compute(some) for some in shift_in_time(batch, network.settings.n_tta_shifts)]
            found.append(torch.stack(turned).mean(dim=0).float().cpu().numpy())
    return np.concatenate(found)


def shuffle_network(network: ModuleType, rng: np.random.Generator) -> ModuleType:
    """Copy a network with the numbers within each parameter shuffled."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in made.parameters():
            order = torch.from_numpy(rng.permutation(parameter.numel()))
            parameter.copy_(parameter.flatten()[order].view(parameter.shape))
    return made


def load_weights(network: GenreNetwork, folder: Path) -> NetworkModel:
    """Read weights into a network of the same shape; anything missing, left over or of another shape refuses."""
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
        network.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(
            f"{path}: the weights don't fit this model ({error}); copy or train the bundle again"
        ) from error
    require_finite(path, network.state_dict())  # as loaded: float64 in the file may be infinite in float32
    return NetworkModel(network)


def build_head(taxonomy: Taxonomy, settings: NetworkSettings) -> TreeHead:
    """Make the head that the settings ask for."""
    smoothing: Sequence[float] = settings.label_smoothing
    return TreeHead(taxonomy, settings.heads, smoothing)


def count_parameters(network: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
