"""Weights of the right shape for pretrained networks, but random: nothing has to be downloaded for a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genretree.models.families import ast, cnn, efficientnet, study_networks
from genretree.models.neural import residual
from genretree.models.pretrained import musicnn_features
from genretree.models.pretrained.mn04 import Mn04
from genretree.models.pretrained.musicnn import Musicnn

_WIDTHS = (32, 64, 128)
_VIT = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192}
_EFFICIENTNET = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}


def shrink_networks(patch: pytest.MonkeyPatch) -> None:
    """Make the families' networks of few and narrow layers, and MusiCNN's patches short.

    What is tested of training and prediction doesn't depend on the size, and most of the time does.
    tests/models/test_pretrained.py and test_study_networks.py have the networks in their published sizes.
    """
    shrink_cnn(patch)
    for sizes, small in ((ast._SMALL, _VIT), (efficientnet._B0, _EFFICIENTNET)):
        for name, value in small.items():
            patch.setitem(sizes, name, value)
    patch.setattr(musicnn_features, "PATCH_FRAMES", 24)


def shrink_cnn(patch: pytest.MonkeyPatch) -> None:
    """Make the residual networks alone small, where the depth of others is tested."""
    for module in (cnn, study_networks, residual):
        patch.setattr(module, "BLOCKS_PER_STAGE", 1)
        patch.setattr(module, "STAGE_WIDTHS", _WIDTHS)


def write_musicnn(folder: Path, *names: str) -> Path:
    """Write seeded random networks as `musicnn-NAME.safetensors`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names or ("msd",)):
        torch.manual_seed(seed)
        save_file(Musicnn().state_dict(), folder / f"musicnn-{name}.safetensors")
    return folder


def write_mn04(folder: Path, seed: int = 0) -> Path:
    """Write a seeded random network as `mn04.safetensors`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file(Mn04().state_dict(), folder / "mn04.safetensors")
    return folder
