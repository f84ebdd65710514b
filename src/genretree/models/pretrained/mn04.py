"""The audio tagger mn04 (EfficientAT `mn04_as`): MobileNetV3 of 1 million weights, trained on AudioSet.

Schmid, Koutini and Widmer, "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation" (ICASSP
2023). It scores 527 AudioSet classes, among them some 60 music genres, singing, speech, silence and instruments.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from genretree.errors import TrainingError
from genretree.models.runtime.graph import Graph
from genretree.sound.mel_32k import MEL_32K_BANDS

N_TAGS = 527
EMBEDDING_DIM = 384


class _Block(NamedTuple):
    """One row of the published architecture."""

    expanded: int  # channels of the depthwise convolution
    kernel: int
    stride: int
    squeezed: int  # width of the squeeze-and-excitation block; 0: none
    hardswish: bool  # else ReLU
    out: int


_STEM = 8
_BLOCKS = (
    _Block(8, 3, 1, 0, False, 8),
    _Block(24, 3, 2, 0, False, 16),
    _Block(32, 3, 1, 0, False, 16),
    _Block(32, 5, 2, 8, False, 16),
    _Block(48, 5, 1, 16, False, 16),
    _Block(48, 5, 1, 16, False, 16),
    _Block(96, 3, 2, 0, True, 32),
    _Block(80, 3, 1, 0, True, 32),
    _Block(72, 3, 1, 0, True, 32),
    _Block(72, 3, 1, 0, True, 32),
    _Block(192, 3, 1, 48, True, 48),
    _Block(272, 3, 1, 72, True, 48),
    _Block(272, 5, 2, 72, True, 64),
    _Block(384, 5, 1, 96, True, 64),
    _Block(384, 5, 1, 96, True, 64),
)


class Mn04Output(NamedTuple):
    """Output for n windows."""

    logits: Tensor  # (n, 527); their sigmoid is the probability of each tag
    embedding: Tensor  # (n, 384)


class Mn04(nn.Module):
    """The network, from normalised mel spectrograms to tags and embedding.

    Submodules are named as in the published weights.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(1, _STEM, 3, 2, activation=nn.Hardswish())]
        channels = _STEM
        for block in _BLOCKS:
            layers.append(_InvertedResidual(channels, block))
            channels = block.out
        layers.append(_conv(channels, EMBEDDING_DIM, 1, 1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        # Numbered as published: pooling, flattening and dropout have no weights.
        self.classifier = nn.ModuleDict({"2": nn.Linear(EMBEDDING_DIM, 512), "5": nn.Linear(512, N_TAGS)})

    def forward(self, mel: Tensor) -> Mn04Output:
        """Score windows.

        Parameters
        ----------
        mel : float32 tensor, shape (n, 1, 128, n_frames)
            As `genretree.sound.mel_32k.compute_mel_32k` gives them; 1,000 frames are 10 s.
        """
        embedding = self.features(mel).mean(dim=(2, 3))
        hidden = functional.hardswish(self.classifier["2"](embedding))
        return Mn04Output(self.classifier["5"](hidden), embedding)


class _InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation and projection."""

    def __init__(self, channels: int, block: _Block) -> None:
        super().__init__()
        activation = nn.Hardswish() if block.hardswish else nn.ReLU()
        layers: list[nn.Module] = []
        if block.expanded != channels:
            layers.append(_conv(channels, block.expanded, 1, 1, activation=activation))
        layers.append(
            _conv(block.expanded, block.expanded, block.kernel, block.stride, block.expanded, activation=activation)
        )
        if block.squeezed:
            layers.append(_ConcurrentSqueezeExcitation(block.expanded, block.squeezed))
        layers.append(_conv(block.expanded, block.out, 1, 1))
        self.block = nn.Sequential(*layers)
        self.residual = block.stride == 1 and channels == block.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class _ConcurrentSqueezeExcitation(nn.Module):
    """Squeeze-and-excitation over channels; published as a list of one, hence the name."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_SqueezeExcitation(channels, squeezed)])

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.conc_se_layers[0](x)
        return scaled


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean(dim=(2, 3))))))
        return x * scale[:, :, None, None]


def _conv(
    channels: int, out: int, kernel: int, stride: int, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    layers = [convolution, nn.BatchNorm2d(out, eps=0.001, momentum=0.01)]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


def as_graph(network: Mn04) -> Graph:
    """Return the network as a graph for other runtimes."""
    example = torch.randn((2, 1, MEL_32K_BANDS, 1000), generator=torch.Generator().manual_seed(0))
    return Graph(network, example, Mn04Output._fields, bf16=False)


def build_mn04(weights: dict[str, Tensor]) -> Mn04:
    """Build the network with given weights, in evaluation mode.

    Raises
    ------
    TrainingError
        If they are not the weights of this architecture.
    """
    network = Mn04()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise TrainingError(f"not the weights of mn04 ({first}); get them with: genretree weights get mn04") from error
    return network.eval()


def read_published(path: Path) -> dict[str, Tensor]:
    """Read the published checkpoint; no code in it is run.

    Raises
    ------
    TrainingError
        If it can't be read.
    """
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zip and pickle have errors of their own
        raise TrainingError(f"{path}: cannot be read as the checkpoint of mn04 ({type(error).__name__})") from error
    return weights
