from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.errors import BundleError
from genretree.models.base import predict_dataset
from genretree.models.families.boosting.family import reduce_images
from genretree.models.features.image_statistics import image_statistics
from genretree.models.pretrained import musicnn_features
from genretree.training.data import slice_dataset_of
from genretree.training.train import train
from small_corpus import TREE
from small_weights import write_musicnn

QUICK: dict[str, Any] = {"epochs": 10, "image_size": 16, "components": 10, "min_samples_leaf": 5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with a random network, with short patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicnn_features, "PATCH_FRAMES", 24)
        yield str(write_musicnn(tmp_path_factory.mktemp("weights")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "features",
    [["statistics"], ["musicnn"], ["components", "statistics", "musicnn"]],
    ids=lambda names: "+".join(names),
)
def test_boosting_uses_the_selected_features(store: Store, tmp_path: Path, weights: str, features: list[str]) -> None:
    settings = {**QUICK, "features": features, "weights": weights}
    train(store, "boosting", tmp_path / "b", settings)
    model = load_bundle((tmp_path / "b").rename(tmp_path / "moved")).model
    images, sound = np.asarray(store.images[:20]), np.asarray(store.features["mel_16k"][:20])
    whole = model.predict_proba({"images": images, "mel_16k": sound})[-1]
    assert whole.shape == (20, 5)
    np.testing.assert_allclose(whole, predict_dataset(model, slice_dataset_of(store, np.arange(20)))[-1], atol=1e-5)
    np.testing.assert_allclose(
        whole[7:8], model.predict_proba({"images": images[7:8], "mel_16k": sound[7:8]})[-1], atol=1e-5
    )
    assert ("mel_16k" in model.input_features) == ("musicnn" in features)
    if "musicnn" in features:
        with pytest.raises(BundleError, match="mel_16k is missing"):
            model.predict_proba({"images": images})
    rows = store.rows("test")
    right = (
        predict_dataset(model, slice_dataset_of(store, rows))[-1].argmax(1)
        == store.track_leaves[store.slice_tracks[rows]]
    )
    assert right.mean() > 0.5


def test_statistics_alone_need_no_projection(store: Store, tmp_path: Path) -> None:
    train(store, "boosting", tmp_path / "b", {**QUICK, "features": ["statistics"]})
    assert not (tmp_path / "b" / "projection.safetensors").exists()
    assert load_bundle(tmp_path / "b").model.predict_proba({"images": np.asarray(store.images[:3])})[0].shape == (3, 2)
    assert image_statistics(np.asarray(store.images[:0])).shape[0] == 0
    assert len(TREE.leaves) == 5


def test_training_without_a_network_does_not_import_transformers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith("genretree.models.pretrained.backbones")]:
        monkeypatch.delitem(sys.modules, name)
    settings = {"epochs": 1, "features": ["statistics"], "min_samples_leaf": 20}
    assert train(store, "boosting", tmp_path / "bundle", settings).family == "boosting"


def test_prediction_without_a_network_does_not_import_torch(store: Store, tmp_path: Path) -> None:
    settings = {"epochs": 1, "image_size": 24, "components": 5, "features": ["components", "statistics"]}
    train(store, "boosting", tmp_path / "bundle", settings)
    np.save(tmp_path / "images.npy", store.images[:2])
    code = """
import sys
import numpy as np
import genretree
bundle = genretree.load("bundle")
bundle.model.predict_proba({"images": np.load("images.npy")})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize(("length", "size"), [(224, 128), (64, 20), (33, 32), (24, 40), (64, 64)])
def test_images_are_downsampled_as_pytorch_does(length: int, size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, length, length), dtype=np.uint8)
    found = reduce_images(images, ("mel", "chroma"), size)
    expected = functional.interpolate(torch.from_numpy(images[:, [0, 2]]).float(), size=(size, size), mode="area")
    np.testing.assert_array_equal(found, expected.round().byte().numpy().reshape(3, -1))
