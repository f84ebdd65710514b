"""Settings of the neural families; importing them doesn't import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from genretree.models.linear.logistic import Regularisations
from genretree.models.pretrained.names import MusicnnName, Weights
from genretree.settings import MODALITIES, Heads, Modality, Settings
from genretree.sound.features import MEL_16K, MEL_32K

Pixels = Literal["decibels", "luminance"]
Teacher = Literal["none", "musicnn", "mn04", "both"]
PIXELS_HELP = "decibels: linear in dB; luminance: luminance of the data set's magma colour map, as in the study"
TEACHER_FEATURES: dict[Teacher, tuple[str, ...]] = {
    "none": (),
    "musicnn": (MEL_16K,),
    "mn04": (MEL_32K,),
    "both": (MEL_16K, MEL_32K),
}
SettingsType = TypeVar("SettingsType", bound=Settings)


class NetworkSettings(Settings):
    """Settings common to all neural families: input, augmentation, optimisation and evaluation."""

    explain_methods: ClassVar[tuple[str, ...]] = ("gradcam", "integrated-gradients")
    renamed: ClassVar[Mapping[str, str]] = {
        "balance": "class_weight_power",
        "shifts": "n_tta_shifts",
        "strengths": "Cs",
        "averaging": "ema_decay",
        "accumulate": "gradient_accumulation_steps",
    }

    modalities: tuple[Modality, ...] = Field(MODALITIES, description="input images")
    image_size: int = Field(224, ge=32, le=1024, description="size that stored images are downsampled to, in pixels")
    pixels: Pixels = Field("decibels", description=PIXELS_HELP)
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: a head for each level")
    dropout: float = Field(0.3, ge=0, lt=1)
    label_smoothing: tuple[float, ...] = Field((0.05, 0.1, 0.15), description="from the top level down")
    mask_probability: float = Field(0.8, ge=0, le=1, description="SpecAugment: share of masked images")
    time_masks: int = Field(2, ge=0)
    time_mask_width: int = Field(36, ge=0, description="maximum width, in pixels of a 224-pixel image")
    frequency_masks: int = Field(2, ge=0)
    frequency_mask_width: int = Field(24, ge=0, description="maximum width, in pixels of a 224-pixel image")
    slice_offset: bool = Field(False, description="random time offset, up to the start of the next slice")
    pitch_change: float = Field(0.0, ge=0, le=6, description="maximum random pitch shift, in semitones")
    tempo_change: float = Field(0.0, ge=0, lt=0.5, description="maximum random tempo change, as a share")
    equaliser: float = Field(
        0.0, ge=0, le=1, description="standard deviation of a random equaliser curve, as a share of an image's range"
    )
    level_jitter: float = Field(0.0, ge=0, le=1, description="standard deviation of random brightness and contrast")
    mixup: float = Field(0.0, ge=0, description="mixup: both parameters of the beta distribution; 0: off")
    class_weight_power: float = Field(
        0.0, ge=0, le=1, description="class weights in the loss are class frequencies to minus this power"
    )
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(2e-4, gt=0)
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each layer of the backbone to the one below"
    )
    frozen_epochs: int = Field(0, ge=0, description="number of first epochs in which only the head is trained")
    teacher: Teacher = Field(
        "none",
        description="musicnn: distillation from MusiCNN's outputs, in addition to the genres; mn04: from those of the "
        "AudioSet tagger mn04; both: from both, each with half of the loss",
    )
    teacher_networks: tuple[MusicnnName, ...] = Field(("msd",), min_length=1, description="MusiCNN networks: msd, mtt")
    teacher_folder: str = Field(
        Weights.CACHED.value, description="'cached': the published weights; or a folder with weights"
    )
    genre_weight: float = Field(
        1.0, ge=0, description="weight of the genre loss relative to the distillation loss; 0: distillation only"
    )
    n_tta_shifts: int = Field(
        1, ge=1, le=16, description="test-time augmentation: number of time shifts to average predictions over"
    )
    classifier: Literal["network", "linear"] = Field(
        "network", description="linear: a linear classifier on the network's features replaces its head"
    )
    statistics: bool = Field(True, description="consider image statistics as features of the linear classifier")
    Cs: Regularisations = Field(
        (0.001, 0.003, 0.01, 0.03),
        min_length=1,
        description="candidate inverse regularisations of the linear classifier",
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="decay of the exponential moving average of the weights; 0: off"
    )
    weight_decay: float = Field(5e-4, ge=0)
    decay_biases: bool = Field(
        False, description="apply weight_decay to biases and normalisations too, as in the study"
    )
    epochs: int = Field(30, ge=0, description="maximum number of epochs; 0: a frozen network with a linear classifier")
    warmup_epochs: float = Field(
        5, ge=0, description="epochs of linear warm-up, at most a quarter of all; then cosine to 0"
    )
    patience: int = Field(10, ge=1, description="stop after this number of epochs without a better validation loss")
    min_improvement: float = Field(0.0, ge=0, description="smallest decrease of the validation loss that counts")
    batch_size: int = Field(32, ge=2, description="slices for each step and device")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="steps whose gradients are accumulated before an update"
    )
    schedule: Literal["cosine", "study"] = Field(
        "cosine",
        description="cosine: warm-up, then cosine to 0; study: the learning rate that the published loop effectively "
        "had, whose scheduler was given the validation loss instead of the epoch",
    )
    max_gradient_norm: float = Field(1.0, ge=0, description="norm that gradients are clipped to; 0: no clipping")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field("auto", description="training precision")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the features that training needs: the images, and those of the teacher."""
        return (*self.modalities, *TEACHER_FEATURES[self.teacher])

    @field_validator("modalities")
    @classmethod
    def _check_modalities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("must contain at least one of mel, cqt, chroma, each at most once")
        return value

    @model_validator(mode="after")
    def _check_epochs(self) -> Self:
        if self.epochs == 0 and (
            self.classifier == "network" or getattr(self, "weights", Weights.NONE) == Weights.NONE
        ):
            raise ValueError("epochs=0 needs classifier=linear and weights other than none")
        return self

    @model_validator(mode="after")
    def _check_weight_decay(self) -> Self:
        if self.decay_biases and self.layer_decay < 1:
            raise ValueError("decay_biases needs layer_decay=1; layer-wise decay leaves biases out")
        return self

    @field_validator("label_smoothing")
    @classmethod
    def _check_smoothing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 <= share < 1 for share in value):
            raise ValueError("must contain one value in [0, 1) for each level")
        return value


