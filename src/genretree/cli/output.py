"""What the command line prints: text in which no name can control the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from genretree.files import json_line, printable, printable_text

if TYPE_CHECKING:
    from genretree._predict import PredictionError
    from genretree.corpus.manifest import Failure
    from genretree.sound.walk import Skipped

RESUME_WITH = "genretree.cli.resume_with"  # in a context's `meta`: words that the command needs to be resumed
_MAX_FAILURES = 20  # lines on the terminal


def echo(text: str = "", err: bool = False) -> None:
    """Print text with control characters escaped, as file names, tags and messages from elsewhere may hold them."""
    click.echo(printable_text(text), err=err)


class SafeOutput:
    """Standard output to write a table to, with control characters escaped as `echo` does."""

    def write(self, text: str) -> int:
        """Print some text without adding a line feed."""
        click.echo(printable_text(text), nl=False)
        return len(text)


def echo_json(content: object, indent: int | None = None) -> None:
    """Print a JSON document."""
    click.echo(json_line(content, indent))


def echo_failures(failures: Sequence[Failure | PredictionError], all_in: str) -> None:
    """Print the first failures on standard error, and how many there are of each kind if these are not all.

    Parameters
    ----------
    failures : sequence of Failure or PredictionError
    all_in : str
        Where all of them are listed.
    """
    for failure in failures[:_MAX_FAILURES]:
        echo(f"failed ({failure.kind}): {printable(failure.message)}", err=True)  # on one line
    if len(failures) > _MAX_FAILURES:
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(item.kind for item in failures).most_common())
        left = len(failures) - _MAX_FAILURES
        echo(f"... and {left} more: {len(failures)} failed in all ({kinds}); {all_in} lists them", err=True)


def echo_skipped(skipped: Skipped) -> None:
    """Print on standard error what a walk through folders passed over, in one line, if there is anything."""
    if str(skipped):
        echo(f"Skipped {skipped}.", err=True)
