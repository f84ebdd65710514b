"""What a GPU would do, as far as it can be tested without one: device placement, memory format and precision.

On the device `meta`, PyTorch runs every operation without data, and most refuse tensors of two devices, as on a GPU;
what needs the data on the CPU, and would so make a GPU wait, fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from fake_gpu import fake_gpu
from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.embedding.embedders import BundleEmbedder, Mn04Embedder, MusicnnEmbedder
from genretree.evaluation.evaluate import predict_rows
from genretree.explanation import explain
from genretree.models import get_family
from genretree.models.base import FitContext, FitResult, predict_dataset
from genretree.models.families import ast, cnn, efficientnet
from genretree.models.families.tagger.model import TaggerModel
from genretree.models.families.tagger.musicnn_blocks import MusicnnBlocks
from genretree.models.families.tagger.settings import TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.neural import precision, trainer
from genretree.models.neural.cpu_kernels import enable_cpu_kernels
from genretree.models.neural.distillation import compute_teacher_targets
from genretree.models.neural.linear_probe import fit_classifier
from genretree.models.neural.network import GenreNetwork, NetworkModel
from genretree.models.neural.precision import choose_by_trial, choose_precision
from genretree.models.pretrained import mn04_weights, musicnn_weights
from genretree.models.pretrained.audio_backbones import load_backbone
from genretree.models.pretrained.backbone_checkpoints import find_checkpoint
from genretree.models.pretrained.mn04_weights import load_mn04
from genretree.models.pretrained.musicnn_weights import digest
from genretree.models.runtime.graph import run_torch
from genretree.prediction.predict import predict_file
from genretree.settings import SAMPLE_RATE
from genretree.taxonomy import Taxonomy
from genretree.training.data import slice_dataset
from genretree.training.train import _calibrate, train
from genretree.vocabulary import Vocabulary
from small_checkpoints import write_checkpoint
from small_corpus import synthesise
from small_weights import shrink_networks, write_mn04, write_musicnn

pytestmark = pytest.mark.slow

TREE = Taxonomy.from_nested({"A": ["a", "b"], "B": ["c", "d"]})
AUGMENTED = {"mixup": 0.2, "pitch_change": 2.0, "tempo_change": 0.2, "equaliser": 0.1, "level_jitter": 0.1}
N = 4


@pytest.fixture(params=[(cnn, "cnn"), (efficientnet, "efficientnet-b0"), (ast, "ast")], ids=lambda item: item[1])
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GenreNetwork:
    """A network with all augmentation, as the trainer prepares it, without data."""
    module: ModuleType
    module, name = request.param
    shrink_networks(monkeypatch)
    settings = get_family(name).settings_type.build({"image_size": 64, "weights": "none", **AUGMENTED})
    network: GenreNetwork = module.build_network(TREE, settings)
    network.add_distillation_head(5)
    enable_cpu_kernels(network)
    return network.to("meta", memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _batch(device: str) -> dict[str, torch.Tensor]:
    images = torch.empty((N, 3, 64, 64), dtype=torch.uint8, device=device)
    targets = torch.empty((N, 5), device=device)
    labels = torch.empty(N, dtype=torch.int64, device=device)
    batch = {"images": images, "labels": labels, "next_slices": images}
    return {**batch, "teacher_targets": targets, "next_teacher_targets": targets}


def test_a_training_step_needs_nothing_of_another_device(network: GenreNetwork) -> None:
    network.train()
    found = network(**_batch("meta"))
    found["loss"].backward()
    assert found["loss"].device.type == found["scores"].device.type == "meta"
    gradients = [each.grad for each in network.parameters() if each.requires_grad and each.grad is not None]
    assert gradients
    assert all(each.device.type == "meta" for each in gradients)


def test_images_reach_the_backbone_in_the_fast_memory_format(
    network: GenreNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    features = network.backbone.features

    def note(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        result: torch.Tensor = features(pixels)  # type: ignore[operator]
        return result

    monkeypatch.setattr(network.backbone, "features", note)
    network.eval()(_batch("meta")["images"])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_tensors_of_two_devices_are_refused(network: GenreNetwork) -> None:
    """The premise of these tests."""
    network.mean = torch.zeros((1, len(network.channels), 1, 1))
    with pytest.raises(RuntimeError, match="device"):
        network.eval()(_batch("meta")["images"])


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_has_the_precision_that_it_supports(
    supported: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    monkeypatch.setattr(precision, "_try_steps", lambda *_: pytest.fail("the trial is for CPUs"))
    assert choose_precision("auto") == expected
    assert choose_by_trial("auto", torch.nn.Linear(1, 1), dict, tmp_path / "note") == expected
    assert choose_by_trial("float32", torch.nn.Linear(1, 1), dict, tmp_path / "note") == "float32"


def test_batches_for_a_gpu_are_read_by_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "available_processors", lambda: 16)
    assert trainer._loader_processes() == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trainer._loader_processes() > 0


@pytest.mark.parametrize("classifier", ["network", "linear"])
def test_evaluation_uses_the_gpu_and_gives_it_back(
    classifier: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_networks(monkeypatch)
    settings = {"image_size": 32, "epochs": 1, "classifier": classifier, "Cs": [0.01]}
    bundle = train(store, "cnn", tmp_path / "cnn", settings)
    rows = store.rows("test")
    expected = predict_rows(bundle, store, rows)
    moves: list[str] = []
    monkeypatch.setattr(GenreNetwork, "to", lambda _, device: moves.append(device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = predict_rows(bundle, store, rows)
    assert moves == ["cuda", "cpu"]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(ZeroDivisionError):
        predict_dataset(bundle.model, slice_dataset(store, store.split(), "test"), lambda n: n // 0)
    assert moves == 2 * ["cuda", "cpu"], "an error leaves the network on the GPU"
    bundle.model.set_backend({"network": lambda images: [np.zeros((len(images), 1), np.float32)]})
    with bundle.model.on_fastest_device():
        assert len(moves) == 4, "another runtime takes arrays of the CPU"


# -- a fake GPU, which refuses operations on tensors of two devices ----------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with random networks in the place of the published ones; all networks are small."""
    folder = write_musicnn(write_mn04(tmp_path_factory.mktemp("weights")), "msd", "mtt")
    with pytest.MonkeyPatch.context() as patch:
        shrink_networks(patch)
        patch.setenv("GENRETREE_CACHE", str(folder))
        patch.setattr(mn04_weights, "DIGEST", digest(load_file(folder / "mn04.safetensors")))
        for name in ("msd", "mtt"):
            hashes = digest(load_file(folder / f"musicnn-{name}.safetensors"))
            patch.setitem(musicnn_weights.DIGESTS, name, hashes)
        yield folder