Architecture = Literal["default", "study"]


class _StudySettings(NetworkSettings):
    """Settings of the families with the study's network."""

    architecture: Architecture = Field(
        "default", description="default: genretree's network; study: the published network, weight for weight"
    )

    @model_validator(mode="after")
    def _check_architecture(self) -> Self:
        if self.architecture == "study" and getattr(self, "weights", Weights.NONE) != Weights.NONE:
            raise ValueError("architecture=study is trained from scratch; set weights=none")
        return self


class CnnSettings(_StudySettings):
    """Settings of the `cnn` family."""

    weights: str = Field(
        Weights.NONE.value,
        description="'none': from scratch; 'student' or 'student-both'; or a folder written by `genretree pretrain`",
    )


class EfficientNetSettings(NetworkSettings):
    """Settings of the `efficientnet-b0` family; the defaults are the published values, with the tree head."""

    weights: str = Field(
        "google/efficientnet-b0",
        description="pretrained weights: a file, a folder, a Hub name (user/name@revision) or a name from "
        "`genretree weights list`; 'none': from scratch",
    )
    stochastic_depth: bool = Field(
        False, description="drop residual branches of whole images, as torchvision does; otherwise drop single values"
    )
    label_smoothing: tuple[float, ...] = (0.1,)
    mask_probability: float = Field(0.0, ge=0, le=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_epochs: float = Field(0, ge=0)
    batch_size: int = Field(64, ge=2)


class AstSettings(_StudySettings):
    """Settings of the `ast` family."""

    explain_methods: ClassVar[tuple[str, ...]] = ("rollout", "integrated-gradients")
    weights: str = Field(
        Weights.NONE.value,
        description="'none': a small transformer from scratch; otherwise weights of an ASTModel or small transformer: "
        "a file, a folder, a Hub name or 'student'",
    )
    modalities: tuple[Modality, ...] = ("mel",)
    dropout: float = Field(0.4, ge=0, lt=1)
    label_smoothing: tuple[float, ...] = (0.1,)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    epochs: int = Field(60, ge=0)
    batch_size: int = Field(128, ge=2)


def as_settings(settings: Any, settings_type: type[SettingsType]) -> SettingsType:
    """Check that settings are of the family's own type. Raises TypeError."""
    if not isinstance(settings, settings_type):
        raise TypeError(f"expected {settings_type.__name__}, got {type(settings).__name__}")
    return settings
