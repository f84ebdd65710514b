"""Read and write the database's models, files and results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from genretree.errors import LibraryError
from genretree.library.database.connection import Database, decode_path, encode_path, folder_range
from genretree.library.database.encoding import genres_json, own_json, pack_levels, unpack_levels
from genretree.models.base import LevelProbabilities
from genretree.settings import Heads
from genretree.sound.walk import FoundFile
from genretree.taxonomy import Taxonomy

PAGE = 500  # rows read at a time, so that memory use is independent of the library's size
UNCALIBRATED = "not calibrated"
_MAX_SORTED = 10_000  # up to this many files, sorting a folder is faster than filtering the index by confidence


@dataclass(frozen=True)
class ModelKey:
    """Identifies what a result was computed with: the model, and all settings that change its predictions.

    Parameters
    ----------
    digest : str
        Hash of the model and these settings.
    family : str
    heads : "tree" or "independent"
    taxonomy : Taxonomy
    bundle : str
        Path of the bundle.
    note : str
        For display: precision, salvage, and whether the model is not calibrated.
    """

    digest: str
    family: str
    heads: Heads
    taxonomy: Taxonomy
    bundle: str = ""
    note: str = ""


@dataclass(frozen=True)
class FileResult:
    """The prediction for a file, or the error that prevented it.

    Parameters
    ----------
    levels : list of ndarray, or None
        Calibrated probabilities, one array of shape (1, n_nodes) per level; None after an error.
    leaf : int
        Index of the predicted node at the deepest level; -1 after an error.
    confidence : float
        Probability of that node, in [0, 1].
    slices : int
        Number of slices that the prediction is averaged over.
    padded : bool
        Whether the file is shorter than a slice.
    runtime : str
        Name of the runtime.
    error, message : str
        Type of the error and what is wrong; empty without an error.
    """

    levels: LevelProbabilities | None
    leaf: int = -1
    confidence: float = 0.0
    slices: int = 0
    padded: bool = False
    runtime: str = ""
    error: str = ""
    message: str = ""


@dataclass(frozen=True)
class FileRow:
    """A row of the table `file`.

    Parameters
    ----------
    id : int
    path : str
    size, mtime_ns : int
        Size in bytes and modification time when the content was hashed.
    content : bytes or None
        Content hash (BLAKE2b, 16 bytes); None before the file was read.
    genres : tuple of str, or None
        Values of the genre tag at that time; None without readable tags.
    tries : int
        Number of processes that crashed while they analysed the file.
    error, message : str
        Why the file can't be read; empty if it can.
    gone : bool
        Whether the file was missing when its folder was last searched.
    own : mapping of str to str, or None
        The `GENRETREE_*` fields of its tags; None if unknown, as for files that version 0.1 analysed.
    """

    id: int
    path: str
    size: int
    mtime_ns: int
    content: bytes | None
    genres: tuple[str, ...] | None
    tries: int = 0
    error: str = ""
    message: str = ""
    gone: bool = False
    own: Mapping[str, str] | None = None


# -- models ------------------------------------------------------------------------------------------------------


def register_model(database: Database, model_key: ModelKey) -> int:
    """Return the id of a model, adding it if it is new; it becomes the default model."""
    with database.transaction() as connection:
        row = connection.execute(
            "INSERT INTO model (digest, family, heads, tree, bundle, note, used) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET bundle = excluded.bundle, used = excluded.used RETURNING id",
            (
                model_key.digest,
                model_key.family,
                model_key.heads,
                json.dumps(model_key.taxonomy.to_json()),
                model_key.bundle,
                model_key.note,
                time.time(),
            ),
        ).fetchone()
    return int(row[0])


def find_model(database: Database, digest: str | None = None) -> tuple[int, ModelKey]:
    """Return the id and key of the model whose digest begins with `digest`; None selects the last one used.

    Raises
    ------
    LibraryError
        If nothing was analysed yet, or if not exactly one model matches.
    """
    rows = database.connection.execute(
        "SELECT id, digest, family, heads, tree, bundle, note FROM model WHERE digest LIKE ? ORDER BY used DESC",
        (f"{digest or ''}%",),
    ).fetchall()
    if not rows:
        known = [name for (name,) in database.connection.execute("SELECT digest FROM model ORDER BY used DESC")]
        what = f"no model {digest}; there are: {', '.join(known)}" if known else "nothing has been analysed yet"
        raise LibraryError(f"{database.path}: {what}")
    if digest and len(rows) > 1:
        matches = ", ".join(row[1] for row in rows)
        raise LibraryError(f"{database.path}: {digest} matches several models: {matches}; add more characters")
    id_, matched, family, heads, tree, bundle, note = rows[0]
    return int(id_), ModelKey(matched, family, heads, Taxonomy.from_json(json.loads(tree)), bundle, note)


# -- files -------------------------------------------------------------------------------------------------------


def begin_scan(database: Database) -> int:
    """Start a scan and return its id, which marks every file that the scan finds."""
    with database.transaction() as connection:
        row = connection.execute(
            "INSERT INTO setting VALUES ('round', '1') "
            "ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1 RETURNING value"
        ).fetchone()
    return int(row[0])


def save_found_files(database: Database, matched: Iterator[FoundFile], scan_id: int) -> Iterator[int]:
    """Save the files that a scan finds, in batches of `PAGE`; yields the size of each batch.

    Files with the same size and modification time keep their content hash; other files are read again.
    """
    while batch := list(islice(matched, PAGE)):
        rows = [(encode_path(item.path), item.size, item.mtime_ns, item.error, item.message, scan_id) for item in batch]
        with database.transaction() as connection:
            connection.executemany(
                "INSERT INTO file (path, size, mtime_ns, error, message, seen) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET "
                "content = CASE WHEN size = excluded.size AND mtime_ns = excluded.mtime_ns THEN content END, "
                "tries = CASE WHEN size = excluded.size AND mtime_ns = excluded.mtime_ns THEN tries ELSE 0 END, "
                "size = excluded.size, mtime_ns = excluded.mtime_ns, error = excluded.error, "
                "message = excluded.message, seen = excluded.seen, gone = 0",
                rows,
            )
        yield len(batch)


def mark_gone(database: Database, places: Sequence[str], scan_id: int) -> int:
    """Mark the files below some folders that a scan did not find as missing; returns their number."""
    gone = 0
    with database.transaction() as connection:
        for place in places:
            low, high = folder_range(place)
            gone += connection.execute(
                "UPDATE file SET gone = 1 WHERE (path = ? OR (path >= ? AND path < ?)) AND gone = 0 AND seen < ?",
                (encode_path(place), low, high, scan_id),
            ).rowcount
    return gone


def count_pending(database: Database, model: int, scan_id: int) -> tuple[int, int, int]:
    """Count the files of a scan: pending, failed, and all."""
    pending, failed, total = database.connection.execute(
        "SELECT count(*) FILTER (WHERE f.error = '' AND "
        "(r.content IS NULL OR f.content IS NULL OR r.content <> f.content)), "
        "count(*) FILTER (WHERE f.error <> '' OR (r.content = f.content AND r.error <> '')), count(*) "
        "FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? WHERE f.seen = ?",
        (model, scan_id),
    ).fetchone()
    return int(pending), int(failed), int(total)


def list_failures(database: Database, model: int, scan_id: int, limit: int) -> list[tuple[str, str, str]]:
    """List path, error type and message of the failed files of a scan, ordered by path.

    `limit` is the maximum number; -1 lists all.
    """
    rows = database.connection.execute(
        "SELECT f.path, iif(f.error <> '', f.error, r.error), iif(f.error <> '', f.message, r.message) "
        "FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? "
        "WHERE f.seen = ? AND (f.error <> '' OR (r.content = f.content AND r.error <> '')) ORDER BY f.path LIMIT ?",
        (model, scan_id, limit),
    )
    return [(decode_path(path), error, message) for path, error, message in rows]


def iter_pending(database: Database, model: int, scan_id: int) -> Iterator[FileRow]:
    """Yield the files of a scan that have no result of this model, in the order in which they were first found."""
    last = 0
    while True:
        rows = database.connection.execute(
            f"SELECT {_FILE} FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? "
            "WHERE f.id > ? AND f.seen = ? AND f.error = '' "
            "AND (r.content IS NULL OR f.content IS NULL OR r.content <> f.content) ORDER BY f.id LIMIT ?",
            (model, last, scan_id, PAGE),
        ).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield from map(_to_file_row, rows)


def reset_failures(database: Database, model: int) -> None:
    """Delete the failures of a model, so that the files are tried again."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM result WHERE model = ? AND error <> ''", (model,))
        connection.execute("UPDATE file SET tries = 0 WHERE tries > 0")