@pytest.fixture(scope="module")
def bundles(store: Store, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Gives briefly trained bundles by name."""
    folder = tmp_path_factory.mktemp("bundles")
    network: dict[str, Any] = {"image_size": 32, "epochs": 1, "precision": "float32"}
    musicnn: dict[str, Any] = {"patches": 1, "layers": [["penultimate", "images"]], "Cs": [0.1]}
    settings: dict[str, dict[str, Any]] = {
        "cnn": network,
        "linear": {**network, "classifier": "linear", "Cs": [0.01]},
        "musicnn": musicnn,
        "ensemble": {"members": {"cnn": network, "musicnn": musicnn}, "folds": 2},
    }

    @cache
    def get(name: str) -> Bundle:
        if name == "tagger":  # untrained, as training takes many seconds
            bundle = get("musicnn")
            tree = TagTree.of(Vocabulary.builtin().match(store.taxonomy), 0.003, store.taxonomy)
            blocks = MusicnnBlocks(bundle.model.networks, 1)
            return replace(bundle, model=TaggerModel(tree, TaggerSettings(), load_mn04, musicnn=blocks))
        return train(store, "cnn" if name == "linear" else name, folder / name, settings[name])

    return get


FAMILIES = {
    "cnn": ["GenreNetwork"],
    "linear": ["GenreNetwork"],
    "musicnn": ["Musicnn"],
    "tagger": ["Mn04", "Musicnn"],
    "ensemble": ["GenreNetwork", "Musicnn"],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_networks_of_each_family_are_evaluated_on_the_gpu(
    name: str, store: Store, bundles: Callable[[str], Bundle]
) -> None:
    bundle, rows = bundles(name), store.rows("test")[:4]
    expected = predict_rows(bundle, store, rows)
    with fake_gpu() as gpu:
        predict_rows(bundle, store, rows)
    for device in ("gpu", "cpu"):
        assert [network for network, to in gpu.moves if to == device] == FAMILIES[name]
    assert gpu.operations > 50
    for one, other in zip(predict_rows(bundle, store, rows), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_another_runtime_computes_on_the_cpu(name: str, store: Store, bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles(name)
    model = bundle.model.shuffle_weights(np.random.default_rng(0))
    model.set_backend({key: run_torch(graph, bf16=False) for key, graph in model.graphs(64).items()})
    with fake_gpu() as gpu:
        predict_rows(replace(bundle, model=model), store, store.rows("test")[:4])
    assert not gpu.moves


class _FeaturesDoneError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "location", "settings"),
    [
        ("linear", "neural.linear_probe.choose_features", {}),
        ("musicnn", "families.musicnn.family.choose_features", {"patches": 1}),
        ("tagger", "families.tagger.family.join_features", {"patches": 1, "musicnn": ["msd"]}),
    ],
)
def test_features_to_train_on_are_computed_on_the_gpu(
    name: str,
    location: str,
    settings: dict[str, Any],
    store: Store,
    bundles: Callable[[str], Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*arguments: Any) -> None:
        raise _FeaturesDoneError

    monkeypatch.setattr(f"genretree.models.{location}", stop)
    part = slice_dataset(store, store.split(), "train")
    part = part.select(np.arange(0, len(part), 16))
    with fake_gpu() as gpu, pytest.raises(_FeaturesDoneError):
        if name == "linear":
            fit_classifier(NetworkModel(bundles("cnn").model.network), part, None, FitContext(tmp_path))
        else:
            family = get_family(name)
            family.fit(part, None, store.taxonomy, family.settings_type.build(settings), FitContext(tmp_path))
    for device in ("gpu", "cpu"):
        assert [network for network, to in gpu.moves if to == device] == FAMILIES[name]
    assert gpu.operations > 20


def test_calibration_uses_the_gpu(store: Store, bundles: Callable[[str], Bundle]) -> None:
    validation = slice_dataset(store, store.split(), "validation")
    with fake_gpu() as gpu:
        _calibrate(FitResult(bundles("cnn").model, [], {}), validation, store, False)
    assert gpu.moves == [("GenreNetwork", "gpu"), ("GenreNetwork", "cpu")]


@pytest.mark.parametrize(("teacher", "networks"), [("musicnn", ["Musicnn"]), ("both", ["Musicnn", "Mn04"])])
def test_teachers_of_a_pretraining_run_on_the_gpu(
    teacher: Any, networks: list[str], store: Store, weights: Path
) -> None:
    part = slice_dataset(store, store.split(), "test")
    with fake_gpu() as gpu:
        targets = compute_teacher_targets([part], ("msd",), teacher=teacher)[0]
    assert gpu.moves == [(network, "gpu") for network in networks]
    assert gpu.operations > 50
    assert targets.shape == (len(part), 250 if teacher == "musicnn" else 818)


def test_a_large_pretrained_network_embeds_on_the_gpu(tmp_path: Path) -> None:
    backbone = load_backbone(find_checkpoint(str(write_checkpoint(tmp_path / "hubert", "hubert"))))
    wave = np.random.default_rng(0).integers(-5000, 5000, (3, 16000), np.int16)
    with fake_gpu() as gpu:
        embeddings = backbone.embed(wave)
        assert gpu.operations > 20
        assert embeddings.shape == (3, backbone.width)
        assert gpu.moves[0][1] == "gpu"
        n_operations, n_moves = gpu.operations, len(gpu.moves)
        backbone.backend = lambda batch: (torch.ones(len(batch), backbone.width),)
        assert (backbone.embed(wave) == 1).all()
        assert gpu.operations == n_operations
        assert gpu.moves[n_moves:] == [("EmbeddingNetwork", "cpu")]


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    sf.write(path, synthesise("Slow_beat", 0, 12.0), SAMPLE_RATE)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prediction_runs_on_the_cpu(name: str, song: Path, bundles: Callable[[str], Bundle]) -> None:
    expected = predict_file(bundles(name), song)
    with fake_gpu() as gpu:
        found = predict_file(bundles(name), song)
    assert not gpu.moves
    assert found.levels == expected.levels


@pytest.mark.parametrize("method", ["occlusion", "gradcam", "integrated-gradients"])
def test_an_explanation_runs_on_the_cpu(method: str, store: Store, bundles: Callable[[str], Bundle]) -> None:
    if method == "integrated-gradients":
        pytest.importorskip("captum")
    expected = explain(bundles("cnn"), "#3", store=store, method=method, level=1)
    with fake_gpu() as gpu:
        found = explain(bundles("cnn"), "#3", store=store, method=method, level=1)
    assert not gpu.moves
    for one, other in zip(found.reasons[0].maps, expected.reasons[0].maps, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_files_are_embedded_on_the_cpu(song: Path, weights: Path, bundles: Callable[[str], Bundle]) -> None:
    for embedder in (Mn04Embedder(), MusicnnEmbedder(), BundleEmbedder(bundles("cnn"))):
        expected = embedder.embed_file(song)
        with fake_gpu() as gpu:
            found = embedder.embed_file(song)
        assert not gpu.moves
        np.testing.assert_array_equal(found.vectors, expected.vectors)
