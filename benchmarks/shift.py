r"""Calibration on another collection: confidence, accuracy and calibration error by distance from the training data.

    python benchmarks/shift.py BUNDLE STORE [--part all] [--map Symphony=classical Opera=classical ...]

`--map` names the bundle's leaf of each leaf of the store; leaves without one are left out. Without `--map`, the names
are equal. Prints a line for all tracks, for those within a distance of 1, and for those beyond.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import predict_rows
from genretree.metrics.familiarity import describe_inputs, measure_distance
from genretree.metrics.scores import score_units
from genretree.training.train import reads_spectrum


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--part", default="all")
    parser.add_argument("--map", nargs="*", default=[], metavar="LEAF=LEAF")
    options = parser.parse_args()
    bundle, store = load_bundle(options.bundle), Store(options.store)
    names = dict(text.split("=") for text in options.map) or {leaf[-1]: leaf[-1] for leaf in store.taxonomy.leaves}
    leaf_of = {
        number: bundle.taxonomy.find_leaf(names[leaf[-1]])
        for number, leaf in enumerate(store.taxonomy.leaves)
        if leaf[-1] in names
    }
    rows = store.rows(options.part)
    rows = rows[np.isin(store.track_leaves[store.slice_tracks[rows]], list(leaf_of))]
    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    levels = bundle.average_slices(predict_rows(bundle, store, rows), position)
    leaves = np.array([leaf_of[int(leaf)] for leaf in store.track_leaves[tracks]])
    inputs = store.inputs(rows)
    read = [name for name in ("mel", "mel_16k", "mel_32k") if reads_spectrum(set(bundle.model.input_features), name)]
    described = describe_inputs({name: inputs[name] for name in read})
    assert described is not None
    reference = bundle.training.get("reference")
    distance = np.array([measure_distance(reference, described[position == i]) for i in range(len(tracks))], float)
    print("| tracks | n | level | accuracy in % | mean confidence in % | calibration error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for title, chosen in (("all", distance >= 0), ("distance up to 1", distance <= 1), ("beyond 1", distance > 1)):
        if not chosen.any():
            continue
        part = [level[chosen] for level in levels]
        groups = store.track_groups[tracks[chosen]]
        scores = score_units(bundle.taxonomy, bundle.model.heads, part, leaves[chosen], groups, 0)
        for number, level in enumerate(scores.levels):
            low, high = level.ci95
            right = level.accuracy
            confidence = sum(item.n * item.confidence for item in level.trust.bins) / scores.n
            accuracy = f"{100 * right:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            cells = (title, str(scores.n), bundle.taxonomy.levels[number], accuracy, f"{100 * confidence:.1f}")
            print(f"| {' | '.join(cells)} | {level.trust.ece:.3f} |")
    quantiles = ", ".join(f"{value:.2f}" for value in np.quantile(distance, [0.05, 0.5, 0.95]))
    print(f"distance: 5th, 50th and 95th percentile {quantiles}; beyond 1: {100 * (distance > 1).mean():.0f} %")


if __name__ == "__main__":
    main()
