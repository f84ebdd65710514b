"""What would be written into each file, and why nothing would."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from genretree.library.journal import last_change
from genretree.library.mapping import Decision, decide
from genretree.library.mapping import Mapping as Rules
from genretree.library.records import FileRow, ModelCard, Result, iter_results
from genretree.library.state import State
from genretree.taxonomy import format_path

Mode = Literal["only-empty", "append", "overwrite"]
Action = Literal[
    "write", "same", "has_genre", "unsure", "left_alone", "unusable", "untaggable", "read_only", "changed", "not_found"
]
ACTIONS: dict[Action, str] = {
    "write": "to be written",
    "same": "hold it already",
    "has_genre": "have a genre that is not ours (see --append, --overwrite)",
    "unsure": "not sure enough",
    "left_alone": "left alone by the mapping",
    "unusable": "can't be heard",
    "untaggable": "their format takes no tags, or they are damaged",
    "read_only": "are read-only",
    "changed": "have changed since they were analysed",
    "not_found": "are no longer there",
}


@dataclass(frozen=True)
class Filters:
    """Which files are meant.

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
class Plan:
    """What is to be done with a file.

    Parameters
    ----------
    row : FileRow
    result : Result
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
    """

    row: FileRow
    result: Result
    decision: Decision
    action: Action
    genres: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    own: Mapping[str, str] | None = None


def iter_plans(
    state: State, model: int, card: ModelCard, rules: Rules, mode: Mode = "only-empty", filters: Filters | None = None
) -> Iterator[Plan]:
    """Yield what is to be done with every file that a model heard, by path, in memory that doesn't grow with them.

    No file is opened: what each carries is known since it was analysed, unless its size or time is another now.
    """
    filters = filters or Filters()
    for row, result in iter_results(state, model, card, filters.folder):
        plan = plan_file(state, card, rules, mode, row, result)
        if filters.level is None or len(plan.decision.path) == filters.level:
            yield plan


def plan_file(state: State, card: ModelCard, rules: Rules, mode: Mode, row: FileRow, result: Result) -> Plan:
    """Say what is to be done with one file."""
    if result.levels is None:
        return Plan(row, result, Decision((), (), 0.0, "unusable"), "unusable")
    decision = decide(card, result.levels, rules)
    if not decision.genres:
        return Plan(row, result, decision, "unsure" if decision.reason == "unsure" else "left_alone")
    obstacle = _obstacle(row)
    if obstacle is not None:
        return Plan(row, result, decision, obstacle)
    assert row.genres is not None
    change = last_change(state, row.path)
    ours = change is not None and tuple(change.new["genres"]) == row.genres
    theirs = tuple(change.new["theirs"]) if change is not None and ours else row.genres
    if theirs and mode == "only-empty":
        return Plan(row, result, decision, "has_genre")
    kept = () if mode == "overwrite" else theirs
    known = {genre.casefold() for genre in kept}
    genres = (*kept, *(genre for genre in decision.genres if genre.casefold() not in known))
    own = own_fields(decision, card)
    if change is not None and ours and list(genres) == change.new["wrote"] and own == change.new["own"]:
        return Plan(row, result, decision, "same", genres, kept, own)
    return Plan(row, result, decision, "write", genres, kept, own)


def own_fields(decision: Decision, card: ModelCard) -> dict[str, str]:
    """Give the evidence that is written beside the genre."""
    return {
        "GENRETREE_PATH": format_path(decision.path),
        "GENRETREE_CONFIDENCE": f"{decision.confidence:.3f}",
        "GENRETREE_MODEL": card.digest,
    }


def _obstacle(row: FileRow) -> Action | None:
    """Say why a file can't be written to."""
    try:
        status = os.lstat(row.path)
    except OSError:
        return "not_found"
    if (status.st_size, status.st_mtime_ns) != (row.size, row.mtime_ns):
        return "changed"
    if row.genres is None:
        return "untaggable"
    # A file that others may write to and we may not could be replaced, but would change its owner.
    return None if status.st_mode & 0o222 and os.access(row.path, os.W_OK) else "read_only"
