"""Long work that is asked for once and looked at later: its progress, its result, its pictures and its sound."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genretree.service.engine.inference import Service, Sound
from genretree.service.engine.loaded_models import Served
from genretree.service.errors import Problem, busy
from genretree.service.storage import Upload, cant_write, take_over

Do = Literal["predict", "explain"]
Status = Literal["queued", "running", "done", "failed", "cancelled"]
Stage = Literal["waiting", "decoding", "spectra", "network", "explaining"]

# How far the whole is when a stage begins and ends.
_PARTS: Mapping[Do, Mapping[str, tuple[float, float]]] = {
    "predict": {"decoding": (0.0, 0.8), "spectra": (0.8, 0.9), "network": (0.9, 1.0)},
    "explain": {"decoding": (0.0, 0.3), "spectra": (0.3, 0.35), "explaining": (0.35, 1.0)},
}
_SWEEP_SECONDS = 30.0
_ALIVE_SECONDS = 10.0  # between two signs of life in a stream of events
SOUND = "sound.ogg"

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """Something asked for, and what became of it.

    Parameters
    ----------
    id : str
        Can't be guessed.
    do : "predict" or "explain"
    folder : Path
        For its files.
    files : mapping of name to Path
        What may be fetched.
    """

    id: str
    do: Do
    folder: Path
    status: Status = "queued"
    stage: Stage = "waiting"
    progress: float = 0.0
    queue: int = 0
    result: dict[str, Any] | None = None
    problem: Problem | None = None
    files: dict[str, Path] = field(default_factory=dict)
    size: int = 0
    ended: float | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """Where it is found."""
        return f"/v1/jobs/{self.id}"

    def state(self) -> dict[str, Any]:
        """Give how far it is."""
        return {
            "status": self.status,
            "stage": self.stage,
            "progress": round(self.progress, 3),
            "queue": self.queue,
        }

    def to_json(self) -> dict[str, Any]:
        """Return all that is known of it."""
        return {
            "id": self.id,
            "do": self.do,
            **self.state(),
            "links": {"self": self.address, "events": f"{self.address}/events", "result": self.address},
            **({} if self.result is None else {"result": self.result}),
            **({} if self.problem is None else {"error": self.problem.to_json()}),
        }

    def listen(self, stage: str, part: float, queue: int) -> None:
        """Take down how far it is; workers tell it."""
        if self.ended is not None or stage not in ("waiting", *_PARTS[self.do]):
            return
        self.stage = stage  # type: ignore[assignment]
        self.queue = queue
        if stage != "waiting":
            self.status = "running"
            low, high = _PARTS[self.do][stage]
            self.progress = max(self.progress, low + (high - low) * part)
        self._tell()

    def end(self, status: Status, problem: Problem | None = None) -> None:
        """Take down that it is over."""
        self.status, self.problem, self.ended, self.queue = status, problem, time.monotonic(), 0
        self.progress = 1.0 if status == "done" else self.progress
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """The jobs of a service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.jobs: dict[str, Job] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to forget jobs that were done long ago."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Cancel what still runs, and forget everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for job in list(self.jobs.values()):
            await self.forget(job.id)

    def find(self, id: str) -> Job:
        """Give a job. Raises Problem (not_found) if it isn't there any more."""
        if id not in self.jobs:
            raise Problem("not_found", "no such job; it may have been forgotten since it was done")
        return self.jobs[id]

    def check_room(self) -> None:
        """Raise Problem (busy) if there is no room for one more job, as none of them all is done."""
        self._in_the_way()

    def _in_the_way(self) -> Job | None:
        """Give the job to be forgotten for one more: the one that was done first, if there is no room otherwise."""
        if len(self.jobs) < self.service.limits.jobs:
            return None
        over = [job for job in self.jobs.values() if job.ended is not None]
        if not over:
            raise busy("there are too many jobs already; try again when one is done", 10)
        return min(over, key=lambda job: job.ended or 0.0)

    def submit(self, do: Do, served: Served, uploads: list[Upload], salvage: bool, options: Mapping[str, Any]) -> Job:
        """Take on a job for the only upload, which becomes the job's.

        Parameters
        ----------
        do : "predict" or "explain"
        served : Served
            The model.
        uploads : list of one Upload
        salvage : bool
            Use what can be decoded of a truncated file.
        options : mapping
            `min_confidence`, or the question.
        """
        oldest = self._in_the_way()
        id = secrets.token_urlsafe(16)
        folder = self.service.folder / f"job-{id}"
        job = Job(id, do, folder)
        name = uploads[0].name
        try:
            folder.mkdir()
            job.size = take_over(uploads, folder / "upload")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise cant_write(error) from error
        if oldest is not None:
            self._remove(oldest)
        self.jobs[id] = job
        job.task = asyncio.create_task(self._work(job, served, name, salvage, options))
        return job

    async def forget(self, id: str) -> None:
        """Cancel a job if it runs, and remove all of it."""
        job = self.find(id)
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        if job.ended is None:  # it had not begun
            job.end("cancelled", _cancelled())
        self._remove(job)

    async def _work(self, job: Job, served: Served, name: str, salvage: bool, options: Mapping[str, Any]) -> None:
        try:
            copy = job.folder / SOUND if job.do == "explain" else None
            sound = await self.service.score_file(served, name, job.folder / "upload", salvage, job.listen, copy)
            self._drop_upload(job)
            if job.do == "predict":
                job.result = await self._predict(job, served, name, sound, options["min_confidence"])
            else:
                job.result = await self._explain(job, served, sound, options)
            job.end("done")
        except Problem as problem:
            self._fail(job, problem)
        except asyncio.CancelledError:
            job.end("cancelled", _cancelled())
            raise
        except OSError as error:
            self._fail(job, cant_write(error))
        except Exception:
            log.exception("a job failed")
            self._fail(job, Problem("internal", "something went wrong here; the service's log has more"))
        finally:
            self._drop_upload(job)
            if job.status != "done":
                (job.folder / SOUND).unlink(missing_ok=True)  # only the results of whole jobs are counted

    async def _predict(
        self, job: Job, served: Served, name: str, sound: Sound, min_confidence: float
    ) -> dict[str, Any]:
        job.listen("network", 0.0, 0)
        heard = await self.service.score(served, sound)
        row = await asyncio.to_thread(self.service.describe, served, name, heard, min_confidence)
        return row | await asyncio.to_thread(self.service.describe_more, served, heard)

    async def _explain(self, job: Job, served: Served, sound: Sound, question: Mapping[str, Any]) -> dict[str, Any]:
        found = await self.service.explain(served, sound, question, pictures=True, listen=job.listen)
        assert found.view is not None
        for name, png in found.pictures.items():
            path = job.folder / name
            path.write_bytes(png)
            job.files[name] = path
        job.files[SOUND] = job.folder / SOUND
        size = sum(path.stat().st_size for path in job.files.values())
        self.service.storage.used += size
        job.size += size

        def address(name: str) -> str:
            return f"{job.address}/pictures/{name}"

        for reason in found.view["reasons"]:
            for view in reason["views"]:
                view |= {kind: address(view[kind]) for kind in ("grey", "colour")}
        reasons = [address(f"reason-{number + 1}.png") for number in range(len(found.view["reasons"]))]
        return {
            **found.content,
            "view": found.view,
            "pictures": {"tree": address("tree.png"), "reasons": reasons},
            "sound": f"{job.address}/{SOUND}",
        }

    def _fail(self, job: Job, problem: Problem) -> None:
        self.service.metrics.count_refusal(problem.kind)
        job.end("failed", problem)

    def _drop_upload(self, job: Job) -> None:
        path = job.folder / "upload"
        if path.exists():
            size = path.stat().st_size
            path.unlink()
            self.service.storage.give_back(size)
            job.size -= size

    def _remove(self, job: Job) -> None:
        del self.jobs[job.id]
        shutil.rmtree(job.folder, ignore_errors=True)
        self.service.storage.give_back(job.size)

    async def _sweep(self) -> None:
        keep = self.service.limits.keep_seconds
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, keep / 2))
            self.service.private.touch()
            for job in list(self.jobs.values()):
                if job.ended is not None and time.monotonic() - job.ended > keep:
                    self._remove(job)


async def events(job: Job) -> AsyncIterator[bytes]:
    """Give a job's progress as server-sent events, and its result as the last."""
    sent: dict[str, Any] | None = None
    while True:
        changed, state, over = job.changed, job.state(), job.ended is not None
        if state != sent:
            yield _event("progress", state)
            sent = state
        if over:
            yield _event("done", job.result) if job.problem is None else _event("failed", job.problem.to_json())
            return
        try:
            async with asyncio.timeout(_ALIVE_SECONDS):
                await changed.wait()
        except TimeoutError:
            yield b": still at it\n\n"


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _cancelled() -> Problem:
    return Problem("cancelled", "the job was cancelled")
