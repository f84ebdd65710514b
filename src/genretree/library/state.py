"""The SQLite file that holds all that is known of a library: files, results, and the journal of what was written.

Every finished file is committed at once, in WAL mode, so that a process that is killed loses what it had in hand and
nothing else. Paths are stored as the bytes the system knows them by, since names need not be text.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from genretree.errors import LibraryError
from genretree.remote import is_url

FORMAT = 1
_BUSY_SECONDS = 10.0
_CACHE_KIB = 16_000

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
    gone INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0);
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
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, all of it or nothing.

        Raises
        ------
        LibraryError
            If the disk is full, or the database can't be written to.
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
        except sqlite3.OperationalError as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise _explain(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_state(path: str | Path, *, create: bool = False) -> State:
    """Open a library's database.

    Parameters
    ----------
    path : path
        On a local disk: SQLite's WAL does not work over a network file system.
    create : bool
        Make a new one if there is none.

    Raises
    ------
    LibraryError
        If there is none, or it is something else, damaged, or of another format.
    """
    path = Path(path)
    if not create and not path.is_file():
        raise LibraryError(f"{path}: no such library; make it with: genretree library analyse DIR --bundle BUNDLE")
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        state = State(path, connection)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} INSERT INTO setting VALUES ('format', '{FORMAT}'); COMMIT;")
        found = connection.execute("SELECT value FROM setting WHERE name = 'format'").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing by it
    except sqlite3.OperationalError as error:
        raise _explain(path, error) from error
    except sqlite3.DatabaseError as error:
        raise LibraryError(f"{path}: is not a library's database ({error}); name another file with --db") from error
    if found is None or found[0] != str(FORMAT):
        state.close()
        raise LibraryError(f"{path}: library format {found and found[0]}, this genretree reads {FORMAT}")
    return state


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
            raise _explain(lock, error) from error
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
    start = encode_path(folder).rstrip(separator) + separator
    return start, start[:-1] + bytes([start[-1] + 1])


def _explain(path: Path, error: sqlite3.OperationalError) -> LibraryError:
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
        return LibraryError(f"{path}: the disk is full; all that was finished is kept, free some space and go on")
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return LibraryError(f"{path}: can't be written to ({error}); name a file in a folder of yours with --db")
    return LibraryError(f"{path}: {error}")
