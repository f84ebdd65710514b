"""Bundles that mean harm: each is refused in one line that names the file; none crashes or hangs the interpreter."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genretree.bundle.bundle import load_bundle, save_bundle
from genretree.bundle.manifest import DESCRIPTION, read_description, write_description
from genretree.errors import BundleError
from genretree.files import sha256_file
from genretree.models.finite_weights import require_finite

pytestmark = pytest.mark.slow

OLD = Path(__file__).parents[1] / "data" / "v0.1" / "boosting" / "tree"
TREES, SKOPS, PROJECTION = "classifier-0.safetensors", "classifier-0.skops", "projection.safetensors"
USE = """
import json
import sys
import numpy as np
from genretree import load_bundle
from pathlib import Path
from genretree.bundle.manifest import check_files, read_description
from genretree.errors import BundleError, HubError
from genretree.bundle.hub.contents import check_types
from genretree.bundle.hub.download import _try_to_load

def use(folder):
    bundle = load_bundle(folder)
    bundle.model.predict_proba({"images": np.zeros((4, 3, 16, 16), dtype=np.uint8)})

def pull(folder):
    files = read_description(Path(folder))["files"]
    check_types(folder, files)
    check_files(Path(folder), files)
    _try_to_load(Path(folder))

for folder in sys.argv[1:]:
    said = []
    for act in (use, pull):
        try:
            act(folder)
            said.append("taken")
        except (BundleError, HubError) as error:
            said.append(str(error))
    print(json.dumps([folder, said]), flush=True)
"""

Change = Callable[[Path], None]


class Bomb:
    """A pickle that leaves a trace if it is ever read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('sprung', 'w').close()",)


def put(file: str, name: str, index: int, value: float) -> Change:
    """Change one value of an array in a file."""

    def change(folder: Path) -> None:
        arrays = {key: array.copy() for key, array in load_file(folder / file).items()}
        arrays[name].reshape(-1)[index] = value
        save_file(arrays, folder / file)

    return change


def put_old(field: str, index: int, value: float) -> Change:
    """Change one node of a tree as genretree 0.1 stored it."""

    def change(folder: Path) -> None:
        from skops import io  # takes seconds, and every worker imports this file

        classifier = io.load(folder / SKOPS, trusted=io.get_untrusted_types(file=folder / SKOPS))
        for tree in classifier._predictors[0]:
            tree.nodes[field][index] = value
        io.dump(classifier, folder / SKOPS)

    return change


def disguise(file: str) -> Change:
    """Put a pickle where arrays should be."""
    return lambda folder: (folder / file).write_bytes(pickle.dumps(Bomb())) and None


def cut(file: str) -> Change:
    """Leave only the first half."""

    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return change


def describe(**changes: object) -> Change:
    """Change the description, and sign it again."""

    def change(folder: Path) -> None:
        write_description(folder, {**read_description(folder), **changes})

    return change


def overwrite(content: bytes) -> Change:
    """Write another description."""
    return lambda folder: (folder / DESCRIPTION).write_bytes(content) and None


def link(file: str) -> Change:
    """Put a link to a file outside the bundle."""

    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to("/etc/passwd")

    return change


