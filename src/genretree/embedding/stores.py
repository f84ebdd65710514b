"""Embeddings of the tracks of a store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array, Int64Array
from genretree.corpus.store import Store
from genretree.embedding.embedders import (
    BackboneEmbedder,
    BackboneName,
    BundleEmbedder,
    Embedder,
    Mn04Embedder,
    MusicnnEmbedder,
    embed_batches,
    load_embedder,
)
from genretree.embedding.neighbours import TrackIndex
from genretree.errors import CorpusError
from genretree.evaluation.evaluate import check_images
from genretree.files import sha256_file
from genretree.metrics.calibration import average_by
from genretree.models.pretrained.sources import has_mn04
from genretree.progress import progress_bar
from genretree.settings import ImageSettings
from genretree.sound.decode import iter_blocks
from genretree.sound.features import MEL_16K, MEL_32K
from genretree.sound.slices import skip_silent, slice_feature_blocks

_BATCH = 64


def load_store_embedder(store: Store, bundle: str | Path | None = None, download: bool = False) -> Embedder:
    """Load a network that embeds the slices of a store.

    Parameters
    ----------
    store : Store
    bundle : path or str, optional
        Folder of a bundle, or its name on the Hub. Default: mn04 if the store has the feature `mel_32k` and the weights
        are on this machine, otherwise MusiCNN if it has `mel_16k`.
    download : bool
        Download a Hub bundle that is not in the cache.

    Raises
    ------
    BundleError
        If the bundle can't be read.
    CorpusError
        If the store lacks the features.
    TrainingError
        If the weights are not on this machine.
    """
    if isinstance(bundle, BackboneName):
        embedder = BackboneEmbedder(bundle, store.settings)
        name = embedder.backbone.input_feature
        if name not in store.features:
            raise CorpusError(
                f"{store.folder}: has no feature {name}, which the backbone '{bundle}' takes; prepare the same source "
                "into it with that feature"
            )
        return embedder
    if bundle is not None:
        return load_embedder(bundle, download)
    if MEL_32K in store.features and (MEL_16K not in store.features or has_mn04()):
        return Mn04Embedder()
    if MEL_16K in store.features:
        return MusicnnEmbedder()
    raise CorpusError(
        f"{store.folder}: has neither the feature {MEL_32K} (for mn04) nor {MEL_16K} (for MusiCNN), and no audio; "
        "name a bundle in `bundle`, or embed the audio files with: genretree embed FOLDER -o tracks.npy"
    )


def embed_song(store: Store, embedder: Embedder, song: Path) -> Float32Array:
    """Embed a file as `embed_store` embeds the tracks of a store: shape (embedding_dim,)."""
    if not isinstance(embedder, Mn04Embedder):
        return embedder.embed_file(song).mean
    slices = skip_silent(slice_feature_blocks(partial(iter_blocks, song), store.settings, (MEL_32K,)), song)
    return embed_batches(slices, embedder.embed_inputs).mean


def embed_store(store: Store, embedder: Embedder, progress: bool = False) -> TrackIndex:
    """Embed the tracks of a store from its images and features, without decoding their audio.

    Parameters
    ----------
    store : Store
    embedder : Embedder
        From `load_store_embedder`.
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
    if not isinstance(embedder, Mn04Embedder | MusicnnEmbedder | BundleEmbedder | BackboneEmbedder):
        raise CorpusError(f"{store.folder}: the slices of a store can't be embedded by {embedder.key}; name a bundle")
    if isinstance(embedder, BundleEmbedder):
        check_images(embedder.bundle, store)
    if isinstance(embedder, MusicnnEmbedder) and store.settings.slice_frames != ImageSettings().slice_frames:
        raise CorpusError(
            f"{store.folder}: MusiCNN needs slices of {ImageSettings().slice_seconds} s, and these have "
            f"{store.settings.slice_seconds} s; name a bundle in `bundle`"
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
