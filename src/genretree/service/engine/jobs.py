"""Background jobs with progress, result, pictures and audio."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genretree.service.engine.inference import DecodedTrack, ExplanationFiles, Service
from genretree.service.engine.loaded_models import LoadedModel
from genretree.service.errors import Problem, busy
from genretree.service.storage import Upload, claim_upload, write_failed

JobType = Literal["predict", "explain"]
Status = Literal["queued", "running", "done", "failed", "cancelled"]
Stage = Literal["waiting", "decoding", "spectra", "network", "explaining"]

# Share of the total progress at the start and end of each stage.
_STAGE_PROGRESS: Mapping[JobType, Mapping[str, tuple[float, float]]] = {
    "predict": {"decoding": (0.0, 0.8), "spectra": (0.8, 0.9), "network": (0.9, 1.0)},
    "explain": {"decoding": (0.0, 0.3), "spectra": (0.3, 0.35), "explaining": (0.35, 1.0)},
}
_EXPIRE_SECONDS = 30.0
_HEARTBEAT_SECONDS = 10.0  # between comments in an event stream
AUDIO_NAME = "sound.ogg"
COVER_NAME = "cover.png"
UPLOAD = "upload"

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A job, its progress and its result.

    Parameters
    ----------
    id : str
        Random, can't be guessed.
    do : "predict" or "explain"
    folder : Path
        Folder for its files.
    name : str
        The client's file name, for display only.
    model : str
    question : mapping
        Arguments of `explain_slices`; empty for predictions.
    source : Job, optional
        The job whose kept upload this one uses.
    keep : bool
        Keep the upload until the job expires, for further jobs.
    derived : list of Job
        The jobs that use this one's upload.
    files : mapping of name to Path
        Files that clients may download.
    """

    id: str
    do: JobType
    folder: Path
    name: str
    model: str
    question: Mapping[str, Any] = field(default_factory=dict)
    source: Job | None = None
    keep: bool = False
    derived: list[Job] = field(default_factory=list)
    status: Status = "queued"
    stage: Stage = "waiting"
    progress: float = 0.0
    queue: int = 0
    result: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None  # a coarse explanation, before there is a result
    problem: Problem | None = None
    files: dict[str, Path] = field(default_factory=dict)
    size: int = 0
    ended: float | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stem(self) -> str:
        """The name of the uploaded file, without folders and suffix."""
        base = self.name.replace("\\", "/").rpartition("/")[2]
        return base.rpartition(".")[0] or base or "unnamed"

    @property
    def address(self) -> str:
        """URL path of the job."""
        return f"/v1/jobs/{self.id}"

    @property
    def upload(self) -> Path:
        """Location of the audio file, while it is stored."""
        return (self.source or self).folder / UPLOAD

    @property
    def family_ended(self) -> float | None:
        """When the last of this job and those that use its upload ended; None while one is waiting or running."""
        ends = [each.ended for each in (self, *self.derived)]
        return None if None in ends else max(end for end in ends if end is not None)

    def state(self) -> dict[str, Any]:
        """Return status, stage and progress."""
        return {
            "status": self.status,
            "stage": self.stage,
            "progress": round(self.progress, 3),
            "queue": self.queue,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the job document."""
        return {
            "id": self.id,
            "do": self.do,
            "file": self.name,
            "model": self.model,
            "question": dict(self.question),
            "of": None if self.source is None else self.source.id,
            "derived": [job.id for job in self.derived],
            "kept": self.keep and self.upload.exists(),
            **self.state(),
            "links": {"self": self.address, "events": f"{self.address}/events", "result": self.address},
            **({} if self.result is None else {"result": self.result}),
            **({} if self.problem is None else {"error": self.problem.to_json()}),
        }

    def update(self, stage: str, part: float, queue: int) -> None:
        """Record progress reported by a worker."""
        if self.ended is not None or stage not in ("waiting", *_STAGE_PROGRESS[self.do]):
            return
        self.stage = stage  # type: ignore[assignment]
        self.queue = queue
        if stage != "waiting":
            self.status = "running"
            low, high = _STAGE_PROGRESS[self.do][stage]
            self.progress = max(self.progress, low + (high - low) * part)
        self._notify()

    def show_preview(self, preview: dict[str, Any]) -> None:
        """Publish a coarse explanation."""
        self.preview = preview
        self._notify()

    def finish(self, status: Status, problem: Problem | None = None) -> None:
        """Record the end of the job."""
        self.status, self.problem, self.ended, self.queue = status, problem, time.monotonic(), 0
        self.progress = 1.0 if status == "done" else self.progress
        self._notify()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """All jobs of a service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.jobs: dict[str, Job] = {}
        self._expirer: asyncio.Task[None] | None = None
        service.storage.make_room = self._make_room

    def start(self) -> None:
        """Start deleting expired jobs."""
        self._expirer = asyncio.create_task(self._expire())

    async def stop(self) -> None:
        """Cancel running jobs and delete all."""
        if self._expirer is not None:
            self._expirer.cancel()
        for job in list(self.jobs.values()):
            if job.id in self.jobs:  # else deleted with its source
                await self.delete(job.id)

    def find(self, id: str) -> Job:
        """Return a job. Raises Problem (not_found) if it does not exist."""
        if id not in self.jobs:
            raise Problem("not_found", "no such job; finished jobs expire after some time")
        return self.jobs[id]

    def check_capacity(self) -> None:
        """Raise Problem (busy) if the maximum number of jobs is running."""
        self._job_to_evict()

    def _job_to_evict(self) -> Job | None:
        """Return the job to delete to make room for another: the one that finished first; None if there is room."""
        if len(self.jobs) < self.service.limits.jobs:
            return None
        finished = self._finished()
        if not finished:
            raise busy("too many jobs are running; retry when one is done", 10)
        return finished[0]

    def _finished(self) -> list[Job]:
        """List the jobs with an own upload that have finished with all derived ones, the oldest first."""
        own = [job for job in self.jobs.values() if job.source is None and job.family_ended is not None]
        return sorted(own, key=lambda job: job.family_ended or 0.0)

    def _make_room(self, size: int) -> None:
        """Delete finished jobs that keep their uploads, the oldest first, until `size` bytes can be stored."""
        storage = self.service.storage
        for job in self._finished():
            if storage.used + size <= storage.limit:
                return
            if job.keep:
                self._remove(job)

    def submit(
        self,
        do: JobType,
        loaded: LoadedModel,
        uploads: list[Upload],
        salvage: bool,
        options: Mapping[str, Any],
        keep: bool = False,
    ) -> Job:
        """Create a job for the only upload, whose file moves to the job's folder.

        Parameters
        ----------
        do : "predict" or "explain"
        loaded : LoadedModel
        uploads : list of one Upload
        salvage : bool
            Decode what is left of a truncated file.
        options : mapping
            `min_confidence` and `n_genres`, or arguments of `explain_slices`.
        keep : bool
            Keep the upload for further jobs, until this one expires.
        """
        oldest = self._job_to_evict()
        job = self._new_job(do, loaded, uploads[0].name, options)
        job.keep = keep
        try:
            job.folder.mkdir()
            job.size = claim_upload(uploads, job.upload)
        except OSError as error:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise write_failed(error) from error
        return self._start(job, oldest, loaded, salvage, options)

    def submit_derived(
        self, do: JobType, loaded: LoadedModel, source_id: str, salvage: bool, options: Mapping[str, Any]
    ) -> Job:
        """Create a job for the upload that another job keeps. Raises Problem (not_found) if it keeps none."""
        source = self.find(source_id)
        if not (source.keep and source.upload.exists()):
            raise Problem("not_found", "this job keeps no file; upload the file again")
        oldest = self._job_to_evict()
        job = self._new_job(do, loaded, source.name, options)
        job.source = source
        try:
            job.folder.mkdir()
        except OSError as error:
            raise write_failed(error) from error
        source.derived.append(job)  # from here on the source is not finished, and stays
        return self._start(job, None if oldest is source else oldest, loaded, salvage, options)

    def _new_job(self, do: JobType, loaded: LoadedModel, name: str, options: Mapping[str, Any]) -> Job:
        id = secrets.token_urlsafe(16)
        question = options if do == "explain" else {}
        return Job(id, do, self.service.folder / f"job-{id}", name, loaded.name, question)

    def _start(
        self, job: Job, evicted: Job | None, loaded: LoadedModel, salvage: bool, options: Mapping[str, Any]
    ) -> Job:
        if evicted is not None:
            self._remove(evicted)
        self.jobs[job.id] = job
        job.task = asyncio.create_task(self._work(job, loaded, salvage, options))
        return job

    async def delete(self, id: str) -> None:
        """Cancel a job and those that use its upload, if they are running, and delete their files."""
        job = self.find(id)
        for each in (*job.derived, job):
            if each.task is not None and not each.task.done():
                each.task.cancel()
                await asyncio.gather(each.task, return_exceptions=True)
            if each.ended is None:  # it had not started
                each.finish("cancelled", _cancelled())
        if id in self.jobs:  # else deleted meanwhile
            self._remove(job)

    async def _work(self, job: Job, loaded: LoadedModel, salvage: bool, options: Mapping[str, Any]) -> None:
        try:
            copy = job.folder / AUDIO_NAME if job.do == "explain" else None
            tags = job.do == "predict"
            track = await self.service.decode(
                loaded, job.name, job.upload, salvage, job.update, copy, tags, explained=job.do == "explain"
            )
            self._drop_upload(job, unless_kept=True)
            if job.do == "predict":
                job.result = await self._predict(job, loaded, track, options)
            else:
                job.result = await self._explain(job, loaded, track, options)
            job.finish("done")
        except Problem as problem:
            self._fail(job, problem)
        except asyncio.CancelledError:
            job.finish("cancelled", _cancelled())
            raise
        except OSError as error:
            self._fail(job, write_failed(error))
        except Exception:
            log.exception("a job failed")
            self._fail(job, Problem("internal", "internal error; see the service's log"))
        finally:
            # What could not be used is not kept, except a truncated file, whose readable part a further job may use.
            truncated = job.problem is not None and job.problem.kind == "truncated"
            self._drop_upload(job, unless_kept=job.status == "done" or truncated)
            if job.status != "done":
                self._drop_files(job, [*job.files])
                (job.folder / AUDIO_NAME).unlink(missing_ok=True)  # only results of complete jobs are counted as stored

    async def _predict(
        self, job: Job, loaded: LoadedModel, track: DecodedTrack, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        job.update("network", 0.0, 0)
        scores = await self.service.score(loaded, track)
        question = (options["min_confidence"], options["n_genres"])
        row = await asyncio.to_thread(self.service.describe, loaded, job.name, scores, *question)
        more = await asyncio.to_thread(self.service.tree_and_timelines, loaded, scores)
        if track.cover:
            self._add_files(job, {COVER_NAME: track.cover})
        cover = f"{job.address}/pictures/{COVER_NAME}" if track.cover else None
        return row | more | {"tags": track.tags, "cover": cover, "seconds": round(track.seconds, 3)}

    async def _explain(
        self, job: Job, loaded: LoadedModel, track: DecodedTrack, question: Mapping[str, Any]
    ) -> dict[str, Any]:
        def address(name: str) -> str:
            return f"{job.address}/pictures/{name}"

        def locate(view: dict[str, Any]) -> dict[str, Any]:
            for drawn in [drawn for reason in view["reasons"] for drawn in reason["views"]]:
                drawn |= {kind: address(drawn[kind]) for kind in ("grey", "colour")}
            return view

        def show(first: ExplanationFiles) -> None:
            assert first.view is not None
            with suppress(OSError):  # a full disk, or a job that was deleted: the result meets it, too
                self._add_files(job, first.pictures)
                job.show_preview({**first.content, "view": locate(first.view)})

        files = await self.service.explain(loaded, track, question, True, job.update, show)
        assert files.view is not None
        job.files[AUDIO_NAME] = job.folder / AUDIO_NAME
        self._count(job, job.files[AUDIO_NAME].stat().st_size)
        self._add_files(job, files.pictures)

        for reason in files.content["reasons"]:
            for sentence in reason["sentences"]:
                sentence |= _clip_addresses(f"{job.address}/clip.wav", sentence)
        reasons = [address(f"reason-{number + 1}.png") for number in range(len(files.view["reasons"]))]
        return {
            **files.content,
            "view": locate(files.view),
            "pictures": {"tree": address("tree.png"), "reasons": reasons},
            "sound": f"{job.address}/{AUDIO_NAME}",
        }

    def _add_files(self, job: Job, contents: Mapping[str, bytes]) -> None:
        """Write files that clients may download."""
        for name, content in contents.items():
            path = job.folder / name
            path.write_bytes(content)
            job.files[name] = path
            self._count(job, len(content))

    def _drop_files(self, job: Job, names: Iterable[str]) -> None:
        """Delete files that clients may no longer download."""
        for name in names:
            path = job.files.pop(name)
            size = path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)
            self._count(job, -size)

    def _count(self, job: Job, size: int) -> None:
        self.service.storage.used += size
        job.size += size

    def _fail(self, job: Job, problem: Problem) -> None:
        self.service.metrics.count_rejection(problem.kind)
        job.finish("failed", problem)

    def _drop_upload(self, job: Job, unless_kept: bool) -> None:
        path = job.folder / UPLOAD  # that of a source stays
        if path.exists() and not (unless_kept and job.keep):
            size = path.stat().st_size
            path.unlink()
            self.service.storage.release(size)
            job.size -= size

    def _remove(self, job: Job) -> None:
        for each in (*job.derived, job):
            if self.jobs.pop(each.id, None) is not None:
                shutil.rmtree(each.folder, ignore_errors=True)
                self.service.storage.release(each.size)
        if job.source is not None and job in job.source.derived:
            job.source.derived.remove(job)

    async def _expire(self) -> None:
        keep = self.service.limits.keep_seconds
        while True:
            await asyncio.sleep(min(_EXPIRE_SECONDS, keep / 2))
            self.service.private.touch()
            for job in self._finished():
                if time.monotonic() - (job.family_ended or 0.0) > keep:
                    self._remove(job)


def _clip_addresses(address: str, sentence: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the URL paths of a sentence's passage, as it is and filtered to its band."""
    passage, hertz = sentence["passage"], sentence["hertz"]
    if passage is None:
        return {"clip": None, "filtered_clip": None}
    clip = f"{address}?start={passage['start']}&end={passage['end']}"
    return {"clip": clip, "filtered_clip": None if hertz is None else f"{clip}&low={hertz[0]}&high={hertz[1]}"}


async def iter_events(job: Job) -> AsyncIterator[bytes]:
    """Yield the progress of a job as server-sent events, its preview, and its result as the last one."""
    sent: dict[str, Any] | None = None
    previewed = False
    while True:
        changed, state, finished = job.changed, job.state(), job.ended is not None
        if state != sent:
            yield _event("progress", state)
            sent = state
        if job.preview is not None and not previewed and not finished:
            yield _event("preview", job.preview)
            previewed = True
        if finished:
            yield _event("done", job.result) if job.problem is None else _event("failed", job.problem.to_json())
            return
        try:
            async with asyncio.timeout(_HEARTBEAT_SECONDS):
                await changed.wait()
        except TimeoutError:
            yield b": heartbeat\n\n"


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _cancelled() -> Problem:
    return Problem("cancelled", "the job was cancelled")
