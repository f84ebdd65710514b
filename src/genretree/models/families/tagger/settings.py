"""Settings of the family `tagger`; importing them doesn't import torch."""

from __future__ import annotations

from pydantic import Field, field_validator

from genretree.models.linear.logistic import Regularisations
from genretree.models.pretrained.names import MusicnnName, Weights
from genretree.settings import Heads, Settings
from genretree.sound.features import MEL_16K, MEL_32K

SLICE_SECONDS = 10.0  # the windows that mn04 was trained on


class TaggerSettings(Settings):
    """Settings of the `tagger` family."""

    weights: str = Field(
        Weights.CACHED.value, description="'cached': the published weights of mn04; or a folder with mn04.safetensors"
    )
    musicnn: tuple[MusicnnName, ...] = Field(
        (), description="MusiCNN networks whose outputs are further features: msd, mtt; by default none"
    )
    musicnn_weights: str = Field(
        Weights.CACHED.value,
        description="'cached': the published weights of MusiCNN; or a folder with musicnn-msd.safetensors ...",
    )
    patches: int = Field(4, ge=1, le=16, description="number of 3 s patches of each slice for MusiCNN")
    Cs: Regularisations = Field(
        (1.0, 3.0, 10.0, 30.0),
        min_length=1,
        description="candidate inverse regularisations; the smallest is used for fewer than 30 artists",
    )
    class_weight_power: float = Field(
        0.0, ge=0, le=1, description="class weights are class frequencies to minus this power"
    )
    floor: float = Field(0.003, gt=0, le=1, description="evidence of a node without any tag")
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: one for each level")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the features that training needs."""
        return (MEL_32K, MEL_16K) if self.musicnn else (MEL_32K,)

    @field_validator("musicnn")
    @classmethod
    def _each_once(cls, value: tuple[MusicnnName, ...]) -> tuple[MusicnnName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must contain each network at most once")
        return value
