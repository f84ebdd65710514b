"""The commands `models`, `models get` and `models make`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.options import FOLDER, quiet_option
from genretree.cli.output import echo, echo_json

if TYPE_CHECKING:
    from genretree.bundle.ready import ReadyModel


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print all details as JSON.")
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the ready models: what each is right for, its accuracy, and whether it is on this machine.

    Commands that read a bundle, such as predict, explain, evaluate, serve and library analyse, take zoo:NAME in its
    place. Nothing is downloaded.
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json is for the list; put it after '{ctx.invoked_subcommand}'")
        return
    from genretree.bundle.ready import read_catalogue

    listed = [_describe(model) for model in read_catalogue().models.values()]
    if as_json:
        echo_json(listed, indent=1)
        return
    from genretree.cli.tables import show_models

    show_models(listed)


@models.command()
@click.argument("name")
@click.option(
    "--from", "source", type=FOLDER, metavar="FOLDER", help="A copy of the published bundle, instead of the Hub."
)
@click.option("--json", "as_json", is_flag=True, help="Print name, digest and folder as JSON.")
@quiet_option
def get(name: str, source: Path | None, as_json: bool, quiet: bool) -> None:
    """Download the published bundle of the model NAME into the cache, by its pinned commit and digest."""
    from genretree.bundle.hub.ready import get_model

    local = get_model(name, source=source, progress=not quiet)
    _report(name, local.folder, as_json)


@models.command()
@click.argument("name")
@click.option("--overwrite", is_flag=True, help="Train again if the model was made before.")
@click.option("--json", "as_json", is_flag=True, help="Print name, digest and folder as JSON.")
@quiet_option
def make(name: str, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Make the model NAME on this machine, in the cache: compose, prepare, train and evaluate.

    After an interruption the same command continues. The model gets a model card and a report. A bundle records when
    and where it was made, so its digest differs from that of a published one.
    """
    from genretree.cli.make_model import make_model

    folder = make_model(name, overwrite=overwrite, progress=not quiet, show=lambda text: echo(text, err=as_json))
    _report(name, folder, as_json)
    if not as_json:
        echo("It was made here: its digest differs from that of a published bundle.")


def _describe(model: ReadyModel) -> dict[str, Any]:
    """Return all fields of a model as JSON types, with its state on this machine."""
    from genretree.bundle.hub.ready import find_local_model
    from genretree.bundle.ready import read_catalogue
    from genretree.errors import BundleError

    local, problem = None, None
    try:
        local = find_local_model(model)
    except BundleError as error:  # damaged: the other models are listed nevertheless
        problem = str(error)
    missing = "not on this machine" if model.is_published else "not published"
    corpus = None if model.train is None else read_catalogue().corpora[model.train.corpus].model_dump(mode="json")
    return {
        **model.model_dump(mode="json"),
        "data": corpus,
        "state": missing if local is None else "ready",
        "origin": None if local is None else local.origin,
        "folder": None if local is None else str(local.folder),
        "problem": problem,
        "command": f"genretree models {'get' if model.is_published else 'make'} {model.name}",
    }


def _report(name: str, folder: Path, as_json: bool) -> None:
    from genretree.bundle.manifest import read_description

    digest = read_description(folder)["sha256"]
    if as_json:
        echo_json({"name": name, "digest": digest, "folder": str(folder)})
        return
    echo(f"{folder}\ndigest {digest}")
    echo(f"Next: genretree predict zoo:{name} song.mp3")
