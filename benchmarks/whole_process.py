"""Time and memory of a process together with all that it starts, and how times compare."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence

import psutil

SAMPLE_SECONDS = 0.5  # reading the sizes stops the process for some milliseconds


def ratio(usual: Sequence[float], ours: Sequence[float], times: float = 1) -> str:
    """Ratio of medians, and the least and greatest of a round."""
    each = [times * one / other for one, other in zip(usual, ours, strict=True)]
    middle = times * statistics.median(usual) / statistics.median(ours)
    return f"{middle:.2f} ({min(each):.2f} to {max(each):.2f})"


def measure(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    every: float = SAMPLE_SECONDS,
    quiet: bool = False,
    limit: float = float("inf"),
) -> tuple[float, float, str]:
    """Run a command; return its seconds, the peak megabytes of all its processes together, and what it printed.

    The size is the proportional set size, so that pages shared between processes count once. After `limit` seconds the
    process is killed.
    """
    began = time.monotonic()
    errors = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _megabytes(process.pid))
        time.sleep(every)
        if time.monotonic() - began > limit:
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    if process.returncode and seconds < limit:
        raise SystemExit(process.returncode)
    return seconds, peak, process.stdout.read() if process.stdout else ""


def _megabytes(pid: int) -> float:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    return total / 1e6
