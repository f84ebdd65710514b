"""Names of pretrained weights and of their files; importing this loads no other library."""

from __future__ import annotations

from typing import Literal

MusicnnName = Literal["msd", "mtt"]  # by the data that the network was trained on
MUSICNN_NAMES: tuple[MusicnnName, ...] = ("msd", "mtt")
CACHED = "cached"  # the published weights in the cache folder, where a path could be given too
NONE = "none"  # no pretrained weights: train from scratch
WEIGHTS_FILE = "model.safetensors"
BACKBONE_FILE = "backbone.json"  # configuration of a backbone from transformers
