"""Accuracy and speed of predictions without training, over a folder with a table of tracks.

    python benchmarks/untrained.py MUSIC/tracks.csv --tree mine.yaml [--bundle EXPORTED] [--json out.json]

The table has the columns path (relative to it), genre (a leaf of the tree) and artist. Nothing is fitted. Intervals are
95 % confidence intervals for new artists. With --bundle, speed is measured with a bundle that `genretree
vocabulary TREE --out EXPORTED` wrote and `genretree export` exported; otherwise in torch.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from genretree.bundle.bundle import load_bundle
from genretree.metrics.intervals import accuracy_interval
from genretree.prediction.predict import Prediction, predict
from genretree.prediction.untrained import untrained_bundle
from genretree.taxonomy import Taxonomy


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--merge", nargs="*", default=[], help="genres that count as one in the last column")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with given.table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    tree = Taxonomy.load(given.tree)
    bundle = untrained_bundle(tree) if given.bundle is None else load_bundle(given.bundle, "auto", "auto")
    files = [given.table.parent / row["path"] for row in rows]
    truth = [tree.leaves[tree.find_leaf(row["genre"])] for row in rows]
    next(iter(predict(bundle, files[:1])))
    started, cpu = time.perf_counter(), time.process_time()
    results = list(predict(bundle, files))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    paths = [result.path if isinstance(result, Prediction) else () for result in results]
    minutes = sum(result.timeline[-1].end for result in results if isinstance(result, Prediction)) / 60

    def merged(path: tuple[str, ...]) -> tuple[str, ...]:
        return (*path[:-1], given.merge[0]) if path and path[-1] in given.merge else path

    correct = {
        "first level": [path[:1] == true[:1] for path, true in zip(paths, truth, strict=True)],
        "leaf": [path == true for path, true in zip(paths, truth, strict=True)],
        "merged": [merged(path) == merged(true) for path, true in zip(paths, truth, strict=True)],
    }
    artists = np.unique([row["artist"] for row in rows], return_inverse=True)[1]
    confidence = np.array([result.levels[-1].probability for result in results if isinstance(result, Prediction)])
    hits = np.array(correct["leaf"])[[isinstance(result, Prediction) for result in results]]
    bins = np.minimum((10 * confidence).astype(int), 9)
    error = sum(
        abs(hits[bins == each].mean() - confidence[bins == each].mean()) * np.mean(bins == each) for each in set(bins)
    )
    print(f"{len(rows)} tracks by {artists.max() + 1} artists, {minutes:.0f} minutes of music")
    table = {name: interval(np.array(values, float), artists) for name, values in correct.items()}
    for name, (mean, low, high) in table.items():
        print(f"{name}: {100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
    print(f"expected calibration error of the leaf, 10 bins: {error:.2f}")
    speed = f"{60 * minutes / seconds:.0f} times real time, {cpu_seconds / minutes:.2f} CPU seconds a minute"
    print(f"{bundle.runtime}: {speed}")
    if given.json is not None:
        given.json.write_text(json.dumps({"accuracy": table, "speed": 60 * minutes / seconds}, indent=1))


def interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Mean, and its 95 % confidence interval for new groups."""
    return (float(correct.mean()), *accuracy_interval(correct, groups))


if __name__ == "__main__":
    main()
