"""Outputs of mn04 for the slices of a store, with a cache in the store."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from genretree.arrays import Array, Float32Array, Int64Array
from genretree.errors import TrainingError
from genretree.models.base import SliceDataset
from genretree.models.features.cache import FeatureCache
from genretree.models.pretrained.mn04 import EMBEDDING_DIM, N_TAGS, Mn04
from genretree.models.pretrained.musicnn_weights import digest
from genretree.sound.features import MEL_32K

# AudioSet's indices: speech and other voices, singing to humming; then everything below "Music".
VOICE_AND_MUSIC_TAGS = np.concatenate([np.arange(0, 38), np.arange(137, 283)])
_CPU_BATCH_SIZE = 4


def extract_mn04_outputs(dataset: SliceDataset, network: Mn04, progress: bool = False) -> Float32Array:
    """Compute the tags and the embedding of slices, each as a whole.

    Parameters
    ----------
    dataset : SliceDataset
        Slices with the feature `mel_32k`.
    network : Mn04
        On the device that computes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    float32 array, shape (n, 911)
        527 tags as log odds, then the embedding of 384 values.

    Raises
    ------
    TrainingError
        If the store lacks the feature `mel_32k`.
    """
    mel_32k = dataset.features.get(MEL_32K)
    if mel_32k is None:
        raise TrainingError(
            f"the teacher mn04 needs the feature {MEL_32K}, but this store lacks it; prepare the same source into it "
            f"again with the feature {MEL_32K}"
        )
    fingerprint = digest({name: value.cpu() for name, value in network.state_dict().items()})[:12]
    cache = FeatureCache(dataset, f"mn04-slices-{fingerprint}.npy", N_TAGS + EMBEDDING_DIM)
    return cache.read(dataset.rows, partial(_extract_rows, network, mel_32k), "mn04", progress)


def _extract_rows(network: Mn04, mel_32k: Array, rows: Int64Array) -> Float32Array:
    device = next(network.parameters()).device
    mel = torch.from_numpy(np.asarray(mel_32k[rows], np.float32))[:, None]
    batch_size = _CPU_BATCH_SIZE if device.type == "cpu" else max(1, len(mel))
    values = []
    with torch.inference_mode():
        for start in range(0, len(mel), batch_size):
            outputs = network(mel[start : start + batch_size].to(device))
            values.append(torch.cat([outputs.logits, outputs.embedding], dim=1).cpu())
    joined: Float32Array = torch.cat(values).numpy()
    return joined
