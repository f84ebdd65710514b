"""The commands push and pull."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genretree.cli.options import FOLDER, quiet_option
from genretree.cli.output import echo, echo_json

if TYPE_CHECKING:
    from genretree.bundle.hub.upload import Outgoing


@click.command()
@click.argument("name", metavar="USER/NAME[@REVISION]")
@click.option("--revision", help="A branch, a tag or a commit's hash.  [default: main]")
@click.option("--to", type=FOLDER, help="A folder to make.  [default: the user's cache, where the name finds it]")
@click.option("--json", "as_json", is_flag=True, help="Print name, commit and folder as JSON.")
@quiet_option
def pull(name: str, revision: str | None, to: Path | None, as_json: bool, quiet: bool) -> None:
    """Get a bundle from the Hugging Face Hub, check it, and keep it under its name.

    Afterwards predict, explain, evaluate, info, serve and library take USER/NAME for it, without asking the Hub
    anything: it stays the commit that was pulled until it is pulled again. USER/NAME@COMMIT means the same bytes for
    good.
    """
    from genretree.bundle.hub import pull as pull_bundle

    found = pull_bundle(name, revision=revision, to=to, progress=not quiet)
    if as_json:
        content = {"name": str(found.name), "commit": found.commit, "folder": str(found.folder.absolute())}
        echo_json(content)
        return
    echo(f"{found.pinned}: {found.folder}")
    echo(f"Next: genretree predict {found.name if to is None else to} song.mp3")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("name", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Only you (and your organisation) may see it.")
@click.option("--revision", help="The branch to push to; it is made if need be.  [default: main]")
@click.option("--message", help="Of the commit.")
@click.option("--report", type=FOLDER, help="What `genretree evaluate` wrote about BUNDLE: the figures of the card.")
@click.option("--license", "licence", metavar="ID", help="By the Hub's short names: cc-by-4.0, mit ...")
@click.option("--data", metavar="TEXT", help="What it was learned from, in a sentence, for the card.")
@click.option("--with-index", is_flag=True, help="Also the index, which names the tracks it was made of.")
@click.option("--keep-card", is_flag=True, help="Leave the card as it is on the Hub, if there is one.")
@click.option("--dry-run", is_flag=True, help="Only show the files and the card.")
@click.option("--json", "as_json", is_flag=True, help="Print name, commit and page as JSON.")
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
    """Put BUNDLE on the Hugging Face Hub (once before that: hf auth login), with a model card written from it.

    Only arrays, text and scikit-learn models by their parts go up. Exports and the index stay here, and so do the
    folders of this disk that the bundle notes.
    """
    from genretree.bundle.hub import push as push_bundle
    from genretree.bundle.hub.card import CardInfo
    from genretree.bundle.hub.upload import laid_out

    card_info = CardInfo(report=report, license=licence, data=data)
    if dry_run:
        with laid_out(bundle, name, revision, card_info, with_index) as outgoing:
            _show(outgoing)
        return
    done = push_bundle(
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
        echo_json({"name": str(done.name), "commit": done.commit, "url": done.url})
        return
    echo(f"{done.pinned}: {done.url}")
    if report is None:
        echo("Its card has no figures; with --report REPORT (of genretree evaluate) it gets them.")


def _show(outgoing: Outgoing) -> None:
    for file, path in sorted(outgoing.files.items()):
        echo(f"{path.stat().st_size / 1e6:9.3f} MB  {file}")
    echo(f"{outgoing.size / 1e6:9.3f} MB  in all, to {outgoing.name}; nothing was sent\n")
    echo(outgoing.card)
