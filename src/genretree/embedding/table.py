"""Embeddings of files on disk: `.npy` with a list of paths next to it, or Parquet.

Finished files are kept in a draft next to the output until the output is complete, so that a run continues where the
last one ended.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float32Array, Float64Array
from genretree.embedding.embedders import Embedder, FileEmbedding
from genretree.errors import ArgumentError, DataError, SoundError
from genretree.files import atomic_path, content_digest, printable, read_json_text, write_text
from genretree.parallel import FILE_WORKERS
from genretree.prediction.predict import PredictionError, find_files, map_files
from genretree.progress import progress_bar

FORMAT = 1
SUFFIXES = (".npy", ".parquet")
_METADATA = b"genretree"  # key of the metadata in a Parquet schema
_ROWS = 5000  # written to Parquet at a time
_MAX_JSON_BYTES = 1 << 30


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of files, one row for each file or slice.

    Parameters
    ----------
    model : str
        Key of the embedder.
    paths : list of str
        File of each row.
    contents : list of bytes
        Content hash (BLAKE2b, 16 bytes) of each row's file.
    vectors : float32 array, shape (n_rows, embedding_dim)
    starts : float64 array, shape (n_rows,), or None
        Start of each slice in seconds; None if each row is the mean over a file.
    """

    model: str
    paths: list[str]
    contents: list[bytes]
    vectors: Float32Array
    starts: Float64Array | None = None


@dataclass(frozen=True)
class EmbedResult:
    """What `embed_files` wrote.

    Parameters
    ----------
    files : int
        Files in the output.
    rows, dimensions : int
        Shape of the embeddings.
    resumed : int
        Files that an earlier run had embedded.
    errors : list of PredictionError
        Files that are not in the output, with reasons.
    """

    files: int
    rows: int
    dimensions: int
    resumed: int
    errors: list[PredictionError]


def embed_files(
    embedder: Embedder,
    files: Iterable[str | Path] | Iterable[Path | PredictionError],
    out: str | Path,
    *,
    slices: bool = False,
    salvage: bool = False,
    workers: int = FILE_WORKERS,
    overwrite: bool = False,
    progress: bool = False,
) -> EmbedResult:
    """Embed audio files and write one row for each file, or for each slice.

    Parameters
    ----------
    embedder : Embedder
    files : iterable of path or PredictionError
        Files and folders, or what `find_files` yields.
    out : path
        `.npy`, with the paths in `NAME.paths.json` next to it, or `.parquet`. Written when all files are done; finished
        files are saved in `NAME.partial` until then, and another call continues with the others.
    slices : bool
        Write a row for each slice instead of the mean over a file.
    salvage : bool
        Use what can be decoded of truncated files.
    workers : int
        Files in work at a time.
    overwrite : bool
        Replace an existing `out`.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    EmbedResult

    Raises
    ------
    ArgumentError
        If `out` exists, or has another suffix.
    DataError
        If no file can be embedded; nothing is written then.
    """
    out = Path(out)
    check_out(out, overwrite)
    listed: dict[Path, None] = {}
    errors: list[PredictionError] = []
    for item in find_files(file for file in _collect_errors(files, errors)):
        errors.append(item) if isinstance(item, PredictionError) else listed.setdefault(item)
    draft_path = out.with_name(f"{out.name}.partial")
    with _open_draft(draft_path, f"{embedder.key} {salvage}") as draft:
        pending = [path for path in listed if not _is_done(draft, path)]
        resumed = len(listed) - len(pending)
        with progress_bar(len(listed), "embed", "file", progress and len(listed) > 1, initial=resumed) as tick:
            for result in map_files(lambda path: _embed_unchanged(embedder, path, salvage), pending, workers):
                errors.append(result) if isinstance(result, PredictionError) else _save(draft, *result)
                tick()
        done = [path for path in listed if _is_done(draft, path)]
        if not done:
            reasons = "; ".join(error.message for error in errors[:3]) or "there are no audio files"
            raise DataError(f"nothing could be embedded: {reasons}")
        rows, dimensions = _write(draft, done, out, embedder.key, slices)
    draft_path.unlink(missing_ok=True)
    return EmbedResult(len(done), rows, dimensions, resumed, errors)


