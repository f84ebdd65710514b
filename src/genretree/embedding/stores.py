"""Embeddings of the tracks of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genretree.arrays import Int64Array
from genretree.corpus.store import Store
from genretree.embedding.embedders import BundleEmbedder, Embedder, MusicnnEmbedder, load_embedder
from genretree.embedding.neighbours import TrackIndex
from genretree.errors import CorpusError, TrainingError
from genretree.evaluation.evaluate import check_images
from genretree.files import sha256_file
from genretree.metrics.calibration import average_by
from genretree.progress import progress_bar
from genretree.settings import ImageSettings
from genretree.sound.features import MEL_16K

_BATCH = 64


def load_store_embedder(bundle: str | Path | None = None, download: bool = False) -> Embedder:
    """Load a network that embeds the slices of a store: the model of a bundle, or MusiCNN.

    Raises
    ------
    BundleError
        If the bundle can't be read.
    TrainingError
        If no bundle is given and the weights of MusiCNN are not on this machine.
    """
    if bundle is not None:
        return load_embedder(bundle, download)
    try:
        return MusicnnEmbedder()
    except TrainingError as error:
        raise TrainingError(
            "a store holds no audio, which mn04 needs; name a bundle in `bundle`, or run: genretree weights get musicnn"
        ) from error


def embed_store(store: Store, embedder: Embedder, progress: bool = False) -> TrackIndex:
    """Embed the tracks of a store from its images and features, without decoding their audio.

    Parameters
    ----------
    store : Store
    embedder : Embedder
        MusiCNN or the model of a bundle; mn04 needs audio.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    TrackIndex
        Its contents are the SHA-256 hashes that the store records.

    Raises
    ------
    CorpusError
        If the store lacks what the network needs.
    """
    if not isinstance(embedder, MusicnnEmbedder | BundleEmbedder):
        raise CorpusError(
            f"{store.folder}: a store holds no audio, which {embedder.key} needs; name a bundle in `bundle`, or embed "
            "the audio files with: genretree embed FOLDER -o tracks.npy"
        )
    if isinstance(embedder, BundleEmbedder):
        check_images(embedder.bundle, store)
    elif MEL_16K not in store.features or store.settings.slice_frames != ImageSettings().slice_frames:
        raise CorpusError(
            f"{store.folder}: MusiCNN needs slices of {ImageSettings().slice_seconds} s with the feature {MEL_16K}; "
            "prepare the store again with them, or name a bundle in `bundle`"
        )
    rows: Int64Array = store.rows("all")
    vectors = []
    with progress_bar(len(rows), "embed", "slice", progress) as tick:
        for at in range(0, len(rows), _BATCH):
            some = rows[at : at + _BATCH]
            vectors.append(embedder.embed_inputs(store.inputs(some)))
            tick(len(some))
    tracks, positions = np.unique(store.slice_tracks[rows], return_inverse=True)
    means = average_by(np.concatenate(vectors).astype(np.float64), positions, len(tracks)).astype(np.float32)
    files = store.tracks.get("file", store.tracks["path"])
    paths = [(str(files[track]),) for track in tracks]
    contents = [bytes.fromhex(str(store.tracks["sha256"][track])) for track in tracks]
    return TrackIndex(embedder.key, paths, contents, means, _sha256)


def _sha256(path: Path) -> bytes:
    return bytes.fromhex(sha256_file(path))
