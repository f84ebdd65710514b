"""Embed the analysed files of a library that have no embedding yet, and continue where the last run ended."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from genretree.arrays import Float32Array
from genretree.embedding.embedders import Embedder
from genretree.embedding.neighbours import TrackIndex
from genretree.errors import LibraryError, SoundError
from genretree.library.database.connection import Database
from genretree.library.database.embeddings import list_unembedded, read_embeddings, save_embedding
from genretree.parallel import FILE_WORKERS
from genretree.prediction.predict import PredictionError, map_files
from genretree.progress import progress_bar
from genretree.remote import is_url

_OF_THE_FILE = ("not_found", "unreadable")  # errors that do not depend on the content: the next call tries again


@dataclass
class EmbeddedCounts:
    """Counts of the contents of a run.

    Parameters
    ----------
    embedded : int
        Contents embedded now.
    failed : list of (str, str, str)
        Path, error type and message of the files that can't be embedded.
    """

    embedded: int = 0
    failed: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Outcome:
    path: str
    content: bytes
    vector: Float32Array | None
    error: str = ""
    message: str = ""


def has_unembedded(database: Database, model: str) -> bool:
    """Return whether an analysed file of this machine has no embedding."""
    return any(not is_url(path) for path, *_ in list_unembedded(database, model))


def embed_library(
    database: Database, embedder: Embedder, *, workers: int = FILE_WORKERS, progress: bool = False
) -> EmbeddedCounts:
    """Embed all analysed files that have no embedding by this network; each is saved at once.

    Parameters
    ----------
    database : Database
        Locked by the caller with `lock_database`.
    embedder : Embedder
    workers : int
        Files in work at a time.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    EmbeddedCounts

    Raises
    ------
    LibraryError
        If the database can't be written to.
    """
    rows = list_unembedded(database, embedder.key)
    pending = {path: (size, mtime_ns, content) for path, size, mtime_ns, content in rows if not is_url(path)}
    counts = EmbeddedCounts()

    def embed(path: Path) -> _Outcome:
        name = str(path)
        size, mtime_ns, content = pending[name]
        try:
            vector = embedder.embed_file(path).mean
            now = os.stat(name)  # noqa: PTH116
            if (now.st_size, now.st_mtime_ns) != (size, mtime_ns):
                return _Outcome(name, content, None, "changed", "changed since the analysis; analyse it again")
        except SoundError as error:
            return _Outcome(name, content, None, error.kind, error.detail)
        except OSError as error:
            return _Outcome(name, content, None, "unreadable", f"can't be read: {error.strerror or error}")
        except Exception as error:  # an error in one file must not stop the run
            return _Outcome(name, content, None, "internal", f"{type(error).__name__}: {error}")
        return _Outcome(name, content, vector)

    with progress_bar(len(pending), "embed", "file", progress and len(pending) > 1) as tick:
        for outcome in map_files(embed, pending, workers):
            tick()
            if isinstance(outcome, PredictionError):  # the path has become a folder
                counts.failed.append((outcome.file, outcome.kind, outcome.message))
                continue
            if outcome.error:
                counts.failed.append((outcome.path, outcome.error, outcome.message))
            else:
                counts.embedded += 1
            if outcome.error not in (*_OF_THE_FILE, "changed"):
                saved = (outcome.vector, outcome.error, outcome.message)
                save_embedding(database, embedder.key, outcome.content, *saved)
    return counts


def load_track_index(database: Database, model: str) -> TrackIndex:
    """Load the embeddings of a library's files.

    Raises
    ------
    LibraryError
        If there are none, or they are damaged.
    """
    try:
        paths, contents, vectors = read_embeddings(database, model)
    except ValueError as error:
        raise LibraryError(f"{database.path}: the embeddings of {model} are damaged ({error})") from error
    if not paths:
        raise LibraryError(f"{database.path}: no file can be embedded; analyse music first: genretree library analyse")
    return TrackIndex(model, paths, contents, vectors)
