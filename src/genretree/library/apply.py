"""Write genres into files, and take them back.

A file is never written to: a copy beside it is, which then takes its place in one step. Before that it is proved that
the copy holds the same sound, byte by byte, and the same other tags, and that the journal gives back the old file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genretree.errors import LibraryError
from genretree.files import printable
from genretree.library import journal
from genretree.library.delta import apply_delta, content_digest, make_delta
from genretree.library.payload import LayoutError, sound_digest
from genretree.library.plan import Plan
from genretree.library.state import State
from genretree.library.tags import Carried, TagError, read_tags, write_tags
from genretree.library.untouched import check_untouched


class RefusedError(Exception):
    """A file was left as it is; the text says why."""


@dataclass(frozen=True)
class Refusal:
    """A file that was left as it is, and why."""

    path: str
    reason: str


def apply_plans(
    state: State,
    plans: Iterable[Plan],
    model: str,
    command: str = "",
    *,
    keep_mtime: bool = False,
    report: Callable[[Plan, Refusal | None], None] | None = None,
) -> tuple[int | None, int, list[Refusal]]:
    """Write what is planned.

    Parameters
    ----------
    state : State
        Of which the caller is the `sole_worker`.
    plans : iterable of Plan
        Those whose action is not `write` are passed over.
    model : str
        Digest of the model.
    command : str
        To be told by `status`.
    keep_mtime : bool
        Leave the time of the last change as it was; programs that look for changed files then miss this one.
    report : callable, optional
        Is told of each plan that is carried out or refused.

    Returns
    -------
    (int, int, list of Refusal)
        The run's number to undo it by (None if nothing was to be written), how many files were written, and which were
        left as they are. A full disk stops the run.
    """
    run: int | None = None
    written = 0
    refused: list[Refusal] = []
    for plan in plans:
        if plan.action != "write":
            continue
        if run is None:
            run = journal.begin_run(state, model, command)
        refusal = None
        try:
            written += write_plan(state, run, plan, keep_mtime)
        except (RefusedError, TagError, LayoutError) as error:
            refusal = Refusal(plan.row.path, str(error) or type(error).__name__)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                where = f"{printable(plan.row.path)}: the disk is full"
                raise LibraryError(
                    f"{where}; this file is as it was, {written} were written; go on by apply"
                ) from error
            refusal = Refusal(plan.row.path, f"can't be written: {error.strerror or error or type(error).__name__}")
        if refusal is not None:
            refused.append(refusal)
        if report is not None:
            report(plan, refusal)
    return run if written else None, written, refused


def write_plan(state: State, run: int, plan: Plan, keep_mtime: bool = False) -> bool:
    """Write one file's tags; says whether there was anything to write.

    Raises
    ------
    RefusedError, TagError, LayoutError, OSError
        If it was left as it is.
    """
    row, path = plan.row, Path(plan.row.path)
    assert row.content is not None
    own = dict(plan.own or {})
    carried = read_tags(path)
    if carried.genres != row.genres:
        raise RefusedError("carries other genres than when it was analysed; analyse it again")
    if carried.after(plan.genres) == carried.genres and carried.own == own:
        return False
    temporary = _beside(path)
    change = journal.begin_change(state, run, row.path, str(temporary), row.content, row.mtime_ns, _facts(carried))
    try:
        shutil.copyfile(path, temporary)
        if content_digest(temporary) != row.content:
            raise RefusedError("has changed since it was analysed; analyse it again")
        write_tags(temporary, plan.genres, own)
        if sound_digest(temporary) != sound_digest(path):
            raise RefusedError("its sound would not have stayed as it is")
        check_untouched(path, temporary)
        new = read_tags(temporary)
        if new.own != own:
            raise RefusedError("its tags don't hold what was written")
        delta = make_delta(path, temporary)
        _check_delta(temporary, delta, row.content)
        _copy_status(path, temporary, keep_mtime)
        facts = {**_facts(new), "wrote": list(plan.genres), "theirs": list(plan.theirs)}
        journal.fill_change(state, change, content_digest(temporary), facts, delta)
        now = path.lstat()
        if (now.st_size, now.st_mtime_ns) != (row.size, row.mtime_ns):
            raise RefusedError("has changed since it was analysed; analyse it again")
        _take_place(temporary, path)
    except BaseException:
        if temporary.exists() or (path.exists() and content_digest(path) == row.content):
            temporary.unlink(missing_ok=True)
            journal.drop_change(state, change)
        raise
    status = path.stat()
    journal.finish_change(state, change, status.st_size, status.st_mtime_ns)
    return True


def undo(
    state: State,
    run: int,
    *,
    force: bool = False,
    report: Callable[[str, Refusal | None], None] | None = None,
) -> tuple[int, list[Refusal]]:
    """Give back to every file that a run changed the bytes it had before, whatever later runs wrote into it.

    Parameters
    ----------
    state : State
        Of which the caller is the `sole_worker`.
    run : int
    force : bool
        Of files that others have changed since: give our own fields, and the genre if it is still the one we wrote,
        the values they had, and leave the rest.
    report : callable, optional
        Is told of each file.

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
        except (RefusedError, TagError, LayoutError) as error:
            refusal = Refusal(path, str(error) or type(error).__name__)
        except FileNotFoundError:
            refusal = Refusal(path, "is no longer there")
        except OSError as error:
            refusal = Refusal(path, f"can't be written: {error.strerror or error or type(error).__name__}")
        if refusal is not None:
            refused.append(refusal)
        if report is not None:
            report(path, refusal)
    return restored, refused


