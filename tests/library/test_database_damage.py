from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from library_fakes import fake_classifier

from genretree.cli import main
from genretree.errors import LibraryError
from genretree.files import content_digest
from genretree.library.database import records
from genretree.library.database.connection import back_up, open_database
from genretree.library.plan.mapping import Mapping as Rules
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse

pytestmark = pytest.mark.slow

COMMANDS = (
    ("status",),
    ("preview",),
    ("playlists", "lists"),
    ("apply",),
    ("apply", "--write"),
    ("undo",),
)
NOBODY = 65534


@pytest.fixture(scope="module")
def made(formats: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A database of several hundred pages, with one run that wrote tags; and a copy of it and its music."""
    folder = tmp_path_factory.mktemp("library") / "made"
    music = Path(shutil.copytree(formats, folder / "music"))
    for number in range(60):
        shutil.copyfile(music / "none.mp3", music / f"{'long' * 20}-{number:03}.mp3")
    path = folder / "library.sqlite"
    with open_database(path, create=True) as database:
        analyse(database, [str(music)], fake_classifier(), progress=False)
    assert _run(path, "apply", "--write", "--quiet").exit_code == 0
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder, Path(shutil.copytree(folder, folder.with_name("kept")))


@pytest.fixture
def library(made: tuple[Path, Path]) -> Path:
    """A fresh copy of the database."""
    folder, kept = made
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    return folder / "library.sqlite"


@pytest.fixture
def music(library: Path) -> Path:
    """Its music."""
    return library.parent / "music"


def _run(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["library", *words, "--db", str(path)])


def _corrupt_pages(path: Path) -> None:
    with path.open("rb+") as stream:
        for page in range(4, os.path.getsize(path) // 4096, 3):  # noqa: PTH202
            stream.seek(page * 4096)
            stream.write(b"\xa5" * 4096)


def _truncate(path: Path) -> None:
    os.truncate(path, os.path.getsize(path) // 2 // 4096 * 4096)  # noqa: PTH202


def _cut_tail(path: Path) -> None:
    os.truncate(path, os.path.getsize(path) * 3 // 4)  # noqa: PTH202


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _overwrite_head(path: Path) -> None:
    with path.open("rb+") as stream:
        stream.write(bytes(4096))


@pytest.mark.parametrize("damage", [_corrupt_pages, _truncate, _empty, _overwrite_head])
def test_every_command_refuses_a_damaged_database_with_advice(
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
        open_database(library, create=True)


def test_damage_found_while_reading_names_the_database(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A large database is not checked by commands that only show it: the damage comes up in the middle.
    monkeypatch.setattr("genretree.library.database.connection._CHECKED_BYTES", 0)
    _corrupt_pages(library)
    result = _run(library, "preview")
    assert isinstance(result.exception, SystemExit), result.exception
    assert str(library) in result.stderr


def test_each_writing_run_leaves_a_backup_and_three_are_retained(library: Path) -> None:
    def backups() -> list[str]:
        return sorted(path.name for path in library.parent.glob("*.backup-*"))

    assert backups() == ["library.sqlite.backup-1"]
    with open_database(library.with_name("library.sqlite.backup-1")) as database:
        assert database.connection.execute("SELECT count(*) FROM change").fetchone()[0] == 0
    assert _run(library, "apply", "--write", "--quiet").exit_code == 0  # nothing to write: no backup
    assert backups() == ["library.sqlite.backup-1"]
    assert _run(library, "undo", "--quiet").exit_code == 0
    with open_database(library.with_name("library.sqlite.backup-1")) as database:
        assert database.connection.execute("SELECT count(*) FROM change WHERE state = 'written'").fetchone()[0] > 60
    with open_database(library.with_name("library.sqlite.backup-2")) as database:
        assert database.connection.execute("SELECT count(*) FROM change").fetchone()[0] == 0
    with open_database(library) as database:
        for _ in range(3):
            back_up(database)
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
        with open_database(library) as database:
            database.connection.execute("UPDATE model SET bundle = 'only in the log'")
            shutil.copyfile(library, path)
            shutil.copyfile(f"{library}-wal", f"{path}-wal")
    for item in open_folder.iterdir():
        item.chmod(0o444)
    open_folder.chmod(0o555)
    lists = open_folder.with_name(f"{open_folder.name}-lists")
    commands = (["preview", "--quiet"], ["playlists", str(lists), "--quiet"], ["status", "--json"])
    for words in commands:  # imports modules that another user may not be able to read
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


def _zero_one_page(path: Path) -> None:
    """Overwrite a leaf of the journal."""
    with sqlite3.connect(path) as connection:
        longest = connection.execute("SELECT path FROM change WHERE id = 30").fetchone()[0]
    connection.close()
    content = path.read_bytes()
    pages = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    page = next(n for n, page in enumerate(pages) if n and longest in page and b".genretree-" in page)
    with path.open("rb+") as stream:
        stream.seek(page * 4096)
        stream.write(b"\xa5" * 4096)


@pytest.mark.parametrize("damage", [None, _overwrite_head, _zero_one_page, _cut_tail])
def test_rescue_saves_what_is_readable_and_undo_works_after_it(
    library: Path, music: Path, tmp_path: Path, damage: object
) -> None:
    with open_database(library) as database:
        changes = dict(database.connection.execute("SELECT path, before FROM change").fetchall())
    if damage is not None:
        damage(library)  # type: ignore[operator]
    bytes_before = library.read_bytes()
    out = tmp_path / "new.sqlite"
    result = CliRunner().invoke(main, ["library", "rescue", str(library), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert library.read_bytes() == bytes_before
    found = json.loads(result.stdout)
    saved = found["change"]["saved"]
    if damage in (None, _overwrite_head):
        assert saved == len(changes)
        assert all(table["complete"] for table in found.values())
    else:
        assert 5 < saved < len(changes)
        assert not all(table["complete"] for table in found.values())
    result = _run(out, "undo", "--quiet")
    assert result.exit_code == 0, result.output
    assert f"{saved} files restored" in result.output
    restored = [path for path, before in changes.items() if content_digest(Path(os.fsdecode(path))) == before]
    assert len(restored) == saved
    with open_database(out) as database:
        assert database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        analyse(database, [str(music)], fake_classifier(), progress=False)
    assert _run(out, "status").exit_code == 0


def test_rescue_refuses_what_it_can_not_do(library: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"\xa5" * 100_000)
    out = tmp_path / "new.sqlite"
    for damaged, target, words in (
        (tmp_path / "none", out, "no such file"),
        (library, noise, "already exists"),
        (noise, out, "nothing in it can be read"),
    ):
        result = CliRunner().invoke(main, ["library", "rescue", str(damaged), "--out", str(target)])
        assert result.exit_code != 0
        assert isinstance(result.exception, SystemExit), result.exception
        assert words in result.stderr
    assert not out.exists()


def _noise(path: Path) -> None:
    path.write_bytes(b"\xa5" * path.stat().st_size)


def _rescue(library: Path, out: Path, *words: str) -> dict[str, dict[str, Any]]:
    result = CliRunner().invoke(main, ["library", "rescue", str(library), "--out", str(out), "--json", *words])
    assert result.exit_code == 0, result.output
    found: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("damage", [_noise, _cut_tail])
def test_rescue_takes_lost_entries_of_the_journal_from_backups(library: Path, tmp_path: Path, damage: object) -> None:
    with open_database(library) as database:
        back_up(database)
        changes = dict(database.connection.execute("SELECT path, before FROM change").fetchall())
        database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(library)  # type: ignore[operator]
    backup = library.with_name("library.sqlite.backup-1").read_bytes()
    found = _rescue(library, tmp_path / "new.sqlite")["change"]
    assert 0 < found["from_backups"] == len(changes) - found["saved"]
    assert library.with_name("library.sqlite.backup-1").read_bytes() == backup
    result = _run(tmp_path / "new.sqlite", "undo", "--quiet")
    assert f"{len(changes)} files restored" in result.output
    assert all(content_digest(Path(os.fsdecode(path))) == before for path, before in changes.items())


def test_rescue_knows_what_was_undone_after_the_backup(formats: Path, tmp_path: Path) -> None:
    music, db, out = tmp_path / "flac.flac", tmp_path / "library.sqlite", tmp_path / "new.sqlite"
    shutil.copyfile(formats / "flac.flac", music)
    with open_database(db, create=True) as database:
        analyse(database, [str(music)], fake_classifier(), progress=False)
    for words in (("apply", "--write"), ("undo",), ("apply", "--write")):
        assert _run(db, *words, "--quiet").exit_code == 0
    with open_database(db) as database:
        database.connection.execute("DELETE FROM change WHERE run = 1")
    db.with_name("library.sqlite.backup-1").unlink()  # of the last run: the one before it was made before undo
    db.with_name("library.sqlite.backup-2").rename(db.with_name("library.sqlite.backup-1"))
    assert _rescue(db, out)["change"]["from_backups"] == 1
    with open_database(out) as database:
        query = "SELECT run, state FROM change ORDER BY run"
        assert database.connection.execute(query).fetchall() == [(1, "undone"), (2, "written")]
        database.connection.execute("DELETE FROM change WHERE run = 1")
        database.connection.execute("UPDATE change SET id = 1")
    db.with_name("library.sqlite.backup-1").rename(f"{out}.backup-1")  # a backup of another library
    assert _rescue(out, tmp_path / "newer.sqlite")["change"]["from_backups"] == 0


def test_rescue_reads_the_fields_of_the_files(formats: Path, tmp_path: Path) -> None:
    music, db, out = tmp_path / "music", tmp_path / "library.sqlite", tmp_path / "new.sqlite"
    music.mkdir()
    for name in ("flac.flac", "aac.m4a"):
        shutil.copyfile(formats / name, music / name)
    with open_database(db, create=True) as database:
        analyse(database, [str(music)], fake_classifier(), progress=False)
    assert _run(db, "apply", "--write", "--quiet").exit_code == 0
    with open_database(db) as database:
        database.connection.execute("DELETE FROM file WHERE id = 2")
        database.connection.execute("UPDATE file SET own = NULL")
    (music / "no.mp3").write_bytes(b"no music")
    assert _rescue(db, out, "--music", str(music))["music"] == {"files": 3, "carrying": 2, "new": 1}
    out.unlink()
    _noise(db)
    db.with_name("library.sqlite.backup-1").unlink()
    assert _rescue(db, out, "--music", str(music))["music"] == {"files": 3, "carrying": 2, "new": 2}
    with open_database(out) as database:
        rows = database.connection.execute("SELECT genres, own FROM file").fetchall()
        found = [(genres, json.loads(own)["GENRETREE_PREVIOUS"]) for genres, own in rows]
        assert found == [('["Soft_rock"]', "[]")] * 2
        analyse(database, [str(music)], fake_classifier(), progress=False)
        model, model_key = records.find_model(database)
        actions = Counter(plan.action for plan in iter_plans(database, model, model_key, Rules()))
        assert (actions["same"], actions["has_genre"]) == (2, 0)
    assert "2 files cleaned" in _run(out, "clean", "--write", "--quiet").output
    refused = CliRunner().invoke(main, ["library", "rescue", str(db), "--out", str(out), "--music", "nowhere"])
    assert "nowhere: no such folder" in refused.stderr


@pytest.mark.parametrize("words", [["status"], ["undo"], ["apply", "--write"], ["move", "a", "b"], ["clean"]])
def test_a_missing_database_with_a_backup_is_not_called_a_new_library(tmp_path: Path, words: list[str]) -> None:
    db = tmp_path / "library.sqlite"
    with open_database(db, create=True) as database:
        back_up(database)
    db.unlink()
    result = CliRunner().invoke(main, ["library", *words, "--db", str(db)])
    assert result.exit_code == 1
    assert f"is missing, but its backup {db}.backup-1 is there; copy that to {db}" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["library.sqlite.backup-1"]
