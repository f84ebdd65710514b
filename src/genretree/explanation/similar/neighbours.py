"""Index of training tracks, and search for the nearest tracks in the embedding space of the model.

The index holds a vector, a name and a genre for each track. It is built on request only, by `build_index`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.arrays import Float32Array, Int64Array
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import files_outside, read_description, update_files
from genretree.corpus.store import Store
from genretree.errors import BundleError
from genretree.evaluation.evaluate import check_images
from genretree.explanation.bundle_weights import load_weights_for
from genretree.explanation.result import Neighbour
from genretree.explanation.slices import TrackSlices
from genretree.files import read_json_text, sha256_file, write_text
from genretree.metrics.calibration import average_by
from genretree.models.base import Model, embed_slices
from genretree.progress import progress_bar

FOLDER = "index"
_VECTORS, _TRACKS = f"{FOLDER}/vectors.safetensors", f"{FOLDER}/tracks.json"
_AT_A_TIME = 64
_MAX_TRACKS_BYTES = 64 << 20  # some 300,000 tracks
_EPSILON = 1e-6
NEIGHBOURS = 5


def build_index(
    folder: str | Path, store: Store, part: str = "train", overwrite: bool = False, progress: bool = False
) -> int:
    """Write an index of the tracks of a store into a bundle, and return their number.

    Parameters
    ----------
    folder : path
        Folder of the bundle.
    store : Store
        Store with the tracks, usually that of the training.
    part : {"train", "validation", "test", "all"}
        Part of the split that the bundle was trained with, or of `default` if the store does not have that split.
    overwrite : bool
        Replace an existing index.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    BundleError
        If the bundle is damaged or already has an index.
    CorpusError
        If the image settings of the store differ from those of the bundle, or the store has no such part.
    """
    folder = Path(folder)
    bundle = load_bundle(folder)  # in PyTorch: an export does not compute embeddings
    content = read_description(folder)
    replaces = files_outside(content, FOLDER) != content["files"]
    if replaces and not overwrite:
        raise BundleError(f"{folder / FOLDER}: already exists; replace it with `overwrite=True`")
    check_images(bundle, store)
    rows = _rows(bundle, store, part)
    vectors, tracks = _describe_tracks(bundle, store, rows, progress)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + _EPSILON
    arrays = {"vectors": ((vectors - mean) / scale).astype(np.float16), "mean": mean, "scale": scale}
    training_checksums = set(bundle.training.get("tracks_seen", ()))
    entries = [
        {
            "track": str(store.tracks["path"][track]),
            "genre": list(store.taxonomy.leaves[store.track_leaves[track]]),
            "learned": str(store.tracks["sha256"][track]) in training_checksums,
        }
        for track in tracks
    ]
    if replaces:  # the bundle must never list missing files
        update_files(folder, FOLDER, {})
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / FOLDER).mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / _VECTORS)
    (folder / _VECTORS).chmod(0o644)
    write_text(folder / _TRACKS, json.dumps(entries, ensure_ascii=False, indent=1))
    update_files(folder, FOLDER, {name: sha256_file(folder / name) for name in (_VECTORS, _TRACKS)})
    return len(entries)


def check_index(bundle: Bundle, n_neighbours: int | None) -> None:
    """Raise BundleError if neighbours are requested and the bundle has no index."""
    if n_neighbours is not None and not (bundle.folder / _VECTORS).is_file():
        raise BundleError(
            f"{bundle.folder}: the bundle has no index of tracks; build one with: genretree index {bundle.folder} STORE"
        )


def find_neighbours(
    bundle: Bundle, track_slices: TrackSlices, n_neighbours: int | None = None
) -> tuple[Neighbour, ...] | None:
    """Find the nearest tracks in the index of a bundle; None if it has no index.

    Parameters
    ----------
    bundle : Bundle
    track_slices : TrackSlices
    n_neighbours : int, optional
        Number of tracks; by default 5 if the bundle has an index.

    Raises
    ------
    BundleError
        If a number is given and the bundle has no index, or the index cannot be read.
    """
    check_index(bundle, n_neighbours)
    if not (bundle.folder / _VECTORS).is_file():
        return None
    vectors, mean, scale, entries = _read_index(bundle)
    own = (_in_batches(load_weights_for(bundle).model, track_slices).mean(axis=0) - mean) / scale
    similarities = vectors @ own / np.maximum(np.linalg.norm(vectors, axis=1) * np.linalg.norm(own), _EPSILON)
    nearest = np.argsort(-similarities, kind="stable")[: NEIGHBOURS if n_neighbours is None else n_neighbours]
    return tuple(
        Neighbour(
            entries[row]["track"],
            tuple(entries[row]["genre"]),
            float(1 - similarities[row]),
            entries[row].get("learned", True),  # absent from indexes of older versions
        )
        for row in nearest.tolist()
    )


def list_tracks(bundle: Bundle) -> frozenset[str]:
    """Return the names of the tracks in the index of a bundle; empty if it has none.

    Raises
    ------
    BundleError
        If the index cannot be read.
    """
    if not (bundle.folder / _VECTORS).is_file():
        return frozenset()
    return frozenset(entry["track"] for entry in _read_index(bundle)[3])


def _read_index(bundle: Bundle) -> tuple[Float32Array, Float32Array, Float32Array, list[dict[str, Any]]]:
    """Read the vectors, their mean and scale, and the entries of the tracks. Raises BundleError."""
    path = bundle.folder / _VECTORS
    try:
        arrays = load_file(path)
        entries: list[dict[str, Any]] = json.loads(read_json_text(bundle.folder / _TRACKS, _MAX_TRACKS_BYTES))
        vectors, mean, scale = arrays["vectors"].astype(np.float32), arrays["mean"], arrays["scale"]
        if len(vectors) != len(entries):
            raise ValueError(f"{len(vectors)} vectors for {len(entries)} tracks")
        for entry in entries:
            if not isinstance(entry["track"], str) or not all(isinstance(name, str) for name in entry["genre"]):
                raise ValueError("the name or genre of a track is not text")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        rebuild = f"rebuild it with: genretree index {bundle.folder} STORE --overwrite"
        raise BundleError(f"{path}: cannot be read ({error}); {rebuild}") from error
    return vectors, mean, scale, entries


def _rows(bundle: Bundle, store: Store, part: str) -> Int64Array:
    if part == "all":
        return store.rows("all")
    name = bundle.training.get("split", {}).get("name", "default")
    return store.rows(part, store.split(name if name in store.split_names() else "default"))


def _describe_tracks(bundle: Bundle, store: Store, rows: Int64Array, progress: bool) -> tuple[Float32Array, Int64Array]:
    if not len(rows):
        raise BundleError(f"{store.folder}: the part has no tracks to index; choose another part")
    found = []
    with progress_bar(len(rows), "index", "slice", progress) as tick:
        for at in range(0, len(rows), _AT_A_TIME):
            some = rows[at : at + _AT_A_TIME]
            found.append(embed_slices(bundle.model, store.inputs(some)))
            tick(len(some))
    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    vectors = average_by(np.concatenate(found).astype(np.float64), position, len(tracks))
    return vectors.astype(np.float32), tracks


def _in_batches(model: Model, track_slices: TrackSlices) -> Float32Array:
    cut: Callable[[int], TrackSlices] = lambda at: track_slices.select(slice(at, at + _AT_A_TIME))  # noqa: E731
    parts = [cut(at) for at in range(0, len(track_slices), _AT_A_TIME)]
    return np.concatenate([embed_slices(model, part.inputs) for part in parts])
