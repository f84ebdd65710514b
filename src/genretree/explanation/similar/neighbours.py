"""Explaining by example: the training tracks that lie nearest in the model's own feature space.

The index holds a vector and a name for each track, and is made only on request: `genretree index BUNDLE STORE`.
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
_SMALLEST = 1e-6
NEIGHBOURS = 5


def build_index(
    folder: str | Path, store: Store, part: str = "train", overwrite: bool = False, progress: bool = False
) -> int:
    """Write an index of a store's tracks into a bundle; gives how many there are.

    Parameters
    ----------
    folder : path
        The bundle.
    store : Store
        What it learned from.
    part : str
        Of the split it was trained with, if the store has it, else of `default`: `train`, `validation`, `test`, `all`.
    overwrite : bool
        Replace an index that is there.

    Raises
    ------
    BundleError
        If the bundle is damaged or has an index.
    CorpusError
        If the store was drawn in another way, or has no such part.
    """
    folder = Path(folder)
    bundle = load_bundle(folder)  # by torch: an export alone doesn't give features
    content = read_description(folder)
    replaces = files_outside(content, FOLDER) != content["files"]
    if replaces and not overwrite:
        raise BundleError(f"{folder / FOLDER}: exists already; replace it with `overwrite=True`")
    check_images(bundle, store)
    rows = _rows(bundle, store, part)
    vectors, tracks = _describe_tracks(bundle, store, rows, progress)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + _SMALLEST
    arrays = {"vectors": ((vectors - mean) / scale).astype(np.float16), "mean": mean, "scale": scale}
    learned = set(bundle.training.get("tracks_seen", ()))
    listed = [
        {
            "track": str(store.tracks["path"][track]),
            "genre": list(store.taxonomy.leaves[store.track_leaves[track]]),
            "learned": str(store.tracks["sha256"][track]) in learned,
        }
        for track in tracks
    ]
    if replaces:  # at no time does the bundle list what is not there
        update_files(folder, FOLDER, {})
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / FOLDER).mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / _VECTORS)
    (folder / _VECTORS).chmod(0o644)
    write_text(folder / _TRACKS, json.dumps(listed, ensure_ascii=False, indent=1))
    update_files(folder, FOLDER, {name: sha256_file(folder / name) for name in (_VECTORS, _TRACKS)})
    return len(listed)


def check_index(bundle: Bundle, most: int | None) -> None:
    """Refuse a number of neighbours where there is no index. Raises BundleError."""
    if most is not None and not (bundle.folder / _VECTORS).is_file():
        raise BundleError(
            f"{bundle.folder}: has no index of tracks; make one with: genretree index {bundle.folder} STORE"
        )


def find_neighbours(bundle: Bundle, track_slices: TrackSlices, most: int | None = None) -> tuple[Neighbour, ...] | None:
    """Give the nearest tracks of a bundle's index; None if it has none.

    Parameters
    ----------
    bundle : Bundle
    track_slices : TrackSlices
    most : int, optional
        How many; by default 5 if there is an index.

    Raises
    ------
    BundleError
        If a number is asked for and there is no index, or it can't be read.
    """
    check_index(bundle, most)
    path = bundle.folder / _VECTORS
    if not path.is_file():
        return None
    try:
        arrays = load_file(path)
        listed: list[dict[str, Any]] = json.loads(read_json_text(bundle.folder / _TRACKS, _MAX_TRACKS_BYTES))
        vectors, mean, scale = arrays["vectors"].astype(np.float32), arrays["mean"], arrays["scale"]
        if len(vectors) != len(listed):
            raise ValueError(f"{len(vectors)} vectors for {len(listed)} tracks")
        for each in listed:
            if not isinstance(each["track"], str) or not all(isinstance(name, str) for name in each["genre"]):
                raise ValueError("a track's name or genre is not text")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        again = f"make it again: genretree index {bundle.folder} STORE --overwrite"
        raise BundleError(f"{path}: can't be read ({error}); {again}") from error
    own = (_in_batches(load_weights_for(bundle).model, track_slices).mean(axis=0) - mean) / scale
    similar = vectors @ own / np.maximum(np.linalg.norm(vectors, axis=1) * np.linalg.norm(own), _SMALLEST)
    nearest = np.argsort(-similar, kind="stable")[: NEIGHBOURS if most is None else most]
    return tuple(
        Neighbour(
            listed[place]["track"],
            tuple(listed[place]["genre"]),
            float(1 - similar[place]),
            listed[place].get("learned", True),  # indexes of old don't say
        )
        for place in nearest.tolist()
    )


def _rows(bundle: Bundle, store: Store, part: str) -> Int64Array:
    if part == "all":
        return store.rows("all")
    name = bundle.training.get("split", {}).get("name", "default")
    return store.rows(part, store.split(name if name in store.split_names() else "default"))


def _describe_tracks(bundle: Bundle, store: Store, rows: Int64Array, progress: bool) -> tuple[Float32Array, Int64Array]:
    if not len(rows):
        raise BundleError(f"{store.folder}: this part has no tracks to make an index of")
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
