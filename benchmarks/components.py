"""Principal components of the full published problem, 29,100 slices of 49,152 pixels: ours against the published loop.

    python benchmarks/components.py STORE [--rows 29100] [--held-out 2000] [--folder /tmp] [--boosting] [--json FILE]

With fewer rows than 29,100 it is another, smaller problem: what is printed says so. One run of each way.

The pictures are made from those of STORE: each is a mixture of two slices, each turned round in time by a random
stretch, so that they vary about as real slices do. Each way runs in a process of its own, whose peak memory is sampled
with that of all it starts (proportional set size, what it has mapped of files included):

- published: StandardScaler and IncrementalPCA(512), fed 512 slices at a time;
- ours: StreamingPCA(512), fed the same.

Both are then asked how much of the variance of standardised slices that they never saw their components explain.
With --boosting the whole family `boosting` is trained too, from 224x224 images as they lie in a store.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from whole_process import measure

from genretree.corpus.store import Store
from genretree.models.base import FitContext, SliceDataset
from genretree.models.families.boosting.family import BoostingFamily, reduce_images
from genretree.models.families.boosting.settings import BoostingSettings
from genretree.models.features.pca import StreamingPCA
from genretree.settings import MODALITIES
from genretree.taxonomy import Taxonomy

SIZE = 128
COMPONENTS = 512
FULL = 29100  # rows
BATCH = 512


def write_pictures(store: Store, path: Path, rows: int, size: int, seed: int = 0) -> None:
    """Write mixtures of a store's slices, uint8 of shape (rows, 3, size, size)."""
    rng = np.random.default_rng(seed)
    known = np.asarray(store.images[store.rows()])
    if known.shape[-1] != size:
        known = reduce_images(known, MODALITIES, size).reshape(-1, 3, size, size)
    made = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 3, size, size))
    for row in range(rows):
        one, other = known[rng.integers(len(known), size=2)]
        share = np.float32(rng.uniform(0.6, 0.95))
        turned = [np.roll(picture, rng.integers(size), axis=2) for picture in (one, other)]
        made[row] = share * turned[0] + (1 - share) * turned[1]
    made.flush()


def fit_published(rows: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """Return means, scales and components by the published loop."""
    from sklearn.decomposition import IncrementalPCA
    from sklearn.preprocessing import StandardScaler

    scaler, pca = StandardScaler(), IncrementalPCA(COMPONENTS, batch_size=BATCH)
    whole = [slice(start, start + BATCH) for start in range(0, len(rows) - COMPONENTS + 1, BATCH)]
    for batch in whole:
        scaler.partial_fit(rows[batch].astype(np.float32))
    for batch in whole:  # a last batch of fewer rows than components is refused
        pca.partial_fit(scaler.transform(rows[batch].astype(np.float32)))
    return scaler.mean_, scaler.scale_, pca.components_


def fit_ours(rows: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """Return means, scales and components by StreamingPCA."""
    pca = StreamingPCA(COMPONENTS, batch_size=BATCH).fit(rows)
    return pca.mean_, pca.scale_, pca.components_


def explain(held_out: NDArray[np.uint8], *fitted: NDArray[Any]) -> float:
    """Return the share of the variance of rows, standardised, that lies in the components' space."""
    mean, scale, components = (part.astype(np.float32) for part in fitted)
    lost = total = 0.0
    for start in range(0, len(held_out), BATCH):
        rows = (held_out[start : start + BATCH].astype(np.float32) - mean) / scale
        inside = rows @ components.T
        total += float((rows**2).sum(dtype=np.float64))
        lost += float(((rows - inside @ components) ** 2).sum(dtype=np.float64))
    return 1 - lost / total


def run_one(way: str, path: Path, held_out: int) -> dict[str, float]:
    """Fit one way, in this process."""
    pictures = np.load(path, mmap_mode="r")
    if way == "boosting":
        return _train_boosting(pictures, path.parent)
    rows = pictures.reshape(len(pictures), -1)
    began = time.perf_counter()
    fitted = (fit_published if way == "published" else fit_ours)(rows[:-held_out])
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "explained": explain(rows[-held_out:], *fitted)}


def _train_boosting(pictures: NDArray[np.uint8], folder: Path) -> dict[str, float]:
    """Train the family as published but for 10 rounds only: the memory does not grow with them."""
    taxonomy = Taxonomy.builtin("ccmusic")
    positions = np.arange(len(pictures))
    learn = SliceDataset(pictures, positions, positions % len(taxonomy.leaves), positions, positions)
    began = time.perf_counter()
    fitted = BoostingFamily.fit(learn, None, taxonomy, BoostingSettings(epochs=10), FitContext(folder))
    return {"seconds": time.perf_counter() - began, "explained": float(fitted.metadata["explained_variance"])}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--rows", type=int, default=FULL)
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--boosting", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(run_one(given.way, given.store, given.held_out)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        path = Path(name) / "pictures.npy"
        write_pictures(Store(given.store), path, given.rows + given.held_out, SIZE)
        found = {way: _measure(way, path, given.held_out) for way in ("ours", "published")}
        ratio = found["published"]["seconds"] / found["ours"]["seconds"]
        size = "the full problem" if given.rows == FULL else f"{given.rows} rows, not the full problem of {FULL}"
        print(f"ours is {ratio:.1f} times as fast ({size})")
        if given.json:
            given.json.write_text(json.dumps({"rows": given.rows, "full": given.rows == FULL, **found}, indent=1))
        if given.boosting:
            write_pictures(Store(given.store), path, given.rows, 224)
            _measure("boosting", path, given.held_out)


def _measure(way: str, path: Path, held_out: int) -> dict[str, float]:
    command = [sys.executable, __file__, str(path), "--way", way, "--held-out", str(held_out)]
    _, peak, printed = measure(command)
    found: dict[str, float] = {**json.loads(printed), "megabytes": peak}
    print(
        f"{way}: {found['seconds']:.0f} s, explained {100 * found['explained']:.2f} %, peak {peak:.0f} MB", flush=True
    )
    return found


if __name__ == "__main__":
    main()
