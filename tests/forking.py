"""Processes of their own that have the imports of this one already, as these take most of a short process's time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from transformers import TrainerCallback

START_METHOD = "spawn" if torch.cuda.is_available() else "fork"  # a fork can't use its parent's GPU


class KillAtStep(TrainerCallback):
    """Kill the process that trains before it makes a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: object, state: Any, control: object, **kwargs: object) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run_in_child(target: Callable[..., None], *words: Any) -> int:
    """Call a function in a process of its own; returns the exit code, negative for a signal."""
    process = multiprocessing.get_context(START_METHOD).Process(target=_run, args=(target, *words))
    process.start()
    try:
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode
    finally:
        process.kill()


def _run(target: Callable[..., None], *words: Any) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    threadpool_limits(1)
    target(*words)
