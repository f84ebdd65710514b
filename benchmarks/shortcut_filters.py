r"""Rates of the test for a filter on one class: every class of a store gets the equaliser of `shortcuts.py` in turn.

    python benchmarks/shortcut_filters.py STORE [--seeds 5]

STORE is the store of `genretree quickstart`, say. The equaliser's curve is added to the measured spectra. Each seed
leaves a quarter of the artists of every class out. Prints, for each seed, how many equalised classes are named, how
many others are, and how many are without a filter.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from shortcuts import equaliser_curve

from genretree.audit.cues import BAND_CENTRES, Cue, read_cues
from genretree.audit.shortcuts import MUSIC, CueResult, _find_filtered
from genretree.corpus.store import Store
from genretree.taxonomy import format_path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    store = Store(options.store)
    cues = {cue.name: cue for cue in read_cues(store) if cue.name in ("spectrum", MUSIC)}
    names = [format_path(leaf) for leaf in store.taxonomy.leaves]
    curve = equaliser_curve(BAND_CENTRES)
    results = [
        CueResult(
            name=name,
            description="",
            source="",
            accuracy=0.0,
            chance=0.0,
            p_value=0.0,
            separation=(0.0,) * len(names),
        )
        for name in cues
    ]

    def named(spectrum: Cue, keep: np.ndarray[tuple[int], np.dtype[np.int64]], seed: int) -> set[str]:
        both = [replace(cue, values=cue.values[keep]) for cue in (spectrum, cues[MUSIC])]
        labels, groups = store.track_leaves[keep], store.track_groups[keep]
        return {item.leaf for item in _find_filtered(both, results, labels, groups, names, seed, ())}

    print("| seed | equalised classes named | others named | named without a filter |\n| --- | --- | --- | --- |")
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        kept = []
        for leaf in range(len(names)):
            artists = np.unique(store.track_groups[store.track_leaves == leaf])
            kept += rng.permutation(artists)[: round(0.75 * len(artists))].tolist()
        keep = np.flatnonzero(np.isin(store.track_groups, kept))
        found = others = 0
        for leaf, name in enumerate(names):
            values = cues["spectrum"].values.copy()
            values[store.track_leaves == leaf] += curve - curve.mean()
            got = named(replace(cues["spectrum"], values=values), keep, seed)
            found += name in got
            others += len(got - {name})
        clean = len(named(cues["spectrum"], keep, seed))
        n = len(names)
        print(f"| {seed} | {found} of {n} | {others} of {n * (n - 1)} | {clean} of {n} |", flush=True)


if __name__ == "__main__":
    main()
