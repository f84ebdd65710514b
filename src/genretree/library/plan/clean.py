"""Which files carry our own fields, and what their genre was before: plans to remove the one and restore the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from genretree.library.database.connection import Database, decode_path
from genretree.library.database.journal import first_genres
from genretree.library.database.records import PAGE, FileRow
from genretree.library.plan.mapping import Decision
from genretree.library.plan.planner import TagPlan, check_writable, find_change
from genretree.library.scan.classifier import Problem, fingerprint_file
from genretree.library.tags.adapters import TagError, UntaggableError, read_tags
from genretree.library.tags.genre_fields import GENRE, PREVIOUS, is_written, listed_genres, split_genres
from genretree.remote import is_url
from genretree.sound.walk import FoundFile, SoundWalk

CleanOutcome = Literal["restored", "removed", "kept"]
OUTCOMES: dict[CleanOutcome, str] = {
    "restored": "get their previous genre back",
    "removed": "had no genre before",
    "kept": "keep the genre that they have now",
}


def iter_clean_plans(state: Database | None, places: Sequence[str] = (), hidden: bool = False) -> Iterator[TagPlan]:
    """Yield a plan for every file that carries our own fields, and for every one of which that can't be seen.

    Nothing is written; `apply_plans` carries the plans out. A genre that somebody has changed since we wrote it is the
    one that a plan writes.

    Parameters
    ----------
    state : Database, optional
        Its journal tells what was there before, where the fields do not (those of version 0.1).
    places : sequence of str
        Files and folders to search; without any, all files of the database.
    hidden : bool
        Also search files and folders whose names begin with a dot.
    """
    seen: set[str] = set()  # a file that is replaced may turn up in its folder a second time
    for found in SoundWalk(hidden).find(places) if places or state is None else _known_files(state):
        if found.error:
            yield _left(found.path, found.message)
        elif found.path not in seen and (plan := _plan(state, found.path)) is not None:
            seen.add(found.path)
            yield plan


def clean_outcome(plan: TagPlan) -> CleanOutcome:
    """Say what becomes of the genre of a file."""
    if is_written(plan.row.genres or (), plan.genres):
        return "kept"
    return "restored" if plan.genres else "removed"


def _plan(state: Database | None, path: str) -> TagPlan | None:
    try:
        if not read_tags(path).own:
            return None
    except (UntaggableError, FileNotFoundError):
        return None
    except TagError as error:
        return _left(path, str(error), "untaggable")
    except OSError as error:
        return _left(path, f"can't be read: {error.strerror or error}")
    stamp = fingerprint_file(path)
    if isinstance(stamp, Problem):
        return _left(path, stamp.message)
    if stamp.genres is None or not stamp.own:
        return _left(path, "was changed while it was being read; try again")
    row = FileRow(0, path, stamp.size, stamp.mtime_ns, stamp.content, stamp.genres, own=stamp.own)
    genres = _previous_genres(state, row)
    return check_writable(TagPlan(row, None, _NOTHING, "write", genres, genres, {}))


def _previous_genres(state: Database | None, row: FileRow) -> tuple[str, ...]:
    """Return the genres that a file holds once our fields are removed."""
    genres, own = row.genres or (), row.own or {}
    wrote, previous = listed_genres(own, GENRE), listed_genres(own, PREVIOUS)
    if wrote is not None and previous is not None:
        return previous if genres and is_written(genres, wrote) else genres
    change = None if state is None else find_change(state, row)
    return split_genres(genres, own)[1] if state is None or change is None else first_genres(state, change)


_NOTHING = Decision((), (), 0.0)


def _left(path: str, message: str, action: Literal["unreadable", "untaggable"] = "unreadable") -> TagPlan:
    return TagPlan(FileRow(0, path, -1, 0, None, None), None, _NOTHING, action, message=message)


def _known_files(state: Database) -> Iterator[FoundFile]:
    last = b""
    while True:
        query = "SELECT path FROM file WHERE path > ? ORDER BY path LIMIT ?"
        rows = state.connection.execute(query, (last, PAGE)).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        for path in (decode_path(row[0]) for row in rows):
            if not is_url(path) and Path(path).is_file():
                yield FoundFile(path, 0, 0)  # its size is not asked for
