"""The commands `weights list` and `weights get`."""

from __future__ import annotations

from pathlib import Path

import click

from genretree.cli.output import echo, echo_json


@click.group()
def weights() -> None:
    """List pretrained weights and download them."""


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print all details as JSON.")
def list_weights(as_json: bool) -> None:
    """List the sources of pretrained weights: licence, size, pinned hash or revision. Nothing is downloaded."""
    from genretree.models.pretrained.sources import SOURCES

    if as_json:
        echo_json([source.describe() for source in SOURCES], indent=1)
        return
    from genretree.cli.tables import show_weights

    show_weights(SOURCES)


@weights.command()
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="A local copy of the published file: musicnn's wheel, or the .pth or .pt file.",
)
def get(name: str, file: Path | None) -> None:
    """Download the weights NAME into the cache ($GENRETREE_CACHE, or the user's cache folder) and verify them.

    NAME is listed by `genretree weights list`, or is any USER/NAME or USER/NAME@REVISION on the Hugging Face Hub, which
    uses its own cache. musicnn (30 MB) is downloaded with pip and its default settings.

    A backbone is clap, maest, ast-audioset, or hf://USER/NAME@REVISION. Its licence is shown first.
    """
    from genretree.models.pretrained.backbone_checkpoints import is_checkpoint_name
    from genretree.models.pretrained.download import get_weights
    from genretree.models.pretrained.sources import MN04, MUSICNN, find_source

    for path in get_weights(name, file, show=lambda plan: echo(plan.text)):
        echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if is_checkpoint_name(name):
        echo(f"Next: genretree train STORE --backbone {name} --out BUNDLE")
        return
    if name == MUSICNN:
        echo("Next: genretree train STORE --model musicnn --out BUNDLE")
        return
    if name == MN04:
        echo("Next: genretree predict song.mp3")
        return
    source = find_source(name.partition("@")[0])
    family = source.families[0] if source is not None else "FAMILY"
    echo(f"Next: genretree train STORE --model {family} --weights {name} --out BUNDLE")
