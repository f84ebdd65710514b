"""What the command line prints: text in which no name can control the terminal."""

from __future__ import annotations

import click

from genretree.files import json_line, printable_text


def echo(text: str = "", err: bool = False) -> None:
    """Print text with control characters escaped, as file names, tags and messages from elsewhere may hold them."""
    click.echo(printable_text(text), err=err)


def echo_json(content: object, indent: int | None = None) -> None:
    """Print a JSON document."""
    click.echo(json_line(content, indent))
