"""Average relevance, typical tracks and confusions of a genre over tracks of a store."""

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
from genretree.explanation.methods.registry import Method, compute_maps
from genretree.explanation.methods.shapley import compute_shapley_values
from genretree.explanation.render.figures import ticks
from genretree.explanation.result import join_rows
from genretree.explanation.slices import read_track
from genretree.explanation.target import Target, find_node, make_target
from genretree.metrics.scores import decode_levels
from genretree.progress import progress_bar
from genretree.taxonomy import NodePath

_LISTED = 5
_SLICES = 2  # per track, evenly spaced


@dataclass(frozen=True, kw_only=True)
class GenreView:
    """Explanation of a node over tracks of a store.

    Parameters
    ----------
    target : Target
    n_tracks, n_explained : int
        Number of tracks of this genre, and of those over which relevance was averaged.
    bands : mapping of view to array, shape (rows,)
        Mean relevance per slice by row, the lowest frequency first.
    shares : mapping of view to float
        Mean Shapley values.
    typical, untypical : tuple of (track, probability)
        Tracks of this genre with the highest and with the lowest probability.
    taken_for, taken_from : mapping of path to int
        Other predictions for tracks of this genre, and true genres of tracks wrongly predicted as this genre, counted.
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
        """Return the JSON-serialisable content of `class.json`."""
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
            "typical": [{"track": name, "probability": round(probability, 6)} for name, probability in self.typical],
            "untypical": [
                {"track": name, "probability": round(probability, 6)} for name, probability in self.untypical
            ],
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
    max_tracks: int = 10,
    progress: bool = False,
) -> GenreView:
    """Average relevance for a genre over its tracks.

    Parameters
    ----------
    bundle : Bundle
    store : Store
    name : str
        Name or path of a node at any level.
    method : {"occlusion", "gradcam", "integrated-gradients", "rollout"}
    against : str, optional
        Node to contrast with. By default, the siblings of the node.
    part, split : str
        Part and name of the split. By default the test part of the split that the bundle was trained with.
    max_tracks : int
        Maximum number of tracks to explain, evenly spaced from the most to the least probable; 2 slices of each.
    progress : bool
        Show progress bars on standard error.

    Raises
    ------
    TaxonomyError
        If the node is not in the tree; the message suggests the closest name.
    CorpusError
        If the image settings of the store differ from those of the bundle, or the part has no tracks of the node.
    """
    level, index = find_node(bundle.taxonomy, name)
    target = make_target(bundle.taxonomy, level, index, against)
    check_images(bundle, store)
    training_split = bundle.training.get("split", {}).get("name", "default")
    split_name = split or (training_split if training_split in store.split_names() else "default")
    rows = store.rows(part, None if part == "all" else store.split(split_name))
    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    true = bundle.taxonomy.ancestors[match_leaves(bundle.taxonomy, store)[tracks], level]
    if not (true == index).any():
        raise CorpusError(
            f"{store.folder}: the part '{part}' of '{split_name}' has no tracks of '{name}'; use `part='all'`"
        )
    raw = predict_rows(bundle, store, rows, progress)
    levels = bundle.average_slices(raw, position)
    probabilities = levels[level][:, index]
    predicted = decode_levels(bundle.taxonomy, bundle.model.heads, levels)[:, level]
    own = np.flatnonzero(true == index)
    own = own[np.argsort(-probabilities[own], kind="stable")]
    explained = own[np.unique(np.linspace(0, len(own) - 1, min(max_tracks, len(own))).round().astype(int))]
    bands, shares = _average_relevance(bundle, store, tracks[explained].tolist(), target, method, progress)
    named = [(str(store.tracks["path"][tracks[position]]), float(probabilities[position])) for position in own.tolist()]
    return GenreView(
        target=target,
        method=method,
        n_tracks=len(own),
        n_explained=len(explained),
        bands=bands,
        shares=shares,
        typical=tuple(named[:_LISTED]),
        untypical=tuple(named[::-1][:_LISTED]),
        taken_for=_count_nodes(bundle, level, predicted[own], index),
        taken_from=_count_nodes(bundle, level, true[predicted == index], index),
    )


def _average_relevance(
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
            shapley_values = compute_shapley_values(bundle, track_slices, baseline, [target])
            for column, view in enumerate(shapley_values.views):
                shares[view] = shares.get(view, 0.0) + float(shapley_values.values[:, 0, column].mean()) / len(tracks)
            for view, values in compute_maps(
                bundle, track_slices, baseline, [target], shapley_values.views, method
            ).items():
                mean = values[:, 0].sum(axis=2).mean(axis=0).astype(np.float64)
                bands[view] = bands.get(view, np.zeros(len(mean))) + mean / len(tracks)
            tick()
    return bands, shares


def _count_nodes(bundle: Bundle, level: int, nodes: NDArray[np.int64], index: int) -> dict[NodePath, int]:
    """Count nodes other than `index`, the most frequent first."""
    other, counts = np.unique(nodes[nodes != index], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {bundle.taxonomy.nodes(level)[int(other[position])]: int(counts[position]) for position in order}


def draw_genre(view: GenreView) -> bytes:
    """Plot the average relevance by band, note and pitch class, one row per view."""
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
