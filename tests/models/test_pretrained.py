"""The transformers families, on small checkpoints that the tests write themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ASTConfig, ASTModel, EfficientNetConfig, EfficientNetModel

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.errors import BundleError, SettingsError, TrainingError
from genretree.models.families import ast as ast_module
from genretree.models.families import efficientnet
from genretree.models.families.ast import interpolate_positions
from genretree.models.neural.network import count_parameters
from genretree.models.neural.settings import AstSettings, EfficientNetSettings
from genretree.models.pretrained.backbones import adapt_input, load_pretrained
from genretree.taxonomy import Taxonomy
from genretree.training.train import train
from small_corpus import TREE

pytestmark = pytest.mark.slow

QUICK = {"epochs": 1, "image_size": 32, "batch_size": 16, "precision": "float32"}


@pytest.fixture(scope="module")
def efficientnet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("efficientnet")
    torch.manual_seed(0)
    config = EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.3, image_size=32, hidden_dim=320, num_block_repeats=[1] * 7
    )
    EfficientNetModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ast_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ast")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = ASTModel(ASTConfig(**sizes, max_length=96, num_mel_bins=48))
    nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    return folder


def test_the_published_efficientnet_has_4_04_million_weights() -> None:
    settings = EfficientNetSettings.build({"weights": "none", "heads": "independent"})
    network = efficientnet.build_network(Taxonomy.builtin(), settings)
    assert count_parameters(network) == pytest.approx(4.04e6, rel=0.002)


def test_the_published_small_transformer_has_its_shape() -> None:
    config = ast_module.build_network(Taxonomy.builtin(), AstSettings()).backbone.config
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert found == (384, 6, 6, 1536)
    assert (config.patch_size, config.image_size, config.num_channels) == (16, 224, 1)


def test_an_efficientnet_from_scratch_passes_signals_on() -> None:
    """As transformers draws it, the normalisations' weights lie near 0 and nothing comes through to learn from."""
    images = torch.randn(8, 3, 64, 64)

    def spread(backbone: nn.Module) -> float:
        with torch.no_grad():
            return float(backbone.train()(images).last_hidden_state.std())

    torch.manual_seed(0)
    config = EfficientNetConfig(**efficientnet._B0)
    assert spread(EfficientNetModel(config)) < 0.05
    network = efficientnet.build_network(TREE, EfficientNetSettings.build({"weights": "none"}))
    assert spread(network.backbone.backbone) > 0.2
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert module.momentum == 0.1


def test_an_efficientnet_from_scratch_learns(store: Store) -> None:
    settings = EfficientNetSettings.build(
        {"weights": "none", "image_size": 32, "dropout": 0.0, "label_smoothing": [0.0]}
    )
    torch.manual_seed(0)
    network = efficientnet.build_network(TREE, settings).train()
    chosen = np.arange(0, 192, 6)
    images = torch.from_numpy(np.asarray(store.images[chosen]))
    labels = torch.from_numpy(store.track_leaves[store.slice_tracks[chosen]])
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        loss = network(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) > 5 and np.mean(losses[-5:]) < 0.4 * losses[0]:
            return
    pytest.fail(f"the loss fell from {losses[0]:.2f} to only {np.mean(losses[-5:]):.2f}")


def test_training_starts_from_the_checkpoints_weights(efficientnet_checkpoint: Path) -> None:
    settings = EfficientNetSettings.build({"weights": str(efficientnet_checkpoint)})
    network = efficientnet.build_network(TREE, settings)
    original = EfficientNetModel.from_pretrained(efficientnet_checkpoint).state_dict()
    for name, value in network.backbone.backbone.state_dict().items():
        torch.testing.assert_close(value, original[name])
    pixels = network.read_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))


