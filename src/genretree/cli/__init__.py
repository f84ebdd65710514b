"""The command `genretree`: one thin command for each stage."""

from __future__ import annotations

import os
from typing import Any

import click

from genretree.cli import audit, data, explain, hub, learn, library, serve, use, weights
from genretree.errors import GenretreeError
from genretree.files import printable, printable_text

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
    learn.recipes,
    use.predict,
    explain.explain,
    explain.index,
    library.library,
    serve.serve,
    use.export,
    use.info,
    hub.pull,
    hub.push,
    weights.weights,
)


class _Group(click.Group):
    """Shows genretree's own errors as one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable_text(error.message)  # type: ignore[misc]  # it may name a file
            raise
        except GenretreeError as error:
            raise click.ClickException(printable_text(str(error))) from error
        except OSError as error:
            where = f"{printable(error.filename)}: " if error.filename else ""
            raise click.ClickException(printable_text(f"{where}{error.strerror or error}")) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="genretree")
def main() -> None:
    """Learn a tree of music genres from spectrogram images, and name any audio file's path in it.

    \b
    The main job:  genretree prepare MUSIC STORE
                   genretree train STORE --model cnn --out BUNDLE
                   genretree evaluate BUNDLE STORE --out REPORT
                   genretree predict BUNDLE song.mp3
    """  # noqa: D301
    # Threads that wait for work should sleep: on a machine that does other things too, waiting threads that spin take
    # the time of those that work. The OpenMP runtimes of torch and scikit-learn read this when they are first loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for _command in _COMMANDS:
    main.add_command(_command)
