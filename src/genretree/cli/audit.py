"""The command `audit`."""

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

_ROWS = 20  # per table on the terminal


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--split", "split_name", default="default", show_default=True, help="Split of the store to audit.")
@click.option("--labels", is_flag=True, help="Also look for label errors (20 ms per slice on the first run).")
@click.option("--out", type=OUT_FOLDER, help="Output folder.  [default: STORE/audit]")
@click.option("--seed", default=0, show_default=True, help="Seed for the cross-validation folds of --labels.")
@click.option("--strict", is_flag=True, help="Exit with status 1 on leakage or contradictory labels.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@quiet_option
def audit(
    store: Path, split_name: str, labels: bool, out: Path | None, seed: int, strict: bool, as_json: bool, quiet: bool
) -> None:
    """Find duplicates, leakage between parts of the split, contradictory labels and likely label errors in STORE.

    Copies are found by file, by pixels and by recording, even with another encoding, level or start. The store is not
    changed.
    """
    from genretree.audit import audit as run_audit
    from genretree.audit.findings import COPIES
    from genretree.audit.page import save_audit
    from genretree.corpus.store import Store
    from genretree.parallel import command_line

    opened = Store(store)
    result = run_audit(opened, split_name, labels=labels, seed=seed, progress=not quiet)
    page = save_audit(result, opened, out or store / "audit", command_line())
    if as_json:
        echo_json(result.to_json())
    else:
        _show(result)
        echo(f"Page with pictures: {page}")
        if any(item.leak for item in result.findings if item.kind in COPIES):
            echo(
                f"To keep copies in one part of the split: genretree split {store} --audit {page.with_suffix('.json')}"
            )
    if strict and result.failed:
        sys.exit(1)


def _show(result: Audit) -> None:
    from rich.markup import escape

    from genretree.audit.findings import COPIES
    from genretree.cli.tables import make_console

    console = make_console()
    console.print(
        f"[bold]{escape(result.store)}[/]: {result.tracks} tracks, {result.slices} slices, split {result.split} "
        f"({escape(result.protocol)})"
    )
    if not result.findings:
        console.print("No copies, no leakage, no contradictory labels.")
    for item in result.findings:
        if item.kind not in COPIES and item.kind != "tree":
            console.print(f"{item.severity}: {escape(item.text)}.")
    broken = [item for item in result.findings if item.kind == "tree"]
    for item in broken[:_ROWS]:
        console.print(f"error: {escape(item.places[0].path)}: {escape(item.text)}.")
    _more(console, len(broken))
    _show_copies(console, [item for item in result.findings if item.kind in COPIES])
    if result.doubts is not None:
        _show_doubts(console, [doubt for doubt in result.doubts if doubt.flagged], len(result.doubts))


def _show_copies(console: Console, copies: Sequence[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not copies:
        return
    leaking, conflicting = sum(item.leak for item in copies), sum(item.conflict for item in copies)
    counts = f"{leaking} across parts of the split, {conflicting} with different labels"
    table = Table(title=f"{len(copies)} pairs of copies, {counts}", title_justify="left")
    for column in ("kind", "first", "second", "details"):
        table.add_column(column, overflow="fold")
    for item in copies[:_ROWS]:
        notes = [word for word, on in (("leak", item.leak), ("labels differ", item.conflict)) if on]
        sides = [f"{place.path}\n{place.genre}, {place.part or 'several parts'}" for place in item.places]
        table.add_row(item.kind, *(escape(side) for side in sides), escape("\n".join([item.text, *notes])))
    console.print(table)
    _more(console, len(copies))


def _show_doubts(console: Console, flagged: Sequence[LabelIssue], n: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{len(flagged)} of {n} labels are doubtful; listen before changing any")
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
