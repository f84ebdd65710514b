"""Faithfulness of a method over many tracks of a store."""

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


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Faithfulness on the correctly predicted tracks of a store.

    Parameters
    ----------
    method : str
    n_examined : int
        Number of tracks that were scored; `tracks` holds those that were predicted correctly.
    tracks : tuple of (name, Faithfulness)
    """

    method: str
    n_examined: int
    tracks: tuple[tuple[str, Faithfulness], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable report: means, shares of tracks on which the map is better, and each track."""
        results = [item for _, item in self.tracks]
        if not results:
            return {"method": self.method, "looked_at": self.n_examined, "tracks": []}
        randomised = [item.randomised for item in results if item.randomised is not None]
        return {
            "method": self.method,
            "looked_at": self.n_examined,
            "right": len(results),
            "deletion": {order: _mean([item.deletion[order] for item in results]) for order in ORDERS},
            "insertion": {order: _mean([item.insertion[order] for item in results]) for order in ORDERS},
            "deletion_better_than": {
                order: _mean([float(item.deletion["map"] < item.deletion[order]) for item in results])
                for order in ORDERS[1:]
            },
            "insertion_better_than": {
                order: _mean([float(item.insertion["map"] > item.insertion[order]) for item in results])
                for order in ORDERS[1:]
            },
            "randomised_weights": _mean(randomised) if randomised else None,
            "inaudible_noise": _mean([item.noisy for item in results]),
            "tracks": [{"track": name, **item.to_json()} for name, item in self.tracks],
        }


def survey(
    bundle: Bundle,
    store: Store,
    method: Method,
    *,
    part: str = "test",
    split: str | None = None,
    max_tracks: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> Survey:
    """Measure the faithfulness of a method at the deepest level, on correctly predicted tracks of a store.

    Parameters
    ----------
    part, split : str
        Part and name of the split. By default the test part of the split that the bundle was trained with, or of
        `default`.
    max_tracks : int
        Maximum number of tracks, evenly spaced.
    seed : int
        Seed of random orders, shuffled weights and noise.

    Raises
    ------
    CorpusError
        If the image settings or genres of the store differ from those of the bundle, or the part is empty.
    """
    check_images(bundle, store)
    names = store.split_names()
    training_split = bundle.training.get("split", {}).get("name", "default")
    split_name = split or (training_split if training_split in names else "default")
    rows = store.rows(part, None if part == "all" else store.split(split_name))
    tracks = np.unique(store.slice_tracks[rows])
    if not len(tracks):
        raise CorpusError(f"{store.folder}: the part '{part}' of the split '{split_name}' is empty; use `part='all'`")
    tracks = tracks[np.unique(np.linspace(0, len(tracks) - 1, min(max_tracks, len(tracks))).round().astype(int))]
    leaves = match_leaves(bundle.taxonomy, store)
    results = []
    with progress_bar(len(tracks), "check", "track", progress) as tick:
        for track in tracks.tolist():
            track_slices = read_track(bundle, store, track)
            nodes = predicted_nodes(bundle, score(bundle, track_slices))
            if nodes == bundle.taxonomy.ancestors[leaves[track]].tolist():
                results.append((track_slices.name, check_deepest(bundle, track_slices, nodes, method, seed)))
            tick()
    return Survey(method=method, n_examined=len(tracks), tracks=tuple(results))


def check_deepest(
    bundle: Bundle, track_slices: TrackSlices, nodes: Sequence[int], method: Method, seed: int = 0
) -> Faithfulness:
    """Measure the faithfulness of a method for the deepest node of a path against its siblings."""
    target = make_target(bundle.taxonomy, len(nodes) - 1, nodes[-1])
    return measure_faithfulness(bundle, track_slices, target, method, seed)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
