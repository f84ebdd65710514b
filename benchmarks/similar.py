"""How long the search for similar tracks takes, next to scikit-learn's exact search, and how alike its results are.

    python benchmarks/similar.py [--tracks 100000] [--dimensions 384] [--queries 50] [--seed 0]
    python benchmarks/similar.py --table tracks.csv

Without files, random embeddings: exact search takes the same time whatever they are. Also measured: loading the index
from a library database, which a command does once. With a table (path, genre, artist): how many of the 10 most similar
tracks by other artists have the same genre, by the default network on 10 s of each track. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from sklearn.neighbors import NearestNeighbors

from genretree.embedding.embedders import load_embedder
from genretree.embedding.neighbours import TrackIndex
from genretree.library.database.connection import open_database
from genretree.library.scan.embed import load_track_index
from genretree.parallel import available_processors

N_SIMILAR = 10
EXCERPT = (20, 10)  # start and length in seconds
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def _milliseconds(search: Callable[[Vectors], object], queries: Vectors) -> dict[str, float]:
    search(queries[0])
    wall, cpu = [], []
    for query in queries:
        began, began_cpu = time.perf_counter(), time.process_time()
        search(query)
        wall.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - began_cpu))
    percentile_95 = float(np.percentile(wall, 95))
    return {
        "median": round(float(np.median(wall)), 1),
        "95 %": round(percentile_95, 1),
        "cpu": round(float(np.median(cpu)), 1),
    }


def _time_library(vectors: Vectors) -> dict[str, float]:
    """Write a library with these embeddings, and time loading them."""
    with tempfile.TemporaryDirectory() as folder, open_database(Path(folder) / "library.db", create=True) as database:
        with database.transaction() as connection:
            for number, vector in enumerate(vectors):
                content = number.to_bytes(16, "big")
                row = (f"/music/{number // 1000}/{number}.mp3".encode(), content)
                connection.execute("INSERT INTO file (path, size, mtime_ns, content, seen) VALUES (?, 1, 1, ?, 1)", row)
                connection.execute(
                    "INSERT INTO embedding (model, content, vector) VALUES ('mn04', ?, ?)", (content, vector.tobytes())
                )
        began, began_cpu = time.perf_counter(), time.process_time()
        index = load_track_index(database, "mn04")
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        assert len(index) == len(vectors)
        return {
            "load_s": round(seconds, 2),
            "load_cpu_s": round(cpu, 2),
            "database_mb": round(database.path.stat().st_size / 1e6, 1),
        }


def _genre_agreement(table: Path) -> dict[str, Any]:
    """Return the share of similar tracks by other artists with the same genre, and that of random ones."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    embedder = load_embedder()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        excerpt = Path(folder) / "excerpt.wav"
        for row in rows:
            with sf.SoundFile(table.parent / row["path"]) as source:
                source.seek(min(EXCERPT[0] * source.samplerate, max(0, source.frames - EXCERPT[1] * source.samplerate)))
                sf.write(excerpt, source.read(EXCERPT[1] * source.samplerate), source.samplerate)
            found.append(embedder.embed_file(excerpt).mean)
    genres, artists = (np.array([row[name] for row in rows]) for name in ("genre", "artist"))
    vectors = np.stack(found)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    same = genres[:, None] == genres[None]
    other_artist = artists[:, None] != artists[None]
    similarities[~other_artist] = -np.inf
    nearest = np.argsort(-similarities, axis=1)[:, :N_SIMILAR]
    agreement = np.take_along_axis(same, nearest, axis=1)
    by_chance = np.array([row[mask].mean() for row, mask in zip(same, other_artist, strict=True)])
    return {
        "model": embedder.key,
        "tracks": len(rows),
        "artists": len(set(artists.tolist())),
        "nearest_%": round(100 * float(agreement[:, 0].mean()), 1),
        "nearest_10_%": round(100 * float(agreement.mean()), 1),
        "chance_%": round(100 * float(by_chance.mean()), 1),
    }


def main() -> None:
    """Time the search and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table is not None:
        print(json.dumps(_genre_agreement(given.table), indent=1))
        return
    rng = np.random.default_rng(given.seed)
    vectors = rng.standard_normal((given.tracks, given.dimensions), dtype=np.float32)
    queries = rng.standard_normal((given.queries, given.dimensions), dtype=np.float32)
    index = TrackIndex("mn04", [(f"{row}.mp3",) for row in range(given.tracks)], [b""] * given.tracks, vectors)
    cosine = NearestNeighbors(n_neighbors=N_SIMILAR, algorithm="brute", metric="cosine").fit(index.vectors)
    euclidean = NearestNeighbors(n_neighbors=N_SIMILAR, algorithm="brute").fit(index.vectors)
    expected = [cosine.kneighbors(query[None])[1][0].tolist() for query in queries[:5]]
    assert [index.search(query, N_SIMILAR)[0] for query in queries[:5]] == expected
    result = {
        "tracks": given.tracks,
        "dimensions": given.dimensions,
        "processors": available_processors(),
        "machine": platform.machine(),
        "ms_per_query": {
            "genretree": _milliseconds(lambda query: index.search(query, N_SIMILAR), queries),
            "scikit-learn, cosine": _milliseconds(lambda query: cosine.kneighbors(query[None]), queries),
            "scikit-learn, euclidean on unit vectors": _milliseconds(
                lambda query: euclidean.kneighbors(query[None]), queries
            ),
        },
        "library": _time_library(vectors),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
