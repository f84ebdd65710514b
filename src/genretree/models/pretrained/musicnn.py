"""The MusiCNN network (Pons and Serra 2019, "Pre-trained convolutional neural networks for music audio tagging").

Published under the ISC licence at https://pypi.org/project/musicnn/0.1.0. The network `msd` was trained on 50 tags of
the Million Song Dataset, `mtt` on 50 tags of MagnaTagATune.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

N_TAGS = 50
N_POOLED = 753
N_PENULTIMATE = 200
PATCH_FRAMES = 187  # 3 s
# The tags, in the networks' order (musicnn/configuration.py of the published package).
MSD_TAGS = (
    "rock",
    "pop",
    "alternative",
    "indie",
    "electronic",
    "female vocalists",
    "dance",
    "00s",
    "alternative rock",
    "jazz",
    "beautiful",
    "metal",
    "chillout",
    "male vocalists",
    "classic rock",
    "soul",
    "indie rock",
    "Mellow",
    "electronica",
    "80s",
    "folk",
    "90s",
    "chill",
    "instrumental",
    "punk",
    "oldies",
    "blues",
    "hard rock",
    "ambient",
    "acoustic",
    "experimental",
    "female vocalist",
    "guitar",
    "Hip-Hop",
    "70s",
    "party",
    "country",
    "easy listening",
    "sexy",
    "catchy",
    "funk",
    "electro",
    "heavy metal",
    "Progressive rock",
    "60s",
    "rnb",
    "indie pop",
    "sad",
    "House",
    "happy",
)
MTT_TAGS = (
    "guitar",
    "classical",
    "slow",
    "techno",
    "strings",
    "drums",
    "electronic",
    "rock",
    "fast",
    "piano",
    "ambient",
    "beat",
    "violin",
    "vocal",
    "synth",
    "female",
    "indian",
    "opera",
    "male",
    "singing",
    "vocals",
    "no vocals",
    "harpsichord",
    "loud",
    "quiet",
    "flute",
    "woman",
    "male vocal",
    "no vocal",
    "pop",
    "soft",
    "sitar",
    "solo",
    "man",
    "classic",
    "choir",
    "voice",
    "new age",
    "dance",
    "male voice",
    "female vocal",
    "beats",
    "harp",
    "cello",
    "no voice",
    "weird",
    "country",
    "metal",
    "female voice",
    "choral",
)
BANDS = 96
_TIMBRAL = ((7, 38, 204), (7, 67, 204))  # frames, bands, filters
_TEMPORAL = ((128, 51), (64, 51), (32, 51))  # frames, filters
_MIDDLE = 64
_EPSILON = 1e-3  # TensorFlow's for batch normalisation


class MusicnnOutput(NamedTuple):
    """Outputs for patches: tag probabilities and the activations of earlier layers, all of shape (n, width)."""

    tags: Tensor
    mean_pool: Tensor
    max_pool: Tensor
    penultimate: Tensor


class Musicnn(nn.Module):
    """The network from log-mel patches, shape (n, frames, 96), to tags; 187 frames as published."""

    def __init__(self) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm2d(1, _EPSILON)
        shapes = [(frames, bands, width) for frames, bands, width in _TIMBRAL]
        shapes += [(frames, 1, width) for frames, width in _TEMPORAL]
        self.front = nn.ModuleList(nn.Conv2d(1, width, (frames, bands)) for frames, bands, width in shapes)
        self.front_norms = nn.ModuleList(nn.BatchNorm2d(width, _EPSILON) for *_, width in shapes)
        widths = [sum(width for *_, width in shapes), _MIDDLE, _MIDDLE]
        self.middle = nn.ModuleList(nn.Conv1d(width, _MIDDLE, 7, padding=3) for width in widths)
        self.middle_norms = nn.ModuleList(nn.BatchNorm1d(_MIDDLE, _EPSILON) for _ in widths)
        self.pool_norm = nn.BatchNorm1d(2 * N_POOLED, _EPSILON)
        self.dense = nn.Linear(2 * N_POOLED, N_PENULTIMATE)
        self.dense_norm = nn.BatchNorm1d(N_PENULTIMATE, _EPSILON)
        self.tags = nn.Linear(N_PENULTIMATE, N_TAGS)

    def forward(self, patches: Tensor) -> MusicnnOutput:
        """Compute all outputs for patches of shape (n, frames, 96)."""
        image = self.input_norm(patches[:, None])
        front = torch.cat(
            [self._convolve_front(image, *pair) for pair in zip(self.front, self.front_norms, strict=True)], dim=1
        )
        layers = [front]
        for depth, (convolution, norm) in enumerate(zip(self.middle, self.middle_norms, strict=True)):
            found = norm(functional.relu(convolution(layers[-1])))
            layers.append(found if depth == 0 else found + layers[-1])
        features = torch.cat(layers, dim=1)
        mean_pool, max_pool = features.mean(dim=2), features.amax(dim=2)
        # The published network interleaves maximum and mean, feature by feature.
        pooled = torch.stack([max_pool, mean_pool], dim=2).flatten(1)
        penultimate = self.dense_norm(functional.relu(self.dense(self.pool_norm(pooled))))
        return MusicnnOutput(torch.sigmoid(self.tags(penultimate)), mean_pool, max_pool, penultimate)

    @staticmethod
    def _convolve_front(image: Tensor, convolution: nn.Module, norm: nn.Module) -> Tensor:
        """Convolve over time, then take the maximum over bands: shape (n, filters, frames)."""
        assert isinstance(convolution, nn.Conv2d)
        frames = convolution.kernel_size[0]
        # TensorFlow's "same" padding: for even lengths there is one more at the end.
        padded = functional.pad(image, (0, 0, (frames - 1) // 2, frames // 2))
        found: Tensor = norm(functional.relu(convolution(padded)))
        return found.amax(dim=3)


def from_tensorflow(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Convert the arrays of the published checkpoint to a state dict of `Musicnn`.

    Raises
    ------
    ValueError
        If an array is missing or of another shape.
    """
    convolutions = [*(f"front.{i}" for i in range(5)), *(f"middle.{i}" for i in range(3))]
    front_norms = (f"front_norms.{i}" for i in range(5))
    norms = ["input_norm", *front_norms, *(f"middle_norms.{i}" for i in range(3)), "pool_norm", "dense_norm"]
    names = {"beta": "bias", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
    state = Musicnn().state_dict()
    try:
        for i, ours in enumerate(convolutions):
            kernel = torch.from_numpy(tensors[_numbered("conv2d", i, "kernel")])
            # The front convolves over (frames, bands), the middle over frames, which is Conv1d in PyTorch.
            weight = kernel.permute(3, 2, 0, 1) if ours.startswith("front") else kernel[:, :, 0].permute(2, 1, 0)
            state[f"{ours}.weight"] = weight.contiguous()
            state[f"{ours}.bias"] = torch.from_numpy(tensors[_numbered("conv2d", i, "bias")])
        for i, ours in enumerate(norms):
            for theirs, name in names.items():
                state[f"{ours}.{name}"] = torch.from_numpy(tensors[_numbered("batch_normalization", i, theirs)])
        for i, ours in enumerate(("dense", "tags")):
            state[f"{ours}.weight"] = torch.from_numpy(tensors[_numbered("dense", i, "kernel")]).T.contiguous()
            state[f"{ours}.bias"] = torch.from_numpy(tensors[_numbered("dense", i, "bias")])
        Musicnn().load_state_dict(state)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ValueError(f"not a checkpoint of a MusiCNN network ({error})") from error
    return state


def _numbered(layer: str, number: int, part: str) -> str:
    return f"{layer}_{number}/{part}" if number else f"{layer}/{part}"
