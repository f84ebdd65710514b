"""Run the tasks of an analysis on a Ray cluster, in actors that load the model once.

Only the calling process uses the database. If a worker or its machine is lost, its tasks are repeated on another one; a
file is recorded as failed after three lost workers. Machines that join later get workers, too.
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
from genretree.library.database.records import FileResult
from genretree.library.scan.analyse import FileTask, TaskOutcome, WorkerLost, run_task
from genretree.library.scan.classifier import FileClassifier, FileError, FileFingerprint, load_file_classifier
from genretree.library.scan.remote import remote_content, walk_anywhere
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.remote import download_file, is_url

_TASKS_PER_WORKER = 2  # one in progress, one waiting
_WAIT_SECONDS = 1.0
_MAX_IDLE_SECONDS = 300.0  # without a worker


class RayEngine:
    """Runs tasks on the workers of a Ray cluster.

    Parameters
    ----------
    make_classifier : callable
        Loads the model; called by each worker when it starts.
    workers : int, optional
        Number of workers. Default: the number of processors of the cluster.
    """

    def __init__(self, make_classifier: Callable[[], FileClassifier], workers: int | None = None) -> None:
        import ray

        self._ray = ray
        self._make_classifier = make_classifier
        self._n_workers = workers
        self._actor_type = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._starting: dict[Any, Any] = {}  # actors by the reference that is ready when they have loaded the model
        self._ready: dict[Any, int] = {}  # number of tasks per actor
        self._queue: deque[FileTask] = deque()
        self._tasks: dict[Any, tuple[FileTask, Any]] = {}
        self._failures = 0
        self._idle = 0.0
        self._start_workers()

    @property
    def capacity(self) -> int:
        """Maximum number of files in progress."""
        return max(4, (_TASKS_PER_WORKER + 1) * (len(self._ready) + len(self._starting)))

    def submit(self, task: FileTask) -> None:
        """Queue a task."""
        self._queue.append(task)

    def collect(self) -> list[tuple[FileTask, TaskOutcome]]:
        """Wait until tasks are done, and return them with their outcomes."""
        while True:
            self._start_workers()
            self._dispatch()
            waiting = [*self._tasks, *self._starting]
            done, _ = self._ray.wait(waiting, num_returns=1, timeout=_WAIT_SECONDS) if waiting else ([], [])
            self._idle = 0.0 if done or self._ready else self._idle + _WAIT_SECONDS
            if self._idle > _MAX_IDLE_SECONDS:
                raise LibraryError("no worker could be started on the Ray cluster; finished files are saved")
            outcomes = []
            for reference in done:
                if reference in self._starting:
                    self._add_worker(reference)
                else:
                    outcomes += self._fetch_outcome(reference)
            if outcomes:
                return outcomes

    def _start_workers(self) -> None:
        """Start a worker for every processor that the cluster has now."""
        n_workers = self._n_workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        for _ in range(n_workers - len(self._ready) - len(self._starting)):
            actor = self._actor_type.remote(self._make_classifier)
            self._starting[actor.is_ready.remote()] = actor

    def _add_worker(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # loading the model failed
            raise LibraryError(f"a worker can't load the model: {error.cause}") from error
        except self._ray.exceptions.RayError as error:
            self._failures += 1
            if self._failures > 10 and not self._ready:
                raise LibraryError(f"workers end before they have the model: {error}") from error
            return
        self._ready[actor] = 0

    def _dispatch(self) -> None:
        while self._queue and self._ready:
            actor = min(self._ready, key=self._ready.__getitem__)
            if self._ready[actor] >= _TASKS_PER_WORKER:
                return
            task = self._queue.popleft()
            self._tasks[actor.do.remote(task)] = (task, actor)
            self._ready[actor] += 1

    def _fetch_outcome(self, reference: Any) -> list[tuple[FileTask, TaskOutcome]]:
        task, actor = self._tasks.pop(reference)
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return [(task, FileError("internal", str(error.cause)))]
        except self._ray.exceptions.RayError:
            return self._remove_worker(actor, task)
        if actor in self._ready:
            self._ready[actor] -= 1
        return [(task, outcome)]

    def _remove_worker(self, actor: Any, task: FileTask) -> list[tuple[FileTask, TaskOutcome]]:
        """Remove a lost worker: only the first of its tasks was in progress; the others are queued again."""
        self._ready.pop(actor, None)
        others = [reference for reference, (_, owner) in self._tasks.items() if owner is actor]
        for reference in others:
            self._queue.appendleft(self._tasks.pop(reference)[0])
        return [(task, WorkerLost())]


class _Worker:
    """An actor that loads the model once and runs tasks."""

    def __init__(self, make_classifier: Callable[[], FileClassifier]) -> None:
        from genretree.parallel import single_thread

        single_thread()
        self._classifier = make_classifier()

    def is_ready(self) -> bool:
        return True

    def do(self, task: FileTask) -> TaskOutcome:
        if not is_url(task.row.path):
            return run_task(self._classifier, task)
        return _do_remote(self._classifier, task)


def _do_remote(classifier: FileClassifier, task: FileTask) -> FileFingerprint | FileError | FileResult:
    """Run a task for a remote file; its tags are not read, since they can't be written either."""
    url = task.row.path
    try:
        size, mtime_ns, content = remote_content(url)
        if task.action == "fingerprint":
            return FileFingerprint(size, mtime_ns, content, None)
        if content != task.row.content:
            return FileError("changed", "changed while it was being read; the next run reads it again")
        with download_file(url) as copy:
            return classifier.score_file(copy)
    except FileNotFoundError:
        return FileError("not_found", "no longer exists")
    except OSError as error:
        return FileError("unreadable", f"can't be download_file: {error}")


def ray_options(
    bundle: Path, address: str | None, runtime: RuntimeChoice, precision: Precision, salvage: bool, check_music: bool
) -> dict[str, Any]:
    """Return the arguments of `analyse` for a Ray cluster: the engine, and a search that supports URLs.

    The bundle is sent to the workers, so no shared folder is needed. All workers must use the same precision.
    """
    connect(address)

    def engine(classifier: FileClassifier) -> RayEngine:
        import ray

        packed = ray.put(pack_folder(bundle))
        load = functools.partial(
            load_file_classifier, runtime=runtime, precision=precision, salvage=salvage, check_music=check_music
        )
        return RayEngine(functools.partial(_load_packed, packed, load, classifier.model_key.digest))

    return {"engine": engine, "find": walk_anywhere}


def pack_folder(folder: Path) -> bytes:
    """Pack a folder as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname="bundle")
    return buffer.getvalue()


def _load_packed(packed: Any, load: Callable[[Path], FileClassifier], digest: str) -> FileClassifier:
    import ray

    folder = tempfile.mkdtemp(prefix="genretree-")
    with tarfile.open(fileobj=io.BytesIO(ray.get(packed))) as archive:
        archive.extractall(folder, filter="data")
    classifier = load(Path(folder) / "bundle")
    if classifier.model_key.digest != digest:
        raise LibraryError("this machine computes in another precision than the caller; use `precision='float32'`")
    return classifier
