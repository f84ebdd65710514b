"""What an explanation is: one form, whatever the method, for files and for tracks of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Array, Float32Array, Float64Array
from genretree.explanation.coordinates import STEPS, FrequencyAxis, View, frequency_axis
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target
from genretree.prediction.predict import Prediction
from genretree.taxonomy import NodePath

_MOST_BANDS = 5
_SAME = 0.02  # of the greatest: rows that differ less are one band
_STRONGEST = 99.5  # percentile of a map's magnitude
UNITS = {
    "gradcam": "log odds, a sum",
    "integrated-gradients": "log odds, a sum",
    "occlusion": "log odds lost without it",
    "rollout": "share of attention",
}


@dataclass(frozen=True)
class Relevance:
    """Relevance of one view of the sound, by frequency and time.

    Parameters
    ----------
    view : "mel", "cqt", "chroma" or "mel_16k"
    values : float32 array, shape (n_slices, rows, 57)
        In the unit of the explanation; above 0 what speaks for the node, below 0 what speaks against it. The lowest
        frequency first. Sums of cells are what one may add; a cell's own value depends on how fine the cells are.
    """

    view: View
    values: Float32Array

    @property
    def axis(self) -> FrequencyAxis:
        """The rows in Hz and notes."""
        return frequency_axis(self.view)

    def by_band(self) -> Float32Array:
        """Sum over time, the mean of the slices: shape (rows,)."""
        found: Float32Array = self.values.sum(axis=2).mean(axis=0)
        return found

    def by_step(self) -> Float32Array:
        """Sum over frequency: shape (n_slices, 57)."""
        found: Float32Array = self.values.sum(axis=1)
        return found


@dataclass(frozen=True)
class NodeExplanation:
    """Why one node and not others.

    Parameters
    ----------
    target : Target
    log_odds, background : array, shape (n_slices,)
        Natural log odds of the node, not calibrated: of each slice, and of its background alone.
    shares : mapping of view to array, shape (n_slices,)
        Shapley values of the views; they sum to `log_odds - baseline`.
    maps : tuple of Relevance
    """

    target: Target
    log_odds: Float64Array
    baseline: Float64Array
    shares: Mapping[View, Float64Array]
    maps: tuple[Relevance, ...]

    def bands(self, most: int = _MOST_BANDS) -> list[dict[str, Any]]:
        """Give the bands that speak most for the node, over all views: name, edges in Hz, relevance of a mean slice.

        Neighbouring rows whose relevance is nearly the same, as those of one part that was taken away, are one band.
        """
        found = [band for item in self.maps for band in join_rows(item.axis, item.by_band())]
        return sorted(found, key=lambda item: -item["relevance"])[:most]

    @property
    def is_from_nothing(self) -> bool:
        """Whether the background alone speaks for the node as much as the music does."""
        return float(self.baseline.mean()) >= max(0.0, float(self.log_odds.mean()))

    @property
    def strength(self) -> float:
        """Relevance over a whole slice's height and time that pictures give the full colour, the same in all views."""
        dense = [np.abs(relevance.values) * relevance.axis.rows for relevance in self.maps]
        strongest = max((float(np.percentile(values, _STRONGEST)) for values in dense), default=0.0)
        return strongest or max((float(values.max()) for values in dense), default=0.0) or 1.0


def join_rows(axis: FrequencyAxis, values: NDArray[np.floating]) -> list[dict[str, Any]]:
    """Join neighbouring rows of nearly the same relevance, shape (rows,), to bands: view, name, edges in Hz, sum."""
    cuts = [0, *(np.flatnonzero(np.abs(np.diff(values)) > _SAME * np.abs(values).max()) + 1).tolist(), axis.rows]
    found = []
    for start, end in pairwise(cuts):
        first, last = axis.names[start], axis.names[end - 1]
        low, high = float(axis.edges[start]), float(axis.edges[end])
        hertz = [round(low, 1), round(high, 1)] if axis.in_hertz else None
        name = first if start + 1 == end else f"{first} to {last}"
        if end - start > 1 and axis.view in ("mel", "mel_16k"):
            name = f"{low:.0f} to {high:.0f} Hz"
        found.append({"view": axis.view, "name": name, "hertz": hertz, "relevance": float(values[start:end].sum())})
    return found


