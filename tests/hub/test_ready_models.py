"""Ready models: the catalogue, the commands, and bundles that are made, copied or pulled; the Hub is a stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock
from stand_in_hub import StandIn

import genretree
from genretree.bundle import ready
from genretree.bundle.bundle import Bundle
from genretree.bundle.hub import push
from genretree.bundle.manifest import read_description
from genretree.bundle.ready import Catalogue, read_catalogue
from genretree.cli import main, make_model
from genretree.cli.make_model import corpus_settings, training_settings
from genretree.corpus.store import Store
from genretree.errors import BundleError, SettingsError
from genretree.models.pretrained import mn04_weights
from genretree.service.engine.loaded_models import load_models
from genretree.settings import SAMPLE_RATE
from genretree.taxonomy import Taxonomy
from genretree.training.train import train
from small_corpus import synthesise
from small_weights import write_mn04

QUICK = {"epochs": 3, "image_size": 16, "components": 10, "min_samples_leaf": 5}
TRAIN = {"corpus": "small", "family": "boosting", "settings": QUICK}


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train(store, "boosting", tmp_path_factory.mktemp("bundles") / "boosting", QUICK)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    sf.write(tmp_path / "song.wav", synthesise("Drone", 1, 5.0), SAMPLE_RATE)
    return tmp_path / "song.wav"


@pytest.fixture
def use(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the catalogue by one with a single model, `tiny`, with further fields."""

    def replace(**fields: Any) -> None:
        corpora = {"small": {"summary": "Made-up music", "licence": "none", "compose": {}}}
        result = {"data": "-", "split": "-", "machine": "-", "seed": 0, "accuracy": {"a": 1.0}, "ci95": {"a": [0, 2]}}
        model = {"summary": "Tiny.", "use": "tests", "limits": ["Only for *tests*."], "tree": "small", "licence": "MIT"}
        content = {**model, "size": 1, "results": [result], **({"train": TRAIN} | fields)}
        catalogue = Catalogue.build({"corpora": corpora, "models": {"tiny": content}})
        monkeypatch.setattr(ready, "read_catalogue", lambda: catalogue)
        monkeypatch.setattr(make_model, "read_catalogue", lambda: catalogue)

    return replace


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# -- the catalogue -----------------------------------------------------------------------------------------------


