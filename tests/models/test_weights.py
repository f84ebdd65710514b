"""Pretrained weights: layouts of other libraries, every kind of file, the Hub, and what is refused."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from plain_efficientnet import TimmB0, TorchvisionB0, randomise, without_counters
from safetensors.torch import load_file, save_file
from stand_in_hub import Repository, StandIn, stand_in
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    EfficientNetModel,
)

from genretree.bundle.bundle import load_bundle
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import TrainingError
from genretree.models.families import ast, cnn, efficientnet
from genretree.models.families.study_networks import StochasticDepth
from genretree.models.neural.network import GenreNetwork
from genretree.models.neural.settings import AstSettings, CnnSettings, EfficientNetSettings
from genretree.models.pretrained import download, sources
from genretree.models.pretrained.backbones import find_weights, save_checkpoint
from genretree.models.pretrained.sources import IMAGENET, SOURCES, find_source
from genretree.taxonomy import Taxonomy
from genretree.training.recipes import Recipe
from small_corpus import TREE

pytestmark = pytest.mark.slow

SMALL = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "num_block_repeats": [1] * 7}


def build(weights: Path | str, **changes: Any) -> GenreNetwork:
    settings = EfficientNetSettings.build({"weights": str(weights), **changes})
    return efficientnet.build_network(TREE, settings).eval()


@pytest.fixture(scope="module")
def torchvision_b0() -> nn.Module:
    return randomise(TorchvisionB0())


@pytest.fixture(scope="module")
def torchvision_file(torchvision_b0: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torchvision") / "efficientnet_b0_rwightman-7f5810bc.pth"
    torch.save(torchvision_b0.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small_model() -> EfficientNetModel:
    torch.manual_seed(0)
    return EfficientNetModel(EfficientNetConfig(**SMALL))


@pytest.fixture(scope="module")
def small_files(small_model: EfficientNetModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository's files: the description, safetensors and a pickled state dict."""
    folder = tmp_path_factory.mktemp("small")
    small_model.save_pretrained(folder)
    torch.save(small_model.state_dict(), folder / "pytorch_model.bin")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, files: dict[str, bytes], *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(files[name])
    return folder


# -- layouts -----------------------------------------------------------------------------------------------------


def test_torchvisions_weights_compute_what_torchvision_computes(
    torchvision_b0: nn.Module, torchvision_file: Path
) -> None:
    network = build(torchvision_file)
    for size in (64, 63, 97):  # odd sizes show where padding goes
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            expected = torchvision_b0.pooled(images)
            torch.testing.assert_close(network.backbone.features(images), expected, atol=1e-5, rtol=1e-5)
    assert float(expected.abs().mean()) > 0.05
    assert network.backbone.config.initial_weights["layout"] == "torchvision"
    pixels = network.read_images(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))