_LONG = {"levels": ["a"], "leaves": [["x" * 5000], ["y"]]}
NEW = {
    "child out of range": (TREES, put(TREES, "left", 0, 2**31)),
    "cycle": (TREES, put(TREES, "left", 0, 0)),
    "feature out of range": (TREES, put(TREES, "feature", 0, 2**40)),
    "threshold of NaN": (TREES, put(TREES, "threshold", 0, np.nan)),
    "class out of range": (TREES, put(TREES, "classes", -1, 1000)),
    "other number of features": (TREES, put(TREES, "n_features", 0, 1000)),
    "projection of NaN": (PROJECTION, put(PROJECTION, "weights", 3, np.nan)),
    "projection of infinity": (PROJECTION, put(PROJECTION, "offset", 1, np.inf)),
    "truncated": (TREES, cut(TREES)),
    "pickle": (TREES, disguise(TREES)),
    "pickle for a projection": (PROJECTION, disguise(PROJECTION)),
}
# Of the description, after its hashes were made to fit.
DESCRIBED = {
    "nested description": (DESCRIPTION, overwrite(b"[" * 100_000 + b"]" * 100_000)),
    "huge description": (DESCRIPTION, overwrite(b'{"a": "' + b"x" * (33 << 20) + b'"}')),
    "no JSON": (DESCRIPTION, overwrite(b"\x80\x04K\x01.")),
    "wrong type of files": (DESCRIPTION, describe(files=[1, 2])),
    "wrong type of the family": (DESCRIPTION, describe(family=["boosting"])),
    "wrong type of settings": (DESCRIPTION, describe(settings="all")),
    "long name": (DESCRIPTION, describe(taxonomy=_LONG)),
    "control characters": (DESCRIPTION, describe(taxonomy={"levels": ["a"], "leaves": [["x\x1b[2J"], ["y"]]})),
    "unknown family": (DESCRIPTION, describe(family="mystery")),
    "link": (TREES, link(TREES)),
}
BEFORE = {
    "child out of range": (SKOPS, put_old("left", 0, 2**31)),
    "cycle": (SKOPS, put_old("left", 0, 0)),
    "feature out of range": (SKOPS, put_old("feature_idx", 0, 2**40)),
    "leaf of infinity": (SKOPS, put_old("value", -1, np.inf)),
    "category": (SKOPS, put_old("is_categorical", 0, 1)),
    "truncated": (SKOPS, cut(SKOPS)),
    "pickle": (SKOPS, disguise(SKOPS)),
}
CASES = [
    *(("new", "good"), ("0.1", "good")),
    *(("new", name) for name in (*NEW, *DESCRIBED)),
    *(("0.1", name) for name in BEFORE),
]
CHANGES: dict[str, dict[str, tuple[str, Change]]] = {"new": {**NEW, **DESCRIBED}, "0.1": BEFORE}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle as it is written now, and one of 0.1."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("bundles") / "new"
    save_bundle(replace(load_bundle(OLD), folder=folder))
    assert (folder / TREES).exists()
    return {"new": folder, "0.1": OLD}


def refresh(folder: Path) -> None:
    """Make the hashes fit again, as whoever means harm would."""
    content = read_description(folder)
    write_description(folder, {**content, "files": {name: sha256_file(folder / name) for name in content["files"]}})


@pytest.fixture(scope="module")
def said(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[str]]:
    """What loading and pulling each bundle says, in a process that does it for all, until one kills it."""
    folder = tmp_path_factory.mktemp("bad")
    places = {}
    for number, (which, case) in enumerate(CASES):
        place = Path(shutil.copytree(made[which], folder / str(number)))
        if case != "good":
            CHANGES[which][case][1](place)
        if case not in DESCRIBED:
            refresh(place)
        places[str(place)] = which, case
    found = {}
    try:
        done = subprocess.run(
            [sys.executable, "-c", USE, *places], capture_output=True, text=True, timeout=120, cwd=folder, check=False
        )
        output, end = done.stdout, f"{done.returncode}: {done.stderr}"
    except subprocess.TimeoutExpired as error:
        output, end = (error.stdout or b"").decode(), "it hangs"
    for line in output.splitlines():
        place, words = json.loads(line)
        found[places[place]] = words
    for case in places.values():
        found.setdefault(case, [f"process ended ({end})"])
    assert not (folder / "sprung").exists(), "a pickle was read"
    return found


@pytest.mark.parametrize("which", ["new", "0.1"])
def test_good_ones_are_taken(said: dict[tuple[str, str], list[str]], which: str) -> None:
    loaded, pulled = said[which, "good"]
    assert loaded == "taken"
    assert pulled == "taken" if which == "new" else ".skops" in pulled  # skops doesn't travel


