"""A pool of worker processes that restarts those that crash, hang or are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genretree.errors import GenretreeError
from genretree.service.workers.protocol import Message, ProtocolError, receive_async

OnProgress = Callable[[str, float, int], None]  # called with stage, progress in [0, 1], requests ahead in the queue
OnPreview = Callable[[Message], None]  # called with a part of the reply that is ready before the rest
CountReplacement = Callable[[str], None]  # called with the reason why a worker was replaced

_START_SECONDS = 120.0
_MAX_FAILED_STARTS = 4  # consecutive failed starts of every worker until the pool is unavailable
_MIN_PAUSE_SECONDS = 0.25  # before a worker is restarted; doubles each time
_MAX_PAUSE_SECONDS = 60.0  # after failed starts
_MAX_IDLE_PAUSE_SECONDS = 2.0  # after an idle worker died: requests wait for its successor
_STABLE_SECONDS = 60.0  # a worker that lived this long resets the count of losses
_MAX_ATTEMPTS = 3
_LOST_WORKER = (asyncio.IncompleteReadError, ConnectionError, ProtocolError)
_SECRETS = ("GENRETREE_TOKEN",)  # environment variables that workers must not see


class ServiceError(GenretreeError):
    """The service can't start."""

    kind = "service"


class FullError(Exception):
    """The queue is full."""


