"""Write planned genres into files.

A file is never edited in place: the tags are written into a copy, which then replaces it atomically. Before that, the
audio of both must be identical, all other tags unchanged, and the stored delta must restore the old file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from genretree.errors import LibraryError
from genretree.files import content_digest, printable
from genretree.library.apply.file_lock import LockedError
from genretree.library.apply.replace_file import (
    CHANGED,
    Refusal,
    RefusedError,
    copy_file,
    copy_status,
    exclusive_access,
    name_copy,
    remove_copy,
    replace_file,
)
from genretree.library.database import journal
from genretree.library.database.connection import Database
from genretree.library.plan.planner import TagPlan
from genretree.library.tags.adapters import TagError, TagValues, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, hash_audio
from genretree.library.tags.binary_delta import apply_delta, make_delta
from genretree.library.tags.verify_unchanged import check_unchanged


def apply_plans(
    database: Database,
    plans: Iterable[TagPlan],
    model: str,
    command: str = "",
    *,
    keep_mtime: bool = False,
    report: Callable[[TagPlan, Refusal | None], None] | None = None,
) -> tuple[int | None, int, list[Refusal]]:
    """Carry out plans.

    Parameters
    ----------
    database : Database
        Locked by the caller with `lock_database`.
    plans : iterable of TagPlan
        Plans whose action is not `write` are ignored.
    model : str
        Digest of the model.
    command : str
        Shown by `status`.
    keep_mtime : bool
        Preserve the modification time; programs that look for changed files then miss this change.
    report : callable, optional
        Called for each plan that is carried out or refused.

    Returns
    -------
    run : int or None
        Number of the run, for undo; None if nothing was written.
    written : int
        Number of files written.
    refused : list of Refusal
        Files that were skipped, with the reasons.

    Raises
    ------
    LibraryError
        If the disk is full; the files written so far stay written.
    """
    run: int | None = None
    written = 0
    refused: list[Refusal] = []
    for plan in plans:
        if plan.action != "write":
            continue
        if run is None:
            run = journal.begin_run(database, model, command)
        refusal = None
        try:
            written += write_plan(database, run, plan, keep_mtime)
        except (RefusedError, LockedError, TagError, LayoutError) as error:
            refusal = Refusal(plan.row.path, str(error) or type(error).__name__)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                where = f"{printable(plan.row.path)}: the disk is full"
                raise LibraryError(
                    f"{where}; this file is unchanged, {written} were written; free some space and run apply again"
                ) from error
            refusal = Refusal(plan.row.path, f"can't be written: {error.strerror or error or type(error).__name__}")
        if refusal is not None:
            refused.append(refusal)
        if report is not None:
            report(plan, refusal)
    return run if written else None, written, refused


def write_plan(database: Database, run: int, plan: TagPlan, keep_mtime: bool = False) -> bool:
    """Write one file's tags.

    Returns
    -------
    bool
        False if the file already had them.

    Raises
    ------
    RefusedError, LockedError, TagError, LayoutError, OSError
        If the file was skipped; it is unchanged then.
    """
    row, path = plan.row, Path(plan.row.path)
    assert row.content is not None
    own = dict(plan.own or {})
    with path.open("rb") as source:
        values = read_tags(path)
        if values.genres != row.genres:
            raise RefusedError("its genre tags have changed since the analysis; analyse it again")
        if values.after(plan.genres) == values.genres and values.own == own:
            return False
        temporary = name_copy(path)
        opened = os.fstat(source.fileno())
        if (opened.st_size, opened.st_mtime_ns) != (row.size, row.mtime_ns):
            raise RefusedError("has changed since the analysis; analyse it again")
        placing = False
        change = journal.begin_change(
            database, run, row.path, str(temporary), row.content, row.mtime_ns, _tag_json(values)
        )
        try:
            with exclusive_access(path, source, opened):
                if copy_file(source, temporary) != row.content:
                    raise RefusedError("has changed since the analysis; analyse it again")
                if read_tags(temporary) != values:
                    raise RefusedError(CHANGED)
                write_tags(temporary, plan.genres, own)
                if hash_audio(temporary) != hash_audio(path):
                    raise RefusedError("its audio would have changed")
                check_unchanged(path, temporary)
                new = read_tags(temporary)
                if new.own != own:
                    raise RefusedError("its tags do not contain what was written")
                delta = make_delta(path, temporary)
                _check_delta(temporary, delta, row.content)
                copy_status(path, temporary, keep_mtime)
                new_tags = {**_tag_json(new), "wrote": list(plan.genres), "theirs": list(plan.other_genres)}
                placing = True
                journal.fill_change(database, change, content_digest(temporary), new_tags, delta)
                status = replace_file(temporary, path, source, opened)
        except BaseException:
            if placing and temporary.exists():
                journal.void_change(database, change)
            if remove_copy(temporary, placing):
                journal.drop_change(database, change)
            raise
    journal.finish_change(database, change, status.st_size, status.st_mtime_ns)
    return True


def _check_delta(new: Path, delta: bytes, before: bytes) -> None:
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        if apply_delta(new, delta, nowhere) != before:
            raise LibraryError("the change could not have been undone, so it was not made; please report this")


def _tag_json(values: TagValues) -> dict[str, object]:
    return {"genres": list(values.genres), "own": dict(values.own)}