def save_fingerprint(
    database: Database,
    file: int,
    size: int,
    mtime_ns: int,
    content: bytes,
    genres: Sequence[str] | None,
    own: Mapping[str, str] | None,
) -> None:
    """Save what was read from a file."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE file SET size = ?, mtime_ns = ?, content = ?, genres = ?, own = ?, error = '', message = '' "
            "WHERE id = ?",
            (size, mtime_ns, content, genres_json(genres), own_json(own), file),
        )


def save_file_error(database: Database, file: int, error: str, message: str) -> None:
    """Record why a file can't be read; the next scan tries it again."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE file SET error = ?, message = ?, content = NULL, tries = 0 WHERE id = ?", (error, message, file)
        )


def suspect_contents(database: Database) -> set[bytes]:
    """Return the content hashes of all files that may have crashed or hung a process."""
    rows = database.connection.execute("SELECT content FROM file WHERE tries > 0 AND content IS NOT NULL")
    return {content for (content,) in rows}


def add_try(database: Database, file: int) -> None:
    """Record that work on a file begins, so that a crash can be attributed to it."""
    with database.transaction() as connection:
        connection.execute("UPDATE file SET tries = tries + 1 WHERE id = ?", (file,))


def remove_tries(database: Database, files: Sequence[int]) -> None:
    """Record that work on files ended without a crash."""
    with database.transaction() as connection:
        connection.executemany("UPDATE file SET tries = max(0, tries - 1) WHERE id = ?", [(file,) for file in files])


