"""Preparation of tracks on a Ray cluster; the calling process writes the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from genretree.cluster import connect
from genretree.corpus.manifest import Failure
from genretree.corpus.prepare import JobRunner, TrackJob, prepare_safely, shard_files
from genretree.files import atomic_path, printable
from genretree.parallel import single_thread

_RETRIES = 3  # of a track whose worker or machine was lost
_JOBS_PER_CPU = 2  # bounds the number of results in memory

PreparedTrack = list[bytes]


def prepare_on_ray(address: str | None) -> JobRunner:
    """Connect to a Ray cluster, or start Ray locally without an address; return the job runner for `prepare`.

    All machines must be able to open the files, by path or URL.
    """
    connect(address)
    return _run_jobs


def _run_jobs(jobs: Sequence[TrackJob], report: Callable[[TrackJob, Failure | None], None]) -> None:
    import ray

    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_prepare_remote)
    pending = list(reversed(jobs))
    running: dict[object, TrackJob] = {}
    while pending or running:
        max_running = _JOBS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while pending and len(running) < max_running:
            job = pending.pop()
            running[task.remote(job)] = job
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            job = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError:
                name = printable(job.path)
                result = Failure(name, "crashed", f"{name}: workers crashed on this file; convert it to another format")
            if isinstance(result, Failure):
                report(job, result)
            else:
                _save(job, result)
                report(job, None)


def _prepare_remote(job: TrackJob) -> PreparedTrack | Failure:
    """Prepare a track in a temporary folder of the worker; return the content of the shard's files."""
    single_thread()
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        here = replace(job, shard=Path(folder) / job.shard.name)
        failure = prepare_safely(here)
        return failure or [path.read_bytes() for path in shard_files(here)]


def _save(job: TrackJob, result: PreparedTrack) -> None:
    """Write a shard; the file that marks it as complete comes last."""
    for path, content in zip(shard_files(job), result, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
