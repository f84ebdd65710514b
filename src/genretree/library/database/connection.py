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
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import platformdirs

from genretree.errors import LibraryError
from genretree.remote import is_url

FORMAT = 2
_BUSY_SECONDS = 10.0
_CACHE_KIB = 16_000
_CHECKED_BYTES = 64 << 20  # a larger database is only checked by commands that write
_BACKUPS = 3

# `tally` and `file_tally` are kept by triggers, so that counting a million rows takes no time. `here` mirrors
# `file.gone`: results of files that are not there at present are kept and not counted.
_SCHEMA = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE model (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, family TEXT NOT NULL, heads TEXT NOT NULL, tree TEXT NOT NULL,
    bundle TEXT NOT NULL, note TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE file (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, content BLOB,
    genres TEXT, error TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', seen INTEGER NOT NULL,
    gone INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, own TEXT);
CREATE INDEX file_content ON file (content);
CREATE INDEX file_error ON file (error, id) WHERE error <> '';
CREATE TABLE result (
    file INTEGER NOT NULL, model INTEGER NOT NULL, content BLOB NOT NULL, here INTEGER NOT NULL DEFAULT 1,
    leaf INTEGER NOT NULL DEFAULT -1, confidence REAL, probabilities BLOB, slices INTEGER NOT NULL DEFAULT 0,
    padded INTEGER NOT NULL DEFAULT 0, runtime TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '', PRIMARY KEY (file, model)) WITHOUT ROWID;
CREATE INDEX result_content ON result (model, content);
CREATE INDEX result_genre ON result (model, here, leaf, confidence DESC);
CREATE INDEX result_sure ON result (model, here, confidence DESC) WHERE error = '';
CREATE INDEX result_error ON result (model, here, error) WHERE error <> '';
CREATE TABLE tally (
    model INTEGER, here INTEGER, leaf INTEGER, error TEXT, n INTEGER NOT NULL,
    PRIMARY KEY (model, here, leaf, error)) WITHOUT ROWID;
CREATE TABLE file_tally (gone INTEGER, error TEXT, n INTEGER NOT NULL, PRIMARY KEY (gone, error)) WITHOUT ROWID;
CREATE TRIGGER result_in AFTER INSERT ON result BEGIN
    INSERT INTO tally VALUES (new.model, new.here, new.leaf, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER result_out AFTER DELETE ON result BEGIN
    UPDATE tally SET n = n - 1 WHERE model = old.model AND here = old.here AND leaf = old.leaf AND error = old.error;
END;
CREATE TRIGGER result_moved AFTER UPDATE OF here, leaf, error ON result BEGIN
    UPDATE tally SET n = n - 1 WHERE model = old.model AND here = old.here AND leaf = old.leaf AND error = old.error;
    INSERT INTO tally VALUES (new.model, new.here, new.leaf, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER file_in AFTER INSERT ON file BEGIN
    INSERT INTO file_tally VALUES (new.gone, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER file_moved AFTER UPDATE OF gone, error ON file WHEN old.gone <> new.gone OR old.error <> new.error BEGIN
    UPDATE file_tally SET n = n - 1 WHERE gone = old.gone AND error = old.error;
    INSERT INTO file_tally VALUES (new.gone, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
    UPDATE result SET here = 1 - new.gone WHERE file = new.id AND here <> 1 - new.gone;
END;
CREATE TABLE run (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, model TEXT NOT NULL, command TEXT NOT NULL);
CREATE TABLE change (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, path BLOB NOT NULL, state TEXT NOT NULL, temporary BLOB NOT NULL,
    before BLOB NOT NULL, after BLOB NOT NULL DEFAULT x'', before_mtime_ns INTEGER NOT NULL, old TEXT NOT NULL,
    new TEXT NOT NULL, delta BLOB);
CREATE INDEX change_path ON change (path, id);
CREATE INDEX change_run ON change (run, id);
CREATE INDEX change_open ON change (id) WHERE state IN ('begun', 'undoing');
"""
# Not in databases of version 0.1, which get it when they are opened; without it all works, but slowly.
_CONTENT_INDEX = "CREATE INDEX IF NOT EXISTS change_after ON change (after) WHERE state = 'written'"


def default_database() -> Path:
    """Where the database is if nobody says: `$GENRETREE_LIBRARY`, or in the user's folder for programs' data."""
    given = os.environ.get("GENRETREE_LIBRARY")
    return Path(given) if given else platformdirs.user_data_path("genretree") / "library.sqlite"


class State:
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

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_state(path: str | Path, *, create: bool = False, show: bool = False, check: bool | None = None) -> State:
    """Open a library's database.

    Parameters
    ----------
    path : path
        On a local disk: SQLite's WAL does not work over a network file system.
    create : bool
        Make a new one if there is none.
    show : bool
        Only to be read: a database that can't be written to, or whose folder can't, opens all the same, and one of
        format 1, as version 0.1 wrote it, stays one. Otherwise that becomes format 2.
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
        raise LibraryError(f"{path}: no such library; make it with: genretree library analyse DIR --bundle BUNDLE")
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    if check is None:
        check = not path.exists() or path.stat().st_size < _CHECKED_BYTES
    state: State | None = None
    try:
        state = State(path, sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None))
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


def _prepare(state: State, create: bool, check: bool, upgrade: bool) -> None:
    """Make the tables if there are none, or see whether they are sound and of a format that can be read."""
    path, connection = state.path, state.connection
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        # An emptied database looks like a new one; a backup tells them apart.
        if not create or _backup(path, 1).exists():
            raise LibraryError(f"{path}: is empty; {_advice(path)}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN; {_SCHEMA} INSERT INTO setting VALUES ('format', '{FORMAT}'); COMMIT;")
    elif check:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise LibraryError(f"{path}: is damaged ({' '.join(found.split())}); {_advice(path)}")
    format_ = connection.execute("SELECT value FROM setting WHERE name = 'format'").fetchone()
    connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing by it
    if format_ is not None and format_[0] == "1":
        _add_own(state, upgrade)
    elif format_ is None or format_[0] != str(FORMAT):
        raise LibraryError(
            f"{path}: library format {format_ and format_[0]}, this genretree reads 1 and {FORMAT}; update genretree, "
            "or name another file with --db"
        )
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'change_after'").fetchone():
        with suppress(sqlite3.OperationalError):  # read-only, busy or full
            connection.execute(_CONTENT_INDEX)


def _add_own(state: State, upgrade: bool) -> None:
    """Make a database of format 1 one of format 2, or let it look like one where nothing may be written."""
    if not upgrade:
        state.connection.execute("CREATE TEMP VIEW file AS SELECT *, NULL AS own FROM main.file")
        return
    with state.transaction() as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(file)")]
        if "own" not in columns:  # else another process was quicker
            connection.execute("ALTER TABLE file ADD COLUMN own TEXT")
        connection.execute("UPDATE setting SET value = ? WHERE name = 'format'", (str(FORMAT),))


def _open_read_only(path: Path) -> State:
    """Open a database beside which SQLite can't make the files that WAL mode needs."""
    log = path.with_name(f"{path.name}-wal")
    copied = None
    shown = path
    if log.exists() and log.stat().st_size:  # what is only in the log would be missing from an immutable database
        copied = tempfile.TemporaryDirectory(prefix="genretree-")
        shown = Path(copied.name) / path.name
        try:
            shutil.copyfile(path, shown)
            shutil.copyfile(log, shown.with_name(log.name))
        except OSError as error:
            copied.cleanup()
            raise LibraryError(f"{path}: can't be read ({error.strerror or error})") from error
    address = f"{shown.absolute().as_uri()}{'' if copied else '?mode=ro&immutable=1'}"
    return State(path, sqlite3.connect(address, uri=True, isolation_level=None), copied)


def back_up(state: State) -> Path:
    """Copy a database to `<name>.backup-1` and number the earlier copies up; three are kept.

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

    It is a transaction on an empty database beside the library's, which every system has and no kill leaves behind.

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
        raise LibraryError(f"{path}: {holder} is at work on it; wait for it, or name another file with --db") from None
    try:
        who.write_text(f"{what} (process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')})", encoding="utf-8")
        yield
    finally:
        who.unlink(missing_ok=True)
        held.close()


def encode_path(path: str | os.PathLike[str]) -> bytes:
    """Give the bytes a path is stored as."""
    return os.fsencode(path)


def decode_path(stored: bytes) -> str:
    """Give the path back; bytes that are not text come as surrogates, as everywhere in Python."""
    return os.fsdecode(stored)


def folder_range(folder: str) -> tuple[bytes, bytes]:
    """Give the bounds between which the stored paths of all files below a folder, or a URL, lie."""
    separator = os.fsencode(os.sep)
    if is_url(folder):
        separator = b"/"
    else:
        folder = os.path.realpath(folder)
    return range_below(encode_path(folder), separator)


def range_below(stored: bytes, separator: bytes) -> tuple[bytes, bytes]:
    """Give the bounds between which all paths lie that begin with a stored path and a separator."""
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
    """Say what is wrong with a database, and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LibraryError(f"{path}: the disk is full; all that was finished is kept, free some space and go on")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        if path.exists() and not os.access(path, os.R_OK):
            return LibraryError(f"{path}: can't be read ({error}); ask its owner, or name another file with --db")
        return LibraryError(f"{path}: can't be written to ({error}); name a file in a folder of yours with --db")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LibraryError(f"{path}: another program is using it ({error}); try again when that has finished")
    if code == sqlite3.SQLITE_IOERR:
        return LibraryError(f"{path}: its disk can't be read or written ({error}); check the disk, then try again")
    if code == sqlite3.SQLITE_NOTADB:
        return LibraryError(
            f"{path}: is not a library's database ({error}); name another file with --db, or, if it was one: "
            f"{_advice(path)}"
        )
    return LibraryError(f"{path}: is damaged ({error}); {_advice(path)}")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _advice(path: Path) -> str:
    """Say what to do about a damaged database."""
    kept = _backup(path, 1)
    rescue = f"genretree library rescue {path} --out NEW.db"
    if kept.exists():
        return f"move it and its -wal file away and put {kept} in its place, or save what can be read: {rescue}"
    return f"there is no backup {kept.name}; save what can be read: {rescue}"
