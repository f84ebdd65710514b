"""Commands that fetch pretrained weights."""

from __future__ import annotations

from pathlib import Path

import click

from genretree.cli.output import echo


@click.group()
def weights() -> None:
    """Fetch pretrained weights; nothing is ever downloaded without this being asked for."""


@weights.command()
@click.argument("name", type=click.Choice(["musicnn"]))
@click.option("--file", "wheel", type=click.Path(path_type=Path), help="The wheel musicnn-0.1.0, fetched elsewhere.")
def get(name: str, wheel: Path | None) -> None:
    """Put the weights NAME into the user's cache folder ($GENRETREE_CACHE, if that is set).

    musicnn: the MusiCNN networks of Pons and Serra (ISC licence), 30 MB, by pip with its usual settings.
    """
    from genretree.models.musicnn_weights import get_musicnn

    for path in get_musicnn(wheel):
        echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    echo("Next: genretree predict song.mp3, or: genretree train STORE --model musicnn --out BUNDLE")
