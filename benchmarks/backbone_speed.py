"""Speed of backbones in their published sizes, on the processor and on a GPU if torch finds one.

    python benchmarks/backbone_speed.py [--slices 16] [--threads 2]

The weights are random, which doesn't change the speed; nothing is downloaded. Prints, for slices of 11.4 s of noise,
the parameters of the audio network, and how many times faster than real time embedding is, with preprocessing and
without decoding; and the greatest difference between the embeddings of the GPU and of the processor.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import ASTConfig, ASTModel, ClapAudioConfig, ClapAudioModelWithProjection

from genretree.models.pretrained.audio_backbones import AudioBackbone
from genretree.settings import ImageSettings
from genretree.sound.features import get_feature

_CLAP: dict[str, Any] = {
    "patch_embeds_hidden_size": 128,
    "depths": [2, 2, 12, 2],
    "num_attention_heads": [4, 8, 16, 32],
}
_AST: dict[str, Any] = {
    "sampling_rate": 16000,
    "mean": -4.2677393,
    "std": 4.5689974,
    "do_normalize": True,
    "padding_value": 0.0,
}


def build(name: str) -> AudioBackbone:
    """Build a network of the published size with seeded random weights."""
    torch.manual_seed(0)
    if name == "clap":
        network: Any = ClapAudioModelWithProjection(ClapAudioConfig(hidden_size=1024, **_CLAP))
        values: dict[str, Any] = {"sampling_rate": 48000, "max_length_s": 10, "feature_size": 64, "hop_length": 480}
        values |= {"fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14000, "padding": "repeatpad"}
        return AudioBackbone("clap", network, values)
    if name == "maest":
        network = ASTModel(ASTConfig(num_mel_bins=96, max_length=1876, time_stride=10))
        values = {"sampling_rate": 16000, "max_length": 1876, "mean": 2.06755686098554, "std": 1.268292820667291}
        return AudioBackbone("maest", network, values)
    return AudioBackbone("ast", ASTModel(ASTConfig()), {**_AST, "max_length": 1024, "num_mel_bins": 128})


def measure(backbone: AudioBackbone, values: np.ndarray) -> tuple[float, np.ndarray]:
    """Return seconds of audio per second, and the embeddings."""
    backbone.embed(values[:1])
    start = time.perf_counter()
    embeddings = backbone.embed(values)
    return len(values) * ImageSettings().slice_seconds / (time.perf_counter() - start), embeddings


def main() -> None:
    """Print a line for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    gpu = torch.cuda.is_available()
    print(f"torch {torch.__version__}, {given.threads} threads, {torch.cuda.get_device_name() if gpu else 'no GPU'}")
    print("| backbone | parameters | processor | GPU | difference |\n| --- | ---: | ---: | ---: | ---: |")
    rng = np.random.default_rng(0)
    for name in ("clap", "maest", "ast-audioset"):
        backbone = build(name)
        feature = get_feature(backbone.input_feature)
        shape = (given.slices, *feature.shape(ImageSettings()))
        values = (
            rng.random(shape).astype(np.float16) if feature.dtype == "float16" else rng.integers(-9000, 9000, shape)
        )
        with mock.patch.object(torch.cuda, "is_available", return_value=False):
            on_processor, expected = measure(backbone, values)
        cells = ["-", "-"]
        if gpu:
            on_gpu, embeddings = measure(backbone, values)
            cells = [f"{on_gpu:.0f} x", f"{np.abs(embeddings - expected).max() / np.abs(expected).max():.0e}"]
        n = sum(parameter.numel() for parameter in backbone.network.parameters())
        print(f"| {name} | {n / 1e6:.0f} million | {on_processor:.1f} x | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
