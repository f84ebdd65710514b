"""Messages of the Python layer name its arguments; the command line shows its options instead."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

import genretree
from genretree.cli import main
from genretree.cli.arguments import show_options

SOURCE = Path(genretree.__file__).parent
# Layers with a surface of their own, and a module that runs another tool.
_ELSEWHERE = {"cli", "service", "models/pretrained/musicnn_weights.py"}
_WHOLE_COMMAND = re.compile(r"(?:genretree [a-z]+|hf download) .*--")


def _command(words: str) -> click.Command:
    command: click.Command = main
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


@pytest.mark.parametrize(
    ("words", "message", "expected"),
    [
        ("train", "replace it with `overwrite=True`", "replace it with --overwrite"),
        ("train", "train from scratch with `weights='none'`", "train from scratch with --weights none"),
        ("compare", "train from scratch with `weights='none'`", "train from scratch with --set FAMILY:weights=none"),
        ("compare", "use `weights=FOLDER`", "use --set FAMILY:weights=FOLDER"),
        ("train", "use `modalities=['mel', 'cqt']`", "use --set modalities='[mel, cqt]'"),
        ("evaluate", "try `part='all'`", "try --part all"),
        ("prepare", "or name them in `levels`", "or name them in --levels"),
        ("prepare", "name them: `columns=mel=COLUMN,label=COLUMN`", "name them: --columns mel=COLUMN,label=COLUMN"),
        ("explain", "use `method='occlusion'`", "use --method occlusion"),
        ("library analyse", "analysed with `engine='ray'`", "analysed with --engine ray"),
        ("library apply", "name another file in `path`", "name another file in --db"),
        ("library undo", "`force=True` takes our fields back", "--force takes our fields back"),
        ("library preview", "see `mode='append'`", "see --append"),
        ("info", "see `mode='append'` and `x.mp3`", "see `mode='append'` and `x.mp3`"),
    ],
)
def test_the_command_line_shows_its_options(words: str, message: str, expected: str) -> None:
    assert show_options(message, _command(words)) == expected


def test_an_error_on_the_command_line_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,style\na.mp3,Rock\n")
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["prepare", str(tmp_path / "a.csv"), str(tmp_path / "store")])
    assert result.exit_code == 1 and "or name them in --levels" in result.output


def _texts(tree: ast.Module) -> list[tuple[int, str]]:
    """All texts but docstrings, each f-string as one with an X for each value."""
    found, skipped = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            found.append((node.lineno, text))
            skipped |= {id(part) for part in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            found.append((node.lineno, node.value))
    return found


def test_the_python_layer_names_no_options() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name in _ELSEWHERE or name.split("/")[0] in _ELSEWHERE:
            continue
        wrong += [
            f"{name}:{line}: {text}"
            for line, text in _texts(ast.parse(path.read_text(encoding="utf-8")))
            if re.search(r"(?<![\w-])--[a-z]", text) and not _WHOLE_COMMAND.search(text)
        ]
    assert not wrong
