"""`genretree library move` and `rescue`: a database that no longer fits its files, or is damaged."""

from __future__ import annotations

from pathlib import Path

import click

from genretree.cli.library import _database, _work_on
from genretree.cli.output import echo, echo_json


@click.command()
@click.argument("old")
@click.argument("new")
@_database
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def move(old: str, new: str, db: Path | None, as_json: bool) -> None:
    """Tell the database that the folder OLD was moved or renamed and is NEW now.

    No file is touched. Nothing has to be analysed again, and undo finds the files at their new paths.
    """
    from genretree.library.move import move_folder
    from genretree.library.state import back_up

    with _work_on(db, "library move") as state:
        back_up(state)
        moved = move_folder(state, old, new)
    if as_json:
        echo_json(vars(moved))
        return
    echo(
        f"{moved.files} files and {moved.changes} entries of the journal have new paths; {moved.known} files were "
        f"known there already, {moved.missing} are not there."
    )


@click.command()
@click.argument("damaged", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The new database.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def rescue(damaged: Path, out: Path, as_json: bool) -> None:
    """Save what can be read of the DAMAGED database into a new one, so that undo and analyse can go on with it.

    DAMAGED stays as it is.
    """
    from genretree.library.rescue import rescue as rescue_database
    from genretree.library.state import explained

    with explained(damaged):
        found = rescue_database(damaged, out)
    if as_json:
        echo_json({item.table: {**vars(item), "complete": item.complete} for item in found})
        return
    for item in found:
        lost = [
            f"{item.gaps} unreadable places (at most {item.between} rows)" if item.gaps else "",
            f"rows after number {item.end} can't be read" if item.end is not None else "",
            f"{item.refused} rows make no sense" if item.refused else "",
        ]
        echo(f"{item.table}: {item.saved} rows saved; {', '.join(filter(None, lost)) or 'nothing is lost'}")
    echo(f"{out}: use it with --db, or put it in the place of {damaged}; then run: genretree library analyse")