def _restore(state: State, chain: list[journal.Change], force: bool) -> None:
    """Go back through a file's changes, the newest first."""
    oldest = chain[-1]
    path = Path(oldest.path)
    now = content_digest(path)
    if now == oldest.before:  # done before, but not noted
        status = path.stat()
        journal.finish_undo(state, chain, now, status.st_size, status.st_mtime_ns)
        return
    exact = now == chain[0].after
    if not exact and not force:
        raise RefusedError("was changed by something else since; --force takes our fields back and leaves the rest")
    temporary = _beside(path)
    journal.begin_undo(state, oldest.id, str(temporary))
    try:
        if exact:
            _rewind(path, temporary, chain)
        else:
            shutil.copyfile(path, temporary)
            theirs = read_tags(path).genres
            ours = theirs == tuple(chain[0].new["genres"])  # a genre that somebody set since is left alone, too
            write_tags(temporary, oldest.old["genres"] if ours else theirs, oldest.old["own"])
            if sound_digest(temporary) != sound_digest(path):
                raise RefusedError("its sound would not have stayed as it is")
            check_untouched(path, temporary)
        _copy_status(path, temporary, keep_mtime=False)
        if exact:
            os.utime(temporary, ns=(path.stat().st_atime_ns, oldest.before_mtime_ns))
        after = content_digest(temporary)
        _take_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        journal.stop_undo(state, oldest.id)
        raise
    status = path.stat()
    journal.finish_undo(state, chain, after, status.st_size, status.st_mtime_ns)


def _rewind(path: Path, temporary: Path, chain: list[journal.Change]) -> None:
    """Write the file as it was before the oldest change of a chain."""
    source = path
    step = temporary.with_suffix(".step")
    try:
        for item in chain:
            with step.open("wb") as stream:
                if apply_delta(source, item.delta, stream) != item.before:
                    raise RefusedError("the journal does not give the old file back; nothing was changed")
            step.replace(temporary)
            source = temporary
    finally:
        step.unlink(missing_ok=True)


def _check_delta(new: Path, delta: bytes, before: bytes) -> None:
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        if apply_delta(new, delta, nowhere) != before:
            raise LibraryError("a change that could not be undone was about to be made; please report this")


def _facts(carried: Carried) -> dict[str, object]:
    return {"genres": list(carried.genres), "own": dict(carried.own)}


def _beside(path: Path) -> Path:
    """Name the copy: short, since a name may be as long as the system allows, and hidden, so that no walk takes it."""
    return path.with_name(f".genretree-{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.tmp")


def _copy_status(source: Path, target: Path, keep_mtime: bool) -> None:
    """Give the copy the file's owner, mode, extended attributes and, if wished, time."""
    status = source.stat()
    written = target.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may give files away
            os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)
    if not keep_mtime:
        os.utime(target, ns=(status.st_atime_ns, written.st_mtime_ns))


def _take_place(temporary: Path, path: Path) -> None:
    """Put a finished copy in the file's place, so that either of them is there whenever power fails."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
