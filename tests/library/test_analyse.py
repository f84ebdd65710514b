from __future__ import annotations

import gc
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from library_fakes import FakeClassifier, fake_classifier

from genretree.errors import LibraryError
from genretree.library.database import folders, journal, records
from genretree.library.database.connection import Database, lock_database, open_database
from genretree.library.scan import analyse as analyse_module
from genretree.library.scan.analyse import AnalysisCounts, analyse, check_places
from genretree.library.scan.classifier import FileError, fingerprint_file
from genretree.prediction import predict as predict_module
from genretree.progress import on_position, report_position
from genretree.sound.walk import Skipped, SoundWalk
from other_files import canary

pytestmark = pytest.mark.slow


def _fill(folder: Path, n: int, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        (folder / f"{i:04d}.mp3").write_bytes(f"sound {i}".encode() * 50)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


def _results(database: Database) -> dict[str, records.FileResult]:
    model, model_key = records.find_model(database)
    return {Path(row.path).name: result for row, result in records.iter_results(database, model, model_key)}


# -- analysing ---------------------------------------------------------------------------------------------------


@pytest.mark.posix
def test_every_file_is_one_row_with_a_result_or_a_reason(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 3)
    (tmp_path / "m" / "bad.mp3").write_bytes(b"no")
    os.mkfifo(tmp_path / "m" / "pipe.mp3")
    (tmp_path / "m" / "cover.JPG").write_bytes(b"x")
    reported: list[tuple[str, bool]] = []
    counts = analyse(
        database,
        [tmp_path / "m"],
        fake_classifier(),
        report=lambda path, o, shared, _: reported.append((path, bool(o.error))),
    )
    failures = [
        (str(tmp_path / "m" / "bad.mp3"), "not_audio", "not audio"),
        (str(tmp_path / "m" / "pipe.mp3"), "unreadable", "is a named pipe, not an audio file"),
    ]
    expected = AnalysisCounts(files=5, analysed=3, failed=2, skipped=Skipped({".jpg": 1}), failures=failures)
    assert vars(counts) == vars(expected)
    assert [Path(path).name for path, failed in reported if failed] == [
        "pipe.mp3",
        "bad.mp3",
    ]  # the walk refuses the pipe
    results = _results(database)
    assert results["0000.mp3"].levels is not None
    assert results["0000.mp3"].levels[0][0].sum() == pytest.approx(1)
    assert results["0000.mp3"].confidence == pytest.approx(0.8)
    assert results["bad.mp3"].error == "not_audio"
    model, _ = records.find_model(database)
    assert records.count_errors(database, model) == {"not_audio": 1, "unreadable": 1}
    assert records.count_files(database) == (5, 0)
    assert sum(records.count_genres(database, model).values()) == 3


@pytest.mark.posix
def test_special_files_are_reported_by_the_walk_and_never_opened(tmp_path: Path, database: Database) -> None:
    with canary(tmp_path / "m") as pipe, socket.socket(socket.AF_UNIX) as classifier:
        classifier.bind(str(tmp_path / "m" / "socket.mp3"))
        (tmp_path / "m" / "device.mp3").symlink_to("/dev/zero")
        found = {Path(item.path).name: (item.error, item.message) for item in SoundWalk().find([tmp_path / "m"])}
        assert found == {
            "canary.m4a": ("unreadable", "is a named pipe, not an audio file"),
            "socket.mp3": ("unreadable", "is a socket, not an audio file"),
            "zero": ("unreadable", "is a character device, not an audio file"),
        }
        assert [item.message for item in SoundWalk().find([pipe.path])] == ["is a named pipe, not an audio file"]
        counts = analyse(database, [tmp_path / "m"], fake_classifier())
        assert (counts.files, counts.analysed, counts.failed) == (3, 0, 3)
        assert not pipe.opened


def test_files_and_copies_are_analysed_once(tmp_path: Path, database: Database) -> None:
    log = tmp_path / "log"
    _fill(tmp_path / "m", 4)
    for i in range(20):
        shutil.copy(tmp_path / "m" / "0000.mp3", tmp_path / "m" / f"copy{i}.mp3")
    counts = analyse(database, [tmp_path / "m"], fake_classifier(log=log, seconds=0.01))
    assert (counts.analysed, counts.shared) == (4, 20)
    assert len(log.read_text().splitlines()) == 4
    again = analyse(database, [tmp_path / "m"], fake_classifier(log=log))
    assert (again.known, again.analysed, again.shared) == (24, 0, 0)
    assert len(log.read_text().splitlines()) == 4
    row = records.find_file(database, str(tmp_path / "m" / "copy3.mp3"))
    assert len(records.find_copies(database, row.content)) == 21


def test_only_a_changed_file_is_analysed_again(tmp_path: Path, database: Database) -> None:
    log = tmp_path / "log"
    _fill(tmp_path / "m", 5)
    analyse(database, [tmp_path / "m"], fake_classifier())
    (tmp_path / "m" / "0002.mp3").write_bytes(b"other sound")
    os.utime(tmp_path / "m" / "0003.mp3", (1, 1))  # touched, and the same as before
    (tmp_path / "m" / "0004.mp3").unlink()
    _fill(tmp_path / "m", 1, start=9)
    counts = analyse(database, [tmp_path / "m"], fake_classifier(log=log))
    assert sorted(log.read_text().split()) == ["0002.mp3", "0009.mp3"]
    assert (counts.files, counts.gone) == (5, 1)
    assert "0004.mp3" not in _results(database)
    (tmp_path / "m" / "0004.mp3").write_bytes(b"sound 4" * 50)  # back again
    back = analyse(database, [tmp_path / "m"], fake_classifier(log=log))
    assert (back.analysed, back.shared) == (0, 1) or back.known == 6
    model, _ = records.find_model(database)
    assert sum(records.count_genres(database, model).values()) == 6


def test_another_model_leaves_the_results_of_the_first_alone(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 3)
    analyse(database, [tmp_path / "m"], fake_classifier(confidence=0.8))
    analyse(database, [tmp_path / "m"], fake_classifier(confidence=0.6, digest="1" * 16))
    model, model_key = records.find_model(database, "0" * 16)
    assert {result.confidence for _, result in records.iter_results(database, model, model_key)} == {0.8}
    assert {result.confidence for result in _results(database).values()} == {0.6}
    first = analyse(database, [tmp_path / "m"], fake_classifier(confidence=0.8))
    assert first.known == 3
    with pytest.raises(LibraryError, match="there are"):
        records.find_model(database, "abc")


def test_other_folders_keep_their_files(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m" / "a", 2)
    _fill(tmp_path / "m" / "a2", 2, start=2)
    analyse(database, [tmp_path / "m"], fake_classifier())
    shutil.rmtree(tmp_path / "m" / "a")
    (tmp_path / "m" / "a").mkdir()
    assert analyse(database, [tmp_path / "m" / "a"], fake_classifier()).gone == 2
    assert records.count_files(database) == (2, 2)
    with pytest.raises(LibraryError, match="nothing was changed"):
        check_places([tmp_path / "nowhere"])


def test_a_folder_named_by_file_url_is_the_folder(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "50% a b", 2)
    for place in (f"file://{tmp_path}/50% a b", f"file://{tmp_path}/50%25%20a%20b", f"file://localhost{tmp_path}"):
        check_places([place])
        counts = analyse(database, [place], fake_classifier())
        assert (counts.files, counts.gone) == (2, 0)
    assert counts.known == 2
    assert records.find_file(database, str(tmp_path / "50% a b" / "0000.mp3")) is not None
    with pytest.raises(LibraryError, match="engine='ray'"):
        check_places(["s3://bucket/music"])
    check_places(["s3://bucket/music"], remote=True)


def test_failures_are_stored_until_retry_failed(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 1)
    (tmp_path / "m" / "bad.mp3").write_bytes(b"no")
    analyse(database, [tmp_path / "m"], fake_classifier())
    assert analyse(database, [tmp_path / "m"], fake_classifier()).failed == 1
    reported = []
    analyse(
        database, [tmp_path / "m"], fake_classifier(), retry_failed=True, report=lambda path, *_: reported.append(path)
    )
    assert [Path(path).name for path in reported] == ["bad.mp3"]


def test_the_position_in_a_long_file_is_shown(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(tmp_path / "m", 2)

    class LongMix(FakeClassifier):
        def score_file(self, path: Path) -> records.FileResult:
            for seconds in (62.0, 3723.4):
                report_position(seconds)
            return super().score_file(path)

    analyse(database, [tmp_path / "m"], LongMix, progress=True)
    assert " at " not in capsys.readouterr().err, "a short file shows no position"
    monkeypatch.setattr(analyse_module, "_LONG_SECONDS", 0.0)
    monkeypatch.setattr(analyse_module, "_NOTE_SECONDS", 0.0)
    shutil.rmtree(tmp_path / "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mix.mp3").write_bytes(b"another")
    analyse(database, [tmp_path / "m"], LongMix, progress=True)
    assert "mix.mp3 at 1:02:03" in capsys.readouterr().err


def test_the_position_is_reported_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "stack_slices", len)
    monkeypatch.setattr(predict_module, "_BATCH", 3)
    bundle = SimpleNamespace(training={}, model=SimpleNamespace(predict_proba=lambda n: [np.ones((n, 2))]))
    slices = [SimpleNamespace(start=10.0 * i, padded=False) for i in range(8)]
    seen: list[float] = []
    with on_position(seen.append):
        assert len(predict_module.score_slices(bundle, slices).starts) == 8  # type: ignore[arg-type]
    assert seen == [20.0, 50.0]


def test_a_file_that_vanishes_or_changes_during_the_analysis_is_reported(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 3)

    class Meddler(FakeClassifier):
        def score_file(self, path: Path) -> records.FileResult:
            result = super().score_file(path)
            if path.name == "0000.mp3":
                path.unlink()
            if path.name == "0001.mp3":
                path.write_bytes(b"another")
            return result

    reported: dict[str, object] = {}
    analyse(database, [tmp_path / "m"], Meddler, report=lambda path, o, *_: reported.update({Path(path).name: o}))
    assert isinstance(reported["0000.mp3"], FileError)
    assert (reported["0000.mp3"].error, reported["0001.mp3"].error) == ("not_found", "changed")
    assert list(_results(database)) == ["0002.mp3"]
    assert analyse(database, [tmp_path / "m"], fake_classifier()).analysed == 1


def test_names_that_are_no_text_come_back_as_they_were(tmp_path: Path, database: Database) -> None:
    (tmp_path / "m").mkdir()
    raw = os.fsencode(tmp_path / "m") + b"/\xff\xfe \xe6\x97.mp3"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    analyse(database, [tmp_path / "m"], fake_classifier())
    model, model_key = records.find_model(database)
    (found,) = [row.path for row, _ in records.iter_results(database, model, model_key)]
    assert os.fsencode(found) == raw


def test_only_one_process_works_on_a_library(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite"
    other = lock_database(path, "library apply")
    with lock_database(path, "library analyse"), pytest.raises(LibraryError, match=f"process {os.getpid()}"):
        other.__enter__()
    with lock_database(path, "library apply"):  # the first one is done
        pass


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 400)
    pages = database.connection.execute("PRAGMA page_count").fetchone()[0]
    database.connection.execute(f"PRAGMA max_page_count = {pages + 40}")
    with pytest.raises(LibraryError, match="disk is full"):
        analyse(database, [tmp_path / "m"], fake_classifier())
    assert database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    done = database.connection.execute("SELECT count(*) FROM result").fetchone()[0]
    database.connection.execute("PRAGMA max_page_count = 100000")
    counts = analyse(database, [tmp_path / "m"], fake_classifier())
    assert 0 < counts.known == done < 400
    assert counts.analysed == 400 - done


def test_other_files_are_refused_as_databases(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no such library"):
        open_database(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("hello, this is a text " * 100)
    with pytest.raises(LibraryError, match="is not a library database"):
        open_database(tmp_path / "text")
    open_database(tmp_path / "new", create=True).close()
    with sqlite3.connect(tmp_path / "new") as connection:
        connection.execute("UPDATE setting SET value = 99")
    with pytest.raises(LibraryError, match="format 99"):
        open_database(tmp_path / "new")
    with pytest.raises(LibraryError, match="can't be written"):
        open_database(tmp_path, create=True)


# -- crashes and interrupts --------------------------------------------------------------------------------------

_RUN = """
import sys
from dataclasses import asdict
from pathlib import Path
from genretree.library.scan.analyse import analyse
from genretree.library.database.connection import lock_database, open_database
from library_fakes import fake_classifier
db, music, log, seconds = sys.argv[1:]
with lock_database(Path(db), "test"), open_database(db, create=True) as database:
    print(analyse(database, [music], fake_classifier(log=Path(log), seconds=float(seconds))))
"""


def _start(tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    words = [tmp_path / "library.sqlite", tmp_path / "m", tmp_path / "log", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", _RUN, *map(str, words)], env=environment)


def _lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_killed_at_random_moments_it_repeats_no_finished_file_and_loses_none(tmp_path: Path) -> None:
    _fill(tmp_path / "m", 100)
    log, chance = tmp_path / "log", random.Random(8)
    finished: set[str] = set()
    for _ in range(4):
        before = len(_lines(log))
        process = _start(tmp_path, 0.02)
        goal = before + chance.randrange(1, 18)
        while len(_lines(log)) < goal:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.wait()
        analysed = set(_lines(log)[before:])
        assert not finished & analysed, "a finished file was analysed again"
        with open_database(tmp_path / "library.sqlite") as database:
            assert database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            now = {name for name, result in _results(database).items() if not result.error}
        assert finished <= now, "a finished file was lost"
        assert len(analysed - now) <= 2, "more was lost than what was in hand"
        finished = now
    assert 4 <= len(finished) < 100
    before = len(_lines(log))
    assert _start(tmp_path, 0).wait() == 0
    assert not finished & set(_lines(log)[before:])
    with open_database(tmp_path / "library.sqlite") as database:
        assert len(_results(database)) == 100
        assert not any(result.error for result in _results(database).values())


def test_a_file_that_crashes_processes_is_identified(tmp_path: Path) -> None:
    _fill(tmp_path / "m", 6)
    (tmp_path / "m" / "abort.mp3").write_bytes(b"takes the process down")
    codes = [_start(tmp_path, 0).wait() for _ in range(2)]
    assert codes[0] != 0
    assert codes[1] == 0
    with open_database(tmp_path / "library.sqlite") as database:
        errors = {name: result.error for name, result in _results(database).items() if result.error}
        assert errors == {"abort.mp3": "crashed"}
        assert len(_results(database)) == 7


def test_copies_of_a_suspect_wait_for_it(tmp_path: Path) -> None:
    _fill(tmp_path / "m", 6)
    (tmp_path / "m" / "abort-1.mp3").write_bytes(b"takes the process down")
    assert _start(tmp_path, 0).wait() != 0
    (tmp_path / "m" / "abort-0.mp3").write_bytes(b"takes the process down")  # walked to before all others
    assert _start(tmp_path, 0).wait() == 0
    with open_database(tmp_path / "library.sqlite") as database:
        errors = {name: result.error for name, result in _results(database).items() if result.error}
        assert errors == {"abort-0.mp3": "crashed", "abort-1.mp3": "crashed"}
        assert len(_results(database)) == 8


def test_a_file_that_hangs_comes_last_and_has_a_limit(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path / "m", 5)
    (tmp_path / "m" / "hang.mp3").write_bytes(b"goes on for ever")
    process = _start(tmp_path, 0)  # hangs, and is killed as by a timer
    deadline = time.monotonic() + 60
    while len(_lines(tmp_path / "log")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    monkeypatch.setattr("genretree.library.scan.analyse._TIMEOUT_SECONDS", 5.0)
    _fill(tmp_path / "m", 1, start=9)
    order: list[str] = []
    analyse(database, [tmp_path / "m"], fake_classifier(), report=lambda path, *_: order.append(Path(path).name))
    assert order[-1] == "hang.mp3"
    found = _results(database)
    assert found["hang.mp3"].error == "timeout"
    assert "more than 5 s" in found["hang.mp3"].message
    assert len(found) == 7


@pytest.mark.parametrize(("seconds", "tries"), [(599, 0), (601, 1)])
def test_a_file_in_progress_for_long_is_suspect_after_an_interrupt(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, seconds: float, tries: int
) -> None:
    now = 1000.0
    monkeypatch.setattr(analyse_module, "time", SimpleNamespace(monotonic=lambda: now))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    _fill(tmp_path / "m", 1)

    class Interrupted(FakeClassifier):
        def score_file(self, path: Path) -> records.FileResult:
            nonlocal now
            now += seconds
            signal.raise_signal(signal.SIGINT)  # in the main thread
            return super().score_file(path)

    try:
        with pytest.raises(KeyboardInterrupt):
            analyse(database, [tmp_path / "m"], Interrupted, workers=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert database.connection.execute("SELECT max(tries) FROM file").fetchone()[0] == tries


def test_an_interrupt_is_not_counted_as_a_crash(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 3)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            analyse(database, [tmp_path / "m"], fake_classifier(confidence=None), report=interrupt, workers=1)
    assert database.connection.execute("SELECT max(tries) FROM file").fetchone()[0] == 0


# -- size --------------------------------------------------------------------------------------------------------


def test_questions_are_answered_from_indexes(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m" / "some", 30)
    analyse(database, [tmp_path / "m"], fake_classifier(confidence=None))
    model, model_key = records.find_model(database)
    asked: list[str] = []
    database.connection.set_trace_callback(asked.append)
    records.find_file(database, "/x")
    records.find_copies(database, b"x")
    records.count_files(database)
    records.count_genres(database, model)
    records.count_errors(database, model)
    records.list_errors(database, model, 10)
    every = records.list_most_confident(database, model, model_key, limit=7)
    one = records.list_most_confident(database, model, model_key, leaf=every[0][1].leaf, limit=7)
    below = records.list_most_confident(database, model, model_key, folder=str(tmp_path / "m" / "some"), limit=7)
    list(records.iter_results(database, model, model_key))
    folders.check_folder(database, str(tmp_path / "m"))
    journal.find_last_change(database, "/x")
    database.connection.set_trace_callback(None)
    for query in asked:
        plan = " ".join(row[3] for row in database.connection.execute(f"EXPLAIN QUERY PLAN {query}"))
        assert not re.search(r"SCAN (file|f|result|r|change)\b(?! USING)", plan), f"{query}: {plan}"
        if "confidence DESC" not in query and "WHERE content =" not in query:  # a small folder's files are sorted
            assert "TEMP B-TREE FOR ORDER BY" not in plan, f"{query}: {plan}"
    confidence = sorted((result.confidence for result in _results(database).values()), reverse=True)
    assert [result.confidence for _, result in every] == pytest.approx(confidence[:7])
    assert [result.confidence for _, result in below] == pytest.approx(confidence[:7])
    assert {result.leaf for _, result in one} == {every[0][1].leaf}


def test_memory_does_not_grow_with_the_library(tmp_path: Path, database: Database) -> None:
    import tracemalloc

    def peak(folder: str, n: int) -> int:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "first.mp3").write_bytes(folder.encode())
        for i in range(n):
            album = tmp_path / folder / str(i // 50)  # the names of one folder are held while they are sorted
            album.mkdir(exist_ok=True)
            os.link(tmp_path / folder / "first.mp3", album / f"{i}.mp3")
        gc.collect()
        gc.freeze()  # objects of earlier tests would make collections rarer
        tracemalloc.start()
        analyse(database, [tmp_path / folder], fake_classifier())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gc.unfreeze()
        return found

    peak("warm", 10)
    small = peak("small", 500)
    large = peak("large", 3000)
    # A row of each file would take 500 bytes or more; when the collector looks moves the peak by some 100,000.
    assert large < small + 2500 * 240, (small, large)


def test_the_main_thread_alone_talks_to_the_database(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 10)
    seen = set()

    class Threaded(FakeClassifier):
        def score_file(self, path: Path) -> records.FileResult:
            seen.add(threading.current_thread() is threading.main_thread())
            return super().score_file(path)

    analyse(database, [tmp_path / "m"], Threaded)
    assert seen == {False}
    assert json.loads(json.dumps(asdict(analyse(database, [tmp_path / "m"], fake_classifier()))))["known"] == 10


# -- suspects and signals ----------------------------------------------------------------------------------------


def test_suspects_are_analysed_after_all_others(tmp_path: Path, database: Database) -> None:
    _fill(tmp_path / "m", 6)
    analyse(database, [tmp_path / "m"], fake_classifier(confidence=None))
    names = [path for (path,) in database.connection.execute("SELECT path FROM file ORDER BY id")]
    database.connection.execute("DELETE FROM result")
    database.connection.execute("UPDATE file SET tries = 3 WHERE path = ?", (names[0],))
    database.connection.execute("UPDATE file SET tries = 2 WHERE path = ?", (names[1],))
    order: list[str] = []
    analyse(
        database,
        [tmp_path / "m"],
        fake_classifier(confidence=None),
        report=lambda path, *_: order.append(path),
        workers=1,
    )
    assert [os.fsencode(path) for path in order[-2:]] == [names[1], names[0]]
    assert len(order) == 6


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated")])
def test_both_signals_stop_cleanly_and_print_the_resume_command(tmp_path: Path, number: int, word: str) -> None:
    code = (
        "import time, click\nfrom genretree.cli import main\n"
        "@main.command('library-x')\ndef slow():\n"
        "    try:\n        print('begun', flush=True)\n        time.sleep(60)\n    finally:\n        print('unwound')\n"
        "import genretree.cli as cli\ncli._RESUMABLE += ('library-x',)\nmain(['library-x'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == b"unwound\n"
    assert word in err.decode()
    assert "What was finished is saved; continue with: " in err.decode()


def test_a_file_with_hard_links_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genretree.library.scan import classifier

    music = tmp_path / "music"
    music.mkdir()
    (music / "a.mp3").write_bytes(b"one")
    for name in ("b.mp3", "c.mp3"):
        os.link(music / "a.mp3", music / name)
    hashed: list[Path] = []
    digest = classifier.content_digest
    monkeypatch.setattr(classifier, "content_digest", lambda path: hashed.append(path) or digest(path))
    prints = [fingerprint_file(str(music / name)) for name in ("a.mp3", "b.mp3", "c.mp3")]
    assert len({found.content for found in prints}) == 1 and len(hashed) == 1
    times = (music / "a.mp3").stat()
    (music / "a.mp3").write_bytes(b"two")  # as long as before
    os.utime(music / "a.mp3", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_file(str(music / "b.mp3")).content == digest(music / "a.mp3")
