"""Killing a process in the middle of its work."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def kill_when(ready: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Kill a process as soon as it has got so far; it must not have ended before."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
