"""The network of all neural families, its inference model, and its weights as safetensors."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from genretree.models.differentiable import Attention
from genretree.models.finite_weights import require_finite
from genretree.models.neural.epoch_accuracy import EpochAccuracy
from genretree.models.neural.explained_layers import find_attention, find_last_conv_layer
from genretree.models.neural.head import TreeHead
from genretree.models.neural.pitch_tempo import equalise, shift_and_warp
from genretree.models.neural.settings import NetworkSettings
from genretree.models.neural.spec_augment import mix_pairs, spec_augment
from genretree.models.pretrained.names import BACKBONE_FILE, WEIGHTS_FILE
from genretree.models.runtime.devices import on_fastest_device
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.settings import MODALITIES
from genretree.sound.features import IMAGES, Inputs
from genretree.sound.luminance import magma_luminance
from genretree.taxonomy import Taxonomy

_BATCH_SIZE = 32
_MASK_REFERENCE_SIZE = 224  # pixels; mask widths are given for this image size, as published

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class GenreNetwork(nn.Module):
    """A backbone with the hierarchical head, with preprocessing and augmentation.

    Parameters
    ----------
    backbone : nn.Module
        Its `features` takes float images of shape (n, modalities, size, size), about -2 to 2, and returns (n, width);
        its `classify` takes these and returns (n, head.n_scores).
    head : TreeHead
    settings : NetworkSettings
    mean, scale : float or sequence of float
        Mean that is subtracted from pixels in [0, 1], and scale that they are then divided by, for all or each
        modality.
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
        self.accuracy: EpochAccuracy | None = None  # counts correct predictions during training
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
        """Add a linear layer that predicts a teacher's outputs, `width` values for each slice."""
        self.student = nn.Linear(self.backbone.width, width)  # type: ignore[arg-type]

    def remove_distillation_head(self) -> None:
        """Remove the layer that predicts a teacher's outputs."""
        self.student = None

    def freeze(self, frozen: bool) -> None:
        """Freeze or unfreeze the running statistics of the backbone's batch normalisation."""
        self.frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for the batch normalisation of a frozen backbone."""
        super().train(mode)
        if self.frozen:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def balance_leaves(self, leaves: Int64Array) -> None:
        """Set the class weights of the loss from the leaves of training slices, shape (n,)."""
        weights = compute_class_weights(leaves, self.settings.class_weight_power)
        self.leaf_weights[torch.from_numpy(leaves)] = torch.from_numpy(weights).float()

    def read_images(self, images: Tensor) -> Tensor:
        """Convert stored uint8 images (n, 3, size, size) to the backbone's input, about -2 to 2."""
        return self._normalise(self._downsample(images))

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        next_slices: Tensor | None = None,
        teacher_targets: Tensor | None = None,
        next_teacher_targets: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute scores, and with labels or teacher targets also the loss.

        Parameters
        ----------
        images : uint8 tensor, shape (n, 3, size, size)
        labels : int64 tensor, shape (n,), optional
            Leaf indices.
        next_slices : uint8 tensor, shape (n, 3, size, size), optional
            The next slices of the same tracks; equal to `images` for a track's last slice.
        teacher_targets, next_teacher_targets : float tensors, shape (n, n_targets), optional
            A teacher's outputs for `images` and `next_slices`.

        Returns
        -------
        dict of str to tensor
            `scores`, shape (n, n_scores), and `loss`, a scalar.
        """
        if not self.training:
            return self._score(self.read_images(images), labels, teacher_targets)
        pixels, offsets = self._augment(
            self._downsample(images), None if next_slices is None else self._downsample(next_slices)
        )
        if teacher_targets is not None and next_teacher_targets is not None:
            # The teacher's outputs are means over time, so those of a slice in between can be interpolated.
            teacher_targets = torch.lerp(teacher_targets, next_teacher_targets, offsets[:, None])
        pixels = self._mask(self._normalise(pixels))
        if labels is None:
            return self._score(pixels, labels, teacher_targets)
        pixels, partners, shares = mix_pairs(pixels, self.settings.mixup)
        features = self.backbone.features(pixels)  # type: ignore[operator]
        scores = self.backbone.classify(features)  # type: ignore[operator]
        losses = shares * self._weighted_losses(scores, labels) + (1 - shares) * self._weighted_losses(
            scores, labels[partners]
        )
        if teacher_targets is not None:
            mixed_targets = torch.lerp(teacher_targets[partners], teacher_targets, shares[:, None])
            losses = self.settings.genre_weight * losses + self._distillation_loss(features, mixed_targets)
        self._count(scores, torch.where(shares < 0.5, labels[partners], labels))  # the label of a mixture's larger part
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
        """Compute the mean squared error of the predicted teacher outputs: shape (n,)."""
        if self.student is None:
            raise ValueError("the distillation loss needs a head; call `add_distillation_head` first")
        losses: Tensor = (self.student(features).float() - teacher_targets).square().mean(dim=1)
        return losses

    def _weighted_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        weighted: Tensor = self.leaf_weights[labels] * self.head.losses(scores, labels)
        return weighted

    def _downsample(self, images: Tensor) -> Tensor:
        """Select the modalities and downsample, to pixels in [0, 1]."""
        size = self.settings.image_size
        selected = images if self.channels == [0, 1, 2] else images[:, self.channels]
        pixels = selected.float() if self.luminance is None else self.luminance[selected.long()]
        if pixels.shape[-1] != size:
            pixels = functional.interpolate(pixels, size=(size, size), mode="area")
        return pixels / 255

    def _normalise(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.mean) / self.scale).contiguous(memory_format=torch.channels_last)

    def _augment(self, pixels: Tensor, next_slices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply offset, pitch, tempo and equaliser; returns the offset of each slice too, as a share of a slice."""
        settings = self.settings
        n, device = len(pixels), pixels.device
        offsets = torch.zeros(n, device=device)
        if next_slices is not None:
            offsets = torch.rand(n, device=device) * (next_slices != pixels).flatten(1).any(dim=1)
        if next_slices is not None or settings.pitch_change or settings.tempo_change:
            size = settings.image_size
            tempos = 1 + (2 * torch.rand(n, device=device) - 1) * settings.tempo_change
            # On the CPU, where the rows of a pitch shift are looked up, so that a GPU is not waited for.
            semitones = (2 * torch.rand(n) - 1) * settings.pitch_change
            # Tempo changes keep the middle of the slice in place.
            starts = offsets * size + (1 - tempos) * size / 2
            pieces = pixels if next_slices is None else torch.cat([pixels, next_slices], dim=3)
            pixels = shift_and_warp(pieces, settings.modalities, starts, tempos, semitones)
        if settings.equaliser or settings.level_jitter:
            pixels = equalise(pixels, settings.modalities, settings.equaliser, settings.level_jitter)
        return pixels, offsets

    def _mask(self, pixels: Tensor) -> Tensor:
        settings = self.settings
        scale = settings.image_size / _MASK_REFERENCE_SIZE
        return spec_augment(
            pixels,
            settings.mask_probability,
            settings.time_masks,
            round(settings.time_mask_width * scale),
            settings.frequency_masks,
            round(settings.frequency_mask_width * scale),
        )


