"""Write planned genres into files.

If the new tags fit into the padding of the old ones, only they are written. Otherwise they are written into a copy,
which then replaces the file atomically. In both cases the audio must be identical, all other tags unchanged, and the
stored delta must restore the old file, before anything is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from genretree.errors import LibraryError
from genretree.files import content_digest, printable
from genretree.library.apply.file_lock import LockedError
from genretree.library.apply.replace_file import (
    CHANGED,
    Refusal,
    RefusedError,
    copy_file,
    copy_status,
    copy_token,
    exclusive_access,
    name_copy,
    remove_copy,
    replace_file,
    undo_torn_write,
)
from genretree.library.apply.write_in_place import hash_with_region, write_in_place
from genretree.library.database import journal
from genretree.library.database.connection import Database
from genretree.library.plan.planner import TagPlan
from genretree.library.tags.adapters import TagError, TagValues, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, hash_audio
from genretree.library.tags.binary_delta import apply_delta, make_delta, make_region_delta, undo_in_region
from genretree.library.tags.tag_region import MAX_REGION, TagRegion, find_region
from genretree.library.tags.verify_unchanged import check_unchanged


@dataclass
class HardLinks:
    """What happened to files with several names (hard links).

    Parameters
    ----------
    inodes : set of (int, int)
        Device and inode of files that were written in place: all their names have the new tags.
    names : int
        Further names of these files that the plans named, too.
    separated : list of str
        Files that had to be copied: their other names keep the old tags.
    skipped : list of str
        Files that would have had to be copied.
    """

    inodes: set[tuple[int, int]] = field(default_factory=set)
    names: int = 0
    separated: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


_MAYBE_TORN = ("untaggable", "unreadable", "unusable", "changed")  # what a torn write by another process looks like
OUTDATED = "has changed since the analysis; analyse it again"


def apply_plans(
    database: Database,
    plans: Iterable[TagPlan],
    model: str,
    command: str = "",
    *,
    keep_mtime: bool = False,
    skip_hardlinks: bool = False,
    hardlinks: HardLinks | None = None,
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
    skip_hardlinks : bool
        Skip a file with several names (hard links) if its tags do not fit into the padding, since it has to be copied
        then and becomes a separate file.
    hardlinks : HardLinks, optional
        Counts what happens to files with several names.
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
    hardlinks = HardLinks() if hardlinks is None else hardlinks
    for plan in plans:
        if plan.action in _MAYBE_TORN:
            with suppress(LockedError, OSError):
                undo_torn_write(Path(plan.row.path))
        if hardlinks.inodes and _inode(plan) in hardlinks.inodes:  # written under another name
            hardlinks.names += 1
            if report is not None:
                report(plan, None)
            continue
        if plan.action != "write":
            continue
        if run is None:
            run = journal.begin_run(database, model, command)
        refusal = None
        try:
            written += write_plan(database, run, plan, keep_mtime, skip_hardlinks, hardlinks)
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


def _inode(plan: TagPlan) -> tuple[int, int] | None:
    try:
        status = os.lstat(plan.row.path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def write_plan(
    database: Database,
    run: int,
    plan: TagPlan,
    keep_mtime: bool = False,
    skip_hardlinks: bool = False,
    hardlinks: HardLinks | None = None,
) -> bool:
    """Write one file's tags.

    Returns
    -------
    bool
        False if the file already had them, or if it is a hard link that is skipped.

    Raises
    ------
    RefusedError, LockedError, TagError, LayoutError, OSError
        If the file was skipped; it is unchanged then.
    """
    row, path = plan.row, Path(plan.row.path)
    own = dict(plan.own or {})
    hardlinks = HardLinks() if hardlinks is None else hardlinks
    undo_torn_write(path)
    with path.open("rb") as source:
        values = read_tags(path)
        if values.genres != row.genres:
            raise RefusedError("its genre tags have changed since the analysis; analyse it again")
        if values.after(plan.values) == values.genres and values.own == own:
            return False
        opened = os.fstat(source.fileno())
        if (opened.st_size, opened.st_mtime_ns) != (row.size, row.mtime_ns):
            raise RefusedError(OUTDATED)
        found = find_region(path, source, values, plan.values, own)
        in_place = found is not None and _write_region(database, run, plan, source, opened, values, *found, keep_mtime)
        if not in_place:
            if opened.st_nlink > 1 and skip_hardlinks:
                hardlinks.skipped.append(row.path)
                return False
            _write_copy(database, run, plan, source, opened, values, keep_mtime)
    if opened.st_nlink > 1 and in_place:
        hardlinks.inodes.add((opened.st_dev, opened.st_ino))
    elif opened.st_nlink > 1:
        hardlinks.separated.append(row.path)
    return True


def _write_copy(
    database: Database,
    run: int,
    plan: TagPlan,
    source: BinaryIO,
    opened: os.stat_result,
    values: TagValues,
    keep_mtime: bool,
) -> None:
    """Write tags into a copy, which then replaces the file."""
    row, path, own = plan.row, Path(plan.row.path), dict(plan.own or {})
    assert row.content is not None
    temporary, placing = name_copy(path), False
    change = journal.begin_change(database, run, row.path, str(temporary), row.content, row.mtime_ns, _tag_json(values))
    try:
        with exclusive_access(path, source, opened):
            if copy_file(source, temporary) != row.content:
                raise RefusedError(OUTDATED)
            if read_tags(temporary) != values:
                raise RefusedError(CHANGED)
            write_tags(temporary, plan.values, own)
            if hash_audio(temporary) != hash_audio(path):
                raise RefusedError("its audio would have changed")
            check_unchanged(path, temporary)
            new = read_tags(temporary)
            if new.own != own:
                raise RefusedError("its tags do not contain what was written")
            delta = make_delta(path, temporary)
            _check_delta(temporary, delta, row.content)
            copy_status(path, temporary, keep_mtime)
            placing = True
            journal.fill_change(database, change, content_digest(temporary), _new_json(plan, new), delta)
            status = replace_file(temporary, path, source, opened)
    except BaseException:
        if placing and temporary.exists():
            journal.void_change(database, change)
        if remove_copy(temporary, placing):
            journal.drop_change(database, change)
        raise
    journal.finish_change(database, change, status.st_size, status.st_mtime_ns)


def _write_region(
    database: Database,
    run: int,
    plan: TagPlan,
    source: BinaryIO,
    opened: os.stat_result,
    values: TagValues,
    region: TagRegion,
    written: TagValues,
    keep_mtime: bool,
) -> bool:
    """Write tags in place; returns False if the file can't be locked, so that it has to be copied."""
    row, path = plan.row, Path(plan.row.path)
    assert row.content is not None
    delta = make_region_delta(opened.st_size, region.start, region.old, region.new)
    reverse = (region.start, region.new, region.old)
    with exclusive_access(path, source, opened) as locked:
        before, after = hash_with_region(source, region)
        if before != row.content:
            raise RefusedError(OUTDATED)
        if not locked or not after or not _restores(delta, opened.st_size, *reverse):
            return False
        temporary = name_copy(path)  # no file has this name: it is the token of the write
        change = journal.begin_change(
            database, run, row.path, str(temporary), row.content, row.mtime_ns, _tag_json(values)
        )

        def drop() -> None:
            journal.drop_change(database, change)

        try:
            journal.fill_change(database, change, after, _new_json(plan, written), delta)
        except BaseException:
            drop()
            raise
        mtime_ns = opened.st_mtime_ns if keep_mtime else None
        status = write_in_place(path, source, opened, region, copy_token(temporary), mtime_ns, drop)
    journal.finish_change(database, change, status.st_size, status.st_mtime_ns)
    return True


def _restores(delta: bytes, size: int, start: int, new: bytes, old: bytes) -> bool:
    """Return whether a delta makes the old bytes of a region from the new ones."""
    found = undo_in_region(lambda at, count: new[at - start : at - start + count], size, [delta], MAX_REGION)
    if found is None or not start <= found[0] <= found[0] + len(found[1]) <= start + len(new):
        return False
    low = found[0] - start
    return new[:low] + found[2] + new[low + len(found[2]) :] == old


def _new_json(plan: TagPlan, new: TagValues) -> dict[str, object]:
    typed = {"typed": True} if plan.is_typed else {}
    return {**_tag_json(new), "wrote": list(plan.values), "theirs": list(plan.other_genres), **typed}


def _check_delta(new: Path, delta: bytes, before: bytes) -> None:
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        if apply_delta(new, delta, nowhere) != before:
            raise LibraryError("the change could not have been undone, so it was not made; please report this")


def _tag_json(values: TagValues) -> dict[str, object]:
    return {"genres": list(values.genres), "own": dict(values.own)}
