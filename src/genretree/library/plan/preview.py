"""Previews of what would be written, by genre, most confident first: table, page, CSV or Parquet."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
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

MAX_LISTED = 200  # files of one genre that a page shows; all are in CSV and Parquet
_BATCH = 5000
_GENRE_HASH = 6  # bytes
_IS_OUTLIER = "action IN ('write', 'unsure') AND outlier <> ''"
_FORMULA = ("=", "+", "-", "@")  # how formulas in spreadsheets begin


@dataclass(frozen=True)
class PreviewRow:
    """A file in a preview.

    Parameters
    ----------
    file : str
        Path of the file.
    action : str
        One of `ACTIONS`.
    genre : str
        New genre; for a skipped file, the genre that was predicted.
    now : str
        Current genre.
    path : str
        Path of the predicted node; if the confidence is too low, of the node that does not reach the threshold.
    confidence : float
        Probability of that node, in [0, 1].
    slices : int
        Number of slices that the prediction is averaged over.
    message : str
        Why the file is skipped.
    album : str
        Name of the album whose mean decided, if one did.
    outlier : str
        Genre and confidence of the file on its own, if they differ clearly from the album's.
    key : str
        What an edited plan is checked against: see `PlanKey`.
    """

    file: str
    action: str
    genre: str
    now: str
    path: str
    confidence: float
    slices: int
    message: str = ""
    album: str = ""
    outlier: str = ""
    key: str = ""


@dataclass(frozen=True)
class PlanKey:
    """The content of the column `key`: what a row of a plan was made for, whatever a spreadsheet does to its cells.

    Parameters
    ----------
    content : bytes
        Content hash of the file.
    model : str
        Digest of the model.
    genre : str
        Hash of the genre cell.
    action : str
    separator : str
        Text between several genres, if they are written as one.
    """

    content: bytes
    model: str
    genre: str
    action: str
    separator: str = ""

    def text(self) -> str:
        """Return the key as text that no spreadsheet takes for a number."""
        return "-".join(("k" + self.content.hex(), self.model, self.genre, self.action, self.separator.encode().hex()))

    @classmethod
    def parse(cls, text: str) -> PlanKey:
        """Parse the output of `text`.

        Raises
        ------
        ValueError
            If it is not a key.
        """
        content, model, genre, action, separator = text.strip().split("-")
        if not content.startswith("k") or action not in ACTIONS or len(genre) != 2 * _GENRE_HASH:
            raise ValueError(text)
        return cls(bytes.fromhex(content[1:]), model, genre, action, bytes.fromhex(separator).decode())


def normalize_cell(text: str) -> str:
    """Return the text of a cell without what spreadsheets and `write_csv` add: outer spaces, and a quote in front."""
    text = " ".join(text.split())
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


def hash_genre(cell: str) -> str:
    """Hash a genre cell, to detect whether it was edited."""
    return blake2b(normalize_cell(cell).encode(errors="surrogateescape"), digest_size=_GENRE_HASH).hexdigest()


class Preview:
    """The rows of a preview, in a temporary database, so that memory use does not grow with their number.

    Parameters
    ----------
    plans : iterable of TagPlan
    model : str
        Digest of the model, for the column `key`.
    """

    def __init__(self, plans: Iterable[TagPlan], model: str = "") -> None:
        self._rows = sqlite3.connect("")  # a temporary file, deleted with the connection
        names = [field.name for field in fields(PreviewRow)]
        self._rows.execute(f"CREATE TABLE line ({', '.join(names)})")
        places = ", ".join("?" * len(names))
        self._rows.executemany(
            f"INSERT INTO line VALUES ({places})", (astuple(_preview_row(plan, model)) for plan in plans)
        )
        self._rows.execute("CREATE INDEX by_genre ON line (action, genre, confidence DESC)")

    def actions(self) -> dict[str, int]:
        """Count the files by action, in the order of `ACTIONS`."""
        counts = dict(self._rows.execute("SELECT action, count(*) FROM line GROUP BY action").fetchall())
        return {action: counts[action] for action in ACTIONS if action in counts}

    def genres(self, action: str = "write") -> list[tuple[str, int]]:
        """Count the files by new genre, most frequent first."""
        query = "SELECT genre, count(*) FROM line WHERE action = ? GROUP BY genre ORDER BY count(*) DESC, genre"
        return self._rows.execute(query, (action,)).fetchall()

    def rows(self, action: str, genre: str | None = None, limit: int = -1) -> Iterator[PreviewRow]:
        """Yield the files of an action and a genre, most confident first."""
        where = "" if genre is None else "AND genre = ?"
        query = f"SELECT * FROM line WHERE action = ? {where} ORDER BY genre, confidence DESC, file LIMIT ?"
        for row in self._rows.execute(query, (action, *([] if genre is None else [genre]), limit)):
            yield PreviewRow(*row)

    def outliers(self, limit: int = -1) -> Iterator[PreviewRow]:
        """Yield the files that would get another genre without their album, or one where the album has none."""
        query = f"SELECT * FROM line WHERE {_IS_OUTLIER} ORDER BY album, file LIMIT ?"
        for row in self._rows.execute(query, (limit,)):
            yield PreviewRow(*row)

    def count_albums(self) -> tuple[int, int, int]:
        """Count the albums, those of them that are compilations, and the outliers."""
        query = (
            "SELECT count(DISTINCT album), count(DISTINCT iif(album LIKE '%(compilation)', album, NULL)) "
            "FROM line WHERE album <> ''"
        )
        albums, compilations = self._rows.execute(query).fetchone()
        outliers = f"SELECT count(*) FROM line WHERE {_IS_OUTLIER}"
        return albums, compilations, self._rows.execute(outliers).fetchone()[0]

    def all_rows(self) -> Iterator[PreviewRow]:
        """Yield all files, ordered by action, genre and confidence."""
        for action in self.actions():
            yield from self.rows(action)


def _preview_row(plan: TagPlan, model: str) -> PreviewRow:
    genre = format_genres(plan.genres or plan.decision.genres)
    key = PlanKey(plan.row.content or b"", model, hash_genre(genre), plan.action, plan.separator)
    now = format_genres(plan.row.genres or ())
    slices = 0 if plan.result is None else plan.result.slices
    return PreviewRow(
        *(printable(plan.row.path), plan.action, genre, now, format_path(plan.decision.path)),
        *(round(plan.decision.confidence, 6), slices, plan.message, plan.album),
        *(plan.outlier, key.text()),
    )


def write_csv(preview: Preview, stream: SupportsWrite[str]) -> None:
    """Write a CSV table with one row per file.

    A quote is written in front of text that a spreadsheet would take for a formula, since tags may contain anything.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(PreviewRow)])
    for row in preview.all_rows():
        writer.writerow([_not_a_formula(value) if isinstance(value, str) else value for value in astuple(row)])


