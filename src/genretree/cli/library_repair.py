"""`genretree library move`, `rescue` and `clean`: repair a database, and remove genretree's fields without one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genretree.cli.library import (
    _MAX_REFUSALS,
    _database,
    _open_for_reading,
    _open_for_writing,
    _show_refusals,
    show_hardlinks,
)
from genretree.cli.options import quiet_option
from genretree.cli.output import echo, echo_json
from genretree.files import printable

if TYPE_CHECKING:
    from genretree.library.apply.replace_file import Refusal
    from genretree.library.database.connection import Database
    from genretree.library.plan.planner import TagPlan

_MAX_ROWS = 10  # per outcome


@click.command()
@click.argument("old")
@click.argument("new")
@_database
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def move(old: str, new: str, db: Path | None, as_json: bool) -> None:
    """Update the database after the folder OLD was moved or renamed to NEW.

    Files are not changed or analysed again, and undo finds them at their new paths.
    """
    from genretree.library.database.connection import back_up
    from genretree.library.database.move_folder import move_folder

    with _open_for_writing(db, "library move") as database:
        back_up(database)
        moved = move_folder(database, old, new)
    if as_json:
        echo_json(vars(moved))
        return
    echo(
        f"Updated the paths of {moved.files} files and {moved.changes} journal entries; {moved.known} files were "
        f"already known at their new paths, {moved.missing} are missing there."
    )


@click.command()
@click.argument("damaged", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Path of the new database.")
@click.option("--music", multiple=True, metavar="FOLDER", help="Also read the GENRETREE_* fields of these files.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def rescue(damaged: Path, out: Path, music: Sequence[str], as_json: bool) -> None:
    """Recover the readable rows of the DAMAGED database to a new one, for use with undo and analyse.

    Lost journal entries are taken from the backups next to DAMAGED. With --music, which can be repeated, the
    GENRETREE_* fields in the files' tags are read, too. DAMAGED, the backups and the files are not changed.
    """
    from genretree.library.database.connection import convert_errors
    from genretree.library.database.rescue import rescue as rescue_database
    from genretree.library.scan.analyse import check_places
    from genretree.remote import local_path

    check_places(music)
    with convert_errors(damaged):
        recovered, fields = rescue_database(damaged, out, list(map(local_path, music)))
    if as_json:
        tables = {item.table: {**vars(item), "complete": item.complete} for item in recovered}
        echo_json(tables | ({"music": vars(fields)} if music else {}))
        return
    for item in recovered:
        if item.from_backups:
            echo(f"{item.table}: {item.from_backups} rows from backups")
        lost = [
            f"{item.gaps} unreadable ranges (at most {item.between} rows)" if item.gaps else "",
            f"rows after number {item.end} can't be read" if item.end is not None else "",
            f"{item.refused} rows are invalid" if item.refused else "",
        ]
        echo(f"{item.table}: {item.saved} rows saved; {', '.join(filter(None, lost)) or 'none lost'}")
    if music:
        echo(
            f"music: {fields.carrying} of {fields.files} files have genretree's fields; {fields.new} of them were "
            "not in the database"
        )
    echo(f"{out}: use it with --db, or replace {damaged} with it; then run: genretree library analyse")


@click.command()
@click.argument("places", nargs=-1, metavar="[FOLDER]...")
@_database
@click.option("--write", is_flag=True, help="Write the tags (default: dry run).")
@click.option("--hidden", is_flag=True, help="Include hidden files and folders.")
@click.option("--keep-mtime", is_flag=True, help="Preserve modification times (backups may then miss the changes).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file, and a summary.")
@quiet_option
def clean(
    places: Sequence[str], db: Path | None, write: bool, hidden: bool, keep_mtime: bool, as_json: bool, quiet: bool
) -> None:
    """Remove the GENRETREE_* fields and restore the genres that they record; a dry run unless --write is given.

    Searches each FOLDER (or file); without any, the files in the database. No database is needed to search a FOLDER;
    --write creates one if there is none, so that `library undo` can undo the run. A genre that was edited after
    genretree wrote it stays.
    """
    from genretree.library.apply.apply import HardLinks, apply_plans
    from genretree.library.database.connection import default_database
    from genretree.library.plan.clean import iter_clean_plans
    from genretree.library.scan.analyse import check_places
    from genretree.parallel import command_line
    from genretree.progress import progress_bar
    from genretree.remote import local_path

    check_places(places)
    places = [str(local_path(place)) for place in places]
    path = db or default_database()
    begun = bool(places) and not path.is_file()
    report = _CleanReport(as_json, write)
    if begun and write and not any(plan.action == "write" for plan in iter_clean_plans(None, places, hidden)):
        write = False  # do not create a database if there is nothing to write
    if not write:
        reading: AbstractContextManager[Database | None] = nullcontext() if begun else _open_for_reading(path)
        with reading as database:
            for plan in iter_clean_plans(database, places, hidden):
                report.add(plan)
        report.finish(None)
        return
    with (
        _open_for_writing(path, "library clean", create=begun) as opened,
        progress_bar(0, "clean", "file", not quiet) as tick,
    ):

        def done(plan: TagPlan, refusal: Refusal | None) -> None:
            tick()
            report.add(plan, refusal)

        plans = report.watch(iter_clean_plans(opened, places, hidden))
        if not begun:
            plans = _backed_up(opened, plans)
        hardlinks = HardLinks()
        run, _, refused = apply_plans(
            opened, plans, "", command_line(), keep_mtime=keep_mtime, hardlinks=hardlinks, report=done
        )
    report.finish(run)
    show_hardlinks(hardlinks)
    _show_refusals([(item.path, item.reason) for item in refused])


def _backed_up(database: Database, plans: Iterable[TagPlan]) -> Iterator[TagPlan]:
    """Back the database up before the first file is written."""
    from genretree.library.database.connection import back_up

    written = False
    for plan in plans:
        if plan.action == "write" and not written:
            back_up(database)
            written = True
        yield plan


class _CleanReport:
    """Counts and prints the outcomes of `clean`."""

    def __init__(self, as_json: bool, write: bool) -> None:
        self._as_json, self._write = as_json, write
        self._counts: Counter[str] = Counter()
        self._named: dict[str, list[str]] = defaultdict(list)

    def watch(self, plans: Iterable[TagPlan]) -> Iterator[TagPlan]:
        """Add the plans that are not carried out."""
        for plan in plans:
            if plan.action != "write":
                self.add(plan)
            yield plan

    def add(self, plan: TagPlan, refusal: Refusal | None = None) -> None:
        """Count a file, and print its outcome or store it for `finish`."""
        from genretree.library.plan.clean import clean_outcome
        from genretree.library.tags.adapters import format_genres

        skipped = refusal is not None or plan.action != "write"
        message = refusal.reason if refusal is not None else plan.message
        outcome = "refused" if skipped else clean_outcome(plan)
        self._counts[outcome] += 1
        path = printable(plan.row.path)
        if self._as_json:
            before, after = list(plan.row.genres or ()), [] if skipped else list(plan.genres)
            echo_json({"file": path, "outcome": outcome, "now": before, "genre": after, "message": message})
        elif skipped and refusal is None and len(self._named[outcome]) < _MAX_REFUSALS:
            self._named[outcome].append(f"skipped: {path}: {message}")
        elif not skipped and not self._write and len(self._named[outcome]) < _MAX_ROWS:
            now, new = (format_genres(genres) or "no genre" for genres in (plan.row.genres or (), plan.genres))
            self._named[outcome].append(f"  {path}: {now if outcome == 'kept' else f'{now} -> {new}'}")

    def finish(self, run: int | None) -> None:
        """Print the counts and the next step."""
        from genretree.library.plan.clean import OUTCOMES

        counts = {name: self._counts[name] for name in (*OUTCOMES, "refused")}
        n = sum(self._counts[name] for name in OUTCOMES)
        if self._as_json:
            echo_json({"summary": {"written": self._write, **counts, "run": run}})
            return
        for outcome, text in OUTCOMES.items():
            if counts[outcome]:
                echo(f"{counts[outcome]} files: {text}" + (":" if self._named[outcome] else ""))
            for line in self._named[outcome]:
                echo(line)
            if self._named[outcome] and counts[outcome] > _MAX_ROWS:
                echo(f"  {counts[outcome] - _MAX_ROWS} more; list all with --json")
        for line in self._named["refused"]:
            echo(line, err=True)
        if not self._write:
            echo(f"{n} files have genretree's fields. Nothing was written; to remove them, add --write")
        else:
            echo(f"{n} files cleaned" + (f"; undo with: genretree library undo {run}" if run else "."))
