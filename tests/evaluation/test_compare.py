from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from genretree.cli import main
from genretree.corpus.splits import split_groups
from genretree.corpus.store import Store
from genretree.errors import SettingsError, TrainingError
from genretree.evaluation.compare import Comparison, ComparisonRow, _published_cells, _title, compare, format_markdown
from genretree.metrics.scores import HierarchicalScores, UnitScores

pytestmark = pytest.mark.slow

QUICK = {
    "cnn": {"epochs": 1, "image_size": 32},
    "boosting": {"epochs": 5, "image_size": 16, "components": 10},
}


@pytest.fixture(autouse=True)
def _speed_is_measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genretree.evaluation.compare._SPEED_SECONDS", 0.05)


def test_a_comparison_leaves_its_tables_and_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    first = compare(store, tmp_path, ["boosting"], {"boosting": QUICK["boosting"]})
    trained = (tmp_path / "boosting" / "bundle.json").stat().st_mtime_ns
    found = compare(store, tmp_path, ["boosting", "cnn"], QUICK)
    rows = found.rows
    assert (tmp_path / "boosting" / "bundle.json").stat().st_mtime_ns == trained
    assert rows[0].evaluation.track == first.rows[0].evaluation.track
    page = (tmp_path / "results.html").read_text()
    assert "Overall is the mean of the levels' accuracies" in page
    text = (tmp_path / "results.md").read_text()
    assert "| model | split | Overall |" in text
    assert "Overall is the mean of the levels' accuracies" in text
    assert text == format_markdown(found)
    assert text.count("| cnn |") == 2
    assert "disjoint by artist" in text
    with (tmp_path / "results.csv").open() as stream:
        records = list(csv.DictReader(stream))
    assert len(records) == 2 * 2 * 3
    by_track = next(row for row in records if row["model"] == "cnn" and row["unit"] == "track")
    assert float(by_track["accuracy"]) == rows[1].evaluation.track.levels[0].accuracy
    page = (tmp_path / "results.html").read_text()
    assert page.count(">cnn</h2>") == 1
    assert (tmp_path / "cnn-report" / "metrics.json").exists()


def test_other_settings_train_again(store: Store, tmp_path: Path) -> None:
    compare(store, tmp_path, ["boosting"], {"boosting": QUICK["boosting"]})
    before = (tmp_path / "boosting" / "bundle.json").read_text()
    compare(store, tmp_path, ["boosting"], {"boosting": {**QUICK["boosting"], "epochs": 4}})
    assert (tmp_path / "boosting" / "bundle.json").read_text() != before


