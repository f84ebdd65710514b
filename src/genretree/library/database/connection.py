"""Open, lock, check and back up the SQLite database of a library: its files, results, and journal of changes.

Each finished file is committed at once, in WAL mode, so that a killed process loses only the files in progress.
Paths are stored as bytes, as the operating system returns them, since file names need not be valid text.
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
    """Return the default path of the database: `$GENRETREE_LIBRARY`, or a file in the user's data folder."""
    path = os.environ.get("GENRETREE_LIBRARY")
    return Path(path) if path else platformdirs.user_data_path("genretree") / "library.sqlite"


class Database:
    """An open database.

    Parameters
    ----------
    path : Path
    connection : sqlite3.Connection
        In autocommit; use `transaction` to write.
    copy_folder : tempfile.TemporaryDirectory, optional
        Folder of a temporary copy, opened where the database can't be read in place; removed by `close`.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, copy_folder: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        self.path = path
        self.connection = connection
        self._copied = copy_folder

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit everything that the block writes, or nothing.

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
            raise to_library_error(self.path, error) from error

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        if self._copied is not None:
            self._copied.cleanup()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(
    path: str | Path, *, create: bool = False, read_only: bool = False, check: bool | None = None
) -> Database:
    """Open a library's database.

    Parameters
    ----------
    path : path
        Must be on a local disk: SQLite's WAL mode does not work over a network file system.
    create : bool
        Create the database if it is missing.
    read_only : bool
        Open for reading only. This also works without write access to the database or its folder, and a database of
        an earlier format is not migrated.
    check : bool, optional
        Check for damage first, which reads the whole file. Default: check databases smaller than 64 MB.

    Returns
    -------
    Database

    Raises
    ------
    LibraryError
        If the database is missing, damaged, of an unknown format, or not a library database.
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
    database: Database | None = None
    try:
        database = Database(path, sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None))
        try:
            _prepare(database, create, check, upgrade=not read_only)
        except sqlite3.OperationalError as error:
            if not read_only or error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            database.close()
            database = _open_read_only(path)
            _prepare(database, create=False, check=check, upgrade=False)
    except BaseException as error:
        if database is not None:
            database.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise to_library_error(path, error) from error
        raise
    return database


def _prepare(database: Database, create: bool, check: bool, upgrade: bool) -> None:
    """Create the tables if there are none; otherwise check them for damage and for a known format."""
    path, connection = database.path, database.connection
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        # A truncated database looks like a new one; a backup shows that it is not.
        if not create or _backup(path, 1).exists():
            raise LibraryError(f"{path}: is empty; {_advice(path)}")
        connection.execute("PRAGMA journal_mode = WAL")
        create_schema(connection)
    elif check:
        status = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if status != "ok":
            raise LibraryError(f"{path}: is damaged ({' '.join(status.split())}); {_advice(path)}")
    connection.execute("PRAGMA synchronous = NORMAL")  # safe if the process is killed
    format_ = read_format(connection)
    if format_ is None or not 1 <= format_ <= FORMAT:
        raise LibraryError(
            f"{path}: library format {format_}, this version of genretree reads 1 to {FORMAT}; update "
            "genretree, or name another file in `path`"
        )
    if not upgrade:
        emulate_current_format(connection)
    elif format_ < FORMAT:
        with database.transaction():
            migrate(connection)


def _open_read_only(path: Path) -> Database:
    """Open a database in a folder where SQLite can't create the files that WAL mode needs."""
    log = path.with_name(f"{path.name}-wal")
    copy_folder = None
    readable = path
    if log.exists() and log.stat().st_size:  # with immutable=1, SQLite ignores the log
        copy_folder = tempfile.TemporaryDirectory(prefix="genretree-")
        readable = Path(copy_folder.name) / path.name
        try:
            shutil.copyfile(path, readable)
            shutil.copyfile(log, readable.with_name(log.name))
        except OSError as error:
            copy_folder.cleanup()
            raise LibraryError(f"{path}: can't be read ({error.strerror or error})") from error
    address = f"{readable.absolute().as_uri()}{'' if copy_folder else '?mode=ro&immutable=1'}"
    return Database(path, sqlite3.connect(address, uri=True, isolation_level=None), copy_folder)


