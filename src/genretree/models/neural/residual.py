"""Base of the residual networks: stem, stages, pooling, a fusion layer, and two-layer heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGE_WIDTHS = (64, 128, 256)
BLOCKS_PER_STAGE = 2
SQUEEZE_RATIO = 16
_FUSION = 128
_HEAD_HIDDEN = 64


class PooledResidualNetwork(nn.Module):
    """A residual network from images, (n, channels, height, width), to scores, (n, sum of outputs).

    Parameters
    ----------
    stem : nn.Module
        Layers from images to feature maps.
    stages : sequence of nn.Module
        Residual blocks and gates; the last one has `STAGE_WIDTHS[-1]` output channels.
    outputs : sequence of int
        Number of scores of each head.
    dropout : float
        Dropout probability in the fusion layer and the heads.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], outputs: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(STAGE_WIDTHS[-1])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.width = _FUSION
        self.fusion = nn.Sequential(nn.Linear(STAGE_WIDTHS[-1], _FUSION), nn.ReLU(), nn.Dropout(dropout))
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Linear(_FUSION, _HEAD_HIDDEN), nn.ReLU(), nn.Dropout(dropout), nn.Linear(_HEAD_HIDDEN, n))
            for n in outputs
        )

    def features(self, images: Tensor) -> Tensor:
        """Compute the pooled features, shape (n, 128)."""
        maps = functional.relu(self.norm(self.stages(self.stem(images))))
        pooled: Tensor = self.fusion(self.pool(maps).flatten(1))
        return pooled

    def classify(self, features: Tensor) -> Tensor:
        """Compute the scores of all heads, side by side."""
        return torch.cat([head(features) for head in self.scores], dim=1)
