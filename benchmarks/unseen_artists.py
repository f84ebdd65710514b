r"""Accuracy of models on held-out artists: grouped cross-validation over a prepared store.

    python benchmarks/unseen_artists.py STORE --models boosting-published musicnn --out DIR \
        [--seeds 0 1 2] [--folds 5] [--merge pop rock] [--slice-level] [--set musicnn:networks="[msd, mtt]"]

A model is a recipe's or a family's name. Every track is predicted by the model that saw neither it nor its artist; the
predictions of all folds are scored together, by whole tracks. Each seed cuts the folds anew and trains anew; accuracies
are means over the seeds, intervals (95 %) are for new artists, of every track's mean. `--merge` adds a column in
which the named leaves count as one. `--slice-level` also cuts by tracks, whatever their artists, and by slices, as the
published study did. Goes on where it stopped. Everything that is chosen is chosen within the training folds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from genretree.bundle.bundle import load_bundle
from genretree.corpus.splits import Split, fold_groups, split_slices
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import predict_rows
from genretree.files import atomic_path
from genretree.metrics.calibration import average_by
from genretree.metrics.intervals import accuracy_interval
from genretree.models import family_names, get_family
from genretree.training.recipes import Recipe
from genretree.training.train import train

Right = NDArray[
    np.float64
]  # shape (n_columns, n_tracks): 1 where right; a column for each level, and for merged leaves


def cross_validate(store: Store, splits: list[Split], family: str, settings: dict[str, Any], out: Path) -> np.ndarray:
    """Give each track's leaf probabilities by the model that did not learn from it; nan for tracks never tested."""
    found = np.full((store.n_tracks, len(store.taxonomy.leaves)), np.nan)
    made = json.dumps([family, settings, store.metadata.digest, len(splits)], sort_keys=True)
    if (out / "made.json").exists() and (out / "made.json").read_text() != made:
        raise SystemExit(f"{out}: holds results of other settings, folds or music; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "made.json").write_text(made)
    for split in splits:
        split.save(store.folder / "splits")
        rows = store.rows("test", split)
        path = out / f"{split.name}.npy"
        if not path.exists():
            folder = out / split.name
            bundle = load_bundle(folder) if folder.exists() else None
            if bundle is None:
                bundle = train(store, family, folder, settings, split=split.name)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, predict_rows(bundle, store, rows)[-1])
        leaves = np.load(path)
        tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
        found[tracks] = average_by(leaves, position, len(tracks))
    return found


def mark(store: Store, leaves: np.ndarray, tracks: np.ndarray, merged: list[int]) -> Right:
    """Say at which levels each track is right, and with some leaves merged."""
    tree = store.taxonomy
    truth = store.track_leaves[tracks]
    chosen = tree.decode(tree.sum_levels(leaves[tracks]))
    right = [tree.ancestors[chosen, level] == tree.ancestors[truth, level] for level in range(tree.depth)]
    if merged:
        kept = np.array([merged[0] if leaf in merged else leaf for leaf in range(len(tree.leaves))])
        summed = np.zeros_like(leaves[tracks])
        np.add.at(summed.T, kept, leaves[tracks].T)
        right.append(summed.argmax(axis=1) == kept[truth])
    return np.array(right, dtype=float)


def run(store: Store, name: str, given: argparse.Namespace, cut: str, changes: dict[str, Any]) -> list[str]:
    """Cross-validate one model over all seeds; gives the cells of its line."""
    recipe = None if name in family_names() else Recipe.load(name)
    family = name if recipe is None else recipe.family
    tree = store.taxonomy
    merged = [tree.find_leaf(leaf) for leaf in given.merge]
    marks, seconds = [], time.monotonic()
    tracks = np.arange(store.n_tracks)
    for seed in given.seeds:
        settings = {**({} if recipe is None else recipe.settings), **changes, "seed": seed}
        settings = get_family(family).settings_type.build(settings).model_dump(mode="json")
        out = given.out / given.name.format(name=name) / f"{cut}-{seed}"
        if cut != "slice (leaking)":
            groups = store.track_groups if cut == "artist" else np.arange(store.n_tracks)
            name_of_cut = f"cv{seed}" if cut == "artist" else f"cv{seed}-tracks"
            splits = fold_groups(store.track_leaves, groups, folds=given.folds, seed=seed, name=name_of_cut)
        else:
            leaves = store.track_leaves[store.slice_tracks]
            splits = [split_slices(leaves, test=0.2, validation=0.15, seed=seed, name=f"cv{seed}-slices")]
        found = cross_validate(store, splits, family, settings, out)
        tracks = np.flatnonzero(np.isfinite(found[:, 0]))
        marks.append(mark(store, found, tracks, merged))
    mean = marks[0] if cut == "slice (leaking)" else np.mean(marks, axis=0)
    cells = [given.name.format(name=name), cut]
    for row, each in zip(mean, mean[:, None] if cut == "slice (leaking)" else np.stack(marks, axis=1), strict=True):
        low, high = accuracy_interval(row, store.track_groups[tracks])
        by_seed = ", ".join(f"{100 * one.mean():.1f}" for one in each) if len(each) > 1 else ""
        cells.append(
            f"{100 * row.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})" + (f" [{by_seed}]" if by_seed else "")
        )
    return [*cells, f"{time.monotonic() - seconds:.0f}"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--merge", nargs="*", default=[], metavar="LEAF")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="{name}", help="how the lines and folders are called, such as '{name} both'")
    parser.add_argument("--slice-level", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="MODEL:NAME=VALUE")
    given = parser.parse_args()
    store = Store(given.store)
    changes: dict[str, dict[str, Any]] = {}
    for text in given.set:
        model, _, assignment = text.partition(":")
        name, _, value = assignment.partition("=")
        changes.setdefault(model, {})[name] = yaml.safe_load(value)
    strange = sorted(set(changes) - set(given.models))
    if strange:
        parser.error(f"--set for {', '.join(strange)}, which is not among the models")
    columns = [*store.taxonomy.levels, *(["with " + " and ".join(given.merge) + " as one"] if given.merge else [])]
    header = ["model", "cut by", *columns, "seconds"]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    print("\n".join(lines), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for model in given.models:
        for cut in ("artist", "track", "slice (leaking)") if given.slice_level else ("artist",):
            cells = run(store, model, given, cut, changes.get(model, {}))
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    with (given.out / "tables.jsonl").open("a") as stream:
        stream.write(json.dumps({"arguments": vars(given), "table": lines}, default=str) + "\n")


if __name__ == "__main__":
    main()
