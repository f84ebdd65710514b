"""Placement of torch networks on a GPU, for the computations that are worth the transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_fastest_device(*networks: nn.Module) -> Iterator[None]:
    """Move networks to the GPU during the block, if there is one."""
    if not torch.cuda.is_available():
        yield
        return
    try:
        for network in networks:
            network.to("cuda")
        yield
    finally:
        for network in networks:
            network.to("cpu")


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's weights; the CPU if it has none."""
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device
