from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.errors import BundleError, SettingsError
from genretree.models.base import predict_dataset
from genretree.models.families.ast import build_network as build_ast
from genretree.models.families.cnn import build_network
from genretree.models.families.efficientnet import build_network as build_efficientnet
from genretree.models.neural.settings import AstSettings, CnnSettings, EfficientNetSettings
from genretree.models.pretrained.backbones import save_checkpoint
from genretree.training.data import slice_dataset_of
from genretree.training.train import train
from small_corpus import TREE

pytestmark = pytest.mark.slow

SEEN = {"image_size": 32, "modalities": ["mel", "cqt", "chroma"], "precision": "float32"}
LINEAR = {**SEEN, "classifier": "linear", "epochs": 0, "Cs": [0.01, 0.1]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with random weights of each network, as `genretree pretrain` writes them."""
    torch.manual_seed(0)
    networks = {
        "cnn": build_network(TREE, CnnSettings.build(SEEN)),
        "efficientnet-b0": build_efficientnet(TREE, EfficientNetSettings.build({**SEEN, "weights": "none"})),
        "ast": build_ast(TREE, AstSettings.build(SEEN)),
    }
    found = {}
    for name, network in networks.items():
        folder = tmp_path_factory.mktemp(name)
        save_checkpoint(network.backbone, folder)
        found[name] = str(folder)
    return found


@pytest.mark.parametrize("family", ["cnn", "efficientnet-b0", "ast"])
def test_a_frozen_network_with_a_linear_classifier_learns(
    store: Store, tmp_path: Path, weights: dict[str, str], family: str
) -> None:
    bundle = train(store, family, tmp_path / "b", {**LINEAR, "weights": weights[family]})
    model: Any = load_bundle((tmp_path / "b").rename(tmp_path / "moved")).model
    before: Any = bundle.model
    rows = store.rows("test")
    leaves = predict_dataset(model, slice_dataset_of(store, rows))[-1]
    assert (leaves.argmax(1) == store.track_leaves[store.slice_tracks[rows]]).mean() > 0.5  # chance is 0.2
    images = np.asarray(store.images[rows])
    np.testing.assert_allclose(model.predict_proba({"images": images})[-1], leaves, atol=1e-5)
    np.testing.assert_array_equal(
        before.predict_proba({"images": images[:7]})[-1], model.predict_proba({"images": images[:7]})[-1]
    )
    np.testing.assert_allclose(model.predict_proba({"images": images[3:4]})[-1], leaves[3:4], atol=1e-5)
    assert [level.shape for level in model.predict_proba({"images": images[:0]})] == [(0, 2), (0, 4), (0, 5)]
    assert bundle.training["facts"]["C"] in (0.01, 0.1)
    assert bundle.calibration is not None
    assert bundle.calibration.source == "predictions out of fold"
    parts = store.split().parts
    assert bundle.calibration.tracks == parts.count("train") + parts.count("validation")


def test_linear_probe_after_training_with_independent_heads(
    store: Store, tmp_path: Path, weights: dict[str, str]
) -> None:
    settings = {
        **LINEAR,
        "weights": weights["cnn"],
        "epochs": 1,
        "heads": "independent",
        "statistics": False,
        "n_tta_shifts": 2,
    }
    bundle = train(store, "cnn", tmp_path / "b", settings)
    assert bundle.training["history"][0]["train_loss"] > 0
    assert not bundle.training["facts"]["statistics"]
    assert bundle.calibration is not None
    assert bundle.calibration.tracks == store.split().parts.count("validation")  # the network knows the others
    images = np.asarray(store.images[:8])
    levels = load_bundle(tmp_path / "b").model.predict_proba({"images": images})
    for level in levels:
        np.testing.assert_allclose(level.sum(axis=1), 1, atol=1e-6)
    assert not np.allclose(TREE.sum_levels(levels[-1])[0], levels[0], atol=1e-3)
    turned = bundle.model.predict_proba({"images": np.roll(images, 32, axis=3)})
    np.testing.assert_allclose(turned[-1], levels[-1], atol=1e-4)  # half a turn, and both halves are averaged


def test_a_damaged_classifier_is_refused(store: Store, tmp_path: Path, weights: dict[str, str]) -> None:
    model = train(store, "cnn", tmp_path / "b", {**LINEAR, "weights": weights["cnn"], "Cs": [0.1]}).model
    folder = tmp_path / "files"
    folder.mkdir()
    model.save(folder)
    arrays = load_file(folder / "head.safetensors")
    settings = load_bundle(tmp_path / "b").settings
    from genretree.models.families.cnn import CnnFamily

    for broken in ({}, {**arrays, "level_2.weights": arrays["level_2.weights"][:, :-1].copy()}):
        save_file(broken, folder / "head.safetensors")
        with pytest.raises(BundleError, match=r"head\.safetensors"):
            CnnFamily.load(folder, TREE, settings)


def test_zero_epochs_need_weights_and_linear_classifier() -> None:
    for settings in ({"epochs": 0}, {"epochs": 0, "classifier": "linear"}, {"epochs": 0, "weights": "student"}):
        with pytest.raises(SettingsError, match="epochs=0 needs"):
            CnnSettings.build(settings)
    assert CnnSettings.build({"epochs": 0, "classifier": "linear", "weights": "student"}).epochs == 0
