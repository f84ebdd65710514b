"""Families from outside: registered, passed, or of an installed package; and the checks that they can be held to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genretree
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, BundleError, SettingsError
from genretree.explanation.similar.neighbours import build_index
from genretree.models import family_names, get_family, register_family, registry
from genretree.models.base import FitResult
from genretree.models.runtime.graph import Graph
from genretree.testing import check_family

EXAMPLE = Path(__file__).parents[2] / "examples" / "genretree-nearest-centroid"
sys.path[:0] = [str(EXAMPLE), str(EXAMPLE.parent)]
from genretree_nearest_centroid import NearestCentroidFamily, NearestCentroidModel
from tiny_network import TinyFamily, TinyModel, TinyNetwork

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield


def test_example_family_conforms() -> None:
    check_family(NearestCentroidFamily)
    assert "nearest-centroid" not in family_names()  # registered only during the check


def test_a_network_with_every_optional_member_conforms() -> None:
    check_family(TinyFamily)


def test_a_checked_family_stays_registered_if_it_was_before() -> None:
    register_family(NearestCentroidFamily)
    check_family(NearestCentroidFamily)
    assert "nearest-centroid" in family_names()


def test_a_built_in_network_passes_the_same_checks() -> None:
    # float32: the automatic choice of the precision depends on the load of the machine.
    settings = {
        "epochs": 2,
        "image_size": 32,
        "n_tta_shifts": 2,
        "classifier": "linear",
        "Cs": [0.1],
        "precision": "float32",
    }
    check_family(get_family("cnn"), settings)


def test_a_built_in_family_passes_the_same_checks() -> None:
    check_family(get_family("boosting"), {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2})


def test_a_class_can_be_passed_and_its_bundle_opened_again(store: Store, tmp_path: Path) -> None:
    bundle = genretree.train(store, NearestCentroidFamily, tmp_path / "bundle", {"bands": 8})
    assert bundle.family == "nearest-centroid" and bundle.calibration is not None
    found = genretree.load(tmp_path / "bundle").predict(store.tracks["file"][0])
    assert found.path in store.taxonomy.leaves
    explained = genretree.explain(genretree.load(tmp_path / "bundle"), store.tracks["file"][0])
    assert explained.prediction.path == found.path
    assert build_index(tmp_path / "bundle", store) > 0
    registry._registered.clear()
    with pytest.raises(BundleError, match="family 'nearest-centroid', which no installed package provides; install"):
        genretree.load(tmp_path / "bundle")


def test_invalid_family_is_refused() -> None:
    class Nameless:
        summary = "x"

    class Shouting(NearestCentroidFamily):
        name = "Nearest Centroid"

    class Taken(NearestCentroidFamily):
        name = "boosting"

    class Untyped(NearestCentroidFamily):
        name = "untyped"
        settings_type = dict  # type: ignore[assignment]

    for wrong, part in [(Nameless, "lacks name"), (Shouting, "lower-case"), (Taken, "already"), (Untyped, "subclass")]:
        with pytest.raises(ArgumentError, match=part):
            register_family(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="must be a class"):
        register_family(3)  # type: ignore[arg-type]
    register_family(NearestCentroidFamily)
    register_family(NearestCentroidFamily)

    class Second(NearestCentroidFamily):
        pass

    with pytest.raises(ArgumentError, match="already registered"):
        register_family(Second)
    with pytest.raises(SettingsError, match="did you mean 'nearest-centroid'"):
        get_family("nearest-centroids")


def _broken(**changes: Any) -> type:
    """The example with other members: those of its family are changed on the family, others on the model."""
    own = {name: value for name, value in changes.items() if name in ("fit", "load")}
    model = type("Model", (NearestCentroidModel,), {k: v for k, v in changes.items() if k not in own})

    def fit(*args: Any) -> Any:
        fitted = NearestCentroidFamily.fit(*args)
        fitted.model.__class__ = model
        return fitted

    def load(*args: Any) -> Any:
        found = NearestCentroidFamily.load(*args)
        found.__class__ = model
        return found

    members = {"fit": staticmethod(own.get("fit", fit)), "load": staticmethod(own.get("load", load)), "name": "broken"}
    return type("Broken", (NearestCentroidFamily,), members)


def _broken_network(**changes: Any) -> type:
    model = type("Model", (TinyModel,), changes)
    return type("Broken", (TinyFamily,), {"name": "broken", "model_type": model})


def _unequal(self: Any, inputs: Any) -> Any:
    levels = NearestCentroidModel.predict_proba(self, inputs)
    return [levels[0][:, ::-1], *levels[1:]]


def _batchwise(self: Any, inputs: Any) -> Any:
    images = inputs["images"]
    return NearestCentroidModel.predict_proba(self, {"images": images // (1 + len(images))})


def _lists(self: Any, inputs: Any) -> Any:
    return [level.tolist() for level in NearestCentroidModel.predict_proba(self, inputs)]


def _overwriting(self: Any, inputs: Any) -> Any:
    levels = NearestCentroidModel.predict_proba(self, inputs)
    inputs["images"][:] = 0
    return levels


def _fit_with(**changes: Any) -> Any:
    return lambda *args: replace(NearestCentroidFamily.fit(*args), **changes)


def _fit_on_changed(train: Any, *args: Any) -> Any:
    fitted = NearestCentroidFamily.fit(train, *args)
    train.images[0] = 0
    return fitted


def _nameless(self: Any, folder: Path) -> list[str]:
    NearestCentroidModel.save(self, folder)
    return []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"predict_proba": _unequal}, "not the sum of its children"),
        ({"predict_proba": _batchwise}, "depend on the other slices"),
        ({"predict_proba": lambda self, inputs: [np.zeros((len(inputs["images"]), 2))]}, "arrays of shapes"),
        ({"save": _nameless}, "names of the files"),
        ({"predict_proba": lambda self, inputs: None}, "a list of arrays, one for each level, got NoneType"),
        ({"predict_proba": _lists}, "a list of arrays, one for each level, got a list of list"),
        ({"predict_proba": _overwriting}, "predict_proba overwrites its inputs .images."),
        ({"input_features": ("mel",)}, "predict_proba raised KeyError: 'images'; declare 'images' in input_features"),
        ({"save": lambda self, folder: None}, "save must return a list of the names of its files, got None"),
        ({"save": lambda self, folder: 1 / 0}, "save raised ZeroDivisionError"),
        ({"torch_module": lambda self: None}, "torch_module must return a torch.nn.Module, got NoneType"),
        ({"explain_methods": ("gradcam",)}, "explain_methods names 'gradcam', but log_probabilities is missing"),
        ({"explain_methods": ("grad-cam",)}, "explain_methods names 'grad-cam'; the methods are"),
        ({"explain_methods": "gradcam"}, "explain_methods must be a tuple"),
        ({"graphs": lambda self, size: {}}, "graphs needs graphs and set_backend"),
        ({"load": lambda *args: None}, "load must return a model that has heads, .*got NoneType"),
        ({"load": lambda *args: 1 / 0}, "load, of the files that save has written, raised ZeroDivisionError"),
        ({"fit": lambda *args: None}, "fit must return a FitResult, got NoneType"),
        ({"fit": lambda *args: FitResult(None, [])}, "FitResult whose model has heads, .*got NoneType"),  # type: ignore[arg-type]
        ({"fit": lambda *args: 1 / 0}, "fit raised ZeroDivisionError"),
        ({"fit": lambda self, *args: 1}, "fit must return a FitResult, got int"),
        ({"fit": _fit_with(history=None)}, "history of a FitResult must be a list of dicts"),
        ({"fit": _fit_with(metadata={"loss": np.float32(1)})}, "metadata of a FitResult can't be written as JSON"),
        ({"fit": _fit_with(history=[{"loss": np.float32(1)}])}, "history of a FitResult can't be written as JSON"),
        ({"fit": _fit_on_changed}, "fit overwrites images of its data set"),
    ],
)
def test_violations_are_named(changes: dict[str, Any], part: str) -> None:
    before = family_names()
    with pytest.raises(AssertionError, match=part):
        check_family(_broken(**changes))
    assert family_names() == before


def _detached(self: TinyModel, images: torch.Tensor) -> list[torch.Tensor]:
    return [level.detach() for level in TinyModel.log_probabilities(self, images)]


def _probabilities(self: TinyModel, images: torch.Tensor) -> list[torch.Tensor]:
    return [level.exp() for level in TinyModel.log_probabilities(self, images)]


def _ignored_backend(self: TinyModel, runners: Any) -> None:
    pass


def _other_graphs(self: TinyModel, image_size: int) -> dict[str, Graph]:
    found = TinyModel.graphs(self, image_size)["network"]
    return {"network": replace(found, module=TinyNetwork(5))}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"embed": lambda self, inputs: np.zeros((0, 3))}, r"embed must return shape \(n, n_features\), got \(0, 3\)"),
        ({"embed": lambda self, inputs: "text"}, "embed must return an array of floats, got str"),
        ({"log_probabilities": _detached}, "an explanation by (gradcam|integrated-gradients) raised"),
        ({"log_probabilities": _probabilities}, "log_probabilities differ from the logarithms of predict_proba"),
        ({"log_probabilities": lambda self, images: None}, "log_probabilities must return a list of tensors"),
        ({"gradcam_layer": lambda self: None}, r"names 'gradcam', but gradcam_layer\(\) returns None"),
        ({"explain_methods": ("rollout",)}, "names 'rollout', but attention is missing"),
        ({"set_backend": _ignored_backend}, "predict_proba does not call network, which set_backend got"),
        ({"graphs": _other_graphs}, "predict_proba changes when set_backend gets"),
        ({"graphs": lambda self, size: None}, "graphs must return a dict"),
    ],
)
def test_violations_of_networks_are_named(changes: dict[str, Any], part: str) -> None:
    pytest.importorskip("captum")
    with pytest.raises(AssertionError, match=part):
        check_family(_broken_network(**changes))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": "cnn", "fit": None}, "fit must be"),
        ({"name": "cnn"}, "a family named 'cnn' is already registered"),
        ({"distributed": "no"}, "distributed must be a bool, got 'no'"),
        ({"summary": 3}, "summary must be a str, got 3"),
    ],
)
def test_invalid_attributes_are_refused_before_training(changes: dict[str, Any], part: str) -> None:
    def fit(*args: Any) -> Any:
        raise NotImplementedError

    family = type("Wrong", (NearestCentroidFamily,), {"name": "wrong", "fit": staticmethod(fit), **changes})
    with pytest.raises(ArgumentError, match=part):
        check_family(family)


def test_an_installed_package_is_found_on_the_command_line(store: Store, tmp_path: Path) -> None:
    """Installed as a user would, but offline: trained and predicted with by its name, from a process of its own."""
    copy = shutil.copytree(EXAMPLE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*install, "--target", target, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH", "")])])

    # Both commands in one process: most of the time is spent on importing.
    code = (
        "import json, sys; from genretree.cli import main; "
        "[main(words, standalone_mode=False) for words in json.load(sys.stdin)]"
    )
    song = store.tracks["file"][0]
    train = ["train", str(store.folder), "--model", "nearest-centroid", "--out", str(tmp_path / "bundle")]
    lines = json.dumps([train, ["predict", str(tmp_path / "bundle"), str(song)]])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Drone" in ran.stdout
