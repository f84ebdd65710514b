from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from listening import fake_classifier
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
def database(tmp_path: Path) -> Path:
    return tmp_path / "library.sqlite"


def _analyse(state: Database, folder: Path, **options: object) -> None:
    analyse(state, [str(folder)], fake_classifier(**options), progress=False)


def _apply(state: Database, mode: str = "only-empty") -> int:
    model, card = records.find_model(state)
    plans = iter_plans(state, model, card, Mapping(), mode)  # type: ignore[arg-type]
    run, _, refused = apply_plans(state, plans, card.digest)
    assert not refused
    assert run is not None
    return run


def _actions(state: Database) -> Counter[str]:
    model, card = records.find_model(state)
    return Counter(plan.action for plan in iter_plans(state, model, card, Mapping()) if not plan.row.gone)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _run(database: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["library", *words, "--db", str(database)])


def test_our_genres_are_ours_after_a_rename(database: Path, music: Path) -> None:
    with open_database(database, create=True) as state:
        _analyse(state, music)
        _apply(state)
        moved = music.rename(music.with_name("moved"))
        _analyse(state, music.parent)
        assert _actions(state) == {"same": len(list(moved.iterdir()))}
        shutil.copyfile(moved / "v24.mp3", moved / "theirs.mp3")
        tags = ID3(moved / "theirs.mp3")
        tags.add(TCON(encoding=3, text=["Hard_rock"]))
        tags.save()
        _analyse(state, music.parent)
        assert _actions(state)["has_genre"] == 1


@pytest.mark.parametrize("again", [False, True])
def test_undo_finds_renamed_files_by_their_content(database: Path, music: Path, again: bool) -> None:
    before = _bytes(music)
    with open_database(database, create=True) as state:
        _analyse(state, music)
        run = _apply(state)
        moved = music.rename(music.with_name("moved"))
        _analyse(state, music.parent)
        if again:  # a later run writes into the moved files: undo takes both back
            _analyse(state, music.parent, digest="1" * 16)
            _apply(state)
        restored, refused = undo(state, run)
        assert (restored, refused) == (len(before), [])
        assert _bytes(moved) == before
        assert _actions(state) == {"write": len(before)}  # the results still hold


def test_undo_leaves_files_that_have_changed_since_the_rename(database: Path, music: Path) -> None:
    with open_database(database, create=True) as state:
        _analyse(state, music)
        run = _apply(state)
        moved = music.rename(music.with_name("moved"))
        _analyse(state, music.parent)
        with (moved / "pcm.wav").open("ab") as stream:
            stream.write(b"other")
        changed = (moved / "pcm.wav").read_bytes()
        _, refused = undo(state, run)
        assert [Path(item.path).name for item in refused] == ["pcm.wav"]
        assert (moved / "pcm.wav").read_bytes() == changed


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("force", [False, True])
def test_undo_finds_files_that_exchanged_their_names(database: Path, music: Path, count: int, force: bool) -> None:
    names = [path.name for path in sorted(music.iterdir())][:count]
    before = _bytes(music)
    with open_database(database, create=True) as state:
        _analyse(state, music)
        run = _apply(state)
        (music / names[0]).rename(music / "spare")
        for to, name in itertools.pairwise(names):
            (music / name).rename(music / to)
        (music / "spare").rename(music / names[-1])
        _analyse(state, music)
        restored, refused = undo(state, run, force=force)
    assert (restored, refused) == (len(before), [])
    turned = [*names[1:], names[0]]
    assert _bytes(music) == before | {to: before[name] for to, name in zip(names, turned, strict=True)}


def test_a_copy_with_changes_of_its_own_is_not_taken_for_the_file_that_is_gone(database: Path, music: Path) -> None:
    shutil.copyfile(music / "flac.flac", music / "twin.flac")
    before = _bytes(music)
    with open_database(database, create=True) as state:
        _analyse(state, music)
        run = _apply(state)
        (music / "flac.flac").unlink()
        del before["flac.flac"]
        _, refused = undo(state, run)
        assert [Path(item.path).name for item in refused] == ["flac.flac"]
        assert _bytes(music) == before


