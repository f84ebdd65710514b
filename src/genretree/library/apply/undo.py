"""Undo a run: restore every file that it wrote to, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from genretree.library.apply.file_lock import LockedError
from genretree.library.apply.replace_file import (
    CHANGED,
    Refusal,
    RefusedError,
    check_same_file,
    copy_file,
    copy_status,
    create_file,
    exclusive_access,
    name_copy,
    remove_copy,
    replace_file,
)
from genretree.library.database import journal
from genretree.library.database.connection import Database
from genretree.library.tags.adapters import TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, sound_digest
from genretree.library.tags.binary_delta import apply_delta, content_digest, stream_digest
from genretree.library.tags.verify_unchanged import check_untouched


def undo(
    state: Database,
    run: int,
    *,
    force: bool = False,
    report: Callable[[str, Refusal | None], None] | None = None,
) -> tuple[int, list[Refusal]]:
    """Return back to every file that a run changed the bytes it had before, whatever later runs wrote into it.

    Parameters
    ----------
    state : Database
        Of which the caller is the `sole_worker`.
    run : int
    force : bool
        Of files that others have changed since: give our own fields, and the genre if it is still the one we wrote,
        the values they had, and leave the rest.
    report : callable, optional
        Called for each file.

    Returns
    -------
    (int, list of Refusal)
        How many files were restored, and which were left as they are.
    """
    restored = 0
    refused: list[Refusal] = []
    for chain in journal.iter_chains(state, run):
        refusal = None
        path = chain[-1].path
        try:
            _restore(state, chain, force)
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


def _restore(state: Database, chain: list[journal.Change], force: bool) -> None:
    """Go back through a file's changes, the newest first."""
    oldest = chain[-1]
    path = Path(oldest.path)
    with path.open("rb") as source:
        opened = os.fstat(source.fileno())
        now = stream_digest(source)
        check_same_file(source, opened, path)
        if now == oldest.before:  # done before, but not noted
            journal.finish_undo(state, chain, now, opened.st_size, opened.st_mtime_ns)
            return
        exact = now == chain[0].after
        if not exact and (moved := journal.find_exchanged(state, chain)) is not None:
            _restore(state, moved, force)
            return
        if not exact and not force:
            raise RefusedError(
                "was changed by another program since; `force=True` removes genretree's fields and leaves the rest"
            )
        temporary, placing = name_copy(path), False
        journal.begin_undo(state, oldest.id, str(temporary))
        try:
            with exclusive_access(path, source, opened):
                if exact:
                    _rewind(path, temporary, chain)
                else:
                    if copy_file(source, temporary) != now:
                        raise RefusedError(CHANGED)
                    theirs = read_tags(temporary).genres
                    ours = theirs == tuple(chain[0].new["genres"])  # a genre set by somebody since is left alone, too
                    write_tags(temporary, oldest.old["genres"] if ours else theirs, oldest.old["own"])
                    if sound_digest(temporary) != sound_digest(path):
                        raise RefusedError("its audio would have changed")
                    check_untouched(path, temporary)
                copy_status(path, temporary, keep_mtime=False)
                if exact:
                    os.utime(temporary, ns=(opened.st_atime_ns, oldest.before_mtime_ns))
                after = content_digest(temporary)
                placing = True
                status = replace_file(temporary, path, source, opened)
        except BaseException:
            if remove_copy(temporary, placing):
                journal.stop_undo(state, oldest.id)
            raise
    journal.finish_undo(state, chain, after, status.st_size, status.st_mtime_ns)


def _rewind(path: Path, temporary: Path, chain: list[journal.Change]) -> None:
    """Write the file as it was before the oldest change of a chain."""
    source = path
    step = journal.step_path(temporary)
    try:
        for item in chain:
            with create_file(step) as stream:
                if apply_delta(source, item.delta, stream) != item.before:
                    raise RefusedError("the journal can't restore the old file; nothing was changed")
            step.replace(temporary)
            source = temporary
    finally:
        step.unlink(missing_ok=True)
