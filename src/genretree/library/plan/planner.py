"""Plan what is written into each file, and the reason where nothing is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from genretree.library.database.connection import Database
from genretree.library.database.journal import Change, first_genres, last_change, last_change_to
from genretree.library.database.records import FileRow, ModelKey, Result, iter_files
from genretree.library.plan.mapping import Decision, decide
from genretree.library.plan.mapping import Mapping as Rules
from genretree.library.tags.adapters import TagError, format_genres, read_tags
from genretree.library.tags.genre_fields import PREVIOUS, genre_fields, is_written, listed_genres, split_genres
from genretree.library.tags.trial_write import find_obstacle
from genretree.remote import is_url
from genretree.taxonomy import format_path

Mode = Literal["only-empty", "append", "overwrite"]
Action = Literal[
    "write",
    "same",
    "has_genre",
    "unsure",
    "left_alone",
    "untaggable",
    "read_only",
    "no_space",
    "remote",
    "unusable",
    "unreadable",
    "unheard",
    "changed",
    "not_found",
]
ACTIONS: dict[Action, str] = {
    "write": "to write",
    "same": "up to date",
    "has_genre": "skipped: already have a genre",
    "unsure": "skipped: confidence too low",
    "left_alone": "skipped by the mapping",
    "untaggable": "skipped: tags can't be written",
    "read_only": "skipped: read-only",
    "no_space": "skipped: not enough disk space for a copy",
    "remote": "skipped: remote files",
    "unusable": "skipped: can't be analysed",
    "unreadable": "skipped: can't be read",
    "unheard": "skipped: not analysed with this model yet (run: genretree library analyse)",
    "changed": "skipped: changed since the analysis",
    "not_found": "skipped: missing",
}
_REASONS = {
    "unsure": "no node reaches the confidence threshold",
    "left_alone": "the mapping writes nothing for it",
    "untaggable": "its tags could not be read when it was analysed; analyse it again",
    "read_only": "the file is read-only",
    "no_space": "its disk has too little space left for a copy",
    "remote": "is not a file of this machine",
    "unusable": "can't be analysed",
    "unreadable": "can't be read",
    "unheard": "is not analysed by this model yet",
    "changed": "has changed since the analysis; analyse it again",
    "not_found": "no longer exists",
}
_ROOM = 1 << 20  # bytes that must stay free on the disk next to the copy of a file


@dataclass(frozen=True)
class Filters:
    """Selects files.

    Parameters
    ----------
    folder : str, optional
        Only those below it.
    level : int, optional
        Only those that are named down to this level, 1 the top.
    """

    folder: str | None = None
    level: int | None = None


@dataclass(frozen=True)
class TagPlan:
    """The planned change of a file.

    Parameters
    ----------
    row : FileRow
    result : Result or None
        None where the file was not analysed.
    decision : Decision
        Without genres where nothing is to be written.
    action : str
        One of `ACTIONS`.
    genres : tuple of str
        All that the genre field will hold.
    theirs : tuple of str
        Those of them that are not ours.
    own : mapping
        Our own fields.
    message : str
        Why nothing is written, where more is known than the action says.
    """

    row: FileRow
    result: Result | None
    decision: Decision
    action: Action
    genres: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    own: Mapping[str, str] | None = None
    message: str = ""


_NOTHING = Decision((), (), 0.0)


def iter_plans(
    state: Database, model: int, card: ModelKey, rules: Rules, mode: Mode = "only-empty", filters: Filters | None = None
) -> Iterator[TagPlan]:
    """Yield what is to be done with every file that was ever found, by path, in memory that doesn't grow with them.

    What each carries is known since it was analysed, unless its size or time is another now. Only files that are to be
    written are opened, to see how they are laid out; the writing is tried on a copy where that leaves a doubt. Every
    plan other than `write` and `same` says why in its message.
    """
    filters = filters or Filters()
    for row, result in iter_files(state, model, card, filters.folder):
        plan = plan_file(state, card, rules, mode, row, result)
        named = plan.action != "unsure" and len(plan.decision.path) == filters.level
        if filters.level is None or named:
            yield _explain(_confirm(plan))


def check_writable(plan: TagPlan) -> TagPlan:
    """Check that a planned write is possible; add the reason if it is not."""
    obstacle, message = _obstacle(plan.row)
    if obstacle is not None:
        plan = replace(plan, action=obstacle, message=message)
    return _explain(_confirm(plan))


def _confirm(plan: TagPlan) -> TagPlan:
    """Plan to write only what can be written."""
    if plan.action != "write":
        return plan
    try:
        reason = find_obstacle(Path(plan.row.path), plan.genres, dict(plan.own or {}))
    except OSError:  # a full disk for temporary files says nothing about this file, and the rest is seen when writing
        return plan
    return replace(plan, action="untaggable", message=reason) if reason else plan


def _explain(plan: TagPlan) -> TagPlan:
    """Add a reason where there is none."""
    if plan.message or plan.action in ("write", "same"):
        return plan
    message = _REASONS.get(plan.action, "no reason is known; analyse it again")
    if plan.action == "has_genre":
        message = f"has the genre {format_genres(plan.row.genres or ())!r}, which genretree did not write"
    elif plan.action == "untaggable":
        message = _why_untaggable(plan.row.path) or message
    return replace(plan, message=message)


def _why_untaggable(path: str) -> str:
    try:
        read_tags(path)
    except TagError as error:
        return str(error)
    except OSError as error:
        return f"can't be read: {error.strerror or type(error).__name__}"
    return ""


def plan_file(
    state: Database, card: ModelKey, rules: Rules, mode: Mode, row: FileRow, result: Result | None
) -> TagPlan:
    """Plan one file."""
    if row.gone or row.error:
        return TagPlan(row, None, _NOTHING, _absence(row), message=row.message)
    if result is None:
        return TagPlan(row, None, _NOTHING, "unheard")
    if result.levels is None:
        return TagPlan(row, result, _NOTHING, "unusable", message=result.message)
    decision = decide(card, result.levels, rules)
    if not decision.genres:
        action: Action = "unsure" if decision.reason == "unsure" else "left_alone"
        return TagPlan(row, result, decision, action, message=decision.message)
    obstacle, message = _obstacle(row)
    if obstacle is not None:
        return TagPlan(row, result, decision, obstacle, message=message)
    assert row.genres is not None
    change = find_change(state, row)
    if change is None:
        theirs, before = split_genres(row.genres, row.own or {})
    else:
        theirs = tuple(change.new["theirs"])
        recorded = listed_genres(row.own, PREVIOUS)
        before = first_genres(state, change) if recorded is None else recorded
    if theirs and mode == "only-empty":
        return TagPlan(row, result, decision, "has_genre")
    kept = () if mode == "overwrite" else theirs
    known = {genre.casefold() for genre in kept}
    genres = (*kept, *(genre for genre in decision.genres if genre.casefold() not in known))
    own = own_fields(decision, card) | genre_fields(genres, before)
    if _holds(row, change, genres, own):
        return TagPlan(row, result, decision, "same", genres, kept, own)
    return TagPlan(row, result, decision, "write", genres, kept, own)


def find_change(state: Database, row: FileRow) -> Change | None:
    """Return the change in the journal that a file's genre comes from, if it stands there as we wrote it.

    Another file may lie at the path by now: known by its path and genre alone, it must carry fields of ours.
    """
    change = last_change(state, row.path)
    stands = change is not None and tuple(change.new["genres"]) == row.genres
    if change is not None and stands and (change.after == row.content or row.own != {}):
        return change
    return last_change_to(state, row.content) if row.genres else None  # at another path, if the file was renamed


def _holds(row: FileRow, change: Change | None, genres: Sequence[str], own: Mapping[str, str]) -> bool:
    """Whether a file holds already what would be written."""
    if change is None:
        return row.own == own and is_written(row.genres or (), genres)
    # By the journal, not the file: two databases would otherwise write their models over each other's for ever.
    wrote = change.new["own"]  # by version 0.1 without the fields that record genres, which is no reason to write them
    same = bool(wrote) and all(own.get(name) == text for name, text in wrote.items())
    return same and list(genres) == change.new["wrote"]


def own_fields(decision: Decision, card: ModelKey) -> dict[str, str]:
    """Return the evidence that is written with the genre."""
    return {
        "GENRETREE_PATH": format_path(decision.path),
        "GENRETREE_CONFIDENCE": f"{decision.confidence:.3f}",
        "GENRETREE_MODEL": card.digest,
    }


def _absence(row: FileRow) -> Action:
    """Say what became of a file that could not be read."""
    if row.gone or row.error == "not_found":
        return "not_found"
    return "changed" if row.error == "changed" else "unreadable"


def _obstacle(row: FileRow) -> tuple[Action | None, str]:
    """Explain why a file can't be written to, as far as that can be seen without trying."""
    if is_url(row.path):
        return "remote", ""
    try:
        status = os.lstat(row.path)
    except OSError as error:
        return ("not_found", "") if isinstance(error, FileNotFoundError) else ("unreadable", str(error.strerror))
    if (status.st_size, status.st_mtime_ns) != (row.size, row.mtime_ns):
        return "changed", ""
    if row.genres is None:
        return "untaggable", ""
    # A file that others may write to and we may not could be replaced, but would change its owner.
    if not (status.st_mode & 0o222 and os.access(row.path, os.W_OK)):
        return "read_only", "the file is read-only"
    folder = Path(row.path).parent
    if not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK | os.X_OK)):
        return "read_only", "its folder is read-only, so no copy can be made next to it"
    free = shutil.disk_usage(folder).free
    if free < status.st_size + _ROOM:
        return "no_space", f"{status.st_size:,} bytes, {free:,} are free"
    return None, ""
