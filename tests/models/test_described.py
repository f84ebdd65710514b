from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genretree._train import examples_of, train
from genretree.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.errors import BundleError
from genretree.models import hearing
from genretree.models.contract import score_examples
from genretree.models.statistics import image_statistics
from small_corpus import TREE
from small_weights import write_musicnn

QUICK: dict[str, Any] = {"epochs": 10, "image_size": 16, "components": 10, "min_samples_leaf": 5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with a random network, which hears short patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hearing, "PATCH_FRAMES", 24)
        yield str(write_musicnn(tmp_path_factory.mktemp("weights")))


@pytest.mark.parametrize(
    "features",
    [["statistics"], ["musicnn"], ["components", "statistics", "musicnn"]],
    ids=lambda names: "+".join(names),
)
def test_boosting_sees_what_it_is_told_to(store: Store, tmp_path: Path, weights: str, features: list[str]) -> None:
    settings = {**QUICK, "features": features, "weights": weights}
    train(store, "boosting", tmp_path / "b", settings)
    model = load_bundle((tmp_path / "b").rename(tmp_path / "moved")).model
    images, sound = np.asarray(store.images[:20]), np.asarray(store.mel_16k[:20])
    whole = model.predict_levels(images, sound)[-1]
    assert whole.shape == (20, 5)
    np.testing.assert_allclose(whole, score_examples(model, examples_of(store, np.arange(20)))[-1], atol=1e-5)
    np.testing.assert_allclose(whole[7:8], model.predict_levels(images[7:8], sound[7:8])[-1], atol=1e-5)
    assert model.needs_sound == ("musicnn" in features)
    if model.needs_sound:
        with pytest.raises(BundleError, match="listens to sound"):
            model.predict_levels(images)
    rows = store.rows("test")
    right = (
        score_examples(model, examples_of(store, rows))[-1].argmax(1) == store.track_leaves[store.slice_tracks[rows]]
    )
    assert right.mean() > 0.5


def test_statistics_alone_need_no_projection(store: Store, tmp_path: Path) -> None:
    train(store, "boosting", tmp_path / "b", {**QUICK, "features": ["statistics"]})
    assert not (tmp_path / "b" / "projection.safetensors").exists()
    assert load_bundle(tmp_path / "b").model.predict_levels(np.asarray(store.images[:3]))[0].shape == (3, 2)
    assert image_statistics(np.asarray(store.images[:0])).shape[0] == 0
    assert len(TREE.leaves) == 5
