from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bad_bundles import BAD_DESCRIPTIONS, describe, write_pickles
from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.corpus.store import Store
from genretree.errors import BundleError
from genretree.training.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["cnn", "boosting"])
def bundle(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = {"cnn": {"epochs": 1, "image_size": 32}, "boosting": {"epochs": 3, "image_size": 16, "components": 10}}
    return train(store, request.param, tmp_path_factory.mktemp("bundle") / "b", settings[request.param])


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle as it arrives on another machine."""
    return shutil.copytree(bundle.folder, tmp_path / "elsewhere" / "copy")


def test_another_process_gives_the_same_scores(bundle: Bundle, copy: Path, store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.asarray(store.images[:6]))
    code = (
        "import sys, numpy as np, genretree; b = genretree.load_bundle(sys.argv[1]); "
        "np.save(sys.argv[3], b.model.predict_proba(dict(images=np.load(sys.argv[2])))[-1])"
    )
    words = [str(copy), str(tmp_path / "images.npy"), str(tmp_path / "scores.npy")]
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    expected = bundle.model.predict_proba({"images": np.asarray(store.images[:6])})[-1]
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-6)


def test_names_and_settings_travel_with_the_weights(bundle: Bundle, copy: Path) -> None:
    loaded = load_bundle(copy)
    assert loaded.taxonomy == bundle.taxonomy
    assert loaded.images == bundle.images
    assert loaded.settings == bundle.settings
    assert loaded.family == bundle.family


def test_every_missing_or_damaged_part_refuses(copy: Path) -> None:
    for name in json.loads((copy / "bundle.json").read_text())["files"]:
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        with pytest.raises(BundleError, match="missing"):
            load_bundle(copy)
        (copy / name).write_bytes(content[:-3] + b"xyz")
        with pytest.raises(BundleError, match="damaged"):
            load_bundle(copy)
        (copy / name).write_bytes(content)
    load_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "problem"),
    BAD_DESCRIPTIONS,
)
def test_a_description_that_does_not_fit_refuses(copy: Path, changes: dict, problem: str) -> None:
    describe(copy, **changes)
    with pytest.raises(BundleError, match=problem):
        load_bundle(copy)


@pytest.mark.parametrize(
    "changes",
    [{"settings": {}}, {"images": {}}, {"training": {}}, {"family": ["a"]}, {"files": ["a"]}, {"taxonomy": 3}],
)
def test_an_edited_description_refuses(copy: Path, changes: dict) -> None:
    path = copy / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BundleError, match="damaged or edited"):
        load_bundle(copy)


def test_weights_of_another_tree_refuse(copy: Path) -> None:
    tree = {"leaves": [["a"], ["b"], ["c", "d"]], "levels": ["x", "y"]}
    describe(copy, taxonomy=tree)
    if json.loads((copy / "bundle.json").read_text())["family"] == "cnn":
        with pytest.raises(BundleError, match="don't fit"):
            load_bundle(copy)
    else:
        with pytest.raises(BundleError, match="classes"):
            load_bundle(copy)


def test_a_pickle_in_the_place_of_weights_is_never_run(copy: Path, tmp_path: Path) -> None:
    write_pickles(copy, tmp_path / "sprung")
    with pytest.raises(BundleError):
        load_bundle(copy)
    assert not (tmp_path / "sprung").exists()


def test_a_strange_type_in_a_classifier_of_0_1_is_refused(tmp_path: Path) -> None:
    from genretree.files import sha256_file

    old = Path(__file__).parents[1] / "data" / "v0.1" / "boosting" / "tree"
    copy = Path(shutil.copytree(old, tmp_path / "copy"))
    path = copy / "classifier-0.skops"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = parts["schema.json"].replace(b"TreePredictor", b"SomethingElse")
    assert schema != parts["schema.json"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, "schema.json": schema}.items():
            archive.writestr(name, content)
    files = json.loads((copy / "bundle.json").read_text())["files"]
    describe(copy, files={**files, path.name: sha256_file(path)})
    with pytest.raises(BundleError, match="untrusted types"):
        load_bundle(copy)


def test_no_bundle_at_all(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(tmp_path)
    with pytest.raises(BundleError, match="already exists"):
        save_bundle(bundle)
