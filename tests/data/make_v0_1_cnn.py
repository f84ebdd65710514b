"""Make `v0.1/cnn`, `v0.1/store.zip` and `v0.1/recipe.yaml` as genretree 0.1 wrote them.

Run with genretree 0.1, from the root of the repository: ``python tests/data/make_v0_1_cnn.py``. The 11 MB of weights
are not stored: ``draw_weights`` makes them again from their names and shapes, and the bundle holds their hash.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file, save

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

RECIPE = """\
family: cnn
summary: A short training of the network.
settings:
  epochs: 1
  image_size: 32
  dropout: 0.2
  balance: 0.5
  shifts: 2
data: music in files
command:
  - genretree prepare tracks.csv STORE --group artist
  - genretree train STORE --recipe recipe.yaml --out BUNDLE
time: seconds
"""


def draw_weights(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """Draw weights from names and shapes, and return them as a safetensors file."""
    random = np.random.default_rng(0)
    weights = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("num_batches_tracked"):
            weights[name] = np.array(1)
            continue
        values = random.random(shape, dtype=np.float32)
        if name.endswith("running_var"):
            weights[name] = values + np.float32(0.5)
        elif len(shape) == 1:
            weights[name] = values - np.float32(0.5)
        else:  # large enough that the image makes a difference at the end
            weights[name] = (values - np.float32(0.5)) * np.float32((40 / np.prod(shape[1:])) ** 0.5)
    return save(weights)


def main() -> None:
    """Train for an epoch on a tiny corpus, then put drawn weights in and record what the bundle predicts."""
    from genretree.bundle.bundle import load_bundle
    from genretree.bundle.manifest import write_description
    from genretree.corpus.manifest import read_manifest
    from genretree.corpus.prepare import prepare
    from genretree.files import sha256_file
    from genretree.settings import ImageSettings
    from genretree.training.recipes import Recipe
    from genretree.training.train import train
    from small_corpus import TREE, write_corpus

    out = HERE / "v0.1"
    (out / "recipe.yaml").write_text(RECIPE)
    recipe = Recipe.load(out / "recipe.yaml")
    settings = ImageSettings.build({"slice_seconds": 1.0, "size": 32})
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)  # so that the paths that are written down are short
        corpus = write_corpus(Path("corpus"), artists=3, tracks=1, seconds=1.2)
        store = prepare(read_manifest(corpus, TREE), Path("store"), settings, workers=1)
        bundle = train(store, "cnn", Path("cnn"), recipe.settings)
        with zipfile.ZipFile(out / "store.zip", "w", zipfile.ZIP_LZMA) as archive:
            for path in sorted(Path("store").rglob("*")):
                archive.write(path)
        weights = folder / "cnn" / "model.safetensors"
        shapes = {name: list(value.shape) for name, value in load_file(weights).items()}
        weights.write_bytes(draw_weights(shapes))
        content = json.loads((folder / "cnn" / "bundle.json").read_text())
        del content["sha256"]
        content["files"] = {name: sha256_file(folder / "cnn" / name) for name in content["files"]}
        write_description(folder / "cnn", content)
        bundle = load_bundle(folder / "cnn")
        images = np.ascontiguousarray(store.images[:])
        levels = bundle.calibrate(bundle.model.predict_proba({"images": images}), "slice")
        target = out / "cnn"
        target.mkdir(exist_ok=True)
        for kept in ("bundle.json", "history.csv"):
            (target / kept).write_bytes((folder / "cnn" / kept).read_bytes())
        (target / "shapes.json").write_text(json.dumps(shapes))
        expected = {f"level_{level}": values for level, values in enumerate(levels)}
        np.savez_compressed(target / "expected.npz", images=images[::5], **{k: v[::5] for k, v in expected.items()})


if __name__ == "__main__":
    main()
