"""Exact search for the most similar tracks, by cosine similarity of their embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genretree.arrays import Float32Array
from genretree.corpus.file_tags import read_tags
from genretree.embedding.table import EmbeddingTable
from genretree.errors import ArgumentError
from genretree.files import content_digest, printable
from genretree.metrics.calibration import average_by

Relation = Literal["", "same_file", "same_content", "same_tags"]
RELATIONS: dict[Relation, str] = {
    "": "",
    "same_file": "the same file",
    "same_content": "a copy of the file",
    "same_tags": "the same artist and title",
}
_BATCH = 10_000  # tracks normalised at a time, so that the working memory stays small


@dataclass(frozen=True)
class SimilarTrack:
    """A track that is similar to another.

    Parameters
    ----------
    path : str
    similarity : float
        Cosine of the angle between the embeddings, in [-1, 1].
    relation : {"", "same_file", "same_content", "same_tags"}
        Why it is probably the same track: the same file, a file with the same content, or with the same artist and
        title in its tags.
    copies : tuple of str
        Further files with the same content as `path`.
    artist, title : str
        From the tags of the file; "" if they are not known.
    """

    path: str
    similarity: float
    relation: Relation = ""
    copies: tuple[str, ...] = ()
    artist: str = ""
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain text, numbers and lists."""
        return {
            "file": printable(self.path),
            "similarity": round(self.similarity, 6),
            "relation": self.relation or None,
            "copies": [printable(path) for path in self.copies],
            "artist": self.artist or None,
            "title": self.title or None,
        }


class TrackIndex:
    """Embeddings of tracks, for exact search.

    The search is a matrix product over all tracks: 100,000 take about 20 ms, and no index has to be built or kept.

    Parameters
    ----------
    model : str
        Key of the embedder.
    paths : sequence of tuples of str
        Files of each track, which have the same content.
    contents : sequence of bytes
        Content hash of each track; b"" if unknown.
    vectors : float array, shape (n_tracks, embedding_dim)
    hash_file : callable
        Computes a content hash.
    """

    def __init__(
        self,
        model: str,
        paths: Sequence[tuple[str, ...]],
        contents: Sequence[bytes],
        vectors: Float32Array,
        hash_file: Callable[[Path], bytes] = content_digest,
    ) -> None:
        self.model, self.paths, self.contents, self.hash_file = model, paths, contents, hash_file
        self.vectors = np.empty(vectors.shape, np.float32)
        for at in range(0, len(vectors), _BATCH):
            self.vectors[at : at + _BATCH] = _normalise(vectors[at : at + _BATCH])

    @classmethod
    def from_table(cls, table: EmbeddingTable) -> TrackIndex:
        """Build an index from the embeddings of files, which are averaged over slices and grouped by content."""
        groups: dict[bytes, int] = {}
        rows = np.array([groups.setdefault(content, len(groups)) for content in table.contents], np.intp)
        paths: list[dict[str, None]] = [{} for _ in groups]
        for path, row in zip(table.paths, rows, strict=True):
            paths[row][path] = None
        vectors = np.asarray(table.vectors, np.float32)
        if len(groups) < len(rows):
            vectors = average_by(vectors.astype(np.float64), rows, len(groups)).astype(np.float32)
        return cls(table.model, [tuple(files) for files in paths], list(groups), vectors)

    def __len__(self) -> int:
        return len(self.paths)

    def find(self, path: str | Path) -> int | None:
        """Return the row of a file by its content; None if it is not in the index."""
        if not Path(path).is_file():
            return None
        content = self.hash_file(Path(path))
        return next((row for row, known in enumerate(self.contents) if known == content), None)

    def search(self, vector: Float32Array, n: int) -> tuple[list[int], Float32Array]:
        """Find the tracks with the highest cosine similarity to a vector.

        Parameters
        ----------
        vector : float array, shape (embedding_dim,)
        n : int
            Number of tracks; at most all are returned.

        Returns
        -------
        rows : list of int
            Most similar first; equal ones in the order of the index.
        similarities : float32 array, shape (n,)
        """
        if vector.shape != self.vectors.shape[1:]:
            raise ArgumentError(f"the vector must have shape {self.vectors.shape[1:]}, got {vector.shape}")
        similarities = self.vectors @ _normalise(vector[None])[0]
        n = min(n, len(similarities))
        # All tracks as similar as the last are sorted, so that the order of equal ones doesn't depend on `n`.
        last = np.partition(similarities, len(similarities) - n)[len(similarities) - n] if n else np.inf
        rows = np.flatnonzero(similarities >= last)
        rows = rows[np.argsort(-similarities[rows], kind="stable")][:n]
        return rows.tolist(), similarities[rows]


def find_similar(index: TrackIndex, song: str | Path, vector: Float32Array, n: int = 10) -> list[SimilarTrack]:
    """Find the tracks that are most similar to a song.

    Parameters
    ----------
    index : TrackIndex
    song : path
        Its own entries in the index, and those that are probably the same track, are named and don't count.
    vector : float array, shape (embedding_dim,)
        The song's embedding.
    n : int
        Number of other tracks.

    Returns
    -------
    list of SimilarTrack
        Most similar first: at most `n` without a relation, and those with one that are more similar than the last.
    """
    song = Path(song)
    content = index.hash_file(song) if song.is_file() else None
    song_tags = _identity(read_tags(song))
    found: list[SimilarTrack] = []
    wanted = n
    while True:  # tracks with a relation don't count, and the tags tell only when they are read
        rows, similarities = index.search(vector, wanted)
        for row, similarity in list(zip(rows, similarities.tolist(), strict=True))[len(found) :]:
            found.append(_describe(index, row, similarity, song, content, song_tags))
            if sum(not track.relation for track in found) == n:
                return found
        if len(rows) < wanted:
            return found
        wanted *= 2


def _describe(
    index: TrackIndex,
    row: int,
    similarity: float,
    song: Path,
    content: bytes | None,
    song_tags: tuple[str, str] | None,
) -> SimilarTrack:
    paths = index.paths[row]
    same_file = next((path for path in paths if os.path.realpath(path) == os.path.realpath(song)), None)
    first = paths[0] if same_file is None else same_file
    tags = read_tags(Path(first))
    relation: Relation = ""
    if same_file is not None:
        relation = "same_file"
    elif content is not None and index.contents[row] == content:
        relation = "same_content"
    elif song_tags is not None and _identity(tags) == song_tags:
        relation = "same_tags"
    others = tuple(path for path in paths if path != first)
    return SimilarTrack(first, similarity, relation, others, tags.get("artist", ""), tags.get("title", ""))


def _identity(tags: dict[str, str]) -> tuple[str, str] | None:
    artist, title = tags.get("artist", "").casefold(), tags.get("title", "").casefold()
    return (artist, title) if artist and title else None


def _normalise(vectors: Float32Array) -> Float32Array:
    """Scale vectors to unit length; zero vectors stay zero."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    scaled: Float32Array = np.divide(vectors, np.where(norms > 0, norms, np.float32(1)), dtype=np.float32)
    return scaled
