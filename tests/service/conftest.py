from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from serving import Server

from genretree.bundle.bundle import Bundle, save_bundle
from genretree.bundle.export import export_bundle
from genretree.models.families.cnn import build_network
from genretree.models.neural.network import NetworkModel
from genretree.models.neural.settings import CnnSettings
from genretree.settings import SAMPLE_RATE
from small_corpus import SETTINGS, TREE, synthesise


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles: `first`, a network of random weights with an export, and `second`, the same under another name."""
    folder = tmp_path_factory.mktemp("service")
    settings = CnnSettings.build({"image_size": 32})
    torch.manual_seed(0)
    network = build_network(TREE, settings)
    images = np.random.default_rng(0).integers(0, 256, (33, 3, SETTINGS.size, SETTINGS.size), dtype=np.uint8)
    for module in network.modules():  # statistics as after training, so that what is seen spreads over the leaves
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(images))
    save_bundle(
        Bundle(
            folder=folder / "first",
            family="cnn",
            taxonomy=TREE,
            images=SETTINGS,
            settings=settings,
            model=NetworkModel(network),
        )
    )
    export_bundle(folder / "first", "openvino")
    shutil.copytree(folder / "first", folder / "second")
    return [folder / "first", folder / "second"]


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 seconds of music: four slices."""
    path = tmp_path_factory.mktemp("song") / "beat.mp3"
    sf.write(path, synthesise("Fast_beat", 77), SAMPLE_RATE)
    return path


@pytest.fixture(scope="session")
def server(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service as the command starts it, with two workers."""
    corrections = tmp_path_factory.mktemp("corrections") / "kept"
    words = [*map(str, bundles), "--workers", "2", "--corrections", str(corrections)]
    with Server(tmp_path_factory.mktemp("tmp"), words) as server:
        yield server


@pytest.fixture(scope="session")
def strict(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a token, one worker, and limits that are soon reached."""
    limits = {
        "workers": 1,
        "upload_bytes": 1 << 20,
        "seconds": 20,
        "files": 3,
        "idle_seconds": 0.5,
        "upload_seconds": 1.5,
        "connections": 12,
        "jobs": 2,
        "waiting": 2,
        "keep_seconds": 1.0,
        "decode_seconds": 10.0,
        "wrong_token_seconds": 0.001,
    }
    options = {"bundles": [str(bundles[0])], "limits": limits, "token": "sesame-open-sesame"}
    with Server(tmp_path_factory.mktemp("strict"), **options) as server:
        yield server
