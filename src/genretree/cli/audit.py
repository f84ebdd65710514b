"""The command `audit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genretree.cli.options import FOLDER, OUT_FOLDER, quiet_option
from genretree.cli.output import echo, echo_json
from genretree.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from genretree.audit.findings import Audit, Finding, LabelIssue
    from genretree.audit.shortcuts import ShortcutAudit
    from genretree.bundle.bundle import Bundle
    from genretree.corpus.store import Store

_ROWS = 20  # per table on the terminal


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--split", "split_name", default="default", show_default=True, help="Split of the store to audit.")
@click.option("--labels", is_flag=True, help="Also look for label errors (20 ms per slice on the first run).")
@click.option("--shortcuts", is_flag=True, help="Also test how far cues other than music go, and who is in each class.")
@click.option("--bundle", type=FOLDER, help="With --shortcuts: a bundle whose predictions are tested without cues.")
@click.option("--out", type=OUT_FOLDER, help="Output folder.  [default: STORE/audit]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed for the folds of --labels and --shortcuts.",
)
@click.option("--strict", is_flag=True, help="Exit with status 1 on leakage or contradictory labels.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@quiet_option
def audit(
    store: Path,
    split_name: str,
    labels: bool,
    shortcuts: bool,
    bundle: Path | None,
    out: Path | None,
    seed: int,
    strict: bool,
    as_json: bool,
    quiet: bool,
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

    if bundle is not None and not shortcuts:
        raise SettingsError("--bundle is used by --shortcuts only; add --shortcuts, or leave it out")
    opened = Store(store)
    loaded = None
    if bundle is not None:
        from genretree.bundle.bundle import load_bundle
        from genretree.evaluation.evaluate import check_images, match_leaves

        loaded = load_bundle(bundle)
        check_images(loaded, opened)
        match_leaves(loaded.taxonomy, opened)
    result = run_audit(opened, split_name, labels=labels, seed=seed, progress=not quiet)
    page = save_audit(result, opened, out or store / "audit", command_line())
    found = None
    if shortcuts:
        found, shortcut_page = _audit_shortcuts(opened, loaded, out or store / "audit", seed, not quiet)
    if as_json:
        echo_json(result.to_json() | ({} if found is None else {"shortcuts": found.to_json()}))
    else:
        _show(result)
        if found is not None:
            show_shortcuts(found)
            echo(f"Page of the shortcuts: {shortcut_page}")
        echo(f"Page with pictures: {page}")
        if any(item.leak for item in result.findings if item.kind in COPIES):
            echo(
                f"To keep copies in one part of the split: genretree split {store} --audit {page.with_suffix('.json')}"
            )
    if strict and result.failed:
        sys.exit(1)


def _audit_shortcuts(
    store: Store, bundle: Bundle | None, out: Path, seed: int, progress: bool
) -> tuple[ShortcutAudit, Path]:
    from genretree.audit.shortcut_page import save_shortcuts
    from genretree.audit.shortcuts import audit_shortcuts
    from genretree.parallel import command_line

    result = audit_shortcuts(store, bundle, seed=seed, progress=progress)
    return result, save_shortcuts(result, out, command_line())


def show_shortcuts(result: ShortcutAudit) -> None:
    """Print the tables and the verdict of a shortcut audit."""
    from rich.markup import escape
    from rich.table import Table

    from genretree.cli.tables import make_console

    console = make_console()
    table = Table(title=f"cues without music, on unseen groups ({result.group_by})", title_justify="left")
    for column in ("cue", "from", "mean recall in %", "chance", "p", "best separated class"):
        table.add_column(column, overflow="fold")
    for cue in result.cues:
        best = max(cue.separation)
        leaf = result.leaves[cue.separation.index(best)]
        numbers = (f"{100 * cue.accuracy:.1f}", f"{100 * cue.chance:.1f}")
        p_value = "" if cue.name == "music" else f"{cue.p_value:.3f}"
        table.add_row(cue.description, cue.source, *numbers, p_value, escape(f"{leaf} ({best:.1f})"))
    console.print(table)
    table = Table(title="artists and albums by class", title_justify="left")
    for column in ("class", "tracks", "artists", "effective", "albums", "largest artist", "nearest is same artist"):
        table.add_column(column, overflow="fold")
    for item in result.classes:
        same = "-" if item.same_artist is None else f"{item.same_artist:.0%} (chance {item.same_artist_chance:.0%})"
        counts = (str(item.tracks), str(item.artists), f"{item.effective_artists:.1f}", str(item.albums or "-"))
        table.add_row(escape(item.name), *counts, escape(f"{item.largest} ({item.largest_share:.0%})"), same)
    console.print(table)
    if result.neutralised:
        table = Table(title="recall in % before and after a cue is neutralised", title_justify="left")
        table.add_column("class")
        cues = list(dict.fromkeys(item.cue for item in result.neutralised))
        for column in ("tracks", "before", *cues):
            table.add_column(column, justify="right")
        for leaf in dict.fromkeys(item.leaf for item in result.neutralised):
            items = [item for item in result.neutralised if item.leaf == leaf]
            after = (f"{100 * item.neutralised_recall:.0f}" for item in items)
            table.add_row(escape(leaf), str(items[0].tracks), f"{100 * items[0].recall:.0f}", *after)
        console.print(table)
    for text in [item.text for item in result.shortcuts] + [item.text for item in result.dependences]:
        console.print(f"warning: {escape(text)}.")
    for note in result.notes:
        console.print(f"note: {escape(note)}.")
    console.print(escape(result.verdict))


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
