"""The commands `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genretree.cli.options import FOLDER, quiet_option, require_folder
from genretree.cli.output import echo, echo_json

if TYPE_CHECKING:
    from genretree.bundle.hub.upload import Outgoing


@click.command()
@click.argument("name", metavar="USER/NAME[@REVISION]")
@click.option("--revision", help="Branch, tag or commit hash.  [default: main]")
@click.option("--to", type=FOLDER, help="Also copy the bundle to this folder, which must not exist.")
@click.option("--json", "as_json", is_flag=True, help="Print name, commit and folder as JSON.")
@quiet_option
def pull(name: str, revision: str | None, to: Path | None, as_json: bool, quiet: bool) -> None:
    """Download a bundle from the Hugging Face Hub into the cache and verify it.

    Then predict, explain, evaluate, info, serve and library accept USER/NAME without requests to the Hub. The name
    stays at this commit until you pull it again; USER/NAME@COMMIT always refers to the same bytes.
    """
    from genretree.bundle.hub import pull as pull_bundle

    pulled = pull_bundle(name, revision=revision, to=to, progress=not quiet)
    if as_json:
        content = {"name": str(pulled.name), "commit": pulled.commit, "folder": str(pulled.folder.absolute())}
        echo_json(content)
        return
    echo(f"{pulled.pinned}: {pulled.folder}")
    echo(f"Next: genretree predict {pulled.name if to is None else to} song.mp3")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("name", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Create a private repository.")
@click.option("--revision", help="Branch to push to, created if necessary.  [default: main]")
@click.option("--message", help="Commit message.")
@click.option("--report", type=FOLDER, help="Report of `genretree evaluate` for BUNDLE, for the model card.")
@click.option("--license", "licence", metavar="ID", help="The Hub's licence identifier, such as cc-by-4.0 or mit.")
@click.option("--data", metavar="TEXT", help="Description of the training data for the model card.")
@click.option("--with-index", is_flag=True, help="Include the index, which contains track names.")
@click.option("--keep-card", is_flag=True, help="Keep an existing model card.")
@click.option("--dry-run", is_flag=True, help="Print the files and the model card without sending anything.")
@click.option("--json", "as_json", is_flag=True, help="Print name, commit and URL as JSON.")
def push(
    bundle: Path,
    name: str,
    private: bool,
    revision: str | None,
    message: str | None,
    report: Path | None,
    licence: str | None,
    data: str | None,
    with_index: bool,
    keep_card: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Push BUNDLE to the Hugging Face Hub with a generated model card; log in first: hf auth login.

    Only arrays and text are uploaded. Exports, the index and local folder names are left out.
    """
    from genretree.bundle.hub import push as push_bundle
    from genretree.bundle.hub.card import CardInfo
    from genretree.bundle.hub.upload import staged

    require_folder(bundle)
    card_info = CardInfo(report=report, license=licence, data=data)
    if dry_run:
        with staged(bundle, name, revision, card_info, with_index) as outgoing:
            _show(outgoing)
        return
    pushed = push_bundle(
        bundle,
        name,
        private=private,
        revision=revision,
        message=message,
        card_info=card_info,
        with_index=with_index,
        keep_card=keep_card,
    )
    if as_json:
        echo_json({"name": str(pushed.name), "commit": pushed.commit, "url": pushed.url})
        return
    echo(f"{pushed.pinned}: {pushed.url}")
    if report is None:
        echo("The model card has no metrics; add them with --report REPORT (from genretree evaluate).")


def _show(outgoing: Outgoing) -> None:
    for file, path in sorted(outgoing.files.items()):
        echo(f"{path.stat().st_size / 1e6:9.3f} MB  {file}")
    echo(f"{outgoing.size / 1e6:9.3f} MB  in total for {outgoing.name}; nothing was sent\n")
    echo(outgoing.card)