class FailedError(Exception):
    """A worker failed to process a request.

    Parameters
    ----------
    kind, detail : str
        Kind of a `GenretreeError`, or `timeout`, `crashed`, `closing` or `unavailable`; and a message for people.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


class UnavailableError(FailedError):
    """No worker can be started now.

    Parameters
    ----------
    detail : str
    retry_seconds : int
        Seconds until the next start is tried, at least 1.
    """

    def __init__(self, detail: str, retry_seconds: int) -> None:
        super().__init__("unavailable", detail)
        self.retry_seconds = retry_seconds


@dataclass(eq=False)
class _Request:
    """A request in the queue or in a worker."""

    message: Message
    on_progress: OnProgress | None
    on_preview: OnPreview | None
    reply: asyncio.Future[Message]
    started: bool = False
    attempts: int = 0

    def fail(self, error: FailedError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


@dataclass(eq=False)
class _Slot:
    """The place of one worker: its process, and the history of failures."""

    process: Process | None = None
    failed_starts: int = 0  # consecutive
    losses: int = 0  # consecutive deaths of idle processes
    ready_at: float = 0.0
    next_start: float = 0.0  # on the event loop's clock


@dataclass
class Pool:
    """Worker processes running the same module, and a queue of requests.

    Parameters
    ----------
    module : str
        Module to run, which processes messages (`genretree.service.workers.process`).
    setup : mapping
        Passed to each worker at its start, as JSON.
    size : int
        Number of workers.
    waiting : int
        Maximum number of queued requests while all workers are busy.
    seconds : float
        Time limit of a request, after which its worker is killed. Also the longest wait while no worker is ready.
    temporary : Path
        Folder for the workers' temporary files.
    task : str
        Name of the task in messages, such as "decoding".
    count : callable
        Called when a worker was replaced, with the reason: timeout, crashed, abandoned, or start (it died before it
        was ready).
    kill_abandoned : bool
        Kill a worker when its request is cancelled; otherwise it finishes the request.
    """

    module: str
    setup: Mapping[str, Any]
    size: int
    waiting: int
    seconds: float
    temporary: Path
    task: str
    count: CountReplacement = lambda reason: None
    kill_abandoned: bool = False
    busy: int = field(default=0, init=False)
    ready: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._queue: deque[_Request] = deque()
        self._changed = asyncio.Condition()
        self._slots = [_Slot() for _ in range(self.size)]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def queued(self) -> int:
        """Number of queued requests."""
        return len(self._queue)

    @property
    def unavailable(self) -> bool:
        """Whether several consecutive starts of every worker have failed."""
        return all(slot.failed_starts >= _MAX_FAILED_STARTS for slot in self._slots)

    @property
    def retry_seconds(self) -> int:
        """Whole seconds until the next worker is started, at least 1."""
        left = min(slot.next_start for slot in self._slots) - asyncio.get_running_loop().time()
        return max(1, math.ceil(left))

    async def start(self, wait: bool = True) -> None:
        """Start the workers; with `wait=False` return before they are ready.

        Raises
        ------
        ServiceError
            If a worker can't start after several attempts.
        """
        if wait:
            starts = [asyncio.create_task(self._start_slot(slot, _MAX_FAILED_STARTS)) for slot in self._slots]
            try:
                await asyncio.gather(*starts)
            except BaseException:
                for each in starts:
                    each.cancel()
                await asyncio.gather(*starts, return_exceptions=True)
                for slot in self._slots:
                    await self._kill_slot(slot)
                raise
        self._tasks = [asyncio.create_task(self._run_slot(slot)) for slot in self._slots]

    async def stop(self) -> None:
        """Kill the workers and fail all queued requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            self._queue.popleft().fail(FailedError("closing", "the service is shutting down"))

    def check_capacity(self) -> None:
        """Raise FullError if the queue is full, UnavailableError if no worker can be started."""
        if self.unavailable:
            raise self._unavailable()
        if len(self._queue) >= self.waiting + max(0, self.size - self.busy):
            raise FullError

    async def run(
        self, message: Message, on_progress: OnProgress | None = None, on_preview: OnPreview | None = None
    ) -> Message:
        """Process a message in a worker, first come, first served.

        Raises
        ------
        FullError
            If the queue is full.
        FailedError
            If the worker failed.
        UnavailableError
            If no worker can be started, or none became ready within the time limit.
        """
        self.check_capacity()
        loop = asyncio.get_running_loop()
        request = _Request(message, on_progress, on_preview, loop.create_future())
        async with self._changed:
            self._queue.append(request)
            self._changed.notify_all()  # a cancelled waiter would swallow a single notification
        watch = loop.call_later(self.seconds, self._limit_wait, request)
        if on_progress is not None:
            on_progress("waiting", 0.0, len(self._queue) - 1 if self.busy >= self.size else 0)
        try:
            return await request.reply
        finally:
            watch.cancel()
            if request in self._queue:
                self._queue.remove(request)

    def _limit_wait(self, request: _Request) -> None:
        if request in self._queue and not self.ready:
            request.fail(self._unavailable())

    def _unavailable(self) -> UnavailableError:
        detail = f"{self.task} is unavailable: its worker processes die during startup"
        return UnavailableError(f"{detail}; retry later", self.retry_seconds)

    async def _next_request(self) -> _Request:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._queue))
            request = self._queue.popleft()
        for place, other in enumerate(self._queue):
            if other.on_progress is not None:
                other.on_progress("waiting", 0.0, place + 1)
        return request

    async def _next_request_unless_dead(self, process: Process) -> _Request | None:
        """Wait for the next request; None if the process ends first."""
        take, end = asyncio.create_task(self._next_request()), asyncio.create_task(process.wait())
        try:
            await asyncio.wait({take, end}, return_when=asyncio.FIRST_COMPLETED)
            return take.result() if take.done() else None
        except BaseException:
            if take.done() and not take.cancelled():
                self._queue.appendleft(take.result())
            raise
        finally:
            take.cancel()
            end.cancel()
            await asyncio.gather(take, end, return_exceptions=True)

    async def _run_slot(self, slot: _Slot) -> None:
        """Process requests with a worker, which is replaced when it dies."""
        try:
            while True:
                if slot.process is None:
                    await self._start_slot(slot)
                assert slot.process is not None
                request = await self._next_request_unless_dead(slot.process)
                if request is None:
                    self.count("crashed")
                    await self._handle_idle_exit(slot)
                    continue
                self.busy += 1
                try:
                    healthy = await self._serve(slot.process, request)
                finally:
                    self.busy -= 1
                if request.started:
                    slot.losses = 0
                if not healthy:
                    await (self._kill_slot(slot) if request.started else self._handle_idle_exit(slot))
        finally:
            await self._kill_slot(slot)

    async def _serve(self, process: Process, request: _Request) -> bool:
        """Let a process do something; gives whether it is good for more."""
        exchange = asyncio.create_task(_exchange(process, request, self.busy))
        if self.kill_abandoned:
            request.reply.add_done_callback(lambda reply: exchange.cancel() if reply.cancelled() else None)
        try:
            async with asyncio.timeout(self.seconds):
                reply = await exchange
        except TimeoutError:
            detail = f"{self.task} takes longer than the limit of {self.seconds:g} s"
            request.fail(FailedError("timeout", detail))
            self.count("timeout")
            return False
        except _LOST_WORKER:
            self._handle_crash(request)
            return False
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                request.fail(FailedError("closing", "the service is shutting down"))
                raise
            self.count("abandoned")
            return False
        if reply.event == "failed":
            kind, detail = str(reply.header.get("kind")), str(reply.header.get("detail"))
            request.fail(FailedError(kind, detail))
            if kind == "crashed":
                self.count("crashed")
            return kind != "crashed"
        if not request.reply.done():
            request.reply.set_result(reply)
        return True

    def _handle_crash(self, request: _Request) -> None:
        """Fail the request that a process died of; requeue it if the process had not started on it."""
        self.count("crashed")
        request.attempts += 1
        if request.started:
            detail = f"{self.task} crashed; convert the file to another format"
            request.fail(FailedError("crashed", detail))
        elif request.attempts >= _MAX_ATTEMPTS:  # processes died before they started on it: not its fault
            request.fail(self._unavailable())
        else:
            self._queue.appendleft(request)

    async def _start_slot(self, slot: _Slot, attempts: int | None = None) -> None:
        """Start a process, with a growing pause between failed attempts, until one is ready.

        Raises
        ------
        ServiceError
            If `attempts` starts have failed. Without `attempts` it never gives up.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(slot.next_start - loop.time())
            try:
                slot.process = await self._launch()
            except ServiceError:
                slot.failed_starts += 1
                slot.next_start = loop.time() + _pause(slot.failed_starts, _MAX_PAUSE_SECONDS)
                self.count("start")
                if attempts is not None and slot.failed_starts >= attempts:
                    raise
                while self._queue and self.unavailable:
                    self._queue.popleft().fail(self._unavailable())
            else:
                slot.failed_starts, slot.ready_at = 0, loop.time()
                self.ready += 1
                return

    async def _handle_idle_exit(self, slot: _Slot) -> None:
        """Handle the death of a process that had not started on a request."""
        now = asyncio.get_running_loop().time()
        slot.losses = 1 if now - slot.ready_at > _STABLE_SECONDS else slot.losses + 1
        slot.next_start = now + _pause(slot.losses, _MAX_IDLE_PAUSE_SECONDS)
        await self._kill_slot(slot)

    async def _kill_slot(self, slot: _Slot) -> None:
        """Kill the process of a slot, if any."""
        if slot.process is not None:
            process, slot.process = slot.process, None
            self.ready -= 1
            await _kill(process)

    async def _launch(self) -> Process:
        environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        run = f"{Path(sys.executable).name} -m {self.module}"
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", self.module, json.dumps(dict(self.setup))),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # decoders print warnings about broken files
                env={**environment, "TMPDIR": str(self.temporary)},
                start_new_session=True,  # so that it is killed with its children
                limit=1 << 20,
            )
        except OSError as error:  # out of memory or processes
            reason = error.strerror or error
            raise ServiceError(f"{self.task}: can't start a worker ({run}): {reason}") from error
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await receive_async(process.stdout)
        except BaseException as error:
            await _kill(process)
            if isinstance(error, (TimeoutError, *_LOST_WORKER)):
                raise ServiceError(f"{self.task}: a worker ({run}) died before it was ready") from error
            raise
        return process


def _pause(losses: int, max_seconds: float) -> float:
    """Return the seconds until the next start, after this number of consecutive failures."""
    return min(_MIN_PAUSE_SECONDS * 2.0 ** min(losses - 1, 30), max_seconds)


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _exchange(process: Process, request: _Request, n_sharing_processes: int) -> Message:
    assert process.stdin is not None
    assert process.stdout is not None
    request.message.header["n_sharing"] = n_sharing_processes
    for part in request.message.parts():
        process.stdin.write(part)
        await process.stdin.drain()
    while True:
        message = await receive_async(process.stdout)
        if message.event == "started":
            request.started = True
        elif message.event == "progress":
            if request.on_progress is not None:
                request.on_progress(str(message.header["stage"]), float(message.header["part"]), 0)
        elif message.event == "preview":
            if request.on_preview is not None:
                request.on_preview(message)
        else:
            return message
