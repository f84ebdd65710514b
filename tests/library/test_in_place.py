"""Tags that fit into the padding are written in place, and a kill at any byte is undone."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from library_fakes import fake_classifier
from mutagen.flac import FLAC, Picture
from mutagen.wave import WAVE

from genretree.cli import main
from genretree.errors import LibraryError
from genretree.files import content_digest
from genretree.library.apply import file_lock, replace_file, undo_record
from genretree.library.apply import write_in_place as in_place
from genretree.library.apply.apply import HardLinks, apply_plans
from genretree.library.apply.file_lock import LockedError
from genretree.library.apply.recover import TornFiles, list_interrupted, recover
from genretree.library.apply.undo import undo
from genretree.library.apply.undo_record import UndoRecord, find_record, record_path, roll_back
from genretree.library.database import journal, records
from genretree.library.database.connection import Database, open_database
from genretree.library.database.path_selection import select_paths
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags, write_tags
from genretree.library.tags.audio_digest import hash_audio
from genretree.library.tags.binary_delta import apply_delta, make_region_delta, undo_in_region
from genretree.library.tags.tag_region import TagRegion, find_region

pytestmark = pytest.mark.slow

PADDED = ("v23.mp3", "v24.mp3", "flac.flac", "aac.m4a", "pcm.wav", "pcm.aiff")
OWN = {"GENRETREE_PATH": "Other > Rock", "GENRETREE_GENRE": '["Rock"]'}


class KilledError(BaseException):
    pass


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


def _padded(music: Path, name: str) -> Path:
    """The only file of a library, whose tags have padding."""
    for other in music.iterdir():
        if other.name != name:
            other.unlink()
    path = music / name
    if name == "pcm.wav":  # ffmpeg writes an INFO list, which has no padding
        content = path.read_bytes()
        first = content.index(b"LIST")
        end = first + 8 + int.from_bytes(content[first + 4 : first + 8], "little")
        content = content[:first] + content[end:]
        path.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
        wave = WAVE(path)
        wave.add_tags()
        wave.save()
    write_tags(path, ["Jazz"], {})  # mutagen adds padding
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def path(music: Path) -> Path:
    return _padded(music, "flac.flac")


def _write(
    database: Database, mode: str = "overwrite", classifier: Callable[[], object] | None = None, **options: object
) -> tuple[int, list[str]]:
    model, model_key = records.find_model(database)
    plans = list(iter_plans(database, model, model_key, Mapping(), mode))  # type: ignore[arg-type]
    run, _, refused = apply_plans(database, plans, model_key.digest, **options)  # type: ignore[arg-type]
    return run or 0, [item.reason for item in refused]


def _names(path: Path) -> list[str]:
    return sorted(item.name for item in path.parent.iterdir())


def _region(path: Path) -> TagRegion:
    with path.open("rb") as source:
        found = find_region(path, source, read_tags(path), ["Rock"], OWN)
    assert found is not None
    return found[0]


def _kill_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let this process write `count` more bytes, in the middle of which it dies: it neither writes nor clears up."""
    real, left = os.pwrite, [count]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if left[0] < len(data):
            if left[0] > 0:
                real(descriptor, bytes(data[: left[0]]), offset)
            left[0] = -1
            for place, name in ((Path, "unlink"), (journal, "drop_change"), (journal, "stop_undo"), (os, "utime")):
                monkeypatch.setattr(place, name, _die)
            raise KilledError
        left[0] -= len(data)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)


def _die(*_: object, **__: object) -> None:
    raise KilledError


# -- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PADDED)
def test_only_the_tags_of_each_format_are_written(music: Path, database: Database, name: str) -> None:
    path = _padded(music, name)
    before, status, audio = path.read_bytes(), path.stat(), hash_audio(path)
    analyse(database, [music], fake_classifier())
    run, refused = _write(database)
    assert not refused
    after = path.read_bytes()
    assert (path.stat().st_ino, len(after)) == (status.st_ino, len(before)), "it was not written in place"
    assert path.stat().st_mtime_ns != status.st_mtime_ns
    assert read_tags(path).genres == ("Soft_rock",)
    assert hash_audio(path) == audio
    assert analyse(database, [music], fake_classifier()).known == 1
    second, _ = _write(database, "overwrite")
    assert second == 0, "it is up to date"
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert _names(path) == [name]


