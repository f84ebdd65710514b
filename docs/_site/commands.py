"""The directive `commands`: every command's help as it is printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_WIDTH = 86


class Commands(SphinxDirective):
    """A section for each command of genretree, and for each one below it."""

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        from genretree.cli import main

        return [self._describe(path, command) for path, command in _walk(main, "genretree")]

    def _describe(self, path: str, command: click.Command) -> nodes.Node:
        context = click.Context(command, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH)
        section = nodes.section(ids=[path.replace(" ", "-")], names=[path])
        section += nodes.title(text=path)
        text = command.get_help(context)
        section += nodes.literal_block(text, text, language="none")
        return section


def _walk(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _walk(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
