"""Settings of the family `boosting`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from genretree.models.families.boosting.feature_extractor import Feature
from genretree.models.neural.settings import PIXELS_HELP, Pixels
from genretree.models.pretrained.names import CACHED, MusicnnName
from genretree.settings import MODALITIES, Heads, Modality, Settings
from genretree.sound.features import MEL_16K


class BoostingSettings(Settings):
    """Settings of the `boosting` family. The study's own values are in the recipe `boosting-published`."""

    renamed: ClassVar[Mapping[str, str]] = {"balance": "class_weight_power"}

    modalities: tuple[Modality, ...] = Field(MODALITIES, min_length=1)
    image_size: int = Field(128, ge=8, le=1024, description="stored images are averaged down to this size, in pixels")
    pixels: Pixels = Field("decibels", description=PIXELS_HELP)
    heads: Heads = Field(
        "tree", description="tree: one consistent distribution; independent: a classifier for each level"
    )
    features: tuple[Feature, ...] = Field(
        ("components",),
        min_length=1,
        description="what the trees see: components (as published), statistics of the images, MusiCNN's layers",
    )
    networks: tuple[MusicnnName, ...] = Field(("msd",), min_length=1, description="for the feature musicnn: msd, mtt")
    weights: str = Field(CACHED, description="of these networks; 'cached': as published; or a folder")
    components: int = Field(512, ge=1, description="principal components kept, at most one less than training slices")
    pca: Literal["randomized", "incremental"] = Field(
        "randomized",
        description="randomized: block power iteration (exact components where the slices fit into 1 GB); incremental: "
        "scikit-learn's IncrementalPCA in batches of batch_size slices, as in the study",
    )
    batch_size: int = Field(512, ge=2, description="slices in memory at a time")
    learning_rate: float = Field(0.05, gt=0, le=1)
    max_leaf_nodes: int = Field(63, ge=2)
    min_samples_leaf: int = Field(20, ge=1)
    l2_regularization: float = Field(0.0, ge=0)
    max_features: float = Field(1.0, gt=0, le=1, description="share of the features that each split may choose from")
    class_weight_power: float = Field(
        0.0, ge=0, le=1, description="weigh classes in the loss by their share of slices to minus this"
    )
    stopping: Literal["validation", "random_tenth"] = Field(
        "validation",
        description="where the loss is measured that ends the boosting: validation: on the validation part; "
        "random_tenth: on a tenth of the training slices, which the trees then don't learn from, as in the study",
    )
    epochs: int = Field(200, ge=1, description="most boosting iterations")
    patience: int = Field(10, ge=1, description="stop after so many iterations without a better validation loss")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the inputs that the features need."""
        images = any(name != "musicnn" for name in self.features)
        return (*(self.modalities if images else ()), *((MEL_16K,) if "musicnn" in self.features else ()))

    @model_validator(mode="after")
    def _batches_hold_components(self) -> Self:
        if self.pca == "incremental" and self.batch_size < self.components:
            raise ValueError(
                f"batch_size is {self.batch_size} and components is {self.components}; IncrementalPCA needs at least "
                "as many slices in a batch as components: raise batch_size, or set pca=randomized"
            )
        return self
