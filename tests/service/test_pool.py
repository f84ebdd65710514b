"""Workers that hang, crash or send invalid messages fail only their own request."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from genretree.service.workers import pool as pool_module
from genretree.service.workers.pool import FailedError, FullError, Pool, ServiceError, UnavailableError
from genretree.service.workers.protocol import Message

pytestmark = pytest.mark.slow

Reasons = Counter[str]


@asynccontextmanager
async def running(folder: Path, size: int = 1, **given: Any) -> AsyncIterator[tuple[Pool, Reasons]]:
    reasons: Reasons = Counter()
    setup = given.pop("setup", {})
    given = {"waiting": 10, "seconds": 20.0, **given}
    pool = Pool(
        "fake_worker",
        setup,
        size,
        given["waiting"],
        given["seconds"],
        folder,
        "working",
        lambda reason: reasons.update([reason]),
        given.get("kill_abandoned", False),
    )
    await pool.start()
    try:
        yield pool, reasons
    finally:
        await pool.stop()


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parent), known])))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_MIN_PAUSE_SECONDS", 0.01)


def do(pool: Pool, what: str, value: Any = None, **more: Any) -> Awaitable[Message]:
    return pool.run(Message("do", {"do": what, "value": value}), **more)


async def start(pool: Pool, what: str, value: Any) -> asyncio.Future[Message]:
    """Send a request and wait until a worker has begun with it."""
    begun = asyncio.Event()
    work = asyncio.ensure_future(
        do(pool, what, value, on_progress=lambda stage, *_: begun.set() if stage == "decoding" else None)
    )
    await begun.wait()
    return work


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(timed())


async def fails(work: Awaitable[Message]) -> tuple[str, str]:
    with pytest.raises(FailedError) as caught:
        await work
    return caught.value.kind, caught.value.detail


def test_a_worker_processes_several_messages(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, reasons):
            reported: list[tuple[str, float, int]] = []
            blobs = [b"", bytes(3 << 20), b"end"]
            message = Message("do", {"do": "echo", "value": "é"}, blobs)
            first = await pool.run(message, lambda *each: reported.append(each))
            assert [bytes(blob) for blob in first.blobs] == blobs
            assert first.header["said"]["value"] == "é"
            assert ("decoding", 0.5, 0) in reported
            assert await fails(do(pool, "refuse")) == ("silence", "nothing but silence")
            assert await fails(do(pool, "stumble")) == ("internal", "ZeroDivisionError: by nothing")
            last = await do(pool, "echo")
            assert last.header["process"] == first.header["process"]
            assert not reasons

    run(test)


def test_a_crash_fails_only_its_own_request(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, size=2) as (pool, reasons):
            others = [asyncio.ensure_future(do(pool, "sleep", 0.1)) for _ in range(4)]
            kind, detail = await fails(do(pool, "die"))
            assert kind == "crashed"
            assert "convert the file" in detail
            assert len(await asyncio.gather(*others)) == 4
            assert reasons == {"crashed": 1}
            assert (await do(pool, "echo")).event == "done"

    run(test)


def test_an_idle_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, _):
            first = (await do(pool, "echo")).header["process"]
            os.kill(first, signal.SIGKILL)
            assert (await do(pool, "echo")).header["process"] != first

    run(test)


def test_a_worker_is_killed_after_the_time_limit(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, reasons):
            pool.seconds = 0.05  # from here on, as the start takes longer
            kind, detail = await fails(do(pool, "sleep", 60))
            assert kind == "timeout"
            assert "longer than the limit of 0.05 s" in detail
            assert reasons == {"timeout": 1}
            pool.seconds = 20.0
            assert (await do(pool, "echo")).event == "done"

    run(test)


@pytest.mark.parametrize(
    ("what", "value", "expected"),
    [
        ("grow", 2 << 30, "more memory"),
        ("write", "big", "File too large"),
        ("babble", None, "crash"),
        ("spin", None, "crash"),
    ],
)
def test_resource_limits_hold(tmp_path: Path, what: str, value: Any, expected: str) -> None:
    async def test() -> None:
        # "spin" computes for a second: the system limits processor time in whole seconds.
        async with running(tmp_path, setup={"processor_seconds": 1}) as (pool, _):
            given = str(tmp_path / value) if isinstance(value, str) else value
            assert expected in (await fails(do(pool, what, given)))[1]
            assert (await do(pool, "echo")).event == "done"

    run(test)


def test_the_queue_is_limited_and_reports_positions(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, waiting=2) as (pool, _):
            reported: list[tuple[str, float, int]] = []
            end = tmp_path / "end"
            slow = [await start(pool, "wait", str(end)), asyncio.ensure_future(do(pool, "wait", str(end)))]
            await asyncio.sleep(0)
            last = asyncio.ensure_future(do(pool, "echo", on_progress=lambda *each: reported.append(each)))
            await asyncio.sleep(0)
            with pytest.raises(FullError):
                await do(pool, "echo")
            end.touch()
            await asyncio.gather(*slow, last)
            assert [queue for stage, _, queue in reported if stage == "waiting"] == [1, 1]

    run(test)


def test_cancelled_requests_leave_the_queue(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, reasons):
            end = tmp_path / "end"
            first = await start(pool, "wait", str(end))
            second = asyncio.ensure_future(do(pool, "die"))
            await asyncio.sleep(0)
            second.cancel()
            end.touch()
            await first
            assert (await do(pool, "echo")).header["process"] == first.result().header["process"]
            assert not reasons

    run(test)


@pytest.mark.parametrize("kill", [True, False])
def test_abandoned_work_is_killed_or_finished(tmp_path: Path, kill: bool) -> None:
    async def test() -> None:
        async with running(tmp_path, kill_abandoned=kill) as (pool, reasons):
            process = (await do(pool, "echo")).header["process"]
            end = tmp_path / "end"
            work = await start(pool, "wait", str(end))
            work.cancel()
            await asyncio.sleep(0)  # the pool notices it
            end.touch()
            assert ((await do(pool, "echo")).header["process"] == process) is not kill
            assert reasons == ({"abandoned": 1} if kill else {})

    run(test)


def test_stopping_kills_workers_and_fails_waiting_requests(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, _):
            process = (await do(pool, "echo")).header["process"]
            work = [await start(pool, "sleep", 60), asyncio.ensure_future(do(pool, "sleep", 60))]
            await asyncio.sleep(0)
            await pool.stop()
            assert [(await fails(each))[0] for each in work] == ["closing", "closing"]
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)

    run(test)


def test_workers_that_cannot_start_are_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ServiceError, match="died before it was ready"):
            async with running(tmp_path, setup={"broken": True}):
                pass

    run(test)


def test_workers_killed_while_they_start_lose_no_request(tmp_path: Path) -> None:
    async def test() -> None:
        deaths = tmp_path / "deaths"
        deaths.mkdir()
        async with running(tmp_path, size=2, setup={"deaths": str(deaths)}) as (pool, reasons):
            first = await asyncio.gather(*(do(pool, "sleep", 0.1) for _ in range(2)))
            processes = {reply.header["process"] for reply in first}
            for number in range(5):
                (deaths / str(number)).touch()
            for process in processes:
                os.kill(process, signal.SIGKILL)
            replies = await asyncio.gather(*(do(pool, "sleep", 0.01) for _ in range(12)))
            assert [reply.event for reply in replies] == ["done"] * 12
            assert reasons["start"] >= 2

    run(test)


def test_the_first_start_is_retried(tmp_path: Path) -> None:
    async def test() -> None:
        deaths = tmp_path / "deaths"
        deaths.mkdir()
        for number in range(2):
            (deaths / str(number)).touch()
        async with running(tmp_path, setup={"deaths": str(deaths)}) as (pool, reasons):
            assert (await do(pool, "echo")).event == "done"
            assert reasons == {"start": 2}

    run(test)


def test_a_worker_that_dies_idle_again_and_again_loses_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, _):
            for _ in range(3):
                process = (await do(pool, "echo")).header["process"]
                os.kill(process, signal.SIGKILL)
            while pool.ready:  # the death is noticed without a request
                await asyncio.sleep(0.01)
            assert (await do(pool, "echo")).event == "done"

    run(test)


def test_a_pool_that_cannot_start_is_unavailable_until_it_can(tmp_path: Path) -> None:
    async def test() -> None:
        flag = tmp_path / "flag"
        async with running(tmp_path, size=2, waiting=20, setup={"dead_while": str(flag)}) as (pool, reasons):
            first = await asyncio.gather(*(do(pool, "sleep", 0.1) for _ in range(2)))
            flag.touch()
            for reply in first:
                os.kill(reply.header["process"], signal.SIGKILL)
            outcomes = await asyncio.gather(*(do(pool, "echo") for _ in range(12)), return_exceptions=True)
            assert {type(each) for each in outcomes} == {UnavailableError}
            assert all(each.retry_seconds >= 1 for each in outcomes if isinstance(each, UnavailableError))
            assert pool.unavailable
            begun = time.monotonic()
            with pytest.raises(UnavailableError, match="retry later"):
                await do(pool, "echo")
            assert time.monotonic() - begun < 0.1
            assert reasons["start"] >= 8
            flag.unlink()
            while pool.unavailable:
                await asyncio.sleep(0.05)
            assert (await do(pool, "echo")).event == "done"

    run(test)


def test_no_request_waits_longer_than_the_limit_for_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, _):

            async def launch() -> None:
                await asyncio.sleep(60)

            process = (await do(pool, "echo")).header["process"]
            monkeypatch.setattr(pool, "_launch", launch)
            os.kill(process, signal.SIGKILL)
            while pool.ready:
                await asyncio.sleep(0.01)
            pool.seconds = 0.05
            with pytest.raises(UnavailableError):
                await do(pool, "echo")

    run(test)


def test_starts_are_retried_when_the_system_has_no_free_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with running(tmp_path) as (pool, reasons):
            process = (await do(pool, "echo")).header["process"]
            real, calls = asyncio.create_subprocess_exec, []

            async def refuse(*words: Any, **options: Any) -> Any:
                calls.append(words)
                if len(calls) <= 2:
                    raise BlockingIOError(11, "Resource temporarily unavailable")
                return await real(*words, **options)

            monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
            os.kill(process, signal.SIGKILL)
            assert (await do(pool, "echo")).event == "done"
            assert reasons["start"] == 2

    run(test)
