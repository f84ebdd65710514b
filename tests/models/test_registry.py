"""Families from outside: registered, passed, or of an installed package; and the checks that they can be held to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genretree
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, BundleError, SettingsError
from genretree.explanation.similar.neighbours import build_index
from genretree.models import family_names, get_family, register_family, registry
from genretree.testing import check_family

EXAMPLE = Path(__file__).parents[2] / "examples" / "genretree-nearest-centroid"
sys.path.insert(0, str(EXAMPLE))
from genretree_nearest_centroid import NearestCentroidFamily, NearestCentroidModel

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield


def test_example_family_conforms() -> None:
    check_family(NearestCentroidFamily)
    assert "nearest-centroid" in family_names()


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
    model = type("Model", (NearestCentroidModel,), {k: v for k, v in changes.items() if k not in ("load", "name")})

    def fit(*args: Any) -> Any:
        fitted = NearestCentroidFamily.fit(*args)
        fitted.model.__class__ = model
        return fitted

    def load(*args: Any) -> Any:
        found = NearestCentroidFamily.load(*args)
        found.__class__ = model
        return found

    members = {"fit": staticmethod(fit), "load": staticmethod(changes.get("load", load)), "name": "broken"}
    return type("Broken", (NearestCentroidFamily,), members)


def _unequal(self: Any, inputs: Any) -> Any:
    levels = NearestCentroidModel.predict_proba(self, inputs)
    return [levels[0][:, ::-1], *levels[1:]]


def _batchwise(self: Any, inputs: Any) -> Any:
    images = inputs["images"]
    return NearestCentroidModel.predict_proba(self, {"images": images // (1 + len(images))})


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
        ({"embed": lambda self, inputs: np.zeros((0, 3))}, "."),
    ],
)
def test_violations_are_named(changes: dict[str, Any], part: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=part):
        check_family(_broken(**changes))


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
