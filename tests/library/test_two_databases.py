"""Two databases on one library, and other programs at work on the same files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pytest
import soundfile as sf
from library_fakes import fake_classifier
from mutagen.flac import FLAC

from genretree.library.apply import apply as apply_module
from genretree.library.apply import file_lock
from genretree.library.apply import undo as undo_module
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.recover import recover
from genretree.library.apply.undo import undo
from genretree.library.database import journal, records
from genretree.library.database.connection import Database, open_database
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags, write_tags

pytestmark = pytest.mark.slow


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    with (
        open_database(tmp_path / "one.sqlite", create=True) as one,
        open_database(tmp_path / "two.sqlite", create=True) as two,
    ):
        yield one, two


@pytest.fixture
def path(music: Path) -> Path:
    """The only file of a library."""
    for other in music.iterdir():
        if other.name != "flac.flac":
            other.unlink()
    return music / "flac.flac"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "WAIT_SECONDS", 0.2)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


def _write(database: Database, mode: str = "only-empty") -> tuple[int, list[str]]:
    model, model_key = records.find_model(database)
    run, _, refused = apply_plans(database, iter_plans(database, model, model_key, Mapping(), mode), model_key.digest)  # type: ignore[arg-type]
    return run or 0, [item.reason for item in refused]


def _names(path: Path) -> list[str]:
    return sorted(item.name for item in path.parent.iterdir())


def _meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act: object, *, after: bool = False) -> None:
    """Do something in the middle of the next write or undo, and not again."""
    real = getattr(apply_module, name)
    modules = [module for module in (apply_module, undo_module) if hasattr(module, name)]

    def call(*arguments: object, **options: object) -> object:
        for module in modules:
            monkeypatch.setattr(module, name, real)
        if not after:
            act()  # type: ignore[operator]
        found = real(*arguments, **options)
        if after:
            act()  # type: ignore[operator]
        return found

    for module in modules:
        monkeypatch.setattr(module, name, call)


def _write_in_both(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, point: str
) -> tuple[tuple[int, list[str]], list[tuple[int, list[str]]]]:
    """Write with the first database, and with the second at some point of the first write; returns both results."""
    for database in databases:
        analyse(database, [path], fake_classifier())
    other: list[tuple[int, list[str]]] = []
    _meanwhile(monkeypatch, point, lambda: other.append(_write(databases[1])))
    return _write(databases[0]), other


@pytest.mark.usefixtures("always_copied")
@pytest.mark.parametrize("point", ["write_tags", "check_unchanged", "copy_status", "replace_file"])
def test_a_file_that_another_database_is_writing_to_is_refused(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = path.read_bytes()
    (run, refused), other = _write_in_both(path, databases, monkeypatch, point)
    assert refused == []
    assert other == [(0, ["another process is writing to it; try again when that has finished"])]
    assert read_tags(path).genres == ("Soft_rock",)
    assert _names(path) == [path.name]
    assert undo(databases[0], run) == (1, [])
    assert path.read_bytes() == before
    assert [recover(database) for database in databases] == [[], []]


@pytest.mark.usefixtures("no_locks", "always_copied")
@pytest.mark.parametrize("point", ["write_tags", "check_unchanged", "copy_status", "replace_file"])
def test_without_locks_the_second_database_finds_the_file_replaced(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = path.read_bytes()
    (run, refused), other = _write_in_both(path, databases, monkeypatch, point)
    assert run == 0
    assert len(refused) == 1
    assert "another program changed it at the same time" in refused[0]
    assert other[0][1] == []
    assert _names(path) == [path.name]
    assert recover(databases[0]) == []
    assert undo(databases[1], other[0][0]) == (1, [])
    assert path.read_bytes() == before


@pytest.mark.usefixtures("always_copied")
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_not_overwritten(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(databases[0], [path], fake_classifier())
    theirs = path.read_bytes().replace(b"A title", b"B title")

    def replace() -> None:
        status = path.stat()
        edited = path.with_name("edited")
        edited.write_bytes(theirs)
        os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
        edited.replace(path)

    _meanwhile(monkeypatch, "replace_file", replace)
    run, refused = _write(databases[0])
    assert (run, len(refused)) == (0, 1)
    assert "another program changed it" in refused[0]
    assert path.read_bytes() == theirs
    assert _names(path) == [path.name]
    assert recover(databases[0]) == []


@pytest.mark.usefixtures("always_copied")
@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_another_program_saves_during_undo_is_not_overwritten(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    database = databases[0]
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)
    edited = path.with_name("edited")
    shutil.copy(path, edited)
    tags = FLAC(edited)
    tags["comment"] = "theirs"
    tags.save()
    theirs = edited.read_bytes()
    if force:
        write_tags(path, ["Rock"], dict(read_tags(path).own))
    _meanwhile(monkeypatch, "copy_status", lambda: edited.replace(path))
    restored, refused = undo(database, run, force=force)
    assert (restored, len(refused)) == (0, 1)
    assert "another program changed it" in refused[0].reason
    assert path.read_bytes() == theirs
    assert _names(path) == [path.name]
    assert recover(database) == []
    assert undo(database, run, force=True) == (1, [])
    assert FLAC(path)["comment"] == ["theirs"]


@pytest.mark.usefixtures("always_copied")
def test_a_file_removed_during_a_write_stays_removed(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(databases[0], [path], fake_classifier())
    _meanwhile(monkeypatch, "replace_file", path.unlink)
    _, refused = _write(databases[0])
    assert "was removed by another program" in refused[0]
    assert list(path.parent.iterdir()) == []
    assert recover(databases[0]) == []


@pytest.mark.usefixtures("always_copied")
def test_an_undo_interrupted_after_the_replacement_is_recorded(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, before = databases[0], path.read_bytes()
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)

    def interrupt() -> None:
        raise KeyboardInterrupt

    _meanwhile(monkeypatch, "replace_file", interrupt, after=True)
    with pytest.raises(KeyboardInterrupt):
        undo(database, run)
    assert path.read_bytes() == before
    assert _names(path) == [path.name]
    assert [item.message for item in recover(database)] == ["was restored"]


@pytest.mark.usefixtures("always_copied")
def test_a_write_interrupted_after_the_replacement_can_be_undone(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, before = databases[0], path.read_bytes()
    analyse(database, [path], fake_classifier())

    def interrupt() -> None:
        raise KeyboardInterrupt

    _meanwhile(monkeypatch, "replace_file", interrupt, after=True)
    with pytest.raises(KeyboardInterrupt):
        _write(database)
    assert [item.message for item in recover(database)] == ["was written; undo restores it"]
    assert undo(database, journal.find_run(database, None)) == (1, [])
    assert path.read_bytes() == before


# -- leftovers of killed processes -----------------------------------------------------------------------------------


class _KilledError(BaseException):
    pass


def _die(*_: object, **__: object) -> None:
    raise _KilledError


@pytest.mark.usefixtures("always_copied")
def test_the_step_copy_of_an_undo_that_was_killed_is_removed(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, before = databases[0], path.read_bytes()
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)
    _write(database, "overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(undo_module, "apply_delta", _die)
        patch.setattr(Path, "unlink", _die)  # killed, it would not clear up
        with pytest.raises(_KilledError):
            undo(database, run)
    assert [name for name in _names(path) if name.endswith(".step")]
    recover(database)
    assert _names(path) == [path.name]
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


def test_copies_of_0_1_are_removed_and_those_of_other_processes_are_not(
    path: Path, databases: tuple[Database, Database]
) -> None:
    database = databases[0]
    analyse(database, [path], fake_classifier())
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    temporary = path.with_name(f".genretree-{digest}.tmp")
    content = records.find_file(database, str(path)).content  # type: ignore[union-attr]
    assert content is not None
    run = journal.begin_run(database, "0" * 16, "")
    journal.begin_change(database, run, str(path), str(temporary), content, 0, {"genres": [], "own": {}})
    temporary.write_bytes(b"copy")
    temporary.with_suffix(".step").write_bytes(b"copy")
    theirs = path.with_name(f".genretree-{'0' * 32}.tmp")
    theirs.write_bytes(b"another process works on it")
    assert [item.message for item in recover(database)] == ["is unchanged"]
    assert _names(path) == [theirs.name, path.name]


def test_a_lock_file_of_a_killed_process_does_not_block_and_is_removed(
    path: Path, databases: tuple[Database, Database]
) -> None:
    analyse(databases[0], [path], fake_classifier())
    hold = (
        "import sys, time; from pathlib import Path; from genretree.library.apply.file_lock import lock_file\n"
        "with lock_file(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert "another process is writing to it" in _write(databases[0])[1][0]
        file_lock.remove_stale_lock(path)
        assert file_lock.lock_path(path).exists(), "it is in use"
        holder.kill()
    assert file_lock.lock_path(path).exists()
    assert _write(databases[0])[1] == []
    assert _names(path) == [path.name]
    file_lock.lock_path(path).touch()
    file_lock.remove_stale_lock(path)
    assert _names(path) == [path.name]


def test_names_that_differ_in_case_or_normal_form_have_one_lock(tmp_path: Path) -> None:
    names = ("\u00c4 song.MP3", "A\u0308 song.mp3", "\u00e4 song.mp3")
    assert len({file_lock.lock_path(tmp_path / name) for name in names}) == 1
    assert file_lock.lock_path(tmp_path / os.fsdecode(b"\xff.mp3")) != file_lock.lock_path(tmp_path / "a.mp3")


def test_a_write_that_another_database_wrote_over_before_recovery_can_be_undone(
    path: Path, databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = databases
    before = path.read_bytes()
    analyse(one, [path], fake_classifier())
    with monkeypatch.context() as patch:
        patch.setattr(journal, "finish_change", _die)
        with pytest.raises(_KilledError):
            _write(one)
    analyse(two, [path], fake_classifier(digest="1" * 16))
    second, refused = _write(two, "overwrite")
    assert (second, refused) == (1, [])
    (found,) = recover(one)
    assert "was written, and another program has changed it since" in found.message
    assert undo(two, second) == (1, [])
    assert undo(one, journal.find_run(one, None)) == (1, [])
    assert path.read_bytes() == before


# -- processes ---------------------------------------------------------------------------------------------------

_RUN = """
import sys, time
from pathlib import Path
from genretree.library.database import journal, records
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.database.connection import open_database
db, what, start = sys.argv[1:]
with open_database(db) as database:
    model, model_key = records.find_model(database)
    plans = list(iter_plans(database, model, model_key, Mapping()))
    time.sleep(max(0.0, float(start) - time.time()))
    if what == "apply":
        refused = apply_plans(database, plans, model_key.digest)[2]
    else:
        refused = undo(database, 1)[1] if journal.list_runs(database) else []
    for item in refused:
        assert item.reason
        print(Path(item.path).name, flush=True)
"""


def _run_both(folder: Path, what: str) -> list[list[str]]:
    start = str(time.time() + 2.0)
    words = [[sys.executable, "-c", _RUN, str(folder / name), what, start] for name in ("one.sqlite", "two.sqlite")]
    running = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in words]
    found = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return found


def test_two_processes_that_race_harm_no_file(tmp_path: Path, databases: tuple[Database, Database]) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        sf.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(200_000), 44100)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for database, digest in zip(databases, ("0" * 16, "1" * 16), strict=True):
        analyse(database, [folder], fake_classifier(digest=digest))
    refused = _run_both(tmp_path, "apply")
    for path in before:
        # At most one process refuses a file: one that starts late plans to skip what the other has written.
        assert sum(path.name in names for names in refused) <= 1
        assert path.read_bytes() != before[path]
        assert read_tags(path).genres == ("Soft_rock",)
    assert _run_both(tmp_path, "undo") == [[], []]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
