"""The arithmetic that a network is trained in: what is asked for, or what is found faster on this machine."""

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

_KNOWN = ("float32", "bf16", "fp16")
_TURNS = 3  # the first of them warms up
_GAIN = 0.95  # bf16 is less exact, so it has to be faster by more than chance


def choose_precision(wanted: str) -> str:
    """Resolve `auto` by the hardware: bf16 where processor or GPU computes in it, fp16 on older GPUs, else float32."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if fast_bf16() else "float32"


def choose_by_trial(wanted: str, network: nn.Module, batch: Callable[[], Mapping[str, Tensor]], note: Path) -> str:
    """Resolve `auto`, on a processor that computes in bf16 by trying a few steps of the network in both.

    Not every network is faster in bf16: some kernels are missing, and small networks spend their time elsewhere.

    Parameters
    ----------
    wanted : str
        `auto`, `float32`, `bf16` or `fp16`.
    network : nn.Module
        Its `forward` takes the batch and gives a loss. A copy is tried: weights, running statistics and the random
        numbers to come stay as they are.
    batch : function
        Gives some examples, by the names of `forward`'s parameters.
    note : Path
        A file for what was found, so that an interrupted training goes on in the same arithmetic.
    """
    with suppress(OSError):
        if wanted == "auto" and (noted := note.read_text(encoding="utf-8").strip()) in _KNOWN:
            return noted
    chosen = choose_precision(wanted)
    # Several processes must agree, so each goes by the hardware alone.
    if wanted == "auto" and chosen == "bf16" and not torch.cuda.is_available() and world_size() == 1:
        seconds = _try_steps(network, batch())
        chosen = "bf16" if seconds["bf16"] < _GAIN * seconds["float32"] else "float32"
        write_text(note, chosen)
    return chosen


def _try_steps(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Time forward and backward passes in both arithmetics, by turns: the least seconds of each."""
    tried: Any = copy.deepcopy(network).train()
    seconds: dict[str, list[float]] = {"float32": [], "bf16": []}
    with torch.random.fork_rng():
        for turn in range(_TURNS):
            for name, found in seconds.items():
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                    loss = tried(**batch)["loss"]
                loss.backward()
                if turn:
                    found.append(time.perf_counter() - began)
    return {name: min(found) for name, found in seconds.items()}
