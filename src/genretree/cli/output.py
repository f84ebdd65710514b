"""Terminal output with control characters escaped, JSON output, and lists of failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from genretree.cli.arguments import show_current_options
from genretree.files import json_line, printable, printable_text

if TYPE_CHECKING:
    from genretree.corpus.manifest import Failure
    from genretree.prediction.predict import PredictionError
    from genretree.sound.walk import Skipped

RESUME_WITH = "genretree.cli.resume_with"  # in a context's `meta`: further arguments that resuming the command needs
_MAX_FAILURES = 20  # printed on the terminal


def echo(text: str = "", err: bool = False) -> None:
    """Print text with control characters escaped, which file names and tags may contain."""
    click.echo(printable_text(text), err=err)


class SafeOutput:
    """Standard output as a text stream, with control characters escaped."""

    def write(self, text: str) -> int:
        """Print text without adding a line feed."""
        click.echo(printable_text(text), nl=False)
        return len(text)


def echo_json(content: object, indent: int | None = None) -> None:
    """Print a JSON document."""
    click.echo(json_line(content, indent))


def echo_failures(failures: Sequence[Failure | PredictionError], all_in: str) -> None:
    """Print the first failures on standard error and, if there are more, the number of each kind.

    Parameters
    ----------
    failures : sequence of Failure or PredictionError
    all_in : str
        Command or option that lists all of them.
    """
    for failure in failures[:_MAX_FAILURES]:
        message = show_current_options(failure.message)
        echo(f"failed ({failure.kind}): {printable(message)}", err=True)  # on one line
    if len(failures) > _MAX_FAILURES:
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(item.kind for item in failures).most_common())
        left = len(failures) - _MAX_FAILURES
        echo(f"... and {left} more: {len(failures)} failed in all ({kinds}); {all_in} lists them", err=True)


def echo_skipped(skipped: Skipped) -> None:
    """Print what a search of folders skipped, if anything, in one line on standard error."""
    if str(skipped):
        echo(f"Skipped {skipped}.", err=True)
