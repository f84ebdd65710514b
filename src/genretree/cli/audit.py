"""The command audit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genretree.cli.options import FOLDER, OUT_FOLDER, quiet_option
from genretree.cli.output import echo, echo_json

if TYPE_CHECKING:
    from rich.console import Console

    from genretree.audit.findings import Audit, Finding, LabelIssue

_ROWS = 20  # of each table on the terminal


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--split", "split_name", default="default", show_default=True, help="Which of the store's splits.")
@click.option("--labels", is_flag=True, help="Also look for doubtful labels (20 ms a slice, once).")
@click.option("--out", type=OUT_FOLDER, help="Folder for the files and the page.  [default: STORE/audit]")
@click.option("--seed", default=0, show_default=True, help="Of the folds that labels are checked by.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if anything leaks or contradicts itself.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@quiet_option
def audit(
    store: Path, split_name: str, labels: bool, out: Path | None, seed: int, strict: bool, as_json: bool, quiet: bool
) -> None:
    """Find what makes figures on STORE untrustworthy: copies, leaks, contradictory and likely wrong labels.

    Copies are found by file, by pixels, by look and by sound, also of other encoding, level or beginning. Nothing in
    the store is changed.
    """
    from genretree.audit import audit as examine
    from genretree.audit.findings import COPIES
    from genretree.audit.page import save_audit
    from genretree.corpus.store import Store
    from genretree.parallel import command_line

    opened = Store(store)
    found = examine(opened, split_name, labels=labels, seed=seed, progress=not quiet)
    page = save_audit(found, opened, out or store / "audit", command_line())
    if as_json:
        echo_json(found.to_json())
    else:
        _show(found)
        echo(f"Pictures and details: {page}")
        if any(item.leak for item in found.findings if item.kind in COPIES):
            echo(f"A split that keeps copies on one side: genretree split {store} --audit {page.with_suffix('.json')}")
    if strict and found.failed:
        sys.exit(1)


def _show(found: Audit) -> None:
    from rich.markup import escape

    from genretree.audit.findings import COPIES
    from genretree.cli.tables import make_console

    console = make_console()
    console.print(
        f"[bold]{escape(found.store)}[/]: {found.tracks} tracks, {found.slices} slices, split {found.split} "
        f"({escape(found.protocol)})"
    )
    if not found.findings:
        console.print("No copies, no leaks, no contradictions.")
    for item in found.findings:
        if item.kind not in COPIES and item.kind != "tree":
            console.print(f"{item.severity}: {escape(item.text)}.")
    broken = [item for item in found.findings if item.kind == "tree"]
    for item in broken[:_ROWS]:
        console.print(f"error: {escape(item.places[0].path)}: {escape(item.text)}.")
    _more(console, len(broken))
    _show_copies(console, [item for item in found.findings if item.kind in COPIES])
    if found.doubts is not None:
        _show_doubts(console, [doubt for doubt in found.doubts if doubt.flagged], len(found.doubts))


def _show_copies(console: Console, copies: Sequence[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not copies:
        return
    leaking, conflicting = sum(item.leak for item in copies), sum(item.conflict for item in copies)
    counts = f"{leaking} on two sides of the split, {conflicting} with different labels"
    table = Table(title=f"{len(copies)} pairs of copies, {counts}", title_justify="left")
    for column in ("kind", "first", "second", "what"):
        table.add_column(column, overflow="fold")
    for item in copies[:_ROWS]:
        marks = [word for word, on in (("leak", item.leak), ("labels differ", item.conflict)) if on]
        sides = [f"{place.path}\n{place.genre}, {place.part or 'several parts'}" for place in item.places]
        table.add_row(item.kind, *(escape(side) for side in sides), escape("\n".join([item.text, *marks])))
    console.print(table)
    _more(console, len(copies))


def _show_doubts(console: Console, flagged: Sequence[LabelIssue], n: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{len(flagged)} of {n} labels are doubtful; listen before you change any")
    table.title_justify = "left"
    for column in ("track", "label", "suggested", "p", "p suggested"):
        table.add_column(column, overflow="fold")
    for doubt in flagged[:_ROWS]:
        shares = (f"{doubt.probability:.2f}", f"{doubt.suggested_probability:.2f}")
        table.add_row(escape(doubt.path), escape(doubt.genre), escape(doubt.suggested), *shares)
    console.print(table)
    _more(console, len(flagged), "labels.csv")


def _more(console: Console, n: int, file: str = "audit.json") -> None:
    if n > _ROWS:
        console.print(f"[dim]{n - _ROWS} more in {file}[/]")
