"""Mapping, preview, playlists, the command line, and beets."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import sqlite3
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from library_fakes import FORMATS, LEAVES, TREE, fake_classifier, levels_of
from pyarrow import parquet

from forking import run_in_child
from genretree.bundle.bundle import Bundle
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import LibraryError
from genretree.library.database import records
from genretree.library.database.connection import Database, open_database
from genretree.library.database.folders import list_folders
from genretree.library.database.records import ModelKey
from genretree.library.plan.edited_plan import EditedPlan
from genretree.library.plan.mapping import Mapping, decide, find_node, load_mapping, parse_mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.plan.playlists import PlaylistIndex, write_m3u8, write_rekordbox
from genretree.library.plan.preview import Preview, write_csv, write_page, write_parquet
from genretree.library.scan import classifier
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags, write_tags
from genretree.prediction.predict import Prediction, predict
from genretree.taxonomy import Taxonomy
from genretree.training.train import train

pytestmark = pytest.mark.slow

MODEL_KEY = ModelKey("0" * 16, "fake_classifier", "tree", TREE)


# -- mapping -----------------------------------------------------------------------------------------------------


def _decide(content: dict[str, object], *leaves: float) -> tuple[tuple[str, ...], str]:
    found = decide(MODEL_KEY, levels_of(*leaves), parse_mapping(content, TREE))
    return found.genres, found.reason


SOFT = (0.05, 0.05, 0.4, 0.3, 0.2)  # Chamber, Opera, Soft_rock, Hard_rock, Pop


@pytest.mark.parametrize(
    ("content", "genres", "reason"),
    [
        ({}, ("Rock",), ""),
        ({"min_confidence": 0}, ("Soft_rock",), ""),
        ({"depth": 2}, ("Rock",), ""),
        ({"depth": 1}, ("Other",), ""),
        ({"values": "path", "min_confidence": 0}, ("Rock", "Soft_rock"), ""),
        ({"values": "path", "min_confidence": 0, "min_depth": 1}, ("Other", "Rock", "Soft_rock"), ""),
        ({"min_confidence": 0.5}, ("Rock",), ""),
        ({"min_confidence": 0.8}, (), "unsure"),
        ({"min_confidence": 0.8, "min_depth": 1}, ("Other",), ""),
        ({"min_confidence": 0.8, "nodes": {"Other": "Popular"}}, ("Popular",), ""),
        ({"min_confidence": 0.95, "min_depth": 1}, (), "unsure"),
        ({"min_depth": 3}, (), "unsure"),
        ({"min_confidence": 0, "nodes": {"soft rock": "Easy"}}, ("Easy",), ""),
        ({"nodes": {"Other > Rock": ["Rock", "Guitar"]}}, ("Rock", "Guitar"), ""),
        # Alike, they are likely enough together: 0.4 + 0.3, and 0.9 with Pop.
        ({"nodes": {"Rock": "R"}, "min_confidence": 0.65}, ("R",), ""),
        ({"nodes": {"Rock": "R", "Pop": "R"}, "min_confidence": 0.85}, ("R",), ""),
        ({"nodes": {"Soft_rock": "Easy", "Pop": "Easy"}, "min_confidence": 0.55}, ("Easy",), ""),
        ({"nodes": {"Rock": None}}, (), "left_alone"),
        ({"nodes": {"Rock": None, "Soft_rock": "Soft"}, "min_confidence": 0.4}, ("Soft",), ""),
        ({"nodes": {"Rock": "Rock"}, "values": "path", "min_depth": 1}, ("Other", "Rock"), ""),
        # Further nodes of the level at which the path ends, from a probability of 0.2 on.
        ({"genres": 3}, ("Rock", "Pop"), ""),
        ({"genres": 2, "min_other": 0.21}, ("Rock",), ""),
        ({"genres": 3, "min_confidence": 0}, ("Soft_rock", "Hard_rock", "Pop"), ""),
        ({"genres": 2, "min_confidence": 0}, ("Soft_rock", "Hard_rock"), ""),
        ({"genres": 9, "min_confidence": 0, "min_other": 0}, ("Soft_rock", "Hard_rock", "Pop", "Chamber", "Opera"), ""),
        ({"genres": 3, "nodes": {"Pop": None}}, ("Rock",), ""),
        ({"genres": 3, "nodes": {"Pop": ["Pop", "Rock"]}}, ("Rock", "Pop"), ""),
        ({"genres": 3, "nodes": {"Chamber": "C", "Opera": "C"}, "min_other": 0.09}, ("Rock", "Pop", "C"), ""),
        ({"genres": 2, "values": "path", "min_confidence": 0.35}, ("Rock", "Soft_rock", "Hard_rock"), ""),
        ({"genres": 3, "min_confidence": 0.8}, (), "unsure"),
    ],
)
def test_a_mapping_renames_merges_skips_and_truncates(
    content: dict[str, object], genres: tuple[str, ...], reason: str
) -> None:
    assert _decide(content, *SOFT) == (genres, reason)


MERGED = Taxonomy.from_nested({"A": {"Hip_hop": None, "X": None}, "B": ["RnB", "Y"], "C": {"Rock": ["Soft", "Hard"]}})


@pytest.mark.parametrize("nodes", [{"Hip_hop": "Urban", "RnB": "Urban"}, {"Hip_hop": "Rock", "RnB": "Rock"}])
@pytest.mark.parametrize("depth", [None, 2, 3])
def test_merged_nodes_compete_with_the_sum_of_their_parts(nodes: dict[str, str], depth: int | None) -> None:
    model_key = ModelKey("0" * 16, "fake_classifier", "tree", MERGED)
    levels = MERGED.sum_levels(np.array([[0.30, 0.04, 0.28, 0.03, 0.20, 0.15]]))  # as in MERGED.leaves; Rock 0.35
    separate = decide(model_key, levels, parse_mapping({"depth": 2, "min_confidence": 0}, MERGED))
    assert (separate.genres, separate.confidence) == (("Rock",), pytest.approx(0.35))
    merged = decide(model_key, levels, parse_mapping({"nodes": nodes, "depth": depth}, MERGED))
    (name,) = set(nodes.values())
    assert merged.genres == (name,)
    assert merged.confidence == pytest.approx(0.58 + 0.35 * (name == "Rock"))
    if name == "Urban":
        assert merged.path == ("A", "Hip_hop"), "of its parts the likeliest is named"
    uncertain = decide(
        model_key, levels, parse_mapping({"nodes": nodes, "depth": depth, "min_confidence": 0.95}, MERGED)
    )
    assert (uncertain.genres, uncertain.reason) == ((), "unsure")


def test_levels_below_the_depth_are_ignored() -> None:
    model_key = ModelKey("0" * 16, "fake_classifier", "tree", MERGED)
    levels = MERGED.sum_levels(np.array([[0.40, 0.0, 0.0, 0.14, 0.23, 0.23]]))
    assert decide(model_key, levels, parse_mapping({"min_confidence": 0}, MERGED)).genres == ("Hip_hop",)
    assert decide(model_key, levels, parse_mapping({"min_confidence": 0, "depth": 2}, MERGED)).genres == ("Rock",)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.01, 1), min_size=6, max_size=6),
    st.lists(st.sampled_from(["Urban", "Rock", "Own", None]), min_size=6, max_size=6),
    st.floats(0, 1),
    st.sampled_from([None, 1, 2, 3]),
)
def test_confidence_is_the_sum_of_the_merged_probabilities(
    weights: list[float], names: list[str | None], least: float, depth: int | None
) -> None:
    leaves = np.array([weights]) / sum(weights)
    nodes = {"/".join(leaf): name for leaf, name in zip(MERGED.leaves, names, strict=True)}
    rules = parse_mapping({"nodes": nodes, "min_confidence": least, "depth": depth, "min_depth": 1}, MERGED)
    found = decide(ModelKey("0" * 16, "fake_classifier", "tree", MERGED), MERGED.sum_levels(leaves), rules)
    assert (found.reason == "unsure") == (found.confidence < least)
    assume(found.reason != "unsure")
    cut = depth or MERGED.depth
    truth = sum(  # a leaf is rightly called so if any node above it that may be written is
        chance
        for leaf, chance in zip(MERGED.leaves, leaves[0], strict=True)
        if any(rules.genres(leaf[:level]) == found.genres for level in range(1, min(cut, len(leaf)) + 1))
    )
    assert found.confidence <= truth + 1e-9


def test_the_message_names_the_node_below_the_threshold() -> None:
    def message_of(content: dict[str, object], *leaves: float) -> str:
        return decide(MODEL_KEY, levels_of(*leaves), parse_mapping(content, TREE)).message

    assert message_of({}, 0.02, 0.02, 0.21, 0.2, 0.55) == ""
    assert message_of({}, 0.02, 0.02, 0.21, 0.25, 0.5 - 1e-3) == "confidence too low: Pop 50 % (Other 96 %)"
    assert message_of({}, 0.3, 0.2, 0.3, 0.2, 0.0) == ""
    assert message_of({"min_confidence": 0.97}, 0.02, 0.02, 0.21, 0.2, 0.55) == "confidence too low: Pop 55 %"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{min_depth: 3, depth: 2}", "deeper than depth"),
        ("nodes: {Sof_rock: x}", "did you mean 'Other > Rock > Soft_rock'"),
        ("nodes: {Zzz: x}", "it has: Classic"),
        ("nodes: {Rock: x, Other/Rock: y}", "keep one of the two lines"),
        ("min_confidense: 0.5", "did you mean 'min_confidence'"),
        ("min_confidence: 7", "less than or equal to 1"),
        ("values: all", "values"),
        ("nodes: {Rock: ''}", "is not a genre"),
        ('nodes: {Rock: "a\\nb"}', "is not a genre"),
        ("nodes: [Rock]", "nodes"),
        ("- a list", "mapping file has lines"),
        ("{", "can't be read"),
        ("nodes: {Rock: x, Rock: y}", "'Rock' has two lines"),
    ],
)
def test_a_wrong_mapping_file_is_refused_with_a_suggestion(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(LibraryError, match=r"map\.yaml") as caught:
        load_mapping(tmp_path / "map.yaml", TREE)
    assert message in str(caught.value)
    with pytest.raises(LibraryError, match="can't be read"):
        load_mapping(tmp_path / "none.yaml", TREE)


def test_a_name_that_two_nodes_share_needs_its_path() -> None:
    tree = Taxonomy.from_nested({"A": ["Folk", "X"], "B": ["Folk"]})
    assert find_node(tree, "b/folk") == ("B", "Folk")
    with pytest.raises(LibraryError, match="is ambiguous: 'A > Folk', 'B > Folk'"):
        find_node(tree, "Folk")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.01, 1), min_size=LEAVES, max_size=LEAVES), st.floats(0, 1))
def test_without_rules_it_decides_as_predict_does(weights: list[float], least: float) -> None:
    from genretree.prediction.predict import SliceScores, as_prediction

    leaves = np.array(weights) / sum(weights)
    bundle = SimpleNamespace(taxonomy=TREE, model=SimpleNamespace(heads="tree"), training={}, runtime="")
    bundle.calibrate = lambda levels, unit: levels
    bundle.average_slices = lambda levels, tracks=None: [level.mean(axis=0, keepdims=True) for level in levels]
    bundle.images = SimpleNamespace(slice_frames=100)
    expected = as_prediction(bundle, "x", SliceScores(levels_of(*leaves), [0.0], False), 3, least)  # type: ignore[arg-type]
    found = decide(MODEL_KEY, levels_of(*leaves), parse_mapping({"min_confidence": least, "min_depth": 1}, TREE))
    assert (found.path if found.genres else ()) == expected.path


# -- preview and playlists ---------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Forty files of all genres, as the fake classifier predicts them; those with an even number have a genre."""
    monkeypatch.setattr("genretree.library.plan.planner.find_write_error", lambda *_: "")  # the files are not audio
    (tmp_path / "m & <n>").mkdir()
    for i in range(40):
        (tmp_path / "m & <n>" / f"{i:02d} é.mp3").write_bytes(f"sound {i}".encode())
    (tmp_path / "m & <n>" / "bad.mp3").write_bytes(b"no")
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        analyse(database, [tmp_path], fake_classifier(confidence=None))
        database.connection.execute("UPDATE file SET genres = '[]'")
        database.connection.execute("""UPDATE file SET genres = '["Skiffle"]' WHERE id % 2 = 0""")
        yield database


