from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from genretree.corpus.store import Store
from genretree.models.base import FitContext, FitResult
from genretree.models.families.cnn import build_network
from genretree.models.families.efficientnet import build_network as build_efficientnet
from genretree.models.neural import trainer
from genretree.models.neural.fine_tuning import RAW_FILE, decay_by_layer
from genretree.models.neural.head import TreeHead
from genretree.models.neural.network import GenreNetwork
from genretree.models.neural.settings import CnnSettings, EfficientNetSettings
from genretree.models.neural.spec_augment import mix_pairs
from genretree.training.data import slice_dataset
from small_corpus import TREE
from small_weights import shrink_cnn

pytestmark = pytest.mark.slow

BASE = {"image_size": 32, "batch_size": 16, "precision": "float32", "warmup_epochs": 0}


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shrink_cnn(patch)
        yield


def _fit(store: Store, folder: Path, validated: bool = True, **values: object) -> FitResult:
    settings = CnnSettings.build({**BASE, **values})
    split = store.split()
    learn, check = slice_dataset(store, split, "train"), slice_dataset(store, split, "validation")
    return trainer.fit_network(
        lambda: build_network(store.taxonomy, settings),
        learn,
        check if validated else None,
        settings,
        FitContext(folder),
    )


def _weights(fitted: FitResult) -> dict[str, torch.Tensor]:
    model: Any = fitted.model
    return dict(model.network.named_parameters())


def test_mixup_interpolates_images() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 8, 8)
    mixed, partners, shares = mix_pairs(images, 0.5)
    torch.testing.assert_close(
        mixed, shares[:, None, None, None] * images + (1 - shares[:, None, None, None]) * images[partners]
    )
    assert shares.min() < 0.1
    assert shares.max() > 0.9
    same, _, ones = mix_pairs(images, 0.0)
    assert same is images
    assert (ones == 1).all()


def test_mixup_loss_covers_both_genres(store: Store) -> None:
    settings = CnnSettings.build({**BASE, "mixup": 100.0, "dropout": 0.0, "mask_probability": 0.0})
    torch.manual_seed(0)
    network = build_network(TREE, settings).train()
    images = torch.from_numpy(np.array(store.images[:16]))
    labels = torch.arange(16) % 5
    torch.manual_seed(1)
    found = network(images, labels)
    torch.manual_seed(1)
    pixels = network._mask(network.read_images(images))  # draws before the mixture does
    _, partners, shares = mix_pairs(pixels, 100.0)
    losses = network.head.losses(found["scores"], labels), network.head.losses(found["scores"], labels[partners])
    expected = (shares * losses[0] + (1 - shares) * losses[1]).mean()
    torch.testing.assert_close(found["loss"], expected)


def test_rare_leaves_get_more_weight() -> None:
    leaves = np.array([0] * 90 + [1] * 10)
    network = build_network(TREE, CnnSettings.build({**BASE, "class_weight_power": 1.0}))
    network.balance_leaves(leaves)
    weights = network.leaf_weights.numpy()
    assert weights[1] / weights[0] == pytest.approx(9)
    assert weights[leaves].mean() == pytest.approx(1)
    halved = build_network(TREE, CnnSettings.build({**BASE, "class_weight_power": 0.5}))
    halved.balance_leaves(leaves)
    assert halved.leaf_weights[1] / halved.leaf_weights[0] == pytest.approx(3)
    scores, truth = torch.randn(100, 5), torch.from_numpy(leaves)
    head = TreeHead(TREE, "tree", [0.1])
    assert head.loss(scores, truth) == pytest.approx(float(head.losses(scores, truth).mean()))


