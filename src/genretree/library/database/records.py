"""Files and results: what is written to the database and asked of it."""

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

PAGE = 500  # rows read at a time, so that memory doesn't grow with the library
UNCALIBRATED = "not calibrated"
_FEW = 10_000  # files of a folder that are sooner sorted than looked for in the whole library by confidence


@dataclass(frozen=True)
class ModelKey:
    """Identifies what a result was computed with: the model, and all settings that change its predictions.

    Parameters
    ----------
    digest : str
        Hash of all that.
    family : str
    heads : "tree" or "independent"
    taxonomy : Taxonomy
    bundle : str
        Where the bundle was.
    note : str
        For people: arithmetic, salvage, and if it is so that the model is not calibrated.
    """

    digest: str
    family: str
    heads: Heads
    taxonomy: Taxonomy
    bundle: str = ""
    note: str = ""


@dataclass(frozen=True)
class Result:
    """The prediction for a file, or why there is none.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (1, n_nodes)
        Calibrated; None if the file can't be used.
    leaf : int
        Index of the path's end among the nodes of the deepest level; -1 without a path.
    confidence : float
        The probability of that node.
    slices : int
    padded : bool
    runtime : str
    error, message : str
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
    """A file as the database knows it.

    Parameters
    ----------
    id : int
    path : str
    size, mtime_ns : int
        As they were when the content was hashed.
    content : bytes
        BLAKE2b of the whole file, 16 bytes; None before it was read.
    genres : tuple of str
        What its genre tag held then; None if it has no tags that can be read.
    tries : int
        Number of processes that died while they worked on this file.
    error, message : str
        Why it can't even be read.
    gone : bool
        It was not there when its folder was last walked.
    own : mapping of str to str
        The `GENRETREE_*` fields of its tags; None if not known, as of files that version 0.1 analysed.
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


def use_model(state: Database, card: ModelKey) -> int:
    """Return the id of a model, which becomes the default model."""
    with state.transaction() as connection:
        row = connection.execute(
            "INSERT INTO model (digest, family, heads, tree, bundle, note, used) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET bundle = excluded.bundle, used = excluded.used RETURNING id",
            (
                card.digest,
                card.family,
                card.heads,
                json.dumps(card.taxonomy.to_json()),
                card.bundle,
                card.note,
                time.time(),
            ),
        ).fetchone()
    return int(row[0])


def find_model(state: Database, digest: str | None = None) -> tuple[int, ModelKey]:
    """Return the model with this digest (or the beginning of it), or the one that was last used.

    Raises
    ------
    LibraryError
        If nothing was analysed yet, or no or several models are meant.
    """
    rows = state.connection.execute(
        "SELECT id, digest, family, heads, tree, bundle, note FROM model WHERE digest LIKE ? ORDER BY used DESC",
        (f"{digest or ''}%",),
    ).fetchall()
    if not rows:
        known = [name for (name,) in state.connection.execute("SELECT digest FROM model ORDER BY used DESC")]
        what = f"no model {digest}; there are: {', '.join(known)}" if known else "nothing has been analysed yet"
        raise LibraryError(f"{state.path}: {what}")
    if digest and len(rows) > 1:
        raise LibraryError(f"{state.path}: {digest} may be {' or '.join(row[1] for row in rows)}; give more characters")
    id_, found, family, heads, tree, bundle, note = rows[0]
    return int(id_), ModelKey(found, family, heads, Taxonomy.from_json(json.loads(tree)), bundle, note)


# -- files -------------------------------------------------------------------------------------------------------


def begin_round(state: Database) -> int:
    """Number a walk; every file it comes to is marked with the number."""
    with state.transaction() as connection:
        row = connection.execute(
            "INSERT INTO setting VALUES ('round', '1') "
            "ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1 RETURNING value"
        ).fetchone()
    return int(row[0])


def record_found(state: Database, found: Iterator[FoundFile], round_: int) -> Iterator[int]:
    """Record what a walk comes to, some hundred at a time; yields how many each time.

    A file whose size and time are as they were keeps what is known of it; any other is to be read again.
    """
    while batch := list(islice(found, PAGE)):
        rows = [(encode_path(item.path), item.size, item.mtime_ns, item.error, item.message, round_) for item in batch]
        with state.transaction() as connection:
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


