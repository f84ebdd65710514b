"""The beets plugin on items in memory, with a classifier that needs no model; and what it is made of."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from library_fakes import FakeClassifier

from forking import run_in_child
from genretree.errors import LibraryError
from genretree.library.database.connection import open_database
from genretree.library.plan.whitelist import GenreWhitelist, load_canonical_tree, load_whitelist
from genretree.library.scan.analyse import analyse
from genretree.library.scan.known_results import KnownResults

_TREE = (("rock", "soft rock"), ("rock", "punk", "oi"), ("pop",))


@pytest.mark.parametrize(
    ("allowed", "branches", "count", "genres", "expected"),
    [
        ((), (), None, ("Soft_rock", "Pop"), ("Soft_rock", "Pop")),
        (("soft rock",), (), None, ("Soft_rock", "Pop"), ("Soft_rock",)),
        (("rock",), (), None, ("Soft_rock",), ()),
        (("rock",), _TREE, None, ("Soft_rock", "Oi", "Pop"), ("Rock",)),
        (("rock", "oi", "pop"), _TREE, 2, ("Oi", "Pop"), ("Oi", "Rock")),
        ((), _TREE, None, ("oi", "Polka"), ("Rock", "Polka")),
        ((), (), 1, ("Soft_rock", "Pop"), ("Soft_rock",)),
    ],
)
def test_a_whitelist_and_a_tree_limit_genres(
    allowed: tuple[str, ...],
    branches: tuple[tuple[str, ...], ...],
    count: int | None,
    genres: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    assert GenreWhitelist(frozenset(allowed), branches, count).apply(genres) == expected


def test_whitelists_and_trees_are_read_as_lastgenre_reads_them(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# genres\nSoft Rock\n\n pop\n")
    assert load_whitelist(tmp_path / "list.txt") == {"soft rock", "pop"}
    (tmp_path / "tree.yaml").write_text("- rock:\n  - soft rock\n  - punk: [oi]\n- pop\n")
    assert load_canonical_tree(tmp_path / "tree.yaml") == _TREE
    (tmp_path / "empty").write_text("# nothing\n")
    for load in (load_whitelist, load_canonical_tree):
        with pytest.raises(LibraryError, match=r"empty|no genres"):
            load(tmp_path / "empty")
        with pytest.raises(LibraryError, match="can't be read"):
            load(tmp_path / "none")


def test_results_of_the_library_are_reused_by_content(formats: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.mp3"
    shutil.copy(formats / "v24.mp3", song)
    log = tmp_path / "log"
    with open_database(tmp_path / "library.db", create=True) as database:
        analyse(database, [song], FakeClassifier)
    moved = song.rename(tmp_path / "moved.mp3")
    for digest, database_name, n_reused in (("0", "library.db", 1), ("1", "library.db", 0), ("0", "none.db", 0)):
        classifier = FakeClassifier(0.8, log=log, digest=digest * 16)
        known = KnownResults(classifier, tmp_path / database_name)
        result = known.score_file(moved)
        assert (known.n_reused, result.confidence, result.leaf) == (n_reused, pytest.approx(0.8), 2)
    assert log.read_text().splitlines() == ["moved.mp3"] * 2
    (tmp_path / "library.db").write_bytes(b"damaged" * 999)
    assert KnownResults(FakeClassifier(), tmp_path / "library.db").score_file(moved).confidence == 0.8


def _use_plugin(folder: Path) -> None:
    """Run the plugin on items in memory; in a process of its own, since it registers fields for the whole process."""
    os.environ["BEETSDIR"] = str(folder)
    from beets.library import Item, Library
    from beets.ui import UserError

    from beetsplug.genretree import GenretreePlugin, _name

    plugin = GenretreePlugin()
    log = folder / "log"
    plugin.__dict__["_classifier"] = FakeClassifier(0.8, log=log)
    messages: list[str] = []
    plugin._log.info = lambda text, *values: messages.append(text.format(*values))  # type: ignore[method-assign]
    library = Library(str(folder / "music.db"))
    items = {}
    for name in ("v23.mp3", "v24.mp3", "flac.flac"):
        items[name] = Item.from_path(str(folder / name))
        library.add(items[name])
    untitled, placeholder, gone = items.values()
    untitled.title = ""
    placeholder.genres = ["Other"]
    gone.path = os.fsencode(folder / "gone" / "flac.flac")
    for item in items.values():
        item.store()

    def run(**options: object) -> list[list[str]]:
        for name in ("_mapping", "_whitelist"):
            plugin.__dict__.pop(name, None)
        for name, value in options.items():
            plugin.config[name] = value
        plugin._predict_items(list(items.values()), write=False)
        found = [list(item.genres or []) for item in items.values()]
        for item in items.values():
            item.load()
        return found

    plugin.config["library"] = str(folder / "library.db")
    assert run(pretend=True) == [["Soft_rock"], ["Soft_rock"], []]
    assert any(message.startswith("2 results taken from") for message in messages), messages
    gone_path = folder / "gone" / "flac.flac"
    assert f"{gone_path}: is not there any more; import it from where it is now, or run: beet update" in messages
    assert not log.exists(), "the library's results are used"
    assert _name(untitled) == str(folder / "v23.mp3") and "A title" in _name(placeholder)
    (folder / "list.txt").write_text("pop\n")
    whitelist = {"whitelist": str(folder / "list.txt")}
    assert run(**whitelist) == [[], ["Other"], []]
    assert f"{folder / 'v23.mp3'}: not in the whitelist: Soft_rock" in messages
    assert run(canonical=True) == [["Pop"], ["Pop"], []]
    assert run(whitelist=True) == [["Soft_rock"], ["Soft_rock"], []]
    assert run(count=2) == [["Soft_rock", "Pop"], ["Soft_rock", "Pop"], []]
    assert run(whitelist=False, canonical=False, count=None, min_confidence=0.9, min_depth=3, fallback="Music") == [
        ["Music"],
        ["Music"],
        [],
    ]
    run(pretend=False)
    assert [list(item.genres or []) for item in items.values()] == [["Music"], ["Music"], []]
    assert not untitled.get("genretree_path")
    assert run(min_confidence=None, min_depth=None, fallback=None) == [["Music"], ["Music"], []], "no --force"
    run(force=True)
    assert untitled.genretree_path == "Other > Rock > Soft_rock"
    for wrong in ({"count": 0}, {"count": 1, "library": str(folder / "none.db")}, {"library": None, "whitelist": "x"}):
        with pytest.raises(UserError, match=r"count must be|none.db is missing|can't be read"):
            run(**wrong)


@pytest.mark.skipif(importlib.util.find_spec("beets") is None, reason="beets is not installed")
def test_the_plugin_names_filters_and_reuses(formats: Path, tmp_path: Path) -> None:
    for name in ("v23.mp3", "v24.mp3", "flac.flac"):
        shutil.copy(formats / name, tmp_path)
    with open_database(tmp_path / "library.db", create=True) as database:
        analyse(database, [tmp_path / name for name in ("v23.mp3", "v24.mp3")], FakeClassifier)
    assert run_in_child(_use_plugin, tmp_path) == 0
