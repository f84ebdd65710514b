"""Exports and runtimes: every family, by every runtime, says what torch says in float32."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner
from sound_helpers import make_song

from genretree import parallel
from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.bundle.export import export_bundle
from genretree.bundle.manifest import read_description, update_files, write_description
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import BundleError, MissingExtraError, SettingsError
from genretree.evaluation.evaluate import evaluate
from genretree.files import sha256_file
from genretree.models import get_family
from genretree.models.base import FitContext, Model
from genretree.models.families import ast, cnn, efficientnet
from genretree.models.families.boosting.family import BoostingModel
from genretree.models.families.ensemble import EnsembleModel, EnsembleSettings
from genretree.models.families.musicnn.family import MusicnnModel, MusicnnSettings
from genretree.models.linear.hierarchical import LinearTree
from genretree.models.linear.logistic import LinearHead
from genretree.models.neural.linear_probe import LinearNetworkModel
from genretree.models.neural.network import NetworkModel
from genretree.models.pretrained import musicnn_features
from genretree.models.runtime import backends
from genretree.models.runtime.backends import choose_runtime
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import ExportFormat
from genretree.prediction.predict import predict, predict_file
from genretree.settings import Settings
from genretree.training.data import slice_dataset
from small_corpus import SETTINGS, TREE
from small_weights import write_musicnn

pytestmark = pytest.mark.slow

SIZE = 64  # of stored images, as the shared corpus has them
RUNTIMES = {"openvino": "openvino", "onnxruntime": "onnx"}
INSTALLED = [name for name in RUNTIMES if find_spec(name) is not None]
IMAGES = np.random.default_rng(0).integers(0, 256, (33, 3, SIZE, SIZE), dtype=np.uint8)
SOUND = np.random.default_rng(1).random((33, 30, 96)).astype(np.float16)
# Sizes that divide that of stored images, and one that doesn't.
NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"image_size": 32},
    "efficientnet-b0": {"image_size": 64, "weights": "none"},
    "ast": {"image_size": 48, "modalities": ["mel", "cqt"]},
}
CASES = [
    ("cnn", "independent"),
    ("efficientnet-b0", "linear"),
    ("ast", "tree"),
    ("musicnn", "tree"),
    ("ensemble", "tree"),
]
TINY = ("ast", "tree")  # the smallest network


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Any:
    """Make networks of few and narrow layers (their bundles say so), and MusiCNN's patches short."""
    narrow = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicnn_features, "PATCH_FRAMES", 24)
        for name, value in narrow.items():
            patch.setitem(ast._SMALL, name, value)
        patch.setattr(cnn, "BLOCKS_PER_STAGE", 1)
        for name, value in {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256}.items():
            patch.setitem(efficientnet._B0, name, value)
        yield


def _linear(width: int) -> LinearTree:
    """A random classifier that is neither sure of one leaf nor of none."""
    rng = np.random.default_rng(3)
    n = len(TREE.leaves)
    weights = (rng.standard_normal((n, width)) / np.sqrt(width)).astype(np.float32)
    head = LinearHead(
        np.zeros(width, np.float32), np.ones(width, np.float32), weights, np.zeros(n, np.float32), np.arange(n)
    )
    return LinearTree([head], TREE, "tree")


def _network(name: str, kind: str) -> tuple[Model, Settings]:
    family = get_family(name)
    heads = "independent" if kind == "independent" else "tree"
    classifier = "linear" if kind == "linear" else "network"
    changes = {"heads": heads, "classifier": classifier, "n_tta_shifts": 2}
    settings = family.settings_type.build({**NETWORKS[name], **changes})
    torch.manual_seed(0)
    network = import_module(family.__module__).build_network(TREE, settings)
    for module in network.modules():  # statistics as after training, so that what is seen spreads over the leaves
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network.backbone.features(network.read_images(torch.from_numpy(IMAGES)))
    model = NetworkModel(network)
    return (LinearNetworkModel(model, _linear(network.backbone.width), False) if kind == "linear" else model), settings


