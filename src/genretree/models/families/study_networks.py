"""The networks of the published study, weight for weight: a residual CNN and a transformer.

The families `cnn` and `ast` use them with `architecture="study"`. The class docstrings list the differences from the
default networks.
Parameter counts with the study's three heads (2, 9 and 16 classes): 2,831,575 and 10,831,899.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genretree.models.neural.residual import BLOCKS_PER_STAGE, SQUEEZE_RATIO, STAGE_WIDTHS, PooledResidualNetwork

_STEM_WIDTH = 32
_LAST_STAGE_DROPOUT = 0.3

_PATCH = 16
_HIDDEN = 384
_LAYERS = 6
_ATTENTION_HEADS = 6
_MLP = 4 * _HIDDEN
_INIT_STD = 0.02


class StudyCnn(PooledResidualNetwork):
    """The study's residual network with squeeze-and-excitation.

    Unlike the family's default network it normalises and activates after the stem (of 32 channels), projects the raw
    input in the shortcuts, and drops whole channels in the last stage.

    Parameters
    ----------
    channels : int
        Number of input images (mel, CQT, chroma).
    outputs : sequence of int
        Number of scores of each head.
    dropout : float
        Dropout probability in the fusion layer and the heads; the study's is 0.3.
    """

    def __init__(self, channels: int, outputs: Sequence[int], dropout: float = 0.3) -> None:
        stem = nn.Sequential(
            nn.Conv2d(channels, _STEM_WIDTH, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(_STEM_WIDTH),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        width = _STEM_WIDTH
        for stage, wider in enumerate(STAGE_WIDTHS):
            drop = _LAST_STAGE_DROPOUT if wider == STAGE_WIDTHS[-1] else 0.0
            for block in range(BLOCKS_PER_STAGE):
                stages.append(_PreActivationBlock(width, wider, 2 if stage > 0 and block == 0 else 1, drop))
                width = wider
            stages.append(_ConvolutionalGate(width))
        super().__init__(stem, stages, outputs, dropout)


class _PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, Dropout2d, 3x3, added to the raw input (projected where its shape changes)."""

    def __init__(self, width: int, wider: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(wider)
        self.dropout = nn.Dropout2d(dropout)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        same = stride == 1 and width == wider
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, wider, 1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        changed = self.conv1(functional.relu(self.norm1(maps)))
        changed = self.conv2(self.dropout(functional.relu(self.norm2(changed))))
        added: Tensor = self.shortcut(maps) + changed
        return added


class _ConvolutionalGate(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018) with two 1x1 convolutions with bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(
            nn.Conv2d(width, width // SQUEEZE_RATIO, 1),
            nn.ReLU(),
            nn.Conv2d(width // SQUEEZE_RATIO, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        scaled: Tensor = maps * self.gate(self.squeeze(maps))
        return scaled


class StudyTransformer(nn.Module):
    """The study's Audio Spectrogram Transformer.

    Unlike the family's default network its layers normalise after each sum (post-norm), use ReLU, and drop out
    attention; there is no normalisation after the last layer and no dropout before the heads.

    Parameters
    ----------
    channels : int
        Number of input images.
    image_size : int
        Height and width of the images in pixels, a multiple of 16.
    n_scores : int
        Number of scores of all heads together.
    dropout : float
        Dropout probability after adding the positions, in attention and in the layers; the study's is 0.4.
    """

    def __init__(self, channels: int, image_size: int, n_scores: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, _HIDDEN, _PATCH, stride=_PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, _HIDDEN))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (image_size // _PATCH) ** 2, _HIDDEN))
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=_INIT_STD)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_PostNormLayer(dropout) for _ in range(_LAYERS))
        self.width = _HIDDEN
        self.scores = nn.Linear(_HIDDEN, n_scores)

    def features(self, images: Tensor) -> Tensor:
        """Compute the class token, shape (n, 384), from images of shape (n, channels, size, size) in [0, 1]."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches], dim=1)
        tokens = self.dropout(tokens + self.positions)
        for layer in self.layers:
            tokens = layer(tokens)
        class_token: Tensor = tokens[:, 0]
        return class_token

    def classify(self, features: Tensor) -> Tensor:
        """Compute the scores of all heads, shape (n, n_scores)."""
        scores: Tensor = self.scores(features)
        return scores


class _PostNormLayer(nn.Module):
    """Equivalent of `nn.TransformerEncoderLayer`, in operations that can be exported to every runtime.

    torch's layer switches to a fused kernel at inference, which exporters don't support. Weights are initialised as in
    torch: Xavier's uniform for the attention's input, zero for its biases.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(_HIDDEN, 3 * _HIDDEN)
        self.out_proj = nn.Linear(_HIDDEN, _HIDDEN)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)
        self.attention_dropout = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(_HIDDEN)
        self.linear1 = nn.Linear(_HIDDEN, _MLP)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(_MLP, _HIDDEN)
        self.dropout2 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(_HIDDEN)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.dropout1(self._attend(tokens)))
        hidden = self.linear2(self.dropout(functional.relu(self.linear1(tokens))))
        normed: Tensor = self.norm2(tokens + self.dropout2(hidden))
        return normed

    def _attend(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        packed = self.in_proj(tokens).view(n, length, 3, _ATTENTION_HEADS, width // _ATTENTION_HEADS)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        if self.training and tokens.device.type == "cpu":
            # torch's attention has no fused kernel with dropout on CPUs, and a slow dropout.
            scores = query @ key.transpose(2, 3) * (width // _ATTENTION_HEADS) ** -0.5
            attended = self.attention_dropout(torch.softmax(scores, dim=-1)) @ value
        else:
            drop = self.attention_dropout.p if self.training else 0.0
            attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).reshape(n, length, width))
        return projected


class StochasticDepth(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for random images, as torchvision's `mode="row"`.

    Parameters
    ----------
    probability : float
        Probability of dropping an image's branch, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, maps: Tensor) -> Tensor:
        """Drop and rescale maps (n, channels, h, w) in training; unchanged at inference."""
        if not self.training or self.probability == 0:
            return maps
        survival = 1 - self.probability
        noise = maps.new_empty((len(maps), 1, 1, 1)).bernoulli_(survival)
        return maps * noise.div_(survival)
