"""The command `vocabulary`: which tags indicate which genres of a tree, and bundles that need no training."""

from __future__ import annotations

from pathlib import Path

import click

from genretree.cli.options import FOLDER, vocabulary_option
from genretree.cli.output import echo, echo_json


@click.command()
@click.argument("tree", default="general")
@vocabulary_option
@click.option("--out", type=FOLDER, help="Write a bundle for TREE, which needs no training, to this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the matches as JSON.")
def vocabulary(tree: str, vocabulary: Path | None, out: Path | None, as_json: bool) -> None:
    """Show which tags of the audio tagger mn04 indicate which genres of TREE, and what no tag reaches.

    TREE is a YAML file, or general or ccmusic. Genres are matched by name: "Rap", "Hip-Hop" and "hip hop" are the same.
    With --out, a bundle is written that `predict`, `export`, `library` and `serve` take like a trained one.
    """
    from genretree.prediction.untrained import untrained_bundle
    from genretree.taxonomy import Taxonomy
    from genretree.vocabulary import Vocabulary, describe_unreached

    known = Vocabulary.load(vocabulary)
    match = known.match(Taxonomy.load(tree))
    if as_json:
        echo_json(
            [
                {
                    "node": list(node.node),
                    "concepts": list(node.concepts),
                    "tags": list(node.tags.get("mn04", ())),
                    "hints": list(node.hints),
                    "reached": node.reached,
                }
                for node in match.nodes
            ],
            indent=1,
        )
    else:
        from genretree.cli.tables import show_vocabulary

        show_vocabulary(match)
        if text := describe_unreached(match):
            echo(f"{text}; add names or tags with --vocabulary", err=True)
    if out is not None:
        from dataclasses import replace

        from genretree.bundle.bundle import save_bundle

        echo(f"{save_bundle(replace(untrained_bundle(tree, known), folder=out))}", err=as_json)
