"""Plan the removal of genretree's fields and the restoration of the genres that they record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from genretree.library.database.connection import Database, decode_path
from genretree.library.database.journal import find_original_genres
from genretree.library.database.records import PAGE, FileRow
from genretree.library.plan.mapping import Decision
from genretree.library.plan.planner import TagPlan, check_writable, find_change
from genretree.library.scan.classifier import FileError, fingerprint_file
from genretree.library.tags.adapters import TagError, UntaggableError, read_tags
from genretree.library.tags.genre_fields import GENRE, PREVIOUS, is_written, listed_genres, split_genres
from genretree.remote import is_url
from genretree.sound.walk import FoundFile, SoundWalk

CleanOutcome = Literal["restored", "removed", "kept"]
OUTCOMES: dict[CleanOutcome, str] = {
    "restored": "previous genre restored",
    "removed": "genre removed; there was none before",
    "kept": "edited genre unchanged",
}


def iter_clean_plans(database: Database | None, places: Sequence[str] = (), hidden: bool = False) -> Iterator[TagPlan]:
    """Yield a plan for every file with genretree's fields, and for every file that can't be read.

    Nothing is written; `apply_plans` carries the plans out. A genre that was changed since genretree wrote it is
    retained by the plan.

    Parameters
    ----------
    database : Database, optional
        Its journal holds the previous genres of files whose fields do not record them (version 0.1).
    places : sequence of str
        Files and folders to search; if empty, all files of the database.
    hidden : bool
        Also search files and folders whose names begin with a dot.
    """
    seen: set[str] = set()  # a replaced file may be found a second time
    for item in SoundWalk(hidden).find(places) if places or database is None else _known_files(database):
        if item.error:
            yield _skipped(item.path, item.message)
        elif item.path not in seen and (plan := _plan(database, item.path)) is not None:
            seen.add(item.path)
            yield plan


def clean_outcome(plan: TagPlan) -> CleanOutcome:
    """Return what a plan does to the genre of a file."""
    if is_written(plan.row.genres or (), plan.genres):
        return "kept"
    return "restored" if plan.genres else "removed"


def _plan(database: Database | None, path: str) -> TagPlan | None:
    try:
        if not read_tags(path).own:
            return None
    except (UntaggableError, FileNotFoundError):
        return None
    except TagError as error:
        return _skipped(path, str(error), "untaggable")
    except OSError as error:
        return _skipped(path, f"can't be read: {error.strerror or error}")
    fingerprint = fingerprint_file(path)
    if isinstance(fingerprint, FileError):
        return _skipped(path, fingerprint.message)
    if fingerprint.genres is None or not fingerprint.own:
        return _skipped(path, "was changed while it was being read; try again")
    row = FileRow(
        0, path, fingerprint.size, fingerprint.mtime_ns, fingerprint.content, fingerprint.genres, own=fingerprint.own
    )
    genres = _previous_genres(database, row)
    return check_writable(
        TagPlan(row=row, result=None, decision=_NOTHING, action="write", genres=genres, other_genres=genres, own={})
    )


def _previous_genres(database: Database | None, row: FileRow) -> tuple[str, ...]:
    """Return the genres that a file will have without genretree's fields."""
    genres, own = row.genres or (), row.own or {}
    wrote, previous = listed_genres(own, GENRE), listed_genres(own, PREVIOUS)
    if wrote is not None and previous is not None:
        return previous if genres and is_written(genres, wrote) else genres
    change = None if database is None else find_change(database, row)
    return (
        split_genres(genres, own)[1] if database is None or change is None else find_original_genres(database, change)
    )


_NOTHING = Decision(genres=(), path=(), confidence=0.0)


def _skipped(path: str, message: str, action: Literal["unreadable", "untaggable"] = "unreadable") -> TagPlan:
    return TagPlan(
        row=FileRow(0, path, -1, 0, None, None), result=None, decision=_NOTHING, action=action, message=message
    )


def _known_files(database: Database) -> Iterator[FoundFile]:
    last = b""
    while True:
        query = "SELECT path FROM file WHERE path > ? ORDER BY path LIMIT ?"
        rows = database.connection.execute(query, (last, PAGE)).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        for path in (decode_path(row[0]) for row in rows):
            if not is_url(path) and Path(path).is_file():
                yield FoundFile(path, 0, 0)  # the size is not used
