"""Undo records are read back, found and applied, and what does not belong to a file is refused."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from genretree.files import content_digest
from genretree.library.apply import undo_record
from genretree.library.apply.file_lock import LockedError, lock_path
from genretree.library.apply.undo_record import (
    UndoRecord,
    choose_record_path,
    find_record,
    is_torn_copy,
    is_undone_to,
    list_records,
    mark_file,
    record_path,
    remove_record,
    restore,
    roll_back,
    unmark_file,
    write_all,
    write_record,
)
from genretree.library.tags.tag_region import TagRegion

pytestmark = pytest.mark.posix  # os.pread

TOKEN = "0123456789abcdef" * 2
BLOCK = 1 << 20  # files are read in blocks of this size


def _record(path: Path, start: int, length: int) -> UndoRecord:
    """A record of a write of random bytes over those of a file."""
    content, status = path.read_bytes(), path.stat()
    old = content[start : start + length]
    new = bytes(byte ^ 255 for byte in old)
    return UndoRecord(status.st_size, status.st_mtime_ns, TOKEN, TagRegion(start, old, new), status.st_ino)


def _overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "song.flac"
    path.write_bytes(np.random.default_rng(0).bytes(600))
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def record(path: Path) -> UndoRecord:
    return _record(path, 40, 200)


# -- the bytes of a record -----------------------------------------------------------------------------------------


def test_a_record_is_read_back_and_an_incomplete_or_changed_one_is_not(record: UndoRecord) -> None:
    data = record.pack()
    assert UndoRecord.unpack(data) == record
    assert all(UndoRecord.unpack(data[:count]) is None for count in range(len(data)))
    changed = np.frombuffer(data, np.uint8) ^ np.eye(len(data), dtype=np.uint8)
    assert all(UndoRecord.unpack(row.tobytes()) is None for row in changed)


@pytest.mark.parametrize(
    ("start", "length", "valid"),
    [
        (0, 1, True),
        (-1, 10, False),
        (590, 10, True),
        (591, 10, False),
        (0, 600, True),
        (0, 601, False),
        (0, 0, False),
    ],
)
def test_a_region_outside_the_file_is_not_read(start: int, length: int, valid: bool) -> None:
    record = UndoRecord(600, 0, TOKEN, TagRegion(start, b"a" * length, b"b" * length), 7)
    assert UndoRecord.unpack(record.pack()) == (record if valid else None)


def test_a_region_is_bounded_and_has_as_many_new_bytes_as_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_record, "MAX_REGION", 1000)
    largest = UndoRecord(5000, 0, TOKEN, TagRegion(0, bytes(1000), bytes(1000)))
    assert UndoRecord.unpack(largest.pack()) == largest
    for old, new in ((1001, 1001), (5, 4), (4, 5)):
        assert UndoRecord.unpack(UndoRecord(5000, 0, TOKEN, TagRegion(0, bytes(old), bytes(new))).pack()) is None


# -- files and their records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "length"), [(0, 50), (40, 200), (BLOCK - 30, 60), (BLOCK, 40), (BLOCK + 10, 40), (2 * BLOCK - 20, 40)]
)
def test_the_content_after_an_undo_is_known_before_it(path: Path, start: int, length: int) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(2 * BLOCK + 20))
    before, record = content_digest(path), _record(path, start, length)
    assert not is_undone_to(path, record, before), "it is not torn"
    _overwrite(path, start, record.region.new[: length // 2])
    assert is_undone_to(path, record, before)
    assert not is_undone_to(path, record, content_digest(path))
    _overwrite(path, start + length // 2, b"other")
    assert not is_undone_to(path, record, before)
    path.unlink()
    assert not is_undone_to(path, record, before)


def test_a_copy_is_torn_where_it_has_both_old_and_new_bytes(path: Path, record: UndoRecord) -> None:
    region = record.region
    assert not is_torn_copy(path, record)
    _overwrite(path, region.start, region.new[:50])
    assert is_torn_copy(path, record)
    link = path.with_name("link.flac")
    link.symlink_to(path)
    assert not is_torn_copy(link, record)
    with path.open("ab") as stream:
        stream.write(b"more")
    assert not is_torn_copy(path, record), "another size"
    os.truncate(path, record.size)
    assert is_torn_copy(path, record)
    _overwrite(path, region.start + 10, b"other")
    assert not is_torn_copy(path, record)
    _overwrite(path, region.start, region.new)
    assert not is_torn_copy(path, record), "the write was completed"
    assert not is_torn_copy(path.with_name("none.flac"), record)


def test_a_pipe_is_not_waited_for(path: Path, record: UndoRecord) -> None:
    pipe = path.with_name("pipe.flac")
    os.mkfifo(pipe)
    assert not is_torn_copy(pipe, record)
    os.mkfifo(record_path(path))
    assert list_records(path.parent) == {record_path(path): None}


def test_restoring_sets_the_modification_time_and_spares_the_edits_of_others(path: Path, record: UndoRecord) -> None:
    before = path.read_bytes()
    for edit, restored in ((b"", True), (b"other", False)):
        path.write_bytes(before)
        _overwrite(path, 40, record.region.new[:30] + edit)
        torn = path.read_bytes()
        os.utime(path, ns=(3 * 10**18, 2 * 10**18))
        with path.open("r+b") as stream:
            restore(stream.fileno(), record)
        assert path.read_bytes() == (before if restored else torn)
        assert path.stat().st_mtime_ns == (10**18 if restored else 2 * 10**18)
        assert path.stat().st_atime_ns >= 3 * 10**18


def test_a_record_is_created_exclusively_with_the_mode_of_the_file(path: Path, record: UndoRecord) -> None:
    name = choose_record_path(path, record.inode)
    assert name == record_path(path)
    write_record(name, record, 0o100701)
    assert stat.S_IMODE(name.stat().st_mode) == (0o600 if os.name == "posix" else 0o666)
    assert list_records(path.parent) == {name: record}
    with pytest.raises(FileExistsError):
        write_record(name, replace(record, token="f" * 32), 0o100600)
    assert list_records(path.parent) == {name: record}
    second = choose_record_path(path, 0x1F)
    assert second.name == f"{name.stem}-1f.undo"
    second.write_bytes(b"incomplete")
    assert list(list_records(path.parent).items()) == [(second, None), (name, record)]
    remove_record(name)
    remove_record(name)
    remove_record(path.parent / "none" / name.name)
    name.symlink_to("nowhere")
    assert choose_record_path(path, 0x1F) == second
    assert list_records(path.parent / "none") == {}


def test_a_record_that_cannot_be_written_is_removed(
    path: Path, record: UndoRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_record(record_path(path), record, 0o600)
    assert not record_path(path).exists()


def test_a_record_is_found_by_the_name_and_only_for_its_file(path: Path, record: UndoRecord) -> None:
    name = record_path(path)
    assert find_record(path) is None
    write_record(name, record, 0o600)
    assert find_record(path) == name
    name.write_bytes(replace(record, inode=record.inode + 1).pack())
    assert find_record(path) is None, "of a file that had this name before"
    name.write_bytes(replace(record, inode=0).pack())
    assert find_record(path) == name, "the inode is not known"
    name.write_bytes(replace(record, inode=record.inode + 1).pack())
    _overwrite(path, record.region.start, record.region.new[:9])
    assert find_record(path) == name, "a copy, torn in the same way"
    name.write_bytes(b"")
    assert find_record(path) == name, "it may be being written"
    path.unlink()
    assert find_record(path) is None


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_a_record_is_found_by_the_files_attribute_after_a_rename(path: Path, record: UndoRecord) -> None:
    before, name = path.read_bytes(), record_path(path)
    write_record(name, record, 0o600)
    with path.open("r+b") as stream:
        mark_file(stream.fileno(), name)
        if not os.listxattr(path):
            pytest.skip("needs a file system with extended attributes")
    renamed = path.rename(path.with_name("renamed.flac"))
    assert find_record(renamed) == name
    link = path.with_name("link.flac")
    link.symlink_to(renamed)
    assert find_record(link) is None
    link.unlink()
    (path.parent / "moved").mkdir()
    moved = renamed.rename(path.parent / "moved" / "song.flac")
    assert find_record(moved) == name, "the record stayed behind"
    name = name.rename(moved.with_name(name.name))
    assert find_record(moved) == name, "the record moved with it"
    _overwrite(moved, record.region.start, record.region.new[:9])
    tokens: list[str] = []
    assert roll_back(moved, tokens.append) == TOKEN
    assert tokens == [TOKEN]
    assert moved.read_bytes() == before
    assert os.listxattr(moved) == []
    assert [item.name for item in moved.parent.iterdir()] == ["song.flac"]
    assert roll_back(moved, tokens.append) == ""
    assert tokens == [TOKEN]
    with moved.open("r+b") as stream:
        for other in (path.with_name("song.undo"), path.with_name(".genretree-1.lock")):  # not names of records
            write_record(other, record, 0o600)
            mark_file(stream.fileno(), other)
            assert find_record(moved) is None
        unmark_file(stream.fileno())
    assert os.listxattr(moved) == []


def test_a_record_is_kept_for_the_original_when_a_copy_is_restored(path: Path, record: UndoRecord) -> None:
    before, name = path.read_bytes(), record_path(path)
    write_record(name, record, 0o600)
    _overwrite(path, record.region.start, record.region.new[:9])
    copy = Path(shutil.copy(path, path.with_name("copy.flac")))
    assert roll_back(copy, name=name) == TOKEN
    assert (copy.read_bytes(), path.read_bytes() != before, name.exists()) == (before, True, True)
    assert record.is_of(path.stat(), name)
    assert not record.is_of(copy.stat(), name)
    assert not record.is_of(SimpleNamespace(st_ino=record.inode, st_dev=path.stat().st_dev + 1), name)  # type: ignore[arg-type]
    assert roll_back(path) == TOKEN
    assert (path.read_bytes(), name.exists()) == (before, False)


@pytest.mark.parametrize("inode", [None, 0, 1])
def test_a_record_of_the_files_name_is_removed_whatever_its_inode(
    path: Path, record: UndoRecord, inode: int | None
) -> None:
    before = path.read_bytes()
    if inode is not None:
        record = replace(record, inode=inode)
    write_record(record_path(path), record, 0o600)
    _overwrite(path, record.region.start, record.region.new[:9])
    assert roll_back(path) == TOKEN
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("inode", [True, False])
def test_the_lock_of_the_name_that_a_killed_process_used_is_removed(
    path: Path, record: UndoRecord, inode: bool
) -> None:
    name = record_path(path).with_name(record_path(path).stem + "-1f.undo")  # of a second file with this name
    write_record(name, record if inode else replace(record, inode=0), 0o600)
    lock_path(path).touch()
    renamed = path.rename(path.with_name("renamed.flac"))
    lock_path(renamed).touch()
    assert roll_back(renamed, name=name) == TOKEN
    assert sorted(path.parent.iterdir()) == sorted([renamed, lock_path(renamed)])


def test_an_incomplete_record_is_removed_and_nothing_restored(path: Path) -> None:
    before, name = path.read_bytes(), record_path(path)
    name.write_bytes(b"incomplete")
    with path.open("r+b") as stream:
        mark_file(stream.fileno(), name)
    assert roll_back(path, pytest.fail) == ""
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])
    assert not hasattr(os, "listxattr") or os.listxattr(path) == []
    assert roll_back(path, name=name) == "", "another process was faster"


def test_a_file_that_cannot_be_opened_is_reported(path: Path, record: UndoRecord) -> None:
    write_record(record_path(path), record, 0o600)
    path.rename(path.with_name("away.flac"))
    path.symlink_to("away.flac")
    message = "an interrupted write to it can't be undone (Too many levels of symbolic links); run the command as "
    with pytest.raises(LockedError, match=re.escape(message + "the user who may write to it")):
        roll_back(path, name=record_path(path))
    record_path(path).rename(path.with_name("record"))
    record_path(path).symlink_to("record")
    assert list_records(path.parent) == {record_path(path): None}, "links are not followed"
    assert find_record(path) == record_path(path), "what can't be read may belong to the file"


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_file_systems_without_attributes_are_supported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", fail)
    monkeypatch.setattr(os, "removexattr", fail)
    with path.open("r+b") as stream:
        mark_file(stream.fileno(), record_path(path))
        unmark_file(stream.fileno())


def test_all_bytes_are_written_if_the_system_takes_only_some(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, start: real(descriptor, bytes(data[:7]), start))
    before = path.read_bytes()
    with path.open("r+b") as stream:
        write_all(stream.fileno(), b"x" * 100, 50)
    assert path.read_bytes() == before[:50] + b"x" * 100 + before[150:]


def test_the_checksum_is_blake2b(record: UndoRecord) -> None:
    data = record.pack()
    magic = b"genretree undo record 2\n"
    content = data[len(magic) + 16 :]
    assert data[: len(magic) + 16] == magic + hashlib.blake2b(content, digest_size=16).digest()
    assert undo_record._HEAD.unpack_from(content) == (600, 10**18, 40, 200, TOKEN.encode())
