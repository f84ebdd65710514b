"""The SQLite file that holds all that is known of a library: files, results, and the journal of what was written.

Every finished file is committed at once, in WAL mode, so that a process that is killed loses what it had in hand and
nothing else. Paths are stored as the bytes the system knows them by, since names need not be text.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import platformdirs

from genretree.errors import LibraryError
from genretree.library.database.migrations import (
    FORMAT,
    create_schema,
    emulate_current_format,
    migrate,
    read_format,
)
from genretree.remote import is_url

_BUSY_SECONDS = 10.0
_CACHE_KIB = 16_000
_CHECKED_BYTES = 64 << 20  # a larger database is only checked by commands that write
_BACKUPS = 3


def default_database() -> Path:
    """Where the database is if nobody says: `$GENRETREE_LIBRARY`, or in the user's folder for programs' data."""
    given = os.environ.get("GENRETREE_LIBRARY")
    return Path(given) if given else platformdirs.user_data_path("genretree") / "library.sqlite"


class Database:
    """An open database.

    Parameters
    ----------
    path : Path
    connection : sqlite3.Connection
        In autocommit; use `transaction` to write.
    copied : tempfile.TemporaryDirectory, optional
        Folder of the copy that is open in place of a database which can't be read where it is; goes with `close`.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, copied: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        self.path = path
        self.connection = connection
        self._copied = copied

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, all of it or nothing.

        Raises
        ------
        LibraryError
            If the disk is full, or the database is damaged or can't be written to.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                if self.connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise explain(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
        if self._copied is not None:
            self._copied.cleanup()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(path: str | Path, *, create: bool = False, show: bool = False, check: bool | None = None) -> Database:
    """Open a library's database.

    Parameters
    ----------
    path : path
        On a local disk: SQLite's WAL does not work over a network file system.
    create : bool
        Make a new one if there is none.
    show : bool
        Only to be read: a database that can't be written to, or whose folder can't, opens all the same, and one of
        an earlier format stays as it is. Otherwise it is migrated to the current format.
    check : bool, optional
        Look for damage first, which reads the whole file; by default if it is smaller than 64 MB.

    Raises
    ------
    LibraryError
        If there is none, or it is something else, damaged, or of another format.
    """
    path = Path(path)
    if not path.exists() and _backup(path, 1).exists():
        advice = ", or move the backups away to begin a new library" if create else ""
        raise LibraryError(
            f"{path}: is missing, but its backup {_backup(path, 1)} is there; copy that to {path}{advice}"
        )
    if not create and not path.is_file():
        raise LibraryError(f"{path}: no such library; make it with: genretree library analyse")
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    if check is None:
        check = not path.exists() or path.stat().st_size < _CHECKED_BYTES
    state: Database | None = None
    try:
        state = Database(path, sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None))
        try:
            _prepare(state, create, check, upgrade=not show)
        except sqlite3.OperationalError as error:
            if not show or error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            state.close()
            state = _open_read_only(path)
            _prepare(state, create=False, check=check, upgrade=False)
    except BaseException as error:
        if state is not None:
            state.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise explain(path, error) from error
        raise
    return state


def _prepare(state: Database, create: bool, check: bool, upgrade: bool) -> None:
    """Make the tables if there are none, or see whether they are sound and of a format that can be read."""
    path, connection = state.path, state.connection
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        # An emptied database looks like a new one; a backup tells them apart.
        if not create or _backup(path, 1).exists():
            raise LibraryError(f"{path}: is empty; {_advice(path)}")
        connection.execute("PRAGMA journal_mode = WAL")
        create_schema(connection)
    elif check:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise LibraryError(f"{path}: is damaged ({' '.join(found.split())}); {_advice(path)}")
    connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing by it
    format_ = read_format(connection)
    if format_ is None or not 1 <= format_ <= FORMAT:
        raise LibraryError(
            f"{path}: library format {format_}, this version of genretree reads 1 to {FORMAT}; update "
            "genretree, or name another file in `path`"
        )
    if not upgrade:
        emulate_current_format(connection)
    elif format_ < FORMAT:
        with state.transaction():
            migrate(connection)


def _open_read_only(path: Path) -> Database:
    """Open a database next to which SQLite can't make the files that WAL mode needs."""
    log = path.with_name(f"{path.name}-wal")
    copied = None
    readable = path
    if log.exists() and log.stat().st_size:  # what is only in the log would be missing from an immutable database
        copied = tempfile.TemporaryDirectory(prefix="genretree-")
        readable = Path(copied.name) / path.name
        try:
            shutil.copyfile(path, readable)
            shutil.copyfile(log, readable.with_name(log.name))
        except OSError as error:
            copied.cleanup()
            raise LibraryError(f"{path}: can't be read ({error.strerror or error})") from error
    address = f"{readable.absolute().as_uri()}{'' if copied else '?mode=ro&immutable=1'}"
    return Database(path, sqlite3.connect(address, uri=True, isolation_level=None), copied)