@pytest.mark.parametrize(("which", "case"), [pair for pair in CASES if pair[1] != "good"])
def test_bad_ones_are_refused_in_a_line_that_names_the_file(
    said: dict[tuple[str, str], list[str]], which: str, case: str
) -> None:
    for words in said[which, case]:
        assert words != "taken"
        assert "process ended" not in words
        assert "\n" not in words
        assert len(words) < 600
    assert f"/{CHANGES[which][case][0]}: " in said[which, case][0]


def test_probabilities_of_nan_are_refused_by_name(made: dict[str, Path]) -> None:
    bundle = load_bundle(made["new"])
    levels = bundle.model.predict_proba({"images": np.zeros((2, 3, 16, 16), np.uint8)})
    levels[0][1, 0] = np.nan
    with pytest.raises(BundleError, match=f"{made['new']}: the model gives NaN"):
        bundle.calibrate(levels, "slice")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_tensors_of_any_precision_must_be_finite(value: float, kind: str) -> None:
    import torch

    tensors = {"count": torch.ones(2, dtype=torch.int64), "weights": torch.ones(4, dtype=getattr(torch, kind))}
    require_finite(Path("model.safetensors"), tensors)
    tensors["weights"][2] = value
    with pytest.raises(BundleError, match=r"model\.safetensors: 'weights' contains NaN or infinity"):
        require_finite(Path("model.safetensors"), tensors)


@pytest.mark.parametrize("value", [complex("nan"), complex(0, float("inf"))])
def test_complex_numbers_must_be_finite_too(value: complex) -> None:
    with pytest.raises(BundleError, match="contains NaN or infinity"):
        require_finite(Path("projection.safetensors"), {"weights": np.array([value], np.complex64)})


def test_tensors_of_a_byte_are_checked() -> None:
    import torch

    tensors = {"weights": torch.ones(2).to(torch.float8_e4m3fn)}
    require_finite(Path("model.safetensors"), tensors)
    tensors["weights"] = torch.tensor([float("nan")]).to(torch.float8_e4m3fn)
    with pytest.raises(BundleError, match="contains NaN or infinity"):
        require_finite(Path("model.safetensors"), tensors)


def test_numbers_too_large_for_the_network_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_tensors

    from genretree.models.families.cnn import build_network
    from genretree.models.neural.network import WEIGHTS_FILE, load_weights
    from genretree.models.neural.settings import CnnSettings
    from genretree.taxonomy import Taxonomy

    tree = Taxonomy.from_paths([("Rock",), ("Pop",)])
    network = build_network(tree, CnnSettings.build({"image_size": 32, "weights": "none"}))
    weights = network.state_dict()
    weights["backbone.norm.weight"] = torch.full_like(weights["backbone.norm.weight"], 1e300, dtype=torch.float64)
    save_tensors(weights, tmp_path / WEIGHTS_FILE)
    with pytest.raises(BundleError, match="contains NaN or infinity"):
        load_weights(network, tmp_path)


def test_trees_that_are_chains_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    """Each node has a child that comes after it, and walking them would take as many steps as there are nodes."""
    folder = Path(shutil.copytree(made["new"], tmp_path / "chain"))
    arrays = load_file(folder / TREES)
    width = 1 if len(arrays["classes"]) == 2 else len(arrays["classes"])
    inner = 100_000
    size = 2 * inner + 1
    at = np.arange(size)
    one = {
        "left": np.where(at % 2 == 0, at + 1, 0),
        "right": np.where((at % 2 == 0) & (at < size - 1), at + 2, 0),
        "leaf": (at % 2 == 1) | (at == size - 1),
    }
    one["left"][-1] = 0
    chain = {
        name: np.tile(one[name] if name in one else np.zeros(size), width).astype(array.dtype)
        for name, array in arrays.items()
        if name not in ("starts", "classes", "baseline", "n_features")
    }
    save_file({**arrays, **chain, "starts": np.arange(width + 1, dtype=np.int64) * size}, folder / TREES)
    refresh(folder)
    with pytest.raises(BundleError, match="levels deep"):
        load_bundle(folder)