def test_move_gives_files_and_journal_their_new_paths(database: Path, music: Path) -> None:
    before = _bytes(music)
    with open_database(database, create=True) as state:
        _analyse(state, music)
        _apply(state)
    moved = music.rename(music.with_name("music%_"))
    result = _run(database, "move", str(music), str(moved), "--json")
    assert result.exit_code == 0, result.output
    n = len(before)
    assert json.loads(result.stdout) == {"files": n, "known": 0, "missing": 0, "changes": n}
    with open_database(database) as state:
        assert _actions(state) == {"same": n}
        assert records.count_files(state) == (n, 0)
        assert {Path(path).parent for (path,) in _paths(state)} == {moved}
    assert _run(database, "undo", "--quiet").exit_code == 0
    assert _bytes(moved) == before


def _paths(state: Database) -> list[tuple[str]]:
    rows = state.connection.execute("SELECT path FROM file UNION SELECT path FROM change").fetchall()
    return [(bytes(path).decode(),) for (path,) in rows]


@pytest.mark.parametrize("inward", [False, True])
def test_move_between_a_folder_and_one_in_it(database: Path, music: Path, inward: bool) -> None:
    before = _bytes(music)
    outer = music.with_name("outer")
    inner = outer / "outer"
    source, target = (outer, inner) if inward else (inner, outer)
    source.parent.mkdir(exist_ok=True)
    music.rename(source)
    with open_database(database, create=True) as state:
        _analyse(state, source)
        _apply(state)
    away = source.rename(music.with_name("away"))
    if inward:
        outer.mkdir()
        away.rename(inner)
    else:
        outer.rmdir()
        away.rename(outer)
    result = _run(database, "move", str(source), str(target))
    assert result.exit_code == 0, result.output
    assert _run(database, "undo", "--quiet").exit_code == 0
    assert _bytes(target) == before


def test_move_after_analyse_found_the_new_folder(database: Path, music: Path) -> None:
    before = _bytes(music)
    with open_database(database, create=True) as state:
        _analyse(state, music)
        _apply(state)
        moved = music.rename(music.with_name("moved"))
        _analyse(state, music.parent)
    result = _run(database, "move", str(music), str(moved))
    assert result.exit_code == 0, result.output
    assert f"{len(before)} files were known there already" in result.output
    with open_database(database) as state:
        assert _actions(state) == {"same": len(before)}
        assert undo(state, journal.find_run(state, None)) == (len(before), [])
    assert _bytes(moved) == before


def test_move_refuses_what_does_not_fit(database: Path, music: Path, tmp_path: Path) -> None:
    with open_database(database, create=True) as state:
        _analyse(state, music)
        _apply(state)
        paths = _paths(state)
    other = tmp_path / "other"
    for old, new, words in (
        (music, other, "no such folder"),
        (tmp_path / "unknown", music, "knows no file below"),
        (music, music, "the same folder"),
    ):
        result = _run(database, "move", str(old), str(new))
        assert result.exit_code != 0
        assert words in result.stderr
    other.mkdir()
    result = _run(database, "move", str(music), str(other))
    assert result.exit_code != 0
    assert "is still there" in result.stderr
    shutil.copytree(music, other, dirs_exist_ok=True)
    with (other / "pcm.wav").open("ab") as stream:
        stream.write(b"other")
    with open_database(database) as state:
        _analyse(state, other)
    shutil.rmtree(music)
    result = _run(database, "move", str(music), str(other))
    assert result.exit_code != 0
    assert "pcm.wav is known with other content" in result.stderr
    with open_database(database) as state:
        assert set(paths) <= set(_paths(state))
    assert read_tags(other / "v24.mp3").own
