"""The command line `genretree`: a thin command for each stage."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
import threading
from typing import Any

import click

from genretree.cli import (
    audit,
    data,
    explain,
    hub,
    learn,
    library,
    library_repair,
    models,
    serve,
    similar,
    use,
    validate,
    vocabulary,
    weights,
)
from genretree.cli.arguments import show_options
from genretree.cli.output import RESUME_WITH
from genretree.errors import GenretreeError
from genretree.files import printable, printable_text
from genretree.parallel import command_line

_COMMANDS = (
    learn.quickstart,
    data.compose,
    data.prepare,
    data.split,
    audit.audit,
    learn.pretrain,
    learn.train,
    learn.evaluate,
    learn.compare,
    validate.cross_validate,
    validate.learning_curve,
    learn.recipes,
    use.predict,
    vocabulary.vocabulary,
    similar.embed,
    similar.similar,
    explain.explain,
    explain.index,
    library.library,
    serve.serve,
    use.export,
    use.info,
    models.models,
    hub.pull,
    hub.push,
    weights.weights,
)


# Commands that save finished work and continue from there.
_RESUMABLE = (
    "prepare",
    "pretrain",
    "train",
    "compare",
    "cross-validate",
    "learning-curve",
    "quickstart",
    "pull",
    "embed",
    "similar",
)
_RESUMABLE_SUBCOMMANDS = {"library": ("analyse", "apply", "undo", "clean"), "models": ("get", "make")}

_WORDS = "genretree.cli.words"  # the command line, in the context's `meta`

_WITH_OWN_SIGNALS = "serve"


class _Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, to end a command in the same way as Ctrl-C."""


def _stop_on_sigterm() -> None:
    """Let SIGTERM unwind the main thread; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        return

    def terminate(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)


def _write_utf8_on_windows() -> None:
    """Write UTF-8 to pipes and files, for which Windows chooses an encoding that lacks most of the world's letters."""
    if os.name != "nt" or "PYTHONIOENCODING" in os.environ:
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8")


def _resume_hint(ctx: click.Context) -> str:
    """State what an interruption left, and the command that continues, quoted for a shell."""
    command, words = ctx.invoked_subcommand, ctx.meta[_WORDS]
    resumable = command in _RESUMABLE or bool({*_RESUMABLE_SUBCOMMANDS.get(command or "", ())} & {*words[1:2]})
    if resumable:
        # --restart would discard the finished work.
        again = [*(word for word in words if word != "--restart"), *ctx.meta.get(RESUME_WITH, ())]
        return f"What was finished is saved; continue with: {command_line(again)}"
    return f"Nothing was left half-written; start over with: {command_line(words)}"


class _Group(click.Group):
    """Shows a GenretreeError as one line instead of a traceback."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **options: Any) -> click.Context:
        words = tuple(args)  # the parser empties the list
        try:
            ctx = super().make_context(info_name, args, *more, **options)
        except click.ClickException as error:
            error.message = printable_text(error.message)  # type: ignore[misc]  # it may quote an argument
            raise
        ctx.meta[_WORDS] = words
        return ctx

    def _invoked(self, ctx: click.Context) -> click.Command:
        """Return the invoked command, below any groups."""
        command: click.Command = self
        for word in ctx.meta[_WORDS]:
            if isinstance(command, click.Group):
                command = command.commands.get(word, command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
        except KeyboardInterrupt as error:
            if ctx.invoked_subcommand == _WITH_OWN_SIGNALS:
                raise
            terminated = isinstance(error, _Terminated)
            click.echo(f"\n{'Terminated' if terminated else 'Interrupted'}. {_resume_hint(ctx)}", err=True)
            # The exit status that a shell reports for a process ended by a signal.
            ctx.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
        except click.ClickException as error:
            error.message = printable_text(error.message)  # type: ignore[misc]  # it may name a file
            raise
        except GenretreeError as error:
            raise click.ClickException(printable_text(show_options(str(error), self._invoked(ctx)))) from error
        except OSError as error:
            where = f"{printable(error.filename)}: " if error.filename else ""
            raise click.ClickException(printable_text(f"{where}{error.strerror or error}")) from error
        # Python's last search for garbage visits every object of every library: an eighth of a short command's time.
        # After an error it must run, since the error's traceback may keep objects that have to be closed.
        atexit.register(gc.freeze)
        return result


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="genretree")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Hierarchical music genre classification from spectrogram images.

    \b
    Typical use:  genretree prepare MUSIC STORE
                  genretree train STORE --model cnn --out BUNDLE
                  genretree evaluate BUNDLE STORE --out REPORT
                  genretree predict BUNDLE song.mp3
    """  # noqa: D301
    # Waiting threads should sleep: on a machine under other load, threads that spin take time from those that work.
    # The OpenMP runtimes of torch and scikit-learn read this variable when they are first loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _write_utf8_on_windows()
    if ctx.invoked_subcommand != _WITH_OWN_SIGNALS:
        _stop_on_sigterm()


for _command in (library_repair.clean, library_repair.move, library_repair.rescue):
    library.library.add_command(_command)
for _command in _COMMANDS:
    main.add_command(_command)
