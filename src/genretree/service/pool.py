"""Worker processes that may die: each does one thing at a time, is killed when it takes too long, and is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
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
from genretree.service.wire import Message, WireError, receive_from

Listen = Callable[[str, float, int], None]  # told a stage, how far it is (0 to 1), and how many are served before
Count = Callable[[str], None]  # told why a worker was replaced

_START_SECONDS = 120.0
_AGAIN_SECONDS, _AGAIN_AT_MOST = 1.0, 60.0  # until a worker that can't start is tried again, twice as long each time
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
        As `genretree.errors` has them; besides `timeout` and `crashed`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass(eq=False)
class _Ticket:
    """Something to be done, and who waits for it."""

    message: Message
    listen: Listen | None
    reply: asyncio.Future[Message]
    started: bool = False
    tries: int = 0

    def fail(self, kind: str, detail: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(FailedError(kind, detail))


@dataclass
class Pool:
    """Some worker processes of one kind, and a queue before them.

    Parameters
    ----------
    module : str
        What they run: a module whose `main` answers messages (`genretree.service.worker`).
    setup : mapping
        What it is told at its start.
    size : int
        How many there are.
    waiting : int
        How many may wait when all are busy.
    seconds : float
        After which a worker is killed with what it does.
    temporary : Path
        Folder for what they write for a while.
    doing : str
        What they do, for people.
    count : callable
        Is told why a worker was replaced: timeout, crashed, abandoned.
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
    alive: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._queue: deque[_Ticket] = deque()
        self._changed = asyncio.Condition()
        self._slots: list[asyncio.Task[None]] = []

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queue)

    async def start(self, wait: bool = True) -> None:
        """Start the workers; without `wait` they get ready while others are served already.

        Raises
        ------
        ServiceError
            If one can't start.
        """
        first: list[Process | None] = [None] * self.size
        if wait:
            first = list(await asyncio.gather(*(self._launch() for _ in range(self.size))))
        self._slots = [asyncio.create_task(self._run_slot(process)) for process in first]

    async def stop(self) -> None:
        """Kill the workers; whoever still waits is told so."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        while self._queue:
            self._queue.popleft().fail("closing", "the service ends")

    def check_room(self) -> None:
        """Raise FullError if there is no place in the queue."""
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
        """
        self.check_room()
        ticket = _Ticket(message, listen, asyncio.get_running_loop().create_future())
        async with self._changed:
            self._queue.append(ticket)
            self._changed.notify()
        if listen is not None:
            listen("waiting", 0.0, len(self._queue) - 1 if self.busy >= self.size else 0)
        try:
            return await ticket.reply
        finally:
            if ticket in self._queue:
                self._queue.remove(ticket)

    async def _take(self) -> _Ticket:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._queue))
            ticket = self._queue.popleft()
        for place, other in enumerate(self._queue):
            if other.listen is not None:
                other.listen("waiting", 0.0, place + 1)
        return ticket

    async def _run_slot(self, process: Process | None) -> None:
        """Serve one after the other by a process, or by the next if that one is lost."""
        try:
            while True:
                process = process or await self._launch_patiently()
                ticket = await self._take()
                self.busy += 1
                try:
                    healthy = await self._serve(process, ticket)
                finally:
                    self.busy -= 1
                if not healthy:
                    await self._kill(process)
                    process = None
        finally:
            if process is not None:
                await self._kill(process)

    async def _serve(self, process: Process, ticket: _Ticket) -> bool:
        """Let a process do something; gives whether it is good for more."""
        exchange = asyncio.create_task(_exchange(process, ticket, self.busy))
        if self.kill_abandoned:
            ticket.reply.add_done_callback(lambda reply: exchange.cancel() if reply.cancelled() else None)
        try:
            async with asyncio.timeout(self.seconds):
                reply = await exchange
        except TimeoutError:
            ticket.fail("timeout", f"{self.doing} takes longer than the {self.seconds:g} s that it may take here")
            self.count("timeout")
            return False
        except _GONE:
            self._lose(ticket)
            return False
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                ticket.fail("closing", "the service ends")
                raise
            self.count("abandoned")
            return False
        if reply.event == "failed":
            kind, detail = str(reply.facts.get("kind")), str(reply.facts.get("detail"))
            ticket.fail(kind, detail)
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
        if ticket.started or ticket.tries >= _TRIES:
            ticket.fail("crashed", f"{self.doing} made a process crash; convert the file to another format")
        else:
            self._queue.appendleft(ticket)

    async def _launch_patiently(self) -> Process:
        wait = _AGAIN_SECONDS
        while True:
            try:
                return await self._launch()
            except ServiceError as error:
                while self._queue and not self.alive:
                    self._queue.popleft().fail("internal", str(error))
                await asyncio.sleep(wait)
                wait = min(2 * wait, _AGAIN_AT_MOST)

    async def _launch(self) -> Process:
        environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", self.module, json.dumps(dict(self.setup))),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # what decoders say of broken files
            env={**environment, "TMPDIR": str(self.temporary)},
            start_new_session=True,  # so that it can be killed with what it started
            limit=1 << 20,
        )
        self.alive += 1
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await receive_from(process.stdout)
        except BaseException as error:
            await self._kill(process)
            if isinstance(error, (TimeoutError, *_GONE)):
                run = f"{Path(sys.executable).name} -m {self.module}"
                raise ServiceError(f"{self.doing}: a worker ({run}) ends before it is ready") from error
            raise
        return process

    async def _kill(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self.alive -= 1
        await process.wait()


async def _exchange(process: Process, ticket: _Ticket, sharers: int) -> Message:
    assert process.stdin is not None
    assert process.stdout is not None
    ticket.message.facts["sharers"] = sharers
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
