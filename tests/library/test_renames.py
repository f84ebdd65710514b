from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from library_fakes import fake_classifier
from mutagen.id3 import ID3, TCON

from genretree.cli import main
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.database import journal, records
from genretree.library.database.connection import Database, open_database
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "library.sqlite"


def _analyse(database: Database, folder: Path, **options: object) -> None:
    analyse(database, [str(folder)], fake_classifier(**options), progress=False)


def _apply(database: Database, mode: str = "only-empty") -> int:
    model, model_key = records.find_model(database)
    plans = iter_plans(database, model, model_key, Mapping(), mode)  # type: ignore[arg-type]
    run, _, refused = apply_plans(database, plans, model_key.digest)
    assert not refused
    assert run is not None
    return run


def _actions(database: Database) -> Counter[str]:
    model, model_key = records.find_model(database)
    return Counter(plan.action for plan in iter_plans(database, model, model_key, Mapping()) if not plan.row.gone)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _run(db: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["library", *words, "--db", str(db)])


def test_genretrees_genres_are_recognised_after_a_rename(db: Path, music: Path) -> None:
    with open_database(db, create=True) as database:
        _analyse(database, music)
        _apply(database)
        moved = music.rename(music.with_name("moved"))
        _analyse(database, music.parent)
        assert _actions(database) == {"same": len(list(moved.iterdir()))}
        shutil.copyfile(moved / "v24.mp3", moved / "theirs.mp3")
        tags = ID3(moved / "theirs.mp3")
        tags.add(TCON(encoding=3, text=["Hard_rock"]))
        tags.save()
        _analyse(database, music.parent)
        assert _actions(database)["has_genre"] == 1


@pytest.mark.parametrize("again", [False, True])
def test_undo_finds_renamed_files_by_their_content(db: Path, music: Path, again: bool) -> None:
    before = _bytes(music)
    with open_database(db, create=True) as database:
        _analyse(database, music)
        run = _apply(database)
        moved = music.rename(music.with_name("moved"))
        _analyse(database, music.parent)
        if again:  # a later run writes into the moved files: undo takes both back
            _analyse(database, music.parent, digest="1" * 16)
            _apply(database)
        restored, refused = undo(database, run)
        assert (restored, refused) == (len(before), [])
        assert _bytes(moved) == before
        assert _actions(database) == {"write": len(before)}  # the results still hold


def test_undo_skips_files_that_changed_after_a_rename(db: Path, music: Path) -> None:
    with open_database(db, create=True) as database:
        _analyse(database, music)
        run = _apply(database)
        moved = music.rename(music.with_name("moved"))
        _analyse(database, music.parent)
        with (moved / "pcm.wav").open("ab") as stream:
            stream.write(b"other")
        changed = (moved / "pcm.wav").read_bytes()
        _, refused = undo(database, run)
        assert [Path(item.path).name for item in refused] == ["pcm.wav"]
        assert (moved / "pcm.wav").read_bytes() == changed


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("force", [False, True])
def test_undo_finds_files_whose_names_were_swapped(db: Path, music: Path, count: int, force: bool) -> None:
    names = [path.name for path in sorted(music.iterdir())][:count]
    before = _bytes(music)
    with open_database(db, create=True) as database:
        _analyse(database, music)
        run = _apply(database)
        (music / names[0]).rename(music / "spare")
        for to, name in itertools.pairwise(names):
            (music / name).rename(music / to)
        (music / "spare").rename(music / names[-1])
        _analyse(database, music)
        restored, refused = undo(database, run, force=force)
    assert (restored, refused) == (len(before), [])
    turned = [*names[1:], names[0]]
    assert _bytes(music) == before | {to: before[name] for to, name in zip(names, turned, strict=True)}


