"""Faithfulness over many tracks: what `genretree explain BUNDLE STORE --check` reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.evaluation.evaluate import check_images, match_leaves
from genretree.explanation.api import predicted_nodes
from genretree.explanation.evaluate.faithfulness import Faithfulness, measure_faithfulness
from genretree.explanation.methods.registry import Method
from genretree.explanation.slices import TrackSlices, read_track, score
from genretree.explanation.target import make_target
from genretree.progress import progress_bar

ORDERS = ("map", "random", "energy", "edges")


@dataclass(frozen=True)
class Survey:
    """What was measured on tracks that the bundle names rightly.

    Parameters
    ----------
    method : str
    looked_at : int
        Tracks that were looked at; the others of them were named wrongly.
    tracks : tuple of (name, Faithfulness)
    """

    method: str
    looked_at: int
    tracks: tuple[tuple[str, Faithfulness], ...]

    def to_json(self) -> dict[str, Any]:
        """Return means over the tracks, shares of tracks on which the map is better, and each track."""
        found = [item for _, item in self.tracks]
        if not found:
            return {"method": self.method, "looked_at": self.looked_at, "tracks": []}
        drawn = [item.randomised for item in found if item.randomised is not None]
        return {
            "method": self.method,
            "looked_at": self.looked_at,
            "right": len(found),
            "deletion": {order: _mean([item.deletion[order] for item in found]) for order in ORDERS},
            "insertion": {order: _mean([item.insertion[order] for item in found]) for order in ORDERS},
            "deletion_better_than": {
                order: _mean([float(item.deletion["map"] < item.deletion[order]) for item in found])
                for order in ORDERS[1:]
            },
            "insertion_better_than": {
                order: _mean([float(item.insertion["map"] > item.insertion[order]) for item in found])
                for order in ORDERS[1:]
            },
            "randomised_weights": _mean(drawn) if drawn else None,
            "inaudible_noise": _mean([item.noisy for item in found]),
            "tracks": [{"track": name, **item.to_json()} for name, item in self.tracks],
        }


def survey(
    bundle: Bundle,
    store: Store,
    method: Method,
    *,
    part: str = "test",
    split: str | None = None,
    most: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> Survey:
    """Check a method on tracks of a store that the bundle names rightly, at the deepest level.

    Parameters
    ----------
    part, split : str
        Which tracks; by default those held out of the split that the bundle was trained with, or of `default`.
    most : int
        Look at no more tracks than this, evenly spread.
    seed : int

    Raises
    ------
    CorpusError
        If the store was drawn in another way, has other genres, or the part is empty.
    """
    check_images(bundle, store)
    names = store.split_names()
    trained = bundle.training.get("split", {}).get("name", "default")
    chosen = split or (trained if trained in names else "default")
    rows = store.rows(part, None if part == "all" else store.split(chosen))
    tracks = np.unique(store.slice_tracks[rows])
    if not len(tracks):
        raise CorpusError(f"{store.folder}: the part '{part}' of the split '{chosen}' is empty; try `part='all'`")
    tracks = tracks[np.unique(np.linspace(0, len(tracks) - 1, min(most, len(tracks))).round().astype(int))]
    leaves = match_leaves(bundle.taxonomy, store)
    found = []
    with progress_bar(len(tracks), "check", "track", progress) as tick:
        for track in tracks.tolist():
            track_slices = read_track(bundle, store, track)
            nodes = predicted_nodes(bundle, score(bundle, track_slices))
            if nodes == bundle.taxonomy.ancestors[leaves[track]].tolist():
                found.append((track_slices.name, check_deepest(bundle, track_slices, nodes, method, seed)))
            tick()
    return Survey(method, len(tracks), tuple(found))


def check_deepest(
    bundle: Bundle, track_slices: TrackSlices, nodes: Sequence[int], method: Method, seed: int = 0
) -> Faithfulness:
    """Check a method for the deepest node of a path against its siblings."""
    target = make_target(bundle.taxonomy, len(nodes) - 1, nodes[-1])
    return measure_faithfulness(bundle, track_slices, target, method, seed)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
