"""What genretree 0.1 wrote opens, and means what it meant."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.models import get_family
from genretree.training.recipes import Recipe

V01 = Path(__file__).parent / "data" / "v0.1"
sys.path.insert(0, str(V01.parent))
from make_v0_1_cnn import draw_weights


@pytest.fixture(scope="module")
def old_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("v01")
    with zipfile.ZipFile(V01 / "store.zip") as archive:
        archive.extractall(folder)
    return Store(folder / "store")


def test_a_network_predicts_the_same(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(V01 / "cnn", tmp_path / "cnn"))
    shapes = json.loads((folder / "shapes.json").read_text())
    (folder / "model.safetensors").write_bytes(draw_weights(shapes))
    bundle = load_bundle(folder)
    expected = np.load(V01 / "cnn" / "expected.npz")
    levels = bundle.calibrate(bundle.model.predict_proba({"images": expected["images"]}), "slice")
    assert len(levels) == 3
    for level, found in enumerate(levels):
        assert np.ptp(expected[f"level_{level}"], axis=0).max() > 1e-3, "the images make no difference"
        np.testing.assert_allclose(found, expected[f"level_{level}"], atol=1e-5)


def test_a_store_opens(old_store: Store) -> None:
    expected = np.load(V01 / "cnn" / "expected.npz")["images"]
    np.testing.assert_array_equal(old_store.images[::5], expected)
    assert (old_store.n_tracks, old_store.n_slices) == (15, 15)
    assert [leaf[-1] for leaf in old_store.taxonomy.leaves] == ["Drone", "Bells", "Slow_beat", "Fast_beat", "Noise"]
    assert [len(old_store.rows(part)) for part in ("train", "validation", "test")] == [9, 3, 3]


def test_settings_of_a_recipe_and_of_a_bundle_are_read() -> None:
    recipe = Recipe.load(V01 / "recipe.yaml")
    settings = get_family(recipe.family).settings_type.build(recipe.settings)
    written = json.loads((V01 / "cnn" / "bundle.json").read_text())["settings"]
    for name, value in recipe.settings.items():
        assert written[name] == value
        assert settings.model_dump(mode="json")[settings.renamed.get(name, name)] == value