def _preview(database: Database, mode: str = "only-empty") -> Preview:
    model, model_key = records.find_model(database)
    return Preview(iter_plans(database, model, model_key, Mapping(), mode))  # type: ignore[arg-type]


def test_a_preview_is_grouped_by_genre_most_confident_first(library: Database, tmp_path: Path) -> None:
    found = _preview(library)
    counts = found.actions()
    assert sum(counts.values()) == 41
    assert next(iter(counts)) == "write"
    assert counts["unusable"] == 1
    genres = found.genres()
    assert sum(n for _, n in genres) == counts["write"]
    assert [n for _, n in genres] == sorted((n for _, n in genres), reverse=True)
    for genre, n in genres:
        lines = list(found.rows("write", genre))
        assert len(lines) == n
        assert [line.confidence for line in lines] == sorted((line.confidence for line in lines), reverse=True)
        assert {line.path.split(" > ")[-1] for line in lines} == {genre}
    assert {line.now for line in found.rows("has_genre")} == {"Skiffle"}
    text = io.StringIO()
    write_csv(found, text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    of_0_1 = tmp_path / "plan.csv"
    of_0_1.write_text(text.getvalue().replace("not_analysed", "unheard"), encoding="utf-8")
    EditedPlan(of_0_1).match(library)  # version 0.1 used another word
    write_parquet(found, tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert len(rows) == len(table) == 41
    assert [row["file"] for row in rows] == [row["file"] for row in table]
    assert rows[0]["genre"] == table[0]["genre"] == genres[0][0] or rows[0]["genre"] == min(g for g, _ in genres)


def test_the_page_is_complete_and_self_contained(library: Database, tmp_path: Path) -> None:
    write_page(_preview(library), tmp_path / "page.html", MODEL_KEY, "genretree library preview")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "m &amp; &lt;n&gt;/00 é.mp3" in text
    assert "m & <n>" not in text
    assert "http" not in text
    assert text.count('<tr><td class="path">') == 41


@pytest.mark.posix
def test_failed_files_are_shown_with_the_reason(library: Database, tmp_path: Path) -> None:
    folder = tmp_path / "m & <n>"
    os.mkfifo(folder / "pipe.mp3")
    (folder / "39 é.mp3").unlink()
    (folder / "new.mp3").write_bytes(b"new")
    analyse(library, [tmp_path], fake_classifier(confidence=None))
    library.connection.execute("""UPDATE file SET genres = '[]' WHERE genres IS NULL""")
    (folder / "00 é.mp3").write_bytes(b"another sound")
    for path in (folder / "01 é.mp3", folder / "03 é.mp3"):
        path.unlink()
    content = records.find_file(library, str(folder / "05 é.mp3")).content
    library.connection.execute(
        "UPDATE file SET content = x'00' WHERE content = ?", (content,)
    )  # changed, not analysed again
    found = _preview(library, "overwrite")
    shown = {Path(line.file).name: (line.action, line.message) for line in found.all_rows()}
    assert len(shown) == 43
    assert shown["pipe.mp3"] == ("unreadable", "is a named pipe, not an audio file")
    assert shown["bad.mp3"] == ("unusable", "not audio")
    assert shown["39 é.mp3"][0] == shown["01 é.mp3"][0] == shown["03 é.mp3"][0] == "not_found"
    assert shown["00 é.mp3"][0] == "changed"
    assert shown["05 é.mp3"][0] == "not_analysed"
    text = io.StringIO()
    write_csv(found, text)
    assert any("pipe.mp3,unreadable" in line and "a named pipe" in line for line in text.getvalue().splitlines())
    write_parquet(found, tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert (
        sum(row["action"] in ("unreadable", "not_found", "changed", "not_analysed", "unusable") for row in table) == 7
    )
    write_page(found, tmp_path / "page.html", MODEL_KEY)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "be read" in page
    assert "is a named pipe, not an audio file" in page
    console = _call(tmp_path, "preview").output
    assert "can't be read: 1" in console
    assert "is a named pipe, not an audio file" in " ".join(console.split())
    assert "3 skipped: missing" in console


def test_remote_files_are_shown_and_not_written(library: Database, tmp_path: Path) -> None:
    library.connection.execute("UPDATE file SET path = CAST('s3://bucket/' || id || '.mp3' AS BLOB), genres = NULL")
    found = _preview(library)
    assert found.actions() == {"remote": 40, "unusable": 1}
    assert all(line.genre and line.path for line in found.rows("remote"))
    done = _call(tmp_path, "apply", "--write")
    assert "0 files written" in done.output
    assert "40 skipped: remote files" in done.output
    assert "40 skipped: remote files" in _call(tmp_path, "preview", "--folder", "s3://bucket").output


def test_an_empty_folder_is_an_error_that_lists_the_known_folders(library: Database, tmp_path: Path) -> None:
    for command in ("preview", "apply"):
        done = _call(tmp_path, command, "--folder", "/nowhere", fails=True)
        assert "/nowhere: " in done.output
        assert f"its files are below: {tmp_path}/m & <n>/" in done.output
    assert "current genre" in _call(tmp_path, "preview", "--folder", tmp_path).output
    other = tmp_path / "other" / "deep"
    other.mkdir(parents=True)
    (other / "x.mp3").write_bytes(b"x")
    analyse(library, [other], fake_classifier())
    assert list_folders(library) == [f"{tmp_path}/m & <n>/", f"{other}/"]
    library.connection.execute(
        "UPDATE file SET path = CAST('s3://b/c/x.mp3' AS BLOB) WHERE CAST(path AS TEXT) LIKE '%/x.mp3'"
    )
    assert list_folders(library) == [f"{tmp_path}/m & <n>/", "s3://b/c/"]
    library.connection.execute("DELETE FROM file")
    assert list_folders(library) == []


def test_the_reason_for_skipping_is_shown(library: Database, tmp_path: Path) -> None:
    model, model_key = records.find_model(library)
    rules = parse_mapping({"min_confidence": 0.97}, TREE)
    plans = list(iter_plans(library, model, model_key, rules, "overwrite"))
    uncertain = [plan for plan in plans if plan.action == "unsure"]
    assert uncertain
    assert all(re.fullmatch(r"confidence too low: \w+ \d+ %( \(\w+ \d+ %\))?", plan.message) for plan in uncertain)
    assert not [plan for plan in plans if plan.genres in (("Other",), ("Classic",))]
    done = _call(tmp_path, "preview", "--min-confidence", 0.97, "--overwrite")
    assert "confidence too low: " in done.output
    asked = parse_mapping({"min_confidence": 0.97, "min_depth": 1}, TREE)
    assert [
        p for p in iter_plans(library, model, model_key, asked, "overwrite") if p.genres in (("Other",), ("Classic",))
    ]


def test_the_top_of_the_tree_has_playlists_though_it_is_not_written(library: Database, tmp_path: Path) -> None:
    out = tmp_path / "lists"

    def listed(*words: object) -> dict[str, int]:
        _call(tmp_path, "playlists", out, "--min-confidence", 0.97, *words)
        found = {path.relative_to(out).as_posix(): path.read_text(encoding="utf-8") for path in out.rglob("*.m3u8")}
        return {name: text.count(".mp3") for name, text in found.items()}

    whole, named = listed(), listed("--min-depth", 2)
    assert whole["Other.m3u8"] > named.get("Other.m3u8", 0)
    below = {name: n for name, n in whole.items() if "/" in name}
    assert below == {name: n for name, n in named.items() if "/" in name}


def test_every_node_has_a_playlist_of_its_files(library: Database, tmp_path: Path) -> None:
    model, model_key = records.find_model(library)
    lists = PlaylistIndex(iter_plans(library, model, model_key, Mapping()))
    out = tmp_path / "lists"
    out.mkdir()
    (out / "mine.m3u8").write_text("kept")
    written = write_m3u8(lists, out)
    everything = {row.path for row, result in records.iter_results(library, model, model_key) if not result.error}
    tops: set[str] = set()
    for path in written:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "#EXTM3U"
        files = [line for line in lines if not line.startswith("#")]
        assert files
        assert all(Path(file).is_file() for file in files)
        if path.parent == out:
            tops |= set(files)
        else:
            above = path.parent.with_suffix(".m3u8").read_text(encoding="utf-8").splitlines()
            assert set(files) <= set(above)
    assert tops == everything
    for path in write_m3u8(lists, out, relative=True):
        for line in path.read_text(encoding="utf-8").splitlines()[2:]:
            assert (path.parent / line).is_file()
    assert (out / "mine.m3u8").read_text() == "kept"
    other = tmp_path / "other"
    other.mkdir()
    foreign = other / next(path.name for path in written if path.parent == out)
    foreign.write_text("theirs")
    with pytest.raises(LibraryError, match="was not written by genretree"):
        write_m3u8(lists, other)
    assert list(other.iterdir()) == [foreign]
    assert foreign.read_text() == "theirs"
    write_rekordbox(lists, out / "rekordbox.xml")
    root = ElementTree.parse(out / "rekordbox.xml").getroot()
    tracks = {track.get("TrackID"): track for track in root.iter("TRACK") if track.get("TrackID")}
    assert int(root.find("COLLECTION").get("Entries")) == len(tracks) == 40
    assert {unquote(track.get("Location").removeprefix("file://localhost")) for track in tracks.values()} == everything
    list_playlists = [node for node in root.iter("NODE") if node.get("Type") == "1"]
    assert len(list_playlists) == len(written)
    for node in list_playlists:
        keys = [track.get("Key") for track in node]
        assert len(keys) == int(node.get("Entries"))
        assert set(keys) <= set(tracks)
    for node in root.iter("NODE"):
        if node.get("Type") == "0":
            assert int(node.get("Count")) == len(node)


# -- by a trained bundle -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = {"epochs": 6, "image_size": 16, "components": 20, "min_samples_leaf": 5}
    return train(store, "boosting", tmp_path_factory.mktemp("bundle") / "b", options)


def _call(tmp_path: Path, *words: object, fails: bool = False) -> Result:
    environment = {"GENRETREE_LIBRARY": str(tmp_path / "library.sqlite")}
    done = CliRunner().invoke(main, ["library", *map(str, words)], env=environment)
    assert (done.exit_code != 0) == fails, done.output
    return done


def test_analyse_names_the_files_that_cannot_be_used(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.mp3").write_text(f"no music {number}\n" * 99)
    for _ in range(2):  # the second time they are known already
        done = _call(tmp_path, "analyse", folder, "--bundle", bundle.folder, "--quiet")
        assert [line for line in done.stderr.splitlines() if line] == [
            *(f"{folder / f'{number:02}.mp3'} (not_audio): is a text file, not audio" for number in range(10)),
            "and 2 more failed; list them with: genretree library analyse --json",
        ]
    done = _call(tmp_path, "analyse", folder, "--bundle", bundle.folder, "--quiet", "--json")
    assert len(json.loads(done.stdout)["summary"]["failures"]) == 12


def test_the_whole_workflow_on_the_command_line(bundle: Bundle, music: Path, tmp_path: Path) -> None:
    (music / "bad.mp3").write_text("no music\n" * 99)
    shutil.copy(music / "v23.mp3", music / "copy.mp3")
    write_tags(music / "flac.flac", ["Skiffle"], {})
    before = {path.name: path.read_bytes() for path in music.iterdir()}
    _call(tmp_path, "preview", fails=True)
    done = _call(tmp_path, "analyse", music, "--bundle", bundle.folder, "--json", "--quiet")
    *lines, last = map(json.loads, done.stdout.splitlines())
    by_name = {Path(line["file"]).name: line for line in lines}
    (failure,) = last["summary"].pop("failures")
    assert (Path(failure["file"]).name, failure["kind"]) == ("bad.mp3", "not_audio")
    assert failure["message"] == by_name["bad.mp3"]["error"]["message"]
    assert last["summary"].pop("skipped") == {"types": {}, "links": 0}
    assert last["summary"] | {"analysed": 0} == {
        "files": 11,
        "known": 0,
        "analysed": 0,
        "shared": 1,
        "failed": 1,
        "gone": 0,
    }
    assert by_name["bad.mp3"]["error"]["kind"] == "not_audio"
    for found in predict(bundle, [music / name for name in FORMATS]):
        assert isinstance(found, Prediction)
        line = by_name[Path(found.file).name]
        assert tuple(line["path"]) == found.path
        assert line["probabilities"] == pytest.approx([level.probability for level in found.levels], abs=1e-5)
        assert line["slices"] == found.slices
    again = _call(tmp_path, "analyse", music, "--bundle", bundle.folder, "--quiet")
    assert "10 known, 0 analysed" in again.stdout
    assert "current genre" in _call(tmp_path, "preview").stdout
    _call(
        tmp_path, "preview", "--html", tmp_path / "p.html", "--csv", tmp_path / "p.csv", "--parquet", tmp_path / "p.pq"
    )
    assert {"p.html", "p.csv", "p.pq"} <= {path.name for path in tmp_path.iterdir()}
    assert "Nothing was written" in _call(tmp_path, "apply").stdout
    assert {path.name: path.read_bytes() for path in music.iterdir()} == before
    assert "9 files written" in _call(tmp_path, "apply", "--write", "--quiet").stdout
    assert read_tags(music / "flac.flac").genres == ("Skiffle",)
    assert (
        read_tags(music / "opus.opus").own["GENRETREE_MODEL"]
        == json.loads(_call(tmp_path, "status", "--json").stdout)["model"]["digest"]
    )
    assert "run 1" in _call(tmp_path, "status").stdout
    _call(tmp_path, "playlists", tmp_path / "lists", "--format", "both")
    assert (tmp_path / "lists" / "rekordbox.xml").is_file()
    assert "unknown level" in _call(tmp_path, "preview", "--level", "seven", fails=True).output
    assert "9 files restored" in _call(tmp_path, "undo", "--quiet").stdout
    assert {path.name: path.read_bytes() for path in music.iterdir()} == before
    assert "nothing to undo" in _call(tmp_path, "undo", fails=True).output
    assert "no such folder" in _call(tmp_path, "analyse", tmp_path / "x", "--bundle", bundle.folder, fails=True).output


def test_the_model_digest_covers_what_changes_results(bundle: Bundle) -> None:
    from genretree.bundle.manifest import read_description

    content = read_description(bundle.folder)
    digest = classifier.model_digest(content, "float32", False)
    exported = {**content, "files": {**content["files"], "openvino/x.bin": "1", "history.csv": "2"}, "sha256": "x"}
    assert classifier.model_digest(exported, "float32", False) == digest
    other = {**content, "files": dict.fromkeys(content["files"], "0")}
    changes = [(other, "float32", False), (content, "bf16", False), (content, "float32", True)]
    changes.append(({**content, "calibration": None}, "float32", False))
    assert len({digest, *(classifier.model_digest(*change) for change in changes)}) == 5


# -- beets -------------------------------------------------------------------------------------------------------


def _beet(home: Path, folder: Path, words: tuple[str, ...]) -> None:
    """What `python -m beets` does, with a home folder and in a folder."""
    from beets.ui import main as beets_main

    os.environ["BEETSDIR"] = str(home)
    os.chdir(folder)
    beets_main(list(words))


@pytest.mark.posix
@pytest.mark.skipif(importlib.util.find_spec("beets") is None, reason="beets is not installed")
def test_beets_sets_genres_in_its_library(bundle: Bundle, music: Path, tmp_path: Path) -> None:
    home = tmp_path / "beets"
    home.mkdir()
    (tmp_path / "map.yaml").write_text("depth: 1\nnodes: {Calm: Quiet, Busy: Quiet}\n")
    (home / "config.yaml").write_text(
        f"directory: {tmp_path / 'library'}\nlibrary: {home / 'music.db'}\nplugins: genretree\n"
        f"genretree: {{bundle: '{bundle.folder}', mapping: '{tmp_path / 'map.yaml'}'}}\n"
        "import: {copy: no, write: yes, group_albums: yes, duplicate_action: keep}\n"
    )
    write_tags(music / "flac.flac", ["Skiffle"], {})
    (music / "none.mp3").unlink()

    def beet(*words: str) -> None:
        assert run_in_child(_beet, home, tmp_path, words) == 0

    def items() -> dict[str, dict[str, str]]:
        with sqlite3.connect(home / "music.db") as library:
            query = "SELECT id, genres FROM items"
            found = {id_: {"genres": genres} for id_, genres in library.execute(query)}
            for id_, key, value in library.execute("SELECT entity_id, key, value FROM item_attributes"):
                found[id_][key] = value
        return found

    beet("import", "-qA", str(music))
    before = {path.name: path.read_bytes() for path in music.iterdir()}
    beet("genretree", "--pretend")
    assert (home / "genretree.sqlite").is_file(), "it is to be in beets' folder, wherever the command is called"
    assert {path.name: path.read_bytes() for path in music.iterdir()} == before
    assert sorted(item["genres"] for item in items().values()) == [""] * (len(before) - 1) + ["Skiffle"]
    beet("genretree")
    assert sorted(item["genres"] for item in items().values()) == ["Quiet"] * (len(before) - 1) + ["Skiffle"]
    paths = [item["genretree_path"] for item in items().values() if item["genres"] == "Quiet"]
    assert set(paths) <= {"Calm", "Busy"}
    carried = {path.name: read_tags(path) for path in music.iterdir()}
    assert {name: found.genres for name, found in carried.items()} == {
        name: ("Skiffle",) if name == "flac.flac" else ("Quiet",) for name in before
    }
    assert carried["opus.opus"].own["GENRETREE_PATH"] in ("Calm", "Busy")
    assert (home / "genretree.sqlite").is_file()
    beet("genretree", "--force", "--keep-existing", "--albums")
    assert read_tags(music / "flac.flac").genres == ("Skiffle", "Quiet")
