"""Training precision: resolution of `auto` from the hardware, or from a timed trial."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genretree.files import write_text
from genretree.parallel import fast_bf16, world_size

_PRECISIONS = ("float32", "bf16", "fp16")
_TRIAL_ROUNDS = 3  # the first is a warm-up
_MAX_TIME_RATIO = 0.95  # of bf16 to float32; bf16 is less accurate, so it has to be clearly faster


def choose_precision(precision: str) -> str:
    """Resolve `auto` from the hardware: bf16 if the CPU or GPU supports it, fp16 on older GPUs, else float32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if fast_bf16() else "float32"


def choose_by_trial(precision: str, network: nn.Module, batch: Callable[[], Mapping[str, Tensor]], path: Path) -> str:
    """Resolve `auto`; on a CPU that supports bf16, by timing a few training steps in both precisions.

    Not every network is faster in bf16: some kernels are missing, and small networks are bound by other costs.

    Parameters
    ----------
    precision : str
        `auto`, `float32`, `bf16` or `fp16`.
    network : nn.Module
        Its `forward` takes the batch and returns a loss. The trial runs on a copy: weights, running statistics and the
        state of the random generator don't change.
    batch : function
        Returns a batch, as a mapping of `forward`'s parameters.
    path : Path
        File for the result, so that a resumed training uses the same precision.

    Returns
    -------
    {"float32", "bf16", "fp16"}
    """
    with suppress(OSError):
        if precision == "auto" and (saved := path.read_text(encoding="utf-8").strip()) in _PRECISIONS:
            return saved
    resolved = choose_precision(precision)
    # Several processes must agree, so there is no trial in distributed training.
    if precision == "auto" and resolved == "bf16" and not torch.cuda.is_available() and world_size() == 1:
        seconds = _try_steps(network, batch())
        resolved = "bf16" if seconds["bf16"] < _MAX_TIME_RATIO * seconds["float32"] else "float32"
        write_text(path, resolved)
    return resolved


def _try_steps(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Time forward and backward passes in both precisions, alternating: the minimum seconds of each."""
    trial_network: Any = copy.deepcopy(network).train()
    seconds: dict[str, list[float]] = {"float32": [], "bf16": []}
    with torch.random.fork_rng():
        for trial in range(_TRIAL_ROUNDS):
            for name, times in seconds.items():
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                    loss = trial_network(**batch)["loss"]
                loss.backward()
                if trial:
                    times.append(time.perf_counter() - start)
    return {name: min(times) for name, times in seconds.items()}