def mark_gone(state: Database, places: Sequence[str], round_: int) -> int:
    """Mark the files below some places that a walk did not come to; returns how many."""
    gone = 0
    with state.transaction() as connection:
        for place in places:
            low, high = folder_range(place)
            gone += connection.execute(
                "UPDATE file SET gone = 1 WHERE (path = ? OR (path >= ? AND path < ?)) AND gone = 0 AND seen < ?",
                (encode_path(place), low, high, round_),
            ).rowcount
    return gone


def count_pending(state: Database, model: int, round_: int) -> tuple[int, int, int]:
    """Count the files of a walk: those to be worked on, those known to be of no use, and all of them."""
    pending, failed, all_ = state.connection.execute(
        "SELECT count(*) FILTER (WHERE f.error = '' AND "
        "(r.content IS NULL OR f.content IS NULL OR r.content <> f.content)), "
        "count(*) FILTER (WHERE f.error <> '' OR (r.content = f.content AND r.error <> '')), count(*) "
        "FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? WHERE f.seen = ?",
        (model, round_),
    ).fetchone()
    return int(pending), int(failed), int(all_)


def list_failures(state: Database, model: int, round_: int, limit: int) -> list[tuple[str, str, str]]:
    """List path, kind and message of the files of a walk that can't be used, in the order of their paths.

    `limit` is the maximum number, -1 for all.
    """
    rows = state.connection.execute(
        "SELECT f.path, iif(f.error <> '', f.error, r.error), iif(f.error <> '', f.message, r.message) "
        "FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? "
        "WHERE f.seen = ? AND (f.error <> '' OR (r.content = f.content AND r.error <> '')) ORDER BY f.path LIMIT ?",
        (model, round_, limit),
    )
    return [(decode_path(path), error, message) for path, error, message in rows]


def iter_pending(state: Database, model: int, round_: int) -> Iterator[FileRow]:
    """Yield the files of a walk that this model has no result for, in the order in which they were first found."""
    last = 0
    while True:
        rows = state.connection.execute(
            f"SELECT {_FILE} FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? "
            "WHERE f.id > ? AND f.seen = ? AND f.error = '' "
            "AND (r.content IS NULL OR f.content IS NULL OR r.content <> f.content) ORDER BY f.id LIMIT ?",
            (model, last, round_, PAGE),
        ).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield from map(_file_row, rows)


def forget_failures(state: Database, model: int) -> None:
    """Drop what this model could not use, so that it is tried again."""
    with state.transaction() as connection:
        connection.execute("DELETE FROM result WHERE model = ? AND error <> ''", (model,))
        connection.execute("UPDATE file SET tries = 0 WHERE tries > 0")


def save_fingerprint(
    state: Database,
    file: int,
    size: int,
    mtime_ns: int,
    content: bytes,
    genres: Sequence[str] | None,
    own: Mapping[str, str] | None,
) -> None:
    """Save what was read from a file."""
    with state.transaction() as connection:
        connection.execute(
            "UPDATE file SET size = ?, mtime_ns = ?, content = ?, genres = ?, own = ?, error = '', message = '' "
            "WHERE id = ?",
            (size, mtime_ns, content, genres_json(genres), own_json(own), file),
        )


def save_problem(state: Database, file: int, error: str, message: str) -> None:
    """Record why a file can't even be read; the next round tries it again."""
    with state.transaction() as connection:
        connection.execute(
            "UPDATE file SET error = ?, message = ?, content = NULL, tries = 0 WHERE id = ?", (error, message, file)
        )


def suspect_contents(state: Database) -> set[bytes]:
    """Return the content hashes of all files that may have crashed or hung a process."""
    rows = state.connection.execute("SELECT content FROM file WHERE tries > 0 AND content IS NOT NULL")
    return {content for (content,) in rows}


def begin_try(state: Database, file: int) -> None:
    """Record that work on a file begins, so that a crash can be attributed to it."""
    with state.transaction() as connection:
        connection.execute("UPDATE file SET tries = tries + 1 WHERE id = ?", (file,))


def take_back_tries(state: Database, files: Sequence[int]) -> None:
    """Record that work on files ended without a crash."""
    with state.transaction() as connection:
        connection.executemany("UPDATE file SET tries = max(0, tries - 1) WHERE id = ?", [(file,) for file in files])


