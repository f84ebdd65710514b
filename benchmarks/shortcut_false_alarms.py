r"""False alarms of `audit --shortcuts` by the number of artists: classes that are named in corpora without shortcuts.

    for S in 11 12 13; do
        genretree compose C$S --artists 12 --tracks 2 --seconds 12 --seed $S
        genretree prepare C$S/tracks.csv S$S --tree ccmusic --group artist
    done
    python benchmarks/shortcut_false_alarms.py S11 S12 S13 [--artists 5 6 8 12] [--draws 4]

Each draw takes some artists of every class at random. Cues are tested without permutations, so as if all of them
predicted the genre; concentrated classes are not counted. `equalised classes named`: in each draw, one class gets
the equaliser of `shortcuts.py`, added to the measured spectra.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from shortcuts import equaliser_curve

from genretree.arrays import Int64Array
from genretree.audit import shortcuts as audit
from genretree.audit.cues import BAND_CENTRES, Cue, read_cues
from genretree.corpus.store import Store
from genretree.taxonomy import format_path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--artists", type=int, nargs="+", default=[4, 5, 6, 8, 10, 12])
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    stores = [Store(folder) for folder in options.stores]
    measured = [read_cues(store) for store in stores]
    curve = equaliser_curve(BAND_CENTRES)
    print("| artists | corpora | with a class named | by cues | by filters | equalised classes named | others named |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for artists in options.artists:
        corpora = accused = by_cues = by_filters = equalised = others = 0
        for store, cues in zip(stores, measured, strict=True):
            names = [format_path(leaf) for leaf in store.taxonomy.leaves]
            for draw in range(options.draws):
                keep = draw_artists(store, artists, np.random.default_rng((artists, draw)))
                labels, groups = store.track_leaves[keep], store.track_groups[keep]
                selected = [replace(cue, values=cue.values[keep]) for cue in cues]
                named, filters = name_classes(selected, labels, groups, names)
                corpora += 1
                accused += bool(named or filters)
                by_cues, by_filters = by_cues + len(named), by_filters + len(filters)
                leaf = draw % len(names)
                for cue_index, cue in enumerate(selected):
                    if cue.name == "spectrum":
                        values = cue.values.copy()
                        values[labels == leaf] += curve - curve.mean()
                        selected[cue_index] = replace(cue, values=values)
                found = set().union(*name_classes(selected, labels, groups, names))
                equalised += names[leaf] in found
                others += len(found - {names[leaf]})
        print(
            f"| {artists} | {corpora} | {accused} | {by_cues} | {by_filters} | {equalised} of {corpora} | {others} |",
            flush=True,
        )


def draw_artists(store: Store, n: int, rng: np.random.Generator) -> Int64Array:
    """Return the tracks of `n` random artists of every class."""
    kept = []
    for leaf in np.unique(store.track_leaves):
        kept += rng.permutation(np.unique(store.track_groups[store.track_leaves == leaf]))[:n].tolist()
    return np.flatnonzero(np.isin(store.track_groups, kept))


def name_classes(
    cues: list[Cue], labels: Int64Array, groups: Int64Array, names: list[str]
) -> tuple[set[str], set[str]]:
    """Return the classes that cues name, and those that the test for filters names as well."""
    cues = [cue for cue in cues if np.ptp(cue.values, axis=0).max() > 1e-9]
    scores, results = {}, []
    for cue in cues:
        c = audit._MUSIC_C if cue.name == audit.MUSIC else audit._C
        scores[cue.name] = audit.score_cue(cue.values, labels, groups, 0, c)
        results.append(
            audit.CueResult(
                name=cue.name,
                description=cue.description,
                source=cue.source,
                accuracy=0.0,
                chance=0.0,
                p_value=0.0,
                separation=tuple(audit.separate(scores[cue.name], labels).tolist()),
            )
        )
    named = audit._find_shortcuts(cues, results, scores, labels, groups, names, 0, True)
    filters = audit._find_filtered(cues, results, labels, groups, names, 0, named)
    return {item.leaf for item in named}, {item.leaf for item in filters}


if __name__ == "__main__":
    main()
