"""A bundle that needs no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from genretree.bundle.bundle import Bundle, save_bundle
from genretree.bundle.export import export_bundle
from genretree.models.families.cnn import build_network
from genretree.models.neural.network import NetworkModel
from genretree.models.neural.settings import CnnSettings
from small_corpus import SETTINGS, TREE


def write_bundle(folder: Path) -> None:
    """Write a bundle of a network with random weights, and its OpenVINO export."""
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
            folder=folder,
            family="cnn",
            taxonomy=TREE,
            images=SETTINGS,
            settings=settings,
            model=NetworkModel(network),
        )
    )
    export_bundle(folder, "openvino")