def save_result(database: Database, model: int, file: int, content: bytes, result: FileResult) -> None:
    """Save a model's result for a file with this content."""
    row = (
        *(file, model, content, result.leaf, result.confidence if result.levels is not None else None),
        *(pack_levels(result.levels), result.slices, result.padded, result.runtime, result.error, result.message),
    )
    with database.transaction() as connection:
        connection.execute(
            f"INSERT INTO result (file, model, content, {_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT DO UPDATE SET content = excluded.content, here = 1, {_REPLACED}",
            row,
        )
        connection.execute("UPDATE file SET tries = 0 WHERE id = ? AND tries > 0", (file,))


def share_result(database: Database, model: int, file: int, content: bytes) -> bool:
    """Copy the result of another file with the same content, if there is one; returns whether there is."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT file FROM result WHERE model = ? AND content = ? LIMIT 1", (model, content)
        ).fetchone()
        if row is None:
            return False
        if row[0] != file:
            connection.execute("DELETE FROM result WHERE file = ? AND model = ?", (file, model))
            connection.execute(
                f"INSERT INTO result (file, model, content, {_VALUES}) SELECT ?, model, content, {_VALUES} FROM result "
                "WHERE file = ? AND model = ?",
                (file, row[0], model),
            )
    return True


def update_content(
    database: Database, path: str, before: bytes, after: bytes, size: int, mtime_ns: int, tags: Mapping[str, Any]
) -> None:
    """Record that genretree changed a file's tags, so that its results stay valid."""
    connection = database.connection
    row = connection.execute("SELECT id FROM file WHERE path = ?", (encode_path(path),)).fetchone()
    if row is None:
        return
    connection.execute(
        "UPDATE file SET size = ?, mtime_ns = ?, content = ?, genres = ?, own = ? WHERE id = ?",
        (size, mtime_ns, after, genres_json(tags["genres"]), own_json(tags["own"]), row[0]),
    )
    connection.execute("UPDATE result SET content = ? WHERE file = ? AND content = ?", (after, row[0], before))
    connection.execute(
        "INSERT OR IGNORE INTO embedding (model, content, vector, error, message) "
        "SELECT model, ?, vector, error, message FROM embedding WHERE content = ?",
        (after, before),
    )
    connection.execute(
        "DELETE FROM embedding WHERE content = ? AND NOT EXISTS (SELECT 1 FROM file WHERE content = ?)",
        (before, before),
    )


