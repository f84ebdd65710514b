r"""What the same models seem worth by slices and are worth by artists, and whether their probabilities hold.

    python benchmarks/trust.py STORE --models boosting-ours cnn-ours --out DIR
        [--seed 0] [--folds 5] [--cuts slice artist]

A model is a recipe's or a family's name. `artist`: cross-validation with whole groups; every track is scored by the
bundle that saw neither it nor its group, by that bundle's own temperatures, and all folds are scored together.
`slice`: one split that cuts slices at random, 80/10/10, as the published study did; slices of a track then stand on
both sides. Prints a line for each cut: accuracy by slice and by track with 95 % intervals for new groups,
hierarchical F1, tree distance, calibration error before and after with what chance alone would show, and accuracy
at 80 % coverage. Resumes where it stopped; writes the results to DIR/trust.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from genretree.corpus.splits import fold_groups, split_slices
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import predict_rows
from genretree.metrics.calibration import average_by
from genretree.metrics.scores import LevelScores, UnitScores, score_units
from genretree.models import family_names, get_family
from genretree.models.base import LevelProbabilities
from genretree.training.recipes import Recipe
from genretree.training.train import train_once

Parts = list[LevelProbabilities]


def run(store: Store, name: str, cut: str, folds: int, seed: int, out: Path) -> dict[str, UnitScores]:
    """Train on every fold, and score what all of them say of music they did not learn from."""
    recipe = None if name in family_names() else Recipe.load(name)
    family = name if recipe is None else recipe.family
    settings = get_family(family).settings_type.build({**({} if recipe is None else recipe.settings), "seed": seed})
    if cut == "slice":
        splits = [split_slices(store.track_leaves[store.slice_tracks], seed=seed, name=f"trust{seed}-slices")]
    else:
        splits = fold_groups(store.track_leaves, store.track_groups, folds=folds, seed=seed, name=f"trust{seed}")
    heads: Any = getattr(settings, "heads", "tree")
    found: dict[str, tuple[Parts, Parts, list[np.ndarray]]] = {"slice": ([], [], []), "track": ([], [], [])}
    for split in splits:
        split.save(store.folder / "splits")
        rows = store.rows("test", split)
        bundle = train_once(store, family, out / name / split.name, settings, split=split.name)
        raw = predict_rows(bundle, store, rows)
        tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
        averaged = [average_by(level, position, len(tracks)) for level in raw]
        for unit, levels, index in (("slice", raw, store.slice_tracks[rows]), ("track", averaged, tracks)):
            after, before, units = found[unit]
            after.append(bundle.calibrate(levels, unit))  # type: ignore[arg-type]
            before.append(levels)
            units.append(index)
    scores = {}
    for unit, (after, before, units) in found.items():
        index = np.concatenate(units)
        joined, raw = ([np.concatenate(level) for level in zip(*parts, strict=True)] for parts in (after, before))
        leaves, groups = store.track_leaves[index], store.track_groups[index]
        scores[unit] = score_units(store.taxonomy, heads, joined, leaves, groups, seed, raw)
    return scores


def line(name: str, cut: str, scores: dict[str, UnitScores], seconds: float) -> str:
    """Write one line of the table."""
    cells = [name, "by slices (LEAKING)" if cut == "slice" else "by groups"]
    cells += [" / ".join(_accuracy(level) for level in scores[unit].levels) for unit in ("slice", "track")]
    track = scores["track"]
    trusts = [level.trust for level in track.levels]
    cells += [f"{100 * track.hierarchical.f1:.1f}", f"{track.hierarchical.tree_distance:.2f}"]
    cells += [
        " / ".join(f"{trust.ece_before:.3f} to {trust.ece:.3f} ({trust.ece_chance:.3f})" for trust in trusts),
        " / ".join(f"{100 * trust.accuracy_at_80:.1f}" for trust in trusts),
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _accuracy(level: LevelScores) -> str:
    return f"{100 * level.accuracy:.1f} ({100 * level.ci95[0]:.0f} to {100 * level.ci95[1]:.0f})"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--cuts", nargs="+", choices=["slice", "artist"], default=["slice", "artist"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    store = Store(given.store)
    given.out.mkdir(parents=True, exist_ok=True)
    header = ["model", "split", "accuracy by slice", "accuracy by track", "hF1", "tree distance"]
    header += ["ECE before to after (by chance)", "accuracy at 80 % coverage", "seconds"]
    print("| " + " | ".join(header) + " |\n| " + " | ".join(["---"] * len(header)) + " |", flush=True)
    for model in given.models:
        for cut in given.cuts:
            began = time.monotonic()
            scores = run(store, model, cut, given.folds, given.seed, given.out)
            print(line(model, cut, scores, time.monotonic() - began), flush=True)
            with (given.out / "trust.jsonl").open("a") as stream:
                levels = [
                    {"accuracy": level.accuracy, "ci95": level.ci95, "ece": level.trust.ece, "name": level.name}
                    for level in scores["track"].levels
                ]
                stream.write(json.dumps({"model": model, "split": cut, "seed": given.seed, "levels": levels}) + "\n")


if __name__ == "__main__":
    main()