def _musicnn(weights: Path) -> tuple[Model, Settings]:
    settings = MusicnnSettings.build({"weights": str(weights), "patches": 2})
    networks = {name: musicnn_features.load_network(name, str(weights)) for name in settings.networks}
    return MusicnnModel(networks, ("tags", "max_pool"), _linear(50 + 753), settings), settings


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_musicnn(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def stumps(store: Store) -> Model:
    """A model without any network."""
    settings = get_family("boosting").settings_type.build({"epochs": 2, "image_size": 16, "components": 5})
    learn = slice_dataset(store, store.split(), "train")
    return get_family("boosting").fit(learn, None, TREE, settings, FitContext(store.folder)).model


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def bundle(
    request: pytest.FixtureRequest,
    weights: Path,
    stumps: BoostingModel,
    tiny_exported: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A bundle of random weights with an export for every runtime that is installed."""
    name, kind = request.param
    if (name, kind) == TINY:
        return load_bundle(tiny_exported)
    if name == "ensemble":
        transformer, chosen = _network("ast", "tree")
        musicnn, hearing_settings = _musicnn(weights)
        members = {"ast": chosen, "musicnn": hearing_settings, "boosting": stumps.settings}
        settings: Settings = EnsembleSettings.build(
            {"members": {key: value.model_dump(mode="json") for key, value in members.items()}}
        )
        model: Model = EnsembleModel([transformer, musicnn, stumps], np.array([0.5, 0.4, 0.2]), TREE, settings)  # type: ignore[arg-type]
    else:
        model, settings = _musicnn(weights) if name == "musicnn" else _network(name, kind)
    folder = tmp_path_factory.mktemp("bundles") / name
    save_bundle(Bundle(folder=folder, family=name, taxonomy=TREE, images=SETTINGS, settings=settings, model=model))
    for runtime in INSTALLED:
        export_bundle(folder, RUNTIMES[runtime])  # type: ignore[arg-type]
    return load_bundle(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle without exports."""
    model, settings = _network(*TINY)
    return save_bundle(
        Bundle(
            folder=tmp_path_factory.mktemp("tiny") / "b",
            family=TINY[0],
            taxonomy=TREE,
            images=SETTINGS,
            settings=settings,
            model=model,
        )
    )


@pytest.fixture(scope="module")
def tiny_exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an export for every runtime that is installed."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("tiny") / "exported")
    for runtime in INSTALLED:
        export_bundle(folder, RUNTIMES[runtime])  # type: ignore[arg-type]
    return folder


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle, to be changed."""
    return shutil.copytree(tiny, tmp_path / "b")


@pytest.fixture
def exported(tiny_exported: Path, tmp_path: Path) -> Path:
    """A copy with exports, to be changed."""
    return shutil.copytree(tiny_exported, tmp_path / "exported")


def _farthest(one: Model, other: Model, n: int) -> float:
    pairs = zip(
        one.predict_proba({"images": IMAGES[:n], "mel_16k": SOUND[:n]}),
        other.predict_proba({"images": IMAGES[:n], "mel_16k": SOUND[:n]}),
        strict=True,
    )
    return max(float(np.abs(first - second).max()) for first, second in pairs)


def test_the_random_networks_have_an_opinion(bundle: Bundle) -> None:
    leaves = bundle.model.predict_proba({"images": IMAGES, "mel_16k": SOUND})[-1]
    assert leaves.std(axis=0).max() > 1e-3, "else the comparisons below could not fail"


@pytest.mark.parametrize("runtime", INSTALLED)
def test_every_runtime_says_in_float32_what_torch_says(bundle: Bundle, runtime: str) -> None:
    other = load_bundle(bundle.folder, runtime, "float32")  # type: ignore[arg-type]
    assert other.runtime == f"{runtime} float32"
    for n in (1, 3, 33):
        assert _farthest(bundle.model, other.model, n) < 1e-4


@pytest.mark.parametrize("runtime", ["torch", *(name for name in INSTALLED if name != "onnxruntime")])
def test_bf16_stays_close(bundle: Bundle, runtime: str) -> None:
    other = load_bundle(bundle.folder, runtime, "bf16")  # type: ignore[arg-type]
    assert other.runtime == f"{runtime} bf16"
    for n in (1, 3, 33):
        assert _farthest(bundle.model, other.model, n) < 0.02
    if runtime == "torch":
        assert _farthest(bundle.model, other.model, 33) > 0, "it runs in float32"


def test_the_reference_is_what_was_saved_to_the_last_digit(bundle: Bundle) -> None:
    assert bundle.runtime == "torch float32"
    assert _farthest(bundle.model, load_bundle(bundle.folder).model, 3) == 0


@pytest.mark.parametrize("runtime", INSTALLED)
def test_several_threads_get_what_one_gets(bundle: Bundle, runtime: str) -> None:
    other = load_bundle(bundle.folder, runtime)  # type: ignore[arg-type]
    found: list[np.ndarray] = [np.empty(0)] * 4

    def score(place: int) -> None:
        for _ in range(3):
            found[place] = other.model.predict_proba(
                {"images": IMAGES[place : place + 2], "mel_16k": SOUND[place : place + 2]}
            )[-1]

    with parallel.shared_by(2):
        threads = [threading.Thread(target=score, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = bundle.model.predict_proba({"images": IMAGES[:5], "mel_16k": SOUND[:5]})[-1]
    for place, leaves in enumerate(found):
        np.testing.assert_allclose(leaves, expected[place : place + 2], atol=1e-4)


@pytest.mark.parametrize("runtime", INSTALLED)
def test_another_process_gives_the_same(exported: Path, runtime: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES[:5])
    code = (
        "import sys, numpy as np, genretree; b = genretree.load_bundle(sys.argv[1], sys.argv[2]); "
        "np.save(sys.argv[4], b.model.predict_proba(dict(images=np.load(sys.argv[3])))[-1])"
    )
    words = [str(exported), runtime, str(tmp_path / "images.npy"), str(tmp_path / "scores.npy")]
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    expected = load_bundle(exported).model.predict_proba({"images": IMAGES[:5]})[-1]
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-4)


# What every thread's first batch does in OpenVINO's bindings, by four threads at once.
THREADS_FIRST = """
import sys, threading, genretree, openvino
sys.setswitchinterval(1e-5)
bundle = genretree.load_bundle(sys.argv[1], "openvino")
together = threading.Barrier(4)
def ask():
    together.wait()
    openvino.Type.f32.to_dtype()
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs openvino")
def test_threads_that_ask_openvino_first_do_not_wait_for_each_other(exported: Path) -> None:
    words = [sys.executable, "-c", THREADS_FIRST, str(exported)]
    tries = [subprocess.Popen(words) for _ in range(4)]  # where they may, about half of them do
    try:
        assert [each.wait(60) for each in tries] == [0, 0, 0, 0]
    finally:
        for each in tries:
            each.kill()


def test_what_is_listed_while_an_export_is_made_stays_listed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("genretree.bundle.export")
    write = module.write_checked_graph

    def write_beside_another(*given: Any) -> float:
        (small / "index").mkdir(exist_ok=True)
        (small / "index" / "tracks.json").write_text("[]")
        update_files(small, "index", {"index/tracks.json": sha256_file(small / "index" / "tracks.json")})
        return float(write(*given))

    monkeypatch.setattr(module, "write_checked_graph", write_beside_another)
    form: Any = "openvino" if "openvino" in INSTALLED else "onnx"
    export_bundle(small, form)
    assert {Path(name).parts[0] for name in read_description(small)["files"]} >= {"index", form}


@pytest.mark.parametrize("runtime", INSTALLED)
def test_a_missing_or_damaged_export_refuses(exported: Path, runtime: str) -> None:
    form = RUNTIMES[runtime]
    names = [name for name in json.loads((exported / "bundle.json").read_text())["files"] if name.startswith(form)]
    assert names
    for name in names:
        content = (exported / name).read_bytes()
        (exported / name).write_bytes(content[:-3] + b"xyz")
        with pytest.raises(BundleError, match=f"damaged.*genretree export {exported} --to {form} --overwrite"):
            load_bundle(exported)
        (exported / name).unlink()
        with pytest.raises(BundleError, match=r"missing.*--overwrite"):
            load_bundle(exported)
        (exported / name).write_bytes(content)
    load_bundle(exported, runtime)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", INSTALLED)
def test_a_file_that_the_runtime_cannot_read_is_named(exported: Path, runtime: str) -> None:
    files = read_description(exported)["files"]
    for name in files:
        if name.startswith(RUNTIMES[runtime]):
            (exported / name).write_bytes(b"no graph")
    signed = {name: sha256_file(exported / name) for name in files}
    write_description(exported, {**read_description(exported), "files": signed})
    with pytest.raises(BundleError, match=f"{runtime} can't read this file"):
        load_bundle(exported, runtime)  # type: ignore[arg-type]
    load_bundle(exported)


@pytest.mark.parametrize("runtime", INSTALLED[:1])
def test_a_damaged_export_can_be_made_again_and_only_if_asked_for(exported: Path, runtime: str) -> None:
    form: Any = RUNTIMES[runtime]
    before = read_description(exported)
    for path in (exported / form).iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(BundleError, match="already exists"):
        export_bundle(exported, form)
    export_bundle(exported, form, overwrite=True)
    assert load_bundle(exported, runtime).runtime == f"{runtime} float32"  # type: ignore[arg-type]
    assert set(read_description(exported)["files"]) == set(before["files"])
    assert not list(exported.glob(".*"))


@pytest.mark.parametrize("form", [RUNTIMES[name] for name in INSTALLED[:1]])
def test_an_export_of_its_own_says_what_it_is(small: Path, form: Any, tmp_path: Path) -> None:
    before = (small / "bundle.json").read_text()
    alone = export_bundle(small, form, tmp_path / "alone").folder
    assert (small / "bundle.json").read_text() == before
    described = json.loads((alone / "export.json").read_text())
    assert described["graphs"]["network"]["input"] == {
        "name": "input",
        "type": "uint8",
        "shape": ["rows", 3, SIZE, SIZE],
    }
    assert described["taxonomy"] == TREE.to_json()
    assert all(sha256_file(alone / name) == digest for name, digest in described["files"].items())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(BundleError, match="not an export"):
        export_bundle(small, form, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "diary.txt").is_file()


def test_an_export_that_disagrees_with_torch_is_not_kept(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genretree.bundle import export
    from genretree.models.runtime import convert

    monkeypatch.setattr(export, "require_export_library", lambda form: None)
    monkeypatch.setattr(convert, "write_graph", lambda *parts: None)
    zeros = np.zeros((3, 5), np.float32)
    monkeypatch.setattr(convert, "open_runner", lambda way, path: lambda batch: (zeros[: len(batch)],))
    before = (small / "bundle.json").read_text()
    with pytest.raises(BundleError, match="away from torch"):
        export_bundle(small, "onnx")
    assert (small / "bundle.json").read_text() == before
    assert not (small / "onnx").exists()


def test_what_is_not_installed_or_not_exported_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genretree.models.runtime import convert

    for runtime, form in RUNTIMES.items():
        monkeypatch.setattr(backends, "find_spec", lambda name: name)
        with pytest.raises(BundleError, match=f"genretree export .* --to {form}"):
            load_bundle(small, runtime)  # type: ignore[arg-type]
        monkeypatch.setattr(backends, "find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=rf"genretree\[{form}\]"):
            load_bundle(small, runtime)  # type: ignore[arg-type]
        monkeypatch.setattr(convert, "find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=rf"genretree\[{form}\]"):
            export_bundle(small, form)  # type: ignore[arg-type]
    assert load_bundle(small, "auto").runtime.startswith("torch")


def test_unknown_names_are_refused(small: Path) -> None:
    with pytest.raises(SettingsError, match="unknown runtime 'tensorrt'; choose from: auto, torch"):
        load_bundle(small, "tensorrt")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="unknown precision 'int4'"):
        load_bundle(small, "auto", "int4")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="onnxruntime doesn't support bf16"):
        load_bundle(small, "onnxruntime", "bf16")


def test_a_bundle_without_a_network_has_nothing_to_export(stumps: BoostingModel, tmp_path: Path) -> None:
    save_bundle(
        Bundle(
            folder=tmp_path / "b",
            family="boosting",
            taxonomy=TREE,
            images=SETTINGS,
            settings=stumps.settings,
            model=stumps,
        )
    )
    for runtime in INSTALLED:
        with pytest.raises(BundleError, match="nothing to export"):
            export_bundle(tmp_path / "b", RUNTIMES[runtime])  # type: ignore[arg-type]
    assert load_bundle(tmp_path / "b", "auto", "auto").runtime == "torch float32"


def test_boosting_on_musicnn_exports_its_feature_extractor(store: Store, weights: Path, tmp_path: Path) -> None:
    chosen = {"epochs": 2, "features": ["musicnn"], "weights": str(weights), "min_samples_leaf": 2}
    settings = get_family("boosting").settings_type.build(chosen)
    few = slice_dataset(store, store.split(), "train").select(np.arange(0, 100, 4))
    model = get_family("boosting").fit(few, None, TREE, settings, FitContext(tmp_path)).model
    folder = save_bundle(
        Bundle(folder=tmp_path / "b", family="boosting", taxonomy=TREE, images=SETTINGS, settings=settings, model=model)
    )
    for runtime in INSTALLED[:1]:
        assert "musicnn-msd" in export_bundle(folder, RUNTIMES[runtime]).files[0]  # type: ignore[arg-type]
        assert _farthest(model, load_bundle(folder, runtime).model, 3) < 1e-4  # type: ignore[arg-type]


def test_the_fastest_that_there_is_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    both: set[ExportFormat] = {"openvino", "onnx"}
    assert choose_runtime(both, "auto", "auto") == "openvino"
    assert choose_runtime({"onnx"}, "auto", "auto") == "onnxruntime"
    assert choose_runtime({"onnx"}, "auto", "bf16") == "torch"
    assert choose_runtime(set(), "auto", "auto") == "torch"
    assert choose_runtime(both, "onnxruntime", "auto") == "onnxruntime"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert choose_runtime(both, "auto", "auto") == "torch"


def test_auto_keeps_in_float32_what_bf16_would_change(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "fast_bf16", lambda: True)
    assert load_bundle(small, "torch", "auto").runtime == "torch bf16"
    graphs = NetworkModel.graphs

    def touchy(self: NetworkModel, size: int) -> dict[str, Graph]:
        return {
            name: Graph(graph.module, graph.example, graph.outputs, False) for name, graph in graphs(self, size).items()
        }

    monkeypatch.setattr(NetworkModel, "graphs", touchy)
    assert load_bundle(small, "torch", "auto").runtime == "torch float32"
    monkeypatch.undo()
    monkeypatch.setattr(backends, "fast_bf16", lambda: False)
    assert load_bundle(small, "torch", "auto").runtime == "torch float32"


def test_stored_slices_are_scored_by_the_runtime_too(bundle: Bundle, store: Store) -> None:
    from genretree.models.base import predict_dataset

    if bundle.family in ("musicnn", "ensemble") and "mel_16k" not in store.features:
        pytest.fail("the shared corpus lacks sound")
    some = slice_dataset(store, store.split(), "test")
    some = some.select(np.arange(5))
    expected = predict_dataset(bundle.model, some)
    for runtime in INSTALLED:
        other = load_bundle(bundle.folder, runtime)  # type: ignore[arg-type]
        for one, two in zip(expected, predict_dataset(other.model, some), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)


def test_predictions_and_evaluations_name_the_runtime(exported: Path, store: Store) -> None:
    for runtime in ("torch", *INSTALLED):
        loaded = load_bundle(exported, runtime)  # type: ignore[arg-type]
        assert predict_file(loaded, store.tracks["file"][0]).to_json()["runtime"] == f"{runtime} float32"
        assert evaluate(loaded, store).to_json()["runtime"] == f"{runtime} float32"


def test_the_command_exports_and_predicts(small: Path, exported: Path, store: Store) -> None:
    if INSTALLED:
        done = CliRunner().invoke(main, ["export", str(small), "--to", RUNTIMES[INSTALLED[0]]])
        assert done.exit_code == 0, done.output
        assert (small / RUNTIMES[INSTALLED[0]]).is_dir()
    for runtime in INSTALLED:
        words = ["predict", str(exported), store.tracks["file"][0], "--json", "--runtime", runtime]
        done = CliRunner().invoke(main, [*words, "--precision", "float32"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["runtime"] == f"{runtime} float32"
    assert "export" in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.parametrize("files", [1, 3])
def test_processors_are_divided_among_the_files_at_work(
    files: int, small: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("genretree.prediction.predict")

    seen: list[tuple[int, int, int]] = []
    real = module.iter_input_slices

    def note(*words: Any, **options: Any) -> Any:
        seen.append((parallel.n_sharing_processes(), parallel.processors_each(), torch.get_num_threads()))
        return real(*words, **options)

    monkeypatch.setattr(parallel, "available_processors", lambda: 2)
    monkeypatch.setattr(module, "available_processors", lambda: 2)
    monkeypatch.setattr(module, "iter_input_slices", note)
    before = torch.get_num_threads()
    list(predict(load_bundle(small), store.tracks["file"][:files], workers=3))
    assert len(seen) == files
    assert {each[0] for each in seen} == {1 if files == 1 else 2}  # never more workers than processors
    assert all(n_sharing_processes * threads <= 2 for n_sharing_processes, _, threads in seen)
    assert parallel.n_sharing_processes() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("runtime", INSTALLED)
@pytest.mark.parametrize("kind", ["tree", "linear"])
def test_an_export_is_predicted_with_without_torch(
    runtime: str, kind: str, tiny_exported: Path, tmp_path: Path
) -> None:
    folder = tiny_exported
    if kind == "linear":
        model, settings = _network("cnn", kind)
        folder = save_bundle(
            Bundle(folder=tmp_path / "b", family="cnn", taxonomy=TREE, images=SETTINGS, settings=settings, model=model)
        )
        export_bundle(folder, RUNTIMES[runtime])  # type: ignore[arg-type]
    program = """
import json, sys
from genretree.cli import main
try:
    main(["predict", *sys.argv[1:], "--json", "--precision", "float32"])
finally:
    print(json.dumps(sorted({"torch", "transformers", "librosa", "sklearn"} & set(sys.modules))))
"""
    song = tmp_path / "song.wav"
    sf.write(song, make_song(13, 22050), 22050)
    words = [str(folder), str(song), "--runtime", runtime]
    expected = predict_file(load_bundle(folder), song).to_json()  # first: it may have to work filters out, by librosa
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    result, imported = map(json.loads, done.stdout.splitlines())
    assert imported == []
    for one, other in zip(result["levels"], expected["levels"], strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
