"""Notebooks as pages: their text is MyST, their code and its output stand below each other. Nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx


class NotebookParser(MystParser):
    """Reads .ipynb files."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Turn the cells into Markdown and read that."""
        cells = json.loads(inputstring)["cells"]
        super().parse("\n\n".join(part for cell in cells for part in _write_cell(cell)), document)


def _write_cell(cell: dict[str, Any]) -> Iterator[str]:
    source = _join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield _fence("python", source)
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield _fence("text", _join(output["text"]))
            continue
        found = output.get("data", {})
        if "image/png" in found:
            yield f"![{_alternative(cell)}](data:image/png;base64,{_join(found['image/png']).replace(chr(10), '')})"
        elif "text/plain" in found:
            yield _fence("text", _join(found["text/plain"]))


def _alternative(cell: dict[str, Any]) -> str:
    """Say what a picture shows: the first line of its cell, which is a comment."""
    return _join(cell["source"]).splitlines()[0].lstrip("# ").rstrip(".")


def _join(text: str | list[str]) -> str:
    return (text if isinstance(text, str) else "".join(text)).rstrip("\n")


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parser."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True}
