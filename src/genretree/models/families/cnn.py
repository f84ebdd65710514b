"""Family `cnn`: a residual network with squeeze-and-excitation, about 2.8 million parameters.

With `architecture="study"` it is the published network, weight for weight (`study_networks.py`). The default
differs: a 7x7 stem without normalisation, then pre-activation residual stages (He et al. 2016, "Identity Mappings") of
widths 64, 128 and 256 with two blocks each and shortcuts after the activation, squeeze-and-excitation after each stage
(Hu et al. 2018), global average pooling, a 128-wide fusion layer, and a two-layer head (for each level, with
independent heads).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from genretree.models.base import FitContext, FitResult, Model, SliceDataset
from genretree.models.families.study_networks import StudyCnn
from genretree.models.neural.linear_probe import load_model
from genretree.models.neural.network import GenreNetwork, build_head
from genretree.models.neural.residual import BLOCKS_PER_STAGE, SQUEEZE_RATIO, STAGE_WIDTHS, PooledResidualNetwork
from genretree.models.neural.settings import CnnSettings, as_settings
from genretree.models.pretrained.names import Weights
from genretree.taxonomy import Taxonomy


class CnnFamily:
    """Residual networks with squeeze-and-excitation: genretree's or the study's."""

    name: ClassVar[str] = "cnn"
    summary: ClassVar[str] = "residual network with squeeze-and-excitation, trained from scratch"
    distributed: ClassVar[bool] = True
    callback_type: ClassVar[str] = "transformers:TrainerCallback"
    settings_type: ClassVar[type[CnnSettings]] = CnnSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Train from random or pretrained weights."""
        from genretree.models.neural.trainer import fit_network  # imports the Trainer, which takes seconds

        cnn_settings = as_settings(settings, CnnSettings)
        return fit_network(
            lambda: build_initial_network(taxonomy, cnn_settings), train, validation, cnn_settings, context
        )

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load a trained network."""
        return load_model(build_network(taxonomy, as_settings(settings, CnnSettings)), folder)


def build_initial_network(taxonomy: Taxonomy, settings: CnnSettings) -> GenreNetwork:
    """Build a network for training, with pretrained weights if the settings name some."""
    network = build_network(taxonomy, settings)
    if settings.weights != Weights.NONE:
        from genretree.models.pretrained.backbones import (  # imports transformers, which takes seconds
            find_weights,
            load_backbone_weights,
        )

        load_backbone_weights(
            network.backbone,
            find_weights(settings.weights, CnnFamily.name, settings.modalities),
            len(settings.modalities),
        )
    return network


def build_network(taxonomy: Taxonomy, settings: CnnSettings) -> GenreNetwork:
    """Build an untrained network for a tree."""
    head = build_head(taxonomy, settings)
    outputs = [head.n_scores] if settings.heads == "tree" else head.widths
    if settings.architecture == "study":
        study = StudyCnn(len(settings.modalities), outputs, settings.dropout)
        return GenreNetwork(study, head, settings, mean=0.0, scale=1.0)
    return GenreNetwork(ResidualBackbone(len(settings.modalities), outputs, settings.dropout), head, settings)


class ResidualBackbone(PooledResidualNetwork):
    """The family's default network, with a stem without normalisation and activation."""

    def __init__(self, channels: int, outputs: list[int], dropout: float) -> None:
        stem = nn.Sequential(
            nn.Conv2d(channels, STAGE_WIDTHS[0], 7, stride=2, padding=3, bias=False),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        width = STAGE_WIDTHS[0]
        for stage, wider in enumerate(STAGE_WIDTHS):
            for block in range(BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(ResidualBlock(width, wider, stride))
                width = wider
            stages.append(SqueezeExcitation(width))
        super().__init__(stem, stages, outputs, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResidualBlock(nn.Module):
    """Pre-activation block: two 3x3 convolutions, each after normalisation and ReLU, added to the input."""

    def __init__(self, width: int, wider: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        same = stride == 1 and width == wider
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, wider, 1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Transform maps (n, width, h, w); a stride of 2 halves h and w."""
        active = functional.relu(self.norm1(maps))
        identity = maps if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        changed: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        return identity + changed


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: scale channels by a function of all channel means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(
            nn.Linear(width, width // SQUEEZE_RATIO), nn.ReLU(), nn.Linear(width // SQUEEZE_RATIO, width), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Scale the channels of maps (n, width, h, w)."""
        weights: Tensor = self.gate(self.squeeze(maps).flatten(1))
        return maps * weights[:, :, None, None]