def check_out(out: Path, overwrite: bool = False) -> None:
    """Raise ArgumentError if embeddings can't be written to a path."""
    if out.suffix not in SUFFIXES:
        raise ArgumentError(f"{out}: unknown format '{out.suffix}'; name a file that ends in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise ArgumentError(f"{out}: is a folder; name a file")
    if out.exists() and not overwrite:
        raise ArgumentError(f"{out}: exists already; replace it with `overwrite=True`, or name another file")


def sidecar(path: Path) -> Path:
    """Return the file with the paths of an `.npy` file's rows."""
    return path.with_name(f"{path.stem}.paths.json")


def _collect_errors(
    files: Iterable[str | Path] | Iterable[Path | PredictionError], errors: list[PredictionError]
) -> Iterator[str | Path]:
    for file in [files] if isinstance(files, str | os.PathLike) else files:
        if isinstance(file, PredictionError):
            errors.append(file)
        else:
            yield file


# -- draft -----------------------------------------------------------------------------------------------------------


@contextmanager
def _open_draft(path: Path, identity: str) -> Iterator[sqlite3.Connection]:
    """Open the draft of an output, and empty it if another network or setting made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as draft:
            draft.execute("PRAGMA synchronous = OFF")  # a crash of the system costs no more than the draft
            draft.execute("CREATE TABLE IF NOT EXISTS identity (name TEXT)")
            if draft.execute("SELECT name FROM identity").fetchall() != [(identity,)]:
                draft.executescript(
                    "BEGIN; DROP TABLE IF EXISTS done; DELETE FROM identity; "
                    "CREATE TABLE done (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, content BLOB, "
                    "n INTEGER, dimensions INTEGER, starts BLOB, mean BLOB, vectors BLOB); COMMIT;"
                )
                draft.execute("INSERT INTO identity VALUES (?)", (identity,))
            yield draft
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path}: can't be read or written ({error}); free some space, or delete it to start over"
        ) from error


def _is_done(draft: sqlite3.Connection, path: Path) -> bool:
    row = draft.execute("SELECT size, mtime_ns FROM done WHERE path = ?", (os.fsencode(path),)).fetchone()
    return row is not None and row == _status(path)


def _status(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _embed_unchanged(
    embedder: Embedder, path: Path, salvage: bool
) -> tuple[Path, tuple[int, int], bytes, FileEmbedding]:
    before = _status(path)
    embedding = embedder.embed_file(path, salvage)
    content = content_digest(path)
    if before is None or before != _status(path):
        raise SoundError("unreadable", path, "changed while it was being read; run the command again")
    return path, before, content, embedding


def _save(
    draft: sqlite3.Connection, path: Path, status: tuple[int, int], content: bytes, embedding: FileEmbedding
) -> None:
    n, dimensions = embedding.vectors.shape
    arrays = (embedding.starts.astype("<f8"), embedding.mean.astype("<f4"), embedding.vectors.astype("<f4"))
    row = (os.fsencode(path), *status, content, n, dimensions, *(array.tobytes() for array in arrays))
    draft.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


# -- output ----------------------------------------------------------------------------------------------------------


def _write(draft: sqlite3.Connection, paths: Sequence[Path], out: Path, model: str, slices: bool) -> tuple[int, int]:
    """Write the embeddings of finished files; returns the shape of the embeddings."""
    sizes = [
        draft.execute("SELECT n, dimensions FROM done WHERE path = ?", (os.fsencode(p),)).fetchone() for p in paths
    ]
    n_rows, dimensions = sum(n for n, _ in sizes) if slices else len(paths), sizes[0][1]
    header = {"format": FORMAT, "model": model, "rows": "slices" if slices else "files"}
    rows = _iter_rows(draft, paths, slices)
    if out.suffix == ".parquet":
        _write_parquet(out, rows, dimensions, header)
    else:
        _write_npy(out, rows, (n_rows, dimensions), header)
    return n_rows, dimensions


def _iter_rows(
    draft: sqlite3.Connection, paths: Sequence[Path], slices: bool
) -> Iterator[tuple[Path, bytes, float, Float32Array]]:
    for path in paths:
        query = "SELECT content, starts, mean, vectors FROM done WHERE path = ?"
        content, starts, mean, vectors = draft.execute(query, (os.fsencode(path),)).fetchone()
        if not slices:
            yield path, content, 0.0, np.frombuffer(mean, "<f4")
            continue
        times = np.frombuffer(starts, "<f8")
        for start, vector in zip(times.tolist(), np.frombuffer(vectors, "<f4").reshape(len(times), -1), strict=True):
            yield path, content, start, vector


def _write_npy(
    out: Path,
    rows: Iterator[tuple[Path, bytes, float, Float32Array]],
    shape: tuple[int, int],
    header: dict[str, Any],
) -> None:
    entries = []
    with atomic_path(out) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for at, (path, content, start, vector) in enumerate(rows):
            array[at] = vector
            entry = {"path": os.fspath(path), "content": content.hex()}
            entries.append(entry | {"start": start} if header["rows"] == "slices" else entry)
        array.flush()
        del array
        sidecar(out).unlink(missing_ok=True)  # an array must never lie next to the paths of another
    # ASCII, so that names that are not valid text can be written.
    write_text(sidecar(out), json.dumps(header | {"entries": entries}, ensure_ascii=True))


def _write_parquet(
    out: Path,
    rows: Iterator[tuple[Path, bytes, float, Float32Array]],
    dimensions: int,
    header: dict[str, Any],
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    by_slice = header["rows"] == "slices"
    fields = [pa.field("path", pa.string()), pa.field("content", pa.binary(16))]
    fields += [pa.field("start", pa.float64())] if by_slice else []
    fields += [pa.field("embedding", pa.list_(pa.float32(), dimensions))]
    schema = pa.schema(fields, metadata={_METADATA: json.dumps(header).encode()})
    with atomic_path(out) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(islice(rows, _ROWS)):
            paths, contents, starts, vectors = zip(*batch, strict=True)
            columns = [pa.array(map(printable, paths), pa.string()), pa.array(contents, pa.binary(16))]
            columns += [pa.array(starts, pa.float64())] if by_slice else []
            columns += [pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(vectors)), dimensions)]
            writer.write_table(pa.table(columns, schema=schema))


def is_embeddings(path: Path) -> bool:
    """Return whether a path names a file of embeddings, by its suffix."""
    return path.suffix in SUFFIXES


def read_embeddings(path: str | Path) -> EmbeddingTable:
    """Read the embeddings that `embed_files` wrote.

    Raises
    ------
    DataError
        If a file is missing, damaged, or was not written by genretree.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it with: genretree embed FOLDER -o {path}")
    try:
        return _read_parquet(path) if path.suffix == ".parquet" else _read_npy(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # pyarrow's errors are among these
        again = f"embed the files again with: genretree embed FOLDER -o {path}"
        missing = path.suffix != ".parquet" and not sidecar(path).is_file()
        what = f"the list of its files, {sidecar(path)}, is missing" if missing else f"can't be read ({error})"
        raise DataError(f"{path}: {what}; {again}") from error


def _read_npy(path: Path) -> EmbeddingTable:
    content = json.loads(read_json_text(sidecar(path), _MAX_JSON_BYTES))
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    entries = content["entries"]
    contents = [bytes.fromhex(entry["content"]) for entry in entries]
    starts = np.array([float(entry["start"]) for entry in entries]) if content["rows"] == "slices" else None
    return _check(content, [entry["path"] for entry in entries], contents, vectors, starts)


def _read_parquet(path: Path) -> EmbeddingTable:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        header = json.loads((table.schema.metadata or {})[_METADATA])
        embedding = table["embedding"].combine_chunks()
        vectors = embedding.flatten().to_numpy(zero_copy_only=False).reshape(len(table), embedding.type.list_size)
        starts = table["start"].to_numpy() if header["rows"] == "slices" else None
        return _check(header, table["path"].to_pylist(), table["content"].to_pylist(), vectors, starts)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _check(
    header: dict[str, Any], paths: list[str], contents: list[bytes], vectors: Any, starts: Float64Array | None
) -> EmbeddingTable:
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']}, this version of genretree reads {FORMAT}")
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(paths) or not len(paths):
        raise ValueError(f"{vectors.dtype} {vectors.shape} for {len(paths)} paths")
    if not all(isinstance(name, str) for name in (header["model"], *paths)):
        raise ValueError("the name of a file or model is not text")
    if not np.isfinite(vectors).all():
        raise ValueError("embeddings contain NaN or infinity")
    return EmbeddingTable(header["model"], paths, contents, vectors, starts)
