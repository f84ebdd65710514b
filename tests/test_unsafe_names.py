"""No name from outside controls the terminal, and none with control characters becomes a genre."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from genretree.cli import main
from genretree.cli.output import echo, echo_json
from genretree.errors import TaxonomyError
from genretree.files import is_unsafe, json_line, printable, printable_text
from genretree.tables import make_console
from genretree.taxonomy import MAX_NAME, Taxonomy

UNSAFE = ["\x00", "\x07", "\x1b[2J", "\x7f", "\x85", "\x9b31m", "\u2028", "\u202egpj", "\u2066", "\r"]


@pytest.mark.parametrize("text", UNSAFE)
def test_escaped_wherever_people_read(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_unsafe(f"a{text}b")
    for shown in (printable(f"a{text}b"), printable_text(f"a{text}b")):
        assert not is_unsafe(shown)
        assert shown.startswith("a\\")
    echo(f"one\n{text}\ttwo")
    lines = capsys.readouterr().out
    assert lines.startswith("one\n\\")
    assert not is_unsafe(lines.replace("\n", "").replace("\t", ""))


def test_names_stay_on_one_line_and_bytes_are_shown() -> None:
    assert printable("a\nb\tc") == "a\\nb\\tc"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert printable("Motörhead 東京 \u200f") == "Motörhead 東京 \u200f"


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"file": "a\x9bb\u202e\x7f", "artist": "Motörhead"}
    echo_json(content)
    text = capsys.readouterr().out
    assert json.loads(text) == content
    assert json.loads(json_line(content, indent=1)) == content
    assert "Motörhead" in text
    assert not is_unsafe(text.rstrip("\n"))


@pytest.mark.parametrize("text", UNSAFE)
def test_tables_escape_what_they_show(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "80")
    table = Table("file")
    table.add_row(f"song{text}.mp3")
    console = make_console()
    console.file = io.StringIO()
    console.print(table)
    console.print(f"[bold]{text}[/]")
    assert not is_unsafe(console.file.getvalue().replace("\n", ""))


@pytest.mark.parametrize("text", UNSAFE)
def test_trees_refuse_such_names(text: str, tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match="control characters"):
        Taxonomy.from_paths([("Rock", f"So{text}ft"), ("Pop",)])
    with pytest.raises(TaxonomyError, match="control characters"):
        Taxonomy((("Rock",), ("Pop",)), (f"le{text}vel",))
    with pytest.raises(TaxonomyError, match=f"more than {MAX_NAME}"):
        Taxonomy.from_paths([("x" * (MAX_NAME + 1),), ("Pop",)])


def test_errors_about_hostile_names_are_escaped(tmp_path: Path) -> None:
    song = tmp_path / "a\x1b]0;title\x07\x9b.mp3"
    song.write_bytes(b"no sound at all")
    result = CliRunner().invoke(main, ["info", str(song)])
    assert result.exit_code != 0
    assert not is_unsafe(result.output.replace("\n", ""))
    missing = CliRunner().invoke(main, ["predict", str(tmp_path), f"{tmp_path}/\x1b[2J.mp3"])
    assert missing.exit_code != 0
    assert not is_unsafe(missing.output.replace("\n", ""))
