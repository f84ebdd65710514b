"""Many machines: the jobs of an analysis done by actors of a Ray cluster, each of which loads the model once.

The database stays with the process that was called. A job whose worker is lost, or the whole machine it ran on, goes to
another one; a file that three workers were lost with is reported. Machines that join later get workers, too.
"""

from __future__ import annotations

import functools
import io
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genretree.cluster import connect
from genretree.errors import LibraryError
from genretree.library.analyse import Job, Lost, Outcome, do_job
from genretree.library.listen import Listener, Problem, Stamp, load_listener
from genretree.library.records import Result
from genretree.library.remote import remote_content, walk_anywhere
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.remote import download_file, is_url

_EACH = 2  # jobs that a worker has: one in hand, the next one waiting
_WAIT_SECONDS = 1.0
_PATIENCE_SECONDS = 300.0  # without any worker


class RayEngine:
    """Workers on a Ray cluster, one for each processor.

    Parameters
    ----------
    make_listener : callable
        Loads the model; called by each worker when it starts.
    workers : int, optional
        By default as many as the cluster has processors.
    """

    def __init__(self, make_listener: Callable[[], Listener], workers: int | None = None) -> None:
        import ray

        self._ray = ray
        self._make = make_listener
        self._wanted = workers
        self._actor_type = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._starting: dict[Any, Any] = {}  # workers by the reference that tells that they have the model
        self._ready: dict[Any, int] = {}  # and how many jobs each of them has
        self._queue: deque[Job] = deque()
        self._jobs: dict[Any, tuple[Job, Any]] = {}
        self._failures = 0
        self._idle = 0.0
        self._hire()

    @property
    def room(self) -> int:
        """How many files to have in hand."""
        return max(4, (_EACH + 1) * (len(self._ready) + len(self._starting)))

    def submit(self, job: Job) -> None:
        """Take a job on."""
        self._queue.append(job)

    def collect(self) -> list[tuple[Job, Outcome]]:
        """Wait until some jobs are done."""
        while True:
            self._hire()
            self._hand_out()
            waiting = [*self._jobs, *self._starting]
            done, _ = self._ray.wait(waiting, num_returns=1, timeout=_WAIT_SECONDS) if waiting else ([], [])
            self._idle = 0.0 if done or self._ready else self._idle + _WAIT_SECONDS
            if self._idle > _PATIENCE_SECONDS:
                raise LibraryError("no worker could be started on the Ray cluster; all that was finished is kept")
            found = []
            for reference in done:
                if reference in self._starting:
                    self._welcome(reference)
                else:
                    found += self._receive(reference)
            if found:
                return found

    def _hire(self) -> None:
        """Have a worker for every processor that the cluster has at present."""
        wanted = self._wanted or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        for _ in range(wanted - len(self._ready) - len(self._starting)):
            actor = self._actor_type.remote(self._make)
            self._starting[actor.is_ready.remote()] = actor

    def _welcome(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # the model can't be loaded there
            raise LibraryError(f"a worker can't load the model: {error.cause}") from error
        except self._ray.exceptions.RayError as error:
            self._failures += 1
            if self._failures > 10 and not self._ready:
                raise LibraryError(f"workers end before they have the model: {error}") from error
            return
        self._ready[actor] = 0

    def _hand_out(self) -> None:
        while self._queue and self._ready:
            actor = min(self._ready, key=self._ready.__getitem__)
            if self._ready[actor] >= _EACH:
                return
            job = self._queue.popleft()
            self._jobs[actor.do.remote(job)] = (job, actor)
            self._ready[actor] += 1

    def _receive(self, reference: Any) -> list[tuple[Job, Outcome]]:
        job, actor = self._jobs.pop(reference)
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return [(job, Problem("internal", str(error.cause)))]
        except self._ray.exceptions.RayError:
            return self._dismiss(actor, job)
        if actor in self._ready:
            self._ready[actor] -= 1
        return [(job, outcome)]

    def _dismiss(self, actor: Any, job: Job) -> list[tuple[Job, Outcome]]:
        """Let a lost worker go: the first of its jobs was in hand, the others are nobody's fault."""
        self._ready.pop(actor, None)
        others = [reference for reference, (_, owner) in self._jobs.items() if owner is actor]
        for reference in others:
            self._queue.appendleft(self._jobs.pop(reference)[0])
        return [(job, Lost())]


class _Worker:
    """An actor: a model, loaded once, and the jobs it is given."""

    def __init__(self, make_listener: Callable[[], Listener]) -> None:
        from genretree.parallel import single_thread

        single_thread()
        self._listener = make_listener()

    def is_ready(self) -> bool:
        return True

    def do(self, job: Job) -> Outcome:
        if not is_url(job.row.path):
            return do_job(self._listener, job)
        return _do_remote(self._listener, job)


def _do_remote(listener: Listener, job: Job) -> Stamp | Problem | Result:
    """Do a job with a file that has to be fetched; its tags are not read, since they can't be written either."""
    url = job.row.path
    try:
        size, mtime_ns, content = remote_content(url)
        if job.kind == "stamp":
            return Stamp(size, mtime_ns, content, None)
        if content != job.row.content:
            return Problem("changed", "was changed while it was being read; the next run reads it again")
        with download_file(url) as copy:
            return listener.score_file(copy)
    except FileNotFoundError:
        return Problem("not_found", "is no longer there")
    except OSError as error:
        return Problem("unreadable", f"can't be fetched: {error}")


def ray_options(
    bundle: Path, address: str | None, runtime: RuntimeChoice, precision: Precision, salvage: bool
) -> dict[str, Any]:
    """Give what `analyse` needs to work on a Ray cluster: who does the jobs, and the walk that knows URLs.

    The bundle travels with the workers, so they need no folder in common. All must compute in one arithmetic.
    """
    connect(address)

    def engine(listener: Listener) -> RayEngine:
        import ray

        packed = ray.put(pack_folder(bundle))
        load = functools.partial(load_listener, runtime=runtime, precision=precision, salvage=salvage)
        return RayEngine(functools.partial(_load_packed, packed, load, listener.card.digest))

    return {"engine": engine, "find": walk_anywhere}


def pack_folder(folder: Path) -> bytes:
    """Give a folder as one run of bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname="bundle")
    return buffer.getvalue()


def _load_packed(packed: Any, load: Callable[[Path], Listener], digest: str) -> Listener:
    import ray

    folder = tempfile.mkdtemp(prefix="genretree-")
    with tarfile.open(fileobj=io.BytesIO(ray.get(packed))) as archive:
        archive.extractall(folder, filter="data")
    listener = load(Path(folder) / "bundle")
    if listener.card.digest != digest:
        raise LibraryError("this machine computes in another arithmetic than the caller; use `precision='float32'`")
    return listener