def test_an_edited_copy_is_not_mistaken_for_the_missing_file(db: Path, music: Path) -> None:
    shutil.copyfile(music / "flac.flac", music / "twin.flac")
    before = _bytes(music)
    with open_database(db, create=True) as database:
        _analyse(database, music)
        run = _apply(database)
        (music / "flac.flac").unlink()
        del before["flac.flac"]
        _, refused = undo(database, run)
        assert [Path(item.path).name for item in refused] == ["flac.flac"]
        assert _bytes(music) == before


def test_move_updates_the_paths_of_files_and_journal(db: Path, music: Path) -> None:
    before = _bytes(music)
    with open_database(db, create=True) as database:
        _analyse(database, music)
        _apply(database)
    moved = music.rename(music.with_name("music%_"))
    result = _run(db, "move", str(music), str(moved), "--json")
    assert result.exit_code == 0, result.output
    n = len(before)
    assert json.loads(result.stdout) == {"files": n, "known": 0, "missing": 0, "changes": n}
    with open_database(db) as database:
        assert _actions(database) == {"same": n}
        assert records.count_files(database) == (n, 0)
        assert {Path(path).parent for (path,) in _paths(database)} == {moved}
    assert _run(db, "undo", "--quiet").exit_code == 0
    assert _bytes(moved) == before


def _paths(database: Database) -> list[tuple[str]]:
    rows = database.connection.execute("SELECT path FROM file UNION SELECT path FROM change").fetchall()
    return [(bytes(path).decode(),) for (path,) in rows]


@pytest.mark.parametrize("inward", [False, True])
def test_move_between_a_folder_and_one_in_it(db: Path, music: Path, inward: bool) -> None:
    before = _bytes(music)
    outer = music.with_name("outer")
    inner = outer / "outer"
    source, target = (outer, inner) if inward else (inner, outer)
    source.parent.mkdir(exist_ok=True)
    music.rename(source)
    with open_database(db, create=True) as database:
        _analyse(database, source)
        _apply(database)
    away = source.rename(music.with_name("away"))
    if inward:
        outer.mkdir()
        away.rename(inner)
    else:
        outer.rmdir()
        away.rename(outer)
    result = _run(db, "move", str(source), str(target))
    assert result.exit_code == 0, result.output
    assert _run(db, "undo", "--quiet").exit_code == 0
    assert _bytes(target) == before


def test_move_after_analyse_found_the_new_folder(db: Path, music: Path) -> None:
    before = _bytes(music)
    with open_database(db, create=True) as database:
        _analyse(database, music)
        _apply(database)
        moved = music.rename(music.with_name("moved"))
        _analyse(database, music.parent)
    result = _run(db, "move", str(music), str(moved))
    assert result.exit_code == 0, result.output
    assert f"{len(before)} files were already known" in result.output
    with open_database(db) as database:
        assert _actions(database) == {"same": len(before)}
        assert undo(database, journal.find_run(database, None)) == (len(before), [])
    assert _bytes(moved) == before


def test_move_refuses_what_does_not_fit(db: Path, music: Path, tmp_path: Path) -> None:
    with open_database(db, create=True) as database:
        _analyse(database, music)
        _apply(database)
        paths = _paths(database)
    other = tmp_path / "other"
    for old, new, words in (
        (music, other, "no such folder"),
        (tmp_path / "unknown", music, "has no file below"),
        (music, music, "the same folder"),
    ):
        result = _run(db, "move", str(old), str(new))
        assert result.exit_code != 0
        assert words in result.stderr
    other.mkdir()
    result = _run(db, "move", str(music), str(other))
    assert result.exit_code != 0
    assert "is still there" in result.stderr
    shutil.copytree(music, other, dirs_exist_ok=True)
    with (other / "pcm.wav").open("ab") as stream:
        stream.write(b"other")
    with open_database(db) as database:
        _analyse(database, other)
    shutil.rmtree(music)
    result = _run(db, "move", str(music), str(other))
    assert result.exit_code != 0
    assert "pcm.wav is known with other content" in result.stderr
    with open_database(db) as database:
        assert set(paths) <= set(_paths(database))
    assert read_tags(other / "v24.mp3").own