def back_up(state: Database) -> Path:
    """Copy a database to `<name>.backup-1` and number the earlier copies up; three are retained.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    LibraryError
        If it can't be written; the earlier copies are then as they were.
    """
    new = state.path.with_name(f"{state.path.name}.backup-new")  # only a `sole_worker` writes it
    try:
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new)) as target:
            state.connection.backup(target)
        with new.open("rb+") as stream:
            os.fsync(stream.fileno())
        for number in range(_BACKUPS - 1, 0, -1):
            if _backup(state.path, number).exists():
                _backup(state.path, number).replace(_backup(state.path, number + 1))
        new.replace(_backup(state.path, 1))
    except sqlite3.DatabaseError as error:
        new.unlink(missing_ok=True)
        source = state.path if _is_damage(error) else new
        raise explain(source, error) from error
    except OSError as error:
        raise LibraryError(f"{new}: can't be written ({error.strerror or error}); nothing was changed") from error
    return _backup(state.path, 1)


def _backup(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.backup-{number}")


def backups(path: Path) -> list[Path]:
    """Return the backups of a database that are there, the latest first."""
    return [copy for number in range(1, _BACKUPS + 1) if (copy := _backup(path, number)).is_file()]


@contextmanager
def sole_worker(path: Path, what: str) -> Iterator[None]:
    """Let only one process at a time work on a library; the lock goes with the process, however it ends.

    It is a transaction on an empty database next to the library's, which every system has and no kill leaves behind.

    Raises
    ------
    LibraryError
        If another one is at work.
    """
    lock = path.with_name(f"{path.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    who = path.with_name(f"{path.name}.who")
    held = sqlite3.connect(lock, timeout=0, isolation_level=None)
    try:
        held.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        held.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise explain(lock, error) from error
        holder = who.read_text(encoding="utf-8") if who.is_file() else "another process"
        raise LibraryError(
            f"{path}: {holder} is using it; wait until it has finished, or name another file in `path`"
        ) from None
    try:
        who.write_text(f"{what} (process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')})", encoding="utf-8")
        yield
    finally:
        who.unlink(missing_ok=True)
        held.close()


def encode_path(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes a path is stored as."""
    return os.fsencode(path)


def decode_path(stored: bytes) -> str:
    """Return the path back; bytes that are not text come as surrogates, as everywhere in Python."""
    return os.fsdecode(stored)


def folder_range(folder: str) -> tuple[bytes, bytes]:
    """Return the bounds between which the stored paths of all files below a folder, or a URL, lie."""
    separator = os.fsencode(os.sep)
    if is_url(folder):
        separator = b"/"
    else:
        folder = os.path.realpath(folder)
    return range_below(encode_path(folder), separator)


def range_below(stored: bytes, separator: bytes) -> tuple[bytes, bytes]:
    """Return the bounds between which all paths lie that begin with a stored path and a separator."""
    start = stored.rstrip(separator) + separator
    return start, start[:-1] + bytes([start[-1] + 1])


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite raises in the block into a `LibraryError` that names the database and says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise explain(path, error) from error


def explain(path: Path, error: sqlite3.DatabaseError) -> LibraryError:
    """Return an error that says what is wrong with a database, and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LibraryError(
            f"{path}: the disk is full; finished files are saved; free some space and run the command again"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        if path.exists() and not os.access(path, os.R_OK):
            return LibraryError(f"{path}: can't be read ({error}); ask its owner for access, or name another file in `path`")
        return LibraryError(f"{path}: can't be written to ({error}); name a file in a writable folder in `path`")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LibraryError(f"{path}: another program is using it ({error}); try again when that has finished")
    if code == sqlite3.SQLITE_IOERR:
        return LibraryError(f"{path}: its disk can't be read or written ({error}); check the disk, then try again")
    if code == sqlite3.SQLITE_NOTADB:
        return LibraryError(
            f"{path}: is not a library database ({error}); name another file in `path`, or, if it was one: {_advice(path)}"
        )
    return LibraryError(f"{path}: is damaged ({error}); {_advice(path)}")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _advice(path: Path) -> str:
    """Return what to do about a damaged database."""
    kept = _backup(path, 1)
    rescue = f"genretree library rescue {path} --out NEW.db"
    if kept.exists():
        return f"move it and its -wal file away and put {kept} in its place, or save what can be read: {rescue}"
    return f"there is no backup {kept.name}; save what can be read: {rescue}"