def test_several_writes_are_undone_together(path: Path, database: Database) -> None:
    before, inode = path.read_bytes(), path.stat().st_ino
    runs = []
    for digest in "123":
        analyse(database, [path], fake_classifier(digest=digest * 16))
        runs.append(_write(database)[0])
    assert len(set(runs)) == 3
    assert undo(database, runs[0]) == (1, [])
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


def test_a_picture_that_moves_is_restored(path: Path, database: Database) -> None:
    file, picture = FLAC(path), Picture()
    picture.data = os.urandom(200_000)
    file.add_picture(picture)
    file.save(padding=lambda _: 4000)
    before, inode = path.read_bytes(), path.stat().st_ino
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)
    assert FLAC(path).pictures[0].data == picture.data
    assert path.stat().st_ino == inode
    change = journal.find_last_change(database, str(path))
    assert change is not None
    assert len(change.delta) < 3000
    assert undo(database, run) == (1, [])
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


def test_the_time_can_be_preserved(path: Path, database: Database) -> None:
    analyse(database, [path], fake_classifier())
    _write(database, keep_mtime=True)
    assert path.stat().st_mtime_ns == 10**18
    assert read_tags(path).genres == ("Soft_rock",)


def test_tags_without_padding_are_written_to_a_copy(path: Path, database: Database) -> None:
    FLAC(path).save(padding=lambda _: 0)
    before, inode = path.read_bytes(), path.stat().st_ino
    analyse(database, [path], fake_classifier())
    run, refused = _write(database)
    assert (refused, path.stat().st_ino == inode) == ([], False)
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


def test_a_region_outside_the_audio_is_found_by_few_reads(path: Path) -> None:
    region = _region(path)
    content = path.read_bytes()
    assert content[region.start : region.end] == region.old != region.new
    assert len(region.old) == len(region.new) < 500


def test_a_delta_of_a_region_restores_the_whole_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    picture, rest = rng.bytes(50_000), rng.bytes(90_000)
    old = b"head" + b"genre" + picture + bytes(2000) + rest
    new = b"head" + b"another genre" + picture + bytes(1992) + rest
    start, end = 4, len(old) - len(rest) - 1000
    delta = make_region_delta(len(old), start, old[start:end], new[start:end])
    assert len(delta) < 500
    (tmp_path / "new").write_bytes(new)
    out = io.BytesIO()
    apply_delta(tmp_path / "new", delta, out)
    assert out.getvalue() == old
    found = undo_in_region(lambda at, count: new[at : at + count], len(new), [delta], 1 << 20)
    assert found is not None
    assert new[: found[0]] + found[2] + new[found[0] + len(found[2]) :] == old
    assert undo_in_region(lambda at, count: new[at : at + count], len(new), [delta], 100) is None


