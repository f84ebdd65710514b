"""Undo a run: restore every file that it wrote to, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from genretree.files import content_digest, printable
from genretree.library.apply.file_lock import LockedError
from genretree.library.apply.replace_file import (
    CHANGED,
    Refusal,
    RefusedError,
    check_same_file,
    copy_file,
    copy_status,
    copy_token,
    create_file,
    exclusive_access,
    name_copy,
    remove_copy,
    replace_file,
    undo_torn_write,
)
from genretree.library.apply.write_in_place import hash_with_region, write_in_place
from genretree.library.database import journal
from genretree.library.database.connection import Database
from genretree.library.database.path_selection import PathSelection
from genretree.library.tags.adapters import TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, hash_audio
from genretree.library.tags.binary_delta import apply_delta, undo_in_region
from genretree.library.tags.tag_region import CAN_WRITE_IN_PLACE, MAX_REGION, TagRegion
from genretree.library.tags.verify_unchanged import check_unchanged


def undo(
    database: Database,
    run: int,
    *,
    force: bool = False,
    selection: PathSelection | None = None,
    report: Callable[[str, Refusal | None], None] | None = None,
) -> tuple[int, list[Refusal]]:
    """Restore the bytes of every file that a run changed, including what later runs changed in it.

    Parameters
    ----------
    database : Database
        Locked by the caller with `lock_database`.
    run : int
        Number of the run.
    force : bool
        In files that other programs have changed since, restore genretree's fields, and the genre if it is still the
        one that genretree wrote; keep everything else.
    selection : PathSelection, optional
        Restore only these files; the others can be restored later.
    report : callable, optional
        Called for each file.

    Returns
    -------
    restored : int
        Number of files restored.
    refused : list of Refusal
        Files that were skipped, with the reasons.
    """
    restored = 0
    refused: list[Refusal] = []
    for chain in journal.iter_chains(database, run):
        refusal = None
        path = chain[-1].path
        if selection is not None and not journal.is_selected(database, selection, path):
            continue
        try:
            _restore(database, chain, force, selection)
            restored += 1
        except (RefusedError, LockedError, TagError, LayoutError) as error:
            refusal = Refusal(path, str(error) or type(error).__name__)
        except FileNotFoundError:
            refusal = Refusal(path, "no longer exists")
        except OSError as error:
            refusal = Refusal(path, f"can't be written: {error.strerror or error or type(error).__name__}")
        if refusal is not None:
            refused.append(refusal)
        if report is not None:
            report(path, refusal)
    return restored, refused


def _restore(
    database: Database, chain: list[journal.Change], force: bool, selection: PathSelection | None = None
) -> None:
    """Undo a file's changes, newest first."""
    oldest = chain[-1]
    path = Path(oldest.path)
    undo_torn_write(path)
    with path.open("rb") as source:
        opened = os.fstat(source.fileno())
        region = undo_region(source, chain)
        now, then = hash_with_region(source, region)
        check_same_file(source, opened, path)
        if now == oldest.before:  # restored before, but not recorded
            journal.finish_undo(database, chain, now, opened.st_size, opened.st_mtime_ns)
            return
        exact = now == chain[0].after
        if not exact and (moved := journal.find_swapped(database, chain)) is not None:
            if selection is not None and not selection.includes(moved[-1].path):
                raise RefusedError(f"has exchanged names with {printable(moved[-1].path)}, which is not selected")
            _restore(database, moved, force, selection)
            return
        if not exact and not force:
            raise RefusedError(
                "was changed by another program since; `force=True` removes genretree's fields and leaves the rest"
            )
        in_place = region if exact and then == oldest.before else None
        if in_place is not None and _restore_region(database, chain, source, opened, in_place):
            return
        temporary, placing = name_copy(path), False
        journal.begin_undo(database, oldest.id, str(temporary))
        try:
            with exclusive_access(path, source, opened):
                if exact:
                    _rewind(path, temporary, chain)
                else:
                    if copy_file(source, temporary) != now:
                        raise RefusedError(CHANGED)
                    genres = read_tags(temporary).genres
                    if genres == tuple(chain[0].new["genres"]):  # a genre that was set since is not changed
                        genres = tuple(oldest.old["genres"])
                    write_tags(temporary, genres, oldest.old["own"])
                    if hash_audio(temporary) != hash_audio(path):
                        raise RefusedError("its audio would have changed")
                    check_unchanged(path, temporary)
                copy_status(path, temporary, keep_mtime=False)
                if exact:
                    os.utime(temporary, ns=(opened.st_atime_ns, oldest.before_mtime_ns))
                after = content_digest(temporary)
                placing = True
                status = replace_file(temporary, path, source, opened)
        except BaseException:
            if remove_copy(temporary, placing):
                journal.stop_undo(database, oldest.id)
            raise
    journal.finish_undo(database, chain, after, status.st_size, status.st_mtime_ns)


def undo_region(source: BinaryIO, chain: list[journal.Change]) -> TagRegion | None:
    """Return the bytes that undo a chain in place; None if the size of the file changes."""
    if not CAN_WRITE_IN_PLACE:
        return None
    number = source.fileno()
    found = undo_in_region(
        lambda start, count: os.pread(number, count, start),
        os.fstat(number).st_size,
        [item.delta for item in chain],
        MAX_REGION,
    )
    return None if found is None else TagRegion(*found)


def _restore_region(
    database: Database, chain: list[journal.Change], source: BinaryIO, opened: os.stat_result, region: TagRegion
) -> bool:
    """Undo a file's changes in place; returns False if the file can't be locked, so that it has to be copied."""
    oldest = chain[-1]
    path = Path(oldest.path)
    with exclusive_access(path, source, opened) as locked:
        if not locked:
            return False
        temporary = name_copy(path)  # no file has this name: it is the token of the write
        journal.begin_undo(database, oldest.id, str(temporary))

        def stop() -> None:
            journal.stop_undo(database, oldest.id)

        status = write_in_place(path, source, opened, region, copy_token(temporary), oldest.before_mtime_ns, stop)
    journal.finish_undo(database, chain, oldest.before, status.st_size, status.st_mtime_ns)
    return True


def _rewind(path: Path, temporary: Path, chain: list[journal.Change]) -> None:
    """Write the file's content before the oldest change of a chain."""
    source = path
    step = journal.intermediate_path(temporary)
    try:
        for item in chain:
            with create_file(step) as stream:
                if apply_delta(source, item.delta, stream) != item.before:
                    raise RefusedError("the journal can't restore the old file; nothing was changed")
            step.replace(temporary)
            source = temporary
    finally:
        step.unlink(missing_ok=True)
