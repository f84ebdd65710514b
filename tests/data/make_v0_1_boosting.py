"""Make the bundle of boosting in `v0.1/boosting`, as genretree 0.1 wrote them; only 0.1 itself can run this usefully.

Run from the root of the repository: ``python tests/data/make_v0_1_boosting.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.training.train import train
from small_corpus import SETTINGS, TREE, write_corpus

QUICK = {"epochs": 1, "image_size": 8, "components": 4, "min_samples_leaf": 5, "max_leaf_nodes": 6}


def main() -> None:
    """Train on the small corpus, and write what the bundle says of a few noisy images."""
    out = HERE / "v0.1" / "boosting"
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    with TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder))
        store = prepare(read_manifest(corpus, TREE), Path(folder) / "store", SETTINGS, workers=1)
        images = np.concatenate([images, store.images[::25, :, ::4, ::4]])
        bundle = train(store, "boosting", out / "tree", QUICK)
    found = bundle.model.predict_proba({"images": images})
    expected = {f"level_{level}": values for level, values in enumerate(found)}
    np.savez_compressed(out / "expected.npz", images=images, **expected)


if __name__ == "__main__":
    main()
