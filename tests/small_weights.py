"""Weights of the right shape for pretrained networks, but random: nothing has to be downloaded for a test."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from genretree.models.pretrained.mn04 import Mn04
from genretree.models.pretrained.musicnn import Musicnn


def write_musicnn(folder: Path, *names: str) -> Path:
    """Write seeded random networks as `musicnn-NAME.safetensors`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names or ("msd",)):
        torch.manual_seed(seed)
        save_file(Musicnn().state_dict(), folder / f"musicnn-{name}.safetensors")
    return folder


def write_mn04(folder: Path) -> Path:
    """Write a seeded random network as `mn04.safetensors`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(Mn04().state_dict(), folder / "mn04.safetensors")
    return folder
