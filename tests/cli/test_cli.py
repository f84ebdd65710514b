"""The command line: the full pipeline, output, errors and help."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from genretree import cli
from genretree.cli import main
from genretree.corpus.store import Store
from small_corpus import write_corpus

QUICK = ["--epochs", "5", "--set", "image_size=16", "--set", "components=20", "--set", "min_samples_leaf=5", "--quiet"]


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the full pipeline was run: music/, tree.yaml, store/, bundle/, report/."""
    folder = tmp_path_factory.mktemp("job")
    music = write_corpus(folder / "music", artists=4, tracks=1, seconds=5.0)
    (folder / "music" / "broken.wav").write_bytes(b"RIFF")
    music.write_text(music.read_text() + "broken.wav,Drone,nobody\n")
    (folder / "tree.yaml").write_text("Calm: [Drone, Bells]\nBusy: {Beat: [Slow_beat, Fast_beat], Noise: }\n")
    store, bundle = folder / "store", folder / "bundle"
    words = ["--slice-seconds", "2", "--size", "32", "--workers", "1", "--quiet", "--group", "artist", "--tree"]
    result = run("prepare", music, store, *words, folder / "tree.yaml")
    assert result.exit_code == 0, result.output
    assert "20 tracks" in result.output
    assert "1 failed" in result.output
    assert "broken.wav" in result.output
    result = run("train", store, "--model", "boosting", "--out", bundle, *QUICK)
    assert result.exit_code == 0, result.output
    result = run("evaluate", bundle, store, "--out", folder / "report", "--quiet")
    assert result.exit_code == 0, result.output
    assert "level_3" in result.output
    return folder


def test_the_full_pipeline_writes_metrics_and_a_report(job: Path) -> None:
    metrics = json.loads((job / "report" / "metrics.json").read_text())
    assert [level["name"] for level in metrics["track"]["levels"]] == ["level_1", "level_2", "level_3"]
    assert "broken.wav" not in (job / "report" / "report.html").read_text()


def test_predict_prints_a_json_object_for_each_file_and_fails_if_one_failed(job: Path) -> None:
    result = run("predict", job / "bundle", job / "music" / "Drone-0-0.wav", job / "music" / "broken.wav", "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[0]["path"][0] in ("Calm", "Busy")
    assert lines[1]["error"]["kind"] in ("empty", "truncated", "not_audio")
    assert "failed" in result.stderr
    assert run("predict", job / "bundle", job / "music" / "Drone-0-0.wav").exit_code == 0


def test_predict_prints_text_and_writes_csv(job: Path) -> None:
    result = run("predict", job / "bundle", job / "music" / "Noise-0-0.wav", "--quiet")
    assert "level_1" in result.output
    assert "timeline" in result.output
    result = run("predict", job / "bundle", job / "music", "--quiet", "--csv", job / "out.csv")
    assert result.exit_code == 1
    assert len((job / "out.csv").read_text().splitlines()) == 22


def test_info_about_store_and_bundle(job: Path) -> None:
    assert "Slow_beat (4)" in run("info", job / "store").output
    assert "boosting" in run("info", job / "bundle").output
    assert json.loads(run("info", job / "store", "--json").output)["tracks"] == 20
    assert json.loads(run("info", job / "bundle", "--json").output)["family"] == "boosting"
    result = run("info", job)
    assert result.exit_code != 0
    assert "neither a store nor a bundle" in result.output


def test_splits_by_folds_and_by_slices(job: Path) -> None:
    assert run("split", job / "store", "--folds", 3).output.count("no group") == 3
    assert "LEAKING" in run("split", job / "store", "--protocol", "slice").output
    words = ["train", job / "store", "--model", "boosting", "--out", job / "leaky", "--split", "slices", *QUICK]
    assert run(*words).exit_code == 0
    result = run("evaluate", job / "leaky", job / "store", "--out", job / "leaky-report", "--quiet")
    assert "LEAKING" in result.output
    assert Store(job / "store").split("slices").parts.count("test") == 4  # of 40 slices, 10 % as published
    assert Store(job / "store").split_names() == ["default", "folds-0", "folds-1", "folds-2", "slices"]


def test_strict_prepare_fails_if_a_track_failed(job: Path) -> None:
    music = job / "music" / "tracks.csv"
    words = ["--slice-seconds", "2", "--size", "32", "--workers", "1", "--quiet", "--strict", "--json"]
    result = run("prepare", music, job / "strict", *words, "--tree", job / "tree.yaml")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"][0]["path"].endswith("broken.wav")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["prepare", "nowhere", "s"], "no such folder or CSV"),
        (["train", "nowhere", "--model", "cnn", "--out", "b"], "no such folder"),
        (["train", "{job}/store", "--model", "cnnn", "--out", "b"], "did you mean 'cnn'"),
        (["train", "{job}/store", "--model", "cnn", "--out", "b", "--set", "drop=1"], "did you mean 'dropout'"),
        (["train", "{job}/store", "--model", "cnn", "--out", "b", "--set", "dropout"], "NAME=VALUE"),
        (["train", "{job}/store", "--model", "cnn", "--out", "b", "--split", "x"], "no split named 'x'"),
        (["evaluate", "{job}/store", "{job}/store", "--out", "r"], "is not a bundle"),
        (["predict", "{job}/nothing", "x.mp3"], "no such bundle"),
        (["predict", "{job}/bundle", "{job}/report"], "no audio files"),
        (["compose", "c", "--seconds", "1"], "seconds"),
        (["predict", "{job}/bundle", "{job}/music", "--csv", "{job}/nowhere/out.csv"], "the folder does not exist"),
        (["predict", "{job}/bundle", "{job}/music", "--top", "0"], "--top"),
        (["evaluate", "{job}/bundle", "{job}/store", "--out", "{job}/tree.yaml/report"], "tree.yaml"),
        (["train", "{job}/store", "--model", "cnn", "--out", "b", "--set", "label_smoothing=[a"], "cannot parse '[a'"),
        (["prepare", "{job}/music/tracks.csv", "s", "--tree", "jazz"], "unknown built-in tree 'jazz'"),
        (["prepare", "{job}/music/tracks.csv", "s", "--engine", "magic"], "magic"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(job: Path, words: list[str], problem: str) -> None:
    result = run(*[word.format(job=job) for word in words])
    assert result.exit_code != 0
    assert problem in result.output
    assert "Traceback" not in result.output


def test_help_is_fast_and_lists_the_commands() -> None:
    command = [sys.executable, "-m", "genretree", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in ("quickstart", "compose", "prepare", "train", "evaluate", "predict", "info"):
        assert name in text
    code = "import time, genretree.cli as cli; cli.main(['--help'], standalone_mode=False); print(time.process_time())"
    seconds = float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]
    )
    assert seconds < 1, "a large library is imported at startup"


def test_help_imports_no_large_library() -> None:
    code = "import sys, genretree.cli; print({'torch', 'librosa', 'sklearn', 'numpy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "set()"


@pytest.mark.parametrize(("name", "encoding"), [("nt", "utf-8"), ("posix", "cp1252")])
def test_redirected_output_is_utf8_on_windows(monkeypatch: pytest.MonkeyPatch, name: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    with monkeypatch.context() as patch:
        patch.delenv("PYTHONIOENCODING", raising=False)
        patch.setattr(os, "name", name)
        patch.setattr(sys, "stdout", stream)
        cli._write_utf8_on_windows()
    assert stream.encoding == encoding
