"""Plan the change of each file's tags, or give the reason why it is skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from genretree.library.database.connection import Database
from genretree.library.database.journal import Change, find_change_to, find_last_change, find_original_genres
from genretree.library.database.path_selection import PathSelection
from genretree.library.database.records import FileResult, FileRow, ModelKey, iter_files
from genretree.library.plan.albums import Album, Albums, find_outlier
from genretree.library.plan.mapping import Decision, decide
from genretree.library.plan.mapping import Mapping as Rules
from genretree.library.tags.adapters import TagError, format_genres, is_v1_genre, read_tags
from genretree.library.tags.genre_fields import PREVIOUS, genre_fields, is_written, listed_genres, split_genres
from genretree.library.tags.tag_region import find_region
from genretree.library.tags.trial_write import find_write_error
from genretree.remote import is_url
from genretree.taxonomy import format_path

Mode = Literal["only-empty", "append", "overwrite"]
Action = Literal[
    "write",
    "same",
    "has_genre",
    "unsure",
    "left_alone",
    "left_out",
    "untaggable",
    "read_only",
    "no_space",
    "remote",
    "unusable",
    "unreadable",
    "not_analysed",
    "changed",
    "not_found",
]
ACTIONS: dict[Action, str] = {
    "write": "to write",
    "same": "up to date",
    "has_genre": "skipped: already have a genre",
    "unsure": "skipped: confidence too low",
    "left_alone": "skipped by the mapping",
    "left_out": "left out of the plan",
    "untaggable": "skipped: tags can't be written",
    "read_only": "skipped: read-only",
    "no_space": "skipped: not enough disk space for a copy",
    "remote": "skipped: remote files",
    "unusable": "skipped: can't be analysed",
    "unreadable": "skipped: can't be read",
    "not_analysed": "skipped: not analysed with this model yet (run: genretree library analyse)",
    "changed": "skipped: changed since the analysis",
    "not_found": "skipped: missing",
}
_REASONS = {
    "unsure": "no node reaches the confidence threshold",
    "left_alone": "the mapping writes nothing for it",
    "left_out": "the plan leaves it out",
    "untaggable": "its tags could not be read when it was analysed; analyse it again",
    "read_only": "the file is read-only",
    "no_space": "its disk has too little space left for a copy",
    "remote": "is not a file of this machine",
    "unusable": "can't be analysed",
    "unreadable": "can't be read",
    "not_analysed": "is not analysed by this model yet",
    "changed": "has changed since the analysis; analyse it again",
    "not_found": "no longer exists",
}
_MIN_FREE_BYTES = 1 << 20  # that must remain free on the disk after a file is copied
_RECORD_BYTES = 1 << 14  # at least for an undo record and a lock file


@dataclass(frozen=True)
class Filters:
    """A selection of files.

    Parameters
    ----------
    folder : str, optional
        Only files below this folder.
    level : int, optional
        Only files predicted down to this level; 1 is the top.
    selection : PathSelection
        Only these files.
    """

    folder: str | None = None
    level: int | None = None
    selection: PathSelection = field(default_factory=PathSelection)


@dataclass(frozen=True, kw_only=True)
class TagPlan:
    """The planned change of a file.

    Parameters
    ----------
    row : FileRow
    result : FileResult or None
        None if the file was not analysed.
    decision : Decision
        Without genres if the file is skipped.
    action : str
        One of `ACTIONS`.
    genres : tuple of str
        New values of the genre tag.
    other_genres : tuple of str
        Those of them that genretree did not predict.
    own : mapping of str to str
        New values of genretree's fields.
    message : str
        Why the file is skipped.
    separator : str
        If not empty, several genres are written as one text with this between them.
    album : str
        Name of the album whose mean decided; empty if the file was decided on its own.
    outlier : str
        The genre that the file would get on its own, if that differs clearly from the album's.
    is_typed : bool
        Whether the owner typed the genres, in an edited plan.
    """

    row: FileRow
    result: FileResult | None
    decision: Decision
    action: Action
    genres: tuple[str, ...] = ()
    other_genres: tuple[str, ...] = ()
    own: Mapping[str, str] | None = None
    message: str = ""
    separator: str = ""
    album: str = ""
    outlier: str = ""
    is_typed: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """Values of the genre tag as they are written."""
        return join_genres(self.genres, self.separator)


def join_genres(genres: Sequence[str], separator: str) -> tuple[str, ...]:
    """Join several genres to one text, if there is a separator."""
    return (separator.join(genres),) if separator and len(genres) > 1 else tuple(genres)


NO_DECISION = Decision(genres=(), path=(), confidence=0.0)


def iter_plans(
    database: Database,
    model: int,
    model_key: ModelKey,
    rules: Rules,
    mode: Mode = "only-empty",
    filters: Filters | None = None,
    albums: Albums | None = None,
) -> Iterator[TagPlan]:
    """Yield a plan for every file in the database, ordered by path, in constant memory.

    The tags are known from the analysis, unless a file's size or modification time has changed. Only files to write are
    opened, to check their layout; if that is unusual, writing is tried on a copy. Every plan other than `write` and
    `same` has a message with the reason. With `albums`, all tracks of an album get its genre.
    """
    filters = filters or Filters()
    for row, result in iter_files(database, model, model_key, filters.folder):
        if not filters.selection.includes(row.path):
            continue
        album = None if albums is None else albums.find(row.id)
        plan = plan_file(database, model_key, rules, mode, row, result, album)
        named = plan.action != "unsure" and len(plan.decision.path) == filters.level
        if filters.level is None or named:
            yield check_layout(plan)


def check_writable(plan: TagPlan) -> TagPlan:
    """Check that a planned write is possible; add the reason if it is not."""
    obstacle, message = find_obstacle(plan.row)
    if obstacle is not None:
        plan = replace(plan, action=obstacle, message=message)
    return check_layout(plan)


def check_layout(plan: TagPlan) -> TagPlan:
    """Check the layout of a file to write; change the action if it can't be written, and add the reason."""
    return _add_reason(_check_layout(plan))


