"""How right each family is on artists it never heard: grouped cross-validation over a prepared store.

    python benchmarks/unheard_artists.py STORE --models boosting cnn --folds 5 --out DIR [--set cnn:epochs=10]

Every track is predicted by the model that saw neither it nor its artist; the predictions of all folds are scored
together, with intervals by bootstrap over artists. For comparison, `--slice-level` also trains on a cut by slices, as
the published study did. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from genretree.bundle import Bundle, load_bundle
from genretree.corpus.splits import Split, fold_groups, split_slices
from genretree.corpus.store import Store
from genretree.evaluate import UnitScores, average_by, predict_rows, score_units
from genretree.train import train


def train_fold(store: Store, split: Split, family: str, settings: dict[str, object], out: Path) -> Bundle:
    """Train on a split's training part, or load what an earlier run trained."""
    split.save(store.folder / "splits")
    folder = out / f"{family}-{split.name}"
    if folder.exists():
        return load_bundle(folder)
    return train(store, family, folder, settings, split=split.name, progress=True)


def cross_validate(
    store: Store, splits: list[Split], family: str, settings: dict[str, object], out: Path, seed: int
) -> tuple[UnitScores, UnitScores]:
    """Score slices and tracks of all test parts together."""
    tree = store.taxonomy
    rows_of, levels_of = [], []
    for split in splits:
        bundle = train_fold(store, split, family, settings, out)
        rows = store.rows("test", split)
        rows_of.append(rows)
        levels_of.append(predict_rows(bundle, store, rows))
    rows = np.concatenate(rows_of)
    levels = [np.concatenate(parts) for parts in zip(*levels_of, strict=True)]
    slice_tracks = store.slice_tracks[rows]
    tracks, position = np.unique(slice_tracks, return_inverse=True)
    averaged = [average_by(values, position, len(tracks)) for values in levels]
    leaves, groups = store.track_leaves, store.track_groups
    return (
        score_units(tree, "tree", levels, leaves[slice_tracks], groups[slice_tracks], seed),
        score_units(tree, "tree", averaged, leaves[tracks], groups[tracks], seed),
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--models", nargs="+", default=["boosting", "cnn"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slice-level", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="MODEL:NAME=VALUE")
    given = parser.parse_args()
    store = Store(given.store)
    settings: dict[str, dict[str, object]] = {family: {"seed": given.seed} for family in given.models}
    for text in given.set:
        family, _, assignment = text.partition(":")
        name, _, value = assignment.partition("=")
        settings[family][name] = yaml.safe_load(value)
    cuts = {
        "artist": fold_groups(store.track_leaves, store.track_groups, folds=given.folds, seed=given.seed, name="cv")
    }
    if given.slice_level:
        leaves = store.track_leaves[store.slice_tracks]
        cuts["slice (leaking)"] = [split_slices(leaves, test=0.2, validation=0.15, seed=given.seed, name="cv-slices")]
    found = {}
    print("| model | cut by | unit | " + " | ".join(store.taxonomy.levels) + " | n |")
    print("| --- | --- | --- |" + " --- |" * (store.taxonomy.depth + 1))
    for family in given.models:
        for cut, splits in cuts.items():
            scores = cross_validate(store, splits, family, settings[family], given.out, given.seed)
            for unit, item in zip(("slice", "track"), scores, strict=True):
                cells = " | ".join(
                    f"{100 * s.accuracy:.1f} ({100 * s.ci95[0]:.1f} to {100 * s.ci95[1]:.1f})" for s in item.levels
                )
                print(f"| {family} | {cut} | {unit} | {cells} | {item.n} |", flush=True)
                found[f"{family}/{cut}/{unit}"] = [level.accuracy for level in item.levels]
    (given.out / "table.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
