"""Outputs of mn04 for slices, as the stored feature `mn04`: 527 tags and the embedding."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from genretree.arrays import Float32Array
from genretree.models.pretrained.mn04 import EMBEDDING_DIM, N_TAGS, SR, Mn04, compute_mel
from genretree.models.pretrained.mn04_weights import load_mn04
from genretree.settings import ImageSettings
from genretree.sound.features import MN04, Feature

# AudioSet's indices: speech and other voices, singing to humming; then everything below "Music".
VOICE_AND_MUSIC_TAGS = np.concatenate([np.arange(0, 38), np.arange(137, 283)])
_WIDTH = N_TAGS + EMBEDDING_DIM


def compute_mn04(y: Float32Array, sr: int) -> Float32Array:
    """Compute the tags and the embedding of one slice.

    Parameters
    ----------
    y : float32 array, shape (n_samples,)
        Mono audio.
    sr : int
        Sample rate in Hz; resampled to 32,000 Hz.

    Returns
    -------
    float32 array, shape (911,)
        527 tags as log odds, then the embedding of 384 values of 0 or a little less and more.

    Raises
    ------
    TrainingError
        If the weights are not on this machine.
    """
    import soxr

    resampled = soxr.resample(np.asarray(y, np.float32), sr, SR)
    mel = torch.from_numpy(np.ascontiguousarray(compute_mel(resampled)))
    with torch.inference_mode():
        outputs = _network()(mel[None, None])
    values: Float32Array = torch.cat([outputs.logits[0], outputs.embedding[0]]).numpy()
    return values


@lru_cache(maxsize=1)
def _network() -> Mn04:
    return load_mn04()


def _shape(settings: ImageSettings) -> tuple[int, ...]:
    return (_WIDTH,)


MN04_FEATURE = Feature(MN04, compute_mn04, _shape, "float16")
