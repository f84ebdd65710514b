"""Settings of the family `tagger`; importing them doesn't import torch."""

from __future__ import annotations

from pydantic import Field

from genretree.models.linear.logistic import Regularisations
from genretree.models.pretrained.names import Weights
from genretree.settings import Heads, Settings
from genretree.sound.features import MEL_32K

SLICE_SECONDS = 10.0  # the windows that mn04 was trained on


class TaggerSettings(Settings):
    """Settings of the `tagger` family."""

    weights: str = Field(
        Weights.CACHED.value, description="'cached': the published weights of mn04; or a folder with mn04.safetensors"
    )
    Cs: Regularisations = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1, description="candidate inverse regularisations"
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
        return (MEL_32K,)