class NetworkModel:
    """Inference model of a trained network."""

    input_features: tuple[str, ...] = (IMAGES,)

    def __init__(self, network: GenreNetwork) -> None:
        self.network: GenreNetwork = network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.heads = network.settings.heads
        self.explain_methods = network.settings.explain_methods
        self.score: Callable[[Tensor], Tensor] = lambda images: self.network(images)["scores"]
        self._runs_torch = True

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the network from stored images to scores."""
        return {"network": Graph(_Scores(self.network), example_images(image_size), ("scores",))}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Compute the scores with another runtime."""
        run = wrap_runner(runners["network"])
        self.score = lambda images: run(images)[0]
        self._runs_torch = False

    def on_fastest_device(self) -> AbstractContextManager[None]:
        """Compute on the GPU during the block, if there is one and no other runtime is set."""
        return on_fastest_device(self.network) if self._runs_torch else nullcontext()

    def predict_proba(self, inputs: Inputs, batch_size: int = 32) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        images = inputs[IMAGES]
        device = next(self.network.parameters()).device
        found: list[list[Float64Array]] = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
                found.append([level.cpu().numpy() for level in self._predict_shifted(batch)])
        if not found:
            return [np.zeros((0, width)) for width in self.network.head.widths]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the pooled features: shape (n, width)."""
        return network_features(self.network, inputs[IMAGES])

    def torch_module(self) -> GenreNetwork:
        """Return the network."""
        return self.network

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the images that the network sees."""
        return self.network.settings.modalities

    def log_probabilities(self, images: Tensor, constants: Tensor | None = None) -> list[Tensor]:
        """Compute log probabilities by level, (n, n_nodes), of images (n, 3, size, size), with gradients."""
        n_shifts = self.network.settings.n_tta_shifts
        features = shifted_features(self.network, images)
        scores = self.network.backbone.classify(features)  # type: ignore[operator]
        return [
            level.reshape(n_shifts, -1, level.shape[1]).logsumexp(dim=0) - math.log(n_shifts)
            for level in self.network.head.log_probabilities(scores)
        ]

    def gradcam_layer(self) -> nn.Module | None:
        """Return the last layer before the pooling of a convolutional network, or None for other networks."""
        return find_last_conv_layer(self.network.backbone)

    def attention(self) -> Attention | None:
        """Return the attention of a transformer, or None for other networks."""
        return find_attention(self.network.backbone)

    def shuffle_weights(self, rng: np.random.Generator) -> NetworkModel:
        """Copy the model and shuffle the values within each weight array."""
        return NetworkModel(shuffle_network(self.network, rng))

    def _predict_shifted(self, batch: Tensor) -> list[Tensor]:
        """Compute the probabilities by level, averaged over shifts of the images in time."""
        shifted = shift_in_time(batch, self.network.settings.n_tta_shifts)
        scored = [self.network.head.log_probabilities(self.score(some)) for some in shifted]
        return [torch.stack([one.double().exp() for one in level]).mean(dim=0) for level in zip(*scored, strict=True)]

    def save(self, folder: Path) -> list[str]:
        """Write all weights as safetensors, and the configuration of a transformers backbone as JSON."""
        weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        config = getattr(self.network.backbone, "config", None)
        if config is None:
            return [WEIGHTS_FILE]
        made = json.loads(config.to_json_string(use_diff=False))
        made["_name_or_path"] = ""  # may be a local folder, which doesn't belong in a bundle
        (folder / BACKBONE_FILE).write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return [WEIGHTS_FILE, BACKBONE_FILE]


