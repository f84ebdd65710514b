"""Worker processes that may die: each does one thing at a time, is killed when it takes too long, and is replaced."""

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
from genretree.service.workers.protocol import Message, WireError, receive_from

Listen = Callable[[str, float, int], None]  # told a stage, how far it is (0 to 1), and how many are served before
Count = Callable[[str], None]  # told why a worker was replaced

_START_SECONDS = 120.0
_STARTS = 4  # failed starts in a row until a pool without any worker answers that it is unavailable
_PAUSE_SECONDS = 0.25  # before a lost worker is started again, twice as long each time
_MAX_PAUSE_SECONDS = 60.0  # after failed starts
_MAX_IDLE_PAUSE_SECONDS = 2.0  # after the loss of one that was ready and may be so again: requests wait for it
_STABLE_SECONDS = 60.0  # a worker that lived this long was not lost to what its predecessors were lost to
_TRIES = 3
_GONE = (asyncio.IncompleteReadError, ConnectionError, WireError)
_SECRETS = ("GENRETREE_TOKEN",)  # of the service, and no business of its workers


class ServiceError(GenretreeError):
    """A service can't start."""

    kind = "service"


class FullError(Exception):
    """There is no place in the queue."""


class FailedError(Exception):
    """A worker could not do what it was asked to.

    Parameters
    ----------
    kind, detail : str
        As `genretree.errors` has them; also `timeout`, `crashed` and `unavailable`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


class UnavailableError(FailedError):
    """No worker can be started at present.

    Parameters
    ----------
    detail : str
    retry_seconds : int
        When the next start is tried, at least 1.
    """

    def __init__(self, detail: str, retry_seconds: int) -> None:
        super().__init__("unavailable", detail)
        self.retry_seconds = retry_seconds


@dataclass(eq=False)
class _Ticket:
    """Something to be done, and who waits for it."""

    message: Message
    listen: Listen | None
    reply: asyncio.Future[Message]
    started: bool = False
    tries: int = 0

    def fail(self, error: FailedError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


@dataclass(eq=False)
class _Slot:
    """The place of one worker: its process, and what became of the ones before it."""

    process: Process | None = None
    failed_starts: int = 0  # in a row, until one is ready
    losses: int = 0  # in a row, of processes that were ready, and lost before they had done anything
    ready_at: float = 0.0
    next_start: float = 0.0  # by the loop's clock


@dataclass
class Pool:
    """Some worker processes of one kind, and a queue before them.

    Parameters
    ----------
    module : str
        What they run: a module whose `main` answers messages (`genretree.service.workers.process`).
    setup : mapping
        What it is told at its start.
    size : int
        How many there are.
    waiting : int
        How many may wait when all are busy.
    seconds : float
        After which a worker is killed with what it does. No request waits longer than this while no worker is ready.
    temporary : Path
        Folder for what they write for a while.
    doing : str
        What they do, for people.
    count : callable
        Is told why a worker was replaced: timeout, crashed, abandoned, start (it was lost before it was ready).
    kill_abandoned : bool
        Kill a worker when nobody waits for its reply any more; else it finishes what it does.
    """

    module: str
    setup: Mapping[str, Any]
    size: int
    waiting: int
    seconds: float
    temporary: Path
    doing: str
    count: Count = lambda reason: None
    kill_abandoned: bool = False
    busy: int = field(default=0, init=False)
    ready: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._queue: deque[_Ticket] = deque()
        self._changed = asyncio.Condition()
        self._slots = [_Slot() for _ in range(self.size)]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def unavailable(self) -> bool:
        """Whether there is no worker, and several starts of each have failed in a row."""
        return all(slot.failed_starts >= _STARTS for slot in self._slots)

    @property
    def retry_seconds(self) -> int:
        """When the next worker is started, in whole seconds; at least 1."""
        left = min(slot.next_start for slot in self._slots) - asyncio.get_running_loop().time()
        return max(1, math.ceil(left))

    async def start(self, wait: bool = True) -> None:
        """Start the workers; without `wait` they get ready while others are served already.

        Raises
        ------
        ServiceError
            If one can't start, even when it is tried several times.
        """
        if wait:
            starts = [asyncio.create_task(self._start_slot(slot, _STARTS)) for slot in self._slots]
            try:
                await asyncio.gather(*starts)
            except BaseException:
                for each in starts:
                    each.cancel()
                await asyncio.gather(*starts, return_exceptions=True)
                for slot in self._slots:
                    await self._end(slot)
                raise
        self._tasks = [asyncio.create_task(self._run_slot(slot)) for slot in self._slots]

    async def stop(self) -> None:
        """Kill the workers; whoever still waits is told so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            self._queue.popleft().fail(FailedError("closing", "the service ends"))

    def check_room(self) -> None:
        """Raise FullError if there is no place in the queue, UnavailableError if no worker can be started."""
        if self.unavailable:
            raise self._unavailable()
        if len(self._queue) >= self.waiting + max(0, self.size - self.busy):
            raise FullError

    async def run(self, message: Message, listen: Listen | None = None) -> Message:
        """Let a worker do something, in the order of coming.

        Raises
        ------
        FullError
            If there is no place in the queue.
        FailedError
            If it went wrong.
        UnavailableError
            If no worker can be started, or none was ready for too long.
        """
        self.check_room()
        loop = asyncio.get_running_loop()
        ticket = _Ticket(message, listen, loop.create_future())
        async with self._changed:
            self._queue.append(ticket)
            self._changed.notify_all()  # a waiter that was cancelled would swallow a single notification
        watch = loop.call_later(self.seconds, self._limit_wait, ticket)
        if listen is not None:
            listen("waiting", 0.0, len(self._queue) - 1 if self.busy >= self.size else 0)
        try:
            return await ticket.reply
        finally:
            watch.cancel()
            if ticket in self._queue:
                self._queue.remove(ticket)

    def _limit_wait(self, ticket: _Ticket) -> None:
        if ticket in self._queue and not self.ready:
            ticket.fail(self._unavailable())

    def _unavailable(self) -> UnavailableError:
        detail = f"{self.doing} is not possible now: its worker processes end while they start"
        return UnavailableError(f"{detail}; retry later", self.retry_seconds)

    async def _take(self) -> _Ticket:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._queue))
            ticket = self._queue.popleft()
        for place, other in enumerate(self._queue):
            if other.listen is not None:
                other.listen("waiting", 0.0, place + 1)
        return ticket

    async def _take_for(self, process: Process) -> _Ticket | None:
        """Wait for the next ticket; None if the process ends before there is one."""
        take, end = asyncio.create_task(self._take()), asyncio.create_task(process.wait())
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
        """Serve one after the other by a process, or by the next if that one is lost."""
        try:
            while True:
                if slot.process is None:
                    await self._start_slot(slot)
                assert slot.process is not None
                ticket = await self._take_for(slot.process)
                if ticket is None:
                    self.count("crashed")
                    await self._lose_idle(slot)
                    continue
                self.busy += 1
                try:
                    healthy = await self._serve(slot.process, ticket)
                finally:
                    self.busy -= 1
                if ticket.started:
                    slot.losses = 0
                if not healthy:
                    await (self._end(slot) if ticket.started else self._lose_idle(slot))
        finally:
            await self._end(slot)

    async def _serve(self, process: Process, ticket: _Ticket) -> bool:
        """Let a process do something; gives whether it is good for more."""
        exchange = asyncio.create_task(_exchange(process, ticket, self.busy))
        if self.kill_abandoned:
            ticket.reply.add_done_callback(lambda reply: exchange.cancel() if reply.cancelled() else None)
        try:
            async with asyncio.timeout(self.seconds):
                reply = await exchange
        except TimeoutError:
            detail = f"{self.doing} takes longer than the {self.seconds:g} s that it may take here"
            ticket.fail(FailedError("timeout", detail))
            self.count("timeout")
            return False
        except _GONE:
            self._lose(ticket)
            return False
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                ticket.fail(FailedError("closing", "the service ends"))
                raise
            self.count("abandoned")
            return False
        if reply.event == "failed":
            kind, detail = str(reply.facts.get("kind")), str(reply.facts.get("detail"))
            ticket.fail(FailedError(kind, detail))
            if kind == "crashed":
                self.count("crashed")
            return kind != "crashed"
        if not ticket.reply.done():
            ticket.reply.set_result(reply)
        return True

    def _lose(self, ticket: _Ticket) -> None:
        """Put what a process died of to its account; what it had not begun yet is given to another one."""
        self.count("crashed")
        ticket.tries += 1
        if ticket.started:
            detail = f"{self.doing} made a process crash; convert the file to another format"
            ticket.fail(FailedError("crashed", detail))
        elif ticket.tries >= _TRIES:  # processes were lost before they looked at it: it is not to blame
            ticket.fail(self._unavailable())
        else:
            self._queue.appendleft(ticket)

    async def _start_slot(self, slot: _Slot, tries: int | None = None) -> None:
        """Start a process, after a pause if others were lost, and again until one is ready.

        Raises
        ------
        ServiceError
            If `tries` starts have failed; without `tries` it goes on for ever.
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
                if tries is not None and slot.failed_starts >= tries:
                    raise
                while self._queue and self.unavailable:
                    self._queue.popleft().fail(self._unavailable())
            else:
                slot.failed_starts, slot.ready_at = 0, loop.time()
                self.ready += 1
                return

    async def _lose_idle(self, slot: _Slot) -> None:
        """Take leave of a process that was lost before it had begun what it was to do."""
        now = asyncio.get_running_loop().time()
        slot.losses = 1 if now - slot.ready_at > _STABLE_SECONDS else slot.losses + 1
        slot.next_start = now + _pause(slot.losses, _MAX_IDLE_PAUSE_SECONDS)
        await self._end(slot)

    async def _end(self, slot: _Slot) -> None:
        """Kill the process of a slot, if it has one."""
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
                stderr=DEVNULL,  # what decoders say of broken files
                env={**environment, "TMPDIR": str(self.temporary)},
                start_new_session=True,  # so that it can be killed with what it started
                limit=1 << 20,
            )
        except OSError as error:  # no memory or no process left
            reason = error.strerror or error
            raise ServiceError(f"{self.doing}: a worker ({run}) can't be started ({reason})") from error
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await receive_from(process.stdout)
        except BaseException as error:
            await _kill(process)
            if isinstance(error, (TimeoutError, *_GONE)):
                raise ServiceError(f"{self.doing}: a worker ({run}) ends before it is ready") from error
            raise
        return process


def _pause(losses: int, longest: float) -> float:
    """Give the seconds before the next start, after this number of losses in a row."""
    return min(_PAUSE_SECONDS * 2.0 ** min(losses - 1, 30), longest)


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _exchange(process: Process, ticket: _Ticket, n_sharing_processes: int) -> Message:
    assert process.stdin is not None
    assert process.stdout is not None
    ticket.message.facts["sharers"] = n_sharing_processes
    for part in ticket.message.parts():
        process.stdin.write(part)
        await process.stdin.drain()
    while True:
        message = await receive_from(process.stdout)
        if message.event == "started":
            ticket.started = True
        elif message.event == "progress":
            if ticket.listen is not None:
                ticket.listen(str(message.facts["stage"]), float(message.facts["part"]), 0)
        else:
            return message
