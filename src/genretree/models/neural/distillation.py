"""Distillation targets for image networks: outputs of the published MusiCNN networks for the same slices.

Knowledge distillation (Hinton et al. 2015) of features rather than genres, which works on unlabelled music. The
student's loss is the mean squared error on the standardised tags (as log odds) and the penultimate layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genretree.arrays import Float32Array
from genretree.models.base import SliceDataset
from genretree.models.pretrained.musicnn_features import Layer, extract_dataset_features, load_network
from genretree.models.pretrained.names import MusicnnName, Weights

TEACHER_LAYERS: tuple[Layer, ...] = ("tags", "penultimate")
_PATCHES = 4  # of each slice; the default of the family `musicnn`, so that both share the feature cache
_CLIP = 4.0  # standard deviations from the mean


def compute_teacher_targets(
    parts: Sequence[SliceDataset],
    networks: Sequence[MusicnnName],
    weights: str = Weights.CACHED,
    progress: bool = False,
) -> list[Float32Array]:
    """Compute the teacher's outputs for slices, standardised with the statistics of the first data set.

    Parameters
    ----------
    parts : sequence of SliceDataset
        Slices with the feature `mel_16k`.
    networks : sequence of "msd", "mtt"
    weights : str
        Folder with their weights, or 'cached' for the published weights in the user's cache.
    progress : bool
        Show progress bars.

    Returns
    -------
    list of float32 arrays, shape (n, 250 for each network)

    Raises
    ------
    TrainingError
        If a store lacks `mel_16k`, or the weights are not on this machine.
    """
    loaded = {name: load_network(name, weights) for name in networks}
    outputs = [extract_dataset_features(part, loaded, _PATCHES, progress=progress) for part in parts]
    concatenated = [
        np.concatenate([one[f"{name}/{layer}"] for name in networks for layer in TEACHER_LAYERS], axis=1)
        for one in outputs
    ]
    mean, spread = concatenated[0].mean(axis=0), concatenated[0].std(axis=0)
    return [np.clip((one - mean) / np.maximum(spread, 1e-6), -_CLIP, _CLIP) for one in concatenated]
