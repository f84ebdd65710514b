"""Read and write the embeddings of a library's files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genretree.arrays import Float32Array
from genretree.library.database.connection import Database, decode_path

_PRESENT = "f.gone = 0 AND f.error = '' AND f.content IS NOT NULL"
# Files on which the analysis failed, or crashed a process, are not tried.
_ANALYSED = "EXISTS (SELECT 1 FROM result r WHERE r.file = f.id AND r.content = f.content AND r.error = '')"


def list_unembedded(database: Database, model: str) -> list[tuple[str, int, int, bytes]]:
    """List path, size, modification time and content of analysed files without an embedding; each content once."""
    rows = database.connection.execute(
        "SELECT min(f.path), f.size, f.mtime_ns, f.content FROM file f "
        f"WHERE {_PRESENT} AND {_ANALYSED} AND NOT EXISTS "
        "(SELECT 1 FROM embedding e WHERE e.content = f.content AND e.model = ?) GROUP BY f.content ORDER BY 1",
        (model,),
    )
    return [(decode_path(path), size, mtime_ns, content) for path, size, mtime_ns, content in rows]


def save_embedding(
    database: Database, model: str, content: bytes, vector: Float32Array | None, error: str = "", message: str = ""
) -> None:
    """Save an embedding, or the error that depends on the content and prevented it."""
    packed = None if vector is None else vector.astype("<f4").tobytes()
    with database.transaction() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO embedding (model, content, vector, error, message) VALUES (?, ?, ?, ?, ?)",
            (model, content, packed, error, message),
        )


def list_embedding_models(database: Database) -> dict[str, int]:
    """Count the embeddings of each network."""
    return dict(
        database.connection.execute("SELECT model, count(*) FROM embedding WHERE vector IS NOT NULL GROUP BY model")
    )


def read_embeddings(database: Database, model: str) -> tuple[list[tuple[str, ...]], list[bytes], Float32Array]:
    """Read the embeddings of all present files.

    Returns
    -------
    paths : list of tuples of str
        Files of each content, ordered by path.
    contents : list of bytes
    vectors : float32 array, shape (n_contents, embedding_dim)
    """
    rows = database.connection.execute(
        f"SELECT e.content, e.vector FROM embedding e WHERE e.model = ? AND e.vector IS NOT NULL AND EXISTS "
        f"(SELECT 1 FROM file f WHERE f.content = e.content AND {_PRESENT})",
        (model,),
    )
    contents: list[bytes] = []
    joined = bytearray()
    for content, packed in rows:
        contents.append(content)
        joined += packed
    places = {content: place for place, content in enumerate(contents)}
    paths: list[list[str]] = [[] for _ in contents]
    for path, content in _iter_paths(database, model):
        if content in places:
            paths[places[content]].append(path)
    vectors = np.frombuffer(bytes(joined), "<f4").reshape(len(contents), -1 if contents else 0)
    return [tuple(files) for files in paths], contents, vectors.astype(np.float32, copy=False)


def _iter_paths(database: Database, model: str) -> Iterator[tuple[str, bytes]]:
    rows = database.connection.execute(
        f"SELECT f.path, f.content FROM file f WHERE {_PRESENT} AND EXISTS "
        "(SELECT 1 FROM embedding e WHERE e.content = f.content AND e.model = ?) ORDER BY f.path",
        (model,),
    )
    for path, content in rows:
        yield decode_path(path), content


def find_embedding(database: Database, model: str, content: bytes) -> Float32Array | None:
    """Return the embedding of a content, if there is one."""
    row = database.connection.execute(
        "SELECT vector FROM embedding WHERE content = ? AND model = ?", (content, model)
    ).fetchone()
    return None if row is None or row[0] is None else np.frombuffer(row[0], "<f4").astype(np.float32)
