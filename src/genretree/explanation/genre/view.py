"""What a model takes a genre for: average relevance, typical tracks, and what it is confused with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.evaluation.evaluate import check_images, match_leaves, predict_rows
from genretree.evaluation.plots import make_figure, to_png
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.coordinates import View, frequency_axis
from genretree.explanation.methods.registry import Method, make_maps
from genretree.explanation.methods.shapley import compute_shapley_values
from genretree.explanation.render.figures import ticks
from genretree.explanation.result import join_rows
from genretree.explanation.slices import read_track
from genretree.explanation.target import Target, find_node, make_target
from genretree.metrics.scores import decode_levels
from genretree.progress import progress_bar
from genretree.taxonomy import NodePath

_LISTED = 5
_SLICES = 2  # of each track, evenly spread


@dataclass(frozen=True)
class GenreView:
    """A node as the model sees it, over tracks of a store.

    Parameters
    ----------
    target : Target
    n_tracks, n_explained : int
        Tracks of this genre, and of how many relevance was averaged.
    bands : mapping of view to array, shape (rows,)
        Mean relevance of a slice by row, the lowest first.
    shares : mapping of view to float
        Mean Shapley values.
    typical, untypical : tuple of (track, probability)
        Tracks of this genre, the surest and the least sure first.
    taken_for, taken_from : mapping of path to int
        What tracks of this genre were taken for, and what those are that were wrongly taken for it.
    """

    target: Target
    method: str
    n_tracks: int
    n_explained: int
    bands: dict[View, NDArray[np.float64]]
    shares: dict[View, float]
    typical: tuple[tuple[str, float], ...]
    untypical: tuple[tuple[str, float], ...]
    taken_for: dict[NodePath, int]
    taken_from: dict[NodePath, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, as `class.json` has them."""
        return {
            "node": list(self.target.node),
            "against": [list(path) for path in self.target.against],
            "method": self.method,
            "tracks": self.n_tracks,
            "explained": self.n_explained,
            "modalities": {view: round(share, 4) for view, share in self.shares.items()},
            "by_band": {
                view: {
                    "names": list(frequency_axis(view).names),
                    "edges": np.round(frequency_axis(view).edges, 2).tolist(),
                    "relevance": np.round(values, 5).tolist(),
                }
                for view, values in self.bands.items()
            },
            "bands": [
                {**band, "relevance": round(band["relevance"], 4)}
                for view, values in self.bands.items()
                for band in sorted(join_rows(frequency_axis(view), values), key=lambda band: -band["relevance"])
            ],
            "typical": [{"track": name, "probability": round(chance, 6)} for name, chance in self.typical],
            "untypical": [{"track": name, "probability": round(chance, 6)} for name, chance in self.untypical],
            "taken_for": [{"path": list(path), "tracks": n} for path, n in self.taken_for.items()],
            "taken_from": [{"path": list(path), "tracks": n} for path, n in self.taken_from.items()],
        }


def view_genre(
    bundle: Bundle,
    store: Store,
    name: str,
    method: Method = "occlusion",
    *,
    against: str | None = None,
    part: str = "test",
    split: str | None = None,
    most: int = 10,
    progress: bool = False,
) -> GenreView:
    """Average what decides for a genre over its tracks.

    Parameters
    ----------
    name : str
        A node of the tree, at any level.
    method : str
    against : str, optional
        Another node; by default its siblings.
    part, split : str
        Which tracks; by default those held out.
    most : int
        Explain no more tracks than this, evenly spread from the surest to the least sure; 2 slices of each.

    Raises
    ------
    TaxonomyError
        For a node that isn't in the tree, with the likely intended one.
    CorpusError
        If the store was drawn in another way, or has no such tracks.
    """
    level, index = find_node(bundle.taxonomy, name)
    target = make_target(bundle.taxonomy, level, index, against)
    check_images(bundle, store)
    trained = bundle.training.get("split", {}).get("name", "default")
    chosen = split or (trained if trained in store.split_names() else "default")
    rows = store.rows(part, None if part == "all" else store.split(chosen))
    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    true = bundle.taxonomy.ancestors[match_leaves(bundle.taxonomy, store)[tracks], level]
    if not (true == index).any():
        raise CorpusError(
            f"{store.folder}: the part '{part}' of '{chosen}' has no tracks of '{name}'; try `part='all'`"
        )
    raw = predict_rows(bundle, store, rows, progress)
    levels = bundle.average_slices(raw, position)
    chances = levels[level][:, index]
    predicted = decode_levels(bundle.taxonomy, bundle.model.heads, levels)[:, level]
    own = np.flatnonzero(true == index)
    own = own[np.argsort(-chances[own], kind="stable")]
    explained = own[np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int))]
    bands, shares = _average(bundle, store, tracks[explained].tolist(), target, method, progress)
    named = [(str(store.tracks["path"][tracks[place]]), float(chances[place])) for place in own.tolist()]
    return GenreView(
        target,
        method,
        len(own),
        len(explained),
        bands,
        shares,
        tuple(named[:_LISTED]),
        tuple(named[::-1][:_LISTED]),
        _count(bundle, level, predicted[own], index),
        _count(bundle, level, true[predicted == index], index),
    )


def _average(
    bundle: Bundle, store: Store, tracks: Sequence[int], target: Target, method: Method, progress: bool
) -> tuple[dict[View, NDArray[np.float64]], dict[View, float]]:
    bands: dict[View, NDArray[np.float64]] = {}
    shares: dict[View, float] = {}
    with progress_bar(len(tracks), "explain", "track", progress) as tick:
        for track in tracks:
            track_slices = read_track(bundle, store, track)
            track_slices = track_slices.select(
                np.unique(np.linspace(0, len(track_slices) - 1, _SLICES).round().astype(int))
            )
            baseline = compute_baseline(track_slices)
            found = compute_shapley_values(bundle, track_slices, baseline, [target])
            for place, view in enumerate(found.views):
                shares[view] = shares.get(view, 0.0) + float(found.values[:, 0, place].mean()) / len(tracks)
            for view, values in make_maps(bundle, track_slices, baseline, [target], found.views, method).items():
                mean = values[:, 0].sum(axis=2).mean(axis=0).astype(np.float64)
                bands[view] = bands.get(view, np.zeros(len(mean))) + mean / len(tracks)
            tick()
    return bands, shares


def _count(bundle: Bundle, level: int, nodes: NDArray[np.int64], index: int) -> dict[NodePath, int]:
    """Count nodes other than one, the most frequent first."""
    other, counts = np.unique(nodes[nodes != index], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {bundle.taxonomy.nodes(level)[int(other[place])]: int(counts[place]) for place in order}


def draw_genre(view: GenreView) -> bytes:
    """Draw the average relevance by band, note and pitch class, a row for each view of the sound."""
    figure = make_figure(10, 1.9 * len(view.bands) + 0.5)
    for axes, (name, values) in zip(
        figure.subplots(len(view.bands), 1, squeeze=False)[:, 0], view.bands.items(), strict=True
    ):
        axis = frequency_axis(name)
        colours = np.where(values >= 0, "#e05c00", "#0060d6")
        axes.bar(np.arange(axis.rows) + 0.5, values, width=0.9, color=colours)
        places, names = ticks(axis)
        axes.set_xticks(places, names, fontsize=8)
        axes.set_title(name.replace("_", " "), fontsize=9, loc="left")
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{view.target.question.replace('_', ' ')}: mean of {view.n_explained} tracks ({view.method})")
    return to_png(figure)