def test_the_settings_of_the_catalogue_are_valid() -> None:
    catalogue = read_catalogue()
    for name in catalogue.corpora:
        corpus_settings(name)
    for model in catalogue.models.values():
        taxonomy = Taxonomy.builtin(model.tree)
        depth = taxonomy.depth
        assert model.results[0].accuracy.keys() <= set(taxonomy.levels), "the first figures are in the model's own tree"
        if model.train is not None:
            training_settings(model.train)
            assert {len(result.accuracy) for result in model.results} == {depth}
        for result in model.results:
            assert result.accuracy.keys() == result.ci95.keys()
            assert all(low <= result.accuracy[level] <= high for level, (low, high) in result.ci95.items())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"untrained": {"tree": "general"}}, "either 'train' or 'untrained'"),
        ({"hub": "alice/tiny"}, "or none"),
        ({"hub": "alice/tiny", "commit": "main", "sha256": 64 * "0"}, "commit"),
        ({"train": {**TRAIN, "corpus": "other"}}, "unknown corpus 'other'"),
        ({"colour": "red"}, "unknown setting"),
    ],
)
def test_mistakes_in_the_catalogue_are_found(use: Callable[..., None], fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        use(**fields)


def test_the_list_needs_no_network_and_says_what_is_missing(hub: StandIn) -> None:
    shown = run("models")
    listed = json.loads(run("models", "--json").stdout)
    assert [model["name"] for model in listed] == list(read_catalogue().models)
    for model in listed:
        assert model["state"] == "not published" and model["folder"] is None
        assert model["command"] in shown.output
        assert all(limit in shown.output for limit in model["limits"])
    assert hub.requests == []
    assert "put it after 'get'" in run("models", "--json", "get", "composed-cnn").output


@pytest.mark.parametrize(
    "words", [("predict", "--model", "{}", "song.wav"), ("info", "zoo:{}"), ("models", "make", "{}")]
)
def test_an_unknown_name_gets_a_suggestion(hub: StandIn, song: Path, words: tuple[str, ...]) -> None:
    result = run(*(word.format("composed-cn") for word in words))
    assert result.exit_code == 1
    assert "unknown ready model 'composed-cn'; did you mean 'composed-cnn'?" in result.output
    assert "choose from: tagger-general" in run("models", "get", "../x").output


@pytest.mark.parametrize("download", [(), ("--download",)])
def test_a_model_that_is_not_published_can_only_be_made(hub: StandIn, song: Path, download: tuple[str, ...]) -> None:
    place = "zoo:composed-cnn"
    for words in (("predict", place, song), ("predict", "--model", "composed-cnn", song), ("explain", place, song)):
        result = run(*words, *download)
        assert result.exit_code == 1
        assert "make it with: genretree models make composed-cnn" in result.output
    assert "no digest is known" in run("models", "get", "composed-cnn").output
    with pytest.raises(BundleError, match="not published yet"):
        genretree.load(place)
    assert hub.requests == []


# -- published ---------------------------------------------------------------------------------------------------


def test_a_published_model_is_pulled_by_its_commit(
    hub: StandIn, use: Callable[..., None], bundle: Bundle, song: Path
) -> None:
    pushed = push(bundle.folder, "alice/tiny")
    content = json.loads(hub.files("alice/tiny")["bundle.json"])
    use(hub="alice/tiny", commit=pushed.commit, sha256=content["sha256"])
    hub.repositories["alice/tiny"].commit("main", {"bundle.json": b"{}"}, "by another hand")
    hub.requests.clear()
    missing = run("predict", "--model", "tiny", song)
    assert "get it with: genretree models get tiny" in missing.output
    assert hub.requests == [], "nothing is downloaded unasked"
    result = run("predict", "--model", "tiny", song, "--download", "--json", "--quiet")
    assert json.loads(result.stdout)["path"]
    hub.requests.clear()
    assert run("predict", "zoo:tiny", song, "--quiet").exit_code == 0
    assert genretree.load("zoo:tiny").predict(song).path
    (listed,) = json.loads(run("models", "--json").stdout)
    assert (listed["state"], listed["origin"]) == ("ready", "published")
    assert listed["folder"] in run("models").output
    assert list(load_models([Path("zoo:tiny")])) == ["tiny"]
    assert hub.requests == []


def test_another_bundle_than_the_published_one_is_refused(
    hub: StandIn, use: Callable[..., None], bundle: Bundle, song: Path
) -> None:
    pushed = push(bundle.folder, "alice/tiny")
    use(hub="alice/tiny", commit=pushed.commit, sha256=64 * "0")
    for words in (
        ("models", "get", "tiny"),
        ("predict", "zoo:tiny", song),
        ("models", "get", "tiny", "--from", bundle.folder),
    ):
        result = run(*words)
        assert result.exit_code == 1
        assert "not the published bundle of zoo:tiny" in result.output


def test_a_copy_of_the_published_bundle_needs_no_network(
    hub: StandIn, use: Callable[..., None], bundle: Bundle, song: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle.folder, tmp_path / "copy"))
    (copy / "secret.txt").write_text("not listed")
    use(hub="alice/tiny", commit=40 * "a", sha256=read_description(copy)["sha256"])
    got = json.loads(run("models", "get", "tiny", "--from", copy, "--json").stdout)
    assert Path(got["folder"]).is_relative_to(tmp_path / "cache")
    assert not (Path(got["folder"]) / "secret.txt").exists()
    assert run("predict", "--model", "tiny", song, "--quiet").exit_code == 0
    assert hub.requests == []
    weights = copy / "projection.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = run("models", "get", "tiny", "--from", copy)
    assert "projection.safetensors: damaged" in damaged.output
    assert run("predict", "--model", "tiny", song, "--quiet").exit_code == 0, "the earlier copy is kept"
    (Path(got["folder"]) / "bundle.json").write_text("{}")
    (listed,) = json.loads(run("models", "--json").stdout)
    assert listed["state"] == "not on this machine" and listed["problem"] in run("models").output


