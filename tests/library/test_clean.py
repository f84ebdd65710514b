"""`library clean`: our own fields are removed from files, and the genres that they record are restored."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mutagen
import mutagen.apev2
import pytest
from click.testing import CliRunner, Result
from library_fakes import FORMATS, fake_classifier
from mutagen.id3 import ID3, TIT2

from genretree.cli import main
from genretree.library.apply import apply as apply_module
from genretree.library.apply.apply import apply_plans
from genretree.library.database import records
from genretree.library.database.connection import Database, open_database
from genretree.library.plan.clean import clean_outcome, iter_clean_plans
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags, write_tags
from genretree.library.tags.audio_digest import hash_audio

OLD = {"GENRETREE_PATH": "Other > Rock > Hard_rock", "GENRETREE_CONFIDENCE": "0.900", "GENRETREE_MODEL": "a" * 16}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


@pytest.fixture
def written(tmp_path: Path, music: Path) -> Path:
    """Files that a database wrote which is gone: one had two genres, and the genre of one was changed since."""
    write_tags(music / "flac.flac", ["Jazz", "Blues/名"], {})
    write_tags(music / "v23.mp3", ["Jazz", "Blues"], {})
    with open_database(tmp_path / "gone.sqlite", create=True) as database:
        _analyse_and_apply(database, music, "overwrite")
    tags = mutagen.File(music / "vorbis.ogg")
    tags["genre"] = ["Mine"]
    tags.save()
    (tmp_path / "gone.sqlite").unlink()
    return music


EXPECTED = dict.fromkeys(FORMATS, ()) | {
    "flac.flac": ("Jazz", "Blues/名"),
    "v23.mp3": ("Jazz/Blues",),
    "vorbis.ogg": ("Mine",),
}


def _analyse_and_apply(database: Database, music: Path, mode: str = "only-empty", **options: object) -> None:
    analyse(database, [str(music)], fake_classifier(**options), progress=False)
    model, model_key = records.find_model(database)
    plans = iter_plans(database, model, model_key, Mapping(), mode)  # type: ignore[arg-type]
    assert not apply_plans(database, plans, model_key.digest)[2]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _clean(db: Path, *words: object) -> Result:
    return CliRunner().invoke(main, ["library", "clean", *map(str, words), "--db", str(db), "--quiet"])


def test_clean_restores_what_the_fields_record_without_a_database(written: Path, tmp_path: Path) -> None:
    db, before = tmp_path / "new.sqlite", _bytes(written)
    sounds = {path.name: hash_audio(path) for path in written.iterdir()}
    dry = _clean(db, written)
    assert dry.exit_code == 0, dry.output
    assert f"{len(FORMATS)} files have genretree's fields. Nothing was written" in dry.output
    assert "Soft_rock -> Jazz; Blues/名" in dry.output
    assert "vorbis.ogg: Mine\n" in dry.output
    assert _bytes(written) == before
    assert not db.exists()
    done = _clean(db, written, "--write")
    assert done.exit_code == 0, done.output
    assert "2 files: previous genre restored" in done.output
    assert f"{len(FORMATS) - 3} files: genre removed" in done.output
    assert "1 files: edited genre unchanged" in done.output
    for path in written.iterdir():
        carried = read_tags(path)
        assert (carried.genres, dict(carried.own)) == (EXPECTED[path.name], {}), path.name
        assert hash_audio(path) == sounds[path.name]
        assert b"GENRETREE" not in path.read_bytes().replace(b"\0", b"")
    undone = CliRunner().invoke(main, ["library", "undo", "--db", str(db), "--quiet"])
    assert undone.exit_code == 0, undone.output
    assert _bytes(written) == before


def test_clean_begins_no_database_for_nothing(written: Path, tmp_path: Path) -> None:
    db = tmp_path / "new.sqlite"
    assert "2 files: previous genre restored" in _clean(db, written, "--write").output
    db.unlink()
    assert _clean(db, written, "--write").output == "0 files cleaned.\n"
    assert not db.exists()


def test_clean_as_json_names_each_file(written: Path, tmp_path: Path) -> None:
    (written / "flac.flac").chmod(0o444)
    result = _clean(tmp_path / "new.sqlite", written, "--write", "--json")
    *lines, last = map(json.loads, result.stdout.splitlines())
    found = {Path(line["file"]).name: line for line in lines}
    assert set(found) == set(FORMATS)
    assert found["flac.flac"]["outcome"] == "refused"
    assert "read-only" in found["flac.flac"]["message"]
    assert found["v23.mp3"] == {
        "file": str(written / "v23.mp3"),
        "outcome": "restored",
        "now": ["Soft_rock"],
        "genre": ["Jazz/Blues"],
        "message": "",
    }
    counts = {"restored": 1, "removed": len(FORMATS) - 3, "kept": 1, "refused": 1}
    assert last == {"summary": {"written": True, **counts, "run": 1}}


def test_clean_of_the_files_of_a_database_backs_it_up_and_analyse_goes_on(music: Path, tmp_path: Path) -> None:
    db = tmp_path / "library.sqlite"
    with open_database(db, create=True) as database:
        _analyse_and_apply(database, music)
    result = _clean(db, "--write")
    assert result.exit_code == 0, result.output
    assert f"{len(FORMATS)} files cleaned; undo with" in result.output
    assert db.with_name("library.sqlite.backup-1").exists()
    with open_database(db) as database:
        assert analyse(database, [str(music)], fake_classifier(), progress=False).analysed == 0
        model, model_key = records.find_model(database)
        assert {plan.action for plan in iter_plans(database, model, model_key, Mapping())} == {"write"}
    missing = _clean(tmp_path / "none.sqlite", "--write")
    assert "no such library" in missing.stderr


@pytest.mark.parametrize("field", ["GENRETREE_GENRE", "GENRETREE_PREVIOUS"])
def test_a_genre_stays_where_the_fields_were_edited(written: Path, field: str) -> None:
    for text in ("[", '"Jazz"', "[1]", None):
        tags = mutagen.File(written / "flac.flac")
        tags.pop(field, None)
        if text is not None:
            tags[field] = text
        tags.save()
        (plan,) = iter_clean_plans(None, [str(written / "flac.flac")])
        assert (plan.genres, clean_outcome(plan)) == (("Soft_rock",), "kept")


def test_fields_of_0_1_are_cleaned_by_the_journal_or_the_path(database: Database, music: Path) -> None:
    for name, genres in (("flac.flac", ["Hard_rock"]), ("opus.opus", ["Jazz", "Hard_rock"])):
        write_tags(music / name, genres, OLD)
    plans = {Path(plan.row.path).name: plan.genres for plan in iter_clean_plans(None, [str(music)])}
    assert plans == {"flac.flac": (), "opus.opus": ("Jazz", "Hard_rock")}
    write_tags(music / "v24.mp3", ["Jazz"], {})
    _analyse_and_apply(database, music / "v24.mp3", "append")
    with database.transaction() as connection:  # as 0.1 would have written it
        (new,) = connection.execute("SELECT new FROM change").fetchone()
        facts = json.loads(new)
        facts["own"] = {name: text for name, text in facts["own"].items() if name in OLD}
        connection.execute("UPDATE change SET new = ?", (json.dumps(facts),))
    write_tags(music / "v24.mp3", ["Jazz", "Soft_rock"], OLD)
    (plan,) = iter_clean_plans(database, [str(music / "v24.mp3")])
    assert plan.genres == ("Jazz",)


@pytest.mark.parametrize("name", ["none.mp3", "pcm.wav"])
def test_fields_in_an_older_tag_are_found_after_an_id3_tag_was_added(
    database: Database, music: Path, name: str
) -> None:
    path = music / name
    if name == "none.mp3":
        tags = mutagen.apev2.APEv2()
        tags["Title"] = "A title"
        tags.save(path)
    _analyse_and_apply(database, path)
    assert b"GENRETREE_PREVIOUS" in path.read_bytes()
    added = ID3() if name == "none.mp3" else mutagen.File(path)
    added.add(TIT2(encoding=3, text=["A title"])) if name == "none.mp3" else added.add_tags()
    if name == "pcm.wav":
        added.tags.add(TIT2(encoding=3, text=["A title"]))
    added.save(path)
    plans = list(iter_clean_plans(None, [str(path)]))
    assert apply_plans(database, plans, "")[1:] == (1, [])
    assert b"GENRETREE" not in path.read_bytes()
    assert read_tags(path).genres == ()


def test_unreadable_files_are_reported(written: Path, tmp_path: Path) -> None:
    (written / "flac.flac").write_bytes((written / "flac.flac").read_bytes()[:3000])
    (written / "link.mp3").symlink_to(tmp_path / "nowhere")
    result = _clean(tmp_path / "new.sqlite", written)
    assert "flac.flac" in result.stderr
    assert "link.mp3: is a dangling link" in result.stderr
    assert f"{len(FORMATS) - 1} files have" in result.stdout


@pytest.mark.usefixtures("always_copied")
def test_a_killed_clean_leaves_each_file_old_or_new(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, before, placed = tmp_path / "new.sqlite", _bytes(written), []
    real = apply_module.replace_file

    def die(*arguments: object) -> object:
        if len(placed) == 3:
            raise KeyboardInterrupt
        placed.append(arguments[1])
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(apply_module, "replace_file", die)
    assert _clean(db, written, "--write").exit_code != 0
    monkeypatch.undo()
    changed = {name for name, content in _bytes(written).items() if content != before[name]}
    assert changed == {Path(str(path)).name for path in placed}
    assert _clean(db, written, "--write").exit_code == 0
    assert not any(read_tags(path).own for path in written.iterdir())
    connection = sqlite3.connect(db)
    assert connection.execute("SELECT count(DISTINCT run) FROM change WHERE state = 'written'").fetchone() == (2,)
    connection.close()
