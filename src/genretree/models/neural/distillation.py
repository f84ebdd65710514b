"""A teacher for networks that see images: what the published MusiCNN networks hear in the same slices.

Knowledge distillation (Hinton et al. 2015) of features rather than of genres, so that any music teaches, labelled or
not. The student's loss is the mean squared error on the standardised tags (as log odds) and penultimate layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genretree.arrays import Float32Array
from genretree.models.base import SliceDataset
from genretree.models.pretrained.musicnn_features import Layer, extract_dataset_features, load_network
from genretree.models.pretrained.names import CACHED, MusicnnName

TAUGHT: tuple[Layer, ...] = ("tags", "penultimate")
_PATCHES = 4  # heard of each slice, as the family `musicnn` does by default: what it heard serves here too
_FARTHEST = 4.0  # spreads from the mean


def compute_teacher_targets(
    parts: Sequence[SliceDataset], networks: Sequence[MusicnnName], where: str = CACHED, progress: bool = False
) -> list[Float32Array]:
    """Give what the teacher says of slices, standardised by the first part.

    Parameters
    ----------
    parts : sequence of SliceDataset
        With sound.
    networks : sequence of "msd", "mtt"
    where : str
        A folder with their weights, or 'cached' for those in the user's cache.
    progress : bool
        Show bars.

    Returns
    -------
    list of float32 arrays, shape (n, 250 for each network)

    Raises
    ------
    TrainingError
        If there is no sound, or the networks' weights are not on this machine.
    """
    loaded = {name: load_network(name, where) for name in networks}
    heard = [extract_dataset_features(part, loaded, _PATCHES, progress=progress) for part in parts]
    joined = [
        np.concatenate([one[f"{name}/{layer}"] for name in networks for layer in TAUGHT], axis=1) for one in heard
    ]
    mean, spread = joined[0].mean(axis=0), joined[0].std(axis=0)
    return [np.clip((one - mean) / np.maximum(spread, 1e-6), -_FARTHEST, _FARTHEST) for one in joined]