def find_hardlinks(plans: Iterator[TagPlan], found: list[TagPlan]) -> Iterator[TagPlan]:
    """Yield plans, and append those of files to write that have several names (hard links) to a list."""
    for plan in plans:
        with suppress(OSError):
            if plan.action == "write" and os.lstat(plan.row.path).st_nlink > 1:
                found.append(plan)
        yield plan


def _check_layout(plan: TagPlan) -> TagPlan:
    if plan.action != "write":
        return plan
    try:
        path, own = Path(plan.row.path), dict(plan.own or {})
        reason = find_write_error(path, plan.values, own)
        space = "" if reason else find_lack_of_space(path, plan.values, own)
    except OSError:  # a full disk for temporary files is not a problem of this file; other errors recur when writing
        return plan
    if space:
        return replace(plan, action="no_space", message=space)
    return replace(plan, action="untaggable", message=reason) if reason else plan


def _add_reason(plan: TagPlan) -> TagPlan:
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
    database: Database,
    model_key: ModelKey,
    rules: Rules,
    mode: Mode,
    row: FileRow,
    result: FileResult | None,
    album: Album | None = None,
) -> TagPlan:
    """Plan one file; with an album, by its decision instead of the file's own."""
    if row.gone or row.error:
        return TagPlan(row=row, result=None, decision=NO_DECISION, action=missing_action(row), message=row.message)
    if result is None:
        return TagPlan(row=row, result=None, decision=NO_DECISION, action="not_analysed")
    if result.levels is None:
        return TagPlan(row=row, result=result, decision=NO_DECISION, action="unusable", message=result.message)
    decision = decide(model_key, result.levels, rules)
    plan = TagPlan(row=row, result=result, decision=decision, action="write", separator=rules.settings.separator)
    if album is not None:
        outlier = find_outlier(decision, album.decision)
        plan = replace(plan, decision=album.decision, album=album.name, outlier=outlier)
    return _plan_genres(database, model_key, rules, mode, plan)


def _plan_genres(database: Database, model_key: ModelKey, rules: Rules, mode: Mode, plan: TagPlan) -> TagPlan:
    """Complete a plan with the genres to write, or the reason why nothing is written."""
    row, decision = plan.row, plan.decision
    if not decision.genres:
        message = f"album: {decision.message}" if plan.album and decision.message else decision.message
        return replace(plan, action="unsure" if decision.reason == "unsure" else "left_alone", message=message)
    obstacle, message = find_obstacle(row)
    if obstacle is not None:
        return replace(plan, action=obstacle, message=message)
    existing = find_existing_genres(database, row, rules)
    if existing.other and mode == "only-empty":
        return replace(plan, action="has_genre")
    retained = () if mode == "overwrite" else existing.other
    known = {genre.casefold() for genre in retained}
    genres = (*retained, *(genre for genre in decision.genres if genre.casefold() not in known))
    own = evidence_fields(decision, model_key) | genre_fields(genres, existing.before)
    plan = replace(plan, genres=genres, other_genres=retained, own=own)
    return replace(plan, action="same") if is_up_to_date(row, existing.change, plan.values, own) else plan


