"""Analyse every file of a library once, and continue where the last run ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from genretree.errors import LibraryError
from genretree.files import printable
from genretree.library.database import records
from genretree.library.database.connection import Database
from genretree.library.database.records import FileResult, FileRow, ModelKey
from genretree.library.scan.classifier import (
    FileClassifier,
    FileError,
    FileFingerprint,
    classify_file,
    fingerprint_file,
)
from genretree.parallel import FILE_WORKERS, available_processors, shared_by, worker_pool
from genretree.progress import on_position, progress_bar
from genretree.remote import is_url, local_path
from genretree.sound.walk import FoundFile, Skipped, SoundWalk

_SUSPECT_SECONDS = 600.0  # a file that takes longer is a suspect even if the run was interrupted
_TIMEOUT_SECONDS = 3600.0  # for a suspect in a separate process
_LONG_SECONDS = 2.0  # a file that takes longer is shown with its position
_NOTE_SECONDS = 0.5  # between two updates of that
_MAX_LOST_WORKERS = 3  # after losing this many remote workers, a file is recorded as failed
_CRASHED = "the decoder crashed on this file; convert it to another format"
_TIMEOUT = "analysing this file took more than {:g} s, so it was stopped; convert it to another format"

ReportFile = Callable[[str, FileResult | FileError, bool, ModelKey], None]


@dataclass(frozen=True)
class FileTask:
    """A task for a file: `fingerprint` it, or `classify` it."""

    action: Literal["fingerprint", "classify"]
    row: FileRow


class WorkerLost:
    """The outcome of a task whose worker died."""


TaskOutcome = FileFingerprint | FileError | FileResult | WorkerLost


class Engine(Protocol):
    """Runs tasks, in threads of this process or on remote workers."""

    @property
    def capacity(self) -> int:
        """Maximum number of files in progress."""

    def submit(self, task: FileTask) -> None:
        """Queue a task."""

    def collect(self) -> list[tuple[FileTask, TaskOutcome]]:
        """Wait until tasks are done, and return them with their outcomes."""


@dataclass
class AnalysisCounts:
    """Counts of the files of a run.

    Parameters
    ----------
    files : int
        Files found, including unreadable ones.
    known : int
        Files finished in earlier runs.
    analysed : int
        Files analysed now.
    shared : int
        Files that share the result of another file with the same content.
    failed : int
        Files that failed, now or in earlier runs.
    gone : int
        Files of earlier runs that are missing now.
    skipped : Skipped
        Files that the search skipped.
    failures : list of (str, str, str)
        Path, error type and message of failed files, at most `max_failures`.
    """

    files: int = 0
    known: int = 0
    analysed: int = 0
    shared: int = 0
    failed: int = 0
    gone: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    failures: list[tuple[str, str, str]] = field(default_factory=list)


def analyse(
    database: Database,
    places: Sequence[str | Path],
    make_classifier: Callable[[], FileClassifier],
    *,
    workers: int = FILE_WORKERS,
    hidden: bool = False,
    retry_failed: bool = False,
    engine: Callable[[FileClassifier], Engine] | None = None,
    find: Callable[[SoundWalk, Sequence[str | Path]], Iterator[FoundFile]] = SoundWalk.find,
    restore: Callable[[Iterator[FoundFile]], Iterator[FoundFile]] = iter,
    progress: bool = False,
    report: ReportFile | None = None,
    max_failures: int | None = 10,
) -> AnalysisCounts:
    """Analyse all audio files in some folders that have no result yet, in constant memory.

    Parameters
    ----------
    database : Database
        Locked by the caller with `lock_database`.
    places : sequence of path
        Files and folders; file:// URLs are converted to paths.
    make_classifier : callable
        Loads the model; called again in a separate process for a file that crashed an earlier one.
    workers : int
        Number of files analysed at the same time; limited to the number of processors.
    hidden : bool
        Include hidden files.
    retry_failed : bool
        Retry the files that failed with this model.
    engine : callable, optional
        Creates an engine for the classifier. Default: threads of this process.
    find : callable
        Finds the files in and below the places, and counts skipped files in the `SoundWalk`.
    restore : callable
        Yields the found files again, after undoing interrupted writes to them: `TornFiles.restore`.
    progress : bool
        Show progress bars on standard error.
    report : callable, optional
        Called for each finished or unreadable file, with its path, its outcome, whether the outcome is shared, and the
        model key.
    max_failures : int or None
        Maximum length of `failures` in the returned counts; None for all.

    Returns
    -------
    AnalysisCounts

    Raises
    ------
    LibraryError
        If the database can't be written to.
    """
    places = [local_path(place) for place in places]
    classifier = make_classifier()
    model = records.register_model(database, classifier.model_key)
    scan_id = records.begin_scan(database)
    counts = AnalysisCounts()
    with progress_bar(0, "walk", "file", progress) as tick:
        walk = SoundWalk(hidden)
        found = _report_errors(restore(find(walk, places)), classifier.model_key, report)
        for n in records.save_found_files(database, found, scan_id):
            tick(n)
    counts.skipped = walk.skipped
    checkpoints = database.path.with_name(f"{database.path.name}.partial")
    counts.gone = records.mark_gone(database, [_real(place) for place in places], scan_id)
    if retry_failed:
        records.reset_failures(database, model)
    pending, counts.failed, counts.files = records.count_pending(database, model, scan_id)
    counts.known = counts.files - pending - counts.failed
    finished = counts.files - pending
    with progress_bar(counts.files, "analyse", "file", progress and pending > 0, initial=finished) as tick:

        def finish(row: FileRow, outcome: FileResult | FileError, shared: bool) -> None:
            is_failure = bool(outcome.error)
            counts.failed += is_failure
            counts.shared += shared and not is_failure
            counts.analysed += not shared and not is_failure
            tick()
            if report is not None:
                report(row.path, outcome, shared, classifier.model_key)

        analysis = _AnalysisRun(database, model, classifier.model_key, finish)
        rows = analysis.postpone_suspects(records.iter_pending(database, model, scan_id))
        if engine is not None:
            remote_engine = engine(classifier)
            analysis.run(rows, remote_engine)
            analysis.run(analysis.take_suspects(), remote_engine)  # a crash there affects no other file
        else:
            n_workers = max(1, min(workers, available_processors(), pending))
            _run_in_threads(analysis, rows, classifier, n_workers, _LongFiles(partial(tick, 0), checkpoints))
            analysis.classify_suspects(make_classifier, checkpoints)
    shutil.rmtree(checkpoints, ignore_errors=True)  # what is left belongs to files that have changed
    if counts.failed:
        counts.failures = records.list_failures(database, model, scan_id, -1 if max_failures is None else max_failures)
    return counts


class _LongFiles:
    """Shows how far the analysis of a file has come, if it takes long, as that of a mix of hours does.

    Parameters
    ----------
    show : callable
        `show(note=text)` shows a text; called from the threads that analyse.
    checkpoints : Path
        Folder for the checkpoints of such files.
    """

    def __init__(self, show: Callable[..., None], checkpoints: Path) -> None:
        self._show, self._checkpoints = show, checkpoints
        self._shown: dict[str, float] = {}  # monotonic time at which a file is shown next

    def run(self, classifier: FileClassifier, task: FileTask) -> TaskOutcome:
        """Run a task in this thread."""
        path = task.row.path
        self._shown[path] = time.monotonic() + _LONG_SECONDS
        shown = False

        def report(seconds: float) -> None:
            nonlocal shown
            if time.monotonic() >= self._shown[path]:
                self._shown[path] = time.monotonic() + _NOTE_SECONDS
                shown = True
                at = timedelta(seconds=round(seconds))
                self._show(note=f"{printable(Path(path).name)} at {at}")

        try:
            with on_position(report):
                return run_task(classifier, task, self._checkpoints)
        finally:
            del self._shown[path]
            if shown:
                self._show(note="")


def _run_in_threads(
    analysis: _AnalysisRun, rows: Iterator[FileRow], classifier: FileClassifier, workers: int, long_files: _LongFiles
) -> None:
    with shared_by(workers), ThreadPoolExecutor(workers) as pool:
        try:
            analysis.run(rows, _Threads(pool, classifier, workers, long_files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # wait only for tasks in progress
            raise


def _report_errors(found: Iterator[FoundFile], model_key: ModelKey, report: ReportFile | None) -> Iterator[FoundFile]:
    for item in found:
        if item.error and report is not None:
            report(item.path, FileError(item.error, item.message), False, model_key)
        yield item


def check_places(places: Sequence[str | Path], remote: bool = False) -> None:
    """Check that all places exist; otherwise all files in them would be marked as missing.

    Parameters
    ----------
    places : sequence of path
    remote : bool
        Allow URLs.

    Raises
    ------
    LibraryError
        If a place does not exist, or is a URL that is not allowed.
    """
    for place in map(local_path, places):
        if is_url(place) and not remote:
            raise LibraryError(f"{place}: is a URL, which needs `engine='ray'`; nothing was changed")
        if not is_url(place) and not Path(place).exists():
            raise LibraryError(f"{place}: no such folder or file; nothing was changed")


def _real(place: str | Path) -> str:
    return str(place) if is_url(place) else os.path.realpath(place)


class _Threads:
    """Runs tasks in threads of this process."""

    def __init__(
        self, pool: ThreadPoolExecutor, classifier: FileClassifier, workers: int, long_files: _LongFiles
    ) -> None:
        self._pool, self._classifier, self._long_files = pool, classifier, long_files
        self._tasks: dict[Future[TaskOutcome], FileTask] = {}
        self._workers = workers
        self._warm = False

    @property
    def capacity(self) -> int:
        """Maximum number of files in progress; one until the first is done, since imports in threads are unsafe."""
        return 2 * self._workers + 2 if self._warm else 1

    def submit(self, task: FileTask) -> None:
        self._tasks[self._pool.submit(self._long_files.run, self._classifier, task)] = task

    def collect(self) -> list[tuple[FileTask, TaskOutcome]]:
        done, _ = wait(self._tasks, return_when=FIRST_COMPLETED)
        outcomes = [(self._tasks.pop(future), future.result()) for future in done]
        self._warm = self._warm or any(isinstance(outcome, FileResult) and not outcome.error for _, outcome in outcomes)
        return outcomes


def run_task(classifier: FileClassifier, task: FileTask, checkpoints: Path | None = None) -> TaskOutcome:
    """Run a task in this thread; the checkpoints of a long file go to a folder."""
    row = task.row
    if task.action == "fingerprint":
        return fingerprint_file(row.path)
    fingerprint = FileFingerprint(row.size, row.mtime_ns, row.content or b"", row.genres)
    return classify_file(classifier, row.path, fingerprint, checkpoints)


@dataclass
class _AnalysisRun:
    """Tracks the files of a run from found to finished."""

    database: Database
    model: int
    model_key: ModelKey
    finish: Callable[[FileRow, FileResult | FileError, bool], None]
    n_open: int = 0
    classifying: dict[bytes, list[FileRow]] = field(default_factory=dict)  # by content; the first is being classified
    lost_workers: dict[int, int] = field(default_factory=dict)
    suspects: list[FileRow] = field(default_factory=list)
    begun: dict[int, float] = field(default_factory=dict)  # monotonic time at which work on a file began
    postponed: set[bytes] = field(default_factory=set)  # contents of suspects, which a copy must not be analysed before

    def run(self, rows: Iterator[FileRow], engine: Engine) -> None:
        """Analyse files until none is left."""
        try:
            while True:
                while self.n_open < engine.capacity and (row := next(rows, None)) is not None:
                    self._start(row, engine)
                if not self.n_open:
                    return
                for task, outcome in engine.collect():
                    self._handle(task, outcome, engine)
        finally:  # an interrupt is not counted as a crash, except for a file that may have hung
            recent = time.monotonic() - _SUSPECT_SECONDS
            started = [rows[0].id for rows in self.classifying.values()]
            records.remove_tries(self.database, [file for file in started if self.begun.get(file, recent) >= recent])

    def postpone_suspects(self, rows: Iterator[FileRow]) -> Iterator[FileRow]:
        """Yield all files except those that may have crashed or hung an earlier process, and their known copies."""
        self.postponed = records.suspect_contents(self.database)
        for row in rows:
            if row.content is None or (row.tries == 0 and row.content not in self.postponed):
                yield row
            else:
                self.suspects.append(row)

    def take_suspects(self) -> Iterator[FileRow]:
        """Return the postponed files, those with the most crashes last."""
        rows, self.suspects, self.postponed = sorted(self.suspects, key=lambda row: row.tries), [], set()
        return iter(rows)

    def classify_suspects(self, make_classifier: Callable[[], FileClassifier], checkpoints: Path) -> None:
        """Analyse the suspects after all other files, each in a separate process.

        If one crashes again, no other file loses its result.
        """
        for row in self.take_suspects():
            self.n_open += 1
            assert row.content is not None
            if records.share_result(self.database, self.model, row.id, row.content):
                result = records.find_stored_result(self.database, self.model, self.model_key, row.id)
                self._finish(row, result, shared=True)
                continue
            records.add_try(self.database, row.id)
            try:
                outcome = _classify_in_own_process(make_classifier, row, checkpoints)
            except KeyboardInterrupt:  # not counted as a crash
                records.remove_tries(self.database, [row.id])
                raise
            self._save_error(row, outcome) if isinstance(outcome, FileError) else self._save_result(row, outcome)

    def _start(self, row: FileRow, engine: Engine) -> None:
        self.n_open += 1
        if row.content is None:
            engine.submit(FileTask("fingerprint", row))
        else:
            self._classify(row, engine)

    def _handle(self, task: FileTask, outcome: TaskOutcome, engine: Engine) -> None:
        row = task.row
        if isinstance(outcome, WorkerLost):
            self._retry(task, engine)
        elif isinstance(outcome, FileFingerprint):
            read = (outcome.size, outcome.mtime_ns, outcome.content, outcome.genres)
            records.save_fingerprint(self.database, row.id, *read, outcome.own)
            known = FileRow(row.id, row.path, *read)
            self._classify(known, engine)
        elif task.action == "fingerprint":
            assert isinstance(outcome, FileError)
            self._save_error(row, outcome)
        else:
            assert row.content is not None
            others = self.classifying.pop(row.content)[1:]
            if isinstance(outcome, FileError):
                self._save_error(row, outcome)
            else:
                self._save_result(row, outcome)
            for other in others:
                self._classify(other, engine)

    def _classify(self, row: FileRow, engine: Engine) -> None:
        """Classify a file, unless one with the same content has been or is being classified."""
        assert row.content is not None
        if records.share_result(self.database, self.model, row.id, row.content):
            result = records.find_stored_result(self.database, self.model, self.model_key, row.id)
            self._finish(row, result, shared=True)
        elif row.content in self.postponed:  # a new copy of a suspect
            self.suspects.append(row)
            self.n_open -= 1
        elif row.content in self.classifying:
            self.classifying[row.content].append(row)
        else:
            self.classifying[row.content] = [row]
            self.begun[row.id] = time.monotonic()
            records.add_try(self.database, row.id)
            engine.submit(FileTask("classify", row))

    def _retry(self, task: FileTask, engine: Engine) -> None:
        self.lost_workers[task.row.id] = self.lost_workers.get(task.row.id, 0) + 1
        if self.lost_workers[task.row.id] < _MAX_LOST_WORKERS:
            engine.submit(task)
        elif task.action == "classify":
            self._handle(task, FileResult(None, error="crashed", message=_CRASHED), engine)
        else:
            self._handle(task, FileError("unreadable", "workers are lost whenever they read it"), engine)

    def _save_result(self, row: FileRow, result: FileResult) -> None:
        assert row.content is not None
        records.save_result(self.database, self.model, row.id, row.content, result)
        self._finish(row, result, shared=False)

    def _save_error(self, row: FileRow, error: FileError) -> None:
        records.save_file_error(self.database, row.id, error.error, error.message)
        self._finish(row, error, shared=False)

    def _finish(self, row: FileRow, outcome: FileResult | FileError, shared: bool) -> None:
        self.n_open -= 1
        self.lost_workers.pop(row.id, None)
        self.begun.pop(row.id, None)
        self.finish(row, outcome, shared)


def _classify_in_own_process(
    make_classifier: Callable[[], FileClassifier], row: FileRow, checkpoints: Path
) -> FileResult | FileError:
    """Analyse a file in a separate process, which may crash, and which is killed after a timeout."""
    try:
        with worker_pool(1) as pool:
            return pool.submit(_load_and_classify, make_classifier, row, checkpoints).result(_TIMEOUT_SECONDS)
    except BrokenProcessPool:
        return FileResult(None, error="crashed", message=_CRASHED)
    except TimeoutError:
        return FileResult(None, error="timeout", message=_TIMEOUT.format(_TIMEOUT_SECONDS))


def _load_and_classify(
    make_classifier: Callable[[], FileClassifier], row: FileRow, checkpoints: Path
) -> FileResult | FileError:
    outcome = run_task(make_classifier(), FileTask("classify", row), checkpoints)
    assert isinstance(outcome, (FileResult, FileError))
    return outcome
