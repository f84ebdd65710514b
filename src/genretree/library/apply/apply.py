"""Write genres into files, and take them back.

A file is never written to: a copy beside it is, which then takes its place in one step. Before that it is proved that
the copy holds the same sound, byte by byte, and the same other tags, and that the journal gives back the old file.

Other processes, with databases of their own or none, may work on the same file. Three things protect it: the copy has a
random name and is created exclusively; a lock is held from the copy to the replacement; and just before the replacement
the name must still lead to the file that was opened at the beginning, unchanged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genretree.errors import LibraryError
from genretree.files import printable
from genretree.library.apply.file_lock import LockedError, lock_file
from genretree.library.database import journal
from genretree.library.database.connection import State
from genretree.library.plan.planner import Plan
from genretree.library.tags.adapters import Carried, TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, sound_digest
from genretree.library.tags.binary_delta import apply_delta, content_digest, make_delta, stream_digest
from genretree.library.tags.verify_unchanged import check_untouched

_BLOCK = 1 << 20
_CHANGED = "another program changed it at the same time; it was left as that program wrote it"


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
        except (RefusedError, LockedError, TagError, LayoutError) as error:
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
    RefusedError, LockedError, TagError, LayoutError, OSError
        If it was left as it is.
    """
    row, path = plan.row, Path(plan.row.path)
    assert row.content is not None
    own = dict(plan.own or {})
    with path.open("rb") as source:
        carried = read_tags(path)
        if carried.genres != row.genres:
            raise RefusedError("carries other genres than when it was analysed; analyse it again")
        if carried.after(plan.genres) == carried.genres and carried.own == own:
            return False
        temporary = _name_copy(path)
        opened = os.fstat(source.fileno())
        if (opened.st_size, opened.st_mtime_ns) != (row.size, row.mtime_ns):
            raise RefusedError("has changed since it was analysed; analyse it again")
        placing = False
        change = journal.begin_change(state, run, row.path, str(temporary), row.content, row.mtime_ns, _facts(carried))
        try:
            with _alone(path, source, opened):
                if _copy(source, temporary) != row.content:
                    raise RefusedError("has changed since it was analysed; analyse it again")
                if read_tags(temporary) != carried:
                    raise RefusedError(_CHANGED)
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
                placing = True
                journal.fill_change(state, change, content_digest(temporary), facts, delta)
                status = _take_place(temporary, path, source, opened)
        except BaseException:
            if placing and temporary.exists():
                journal.void_change(state, change)
            if _clear_up(temporary, placing):
                journal.drop_change(state, change)
            raise
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
        except (RefusedError, LockedError, TagError, LayoutError) as error:
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
    with path.open("rb") as source:
        opened = os.fstat(source.fileno())
        now = stream_digest(source)
        _check_same(source, opened, path)
        if now == oldest.before:  # done before, but not noted
            journal.finish_undo(state, chain, now, opened.st_size, opened.st_mtime_ns)
            return
        exact = now == chain[0].after
        if not exact and (moved := journal.find_exchanged(state, chain)) is not None:
            _restore(state, moved, force)
            return
        if not exact and not force:
            raise RefusedError("was changed by something else since; --force takes our fields back and leaves the rest")
        temporary, placing = _name_copy(path), False
        journal.begin_undo(state, oldest.id, str(temporary))
        try:
            with _alone(path, source, opened):
                if exact:
                    _rewind(path, temporary, chain)
                else:
                    if _copy(source, temporary) != now:
                        raise RefusedError(_CHANGED)
                    theirs = read_tags(temporary).genres
                    ours = theirs == tuple(chain[0].new["genres"])  # a genre set by somebody since is left alone, too
                    write_tags(temporary, oldest.old["genres"] if ours else theirs, oldest.old["own"])
                    if sound_digest(temporary) != sound_digest(path):
                        raise RefusedError("its sound would not have stayed as it is")
                    check_untouched(path, temporary)
                _copy_status(path, temporary, keep_mtime=False)
                if exact:
                    os.utime(temporary, ns=(opened.st_atime_ns, oldest.before_mtime_ns))
                after = content_digest(temporary)
                placing = True
                status = _take_place(temporary, path, source, opened)
        except BaseException:
            if _clear_up(temporary, placing):
                journal.stop_undo(state, oldest.id)
            raise
    journal.finish_undo(state, chain, after, status.st_size, status.st_mtime_ns)


def _rewind(path: Path, temporary: Path, chain: list[journal.Change]) -> None:
    """Write the file as it was before the oldest change of a chain."""
    source = path
    step = journal.step_path(temporary)
    try:
        for item in chain:
            with _create(step) as stream:
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


def _name_copy(path: Path) -> Path:
    """Name the copy.

    The name is short, since the file's may be as long as the system allows; hidden, so that no walk takes it; and
    random, so that no other process has the same one, and recovery removes nobody else's.
    """
    return path.with_name(f".genretree-{secrets.token_hex(16)}.tmp")


def _create(path: Path) -> BinaryIO:
    """Create a file that must not exist yet, for its owner only until it has the mode of the original."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb")


def _copy(source: BinaryIO, target: Path) -> bytes:
    """Copy an open file to one that must not exist yet; returns the hash of what was copied."""
    digest = hashlib.blake2b(digest_size=16)
    source.seek(0)
    with _create(target) as stream:
        while block := source.read(_BLOCK):
            digest.update(block)
            stream.write(block)
    return digest.digest()


@contextmanager
def _alone(path: Path, source: BinaryIO, opened: os.stat_result) -> Iterator[None]:
    """Hold the file's lock; a failure that another program's change explains is reported as that change."""
    with lock_file(path):
        _check_same(source, opened, path)
        try:
            yield
        except (RefusedError, TagError, LayoutError, LibraryError):
            _check_same(source, opened, path)
            raise


def _check_same(source: BinaryIO, opened: os.stat_result, path: Path) -> None:
    """Compare an open file with how it was when it was opened, and with what its name leads to now.

    Raises
    ------
    RefusedError
        If another program has written to it, replaced or removed it.
    """
    try:
        named = path.lstat()
    except FileNotFoundError:
        raise RefusedError("was removed by another program at the same time; nothing was written") from None
    stamps = {
        (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        for status in (opened, os.fstat(source.fileno()), named)
    }
    if len(stamps) > 1:
        raise RefusedError(_CHANGED)


def _clear_up(temporary: Path, placing: bool) -> bool:
    """Remove the copy after a failure.

    What the file holds decides nothing here, since another process may have replaced it. The copy alone does: while it
    is there, it has not taken the file's place.

    Returns
    -------
    bool
        Whether it is certain that the file was left as it is and no copy remains. Otherwise recovery finds out.
    """
    try:
        journal.step_path(temporary).unlink(missing_ok=True)
        temporary.unlink()
    except FileNotFoundError:
        return not placing
    except OSError:
        return False
    return True


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


def _take_place(temporary: Path, path: Path, source: BinaryIO, opened: os.stat_result) -> os.stat_result:
    """Put a finished copy in the file's place, so that either of them is there whenever power fails.

    Returns
    -------
    stat_result
        Of the copy: what the name leads to afterwards may be another program's already.
    """
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
        status = os.fstat(stream.fileno())
    _check_same(source, opened, path)
    if os.name == "nt":
        source.close()  # an open file can't be replaced there
    temporary.replace(path)
    if os.name == "posix":
        with suppress(OSError):  # some network file systems can't; the file is in place
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    return status
