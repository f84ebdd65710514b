"""The networks inside of models, as parts that other runtimes than torch can run in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genretree.arrays import Array
from genretree.models.runtime.types import Runner


@dataclass(frozen=True)
class Graph:
    """A network with all the preparation that can be a part of it.

    Parameters
    ----------
    module : nn.Module
        Takes one tensor and gives a tuple of tensors, each of shape (n, width).
    example : Tensor
        An input; any number of rows must do in the place of its own.
    outputs : tuple of str
        Names of what it gives.
    bf16 : bool
        Whether probabilities stay within 0.02 where its products are computed in bf16 (docs/runtimes.md); if not, the
        precision "auto" keeps it in float32.
    """

    module: nn.Module
    example: Tensor
    outputs: tuple[str, ...]
    bf16: bool = True


@runtime_checkable
class HasGraphs(Protocol):
    """A model with networks in it; the rest of the contract apart."""

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Give the networks by name, for stored images of `image_size` pixels; none if there are none."""
        ...

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Let others run the networks, by the names of `graphs`."""
        ...


def run_torch(graph: Graph, bf16: bool) -> Runner:
    """Run a graph by torch, its matrix products in bf16 or float32."""

    def run(batch: Array) -> tuple[Array, ...]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return tuple(output.float().numpy() for output in graph.module(torch.from_numpy(batch)))

    return run


def wrap_runner(run: Runner) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Give a runner that takes and gives tensors."""
    return lambda batch: tuple(map(torch.from_numpy, run(batch.contiguous().numpy())))