def test_learning_rate_decays_with_depth() -> None:
    settings = EfficientNetSettings.build({"weights": "none", "image_size": 32, "layer_decay": 0.5})
    network = build_efficientnet(TREE, settings)
    groups = decay_by_layer(network, settings)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    by_name = {name: rates[id(parameter)] for name, parameter in network.named_parameters()}
    assert len(by_name) == len(rates)  # every parameter once
    head, top = by_name["backbone.scores.weight"], by_name["backbone.backbone.encoder.top_conv.weight"]
    assert head == settings.learning_rate
    assert top == head / 2
    blocks = [rate for name, rate in by_name.items() if ".blocks." in name and name.endswith("project_conv.weight")]
    assert blocks == pytest.approx([top / 2 ** (16 - block) for block in range(16)])
    assert min(by_name.values()) == by_name["backbone.backbone.embeddings.convolution.weight"]


def test_layer_rates_are_used(store: Store, tmp_path: Path) -> None:
    before = dict(_start(store).named_parameters())
    after = _weights(_fit(store, tmp_path, epochs=1, layer_decay=0.01))
    moves = {name: float((after[name] - before[name]).detach().abs().max()) for name in before}
    assert moves["backbone.stem.0.weight"] < 1e-3 * moves["backbone.scores.0.0.weight"]


@pytest.mark.parametrize("frozen", [1, 2])
def test_frozen_backbone_does_not_change(frozen: int, store: Store, tmp_path: Path) -> None:
    before = dict(_start(store).named_parameters())
    # Without validation the last epoch is used, whether or not it is the better one.
    fitted = _fit(store, tmp_path, validated=False, epochs=2, frozen_epochs=frozen, learning_rate=1e-2)
    after = _weights(fitted)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    heads = {name for name in before if name.startswith("backbone.scores.")}
    assert heads <= moved
    assert (moved == heads) == (frozen == 2)
    running = dict(fitted.model.network.named_buffers())["backbone.norm.running_mean"]
    assert torch.equal(running, torch.zeros_like(running)) == (frozen == 2)
    assert fitted.metadata["parameters"] == sum(value.numel() for value in before.values())


def test_averaged_weights_are_saved(store: Store, tmp_path: Path) -> None:
    plain = _fit(store, tmp_path / "plain", epochs=1)
    averaged = _fit(store, tmp_path / "averaged", epochs=1, ema_decay=0.9)
    assert plain.history[0]["train_loss"] == averaged.history[0]["train_loss"]
    name = "backbone.fusion.0.weight"
    first = _start(store).get_parameter(name)
    last, mean = _weights(plain)[name], _weights(averaged)[name]
    assert not torch.equal(last, mean)
    assert (mean - first).norm() < (last - first).norm()  # it follows behind


def _start(store: Store) -> GenreNetwork:
    trainer.set_seed(0)
    return build_network(store.taxonomy, CnnSettings.build(BASE))


class _Cut(TrainerCallback):
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch and state.epoch >= 2:
            raise KeyboardInterrupt


def test_interrupted_average_resumes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"epochs": 4, "ema_decay": 0.9, "dropout": 0.0}
    whole = _weights(_fit(store, tmp_path / "whole", **settings))
    tensorboard = trainer._tensorboard
    monkeypatch.setattr(trainer, "_tensorboard", lambda folder: [_Cut()])
    with pytest.raises(KeyboardInterrupt):
        _fit(store, tmp_path / "cut", **settings)
    monkeypatch.setattr(trainer, "_tensorboard", tensorboard)
    assert len(list((tmp_path / "cut").rglob(RAW_FILE))) == 2
    resumed = _weights(_fit(store, tmp_path / "cut", **settings))
    name = "backbone.fusion.0.weight"
    torch.testing.assert_close(resumed[name], whole[name], atol=1e-4, rtol=1e-3)


def test_finished_average_is_unchanged(store: Store, tmp_path: Path) -> None:
    settings = CnnSettings.build({**BASE, "epochs": 2, "ema_decay": 0.9})
    learn = slice_dataset(store, store.split(), "train")

    def fit() -> FitResult:
        build = lambda: build_network(store.taxonomy, settings)  # noqa: E731
        return trainer.fit_network(build, learn, None, settings, FitContext(tmp_path))

    name = "backbone.fusion.0.weight"
    first, again = _weights(fit())[name], _weights(fit())[name]  # the second finds all epochs done
    torch.testing.assert_close(first, again)