@dataclass(frozen=True)
class ExistingGenres:
    """What is known of the genres that a file has.

    Parameters
    ----------
    other : tuple of str
        Genres that genretree did not write; empty if they are placeholders.
    before : tuple of str
        Genres before genretree's first write.
    change : Change or None
        The change in the journal that wrote the current genre, if genretree did.
    """

    other: tuple[str, ...]
    before: tuple[str, ...]
    change: Change | None


def find_existing_genres(database: Database, row: FileRow, rules: Rules) -> ExistingGenres:
    """Determine which genres of a file with readable tags genretree did not write."""
    assert row.genres is not None
    change = find_change(database, row)
    if change is None:
        other, before = split_genres(row.genres, row.own or {})
    else:
        other = tuple(change.new["theirs"])
        recorded = listed_genres(row.own, PREVIOUS)
        if recorded is None and other and not change.new["own"]:  # an edited plan, or `clean`: the genre is the owner's
            recorded = other
        before = find_original_genres(database, change) if recorded is None else recorded
    is_typed = change is not None and change.new.get("typed", False)  # in an edited plan, whatever the list says
    if not is_typed and rules.are_placeholders(other, lambda: _is_v1_genre(row.path)):
        other = ()
    return ExistingGenres(other, before, change)


def _is_v1_genre(path: str) -> bool:
    try:
        return is_v1_genre(path)
    except (TagError, OSError):
        return False


def find_change(database: Database, row: FileRow) -> Change | None:
    """Return the change in the journal that wrote a file's current genre, if genretree did.

    There may be another file at the path by now: if only path and genre match, it must have genretree's fields.
    """
    change = find_last_change(database, row.path)
    matches = change is not None and tuple(change.new["genres"]) == row.genres
    if change is not None and matches and (change.after == row.content or row.own != {}):
        return change
    return find_change_to(database, row.content) if row.genres else None  # the file may have been renamed


def is_up_to_date(row: FileRow, change: Change | None, genres: Sequence[str], own: Mapping[str, str]) -> bool:
    """Return whether a file already has the genres and fields to write."""
    if change is None:
        return row.own == own and is_written(row.genres or (), genres)
    # Compared with the journal, not with the file: two databases would otherwise overwrite each other endlessly.
    wrote = change.new["own"]  # version 0.1 wrote fewer fields; adding the missing ones is not worth a write
    same = bool(wrote) and all(own.get(name) == text for name, text in wrote.items())
    return same and list(genres) == change.new["wrote"]


def evidence_fields(decision: Decision, model_key: ModelKey) -> dict[str, str]:
    """Return the fields that record the prediction: path, confidence and model."""
    return {
        "GENRETREE_PATH": format_path(decision.path),
        "GENRETREE_CONFIDENCE": f"{decision.confidence:.3f}",
        "GENRETREE_MODEL": model_key.digest,
    }


def missing_action(row: FileRow) -> Action:
    """Return the action for a file that is missing or could not be read."""
    if row.gone or row.error == "not_found":
        return "not_found"
    return "changed" if row.error == "changed" else "unreadable"


def find_obstacle(row: FileRow) -> tuple[Action | None, str]:
    """Return why a file can't be written to, as far as its status shows."""
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
    # A file that is writable for others only could be replaced, but that would change its owner.
    if not (status.st_mode & 0o222 and os.access(row.path, os.W_OK)):
        return "read_only", "the file is read-only"
    folder = Path(row.path).parent
    if not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK | os.X_OK)):
        return "read_only", "its folder is read-only, so no copy can be made next to it"
    return None, ""


def find_lack_of_space(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> str:
    """Return why the disk has too little space to write tags; "" if it has enough.

    A copy needs the size of the file. Tags that fit into the padding need only an undo record.
    """
    size, free = path.lstat().st_size, shutil.disk_usage(path.parent).free
    if free >= size + _MIN_FREE_BYTES:
        return ""
    with path.open("rb") as source, suppress(TagError):
        found = find_region(path, source, read_tags(path), genres, own)
        if found is not None and free >= 2 * len(found[0].old) + _RECORD_BYTES:
            return ""
    return f"a copy needs {size:,} bytes, {free:,} are free"
