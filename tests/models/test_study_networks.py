"""The published networks against plain torch, built here from the study's description alone."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerState

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.metrics.scores import decode_levels
from genretree.models import get_family
from genretree.models.base import predict_dataset
from genretree.models.families import ast, cnn, efficientnet
from genretree.models.families.study_networks import StochasticDepth
from genretree.models.neural.epoch_accuracy import EpochAccuracy
from genretree.models.neural.network import GenreNetwork, count_parameters
from genretree.models.neural.trainer import _optimizer, _Trainer, study_rate_factor
from genretree.taxonomy import Taxonomy
from genretree.training.data import slice_dataset
from genretree.training.recipes import Recipe
from genretree.training.train import train

pytestmark = pytest.mark.slow

CLASSES = (2, 9, 16)
CCMUSIC_TREE = Taxonomy.builtin("ccmusic")


def build(recipe: str, **changes: Any) -> GenreNetwork:
    family = {"cnn": cnn, "ast": ast, "efficientnet-b0": efficientnet}
    chosen = Recipe.load(recipe)
    settings = get_family(chosen.family).settings_type.build({**chosen.settings, **changes})
    return family[chosen.family].build_network(CCMUSIC_TREE, settings)


class PlainCnn(nn.Module):
    """The study's CNN: parameters in the order of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.blocks = nn.ModuleList()
        self.gates = nn.ModuleList()
        width = 32
        for stage, wider in enumerate((64, 128, 256)):
            for block in range(2):
                stride = 2 if stage and not block else 1
                parts = nn.ModuleDict(
                    {
                        "bn1": nn.BatchNorm2d(width),
                        "conv1": nn.Conv2d(width, wider, 3, stride, 1, bias=False),
                        "bn2": nn.BatchNorm2d(wider),
                        "conv2": nn.Conv2d(wider, wider, 3, 1, 1, bias=False),
                    }
                )
                if width != wider or stride != 1:
                    parts["shortcut"] = nn.Conv2d(width, wider, 1, stride, bias=False)
                self.blocks.append(parts)
                width = wider
            self.gates.append(nn.ModuleList([nn.Conv2d(wider, wider // 16, 1), nn.Conv2d(wider // 16, wider, 1)]))
        self.norm = nn.BatchNorm2d(256)
        self.fusion = nn.Linear(256, 128)
        self.heads = nn.ModuleList(nn.ModuleList([nn.Linear(128, 64), nn.Linear(64, n)]) for n in CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(functional.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        for number, block in enumerate(self.blocks):
            y = block["conv1"](functional.relu(block["bn1"](x)))
            y = block["conv2"](functional.relu(block["bn2"](y)))
            x = y + (block["shortcut"](x) if "shortcut" in block else x)
            if number % 2:
                first, second = self.gates[number // 2]
                x = x * torch.sigmoid(second(functional.relu(first(x.mean(dim=(2, 3), keepdim=True)))))
        x = functional.relu(self.norm(x)).mean(dim=(2, 3))
        x = functional.relu(self.fusion(x))
        return [last(functional.relu(first(x))) for first, last in self.heads]


class PlainTransformer(nn.Module):
    """The study's transformer, of torch's own encoder layers with their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 384, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 384))
        self.positions = nn.Parameter(torch.zeros(1, 197, 384))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(384, 6, 1536, 0.0, batch_first=True) for _ in range(6))
        self.heads = nn.ModuleList(nn.Linear(384, n) for n in CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.convolution(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return [head(x[:, 0]) for head in self.heads]


def plain_cnn(network: GenreNetwork) -> PlainCnn:
    """Copy weights by the order of the layers, shape by shape."""
    plain = PlainCnn()
    own: dict[str, Tensor] = network.backbone.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    order: list[str] = ["stem.0", "stem.1"]
    copied: list[str] = ["stem", "stem_norm"]
    for stage in range(3):
        for block in range(2):
            for theirs, ours in (("bn1", "norm1"), ("conv1", "conv1"), ("bn2", "norm2"), ("conv2", "conv2")):
                order.append(f"stages.{3 * stage + block}.{ours}")
                copied.append(f"blocks.{2 * stage + block}.{theirs}")
            if block == 0:
                order.append(f"stages.{3 * stage}.shortcut")
                copied.append(f"blocks.{2 * stage}.shortcut")
        for layer in range(2):
            order.append(f"stages.{3 * stage + 2}.gate.{2 * layer}")
            copied.append(f"gates.{stage}.{layer}")
    order += ["norm", "fusion.0"]
    copied += ["norm", "fusion"]
    for level in range(3):
        for layer, place in enumerate((0, 3)):
            order.append(f"scores.{level}.{place}")
            copied.append(f"heads.{level}.{layer}")
    weights = plain.state_dict()
    names = {f"{b}.{part}": f"{a}.{part}" for a, b in zip(order, copied, strict=True) for part in _parts(shapes, a)}
    assert set(names) == set(weights)
    assert set(names.values()) == set(own)
    for name, source in names.items():
        assert tuple(weights[name].shape) == shapes[source], name
    plain.load_state_dict({name: own[source].clone() for name, source in names.items()})
    return plain


def _parts(shapes: dict[str, tuple[int, ...]], module: str) -> list[str]:
    return [name[len(module) + 1 :] for name in shapes if name.rpartition(".")[0] == module]


def plain_transformer(network: GenreNetwork) -> PlainTransformer:
    plain = PlainTransformer()
    own: dict[str, Tensor] = network.backbone.state_dict()
    renamed: dict[str, Tensor] = {"token": own["class_token"], "positions": own["positions"]}
    for name, value in own.items():
        if name.startswith("layers."):
            renamed[
                name.replace("in_proj.weight", "self_attn.in_proj_weight")
                .replace("in_proj.bias", "self_attn.in_proj_bias")
                .replace("out_proj", "self_attn.out_proj")
            ] = value
    for part in ("weight", "bias"):
        renamed[f"convolution.{part}"] = own[f"patches.{part}"]
        for level, piece in enumerate(own[f"scores.{part}"].split(list(CLASSES))):
            renamed[f"heads.{level}.{part}"] = piece
    plain.load_state_dict({name: value.clone() for name, value in renamed.items()}, strict=True)
    return plain


def test_the_published_network_has_2_83_million_weights() -> None:
    settings = get_family("cnn").settings_type.build({"heads": "independent"})
    assert count_parameters(cnn.build_network(CCMUSIC_TREE, settings)) == pytest.approx(2.83e6, rel=0.01)


@pytest.mark.parametrize(
    ("recipe", "count"),
    [("cnn-published", 2_831_575), ("ast-published", 10_831_899), ("efficientnet-b0-published", 4_042_135)],
)
def test_published_parameter_counts(recipe: str, count: int) -> None:
    changes = {"weights": "none"} if recipe.startswith("efficientnet") else {}
    assert count_parameters(build(recipe, **changes)) == count


@pytest.mark.parametrize(("recipe", "channels"), [("cnn", 3), ("ast", 1)])
def test_the_page_states_the_operations_of_these_networks(recipe: str, channels: int) -> None:
    counter = FlopCounterMode(display=False)
    backbone = build(f"{recipe}-published").eval().backbone
    with counter, torch.inference_mode():
        backbone.classify(backbone.features(torch.zeros(1, channels, 224, 224)))
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert f"| {recipe} | {counter.get_total_flops() / 1e9:.2f} | " in page


CASES = [("cnn-published", plain_cnn, (0, 1, 2)), ("ast-published", plain_transformer, (0,))]


@pytest.mark.parametrize(("recipe", "make", "channels"), CASES)
def test_same_weights_same_output_as_plain_torch(recipe: str, make: Any, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build(recipe).eval()
    for module in network.modules():  # running statistics that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    plain = make(network).eval()
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        scores = network(images)["scores"].split(list(CLASSES), dim=1)
        expected = plain(images[:, list(channels)].float() / 255)
    for found, wanted in zip(scores, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("recipe", "make", "channels"), CASES)
def test_same_loss_after_three_steps_as_plain_torch(
    recipe: str, make: Any, channels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    network = build(recipe, dropout=0.0, mask_probability=0.0).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    plain = make(network).train()
    settings = network.settings
    images = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    leaves = torch.tensor([0, 5, 12, 15])
    levels = torch.from_numpy(CCMUSIC_TREE.ancestors.copy())[leaves]
    smoothing = (0.05, 0.1, 0.15) if recipe.startswith("cnn") else (0.1, 0.1, 0.1)
    optimizers = [
        torch.optim.Adam(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for module in (network, plain)
    ]
    for step in range(4):  # before each of three steps, and after them
        pixels = images[:, list(channels)].float() / 255
        scores = plain(pixels)
        expected = torch.stack(
            [
                functional.cross_entropy(score, levels[:, level], label_smoothing=smoothing[level])
                for level, score in enumerate(scores)
            ]
        ).mean()
        found = network(images, labels=leaves)["loss"]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda said, n=step: f"step {n}: {said}")
        for optimizer, loss in zip(optimizers, (found, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_dropout_places() -> None:
    network = build("cnn-published").backbone
    drops = {name: module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout2d)}
    assert drops == {f"stages.{stage}.dropout": 0.3 if stage > 5 else 0.0 for stage in (0, 1, 3, 4, 6, 7)}
    assert [module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout)] == [0.3] * 4
    transformer = build("ast-published").backbone
    assert {module.p for module in transformer.modules() if isinstance(module, nn.Dropout)} == {0.4}
    assert {layer.attention_dropout.p for layer in transformer.layers} == {0.4}


def test_stochastic_depth_drops_whole_images_as_often_as_torchvision() -> None:
    network = build("efficientnet-b0-published", weights="none")
    probabilities = [module.probability for module in network.modules() if isinstance(module, StochasticDepth)]
    # Blocks that add to their input, of 16, with a probability that grows from 0 to 0.2.
    assert probabilities == pytest.approx([0.2 * block / 16 for block in (2, 4, 6, 7, 9, 10, 12, 13, 14)])
    torch.manual_seed(0)
    dropped = StochasticDepth(0.25).train()(torch.ones(4000, 2, 3, 3))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped.amin(dim=(1, 2, 3)), dropped.amax(dim=(1, 2, 3)))
    assert float((dropped[:, 0, 0, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_smaller_gain_than_counts_makes_no_better_checkpoint() -> None:
    trainer = _Trainer.__new__(_Trainer)
    trainer.args = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False, save_strategy="epoch")
    trainer.state = TrainerState()
    trainer.min_improvement = 1e-3
    losses = (2.0, 1.9995, 1.9985, 1.998, math.nan, 1.5)
    found = [trainer._determine_best_metric({"eval_loss": loss}, None) for loss in losses]
    assert found == [True, False, True, False, False, True]


def test_study_rates() -> None:
    assert 2e-4 * study_rate_factor(0.0, 5, 30) == pytest.approx(0.4e-4)
    assert 2e-4 * study_rate_factor(2.0, 5, 30) == pytest.approx(1.2e-4)
    assert study_rate_factor(1.2, 0, 30) == pytest.approx((1 + math.cos(math.pi * 1.2 / 30)) / 2)


def test_masks_are_black_in_the_study() -> None:
    network = build("ast-published", mask_probability=1.0).train()
    torch.manual_seed(0)
    pixels = network._mask(network.read_images(torch.full((64, 3, 224, 224), 200, dtype=torch.uint8)))
    assert {round(value, 3) for value in pixels.unique().tolist()} == {0.0, round(200 / 255, 3)}
    blank = (pixels[:, 0] == 0).all(dim=1).sum(dim=1)  # columns that are masked over all rows
    assert 36 < int(blank.max()) <= 72


@pytest.mark.parametrize("family", ["cnn", "ast"])
def test_study_architecture_takes_no_weights(family: str) -> None:
    from genretree.errors import SettingsError

    with pytest.raises(SettingsError, match="weights=none"):
        get_family(family).settings_type.build({"architecture": "study", "weights": "student"})


@pytest.mark.parametrize("family", ["cnn", "ast"])
def test_study_networks_train_at_their_rates_and_reload(family: str, store: Store, tmp_path: Path) -> None:
    settings = {
        **Recipe.load(f"{family}-published").settings,
        "epochs": 3,
        "image_size": 32,
        "precision": "float32",
        "batch_size": 16,
    }
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        bundle = train(store, family, tmp_path / "bundle", settings)
    finally:
        hook.remove()
    history = bundle.training["history"]
    # From an epoch's first step on: the study stepped its scheduler after the validation.
    steps = len(rates) // 3
    losses = (0.0, *(row["validation_loss"] for row in history[:2]))
    expected = [settings["learning_rate"] * study_rate_factor(loss, settings["warmup_epochs"], 3) for loss in losses]
    assert rates == pytest.approx([rate for rate in expected for _ in range(steps)], rel=1e-4)
    levels = store.taxonomy.levels
    for part in ("train", "validation"):
        assert all(0 <= row[f"{part}_accuracy_{level}"] <= 1 for row in history for level in levels)
    best = min(history, key=lambda row: row["validation_loss"])
    check = slice_dataset(store, store.split(), "validation")
    scored = decode_levels(store.taxonomy, "independent", predict_dataset(bundle.model, check))
    right = (scored == store.taxonomy.ancestors[check.leaves]).mean(axis=0)
    assert [best[f"validation_accuracy_{level}"] for level in levels] == pytest.approx(right.tolist())
    assert f"train_accuracy_{levels[0]}" in (bundle.folder / "history.csv").read_text().splitlines()[0]
    for before, row in pairwise(history):
        factor = study_rate_factor(before["validation_loss"], settings["warmup_epochs"], settings["epochs"])
        assert row["learning_rate"] == pytest.approx(settings["learning_rate"] * factor, rel=1e-4)
    images = np.asarray(store.images[:6])
    for found, again in zip(
        bundle.model.predict_proba({"images": images}),
        load_bundle(bundle.folder).model.predict_proba({"images": images}),
        strict=True,
    ):
        np.testing.assert_array_equal(found, again)


# Written from the study's description; what it left at torch's defaults is not listed.
PUBLISHED = {
    "cnn": {
        "modalities": ("mel", "cqt", "chroma"),
        "dropout": 0.3,
        "label_smoothing": (0.05, 0.1, 0.15),
        "mask_probability": 0.0,
        "learning_rate": 2e-4,
        "weight_decay": 5e-4,
        "batch_size": 64,
        "epochs": 30,
        "warmup_epochs": 5,
    },
    "ast": {
        "modalities": ("mel",),
        "dropout": 0.4,
        "label_smoothing": (0.1,),
        "mask_probability": 0.8,
        "frequency_masks": 2,
        "frequency_mask_width": 24,
        "time_masks": 2,
        "time_mask_width": 36,
        "learning_rate": 3e-4,
        "weight_decay": 1e-4,
        "batch_size": 128,
        "epochs": 60,
        "warmup_epochs": 0,
        "seed": 42,
    },
    "efficientnet-b0": {
        "modalities": ("mel", "cqt", "chroma"),
        "dropout": 0.3,
        "label_smoothing": (0.1,),
        "mask_probability": 0.0,
        "learning_rate": 3e-4,
        "weight_decay": 1e-4,
        "batch_size": 64,
        "epochs": 30,
        "warmup_epochs": 0,
        "stochastic_depth": True,
    },
}
PUBLISHED_COMMON = {
    "image_size": 224,
    "heads": "independent",
    "optimizer": "adam",
    "decay_biases": True,
    "patience": 10,
    "min_improvement": 1e-5,
    "schedule": "study",
    "max_gradient_norm": 0,
    # Off, as the study had nothing of the kind.
    "mixup": 0,
    "class_weight_power": 0,
    "ema_decay": 0,
    "gradient_accumulation_steps": 1,
    "frozen_epochs": 0,
    "layer_decay": 1,
    "slice_offset": False,
    "pitch_change": 0,
    "tempo_change": 0,
    "equaliser": 0,
    "level_jitter": 0,
    "n_tta_shifts": 1,
    "teacher": "none",
    "classifier": "network",
}


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_published_settings(family: str) -> None:
    expected = {**PUBLISHED_COMMON, **PUBLISHED[family]}
    found = get_family(family).settings_type.build(Recipe.load(f"{family}-published").settings).model_dump()
    assert {name: found[name] for name in expected} == expected


def test_adam_decays_every_parameter_as_the_study() -> None:
    network = build("cnn-published")
    kind, options = _optimizer(network, network.settings)
    assert kind is torch.optim.Adam
    assert {id(parameter) for parameter in options["params"]} == {id(parameter) for parameter in network.parameters()}
    assert options["weight_decay"] == 5e-4


def test_layer_rates_and_decayed_biases_exclude_each_other() -> None:
    from genretree.errors import SettingsError

    with pytest.raises(SettingsError, match="decay_biases needs layer_decay=1"):
        get_family("cnn").settings_type.build({"decay_biases": True, "layer_decay": 0.9})


@pytest.mark.parametrize("heads", ["tree", "independent"])
def test_epoch_accuracy_equals_evaluation(heads: Any) -> None:
    head = build("cnn-published", heads=heads).head
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(90, head.n_scores)))
    leaves = torch.arange(90) % 16
    accuracy = EpochAccuracy()
    for some in torch.arange(90).split(40):
        accuracy.add(head, scores[some], leaves[some], training=True)
    levels = [level.exp().double().numpy() for level in head.log_probabilities(scores)]
    right = decode_levels(CCMUSIC_TREE, heads, levels) == CCMUSIC_TREE.ancestors[leaves.numpy()]
    assert accuracy.take(training=True) == pytest.approx(right.mean(axis=0).tolist())
    assert accuracy.take(training=True) == accuracy.take(training=False) == []


def test_luminance_equals_that_of_the_study_images(tmp_path: Path) -> None:
    import matplotlib
    from PIL import Image

    from genretree.models.families.boosting.family import reduce_images
    from genretree.sound.slices import read_rendered_image

    values = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    path = tmp_path / "drawn.png"
    colours = np.rint(255 * np.asarray(matplotlib.colormaps["magma"](values))[..., :3]).astype(np.uint8)
    Image.fromarray(colours).save(path)
    studys = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
    stored = np.stack([read_rendered_image(path, 64)] * 3)[None]
    network = build("cnn-published", pixels="luminance", image_size=64).eval()
    seen = network.read_images(torch.from_numpy(stored))[0, 0].numpy()
    np.testing.assert_allclose(seen, studys, atol=1.5 / 255)
    linear = build("cnn-published", image_size=64).read_images(torch.from_numpy(stored))[0, 0].numpy()
    assert np.abs(linear - studys).max() > 0.1
    reduced = reduce_images(stored, ("mel",), 64, "luminance").reshape(64, 64)
    np.testing.assert_array_equal(reduced, np.rint(255 * seen))
