"""What every worker process does: it bounds itself, answers one message after the other, and ends with its parent."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from genretree.errors import GenretreeError, SoundError
from genretree.parallel import single_thread
from genretree.service.workers.protocol import Message, receive, send

Tell = Callable[[str, float], None]  # told a stage and how far it is, 0 to 1
Work = Callable[[Message, Tell], Message]

_TELL_EVERY = 0.1  # seconds


def setup() -> dict[str, Any]:
    """Read what the service says to a worker when it starts it."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def take_channel() -> IO[bytes]:
    """Give the channel to the service; whatever else writes to standard output, some library in C say, goes nowhere."""
    channel = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return channel


def bound(memory: int, file_size: int) -> None:
    """Bound this process and those it starts: memory, the size of files that are written, no core dumps."""
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_FSIZE, file_size)
    limit(resource.RLIMIT_CORE, 0)


def limit(kind: int, value: int) -> None:
    """Lower a limit of this process; systems that don't know it (macOS has no bound of memory) do without."""
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def start(threads: bool) -> None:
    """Leave interrupts to the parent, end with it, and, unless threads are wanted, keep to one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not threads:
        single_thread()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def answer(channel: IO[bytes], work: Work, processor_seconds: float | None = None) -> None:
    """Say that this worker is ready, and do what comes, until nothing does.

    Parameters
    ----------
    channel : binary file
        To the service; messages come by standard input.
    work : callable
        Makes the reply to a message.
    processor_seconds : float, optional
        What one message may take of a processor, before the system ends this process.
    """
    send(channel, Message("ready"))
    while (message := receive(sys.stdin.buffer)) is not None:
        if processor_seconds is not None:
            limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + processor_seconds))
        send(channel, Message("started"))
        reply, last = _reply(work, message, _teller(channel))
        send(channel, reply)
        del message, reply
        if last:
            return


def _reply(work: Work, message: Message, tell: Tell) -> tuple[Message, bool]:
    """Give the reply, and whether it must be this worker's last."""
    try:
        return work(message, tell), False
    except SoundError as error:
        return _failed(error.kind, error.detail), False
    except GenretreeError as error:
        return _failed(error.kind, str(error)), False
    except MemoryError:
        return _failed("crashed", "decoding it takes more memory than is allowed here"), True
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _failed("busy", "there is no room to work on it now; try again later"), False
        return _failed("internal", f"{type(error).__name__}: {error}"), False


def _failed(kind: str, detail: str) -> Message:
    return Message("failed", {"kind": kind, "detail": detail})


def _teller(channel: IO[bytes]) -> Tell:
    """Give what tells the service of progress, not too often."""
    last: tuple[str, float] = ("", 0.0)

    def tell(stage: str, part: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] > _TELL_EVERY:
            last = (stage, now)
            send(channel, Message("progress", {"stage": stage, "part": min(1.0, max(0.0, part))}))

    return tell


def _end_with(parent: int) -> None:
    """End this worker, and what it started, when the service is gone: one that was killed can't say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
