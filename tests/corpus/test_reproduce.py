"""docs/reproduce.md is run as it is written, on a small replica of the data set."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from genretree.cli import main
from genretree.evaluation import report
from small_weights import shrink_networks

datasets = pytest.importorskip("datasets")
test_ccmusic = pytest.importorskip("test_ccmusic")

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
NETWORKS = ("cnn", "efficientnet-b0", "ast")
# What makes a command fast on a few rows; what it reads and writes stays as it is written.
SETTINGS = [
    f"{family}:{setting}" for family in NETWORKS for setting in ("image_size=32", "epochs=1", "precision=float32")
]
SETTINGS += ["efficientnet-b0:weights=none", "boosting:image_size=8", "boosting:epochs=2"]
FASTER = {
    "prepare": ["--size", "32", "--workers", "1"],
    "compare": [word for setting in SETTINGS for word in ("--set", setting)],
    "train": ["--epochs", "1", "--weights", "none", "--set", "image_size=32", "--set", "precision=float32"],
    "evaluate": [],
}


def commands() -> list[list[str]]:
    """All commands of genretree that the page shows as indented blocks, in their order."""
    lines = [line.strip() for line in TEXT.splitlines() if line.startswith("    genretree ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.slow
def test_the_commands_of_the_page_run_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    shrink_networks(monkeypatch)
    # Drawing the confusion matrices of all models takes longer than everything else; other tests draw them.
    for name in [name for name in dir(report) if name.startswith("draw_")]:
        monkeypatch.setattr(report, name, lambda *_, **__: b"")
    # A folder with the data set's name on the Hub is read in its place.
    test_ccmusic.write_replica(tmp_path / "ccmusic-database" / "music_genre", test_ccmusic.make_rows())
    ran = []
    for words in commands():
        if words[0] not in FASTER:
            continue
        result = CliRunner().invoke(main, [*words, *FASTER[words[0]], "--quiet"])
        assert result.exit_code == 0, (words, result.output)
        ran.append(words[0])
    assert ran == ["prepare", "compare", "train", "evaluate"]
    table = Path("RESULTS", "results.md").read_text(encoding="utf-8")
    for family, published in (("cnn", 91.1), ("efficientnet-b0", 96.9), ("ast", 89.3), ("boosting", 73.3)):
        assert len(re.findall(rf"^\| {family} \| LEAKING \|", table, re.MULTILINE)) == 1  # by slice only
        assert re.search(rf"^\| {family}, published \| by slices \| {published} ", table, re.MULTILINE)
    page = Path("RESULTS", "results.html").read_text(encoding="utf-8")
    for text in (table, page.replace("<th>", "| ").replace("</th>", " ")):
        assert "| Overall | Classic / Non-classic | 2nd level | 3rd level |" in text
    assert "<td>boosting, published</td><td>by slices</td><td>73.3 (" in page
    assert Path("REPORT", "report.html").exists()


def test_every_command_and_option_of_the_page_exists() -> None:
    for words in commands():
        context: Any = main.make_context("genretree", list(words), resilient_parsing=True)
        command: click.Command = main
        rest = list(words)
        while isinstance(command, click.Group):
            found = command.get_command(context, rest.pop(0))
            assert found is not None, words
            command = found
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, words


def test_what_is_installed_exists() -> None:
    [extras] = set(re.findall(r"pip install .*'(?:\.|genretree)\[(\w+)\]", TEXT))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf"^{extras} = ", pyproject, re.MULTILINE)
    for script in re.findall(r"`python (benchmarks/\w+\.py)|`(benchmarks/\w+\.py)`", TEXT):
        assert (ROOT / "".join(script)).exists()