# -- queries -----------------------------------------------------------------------------------------------------


def find_file(database: Database, path: str) -> FileRow | None:
    """Return the row of a file."""
    row = database.connection.execute(f"SELECT {_FILE} FROM file f WHERE path = ?", (encode_path(path),)).fetchone()
    return None if row is None else _to_file_row(row)


def find_result(database: Database, model: int, model_key: ModelKey, file: int) -> FileResult | None:
    """Return a model's result for the current content of a file."""
    row = database.connection.execute(
        f"SELECT {_RESULT} FROM result r JOIN file f ON f.id = r.file AND f.content = r.content "
        "WHERE r.file = ? AND r.model = ?",
        (file, model),
    ).fetchone()
    return None if row is None else _to_result(model_key.taxonomy, row)


def find_stored_result(database: Database, model: int, model_key: ModelKey, file: int) -> FileResult:
    """Return a model's result for a file, whatever its content is now."""
    query = f"SELECT {_RESULT} FROM result r WHERE r.file = ? AND r.model = ?"
    return _to_result(model_key.taxonomy, database.connection.execute(query, (file, model)).fetchone())


def find_content_result(database: Database, model_key: ModelKey, content: bytes) -> FileResult | None:
    """Return the result of a model for any file with this content; None if there is none, or it is an error."""
    row = database.connection.execute(
        f"SELECT {_RESULT} FROM result r JOIN model m ON m.id = r.model "
        "WHERE m.digest = ? AND r.content = ? AND r.error = '' LIMIT 1",
        (model_key.digest, content),
    ).fetchone()
    return None if row is None else _to_result(model_key.taxonomy, row)


def find_copies(database: Database, content: bytes) -> list[str]:
    """Return the paths of all files with this content."""
    rows = database.connection.execute("SELECT path FROM file WHERE content = ? AND gone = 0 ORDER BY path", (content,))
    return [decode_path(path) for (path,) in rows]


def find_by_size(database: Database, size: int) -> list[str]:
    """Return the paths of all files that had this size when they were last found."""
    rows = database.connection.execute("SELECT path FROM file WHERE size = ? AND gone = 0 ORDER BY path", (size,))
    return [decode_path(path) for (path,) in rows]


def count_genres(database: Database, model: int) -> dict[int, int]:
    """Count the present files by predicted leaf."""
    rows = database.connection.execute(
        "SELECT leaf, n FROM tally WHERE model = ? AND here = 1 AND error = '' AND n > 0", (model,)
    )
    return dict(rows.fetchall())


def count_errors(database: Database, model: int) -> dict[str, int]:
    """Count the present files that failed, by error type."""
    rows = database.connection.execute(
        "SELECT error, sum(n) FROM (SELECT error, n FROM tally WHERE model = ? AND here = 1 AND error <> '' "
        "UNION ALL SELECT error, n FROM file_tally WHERE gone = 0 AND error <> '') GROUP BY error HAVING sum(n) > 0",
        (model,),
    )
    return dict(rows.fetchall())


def count_files(database: Database) -> tuple[int, int]:
    """Count the present and the missing files."""
    counts = dict(database.connection.execute("SELECT gone, sum(n) FROM file_tally GROUP BY gone").fetchall())
    return int(counts.get(0, 0)), int(counts.get(1, 0))


def list_errors(database: Database, model: int, limit: int) -> list[tuple[str, str, str]]:
    """List path, error type and message of files that failed."""
    rows = database.connection.execute(
        "SELECT path, error, message FROM (SELECT path, error, message FROM file WHERE error <> '' AND gone = 0 "
        "LIMIT ?) UNION ALL SELECT * FROM (SELECT f.path, r.error, r.message FROM result r "
        "JOIN file f ON f.id = r.file WHERE r.model = ? AND r.here = 1 AND r.error <> '' LIMIT ?) LIMIT ?",
        (limit, model, limit, limit),
    )
    return [(decode_path(path), error, message) for path, error, message in rows]