def test_a_ready_model_stands_alone(use: Callable[..., None], bundle: Bundle, store: Store, song: Path) -> None:
    use()
    assert "give either a bundle" in run("predict", bundle.folder, song, "--model", "tiny").output
    for words in (
        ("export", "zoo:tiny", "--to", "onnx"),
        ("index", "zoo:tiny", store.folder),
        ("push", "zoo:tiny", "alice/x"),
    ):
        assert "give the folder of the bundle instead" in run(*words).output
    assert "give either --model or --zero-shot" in run("predict", song, "--model", "tiny", "--zero-shot", "clap").output


# -- made here ---------------------------------------------------------------------------------------------------


def test_an_interrupted_make_continues_after_the_last_finished_step(
    use: Callable[..., None], store: Store, song: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use()
    monkeypatch.setattr(make_model, "make_store", lambda *args, **options: store)
    evaluate = make_model.evaluate

    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make_model, "evaluate", interrupt)
    stopped = run("models", "make", "tiny", "--quiet")
    assert stopped.exit_code == 130
    assert "continue with:" in stopped.output and "models make tiny --quiet" in stopped.output
    made = tmp_path / "cache" / "models" / "made" / "tiny"
    digest = read_description(made)["sha256"]
    assert "not on this machine" in run("predict", "--model", "tiny", song).output, "the evaluation is missing"

    monkeypatch.setattr(make_model, "evaluate", evaluate)
    done = json.loads(run("models", "make", "tiny", "--quiet", "--json").stdout)
    assert done == {"name": "tiny", "digest": digest, "folder": str(made)}, "it was not trained again"
    assert run("predict", "--model", "tiny", song, "--quiet").exit_code == 0
    (listed,) = json.loads(run("models", "--json").stdout)
    assert (listed["state"], listed["origin"]) == ("ready", "made here")
    _, head, text = (made / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "mit"
    assert yaml.safe_load(head)["model-index"][0]["name"] == "tiny"
    for words in (
        "genretree models make tiny",
        'load("zoo:tiny")',
        "Only for \\*tests\\*.",
        "Made-up music",
        "macro-F1",
    ):
        assert words in text
    assert (made.parents[1] / "reports" / "tiny" / "report.html").is_file()

    assert "digest differs" in run("models", "make", "tiny").output
    assert read_description(made)["sha256"] == digest
    monkeypatch.setattr(make_model, "evaluate", interrupt)
    run("models", "make", "tiny", "--overwrite", "--quiet")
    assert not (made / "README.md").exists(), "it was trained again"
    (listed,) = json.loads(run("models", "--json").stdout)
    assert listed["state"] == "not published", "the new bundle has not been evaluated"


def test_one_process_makes_models_at_a_time(use: Callable[..., None], tmp_path: Path) -> None:
    use()
    (tmp_path / "cache" / "models").mkdir(parents=True)
    with FileLock(tmp_path / "cache" / "models" / ".lock"):
        assert "another process is making a model" in run("models", "make", "tiny").output


def test_a_model_without_training_needs_only_weights(
    hub: StandIn, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(train=None, untrained={"tree": "general"})
    missing = run("models", "make", "tiny")
    assert missing.exit_code == 1
    assert "genretree weights get mn04" in missing.output
    write_mn04(tmp_path / "cache")
    monkeypatch.setattr(mn04_weights, "digest", lambda weights: mn04_weights.DIGEST)
    assert run("models", "make", "tiny").exit_code == 0
    assert run("models", "make", "tiny", "--overwrite").exit_code == 0
    assert "tagger" in run("info", "zoo:tiny").output
    assert "Tiny." in (tmp_path / "cache" / "models" / "made" / "tiny" / "README.md").read_text()