@dataclass(frozen=True)
class Passage:
    """A stretch of the track, in seconds, with the node's calibrated probability there."""

    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Timeline:
    """A node's calibrated probability in each slice, and the passages most and least typical of it."""

    node: NodePath
    probabilities: Float64Array
    typical: tuple[Passage, ...]
    untypical: tuple[Passage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names."""
        return {
            "node": list(self.node),
            "probabilities": np.round(self.probabilities, 6).tolist(),
            "typical": [vars(item) for item in self.typical],
            "untypical": [vars(item) for item in self.untypical],
        }


@dataclass(frozen=True)
class Neighbour:
    """A track of the index, its genre, its cosine distance by features (0 to 2), and whether it was learned from."""

    track: str
    genre: NodePath
    distance: float
    learned: bool = True


@dataclass(frozen=True)
class Explanation:
    """Why a bundle names a track as it does.

    Parameters
    ----------
    prediction : Prediction
        As `genretree predict` gives it.
    tree : tuple of (path, probability)
        Every node of the tree with its calibrated probability for the whole track.
    method, unit : str
        How the maps were made, and in what they count.
    track_slices : TrackSlices
        What was explained.
    reasons : tuple of NodeExplanation
    timelines : tuple of Timeline
        One for each node of the predicted path, and for a node that was asked for beside it.
    neighbours : tuple of Neighbour or None
        None where the bundle has no index.
    family : str
    seconds : float
        How long explaining took.
    check : mapping, optional
        What `genretree.explanation.evaluate.faithfulness.measure_faithfulness` says of the last reason.

    See Also
    --------
    genretree.explain : Compute one.

    Examples
    --------
    >>> import genretree
    >>> explanation = genretree.explain(genretree.load("BUNDLE"), "song.mp3")
    >>> explanation.prediction.path
    ('Rock', 'Punk')
    >>> explanation.method
    'occlusion'
    """

    prediction: Prediction
    tree: tuple[tuple[NodePath, float], ...]
    method: str
    unit: str
    track_slices: TrackSlices
    reasons: tuple[NodeExplanation, ...]
    timelines: tuple[Timeline, ...]
    neighbours: tuple[Neighbour, ...] | None
    family: str
    seconds: float
    check: Mapping[str, Any] | None = None

    @property
    def line(self) -> Timeline:
        """The time line of the node that was asked for last."""
        node = self.reasons[-1].target.node
        return next((line for line in self.timelines if line.node == node), self.timelines[-1])

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, as `explanation.json` has them; maps by band and by second only."""
        return {
            "prediction": self.prediction.to_json(),
            "family": self.family,
            "method": self.method,
            "unit": self.unit,
            "seconds": round(self.seconds, 2),
            "tree": [{"path": list(path), "probability": round(chance, 6)} for path, chance in self.tree],
            "reasons": [_describe(reason, self.track_slices) for reason in self.reasons],
            "timelines": [line.to_json() for line in self.timelines],
            "neighbours": None
            if self.neighbours is None
            else [
                {**vars(item), "genre": list(item.genre), "distance": round(item.distance, 4)}
                for item in self.neighbours
            ],
            **({} if self.check is None else {"check": dict(self.check)}),
        }

    def arrays(self) -> dict[str, Array]:
        """Return every map and its axes, as `relevance.npz` holds them."""
        found: dict[str, Array] = {
            "starts": self.track_slices.starts,
            "slice_seconds": np.array(self.track_slices.seconds),
        }
        for number, reason in enumerate(self.reasons):
            for relevance in reason.maps:
                found[f"reason_{number}.{relevance.view}"] = relevance.values
                found[f"edges.{relevance.view}"] = relevance.axis.edges
        return found


def _describe(reason: NodeExplanation, track_slices: TrackSlices) -> dict[str, Any]:
    steps = track_slices.seconds / STEPS
    when = sum(relevance.by_step() for relevance in reason.maps)
    assert not isinstance(when, int)
    return {
        "question": reason.target.question,
        "node": list(reason.target.node),
        "against": [list(path) for path in reason.target.against],
        "log_odds": np.round(reason.log_odds, 4).tolist(),
        "background": np.round(reason.baseline, 4).tolist(),
        "modalities": {view: np.round(values, 4).tolist() for view, values in reason.shares.items()},
        "bands": [{**item, "relevance": round(item["relevance"], 4)} for item in reason.bands()],
        "by_band": {
            item.view: {"names": list(item.axis.names), "relevance": np.round(item.by_band(), 5).tolist()}
            for item in reason.maps
        },
        "by_time": {
            "start": track_slices.starts.tolist(),
            "step": round(steps, 4),
            "relevance": np.round(when, 5).tolist(),
        },
    }