def list_most_confident(
    database: Database,
    model: int,
    model_key: ModelKey,
    *,
    leaf: int | None = None,
    folder: str | None = None,
    limit: int = 50,
    reverse: bool = False,
) -> list[tuple[FileRow, FileResult]]:
    """Return the most confident results: of a leaf, below a folder, or of all files; with `reverse`, the least.

    Files of a small folder are sorted; for larger ones, and the whole library, the index by confidence is used.
    """
    genre = "" if leaf is None else "AND r.leaf = ? "
    arguments: list[Any] = [model] if leaf is None else [model, leaf]
    where = f"WHERE r.model = ? AND r.here = 1 AND r.error = '' {genre}"
    source = "FROM result r CROSS JOIN file f ON f.id = r.file "
    if folder is not None:
        low, high = folder_range(folder)
        where += "AND f.path >= ? AND f.path < ? "
        arguments += [low, high]
        few = database.connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM file WHERE path >= ? AND path < ? LIMIT ?)",
            (low, high, _MAX_SORTED + 1),
        ).fetchone()[0]
        if few <= _MAX_SORTED:
            source = "FROM file f CROSS JOIN result r ON r.file = f.id "
    query = f"SELECT {_FILE}, {_RESULT} {source}{where}ORDER BY r.confidence {'' if reverse else 'DESC'} LIMIT ?"
    return _to_rows(model_key, database.connection.execute(query, (*arguments, limit)).fetchall())


def iter_files(
    database: Database, model: int, model_key: ModelKey, folder: str | None = None
) -> Iterator[tuple[FileRow, FileResult | None]]:
    """Yield every file in the database, ordered by path, with the model's result for its content, if any.

    Rows are read in pages, so that memory use does not grow with their number.
    """
    low, high = folder_range(folder) if folder is not None else (b"", b"\xff" * 8)
    while True:
        rows = database.connection.execute(
            f"SELECT {_FILE}, {_RESULT}, r.file FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? "
            "AND r.content = f.content WHERE f.path > ? AND f.path < ? ORDER BY f.path LIMIT ?",
            (model, low, high, PAGE),
        ).fetchall()
        if not rows:
            return
        low = rows[-1][1]
        for row in rows:
            result = None if row[-1] is None else _to_result(model_key.taxonomy, row[_N_FILE:-1])
            yield _to_file_row(row), result


def iter_results(
    database: Database, model: int, model_key: ModelKey, folder: str | None = None
) -> Iterator[tuple[FileRow, FileResult]]:
    """Yield every present file that has a result, by path, with that result."""
    for row, result in iter_files(database, model, model_key, folder):
        if result is not None and not row.gone:
            yield row, result


_FILE = "f.id, f.path, f.size, f.mtime_ns, f.content, f.genres, f.tries, f.error, f.message, f.gone, f.own"
_RESULT = "r.probabilities, r.leaf, r.confidence, r.slices, r.padded, r.runtime, r.error, r.message"
_N_FILE = 11
_VALUES = "leaf, confidence, probabilities, slices, padded, runtime, error, message"
_REPLACED = ", ".join(f"{name} = excluded.{name}" for name in _VALUES.split(", "))


def _to_rows(model_key: ModelKey, rows: Sequence[tuple[Any, ...]]) -> list[tuple[FileRow, FileResult]]:
    return [(_to_file_row(row), _to_result(model_key.taxonomy, row[_N_FILE:])) for row in rows]


def _to_file_row(row: Sequence[Any]) -> FileRow:
    id_, path, size, mtime_ns, content, genres, tries, error, message, gone, own = row[:_N_FILE]
    known = None if genres is None else tuple(json.loads(genres))
    fields = None if own is None else json.loads(own)
    return FileRow(id_, decode_path(path), size, mtime_ns, content, known, tries, error, message, bool(gone), fields)


def _to_result(tree: Taxonomy, row: Sequence[Any]) -> FileResult:
    packed, leaf, confidence, slices, padded, runtime, error, message = row
    levels = None if packed is None else unpack_levels(packed, tree)
    return FileResult(levels, leaf, confidence or 0.0, slices, bool(padded), runtime, error, message)
