"""The audio tagger mn04 (EfficientAT `mn04_as`): MobileNetV3 of 1 million weights, trained on AudioSet.

Schmid, Koutini and Widmer, "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation" (ICASSP
2023). It scores 527 AudioSet classes, among them some 60 music genres, singing, speech, silence and instruments.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import fft
from torch import Tensor, nn
from torch.nn import functional

from genretree.arrays import Float32Array
from genretree.errors import TrainingError

SR = 32000  # Hz
N_FFT = 1024
WIN_LENGTH = 800
HOP_LENGTH = 320
N_MELS = 128
FMAX = 15000.0  # Hz
WINDOW_SECONDS = 10.0  # what the network was trained on
N_TAGS = 527
EMBEDDING_DIM = 384
_PREEMPHASIS = 0.97
_FRAMES_AT_A_TIME = 2048


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
            As `compute_mel` gives them; 1,000 frames are 10 s.
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


def compute_mel(y: Float32Array) -> Float32Array:
    """Compute the network's input from audio.

    Pre-emphasis y[t] - 0.97 y[t - 1], STFT (n_fft 1024, symmetric Hann window of 800, hop 320, centred), power, 128
    Kaldi mel bands from 0 to 15,000 Hz, ln(x + 1e-5), then (x + 4.5) / 5.

    Parameters
    ----------
    y : float32 array, shape (n_samples,)
        Mono at 32,000 Hz, at least 514 samples.

    Returns
    -------
    float32 array, shape (128, 1 + (n_samples - 2) // 320)
        1,000 frames for 10 s.

    Raises
    ------
    ValueError
        If there are fewer samples.
    """
    if len(y) < N_FFT // 2 + 2:
        raise ValueError(f"mn04 needs at least {N_FFT // 2 + 2} samples, got {len(y)}")
    emphasised = y[1:] - np.float32(_PREEMPHASIS) * y[:-1]
    padded = np.pad(emphasised, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    window, filters = _window(), _mel_filters()
    mel = np.empty((len(frames), N_MELS), np.float32)
    for start in range(0, len(frames), _FRAMES_AT_A_TIME):
        spectrum = fft.rfft(frames[start : start + _FRAMES_AT_A_TIME] * window, axis=1)[:, :-1]
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel[start : start + len(power)] = power @ filters
    normalised: Float32Array = (np.log(mel + np.float32(1e-5)) + np.float32(4.5)) / np.float32(5)
    return normalised.T


@lru_cache(maxsize=1)
def _window() -> Float32Array:
    """A symmetric Hann window of 800 samples in the middle of 1,024."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WIN_LENGTH) / (WIN_LENGTH - 1))
    left = (N_FFT - WIN_LENGTH) // 2
    return np.pad(hann, (left, N_FFT - WIN_LENGTH - left)).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_filters() -> Float32Array:
    """Kaldi's mel filters, triangles in mel = 1127 ln(1 + f / 700), without the Nyquist bin: shape (512, 128)."""
    mel = 1127 * np.log1p(np.arange(N_FFT // 2) * (SR / N_FFT) / 700)
    edges = np.linspace(0, 1127 * np.log1p(FMAX / 700), N_MELS + 2)
    rise = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    filters: Float32Array = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
    return filters


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
