"""Tracks drawn by the machines of a Ray cluster; the store is written by the process that was called."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from genretree.cluster import connect
from genretree.corpus.manifest import Failure
from genretree.corpus.prepare import Draw, TrackJob, prepare_safely, shard_files
from genretree.files import atomic_path, printable
from genretree.parallel import single_thread

_RETRIES = 3  # of a track whose worker, or the machine it ran on, was lost
_EACH = 2  # tracks that are under way for each processor, so that results don't pile up

PreparedTrack = list[bytes]


def prepare_on_ray(address: str | None) -> Draw:
    """Connect to a Ray cluster (without an address Ray is started here); gives what `prepare` draws by.

    Files are named by paths that all machines know, or by URLs.
    """
    connect(address)
    return _draw_all


def _draw_all(jobs: Sequence[TrackJob], report: Callable[[TrackJob, Failure | None], None]) -> None:
    import ray

    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_draw_remote)
    waiting = list(reversed(jobs))
    under_way: dict[object, TrackJob] = {}
    while waiting or under_way:
        room = _EACH * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while waiting and len(under_way) < room:
            job = waiting.pop()
            under_way[task.remote(job)] = job
        done, _ = ray.wait(list(under_way), num_returns=1)
        for reference in done:
            job = under_way.pop(reference)
            try:
                drawn = ray.get(reference)
            except ray.exceptions.RayError:
                name = printable(job.path)
                drawn = Failure(name, "crashed", f"{name}: workers are lost on this file; convert it to another format")
            if isinstance(drawn, Failure):
                report(job, drawn)
            else:
                _save(job, drawn)
                report(job, None)


def _draw_remote(job: TrackJob) -> PreparedTrack | Failure:
    """Draw a track into a folder of the worker's own; gives the shard's files."""
    single_thread()
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        here = replace(job, shard=Path(folder) / job.shard.name)
        failure = prepare_safely(here)
        return failure or [path.read_bytes() for path in shard_files(here)]


def _save(job: TrackJob, drawn: PreparedTrack) -> None:
    """Write a shard, the file that says that it is complete at the end."""
    for path, content in zip(shard_files(job), drawn, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
