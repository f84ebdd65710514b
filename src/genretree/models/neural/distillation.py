"""Distillation targets for image networks: outputs of published networks for the same slices.

Knowledge distillation (Hinton et al. 2015) of features rather than genres, which works on unlabelled music. The
student's loss is the mean squared error on standardised tags (as log odds) and embeddings: MusiCNN's penultimate layer,
and mn04's embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from genretree.arrays import Float32Array
from genretree.models.base import SliceDataset
from genretree.models.neural.settings import Teacher
from genretree.models.pretrained.mn04 import N_TAGS
from genretree.models.pretrained.mn04_features import VOICE_AND_MUSIC_TAGS, extract_mn04_outputs
from genretree.models.pretrained.mn04_weights import load_mn04
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
    teacher: Teacher = "musicnn",
) -> list[Float32Array]:
    """Compute the teacher's outputs for slices, standardised with the statistics of the first data set.

    Parameters
    ----------
    parts : sequence of SliceDataset
        Slices with the features of the teacher: `mel_16k` for MusiCNN, `mel_32k` for mn04.
    networks : sequence of "msd", "mtt"
        MusiCNN networks.
    weights : str
        Folder with their weights, or 'cached' for the published weights in the user's cache.
    progress : bool
        Show progress bars.
    teacher : {"musicnn", "mn04", "both"}
        With "both", the outputs are scaled so that each teacher has half of a mean squared error over all of them.

    Returns
    -------
    list of float32 arrays, shape (n, n_targets)
        250 targets for each MusiCNN network, and 568 for mn04: its 184 tags of voices and music, and the embedding.

    Raises
    ------
    TrainingError
        If a store lacks a feature, or the weights are not on this machine.
    """
    blocks = []
    if teacher in ("musicnn", "both"):
        blocks.append(_standardise(_musicnn_outputs(parts, networks, weights, progress)))
    if teacher in ("mn04", "both"):
        blocks.append(_standardise(_mn04_outputs(parts, weights, progress)))
    widths = [block[0].shape[1] for block in blocks]
    scales = [np.sqrt(np.float32(sum(widths) / (len(blocks) * width))) for width in widths]
    return [
        np.concatenate([block[at] * scale for block, scale in zip(blocks, scales, strict=True)], axis=1)
        for at in range(len(parts))
    ]


def _musicnn_outputs(
    parts: Sequence[SliceDataset], networks: Sequence[MusicnnName], weights: str, progress: bool
) -> list[Float32Array]:
    loaded = {name: load_network(name, weights).to(_device()) for name in networks}
    outputs = [extract_dataset_features(part, loaded, _PATCHES, progress=progress) for part in parts]
    return [
        np.concatenate([one[f"{name}/{layer}"] for name in networks for layer in TEACHER_LAYERS], axis=1)
        for one in outputs
    ]


def _mn04_outputs(parts: Sequence[SliceDataset], weights: str, progress: bool) -> list[Float32Array]:
    network = load_mn04(None if weights == Weights.CACHED else weights).to(_device())
    outputs = [extract_mn04_outputs(part, network, progress) for part in parts]
    return [np.concatenate([one[:, VOICE_AND_MUSIC_TAGS], one[:, N_TAGS:]], axis=1) for one in outputs]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _standardise(outputs: Sequence[Float32Array]) -> list[Float32Array]:
    mean, spread = outputs[0].mean(axis=0), outputs[0].std(axis=0)
    return [np.clip((one - mean) / np.maximum(spread, 1e-6), -_CLIP, _CLIP) for one in outputs]
