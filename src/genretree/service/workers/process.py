"""Setup and message loop of worker processes, with resource limits."""

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
from collections.abc import Callable, Sequence
from typing import IO, Any

from genretree.errors import GenretreeError, SoundError
from genretree.parallel import single_thread
from genretree.service.workers.protocol import Message, receive, send

ReportProgress = Callable[[str, float], None]  # called with a stage and its progress in [0, 1]

_REPORT_SECONDS = 0.1


class Reporter:
    """Sends what is known before the reply: progress, at a limited rate, and a preview.

    Parameters
    ----------
    channel : binary file
        Channel to the service.
    """

    def __init__(self, channel: IO[bytes]) -> None:
        self._channel = channel
        self._last = ("", 0.0)  # stage and time

    def __call__(self, stage: str, part: float) -> None:
        """Report a stage and its progress in [0, 1]."""
        now = time.monotonic()
        if stage != self._last[0] or now - self._last[1] > _REPORT_SECONDS:
            self._last = (stage, now)
            send(self._channel, Message("progress", {"stage": stage, "part": min(1.0, max(0.0, part))}))

    def preview(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """Send a part of the reply that is ready before the rest."""
        send(self._channel, Message("preview", header, blobs))


Work = Callable[[Message, Reporter], Message]


def read_setup() -> dict[str, Any]:
    """Read the setup that the service passes on the command line."""
    setup: dict[str, Any] = json.loads(sys.argv[1])
    return setup


def open_channel() -> IO[bytes]:
    """Return the channel to the service, and redirect standard output to nowhere: C libraries may write to it."""
    channel = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return channel


def limit_resources(memory: int, file_size: int) -> None:
    """Limit memory and the size of written files, and disable core dumps, for this process and its children."""
    set_limit(resource.RLIMIT_AS, memory)
    set_limit(resource.RLIMIT_FSIZE, file_size)
    set_limit(resource.RLIMIT_CORE, 0)


def set_limit(resource_id: int, value: int) -> None:
    """Lower a resource limit of this process, where the system supports it (macOS does not limit memory)."""
    _, hard = resource.getrlimit(resource_id)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource_id, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def set_up(threads: bool) -> None:
    """Ignore interrupts, end with the parent process, and use one thread unless `threads` is true."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not threads:
        single_thread()
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def serve_messages(channel: IO[bytes], work: Work, processor_seconds: float | None = None) -> None:
    """Send `ready`, and process messages until the service closes the channel.

    Parameters
    ----------
    channel : binary file
        Channel to the service; messages come from standard input.
    work : callable
        Computes the reply to a message.
    processor_seconds : float, optional
        Processor time for one message, after which the system kills this process.
    """
    send(channel, Message("ready"))
    while (message := receive(sys.stdin.buffer)) is not None:
        if processor_seconds is not None:
            set_limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + processor_seconds))
        send(channel, Message("started"))
        reply, last = _reply(work, message, Reporter(channel))
        send(channel, reply)
        del message, reply
        if last:
            return


def _reply(work: Work, message: Message, report: Reporter) -> tuple[Message, bool]:
    """Return the reply, and whether this worker must end after it."""
    try:
        return work(message, report), False
    except SoundError as error:
        return _failed(error.kind, error.detail), False
    except GenretreeError as error:
        return _failed(error.kind, str(error)), False
    except MemoryError:
        return _failed("crashed", "decoding takes more memory than the limit allows"), True
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _failed("busy", "the disk of the service is full; try again later"), False
        return _failed("internal", f"{type(error).__name__}: {error}"), False


def _failed(kind: str, detail: str) -> Message:
    return Message("failed", {"kind": kind, "detail": detail})


def _exit_with_parent(parent: int) -> None:
    """Kill this worker and its children when the service has ended, even if it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