# -- killed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flac.flac", "aac.m4a"])
def test_a_kill_at_any_byte_is_undone(music: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = _padded(music, name)
    before, region = path.read_bytes(), _region(path)
    opened = path.stat()
    n_record = len(UndoRecord(opened.st_size, opened.st_mtime_ns, "0" * 32, region).pack())
    torn = 0
    for count in range(0, n_record + len(region.new), 7):
        with monkeypatch.context() as patch, path.open("rb") as source:
            _kill_after(patch, count)
            with pytest.raises(KilledError):
                in_place.write_in_place(path, source, opened, region, "0" * 32, None, _die)
        torn += path.read_bytes() != before
        assert record_path(path).exists()
        assert roll_back(path) == ("0" * 32 if count >= n_record else "")
        assert path.read_bytes() == before
        assert path.stat().st_mtime_ns == opened.st_mtime_ns
        assert _names(path) == [name]
    assert torn > len(region.new) // 7 - 5, "the kills hit the file, too"


@pytest.mark.parametrize("what", ["apply", "undo"])
def test_the_next_command_undoes_a_torn_write(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    analyse(database, [path], fake_classifier())
    run = _write(database)[0] if what == "undo" else 0
    before, status = path.read_bytes(), path.stat()
    torn = 0
    for count in range(0, 5000, 61):
        with monkeypatch.context() as patch:
            _kill_after(patch, count)
            try:
                outcome = undo(database, run) if run else _write(database)
                break
            except KilledError:
                torn += path.read_bytes() != before
        (found,) = recover(database)
        assert found.message == ("was not restored" if run else "is unchanged")
        assert path.read_bytes() == before
        assert path.stat().st_mtime_ns == status.st_mtime_ns
        assert _names(path) == [path.name]
    assert torn > 1
    if not run:
        assert outcome[1] == []
        undo(database, journal.find_run(database, None))
    assert read_tags(path).genres == ("Jazz",)
    assert path.stat().st_mtime_ns == 10**18


@pytest.mark.parametrize("what", ["apply", "undo"])
def test_a_kill_after_the_write_is_completed(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    run = _write(database)[0] if what == "undo" else 0
    with monkeypatch.context() as patch:
        patch.setattr(journal, "finish_undo" if run else "finish_change", _die)
        with pytest.raises(KilledError):
            _ = undo(database, run) if run else _write(database)
    (found,) = recover(database)
    assert found.message == ("was restored" if run else "was written; undo restores it")
    if not run:
        assert undo(database, journal.find_run(database, None)) == (1, [])
    assert path.read_bytes() == before


def _tear(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, complete: bool = False, run: int | None = None
) -> None:
    """Leave a file torn, or written to the end, and its undo record."""
    before, real = path.read_bytes(), in_place.write_all

    def write(descriptor: int, data: bytes, start: int) -> None:
        _kill_after(patch, len(data) if complete else 30)
        real(descriptor, data, start)
        _die()

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "write_all", write)
        patch.setattr(in_place, "restore", _die)
        with pytest.raises(KilledError):
            _ = undo(database, run) if run else _write(database)
    assert path.read_bytes() != before
    assert record_path(path).exists()


def test_a_torn_write_is_undone_by_a_process_with_another_database(
    path: Path, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    with open_database(tmp_path / "two.sqlite", create=True) as other:
        _tear(path, database, monkeypatch)
        analyse(other, [path], fake_classifier(digest="1" * 16))
        second, refused = _write(other)
        assert second == 0, "it had other tags in mind, but has undone the torn write"
        assert path.read_bytes() == before
        analyse(other, [path], fake_classifier(digest="1" * 16))
        second, refused = _write(other)
        assert refused == []
        assert read_tags(path).own["GENRETREE_MODEL"] == "1" * 16
        assert len(recover(database)) == 1
        assert undo(other, second) == (1, [])
    runs = [run.id for run in journal.list_runs(database) if run.written]
    assert all(undo(database, run) == (1, []) for run in runs)
    assert path.read_bytes() == before
    assert _names(path) == [path.name]


def test_an_edit_of_a_torn_file_is_preserved(path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    analyse(database, [path], fake_classifier())
    region_start = path.read_bytes().index(b"Jazz")
    _tear(path, database, monkeypatch)
    with path.open("r+b") as stream:
        stream.seek(region_start - 8)
        stream.write(b"somebody else's bytes")
    theirs = path.read_bytes()
    (found,) = recover(database)
    assert (found.edited, found.message) == (True, "was not written, and another program has changed it since")
    assert path.read_bytes() == theirs
    assert _names(path) == [path.name]


def test_a_torn_file_that_is_missing_is_undone_when_it_is_back(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    _tear(path, database, monkeypatch)
    away = path.rename(path.parent.parent / "away")
    assert recover(database) == []
    away.rename(path)
    assert [item.message for item in recover(database)] == ["is unchanged"]
    assert path.read_bytes() == before


def _scan(database: Database, place: Path) -> TornFiles:
    torn = TornFiles(database)
    analyse(database, [place], fake_classifier(), restore=torn.restore)
    return torn


_MOVES = ("renamed", "elsewhere", "folder", "both")


def _move(path: Path, how: str) -> Path:
    if how in ("folder", "both"):
        path = path.parent.rename(path.parent.with_name("other")) / path.name
    if how != "folder":
        (path.parent / "sub").mkdir()
        path = path.rename(path.parent / "sub" / "y.flac" if how == "elsewhere" else path.with_name("y.flac"))
    return path


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("how", _MOVES)
@pytest.mark.parametrize("own", [True, False])
def test_a_torn_file_is_restored_wherever_it_was_moved(
    path: Path,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    complete: bool,
    attributes: bool,
    own: bool,
) -> None:
    if not attributes and how == "elsewhere" and not own:
        pytest.skip("without extended attributes, another database can't know")
    monkeypatch.setattr(undo_record, "_HAS_ATTRIBUTES", attributes and undo_record._HAS_ATTRIBUTES)
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    _tear(path, database, monkeypatch, complete)
    path = _move(path, how)
    with open_database(tmp_path / "two.sqlite", create=True) as other:
        used = database if own else other
        torn = _scan(used, path.parent)
        if attributes or how != "elsewhere":
            assert path.read_bytes() == before, "it is restored before it is read"
            assert torn.restored == 1
        recover(used)
        assert path.read_bytes() == before
        assert not list(path.parent.rglob(".genretree-*"))
        if own:
            assert list_interrupted(database) == []
            assert journal.list_runs(database) == []
        analyse(used, [path], fake_classifier())
        assert _write(used)[1] == []
        assert read_tags(path).genres == ("Soft_rock",)
        assert undo(used, journal.find_run(used, None)) == (1, [])
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == 10**18


def test_an_undo_that_was_torn_is_completed_after_a_rename(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)
    _tear(path, database, monkeypatch, run=run)
    path = path.rename(path.with_name("y.flac"))
    assert [item.message for item in recover(database)] == ["was not restored"]
    assert read_tags(path).genres == ("Soft_rock",)
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_a_torn_file_is_restored_under_another_name(
    path: Path, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, link = path.read_bytes(), tmp_path / "b" / "z.flac"
    link.parent.mkdir()
    analyse(database, [path], fake_classifier())
    _tear(path, database, monkeypatch)
    link.hardlink_to(path)
    with open_database(tmp_path / "two.sqlite", create=True) as other:
        analyse(other, [link], fake_classifier(digest="1" * 16))
        assert _write(other)[0] == 0, "it had analysed the torn file"
        assert link.read_bytes() == before
        analyse(other, [link], fake_classifier(digest="1" * 16))
        assert _write(other)[1] == []
        assert len(recover(database)) == 1
        assert undo(other, journal.find_run(other, None)) == (1, [])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_two_names_of_a_file_are_not_written_at_the_same_time(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "WAIT_SECONDS", 0.1)
    link = path.with_name("z.flac")
    link.hardlink_to(path)
    analyse(database, [path], fake_classifier())
    with link.open("rb") as source, replace_file.exclusive_access(link, source, os.fstat(source.fileno())):
        assert "another process is writing to it" in _write(database)[1][0]


def test_the_record_of_a_file_that_was_replaced_is_kept(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    _tear(path, database, monkeypatch)
    away = path.rename(path.parent.parent / "away.flac")
    path.write_bytes(before)  # from a backup
    os.utime(path, ns=(10**18, 10**18))
    (found,) = list_interrupted(database)
    assert "if it no longer exists, delete" in found.message
    assert [Path(item.path) for item in _scan(database, path.parent).list_strays()] == [record_path(path)]
    assert _write(database)[1] == []
    assert find_record(path) is None, "the backup is not mistaken for the torn file"
    assert read_tags(path).genres == ("Soft_rock",)
    _scan(database, away)
    assert away.read_bytes() == before
    assert _names(path) == [path.name]


def test_a_record_of_the_first_form_is_read(path: Path) -> None:
    before, region, status = path.read_bytes(), _region(path), path.stat()
    content = undo_record._HEAD.pack(status.st_size, 10**18, region.start, len(region.old), b"0" * 32)
    content += zlib.compress(region.old + region.new)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    record_path(path).write_bytes(b"genretree undo record 1\n" + digest + content)
    path.write_bytes(before[: region.start] + region.new[:30] + before[region.start + 30 :])
    assert roll_back(path) == "0" * 32
    assert (path.read_bytes(), _names(path)) == (before, [path.name])


def test_status_and_preview_name_interrupted_writes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "library.sqlite"
    with open_database(db, create=True) as database:
        analyse(database, [path], fake_classifier())
        _tear(path, database, monkeypatch)
    torn = path.read_bytes()
    for command in ("status", "preview"):
        result = CliRunner().invoke(main, ["library", command, "--db", str(db)])
        assert "a write to it is in progress or was interrupted; the next `genretree library analyse`" in result.output
    assert (
        "restores the old bytes"
        in json.loads(CliRunner().invoke(main, ["library", "status", "--json", "--db", str(db)]).stdout)["interrupted"][
            0
        ]["message"]
    )
    assert path.read_bytes() == torn


# -- obstacles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_without_an_undo_record_nothing_is_written(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "write_record", fail)
        if code == errno.ENOSPC:
            with pytest.raises(LibraryError, match="disk is full"):
                _write(database)
        else:
            assert "can't be written" in _write(database)[1][0]
    assert path.read_bytes() == before
    assert recover(database) == []
    assert journal.list_runs(database) == []


@pytest.mark.parametrize("fault", ["_check_written", "check_same_file"])
def test_an_error_restores_the_file_at_once(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(in_place, fault, fail)
    assert "can't be written" in _write(database)[1][0]
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == 10**18
    assert _names(path) == [path.name]
    assert journal.list_runs(database) == []
    assert recover(database) == []


def test_a_file_that_another_program_replaces_is_not_written_to(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(database, [path], fake_classifier())
    theirs = path.read_bytes().replace(b"A title", b"B title")
    real = in_place.write_record

    def write_record(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        edited = path.with_name("edited")
        edited.write_bytes(theirs)
        os.utime(edited, ns=(10**18, 10**18))
        edited.replace(path)

    monkeypatch.setattr(in_place, "write_record", write_record)
    assert "another program changed it" in _write(database)[1][0]
    assert path.read_bytes() == theirs
    assert _names(path) == [path.name]


def test_without_locks_a_copy_is_written(path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    inode = path.stat().st_ino
    analyse(database, [path], fake_classifier())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert _write(database)[1] == []
    assert path.stat().st_ino != inode


def test_a_file_in_use_with_a_record_is_refused(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "WAIT_SECONDS", 0.1)
    analyse(database, [path], fake_classifier())
    before = path.read_bytes()
    record_path(path).write_bytes(b"being written")
    with file_lock.lock_file(path):
        assert "another process is writing to it" in _write(database)[1][0]
    assert path.read_bytes() == before
    assert _write(database)[1] == []  # the record is incomplete, so the file was not written to
    assert _names(path) == [path.name]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"genretree undo record 1\n" + bytes(99)])
def test_an_invalid_record_is_removed(path: Path, content: bytes) -> None:
    before = path.read_bytes()
    record_path(path).write_bytes(content)
    assert roll_back(path) == ""
    assert (path.read_bytes(), _names(path)) == (before, [path.name])


def test_a_record_that_is_a_link_is_not_followed(path: Path) -> None:
    record_path(path).symlink_to(path)
    with pytest.raises(LockedError, match="can't be undone"):
        roll_back(path)


# -- hard links --------------------------------------------------------------------------------------------------


def test_hard_links_stay_links_and_are_written_once(path: Path, database: Database) -> None:
    before, other = path.read_bytes(), path.with_name("z.flac")
    other.hardlink_to(path)
    analyse(database, [path.parent], fake_classifier())
    counts = HardLinks()
    run, refused = _write(database, hardlinks=counts)
    assert refused == []
    assert (len(counts.inodes), counts.names, counts.separated) == (1, 1, [])
    assert path.samefile(other)
    assert read_tags(other).genres == ("Soft_rock",)
    assert analyse(database, [path.parent], fake_classifier()).known == 2
    assert _write(database) == (0, []), "both are up to date"
    assert undo(database, run) == (1, [])
    assert path.samefile(other)
    assert other.read_bytes() == before
    assert analyse(database, [path.parent], fake_classifier()).known == 2


def test_undo_selects_a_file_by_any_of_its_names(path: Path, database: Database, tmp_path: Path) -> None:
    before, link = path.read_bytes(), tmp_path / "b" / "z.flac"
    link.parent.mkdir()
    link.hardlink_to(path)
    analyse(database, [path, link], fake_classifier())
    run, _ = _write(database)
    skipping = select_paths(database, (), [str(link.parent)])
    assert undo(database, run, selection=skipping) == (0, []), "the bytes of the skipped name would change"
    for place in (link.parent, path):
        only = select_paths(database, [str(place)])
        assert journal.find_run(database, None, only) == run
        assert journal.count_chains(database, run, only) == 1
    assert undo(database, run, selection=select_paths(database, [str(link.parent)])) == (1, [])
    assert path.samefile(link)
    assert link.read_bytes() == before


def test_tags_with_padding_need_no_space_for_a_copy(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpadded, db = path.with_name("unpadded.flac"), str(tmp_path / "library.sqlite")
    shutil.copy(path, unpadded)
    tags = FLAC(unpadded)
    tags["title"] = "Another"
    tags.save(padding=lambda _: 0)
    with open_database(Path(db), create=True) as database:
        analyse(database, [path.parent], fake_classifier())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=30_000))
    result = CliRunner().invoke(main, ["library", "apply", "--overwrite", "--write", "--quiet", "--db", db])
    assert "1 files written" in result.output
    assert f"skipped: {unpadded}: a copy needs" in result.output
    assert result.exit_code == 1
    assert read_tags(path).genres == ("Soft_rock",)
    assert read_tags(unpadded).genres == ("Jazz",)


@pytest.mark.parametrize("skip", [False, True])
def test_hard_links_without_padding_become_files_or_are_skipped(path: Path, database: Database, skip: bool) -> None:
    FLAC(path).save(padding=lambda _: 0)
    before, other = path.read_bytes(), path.with_name("z.flac")
    other.hardlink_to(path)
    shutil.copy(path, path.with_name("copy.flac"))
    analyse(database, [path.parent], fake_classifier())
    counts = HardLinks()
    run, refused = _write(database, skip_hardlinks=skip, hardlinks=counts)
    assert refused == []
    assert [Path(name).name for name in counts.skipped] == ([path.name, other.name] if skip else [])
    assert path.samefile(other) == skip
    assert len(counts.separated) == (0 if skip else 1)  # the last name of a file is not a link any more
    if run:
        undo(database, run)
    assert path.read_bytes() == other.read_bytes() == before
    assert content_digest(path) == content_digest(other)


def test_apply_names_hard_links(path: Path, tmp_path: Path) -> None:
    unpadded = path.with_name("unpadded.flac")
    shutil.copy(path, unpadded)
    tags = FLAC(unpadded)
    tags["title"] = "Another"
    tags.save(padding=lambda _: 0)
    for each in (path, unpadded):
        each.with_name(f"z-{each.name}").hardlink_to(each)
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        analyse(database, [path.parent], fake_classifier())

    def apply(*words: str) -> str:
        command = ["library", "apply", "--overwrite", "--quiet", "--db", str(tmp_path / "library.sqlite"), *words]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return result.output

    assert "4 of them are hard links" in apply()
    output = apply("--write", "--skip-hardlinks")
    assert "1 files written" in output
    assert "1 files were written under all their names; 1 more names were selected" in output
    assert "2 were skipped, since their tags have no padding" in output
    output = apply("--write")
    assert "1 became separate files, and their other names keep the old tags" in output
    assert path.samefile(path.with_name(f"z-{path.name}"))