@pytest.mark.parametrize("form", ["safetensors", "checkpoint", "hub_folder"])
def test_timms_weights_compute_what_timm_computes(tmp_path: Path, form: str) -> None:
    timm = randomise(TimmB0(), seed=1)
    weights = timm.state_dict()
    if form == "safetensors":
        path = tmp_path / "efficientnet_b0.safetensors"
        save_file(without_counters(weights), path)
    elif form == "checkpoint":  # as timm's training script writes it, with several processes
        path = tmp_path / "model_best.pth.pt"
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    else:
        path = tmp_path
        torch.save(weights, path / "pytorch_model.bin")
        (path / "config.json").write_text('{"architecture": "efficientnet_b0", "num_classes": 1000}')
    network = build(path)
    for size in (64, 75):
        images = torch.randn(1, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(network.backbone.features(images), timm.pooled(images), atol=1e-5, rtol=1e-5)


def test_timms_ports_from_tensorflow_keep_its_conventions(tmp_path: Path) -> None:
    torch.save(TimmB0().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"architecture": "tf_efficientnet_b0"}')
    config = build(tmp_path).backbone.config
    assert config.batch_norm_eps == 1e-3
    assert not config.depthwise_padding
    assert not hasattr(config, "stem_padding")


def test_fewer_images_are_adapted_and_stochastic_depth_is_torchvisions(torchvision_file: Path) -> None:
    settings = {**Recipe.load("efficientnet-b0-published").settings, "modalities": ["mel", "cqt"]}
    assert settings["weights"] == IMAGENET
    network = build(**{**settings, "weights": torchvision_file})
    assert network.backbone.backbone.embeddings.convolution.in_channels == 2
    depths = [module.probability for module in network.modules() if isinstance(module, StochasticDepth)]
    assert depths == pytest.approx([0.2 * block / 16 for block in (2, 4, 6, 7, 9, 10, 12, 13, 14)])


def test_training_takes_the_same_steps_as_torchvisions_network(torchvision_file: Path) -> None:
    """Losses and running statistics of three steps, with dropout off on both sides."""
    plain = TorchvisionB0().train()
    plain.load_state_dict(torch.load(torchvision_file, weights_only=True))
    settings = {**Recipe.load("efficientnet-b0-published").settings, "image_size": 64, "dropout": 0.0}
    tree = Taxonomy.builtin()
    chosen = EfficientNetSettings.build({**settings, "weights": str(torchvision_file)})
    network = efficientnet.build_network(tree, chosen).train()
    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.probability = 0.0
    heads = nn.Linear(1280, 27)
    heads.load_state_dict(network.backbone.scores.state_dict())
    theirs = [*plain.features.parameters(), *heads.parameters()]
    optimizers = [
        torch.optim.Adam(parameters, lr=chosen.learning_rate, weight_decay=chosen.weight_decay)
        for parameters in (list(network.parameters()), theirs)
    ]
    torch.manual_seed(3)
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    leaves = torch.arange(8) * 2
    levels = torch.from_numpy(tree.ancestors.copy())[leaves]
    mean, scale = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for _ in range(4):  # before each of three steps, and after them
        scores = heads(plain.pooled((images.float() / 255 - mean) / scale)).split((2, 9, 16), dim=1)
        losses = [
            nn.functional.cross_entropy(score, levels[:, level], label_smoothing=0.1)
            for level, score in enumerate(scores)
        ]
        expected = torch.stack(losses).mean()
        found = network(images, labels=leaves)["loss"]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        for optimizer, loss in zip(optimizers, (found, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    norm = network.backbone.backbone.encoder.top_bn
    torch.testing.assert_close(norm.running_var, plain.features[8][1].running_var, atol=1e-3, rtol=1e-3)


def test_a_bundle_keeps_the_conventions_and_says_where_the_weights_came_from(
    store: Store, tmp_path: Path, torchvision_file: Path
) -> None:
    out = tmp_path / "bundle"
    options = [
        "image_size=33",
        "batch_size=32",
        "precision=float32",
        "epochs=0",
        "classifier=linear",
        "statistics=false",
    ]
    options.append("Cs=[0.01]")
    arguments = ["train", str(store.folder), "--model", "efficientnet-b0", "--out", str(out), "--quiet"]
    sets = [word for option in options for word in ("--set", option)]
    done = CliRunner().invoke(main, [*arguments, "--weights", str(torchvision_file), *sets])
    assert done.exit_code == 0, done.output
    bundle = load_bundle(out)
    recorded = bundle.training["initial_weights"]
    digest = hashlib.sha256(torchvision_file.read_bytes()).hexdigest()
    assert recorded == {
        "source": torchvision_file.name,
        "file": torchvision_file.name,
        "sha256": digest,
        "layout": "torchvision",
    }
    assert str(torchvision_file.parent) not in (out / "backbone.json").read_text()
    images = torch.randn(1, 3, 33, 33)
    features = [
        made.backbone.features(images) for made in (bundle.model.model.network, build(torchvision_file, image_size=33))
    ]
    torch.testing.assert_close(*features)
    shown = CliRunner().invoke(main, ["info", str(out)])
    assert torchvision_file.name in shown.output
    assert digest[:12] in shown.output


# -- files and folders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [["model.safetensors"], ["pytorch_model.bin"], ["model.safetensors", "pytorch_model.bin"]],
)
def test_transformers_weights_in_every_form(
    small_files: dict[str, bytes], small_model: EfficientNetModel, tmp_path: Path, names: list[str]
) -> None:
    folder = write(tmp_path / "w", small_files, "config.json", *names)
    for place in (folder, folder / names[0]):
        network = build(place)
        for name, value in network.backbone.backbone.state_dict().items():
            torch.testing.assert_close(value, small_model.state_dict()[name])
        assert network.backbone.config.initial_weights["file"] == names[0]


def test_a_classifiers_checkpoint_gives_its_backbone(tmp_path: Path, small_files: dict[str, bytes]) -> None:
    torch.manual_seed(1)
    model = EfficientNetForImageClassification(EfficientNetConfig(**SMALL))
    write(tmp_path, small_files, "config.json")
    torch.save(without_counters(model.state_dict()), tmp_path / "weights.pth")
    kernel = build(tmp_path).backbone.backbone.embeddings.convolution.weight
    torch.testing.assert_close(kernel, model.efficientnet.embeddings.convolution.weight)


def test_weights_in_several_parts(
    tmp_path: Path, small_files: dict[str, bytes], small_model: EfficientNetModel
) -> None:
    small_model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    torch.testing.assert_close(
        build(tmp_path).backbone.backbone.encoder.top_conv.weight, small_model.encoder.top_conv.weight
    )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(TrainingError, match="outside its folder"):
        build(tmp_path)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-was-run",)


def _pickled(content: Any, **options: Any) -> bytes:
    import io

    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 21444401\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>"
REFUSED = {
    "code": (_pickled({"a": torch.zeros(2), "b": _Code()}), r"contains more than arrays \(\w+\.mkdir\).*run code"),
    "old form with code": (_pickled({"b": _Code()}, _use_new_zipfile_serialization=False), "run code"),
    "arguments": (_pickled({"a": torch.zeros(2), "b": argparse.Namespace()}), "argparse.Namespace"),
    "plain pickle": (pickle.dumps({"b": _Code()}), "not a state dict that torch.save wrote"),
    "lfs": (LFS, "Git LFS pointer.*git lfs pull"),
    "page": (PAGE, "a web page"),
    "empty": (b"", "is empty"),
    "noise": (b"\x93" * 400, "expected a .safetensors"),
    "half": (_pickled({"a": torch.zeros(200)})[:500], "can't be read as weights"),
    "damaged safetensors": (b"\x10\0\0\0\0\0\0\0{not json at all", "damaged safetensors"),
    "list": (_pickled([torch.zeros(2)]), "a list, not a state dict"),
    "numbers": (_pickled({"a": torch.zeros(2), "epoch": 3}), "epoch are not arrays"),
    "not finite": (_pickled({"a": torch.full((2,), torch.nan)}), "NaN or infinity; get the file again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = REFUSED[case]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=said) as refused:
        build(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).count(str(path)) == 1
    assert not (tmp_path / "code-was-run").exists()
    with pytest.raises(TrainingError, match=said):
        cnn.build_initial_network(TREE, CnnSettings.build({"weights": str(path)}))


def test_folders_without_weights_or_with_several_are_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(TrainingError, match=r"no weights in this folder; expected .*model\.safetensors"):
        build(tmp_path)
    for name in ("a.pth", "b.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TrainingError, match=r"several weights files \(a.pth, b.safetensors\)"):
        build(tmp_path)


@pytest.mark.parametrize("layout", ["torchvision", "timm", "transformers"])
def test_weights_of_another_architecture_are_named(
    tmp_path: Path, torchvision_b0: nn.Module, small_files: dict[str, bytes], layout: str
) -> None:
    other = {
        "torchvision": ("features.0.0.weight", "features.4.2.block.1.0.weight", torchvision_b0.state_dict()),
        "timm": ("conv_stem.weight", "blocks.1.0.conv_pw.weight", TimmB0().state_dict()),
        "transformers": ("embeddings.convolution.weight", "encoder.top_conv.weight", None),
    }
    shaped, lacking, weights = other[layout]
    if weights is None:
        weights = EfficientNetModel(EfficientNetConfig(**SMALL)).state_dict()
        write(tmp_path, small_files, "config.json")
    weights = dict(weights)
    del weights[lacking]
    weights[shaped] = torch.zeros(5, 3, 3, 3)
    weights.update({f"stage9.{number}.weight": torch.zeros(1) for number in range(5)})
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(TrainingError) as refused:
        build(tmp_path / "w.pth")
    for part in (
        f"lack 1 arrays ({lacking})",
        "have 5 unknown ones (stage9.0.weight, stage9.1.weight, stage9.2.weight, ...)",
        f"have 1 of another shape ({shaped} (5, 3, 3, 3) instead of",
    ):
        assert part in str(refused.value)


def test_weights_of_other_networks_are_named(tmp_path: Path, small_files: dict[str, bytes]) -> None:
    torch.save({"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(TrainingError, match=r"not the weights of an EfficientNet .*conv1.weight"):
        build(tmp_path / "resnet.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "any.pth")
    with pytest.raises(TrainingError, match=r"the first arrays are a\)"):
        build(tmp_path / "any.pth")
    folder = write(tmp_path / "vit", small_files, "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(TrainingError, match="type 'vit', not 'efficientnet'"):
        build(folder)


@pytest.mark.parametrize(("family", "weights"), [("ast", IMAGENET), ("efficientnet-b0", "musicnn"), ("cnn", IMAGENET)])
def test_weights_of_another_family_are_refused(store: Store, tmp_path: Path, family: str, weights: str) -> None:
    arguments = ["train", str(store.folder), "--model", family, "--weights", weights, "--out", str(tmp_path / "b")]
    done = CliRunner().invoke(main, [*arguments, "--set", "image_size=32", "--quiet"])
    assert done.exit_code == 1
    assert f"not {family}; choose others from `genretree weights list`" in done.output


def test_pretrained_networks_keep_the_conventions_of_their_first_weights(
    torchvision_file: Path, tmp_path: Path
) -> None:
    first = build(torchvision_file)
    save_checkpoint(first.backbone, tmp_path)
    again = build(tmp_path)
    images = torch.randn(1, 3, 65, 65)
    with torch.no_grad():  # matrices are stored as float16
        torch.testing.assert_close(
            again.backbone.features(images), first.backbone.features(images), atol=0.02, rtol=0.02
        )
    assert again.backbone.config.stem_padding == "symmetric"


@pytest.mark.parametrize("file", ["pytorch_model.bin", "ast.pth"])
def test_audio_transformers_from_pickled_weights(tmp_path: Path, file: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = ASTForAudioClassification(ASTConfig(**sizes, max_length=48, num_mel_bins=48))
    torch.save(model.state_dict(), tmp_path / file)
    model.config.save_pretrained(tmp_path)
    settings = AstSettings.build({"weights": str(tmp_path / file), "image_size": 48})
    backbone = ast.build_network(TREE, settings).backbone.backbone
    for name, value in model.audio_spectrogram_transformer.state_dict().items():
        torch.testing.assert_close(backbone.state_dict()[name], value)
    assert backbone.config.initial_weights["file"] == file


# -- the Hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    with stand_in() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
        yield running


def publish(hub: StandIn, name: str, branch: str, files: dict[str, bytes], *names: str) -> str:
    repository = hub.repositories.setdefault(name, Repository(private=False))
    return repository.commit(branch, {each: files[each] for each in names}, "weights")


def test_the_hub_serves_pickled_weights_on_main_and_safetensors_in_a_pull_request(
    hub: StandIn, small_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "some/efficientnet"
    main_commit = publish(hub, name, "main", small_files, "config.json", "pytorch_model.bin")
    request = publish(hub, name, "refs/pr/3", small_files, "config.json", "pytorch_model.bin", "model.safetensors")
    for place, file, commit in (
        (name, "pytorch_model.bin", main_commit),
        (f"{name}@refs/pr/3", "model.safetensors", request),
        (f"{name}@{main_commit}", "pytorch_model.bin", main_commit),
    ):
        origin = build(place).backbone.config.initial_weights
        assert (origin["source"], origin["file"], origin["revision"]) == (name, file, commit)
    asked = len(hub.requests)
    assert build(f"{name}@{request}").backbone.config.initial_weights["file"] == "model.safetensors"
    assert len(hub.requests) == asked  # a commit that is in the cache is asked of nobody
    hub.repositories.clear()
    assert build(name).backbone.config.initial_weights["revision"] == main_commit
    with pytest.raises(TrainingError, match=r"genretree weights get other/model.*weights='none'"):
        build("other/model")


def test_a_name_in_the_list_means_its_pinned_commit_and_hash(
    hub: StandIn, small_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "google/efficientnet-b0"
    pinned = publish(hub, name, "main", small_files, "config.json", "pytorch_model.bin")
    later = publish(hub, name, "main", {**small_files, "pytorch_model.bin": LFS}, "config.json", "pytorch_model.bin")
    source = find_source(name)
    assert source is not None
    monkeypatch.setattr(sources, "SOURCES", (replace(source, revision=pinned),))
    origin = build(name).backbone.config.initial_weights
    assert (origin["revision"], origin["licence"]) == (pinned, "Apache-2.0")
    with pytest.raises(TrainingError, match="Git LFS pointer"):
        build(f"{name}@{later}")
    monkeypatch.setattr(sources, "SOURCES", (replace(source, revision="f" * 40),))
    download.fetch(f"{name}@main")  # as `hf download` does
    with pytest.raises(TrainingError, match=f"Another commit is in the cache: {name}@{later}"):
        build(name)
    wrong = replace(source, revision=pinned, sha256="0" * 64)
    monkeypatch.setattr(sources, "SOURCES", (wrong,))
    with pytest.raises(TrainingError, match="not the published weights 'google/efficientnet-b0'"):
        build(name)


def test_default_weights_are_not_downloaded_unasked(hub: StandIn, small_files: dict[str, bytes]) -> None:
    name = "google/efficientnet-b0"
    publish(hub, name, "main", small_files, "config.json", "pytorch_model.bin")
    hub.requests.clear()
    with pytest.raises(TrainingError, match=r"doesn't download default weights; .*weights get google/eff"):
        efficientnet.build_network(TREE, EfficientNetSettings.build({}))
    assert not hub.requests


def test_get_downloads_hub_weights_to_the_cache(hub: StandIn, small_files: dict[str, bytes]) -> None:
    publish(hub, "some/efficientnet", "main", small_files, "config.json", "model.safetensors")
    done = CliRunner().invoke(main, ["weights", "get", "some/efficientnet"])
    assert done.exit_code == 0, done.output
    assert "model.safetensors (" in done.output
    for name, said in (
        ("some/nothing", "can't be downloaded from the Hub"),
        ("nothing", "unknown weights"),
        ("student", "are included in genretree"),
        ("student-both", "are included in genretree"),
    ):
        done = CliRunner().invoke(main, ["weights", "get", name])
        assert done.exit_code == 1
        assert said in done.output


# -- the registry ------------------------------------------------------------------------------------------------


def test_imagenet_weights_are_downloaded_once_and_verified(
    tmp_path: Path, torchvision_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    known = find_source(IMAGENET)
    assert known is not None
    with pytest.raises(TrainingError, match="genretree weights get imagenet1k-v1"):
        build(IMAGENET)
    refused = CliRunner().invoke(main, ["weights", "get", IMAGENET, "--file", str(torchvision_file)])
    assert "not the published weights" in refused.output
    digest = hashlib.sha256(torchvision_file.read_bytes()).hexdigest()
    served = replace(known, location=torchvision_file.as_uri(), sha256=digest)
    monkeypatch.setattr(sources, "SOURCES", (served,))
    for more in ([], ["--file", str(torchvision_file)]):
        done = CliRunner().invoke(main, ["weights", "get", IMAGENET, *more])
        assert done.exit_code == 0, done.output
        cached = tmp_path / "cache" / torchvision_file.name
        assert [cached] == list(cached.parent.iterdir())
        origin = build(IMAGENET).backbone.config.initial_weights
        assert (origin["source"], origin["sha256"], origin["licence"]) == (IMAGENET, digest, "BSD-3-Clause")
        cached.unlink()
    # What torchvision downloaded itself is found, and a damaged copy is not used.
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / cached.name).write_bytes(torchvision_file.read_bytes())
    assert build(IMAGENET).backbone.config.initial_weights["source"] == IMAGENET
    (folder / cached.name).write_bytes(torchvision_file.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="not the published weights"):
        build(IMAGENET)
    monkeypatch.setattr(sources, "SOURCES", (replace(served, sha256="0" * 64),))
    done = CliRunner().invoke(main, ["weights", "get", IMAGENET])
    assert done.exit_code == 1
    assert "can't be downloaded" in done.output
    assert not list((tmp_path / "cache").iterdir())


def test_the_list_names_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    table = CliRunner().invoke(main, ["weights", "list"])
    assert table.exit_code == 0, table.output
    for source in SOURCES:
        for part in (source.name, source.licence, source.pinned.split()[1][:12], f"{source.size / 1e6:.1f}"):
            assert part in table.output
    listed = json.loads(CliRunner().invoke(main, ["weights", "list", "--json"]).output)
    assert [one["name"] for one in listed] == [source.name for source in SOURCES]
    for one in listed:
        assert one["licence"]
        assert one["size"] > 0
        pinned = len(one["sha256"] or "") == 64 or len(one["revision"] or "") == 40
        assert pinned or one["access"] == "checkpoint"  # their first download pins the commit
        assert (one["local"] is not None) == (one["access"] == "package")


def test_weights_in_the_package_are_those_of_the_list() -> None:
    for source in SOURCES:
        if source.access == "package":
            path = sources.find_local(source)
            assert path is not None
            assert path.stat().st_size == source.size
            assert hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


def test_recipes_name_only_weights_that_are_known() -> None:
    from genretree.training.recipes import recipe_names

    for name in recipe_names():
        weights = Recipe.load(name).settings.get("weights", "none")
        assert weights == "none" or find_source(weights) is not None, name


@pytest.mark.parametrize("name", ["student", "student-both"])
def test_a_network_starts_from_weights_in_the_package(name: str) -> None:
    settings = CnnSettings.build({"weights": name, "image_size": 112})
    network = cnn.build_initial_network(TREE, settings)
    folder = find_weights(name, "cnn", settings.modalities)
    loaded = load_file(Path(folder) / "model.safetensors")
    state = network.backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in loaded.items())
    with pytest.raises(TrainingError, match=f"no weights named '{name}' for boosting"):
        find_weights(name, "boosting", settings.modalities)
