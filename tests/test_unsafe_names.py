"""No name from outside controls the terminal, and none with control characters becomes a genre."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import astuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from genretree.bundle.hub.contents import check_types
from genretree.cli import main
from genretree.cli.options import write_or_print
from genretree.cli.output import SafeOutput, echo, echo_failures, echo_json
from genretree.cli.tables import make_console
from genretree.corpus.manifest import Failure, read_manifest
from genretree.errors import CorpusError, HubError, TaxonomyError
from genretree.files import is_unsafe, json_line, printable, printable_text
from genretree.library.database.records import ModelKey
from genretree.library.plan.preview import Preview, PreviewRow, write_page
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
    echo_json({"file": "caf\udce9.mp3"})  # a byte that isn't UTF-8, as file names may hold
    assert json.loads(capsys.readouterr().out) == {"file": "caf\udce9.mp3"}


@pytest.mark.parametrize("text", UNSAFE)
def test_tables_on_standard_output_and_failures_escape_what_they_show(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_or_print(Path("-"), f"file,genre\na.mp3,So{text}ft\n")
    csv.writer(SafeOutput(), lineterminator="\n").writerow(["a.mp3", f"So{text}ft"])
    echo_failures([Failure("a", "genre", f"a{text}: \nfailed (empty): b.mp3")], "--json")
    captured = capsys.readouterr()
    assert not is_unsafe(captured.out.replace("\n", ""))
    assert len(captured.out.splitlines()) == 3
    assert not is_unsafe(captured.err.rstrip("\n"))


def test_arguments_that_are_refused_are_escaped() -> None:
    for arguments in (["--\x1b[2J"], ["\x1b[2J"], ["library", "\x1b[2J"], ["predict", "--\x1b[2J"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert not is_unsafe(result.output.replace("\n", ""))


def test_file_names_on_the_hub_are_checked() -> None:
    with pytest.raises(HubError, match=r"control characters: a\\x1b\[2J\.json"):
        check_types("user/name", ["bundle.json", "a\x1b[2J.json"])


def test_folders_with_hostile_names_are_one_line(tmp_path: Path) -> None:
    deep = tmp_path / "a\nError: b" / "c" / "d" / "e" / "f" / "x.mp3"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"^a\\nError: b/c/d/e/f: 5 folders deep"):
        read_manifest(tmp_path)
    albums = tmp_path / "music" / "Rock" / os.fsdecode(b"caf\xe9\n")
    for folder in (albums, tmp_path / "music" / "Pop" / "album"):
        folder.mkdir(parents=True)
        (folder / "x.mp3").write_bytes(b"x")
    manifest = read_manifest(tmp_path / "music", depth=1)
    assert manifest.tracks[1].group == "folder:caf\\xe9\\n"  # valid Unicode, which tables can hold


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
def test_pages_escape_what_they_show(text: str, tmp_path: Path) -> None:
    line = PreviewRow(f"a{text}.mp3", "write", f"b{text}", f"c{text}<i>", "d", 0.5, 1, f"e{text}")
    preview, tree = Preview([]), Taxonomy((("a",), ("b",)), ("level",))
    preview._rows.execute(f"INSERT INTO line VALUES ({', '.join('?' * len(astuple(line)))})", astuple(line))
    write_page(
        preview,
        tmp_path / "page.html",
        ModelKey("f", "g", "tree", tree, note=f"h{text}"),
        f"i{text}",
    )
    page = (tmp_path / "page.html").read_text()
    assert not is_unsafe(page.replace("\n", "").replace("\t", ""))
    assert "&lt;i&gt;" in page


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
