"""What all neural families share: images in, level probabilities out, weights as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from genretree.errors import BundleError
from genretree.models.augment import mix_pairs, spec_augment
from genretree.models.contract import LevelProbabilities, balance_classes
from genretree.models.graphs import Graph, Runner
from genretree.models.linear import Strengths
from genretree.models.musicnn_weights import CACHED, Network
from genretree.models.tree_head import TreeHead
from genretree.models.warp import equalise, shift_and_warp
from genretree.settings import MODALITIES, Heads, Modality, Settings
from genretree.taxonomy import Taxonomy

WEIGHTS_FILE = "model.safetensors"
BACKBONE_FILE = "backbone.json"
NONE = "none"  # weights: train from scratch
Kind = TypeVar("Kind", bound=Settings)
_MASK_REFERENCE_SIZE = 224  # pixels; mask widths are given for this image size, as published


class NetworkSettings(Settings):
    """How a network sees images and how it is trained."""

    modalities: tuple[Modality, ...] = Field(MODALITIES, description="which images it sees")
    image_size: int = Field(224, ge=32, le=1024, description="stored images are averaged down to this size, in pixels")
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: a head for each level")
    dropout: float = Field(0.3, ge=0, lt=1)
    label_smoothing: tuple[float, ...] = Field((0.05, 0.1, 0.15), description="from the top level down")
    mask_probability: float = Field(0.8, ge=0, le=1, description="SpecAugment: share of images masked")
    time_masks: int = Field(2, ge=0)
    time_mask_width: int = Field(36, ge=0, description="greatest width, in pixels of a 224-pixel image")
    frequency_masks: int = Field(2, ge=0)
    frequency_mask_width: int = Field(24, ge=0, description="greatest width, in pixels of a 224-pixel image")
    slice_offset: bool = Field(False, description="cut slices of neighbouring ones, anywhere between their beginnings")
    pitch_change: float = Field(0.0, ge=0, le=6, description="shift each slice by up to so many semitones")
    tempo_change: float = Field(0.0, ge=0, lt=0.5, description="play each slice faster or slower by up to this share")
    equaliser: float = Field(
        0.0, ge=0, le=1, description="spread of a random curve over the bands, as a share of an image's range"
    )
    level_jitter: float = Field(0.0, ge=0, le=1, description="spread of random brightness and contrast")
    mixup: float = Field(
        0.0, ge=0, description="mix pairs of slices; how much, as both parameters of a beta distribution"
    )
    balance: float = Field(
        0.0, ge=0, le=1, description="weigh leaves in the loss by their share of slices to minus this"
    )
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(2e-4, gt=0)
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each layer of the backbone learns this much slower than the next"
    )
    frozen_epochs: int = Field(0, ge=0, description="epochs in which only the head learns")
    teacher: Literal["none", "musicnn"] = Field(
        "none", description="musicnn: learn what the MusiCNN networks hear in the slices, beside their genres"
    )
    teacher_networks: tuple[Network, ...] = Field(("msd",), min_length=1, description="which of them: msd, mtt")
    teacher_folder: str = Field(CACHED, description="'cached': as published; or a folder with their weights")
    genre_weight: float = Field(1.0, ge=0, description="of the genres beside the teacher; 0: learn from it alone")
    shifts: int = Field(1, ge=1, le=16, description="average predictions over so many turns of a slice in time")
    classifier: Literal["network", "linear"] = Field(
        "network", description="linear: a linear classifier on the network's features, in the place of its head"
    )
    statistics: bool = Field(True, description="the linear classifier may see the statistics of the images too")
    strengths: Strengths = Field(
        (0.001, 0.003, 0.01, 0.03), min_length=1, description="inverse regularisations it chooses from"
    )
    averaging: float = Field(
        0.0, ge=0, lt=1, description="keep a moving average of the weights: share kept at each update"
    )
    weight_decay: float = Field(5e-4, ge=0)
    epochs: int = Field(30, ge=0, description="0: the network stays as its weights are, for a linear classifier")
    warmup_epochs: float = Field(5, ge=0, description="linear, at most a quarter of the epochs; then cosine to 0")
    patience: int = Field(10, ge=1, description="stop after so many epochs without a better validation loss")
    batch_size: int = Field(32, ge=2, description="slices for each step and device")
    accumulate: int = Field(1, ge=1, description="steps whose gradients are added up before one update")
    max_gradient_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field("auto", description="of training")
    seed: int = Field(0, ge=0, lt=2**32)

    @field_validator("modalities")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one of mel, cqt, chroma, each once")
        return value

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if self.epochs == 0 and (self.classifier == "network" or getattr(self, "weights", NONE) == NONE):
            raise ValueError("epochs is 0: that needs classifier=linear, and weights other than none")
        return self

    @field_validator("label_smoothing")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 <= share < 1 for share in value):
            raise ValueError("give one value for each level, each from 0 up to 1")
        return value


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
        self.backbone = backbone
        self.head = head
        self.settings = settings
        self.channels = [MODALITIES.index(name) for name in settings.modalities]
        for name, value in (("mean", mean), ("scale", scale)):
            self.register_buffer(name, torch.as_tensor(value).float().reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("leaf_weights", torch.ones(head.widths[-1]), persistent=False)

    def add_student(self, width: int) -> None:
        """Learn what a teacher says too, `width` numbers of each slice."""
        self.student = nn.Linear(self.backbone.width, width)  # type: ignore[arg-type]

    def drop_student(self) -> None:
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

    def balance_leaves(self, leaves: NDArray[np.int64]) -> None:
        """Weigh leaves in the loss as the setting `balance` asks, by training slices of shape (n,); their mean is 1."""
        weights = balance_classes(leaves, self.settings.balance)
        self.leaf_weights[torch.from_numpy(leaves)] = torch.from_numpy(weights).float()

    def read_images(self, images: Tensor) -> Tensor:
        """Turn stored uint8 images (n, 3, size, size) into the backbone's input, about -2 to 2."""
        return self._normalise(self._reduce(images))

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        following: Tensor | None = None,
        lessons: Tensor | None = None,
        following_lessons: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Score images; with labels or lessons, give the loss too.

        Parameters
        ----------
        images : uint8 tensor, shape (n, 3, size, size)
        labels : int64 tensor, shape (n,), optional
            Leaf indices.
        following : uint8 tensor, shape (n, 3, size, size), optional
            The slices that come next on the same tracks; the same as `images` where there is none.
        lessons, following_lessons : float tensors, shape (n, lesson), optional
            What a teacher says of both.
        """
        if not self.training:
            return self._score(self.read_images(images), labels, lessons)
        pixels, moved = self._change(self._reduce(images), None if following is None else self._reduce(following))
        if lessons is not None and following_lessons is not None:
            # The teacher's outputs are means over time, so those of a slice in between lie between.
            lessons = torch.lerp(lessons, following_lessons, moved[:, None])
        pixels = self._mask(self._normalise(pixels))
        if labels is None:
            return self._score(pixels, labels, lessons)
        pixels, partners, shares = mix_pairs(pixels, self.settings.mixup)
        features = self.backbone.features(pixels)  # type: ignore[operator]
        scores = self.backbone.classify(features)  # type: ignore[operator]
        losses = shares * self._weighed(scores, labels) + (1 - shares) * self._weighed(scores, labels[partners])
        if lessons is not None:
            taught = torch.lerp(lessons[partners], lessons, shares[:, None])
            losses = self.settings.genre_weight * losses + self._misheard(features, taught)
        return {"loss": losses.mean(), "scores": scores}

    def _score(self, pixels: Tensor, labels: Tensor | None, lessons: Tensor | None) -> dict[str, Tensor]:
        features = self.backbone.features(pixels)  # type: ignore[operator]
        scores: Tensor = self.backbone.classify(features)  # type: ignore[operator]
        if labels is None:
            return {"scores": scores}
        if lessons is not None and self.settings.genre_weight == 0:
            return {"loss": self._misheard(features, lessons).mean(), "scores": scores}
        return {"loss": self.head.loss(scores, labels), "scores": scores}

    def _misheard(self, features: Tensor, lessons: Tensor) -> Tensor:
        """Mean squared error of what the student hears: shape (n,)."""
        if self.student is None:
            raise ValueError("there is a teacher but no student")
        losses: Tensor = (self.student(features).float() - lessons).square().mean(dim=1)
        return losses

    def _weighed(self, scores: Tensor, labels: Tensor) -> Tensor:
        weighed: Tensor = self.leaf_weights[labels] * self.head.losses(scores, labels)
        return weighed

    def _reduce(self, images: Tensor) -> Tensor:
        """Choose the modalities and average down, to pixels of 0 to 1."""
        size = self.settings.image_size
        chosen = images if self.channels == [0, 1, 2] else images[:, self.channels]
        pixels = chosen.float()
        if pixels.shape[-1] != size:
            pixels = functional.interpolate(pixels, size=(size, size), mode="area")
        return pixels / 255

    def _normalise(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.mean) / self.scale).contiguous(memory_format=torch.channels_last)

    def _change(self, pixels: Tensor, following: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cut, warp and equalise as the settings say; gives too how far each slice moved towards the following."""
        chosen = self.settings
        n, device = len(pixels), pixels.device
        moved = torch.zeros(n, device=device)
        if following is not None:
            moved = torch.rand(n, device=device) * (following != pixels).flatten(1).any(dim=1)
        if following is not None or chosen.pitch_change or chosen.tempo_change:
            size = chosen.image_size
            tempos = 1 + (2 * torch.rand(n, device=device) - 1) * chosen.tempo_change
            semitones = (2 * torch.rand(n, device=device) - 1) * chosen.pitch_change
            # Around the middle of the slice, whatever the tempo.
            starts = moved * size + (1 - tempos) * size / 2
            pieces = pixels if following is None else torch.cat([pixels, following], dim=3)
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

    needs_sound = False

    def __init__(self, network: GenreNetwork) -> None:
        self.network = network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.heads = network.settings.heads
        self.score: Callable[[Tensor], Tensor] = lambda images: self.network(images)["scores"]

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Give the network from stored images to scores."""
        return {"network": Graph(_Scores(self.network), example_images(image_size), ("scores",))}

    def run_by(self, runners: Mapping[str, Runner]) -> None:
        """Let another runtime score images."""
        run = runners["network"]
        self.score = lambda images: run(images)[0]

    def predict_levels(
        self, images: NDArray[np.uint8], mel_16k: NDArray[np.float16] | None = None, batch_size: int = 32
    ) -> LevelProbabilities:
        """Give the probabilities of every node, by level, (n, n_nodes), in float32 unless a runner says otherwise."""
        device = next(self.network.parameters()).device
        found: list[list[NDArray[np.float64]]] = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
                found.append([level.cpu().numpy() for level in self._average(batch)])
        if not found:
            return [np.zeros((0, width)) for width in self.network.head.widths]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _average(self, batch: Tensor) -> list[Tensor]:
        """Give the probabilities by level, averaged over turns of the images in time."""
        turned = turn_in_time(batch, self.network.settings.shifts)
        scored = [self.network.head.log_probabilities(self.score(some)) for some in turned]
        return [torch.stack([one.double().exp() for one in level]).mean(dim=0) for level in zip(*scored, strict=True)]

    def save(self, folder: Path) -> list[str]:
        """Write all weights as safetensors, and what a transformers backbone is made like as JSON."""
        weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        config = getattr(self.network.backbone, "config", None)
        if config is None:
            return [WEIGHTS_FILE]
        (folder / BACKBONE_FILE).write_text(config.to_json_string(use_diff=False), encoding="utf-8")
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


def turn_in_time(images: Tensor, turns: int) -> Iterator[Tensor]:
    """Yield images as they are and turned round in time, in so many equal steps."""
    return (images.roll(round(turn * images.shape[-1] / turns), dims=3) for turn in range(turns))


def load_weights(network: GenreNetwork, folder: Path) -> NetworkModel:
    """Read weights into a network of the same shape; anything missing, left over or of another shape refuses."""
    path = folder / WEIGHTS_FILE
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(
            f"{path}: the weights don't fit this model ({error}); copy or train the bundle again"
        ) from error
    return NetworkModel(network)


def build_head(taxonomy: Taxonomy, settings: NetworkSettings) -> TreeHead:
    """Make the head that the settings ask for."""
    smoothing: Sequence[float] = settings.label_smoothing
    return TreeHead(taxonomy, settings.heads, smoothing)


def count_parameters(network: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def as_settings(settings: Any, kind: type[Kind]) -> Kind:
    """Check that settings are of the family's own kind."""
    if not isinstance(settings, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(settings).__name__}")
    return settings