def save_result(state: Database, model: int, file: int, content: bytes, result: Result) -> None:
    """Save a model's result for a file with this content."""
    row = (
        *(file, model, content, result.leaf, result.confidence if result.levels is not None else None),
        *(pack_levels(result.levels), result.slices, result.padded, result.runtime, result.error, result.message),
    )
    with state.transaction() as connection:
        connection.execute(
            f"INSERT INTO result (file, model, content, {_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT DO UPDATE SET content = excluded.content, here = 1, {_REPLACED}",
            row,
        )
        connection.execute("UPDATE file SET tries = 0 WHERE id = ? AND tries > 0", (file,))


def share_result(state: Database, model: int, file: int, content: bytes) -> bool:
    """Return a file the result of another one with the same content, if there is one; says whether there was."""
    with state.transaction() as connection:
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


def move_content(
    state: Database, path: str, before: bytes, after: bytes, size: int, mtime_ns: int, tags: Mapping[str, Any]
) -> None:
    """Record that genretree changed a file's tags, so that its results stay valid."""
    connection = state.connection
    row = connection.execute("SELECT id FROM file WHERE path = ?", (encode_path(path),)).fetchone()
    if row is None:
        return
    connection.execute(
        "UPDATE file SET size = ?, mtime_ns = ?, content = ?, genres = ?, own = ? WHERE id = ?",
        (size, mtime_ns, after, genres_json(tags["genres"]), own_json(tags["own"]), row[0]),
    )
    connection.execute("UPDATE result SET content = ? WHERE file = ? AND content = ?", (after, row[0], before))


# -- questions ---------------------------------------------------------------------------------------------------


def find_file(state: Database, path: str) -> FileRow | None:
    """Return what is known of one file."""
    row = state.connection.execute(f"SELECT {_FILE} FROM file f WHERE path = ?", (encode_path(path),)).fetchone()
    return None if row is None else _file_row(row)


def find_result(state: Database, model: int, card: ModelKey, file: int) -> Result | None:
    """Return what a model says of one file, as it is now."""
    row = state.connection.execute(
        f"SELECT {_RESULT} FROM result r JOIN file f ON f.id = r.file AND f.content = r.content "
        "WHERE r.file = ? AND r.model = ?",
        (file, model),
    ).fetchone()
    return None if row is None else _result(card.taxonomy, row)


def find_stored_result(state: Database, model: int, card: ModelKey, file: int) -> Result:
    """Return the result that a file has, of whatever content."""
    query = f"SELECT {_RESULT} FROM result r WHERE r.file = ? AND r.model = ?"
    return _result(card.taxonomy, state.connection.execute(query, (file, model)).fetchone())


def find_copies(state: Database, content: bytes) -> list[str]:
    """Return the paths of all files with this content."""
    rows = state.connection.execute("SELECT path FROM file WHERE content = ? AND gone = 0 ORDER BY path", (content,))
    return [decode_path(path) for (path,) in rows]


def count_genres(state: Database, model: int) -> dict[int, int]:
    """Count the files that are there by the leaf they were given."""
    rows = state.connection.execute(
        "SELECT leaf, n FROM tally WHERE model = ? AND here = 1 AND error = '' AND n > 0", (model,)
    )
    return dict(rows.fetchall())


def count_problems(state: Database, model: int) -> dict[str, int]:
    """Count the files that are there and can't be used, by the kind of problem."""
    rows = state.connection.execute(
        "SELECT error, sum(n) FROM (SELECT error, n FROM tally WHERE model = ? AND here = 1 AND error <> '' "
        "UNION ALL SELECT error, n FROM file_tally WHERE gone = 0 AND error <> '') GROUP BY error HAVING sum(n) > 0",
        (model,),
    )
    return dict(rows.fetchall())


def count_files(state: Database) -> tuple[int, int]:
    """Count the files that are there, and those that no longer are."""
    counts = dict(state.connection.execute("SELECT gone, sum(n) FROM file_tally GROUP BY gone").fetchall())
    return int(counts.get(0, 0)), int(counts.get(1, 0))


