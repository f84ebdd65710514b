"""genretree's fields in the tags: what they record, and their use without the database that wrote them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mutagen
import mutagen.apev2
import mutagen.wave
import pytest
from click.testing import CliRunner, Result
from library_fakes import FORMATS, fake_classifier
from mutagen.id3 import TIT2

from genretree.cli import main
from genretree.errors import LibraryError
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.database import journal, migrations, records
from genretree.library.database.connection import Database, encode_path, open_database
from genretree.library.database.migrations import FORMAT
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags, write_tags

V01 = Path(__file__).parent.parent / "data" / "v0.1"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


def _analyse(database: Database, *places: Path, **options: object) -> None:
    analyse(database, [str(place) for place in places], fake_classifier(**options), progress=False)


def _apply(database: Database, mode: str = "only-empty") -> int:
    model, model_key = records.find_model(database)
    plans = iter_plans(database, model, model_key, Mapping(), mode)  # type: ignore[arg-type]
    run, _, refused = apply_plans(database, plans, model_key.digest)
    assert not refused
    return run or 0


def _actions(database: Database, mode: str = "only-empty") -> dict[str, str]:
    model, model_key = records.find_model(database)
    plans = iter_plans(database, model, model_key, Mapping(), mode)  # type: ignore[arg-type]
    return {Path(plan.row.path).name: plan.action for plan in plans if not plan.row.gone}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, ["library", *map(str, words)])


# -- what the fields record --------------------------------------------------------------------------------------


def _own(path: Path) -> tuple[object, object]:
    own = read_tags(path).own
    return json.loads(own["GENRETREE_GENRE"]), json.loads(own["GENRETREE_PREVIOUS"])


@pytest.mark.parametrize("name", [*FORMATS, "ape.mp3", "id3.wav"])
def test_the_fields_record_what_was_written_and_what_was_there(database: Database, music: Path, name: str) -> None:
    path = _only(music, name)
    write_tags(path, ["Jazz", "Blues/名"], {})
    joined = read_tags(path).genres
    before = path.read_bytes()
    _analyse(database, path)
    first = _apply(database, "append")
    assert _own(path) == ([*joined, "Soft_rock"], [*joined])
    _analyse(database, path, digest="1" * 16)
    _apply(database, "overwrite")
    assert _own(path) == (["Soft_rock"], [*joined]), "what was there before the first run is still recorded"
    assert undo(database, first) == (1, [])
    assert path.read_bytes() == before


def _only(music: Path, name: str) -> Path:
    """Keep one file of the music, if need be with the tags that our fields then go into."""
    if name == "ape.mp3":
        shutil.copy(music / "none.mp3", music / name)
        tags = mutagen.apev2.APEv2()
        tags["Title"] = "A title"
        tags.save(music / name)
    elif name == "id3.wav":  # pcm.wav has an INFO list
        shutil.copy(music / "pcm.wav", music / name)
        file = mutagen.wave.WAVE(music / name)
        file.add_tags()
        file.tags.add(TIT2(encoding=3, text=["A title"]))
        file.save()
    for path in music.iterdir():
        if path.name != name:
            path.unlink()
    return music / name


@pytest.mark.parametrize("mode", ["only-empty", "append", "overwrite"])
def test_another_database_knows_our_genres_by_our_fields(
    database: Database, music: Path, tmp_path: Path, mode: str
) -> None:
    if mode != "only-empty":
        write_tags(music / "v23.mp3", ["Jazz", "Blues"], {})
        write_tags(music / "flac.flac", ["Jazz", "Blues"], {})
    _analyse(database, music)
    _apply(database, mode)
    with open_database(tmp_path / "other.sqlite", create=True) as other:
        _analyse(other, music)
        assert set(_actions(other, mode).values()) == {"same"}
        _analyse(other, music, digest="1" * 16)
        theirs = {"v23.mp3", "flac.flac"} if mode == "append" else set()
        assert {name for name, action in _actions(other).items() if action == "has_genre"} == theirs
        assert set(_actions(other, mode).values()) == {"write"}
        _apply(other, mode)
    if mode != "only-empty":
        assert _own(music / "flac.flac")[1] == ["Jazz", "Blues"]
        assert _own(music / "v23.mp3")[1] == ["Jazz/Blues"]


def test_an_edited_genre_or_field_does_not_count_as_genretrees(database: Database, music: Path, tmp_path: Path) -> None:
    for name, edits in (
        ("flac.flac", {"genre": ["Mine"]}),
        ("opus.opus", {"GENRETREE_PREVIOUS": ["[1]"]}),
        ("vorbis.ogg", {"GENRETREE_GENRE": ["["]}),
    ):
        _analyse(database, music / name)
        _apply(database)
        tags = mutagen.File(music / name)
        tags.update(edits)
        tags.save()
        with open_database(tmp_path / f"{name}.sqlite", create=True) as other:
            _analyse(other, music / name)
            assert _actions(other) == {name: "has_genre"}
            _apply(other, "overwrite")
        assert _own(music / name) == (["Soft_rock"], [edits.get("genre", ["Soft_rock"])[0]])


def test_fields_of_0_1_identify_a_genre_that_ends_the_path(database: Database, music: Path) -> None:
    own = {"GENRETREE_PATH": "Other > Rock > Hard_rock", "GENRETREE_CONFIDENCE": "0.900", "GENRETREE_MODEL": "a" * 16}
    for name, genres in (("flac.flac", ["Hard_rock"]), ("opus.opus", ["Jazz", "Hard_rock"]), ("v24.mp3", ["Rock"])):
        write_tags(music / name, genres, own)
        _analyse(database, music / name)
    assert _actions(database) == {"flac.flac": "write", "opus.opus": "has_genre", "v24.mp3": "has_genre"}


def test_another_file_at_a_path_of_the_journal_keeps_its_genre(database: Database, music: Path) -> None:
    path = music / "flac.flac"
    other = path.read_bytes()
    _analyse(database, path)
    _apply(database)
    path.rename(music / "moved.flac")
    path.write_bytes(other)
    write_tags(path, ["Soft_rock"], {})
    _analyse(database, path)
    assert _actions(database) == {"flac.flac": "has_genre"}


# -- databases of 0.1 --------------------------------------------------------------------------------------------


@pytest.fixture
def old_library(tmp_path: Path) -> tuple[Path, Path]:
    """The database and the music that 0.1 wrote, with its paths rewritten to a folder of this test."""
    music = tmp_path / "music"
    music.mkdir()
    db = tmp_path / "library.db"
    db.write_bytes(gzip.decompress((V01 / "library.db.gz").read_bytes()))
    connection = sqlite3.connect(db)
    for name in ("a.flac", "b.mp3"):
        shutil.copy(V01 / name, music / name)
        old, new = f"/library/{name}".encode(), encode_path(os.path.realpath(music / name))
        mtime_ns = (music / name).stat().st_mtime_ns
        connection.execute("UPDATE file SET path = ?, mtime_ns = ? WHERE path = ?", (new, mtime_ns, old))
        connection.execute("UPDATE change SET path = ? WHERE path = ?", (new, old))
    connection.commit()
    connection.close()
    return db, music


_TO_2 = ("ALTER TABLE file ADD COLUMN own TEXT", "UPDATE setting SET value = '2' WHERE name = 'format'")
_INDEX = "CREATE INDEX change_after ON change (after) WHERE state = 'written'"


def _format(db: Path) -> str:
    connection = sqlite3.connect(db)
    found = connection.execute("SELECT value FROM setting WHERE name = 'format'").fetchone()[0]
    connection.close()
    return str(found)


def test_a_database_of_0_1_opens_and_its_run_is_undone(old_library: tuple[Path, Path]) -> None:
    db, music = old_library
    for words in ("status", "preview"):  # which change nothing
        result = _run(words, "--db", db)
        assert result.exit_code == 0, result.output
        assert "2 " in result.output
    assert _format(db) == "1"
    with open_database(db) as database:
        assert set(_actions(database).values()) == {"same"}, "an update is no reason to write every file again"
        model, model_key = records.find_model(database)
        assert [row.own for row, _ in records.iter_files(database, model, model_key)] == [None, None]
    assert _format(db) == str(FORMAT)
    with open_database(db) as database:
        new = open_database(db.with_name("new"), create=True)
        columns = "SELECT name, type FROM pragma_table_info('file')"
        assert database.connection.execute(columns).fetchall() == new.connection.execute(columns).fetchall()
        new.close()
        assert undo(database, 1) == (2, [])
    assert _bytes(music) == {name: (V01 / f"before-{name}").read_bytes() for name in ("a.flac", "b.mp3")}


def test_a_database_of_0_1_is_analysed_and_applied_further(old_library: tuple[Path, Path]) -> None:
    db, music = old_library
    with open_database(db) as database:
        _analyse(database, music, digest="1" * 16)
        assert set(_actions(database).values()) == {"write"}
        _apply(database)
        assert undo(database, 1) == (2, [])
        assert len(journal.list_runs(database)) == 2
    assert _bytes(music) == {name: (V01 / f"before-{name}").read_bytes() for name in ("a.flac", "b.mp3")}


def test_a_database_of_0_1_is_rescued(old_library: tuple[Path, Path], tmp_path: Path) -> None:
    db, music = old_library
    result = _run("rescue", db, "--out", tmp_path / "new.db")
    assert result.exit_code == 0, result.output
    assert "file: 2 rows saved; none lost" in result.output
    assert _format(tmp_path / "new.db") == str(FORMAT)
    with open_database(tmp_path / "new.db") as database:
        assert undo(database, 1) == (2, [])
    assert _bytes(music) == {name: (V01 / f"before-{name}").read_bytes() for name in ("a.flac", "b.mp3")}


def _schema(db: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]], int]:
    connection = sqlite3.connect(db)
    names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY type, name").fetchall()
    columns = connection.execute("SELECT name, type FROM pragma_table_info('file')").fetchall()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return names, columns, version


@pytest.mark.parametrize("statements", [(), _TO_2, (*_TO_2, _INDEX)], ids=["1", "2", "2 with its index"])
def test_every_earlier_format_is_migrated_to_the_current_schema(
    old_library: tuple[Path, Path], tmp_path: Path, statements: tuple[str, ...]
) -> None:
    db, music = old_library
    connection = sqlite3.connect(db)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    before = _schema(db)
    open_database(db, read_only=True).close()
    assert _schema(db) == before, "a database that is only read stays as it is"
    with open_database(db) as database:
        assert undo(database, 1) == (2, [])
    open_database(tmp_path / "new.db", create=True).close()
    assert _schema(db) == _schema(tmp_path / "new.db")
    assert _schema(db)[2] == FORMAT
    assert _bytes(music) == {name: (V01 / f"before-{name}").read_bytes() for name in ("a.flac", "b.mp3")}


def test_a_migration_that_fails_changes_nothing(
    old_library: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    db, _ = old_library
    before = _schema(db)
    monkeypatch.setattr(migrations, "_statements", lambda script: [script, "SELECT nonsense"])
    with pytest.raises(LibraryError):
        open_database(db)
    assert _schema(db) == before


def test_a_newer_format_is_refused_and_a_missing_database_with_a_backup_too(tmp_path: Path) -> None:
    db = tmp_path / "library.sqlite"
    open_database(db, create=True).close()
    connection = sqlite3.connect(db)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.commit()
    connection.close()
    with pytest.raises(
        LibraryError, match=f"format {FORMAT + 1}, this version of genretree reads 1 to {FORMAT}; update"
    ):
        open_database(db)
    db.rename(tmp_path / "library.sqlite.backup-1")
    with pytest.raises(LibraryError, match=r"is missing, but its backup .*backup-1 is there; copy"):
        open_database(db, create=True)
    assert not db.exists()
