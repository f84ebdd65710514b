"""Settings of the neural families. Nothing here needs torch, so that an export can be run without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from genretree.models.linear.logistic import Regularisations
from genretree.models.pretrained.names import CACHED, NONE, MusicnnName
from genretree.settings import MODALITIES, Heads, Modality, Settings
from genretree.sound.features import MEL_16K

Pixels = Literal["decibels", "luminance"]
PIXELS_HELP = (
    "decibels: brightness is linear in dB; luminance: that of the data set's drawings in magma, as the study read them"
)
Kind = TypeVar("Kind", bound=Settings)


class NetworkSettings(Settings):
    """How a network sees images and how it is trained."""

    explain_methods: ClassVar[tuple[str, ...]] = ("gradcam", "integrated-gradients")
    renamed: ClassVar[Mapping[str, str]] = {
        "balance": "class_weight_power",
        "shifts": "n_tta_shifts",
        "strengths": "Cs",
        "averaging": "ema_decay",
        "accumulate": "gradient_accumulation_steps",
    }

    modalities: tuple[Modality, ...] = Field(MODALITIES, description="which images it sees")
    image_size: int = Field(224, ge=32, le=1024, description="stored images are averaged down to this size, in pixels")
    pixels: Pixels = Field("decibels", description=PIXELS_HELP)
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
    class_weight_power: float = Field(
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
    teacher_networks: tuple[MusicnnName, ...] = Field(("msd",), min_length=1, description="which of them: msd, mtt")
    teacher_folder: str = Field(CACHED, description="'cached': as published; or a folder with their weights")
    genre_weight: float = Field(1.0, ge=0, description="of the genres beside the teacher; 0: learn from it alone")
    n_tta_shifts: int = Field(1, ge=1, le=16, description="average predictions over so many turns of a slice in time")
    classifier: Literal["network", "linear"] = Field(
        "network", description="linear: a linear classifier on the network's features, in the place of its head"
    )
    statistics: bool = Field(True, description="the linear classifier may see the statistics of the images too")
    Cs: Regularisations = Field(
        (0.001, 0.003, 0.01, 0.03), min_length=1, description="inverse regularisations it chooses from"
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="keep a moving average of the weights: share kept at each update"
    )
    weight_decay: float = Field(5e-4, ge=0)
    decay_biases: bool = Field(
        False, description="apply weight_decay to biases and normalisations too, as in the study"
    )
    epochs: int = Field(30, ge=0, description="0: the network stays as its weights are, for a linear classifier")
    warmup_epochs: float = Field(5, ge=0, description="linear, at most a quarter of the epochs; then cosine to 0")
    patience: int = Field(10, ge=1, description="stop after this number of epochs without a better validation loss")
    min_improvement: float = Field(0.0, ge=0, description="smallest decrease of the validation loss that counts")
    batch_size: int = Field(32, ge=2, description="slices for each step and device")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="steps whose gradients are added up before one update"
    )
    schedule: Literal["cosine", "study"] = Field(
        "cosine",
        description="cosine: warm-up, then cosine to 0; study: the rate that the published loop really had, whose "
        "scheduler was given the validation loss in the place of the epoch",
    )
    max_gradient_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0: not clipped")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field("auto", description="of training")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the inputs that training needs: the images, and audio for a teacher."""
        return self.modalities if self.teacher == "none" else (*self.modalities, MEL_16K)

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

    @model_validator(mode="after")
    def _decays_one_way(self) -> Self:
        if self.decay_biases and self.layer_decay < 1:
            raise ValueError("decay_biases needs layer_decay=1: layer-wise rates don't decay biases")
        return self

    @field_validator("label_smoothing")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 <= share < 1 for share in value):
            raise ValueError("give one value for each level, each from 0 up to 1")
        return value


Architecture = Literal["default", "study"]


class _StudySettings(NetworkSettings):
    """Settings of the families that have the study's own network as well."""

    architecture: Architecture = Field(
        "default", description="default: genretree's network; study: the published one, weight for weight"
    )

    @model_validator(mode="after")
    def _from_scratch(self) -> Self:
        if self.architecture == "study" and getattr(self, "weights", NONE) != NONE:
            raise ValueError("architecture is study: that network is trained from scratch, set weights=none")
        return self


class CnnSettings(_StudySettings):
    """Settings of the `cnn` family: a residual network after the published one, with the tree head."""

    weights: str = Field(NONE, description="'none': from scratch; 'student'; or a folder of `genretree pretrain`")


class EfficientNetSettings(NetworkSettings):
    """Settings of the `efficientnet-b0` family; the defaults are the published ones, with the tree head."""

    weights: str = Field(
        "google/efficientnet-b0",
        description="pretrained weights: a file, a folder, a Hub name (user/name@revision) or a name from "
        "`genretree weights list`; 'none': from scratch",
    )
    stochastic_depth: bool = Field(
        False, description="drop residual branches for whole images, as torchvision; otherwise single values"
    )
    label_smoothing: tuple[float, ...] = (0.1,)
    mask_probability: float = Field(0.0, ge=0, le=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_epochs: float = Field(0, ge=0)
    batch_size: int = Field(64, ge=2)


class AstSettings(_StudySettings):
    """Settings of the `ast` family: a small transformer after the published one, with the tree head."""

    explain_methods: ClassVar[tuple[str, ...]] = ("rollout", "integrated-gradients")
    weights: str = Field(
        NONE,
        description="'none': the small one from scratch; else a file, a folder, a Hub name or 'student', with an "
        "ASTModel or a small one",
    )
    modalities: tuple[Modality, ...] = ("mel",)
    dropout: float = Field(0.4, ge=0, lt=1)
    label_smoothing: tuple[float, ...] = (0.1,)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    epochs: int = Field(60, ge=0)
    batch_size: int = Field(128, ge=2)


def as_settings(settings: Any, kind: type[Kind]) -> Kind:
    """Check that settings are of the family's own kind."""
    if not isinstance(settings, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(settings).__name__}")
    return settings