@pytest.mark.parametrize("modalities", [["mel"], ["cqt", "chroma"], ["mel", "cqt", "chroma"]])
def test_any_subset_of_images_trains_on_a_checkpoint_and_comes_back(
    store: Store, tmp_path: Path, efficientnet_checkpoint: Path, modalities: list[str]
) -> None:
    settings = {**QUICK, "weights": str(efficientnet_checkpoint), "modalities": modalities}
    bundle = train(store, "efficientnet-b0", tmp_path / "b", settings)
    images = np.asarray(store.images[:6])
    moved = load_bundle((tmp_path / "b").rename(tmp_path / "moved"))
    for before, after in zip(
        bundle.model.predict_proba({"images": images}), moved.model.predict_proba({"images": images}), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_an_adapted_input_answers_grey_as_before() -> None:
    torch.manual_seed(0)
    old = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    grey = torch.randn(2, 1, 16, 16)
    for channels in (1, 2):
        new = adapt_input(old, channels)
        torch.testing.assert_close(new(grey.expand(-1, channels, -1, -1)), old(grey.expand(-1, 3, -1, -1)))
    assert adapt_input(old, 3) is old


def test_an_audioset_checkpoint_is_stretched_to_our_images(store: Store, tmp_path: Path, ast_checkpoint: Path) -> None:
    settings = {**QUICK, "weights": str(ast_checkpoint), "image_size": 64}
    bundle = train(store, "ast", tmp_path / "b", settings)
    images = np.asarray(store.images[:6])
    again = load_bundle(tmp_path / "b")
    for before, after in zip(
        bundle.model.predict_proba({"images": images}), again.model.predict_proba({"images": images}), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    grid = (64 - 16) // 10 + 1
    assert bundle.model.network.backbone.backbone.embeddings.position_embeddings.shape == (1, 2 + grid * grid, 24)
    with pytest.raises(SettingsError, match="one image"):
        train(store, "ast", tmp_path / "c", {**settings, "modalities": ["mel", "cqt"]})


def test_an_audioset_transformer_gets_time_first_and_the_lowest_band_first(ast_checkpoint: Path) -> None:
    settings = AstSettings.build({"weights": str(ast_checkpoint), "image_size": 48})
    network = ast_module.build_network(TREE, settings).eval()
    image = torch.rand(1, 1, 48, 48)
    expected = network.backbone.backbone(image[0, 0].flip(0).T[None]).pooler_output
    torch.testing.assert_close(network.backbone.features(image), expected)


def test_positions_keep_their_tokens_and_their_place() -> None:
    grid = torch.arange(12.0).reshape(1, 12, 1).expand(1, 12, 5)
    positions = torch.cat([torch.full((1, 2, 5), 7.0), grid], dim=1)
    torch.testing.assert_close(interpolate_positions(positions, (3, 4), (3, 4)), positions)
    larger = interpolate_positions(positions, (3, 4), (6, 8))
    assert larger.shape == (1, 50, 5)
    torch.testing.assert_close(larger[:, :2], positions[:, :2])
    image = larger[0, 2:, 0].reshape(6, 8)
    assert (image.diff(dim=1) > 0).all()
    assert (image.diff(dim=0) > 0).all()


@pytest.mark.parametrize("family", ["efficientnet-b0", "ast"])
def test_weights_that_cannot_be_had_say_how_to_get_them(
    store: Store, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for weights in ("nobody/no-such-checkpoint", str(tmp_path / "nothing")):
        with pytest.raises(TrainingError, match="weights='none'"):
            train(store, family, tmp_path / "b", {**QUICK, "weights": weights})
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_with_weights_missing_is_refused(tmp_path: Path, efficientnet_checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(efficientnet_checkpoint / "model.safetensors")
    weights.pop("embeddings.convolution.weight")
    (tmp_path / "config.json").write_text((efficientnet_checkpoint / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"lack 1 arrays \(embeddings.convolution.weight\)"):
        load_pretrained(EfficientNetModel, str(tmp_path))


def test_a_bundle_without_its_backbones_description_is_refused(store: Store, tmp_path: Path) -> None:
    bundle = train(store, "ast", tmp_path / "b", QUICK)
    (bundle.folder / "backbone.json").unlink()
    with pytest.raises(BundleError, match="missing"):
        load_bundle(bundle.folder)
