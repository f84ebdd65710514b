"""Analyse every file of a library once, and continue where the last run ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from genretree.errors import LibraryError
from genretree.library.database import records
from genretree.library.database.connection import Database
from genretree.library.database.records import FileRow, ModelKey, Result
from genretree.library.scan.classifier import FileClassifier, FileFingerprint, Problem, classify_file, fingerprint_file
from genretree.parallel import available_processors, shared_by, worker_pool
from genretree.progress import progress_bar
from genretree.remote import is_url, local_path
from genretree.sound.walk import FoundFile, Skipped, SoundWalk

_LONG_SECONDS = 600.0  # work on a file that takes longer may hang: it is a suspect even if the run was interrupted
_LIMIT_SECONDS = 3600.0  # for a suspect in a process of its own
_STRIKES = 3  # so often a remote worker is lost with a file in hand, until it is the file's fault
_CRASHED = "the decoder crashed on this file; convert it to another format"
_TIMEOUT = "analysing this file took more than {:g} s, so it was stopped; convert it to another format"

Report = Callable[[str, Result | Problem, bool, ModelKey], None]


@dataclass(frozen=True)
class FileJob:
    """A task for a file: `fingerprint` it, or `classify` it."""

    kind: Literal["fingerprint", "classify"]
    row: FileRow


class WorkerLost:
    """The outcome of a job whose worker died."""


JobOutcome = FileFingerprint | Problem | Result | WorkerLost


class Engine(Protocol):
    """Runs jobs: threads of this process, or remote workers."""

    @property
    def room(self) -> int:
        """Maximum number of files in progress."""

    def submit(self, job: FileJob) -> None:
        """Take a job on."""

    def collect(self) -> list[tuple[FileJob, JobOutcome]]:
        """Wait until some jobs are done, and give them."""


@dataclass
class AnalysisCounts:
    """Counts of a run.

    Parameters
    ----------
    files : int
        Found by the walk, with those that can't be read.
    known : int
        Finished in earlier runs.
    heard, shared : int
        Analysed now; given the result of another file with the same content.
    failed : int
        Failed, now or in earlier runs.
    gone : int
        Files of earlier runs that are missing now.
    skipped : Skipped
        Files that the walk skipped.
    failures : list of (str, str, str)
        Path, kind and reason of files that can't be used, as many as were asked for.
    """

    files: int = 0
    known: int = 0
    heard: int = 0
    shared: int = 0
    failed: int = 0
    gone: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    failures: list[tuple[str, str, str]] = field(default_factory=list)


def analyse(
    state: Database,
    places: Sequence[str | Path],
    make_classifier: Callable[[], FileClassifier],
    *,
    workers: int = 2,
    hidden: bool = False,
    retry_failed: bool = False,
    engine: Callable[[FileClassifier], Engine] | None = None,
    find: Callable[[SoundWalk, Sequence[str | Path]], Iterator[FoundFile]] = SoundWalk.find,
    progress: bool = False,
    report: Report | None = None,
    max_failures: int | None = 10,
) -> AnalysisCounts:
    """Analyse all audio files in some folders that have no result yet, in constant memory.

    Parameters
    ----------
    state : Database
        Of which the caller is the `sole_worker`.
    places : sequence of paths
        Those named by file:// are taken as the paths that they are.
    make_listener : callable
        Loads the model; called again in a process apart for a file that a process died of.
    workers : int
        Files that are worked on at a time, but no more than there are processors.
    hidden : bool
        Also hidden files.
    retry_failed : bool
        Try again what this model could not use before.
    engine : callable, optional
        Makes other workers than threads of this process, from the listener.
    find : callable
        Finds the files at and below the places; counts in the walk what it passes over.
    progress : bool
        Show bars on standard error.
    report : callable, optional
        Called with path, outcome, whether it is shared, and the model key, for each file that is finished, and of each
        that the walk could not read.
    max_failures : int or None
        Maximum number of `failures` in what is returned; None for all.

    Returns
    -------
    Counts

    Raises
    ------
    LibraryError
        If a place does not exist.
    """
    places = [local_path(place) for place in places]
    classifier = make_classifier()
    model = records.use_model(state, classifier.card)
    round_ = records.begin_round(state)
    counts = AnalysisCounts()
    with progress_bar(0, "walk", "file", progress) as tick:
        walk = SoundWalk(hidden)
        found = _report_problems(find(walk, places), classifier.card, report)
        for n in records.record_found(state, found, round_):
            tick(n)
    counts.skipped = walk.skipped
    counts.gone = records.mark_gone(state, [_real(place) for place in places], round_)
    if retry_failed:
        records.forget_failures(state, model)
    pending, counts.failed, counts.files = records.count_pending(state, model, round_)
    counts.known = counts.files - pending - counts.failed
    finished = counts.files - pending
    with progress_bar(counts.files, "analyse", "file", progress and pending > 0, initial=finished) as tick:

        def finish(row: FileRow, outcome: Result | Problem, shared: bool) -> None:
            of_no_use = bool(outcome.error)
            counts.failed += of_no_use
            counts.shared += shared and not of_no_use
            counts.heard += not shared and not of_no_use
            tick()
            if report is not None:
                report(row.path, outcome, shared, classifier.card)

        course = _AnalysisRun(state, model, classifier.card, finish)
        rows = course.postpone_suspects(records.iter_pending(state, model, round_))
        if engine is not None:
            elsewhere = engine(classifier)
            course.run(rows, elsewhere)
            course.run(course.take_suspects(), elsewhere)  # which takes no other file down
        else:
            _run_here(course, rows, classifier, max(1, min(workers, available_processors(), pending)))
            course.classify_suspects(make_classifier)
    if counts.failed:
        counts.failures = records.list_failures(state, model, round_, -1 if max_failures is None else max_failures)
    return counts


def _run_here(course: _AnalysisRun, rows: Iterator[FileRow], classifier: FileClassifier, workers: int) -> None:
    with shared_by(workers), ThreadPoolExecutor(workers) as pool:
        try:
            course.run(rows, _Threads(pool, classifier, workers))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # wait only for what was begun
            raise


def _report_problems(found: Iterator[FoundFile], card: ModelKey, report: Report | None) -> Iterator[FoundFile]:
    for item in found:
        if item.error and report is not None:
            report(item.path, Problem(item.error, item.message), False, card)
        yield item


def check_places(places: Sequence[str | Path], remote: bool = False) -> None:
    """Refuse places that don't exist: all files known of them would seem to be gone.

    Parameters
    ----------
    places : sequence of paths
    remote : bool
        URLs may be among them.

    Raises
    ------
    LibraryError
        Names the first.
    """
    for place in map(local_path, places):
        if is_url(place) and not remote:
            raise LibraryError(f"{place}: is a URL, which needs `engine='ray'`; nothing was changed")
        if not is_url(place) and not Path(place).exists():
            raise LibraryError(f"{place}: no such folder or file; nothing was changed")


def _real(place: str | Path) -> str:
    return str(place) if is_url(place) else os.path.realpath(place)


class _Threads:
    """Jobs done by threads of this process."""

    def __init__(self, pool: ThreadPoolExecutor, classifier: FileClassifier, workers: int) -> None:
        self._pool, self._classifier = pool, classifier
        self._jobs: dict[Future[JobOutcome], FileJob] = {}
        self._workers = workers
        self._warm = False

    @property
    def room(self) -> int:
        """One, until the first file is done: lazily loading libraries are left to one thread."""
        return 2 * self._workers + 2 if self._warm else 1

    def submit(self, job: FileJob) -> None:
        self._jobs[self._pool.submit(do_job, self._classifier, job)] = job

    def collect(self) -> list[tuple[FileJob, JobOutcome]]:
        done, _ = wait(self._jobs, return_when=FIRST_COMPLETED)
        found = [(self._jobs.pop(future), future.result()) for future in done]
        self._warm = self._warm or any(isinstance(outcome, Result) and not outcome.error for _, outcome in found)
        return found


def do_job(classifier: FileClassifier, job: FileJob) -> JobOutcome:
    """Do a job here and now."""
    row = job.row
    if job.kind == "fingerprint":
        return fingerprint_file(row.path)
    return classify_file(classifier, row.path, FileFingerprint(row.size, row.mtime_ns, row.content or b"", row.genres))


@dataclass
class _AnalysisRun:
    """The way of files from found to finished."""

    state: Database
    model: int
    card: ModelKey
    finish: Callable[[FileRow, Result | Problem, bool], None]
    in_hand: int = 0
    classifying: dict[bytes, list[FileRow]] = field(
        default_factory=dict
    )  # the first is classified, the others wait for it
    strikes: dict[int, int] = field(default_factory=dict)
    suspects: list[FileRow] = field(default_factory=list)
    begun: dict[int, float] = field(default_factory=dict)  # monotonic time at which work on a file began
    put_off: set[bytes] = field(default_factory=set)  # contents of suspects, which a copy must not be analysed before

    def run(self, rows: Iterator[FileRow], engine: Engine) -> None:
        """Work on files until none is left."""
        try:
            while True:
                while self.in_hand < engine.room and (row := next(rows, None)) is not None:
                    self._begin(row, engine)
                if not self.in_hand:
                    return
                for job, outcome in engine.collect():
                    self._take(job, outcome, engine)
        finally:  # an interrupt is no file's fault, unless one may be what the run hung on
            recent = time.monotonic() - _LONG_SECONDS
            in_hand = [waiting[0].id for waiting in self.classifying.values()]
            records.take_back_tries(self.state, [file for file in in_hand if self.begun.get(file, recent) >= recent])

    def postpone_suspects(self, rows: Iterator[FileRow]) -> Iterator[FileRow]:
        """Yield all files but those that an earlier process may have died of or hung on, and known copies of these."""
        self.put_off = records.suspect_contents(self.state)
        for row in rows:
            if row.content is None or (row.tries == 0 and row.content not in self.put_off):
                yield row
            else:
                self.suspects.append(row)

    def take_suspects(self) -> Iterator[FileRow]:
        """Return the files that were put off, the most suspicious last."""
        rows, self.suspects, self.put_off = sorted(self.suspects, key=lambda row: row.tries), [], set()
        return iter(rows)

    def classify_suspects(self, make_classifier: Callable[[], FileClassifier]) -> None:
        """Analyse the suspects, after all other files are done: the most suspicious last, each in a process of its own.

        One that takes everything down again then costs no other file its result.
        """
        for row in self.take_suspects():
            self.in_hand += 1
            assert row.content is not None
            if records.share_result(self.state, self.model, row.id, row.content):
                found = records.find_stored_result(self.state, self.model, self.card, row.id)
                self._end(row, found, shared=True)
                continue
            records.begin_try(self.state, row.id)
            try:
                outcome = _classify_in_own_process(make_classifier, row)
            except KeyboardInterrupt:  # not the file's fault
                records.take_back_tries(self.state, [row.id])
                raise
            self._give_up(row, outcome) if isinstance(outcome, Problem) else self._save(row, outcome)

    def _begin(self, row: FileRow, engine: Engine) -> None:
        self.in_hand += 1
        if row.content is None:
            engine.submit(FileJob("fingerprint", row))
        else:
            self._listen(row, engine)

    def _take(self, job: FileJob, outcome: JobOutcome, engine: Engine) -> None:
        row = job.row
        if isinstance(outcome, WorkerLost):
            self._try_again(job, engine)
        elif isinstance(outcome, FileFingerprint):
            read = (outcome.size, outcome.mtime_ns, outcome.content, outcome.genres)
            records.save_fingerprint(self.state, row.id, *read, outcome.own)
            known = FileRow(row.id, row.path, *read)
            self._listen(known, engine)
        elif job.kind == "fingerprint":
            assert isinstance(outcome, Problem)
            self._give_up(row, outcome)
        else:
            assert row.content is not None
            others = self.classifying.pop(row.content)[1:]
            if isinstance(outcome, Problem):
                self._give_up(row, outcome)
            else:
                self._save(row, outcome)
            for other in others:
                self._listen(other, engine)

    def _listen(self, row: FileRow, engine: Engine) -> None:
        """Classify a file, unless one with the same content has been or is being classified."""
        assert row.content is not None
        if records.share_result(self.state, self.model, row.id, row.content):
            found = records.find_stored_result(self.state, self.model, self.card, row.id)
            self._end(row, found, shared=True)
        elif row.content in self.put_off:  # a new copy of a suspect
            self.suspects.append(row)
            self.in_hand -= 1
        elif row.content in self.classifying:
            self.classifying[row.content].append(row)
        else:
            self.classifying[row.content] = [row]
            self.begun[row.id] = time.monotonic()
            records.begin_try(self.state, row.id)
            engine.submit(FileJob("classify", row))

    def _try_again(self, job: FileJob, engine: Engine) -> None:
        self.strikes[job.row.id] = self.strikes.get(job.row.id, 0) + 1
        if self.strikes[job.row.id] < _STRIKES:
            engine.submit(job)
        elif job.kind == "classify":
            self._take(job, Result(None, error="crashed", message=_CRASHED), engine)
        else:
            self._take(job, Problem("unreadable", "workers are lost whenever they read it"), engine)

    def _save(self, row: FileRow, result: Result) -> None:
        assert row.content is not None
        records.save_result(self.state, self.model, row.id, row.content, result)
        self._end(row, result, shared=False)

    def _give_up(self, row: FileRow, problem: Problem) -> None:
        records.save_problem(self.state, row.id, problem.error, problem.message)
        self._end(row, problem, shared=False)

    def _end(self, row: FileRow, outcome: Result | Problem, shared: bool) -> None:
        self.in_hand -= 1
        self.strikes.pop(row.id, None)
        self.begun.pop(row.id, None)
        self.finish(row, outcome, shared)


def _classify_in_own_process(make_classifier: Callable[[], FileClassifier], row: FileRow) -> Result | Problem:
    """Analyse a file in a process of its own, which it may take down, and which is killed if it takes too long."""
    try:
        with worker_pool(1) as pool:
            return pool.submit(_load_and_hear, make_classifier, row).result(_LIMIT_SECONDS)
    except BrokenProcessPool:
        return Result(None, error="crashed", message=_CRASHED)
    except TimeoutError:
        return Result(None, error="timeout", message=_TIMEOUT.format(_LIMIT_SECONDS))


def _load_and_hear(make_classifier: Callable[[], FileClassifier], row: FileRow) -> Result | Problem:
    outcome = do_job(make_classifier(), FileJob("classify", row))
    assert isinstance(outcome, (Result, Problem))
    return outcome