def _not_a_formula(text: str) -> str:
    return f"'{text}" if text[:1] in _FORMULA else text


def write_parquet(preview: Preview, path: Path) -> None:
    """Write a Parquet table with one row per file."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"str": pa.string(), "float": pa.float64(), "int": pa.int64()}
    schema = pa.schema([(field.name, types[str(field.type)]) for field in fields(PreviewRow)])
    rows = preview.all_rows()
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            columns = list(zip(*map(astuple, batch), strict=True))
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))


def write_json(preview: Preview) -> Iterator[str]:
    """Yield one JSON object per file."""
    for row in preview.all_rows():
        yield json_line({field.name: getattr(row, field.name) for field in fields(PreviewRow)})


def write_page(preview: Preview, path: Path, model_key: ModelKey, command: str = "") -> None:
    """Write one self-contained HTML page: a table per genre, most confident first, and skipped files with reasons."""
    groups = [
        {"title": genre, "n": n, "rows": list(preview.rows("write", genre, MAX_LISTED))}
        for genre, n in preview.genres()
    ]
    actions = preview.actions()
    others = [
        {"title": ACTIONS[action], "n": n, "rows": list(preview.rows(action, limit=MAX_LISTED)), "action": action}  # type: ignore[index]
        for action, n in actions.items()
        if action != "write"
    ]
    albums, compilations, n_outliers = preview.count_albums()
    page = render(
        "library.html.j2",
        groups=groups,
        others=others,
        outliers=list(preview.outliers(MAX_LISTED)),
        n_outliers=n_outliers,
        albums=albums,
        compilations=compilations,
        written=actions.get("write", 0),
        total=sum(actions.values()),
        model_key=model_key,
        command=command,
        listed=MAX_LISTED,
    )
    write_text(path, page)