def test_mistakes_are_found_before_anything_is_trained(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown model family"):
        compare(store, tmp_path, ["boosting", "cnnn"])
    with pytest.raises(SettingsError, match="which is not compared"):
        compare(store, tmp_path, ["boosting"], {"cnn": {}})
    with pytest.raises(SettingsError, match="unknown setting"):
        compare(store, tmp_path, ["boosting"], {"boosting": {"depth": 3}})
    assert not (tmp_path / "boosting").exists()


def test_a_family_that_cannot_be_trained_here_is_left_out_with_the_reason(store: Store, tmp_path: Path) -> None:
    settings = {"boosting": QUICK["boosting"], "musicnn": {"weights": str(tmp_path / "none")}}
    found = compare(store, tmp_path / "a", ["musicnn", "boosting"], settings)
    assert [row.evaluation.family for row in found.rows] == ["boosting"]
    assert "not the weights of a MusiCNN network" in found.skipped["musicnn"]
    assert "Not trained: musicnn, because" in (tmp_path / "a" / "results.md").read_text()
    with pytest.raises(TrainingError, match="not the weights of a MusiCNN network"):
        compare(store, tmp_path / "b", ["musicnn"], {"musicnn": settings["musicnn"]})


def test_a_split_made_anew_under_its_name_trains_again(store: Store, tmp_path: Path) -> None:
    own = tmp_path / "store"
    shutil.copytree(store.folder, own)
    settings = {"boosting": QUICK["boosting"]}
    first = compare(Store(own), tmp_path / "out", ["boosting"], settings)
    other = split_groups(store.track_leaves, store.track_groups, seed=7)
    assert other.parts != store.split().parts
    other.save(own / "splits")
    again = compare(Store(own), tmp_path / "out", ["boosting"], settings)
    for found in (first, again):
        assert found.rows[0].evaluation.known_tracks == 0
    assert again.rows[0].evaluation.track != first.rows[0].evaluation.track


def test_every_protocol_is_listed(store: Store, tmp_path: Path) -> None:
    found = compare(store, tmp_path, ["boosting"], {"boosting": QUICK["boosting"]})
    leaking = replace(found.rows[0], evaluation=replace(found.rows[0].evaluation, family="cnn", protocol="LEAKING"))
    text = format_markdown(replace(found, rows=(*found.rows, leaking)))
    assert "(boosting); disjoint by artist" in text
    assert "(cnn); LEAKING" in text


def test_the_page_and_the_json_have_the_whole_table(store: Store, tmp_path: Path) -> None:
    settings = {"boosting": QUICK["boosting"], "musicnn": {"weights": str(tmp_path / "none")}}
    found = compare(store, tmp_path / "a", ["boosting", "boosting", "musicnn"], settings)
    assert len(found.rows) == 1
    page = (tmp_path / "a" / "results.html").read_text()
    assert ">Cost</h2>" in page
    assert "Not trained: musicnn" in page
    if found.rows[0].evaluation.track.levels[-1].accuracy < 1:  # the hardest tracks can be seen and heard
        assert "<audio" in page
    content = json.loads((tmp_path / "a" / "results.json").read_text())
    assert content["families"][0]["costs"]["training_seconds"] == found.rows[0].training_seconds
    assert "musicnn" in content["skipped"]


def test_no_family_at_all_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least one family"):
        compare(store, tmp_path, [])
    result = CliRunner().invoke(main, ["compare", str(store.folder), "--out", str(tmp_path), "--recipes", "nonsense"])
    assert result.exit_code == 2
    assert "published" in result.output


def test_the_published_figures_stand_below_ours_for_the_studys_tree() -> None:
    scores = UnitScores(
        n=100,
        groups=10,
        overall=0.9,
        contradictions=0.0,
        hierarchical=HierarchicalScores(precision=0.9, recall=0.9, f1=0.9, tree_distance=0.2),
        levels=tuple(
            SimpleNamespace(name=name, accuracy=accuracy, ci95=(0, 1), macro_f1=0.5)  # type: ignore[misc]
            for name, accuracy in (("fst_level", 0.99), ("sec_level", 0.91), ("thr_level", 0.80))
        ),
    )
    # 91.1 is the mean of 99.8, 90.1 and 83.5
    assert _published_cells("cnn", scores)[2:] == ["91.1 (-1.1)", "99.8 (-0.8)", "90.1 (+0.9)", "83.5 (-3.5)"]
    assert _published_cells("musicnn", scores) == []
    assert [_title(level.name) for level in scores.levels] == ["Classic / Non-classic", "2nd level", "3rd level"]
    other = replace(scores, levels=scores.levels[:2])
    assert _published_cells("cnn", other) == []
    evaluation = SimpleNamespace(
        slice=scores,
        track=scores,
        units=("slice",),
        family="cnn",
        protocol="p",
        part="test",
        store="s",
        disjoint="d",
        few_groups_note="",
    )
    found = Comparison(
        (ComparisonRow(evaluation=evaluation, parameters=None, training_seconds=1.0, slices_per_second=1.0),), {}
    )  # type: ignore[arg-type]
    assert "ours minus published" in format_markdown(found, published=True)
    assert "ours minus published" not in format_markdown(found)


def test_evaluate_prints_a_report_per_class(store: Store, tmp_path: Path) -> None:
    compare(store, tmp_path, ["boosting"], {"boosting": QUICK["boosting"]})
    words = ["evaluate", str(tmp_path / "boosting"), str(store.folder), "--out", str(tmp_path / "r"), "--per-class"]
    result = CliRunner().invoke(main, [*words, "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "mean of the levels" in result.output
    for column in ("precision", "recall", "F1", "support"):
        assert column in result.output


def test_histories_are_plotted_with_and_without_accuracies() -> None:
    from PIL import Image

    from genretree.evaluation.plots import draw_history

    assert draw_history([]) is None
    losses = [{"epoch": 1.0, "train_loss": 2.0, "validation_loss": 2.1}, {"epoch": 2.0, "train_loss": 1.0}]
    old = draw_history(losses)
    accuracies = {f"{part}_accuracy_top_loss level": 0.5 for part in ("train", "validation")}
    new = draw_history([{**row, **accuracies} for row in losses])
    assert old is not None
    assert new is not None
    widths = [Image.open(io.BytesIO(png)).width for png in (old, new)]
    assert widths[1] > 1.5 * widths[0]  # a second panel
