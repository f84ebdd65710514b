from __future__ import annotations

import csv
from pathlib import Path

import pytest

from genretree.compare import compare, format_markdown
from genretree.corpus.store import Store
from genretree.errors import SettingsError, TrainingError

QUICK = {
    "cnn": {"epochs": 1, "image_size": 32},
    "boosting": {"epochs": 5, "image_size": 16, "components": 10},
}


def test_a_comparison_leaves_its_tables_and_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    first = compare(store, tmp_path, ["boosting"], {"boosting": QUICK["boosting"]})
    trained = (tmp_path / "boosting" / "bundle.json").stat().st_mtime_ns
    found = compare(store, tmp_path, ["boosting", "cnn"], QUICK)
    rows = found.rows
    assert (tmp_path / "boosting" / "bundle.json").stat().st_mtime_ns == trained
    assert rows[0].evaluation.track == first.rows[0].evaluation.track
    text = (tmp_path / "results.md").read_text()
    assert text == format_markdown(found)
    assert text.count("| cnn |") == 2
    assert "disjoint by artist" in text
    with (tmp_path / "results.csv").open() as stream:
        records = list(csv.DictReader(stream))
    assert len(records) == 2 * 2 * 3
    by_track = next(row for row in records if row["model"] == "cnn" and row["unit"] == "track")
    assert float(by_track["accuracy"]) == rows[1].evaluation.track.levels[0].accuracy
    page = (tmp_path / "results.html").read_text()
    assert page.count("<h2>cnn</h2>") == 1
    assert (tmp_path / "cnn-report" / "metrics.json").exists()


def test_other_settings_train_again(store: Store, tmp_path: Path) -> None:
    compare(store, tmp_path, ["boosting"], {"boosting": QUICK["boosting"]})
    before = (tmp_path / "boosting" / "bundle.json").read_text()
    compare(store, tmp_path, ["boosting"], {"boosting": {**QUICK["boosting"], "epochs": 4}})
    assert (tmp_path / "boosting" / "bundle.json").read_text() != before


def test_mistakes_are_found_before_anything_is_trained(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no model family"):
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
    assert "no weights of a MusiCNN network" in found.skipped["musicnn"]
    assert "Not trained: musicnn, because" in (tmp_path / "a" / "results.md").read_text()
    with pytest.raises(TrainingError, match="no weights of a MusiCNN network"):
        compare(store, tmp_path / "b", ["musicnn"], {"musicnn": settings["musicnn"]})
