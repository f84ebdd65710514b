"""A GPU that only checks placement: PyTorch's device `meta` in its place, without data.

An operation on tensors of both devices fails, as on a GPU, and so does converting a tensor of the GPU to an array.
Values that come back from the GPU are 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genretree.models.features.cache import FeatureCache

_GPU = torch.device("meta")
_MIXING = {"aten::_to_copy", "aten::copy_", "aten::index.Tensor"}  # allowed for tensors of two devices on a GPU, too


class FakeGpu(TorchDispatchMode):
    """Refuses operations on tensors of two devices; notes the modules that are moved, and the number of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[str, str]] = []  # class of the module, device
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor) and each.ndim]
        devices = {each.device.type for each in tensors}
        if len(devices) > 1 and func.name() not in _MIXING:
            raise RuntimeError(f"{func.name()}: tensors of two devices: {devices}")
        self.operations += _GPU.type in devices
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Pretend during the block that there is a GPU; nothing that is computed is saved in a store."""
    gpu = FakeGpu()
    on_cpu: dict[int, list[torch.Tensor]] = {}
    module_to, tensor_to, to_cpu = torch.nn.Module.to, torch.Tensor.to, torch.Tensor.cpu

    def move_module(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        target = _device(args)
        if target is None or (target == "cpu" and id(module) not in on_cpu):
            return module_to(module, *args, **kwargs)
        gpu.moves.append((type(module).__name__, target))
        if target == "cpu":
            saved = iter(on_cpu.pop(id(module)))
            return module._apply(lambda _: next(saved))
        if id(module) not in on_cpu:
            before = on_cpu[id(module)] = []
            module._apply(lambda tensor: (before.append(tensor.detach()), torch.empty_like(tensor, device=_GPU))[1])
        return module

    def move_tensor(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        target = _device(args)
        if target == "cpu":
            return fetch(tensor)
        return tensor_to(tensor, *args, **kwargs) if target is None else torch.empty_like(tensor, device=_GPU)

    def fetch(tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.device == _GPU else to_cpu(tensor)

    with pytest.MonkeyPatch.context() as patch, gpu:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.nn.Module, "to", move_module)
        patch.setattr(torch.Tensor, "to", move_tensor)
        patch.setattr(torch.Tensor, "cpu", fetch)
        patch.setattr(FeatureCache, "_save", lambda _: None)
        yield gpu


def _device(args: tuple[Any, ...]) -> str | None:
    """The device that the arguments of `to` name: the GPU, the CPU, or None."""
    if not args or not isinstance(args[0], str | torch.device):
        return None
    kind = torch.device(args[0]).type
    return "gpu" if kind in ("cuda", "meta") else kind
