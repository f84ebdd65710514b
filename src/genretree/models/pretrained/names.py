"""Names of pretrained weights and of their files; importing this loads no other library."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

MusicnnName = Literal["msd", "mtt"]  # by the data that the network was trained on
MUSICNN_NAMES: tuple[MusicnnName, ...] = ("msd", "mtt")
WEIGHTS_FILE = "model.safetensors"
BACKBONE_FILE = "backbone.json"  # configuration of a backbone from transformers


class Weights(StrEnum):
    """Special values of the setting `weights`; any other value is a path, a registered name or a Hub name.

    Members are strings and compare equal to the values in settings.

    Examples
    --------
    >>> from genretree.models.pretrained.names import Weights
    >>> "none" == Weights.NONE
    True
    """

    NONE = "none"
    """No pretrained weights: train from scratch."""
    STUDENT = "student"
    """Weights in the package, pretrained by distillation from MusiCNN."""
    STUDENT_BOTH = "student-both"
    """Weights in the package, pretrained by distillation from MusiCNN and mn04."""
    CACHED = "cached"
    """Published MusiCNN weights in the user's cache."""
