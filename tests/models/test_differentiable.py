"""Explanations by gradients of families from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import genretree
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.export import export_bundle
from genretree.corpus.store import Store
from genretree.errors import SettingsError
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.methods.gradients import integrated_gradients, require_support
from genretree.explanation.slices import read_track, score
from genretree.explanation.target import make_target
from genretree.models import registry
from genretree.models.differentiable import Attention, find_obstacle, supported_methods
from genretree.service.engine.loaded_models import check_method, load_models

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from tiny_network import TinyFamily, TinyModel, TinyNetwork

pytest.importorskip("captum")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {TinyFamily.name: TinyFamily})
    yield


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return genretree.train(store, TinyFamily, tmp_path_factory.mktemp("outside") / "bundle")


@pytest.mark.parametrize("method", ["integrated-gradients", "gradcam"])
def test_a_network_from_outside_is_explained_by_gradients(method: str, bundle: Bundle, store: Store) -> None:
    loaded = load_models([bundle.folder])["bundle"]
    assert loaded.metadata["methods"] == ["occlusion", "integrated-gradients", "gradcam"]
    check_method(loaded, method)
    explanation = genretree.explain(loaded.bundle, "#3", store=store, method=method, level=1)
    assert explanation.method == method
    assert all(np.isfinite(relevance.values).all() for relevance in explanation.reasons[0].maps)
    assert any(relevance.values.any() for relevance in explanation.reasons[0].maps)


def test_integrated_gradients_of_a_network_from_outside_are_complete(bundle: Bundle, store: Store) -> None:
    track_slices = read_track(bundle, store, 5).select(slice(0, 1))
    baseline = compute_baseline(track_slices)
    target = make_target(store.taxonomy, 0, 0)
    maps = integrated_gradients(bundle.model, store.taxonomy, track_slices, baseline, [target], False)
    odds = [target.log_odds(score(bundle, slices))[0] for slices in (track_slices, baseline)]
    assert sum(values.sum() for values in maps.values()) == pytest.approx(odds[0] - odds[1], rel=0.1, abs=0.02)


def test_gradients_of_a_network_from_outside_don_t_use_its_export(bundle: Bundle, store: Store) -> None:
    pytest.importorskip("openvino")
    export_bundle(bundle.folder, "openvino")
    exported = load_bundle(bundle.folder, "openvino")
    assert exported.runtime.startswith("openvino")
    one, other = (genretree.explain(some, "#3", store=store, method="gradcam", level=1) for some in (bundle, exported))
    for mine, theirs in zip(one.reasons[0].maps, other.reasons[0].maps, strict=True):
        np.testing.assert_allclose(mine.values, theirs.values, atol=1e-3)


def test_methods_that_a_model_declares_but_lacks_are_not_offered(bundle: Bundle, store: Store) -> None:
    class WithoutLayer(TinyModel):
        explain_methods = ("rollout", "gradcam", "integrated-gradients")

        def gradcam_layer(self) -> None:
            return None

    model = WithoutLayer(TinyNetwork(5), store.taxonomy)
    assert supported_methods(model) == ["integrated-gradients"]
    assert find_obstacle(model, "rollout") == "attention is missing"
    assert find_obstacle(model, "gradcam") == "gradcam_layer() returns None"
    with pytest.raises(SettingsError, match=r"gradcam needs a convolutional network .*'integrated-gradients'"):
        require_support(model, "gradcam")
    model.input_features = ("images", "mel_16k")  # type: ignore[assignment]
    assert "mel_16k" in (find_obstacle(model, "integrated-gradients") or "")


def test_a_transformer_from_outside_is_explained_by_rollout(store: Store, bundle: Bundle) -> None:
    """One layer of attention from a class token to 4x4 patches, each of which has its mean grey as key."""

    class Attending(TinyModel):
        explain_methods = ("rollout",)
        recorded: list[torch.Tensor] | None = None

        def log_probabilities(self, images: torch.Tensor) -> list[torch.Tensor]:
            patches = torch.nn.functional.adaptive_avg_pool2d(images.mean(dim=1) / 64, 4).flatten(1)
            keys = torch.cat([torch.zeros(len(images), 1), patches], dim=1)
            attention = (keys[:, None, None, :] * torch.ones(1, 1, keys.shape[1], 1)).softmax(dim=3)
            if self.recorded is not None:
                self.recorded.append(attention)
            pooled = (attention[:, 0, 0] * keys).sum(dim=1)
            leaves = (pooled[:, None] * torch.arange(5.0)).log_softmax(dim=1)
            n_nodes = [len(self.taxonomy.nodes(level)) for level in range(self.taxonomy.depth)]
            return [leaves[:, :width].log_softmax(dim=1) for width in n_nodes]

        def attention(self) -> Attention:
            @contextmanager
            def record() -> Iterator[list[torch.Tensor]]:
                self.recorded = []
                yield self.recorded
                self.recorded = None

            return Attention(record=record, grid=(4, 4))

    model = Attending(TinyNetwork(5), store.taxonomy)
    explanation = genretree.explain(replace(bundle, model=model), "#3", store=store, method="rollout", level=1)
    total = sum(relevance.values.sum(axis=(1, 2)) for relevance in explanation.reasons[0].maps)
    # A slice whose attention has no positive gradient has no relevance.
    assert ((abs(total) < 1e-3) | (abs(total - 1) < 1e-3)).all()
    assert total.max() > 0.5