def back_up(database: Database) -> Path:
    """Copy a database to `<name>.backup-1` and renumber the earlier backups; the last three are retained.

    Returns
    -------
    Path
        The new backup.

    Raises
    ------
    LibraryError
        If the backup can't be written; the earlier backups are unchanged then.
    """
    new = database.path.with_name(f"{database.path.name}.backup-new")  # only written under `lock_database`
    try:
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new)) as target:
            database.connection.backup(target)
        with new.open("rb+") as stream:
            os.fsync(stream.fileno())
        for number in range(_BACKUPS - 1, 0, -1):
            if _backup(database.path, number).exists():
                _backup(database.path, number).replace(_backup(database.path, number + 1))
        new.replace(_backup(database.path, 1))
    except sqlite3.DatabaseError as error:
        new.unlink(missing_ok=True)
        source = database.path if _is_damage(error) else new
        raise to_library_error(source, error) from error
    except OSError as error:
        raise LibraryError(f"{new}: can't be written ({error.strerror or error}); nothing was changed") from error
    return _backup(database.path, 1)


def _backup(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.backup-{number}")


def backups(path: Path) -> list[Path]:
    """List the existing backups of a database, newest first."""
    return [copy for number in range(1, _BACKUPS + 1) if (copy := _backup(path, number)).is_file()]


@contextmanager
def lock_database(path: Path, what: str) -> Iterator[None]:
    """Lock a library for this process; the lock is released however the process ends.

    The lock is a transaction on an empty database next to the library's: that works on every system, and a killed
    process leaves no lock behind.

    Parameters
    ----------
    path : Path
        The library's database.
    what : str
        Name of the command, for the message that other processes get.

    Raises
    ------
    LibraryError
        If another process holds the lock.
    """
    lock_path = path.with_name(f"{path.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    owner_file = path.with_name(f"{path.name}.who")
    lock = sqlite3.connect(lock_path, timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise to_library_error(lock_path, error) from error
        holder = owner_file.read_text(encoding="utf-8") if owner_file.is_file() else "another process"
        raise LibraryError(
            f"{path}: {holder} is using it; wait until it has finished, or name another file in `path`"
        ) from None
    try:
        owner_file.write_text(
            f"{what} (process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')})", encoding="utf-8"
        )
        yield
    finally:
        owner_file.unlink(missing_ok=True)
        lock.close()


def encode_path(path: str | os.PathLike[str]) -> bytes:
    """Encode a path as the bytes that the database stores."""
    return os.fsencode(path)


def decode_path(stored: bytes) -> str:
    """Decode a stored path; bytes that are not valid text become surrogates (PEP 383)."""
    return os.fsdecode(stored)


def folder_range(folder: str) -> tuple[bytes, bytes]:
    """Return the range [start, end) of the stored paths of all files below a folder or URL."""
    separator = os.fsencode(os.sep)
    if is_url(folder):
        separator = b"/"
    else:
        folder = os.path.realpath(folder)
    return range_below(encode_path(folder), separator)


def range_below(stored: bytes, separator: bytes) -> tuple[bytes, bytes]:
    """Return the range [start, end) of the paths that begin with a stored path and a separator."""
    start = stored.rstrip(separator) + separator
    return start, start[:-1] + bytes([start[-1] + 1])


@contextmanager
def convert_errors(path: Path) -> Iterator[None]:
    """Convert SQLite errors in the block to a `LibraryError` that names the database and a remedy."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise to_library_error(path, error) from error


def to_library_error(path: Path, error: sqlite3.DatabaseError) -> LibraryError:
    """Convert an SQLite error to a `LibraryError` that says what is wrong with the database and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LibraryError(
            f"{path}: the disk is full; finished files are saved; free some space and run the command again"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        if path.exists() and not os.access(path, os.R_OK):
            return LibraryError(
                f"{path}: can't be read ({error}); ask its owner for access, or name another file in `path`"
            )
        return LibraryError(f"{path}: can't be written to ({error}); name a file in a writable folder in `path`")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LibraryError(f"{path}: another program is using it ({error}); try again when that has finished")
    if code == sqlite3.SQLITE_IOERR:
        return LibraryError(f"{path}: its disk can't be read or written ({error}); check the disk, then try again")
    if code == sqlite3.SQLITE_NOTADB:
        return LibraryError(
            f"{path}: is not a library database ({error}); name another file in `path`, or, if it was one: "
            f"{_advice(path)}"
        )
    return LibraryError(f"{path}: is damaged ({error}); {_advice(path)}")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _advice(path: Path) -> str:
    """Return what to do about a damaged database."""
    backup = _backup(path, 1)
    rescue = f"genretree library rescue {path} --out NEW.db"
    if backup.exists():
        return f"move it and its -wal file away and put {backup} in its place, or save what can be read: {rescue}"
    return f"there is no backup {backup.name}; save what can be read: {rescue}"