def list_problems(state: Database, model: int, limit: int) -> list[tuple[str, str, str]]:
    """Give path, kind and message of files that can't be used."""
    rows = state.connection.execute(
        "SELECT path, error, message FROM (SELECT path, error, message FROM file WHERE error <> '' AND gone = 0 "
        "LIMIT ?) UNION ALL SELECT * FROM (SELECT f.path, r.error, r.message FROM result r "
        "JOIN file f ON f.id = r.file WHERE r.model = ? AND r.here = 1 AND r.error <> '' LIMIT ?) LIMIT ?",
        (limit, model, limit, limit),
    )
    return [(decode_path(path), error, message) for path, error, message in rows]


def list_surest(
    state: Database, model: int, card: ModelKey, *, leaf: int | None = None, folder: str | None = None, limit: int = 50
) -> list[tuple[FileRow, Result]]:
    """Return the most confident results: of a leaf, below a folder, or of all files.

    A small folder's files are sorted; for a large one (and the whole library) the index by confidence is walked.
    """
    genre = "" if leaf is None else "AND r.leaf = ? "
    arguments: list[Any] = [model] if leaf is None else [model, leaf]
    where = f"WHERE r.model = ? AND r.here = 1 AND r.error = '' {genre}"
    source = "FROM result r CROSS JOIN file f ON f.id = r.file "
    if folder is not None:
        low, high = folder_range(folder)
        where += "AND f.path >= ? AND f.path < ? "
        arguments += [low, high]
        few = state.connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM file WHERE path >= ? AND path < ? LIMIT ?)", (low, high, _FEW + 1)
        ).fetchone()[0]
        if few <= _FEW:
            source = "FROM file f CROSS JOIN result r ON r.file = f.id "
    query = f"SELECT {_FILE}, {_RESULT} {source}{where}ORDER BY r.confidence DESC LIMIT ?"
    return _pairs(card, state.connection.execute(query, (*arguments, limit)).fetchall())


def iter_files(
    state: Database, model: int, card: ModelKey, folder: str | None = None
) -> Iterator[tuple[FileRow, Result | None]]:
    """Yield every file that was ever found, by path, with what the model says of its content, if it was asked.

    In pages, so that memory doesn't grow with them.
    """
    low, high = folder_range(folder) if folder is not None else (b"", b"\xff" * 8)
    while True:
        rows = state.connection.execute(
            f"SELECT {_FILE}, {_RESULT}, r.file FROM file f LEFT JOIN result r ON r.file = f.id AND r.model = ? "
            "AND r.content = f.content WHERE f.path > ? AND f.path < ? ORDER BY f.path LIMIT ?",
            (model, low, high, PAGE),
        ).fetchall()
        if not rows:
            return
        low = rows[-1][1]
        for row in rows:
            result = None if row[-1] is None else _result(card.taxonomy, row[_N_FILE:-1])
            yield _file_row(row), result


def iter_results(
    state: Database, model: int, card: ModelKey, folder: str | None = None
) -> Iterator[tuple[FileRow, Result]]:
    """Yield every present file that has a result, by path, with that result."""
    for row, result in iter_files(state, model, card, folder):
        if result is not None and not row.gone:
            yield row, result


_FILE = "f.id, f.path, f.size, f.mtime_ns, f.content, f.genres, f.tries, f.error, f.message, f.gone, f.own"
_RESULT = "r.probabilities, r.leaf, r.confidence, r.slices, r.padded, r.runtime, r.error, r.message"
_N_FILE = 11
_VALUES = "leaf, confidence, probabilities, slices, padded, runtime, error, message"
_REPLACED = ", ".join(f"{name} = excluded.{name}" for name in _VALUES.split(", "))


def _pairs(card: ModelKey, rows: Sequence[tuple[Any, ...]]) -> list[tuple[FileRow, Result]]:
    return [(_file_row(row), _result(card.taxonomy, row[_N_FILE:])) for row in rows]


def _file_row(row: Sequence[Any]) -> FileRow:
    id_, path, size, mtime_ns, content, genres, tries, error, message, gone, own = row[:_N_FILE]
    known = None if genres is None else tuple(json.loads(genres))
    fields = None if own is None else json.loads(own)
    return FileRow(id_, decode_path(path), size, mtime_ns, content, known, tries, error, message, bool(gone), fields)


def _result(tree: Taxonomy, row: Sequence[Any]) -> Result:
    packed, leaf, confidence, slices, padded, runtime, error, message = row
    levels = None if packed is None else unpack_levels(packed, tree)
    return Result(levels, leaf, confidence or 0.0, slices, bool(padded), runtime, error, message)
