from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from listening import hearer

from genretree.cli import main
from genretree.errors import LibraryError
from genretree.library.analyse import analyse
from genretree.library.state import back_up, open_state

COMMANDS = (
    ("status",),
    ("preview",),
    ("playlists", "lists"),
    ("apply",),
    ("apply", "--write"),
    ("undo",),
)
NOBODY = 65534


@pytest.fixture
def library(music: Path, tmp_path: Path) -> Path:
    """A database of several hundred pages, with one run that wrote tags."""
    for number in range(60):
        shutil.copyfile(music / "none.mp3", music / f"{'long' * 20}-{number:03}.mp3")
    path = tmp_path / "library.sqlite"
    with open_state(path, create=True) as state:
        analyse(state, [str(music)], hearer(), progress=False)
    assert _run(path, "apply", "--write", "--quiet").exit_code == 0
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def _run(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["library", *words, "--db", str(path)])


def _corrupt_pages(path: Path) -> None:
    with path.open("rb+") as stream:
        for page in range(4, os.path.getsize(path) // 4096, 3):  # noqa: PTH202
            stream.seek(page * 4096)
            stream.write(b"\xa5" * 4096)


def _truncate(path: Path) -> None:
    os.truncate(path, os.path.getsize(path) // 2 // 4096 * 4096)  # noqa: PTH202


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _overwrite_head(path: Path) -> None:
    with path.open("rb+") as stream:
        stream.write(bytes(4096))


@pytest.mark.parametrize("damage", [_corrupt_pages, _truncate, _empty, _overwrite_head])
def test_every_command_refuses_a_damaged_database_and_says_what_to_do(
    library: Path, tmp_path: Path, damage: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(library)  # type: ignore[operator]
    for words in COMMANDS:
        result = _run(library, *words)
        assert result.exit_code != 0, words
        assert isinstance(result.exception, SystemExit), (words, result.exception)
        for part in (str(library), ".backup-1", "library rescue"):
            assert part in result.stderr, (words, result.stderr)
    with pytest.raises(LibraryError, match="backup-1"):  # no new one in its place, either
        open_state(library, create=True)


def test_damage_found_while_reading_names_the_database(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A large database is not checked by commands that only show it: the damage comes up in the middle.
    monkeypatch.setattr("genretree.library.state._CHECKED_BYTES", 0)
    _corrupt_pages(library)
    result = _run(library, "preview")
    assert isinstance(result.exception, SystemExit), result.exception
    assert str(library) in result.stderr


def test_each_writing_run_leaves_a_backup_and_three_are_kept(library: Path) -> None:
    def backups() -> list[str]:
        return sorted(path.name for path in library.parent.glob("*.backup-*"))

    assert backups() == ["library.sqlite.backup-1"]
    with open_state(library.with_name("library.sqlite.backup-1")) as state:
        assert state.connection.execute("SELECT count(*) FROM change").fetchone()[0] == 0
    assert _run(library, "apply", "--write", "--quiet").exit_code == 0  # nothing to write: no backup
    assert backups() == ["library.sqlite.backup-1"]
    assert _run(library, "undo", "--quiet").exit_code == 0
    with open_state(library.with_name("library.sqlite.backup-1")) as state:
        assert state.connection.execute("SELECT count(*) FROM change WHERE state = 'written'").fetchone()[0] > 60
    with open_state(library.with_name("library.sqlite.backup-2")) as state:
        assert state.connection.execute("SELECT count(*) FROM change").fetchone()[0] == 0
    with open_state(library) as state:
        for _ in range(3):
            back_up(state)
    assert backups() == [f"library.sqlite.backup-{number}" for number in (1, 2, 3)]


def test_a_backup_that_fails_leaves_the_earlier_ones(library: Path) -> None:
    earlier = library.with_name("library.sqlite.backup-1").read_bytes()
    library.with_name("library.sqlite.backup-new").mkdir()
    result = _run(library, "undo")
    assert result.exit_code != 0
    assert "backup-new" in result.stderr
    assert library.with_name("library.sqlite.backup-1").read_bytes() == earlier


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Be another user than root, to whom nothing is read-only, for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can read; pytest's own can't be entered by them."""
    folder = Path(tempfile.mkdtemp(prefix="genretree-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX users")
@pytest.mark.parametrize("log", [False, True])
def test_a_read_only_database_can_be_shown(library: Path, open_folder: Path, log: bool) -> None:
    path = open_folder / "library.sqlite"
    shutil.copyfile(library, path)
    if log:  # the last commits are only in the write-ahead log
        with open_state(library) as state:
            state.connection.execute("UPDATE model SET bundle = 'only in the log'")
            shutil.copyfile(library, path)
            shutil.copyfile(f"{library}-wal", f"{path}-wal")
    for item in open_folder.iterdir():
        item.chmod(0o444)
    open_folder.chmod(0o555)
    lists = open_folder.with_name(f"{open_folder.name}-lists")
    commands = (["preview", "--quiet"], ["playlists", str(lists), "--quiet"], ["status", "--json"])
    for words in commands:  # imports what another user may not read
        assert _run(library, *words).exit_code == 0
    shutil.rmtree(lists)
    with _as_nobody():
        for words in commands:
            found = _run(path, *words)
            assert found.exit_code == 0, found.output
    shutil.rmtree(lists)
    assert ("only in the log" in found.stdout) == log
    assert sorted(item.name for item in open_folder.iterdir()) == (
        ["library.sqlite", "library.sqlite-wal"] if log else ["library.sqlite"]
    )
