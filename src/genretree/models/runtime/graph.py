"""Networks of models as graphs that runtimes other than torch can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from genretree.arrays import Array
from genretree.models.runtime.types import Runner

if TYPE_CHECKING:  # models without networks are loaded without torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Graph:
    """A network including its preprocessing.

    Parameters
    ----------
    module : nn.Module
        Takes one tensor and returns a tuple of tensors, each of shape (n, width).
    example : Tensor
        An example input; the batch size may vary.
    outputs : tuple of str
        Names of the outputs.
    bf16 : bool
        Whether probabilities in bf16 stay within 0.02 of those in float32 (docs/figures-methods.md). If not, the
        precision "auto" means float32.
    """

    module: nn.Module
    example: Tensor
    outputs: tuple[str, ...]
    bf16: bool = True


@runtime_checkable
class HasGraphs(Protocol):
    """A model with networks that other runtimes can run."""

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the networks by name, for stored images of `image_size` pixels; empty if there are none."""
        ...

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the networks with other functions, given by the names of `graphs`."""
        ...


def run_torch(graph: Graph, bf16: bool) -> Runner:
    """Create a runner for a graph in torch, with matrix products in bf16 or float32."""
    import torch

    from genretree.models.runtime.devices import device_of

    def run(batch: Array) -> tuple[Array, ...]:
        inputs = torch.from_numpy(batch).to(device_of(graph.module))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return tuple(output.float().cpu().numpy() for output in graph.module(inputs))

    return run


def wrap_runner(run: Runner) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Wrap a runner as a function of tensors."""
    import torch

    return lambda batch: tuple(map(torch.from_numpy, run(batch.contiguous().numpy())))