class _Scores(nn.Module):
    """The network from stored images to scores."""

    def __init__(self, network: GenreNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Compute the scores of uint8 images (n, 3, size, size)."""
        return (self.network(images)["scores"],)


def example_images(size: int) -> Tensor:
    """Create random images of the stored type: uint8, shape (2, 3, size, size)."""
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shift_in_time(images: Tensor, n_shifts: int) -> Iterator[Tensor]:
    """Yield the images rotated in time by 0, 1/turns, 2/turns ... of a slice."""
    return (images.roll(round(shift * images.shape[-1] / n_shifts), dims=3) for shift in range(n_shifts))


def shifted_features(network: GenreNetwork, images: Tensor) -> Tensor:
    """Compute a network's features of all shifts of images in time, with gradients: shape (n_tta_shifts * n, width)."""
    pixels = network.read_images(torch.cat(list(shift_in_time(images, network.settings.n_tta_shifts))))
    features: Tensor = network.backbone.features(pixels)  # type: ignore[operator]
    return features


def network_features(
    network: GenreNetwork, images: UInt8Array, backend: Callable[[Tensor], Tensor] | None = None
) -> Float32Array:
    """Compute a network's features of images, averaged over `n_tta_shifts` shifts in time: shape (n, width).

    `backend`, a function from uint8 images (n, 3, size, size) to features (n, width), replaces the network.
    """
    device = next(network.parameters()).device
    compute = backend or (lambda some: network.backbone.features(network.read_images(some)))  # type: ignore[operator]
    found = [np.zeros((0, int(network.backbone.width)), np.float32)]  # type: ignore[arg-type]
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH_SIZE):
            batch = torch.from_numpy(np.array(images[start : start + _BATCH_SIZE])).to(device)
            shifted = [compute(some) for some in shift_in_time(batch, network.settings.n_tta_shifts)]
            found.append(torch.stack(shifted).mean(dim=0).float().cpu().numpy())
    return np.concatenate(found)


def shuffle_network(network: ModuleType, rng: np.random.Generator) -> ModuleType:
    """Copy a network and shuffle the values within each parameter."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in made.parameters():
            order = torch.from_numpy(rng.permutation(parameter.numel()))
            parameter.copy_(parameter.flatten()[order].view(parameter.shape))
    return made


def load_weights(network: GenreNetwork, folder: Path) -> NetworkModel:
    """Load a bundle's weights into a network. Raises BundleError unless names and shapes match exactly."""
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
        network.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(
            f"{path}: the weights don't fit this model ({error}); copy or train the bundle again"
        ) from error
    require_finite(path, network.state_dict())  # after loading: float64 values may overflow in float32
    return NetworkModel(network)


def build_head(taxonomy: Taxonomy, settings: NetworkSettings) -> TreeHead:
    """Create the head for the settings."""
    smoothing: Sequence[float] = settings.label_smoothing
    return TreeHead(taxonomy, settings.heads, smoothing)


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
