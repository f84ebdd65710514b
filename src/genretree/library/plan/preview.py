"""Previews of what would be written, by genre, most confident first: table, page, CSV or Parquet."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from genretree.evaluation.report import render
from genretree.files import atomic_path, json_line, printable, write_text
from genretree.library.database.records import ModelKey
from genretree.library.plan.planner import ACTIONS, TagPlan
from genretree.library.tags.adapters import format_genres
from genretree.taxonomy import format_path

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

LISTED = 200  # files of one genre that a page shows; all are in CSV and Parquet
_BATCH = 5000


@dataclass(frozen=True)
class PreviewRow:
    """One file of a preview.

    Parameters
    ----------
    file : str
        Its path, as text.
    action : str
        `write`, or why nothing is written.
    genre : str
        What the genre field would hold, or what would be written if nothing stood in the way.
    now : str
        What it holds.
    path : str
        The node; of a file that the model is not sure enough of, the one that should have been surer.
    confidence : float
    slices : int
    message : str
        Why nothing is written, where there is more to say than the action does.
    """

    file: str
    action: str
    genre: str
    now: str
    path: str
    confidence: float
    slices: int
    message: str = ""


class Preview:
    """All lines of a preview, kept in a temporary database, so that memory doesn't grow with them."""

    def __init__(self, plans: Iterable[TagPlan]) -> None:
        self._rows = sqlite3.connect("")  # a file that goes with the connection
        names = [field.name for field in fields(PreviewRow)]
        self._rows.execute(f"CREATE TABLE line ({', '.join(names)})")
        places = ", ".join("?" * len(names))
        self._rows.executemany(f"INSERT INTO line VALUES ({places})", (astuple(_line(plan)) for plan in plans))
        self._rows.execute("CREATE INDEX by_genre ON line (action, genre, confidence DESC)")

    def actions(self) -> dict[str, int]:
        """Count the files by what is done with them, in the order of `ACTIONS`."""
        counts = dict(self._rows.execute("SELECT action, count(*) FROM line GROUP BY action").fetchall())
        return {action: counts[action] for action in ACTIONS if action in counts}

    def genres(self, action: str = "write") -> list[tuple[str, int]]:
        """Count the files by what their genre would be, the most frequent first."""
        query = "SELECT genre, count(*) FROM line WHERE action = ? GROUP BY genre ORDER BY count(*) DESC, genre"
        return self._rows.execute(query, (action,)).fetchall()

    def lines(self, action: str, genre: str | None = None, limit: int = -1) -> Iterator[PreviewRow]:
        """Yield the files of an action and a genre, most confident first."""
        where = "" if genre is None else "AND genre = ?"
        query = f"SELECT * FROM line WHERE action = ? {where} ORDER BY genre, confidence DESC, file LIMIT ?"
        for row in self._rows.execute(query, (action, *([] if genre is None else [genre]), limit)):
            yield PreviewRow(*row)

    def all_lines(self) -> Iterator[PreviewRow]:
        """Yield all files: by action, genre, and how sure they are."""
        for action in self.actions():
            yield from self.lines(action)


def _line(plan: TagPlan) -> PreviewRow:
    wanted = plan.genres or plan.decision.genres
    now = format_genres(plan.row.genres or ())
    slices = 0 if plan.result is None else plan.result.slices
    return PreviewRow(
        *(printable(plan.row.path), plan.action, format_genres(wanted), now, format_path(plan.decision.path)),
        *(round(plan.decision.confidence, 6), slices, plan.message),
    )


def write_csv(preview: Preview, stream: SupportsWrite[str]) -> None:
    """Write a row for each file."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(PreviewRow)])
    writer.writerows(map(astuple, preview.all_lines()))


def write_parquet(preview: Preview, path: Path) -> None:
    """Write a row for each file, in the columns of `PreviewRow`."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"str": pa.string(), "float": pa.float64(), "int": pa.int64()}
    schema = pa.schema([(field.name, kinds[str(field.type)]) for field in fields(PreviewRow)])
    lines = preview.all_lines()
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(islice(lines, _BATCH)):
            columns = list(zip(*map(astuple, batch), strict=True))
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))


def write_json(preview: Preview) -> Iterator[str]:
    """Yield one JSON object for each file."""
    for line in preview.all_lines():
        yield json_line({field.name: getattr(line, field.name) for field in fields(PreviewRow)})


def write_page(preview: Preview, path: Path, card: ModelKey, command: str = "") -> None:
    """Write one self-contained HTML page: a table per genre, most confident first, and skipped files with reasons."""
    groups = [
        {"title": genre, "n": n, "lines": list(preview.lines("write", genre, LISTED))} for genre, n in preview.genres()
    ]
    actions = preview.actions()
    others = [
        {"title": ACTIONS[action], "n": n, "lines": list(preview.lines(action, limit=LISTED)), "action": action}  # type: ignore[index]
        for action, n in actions.items()
        if action != "write"
    ]
    page = render(
        "library.html.j2",
        groups=groups,
        others=others,
        written=actions.get("write", 0),
        total=sum(actions.values()),
        card=card,
        command=command,
        listed=LISTED,
    )
    write_text(path, page)
