"""Result classes of explanations, which are the same for every method and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Array, Float32Array, Float64Array
from genretree.explanation.coordinates import STEPS, FrequencyAxis, View, frequency_axis
from genretree.explanation.sentences import Sentence
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target
from genretree.prediction.predict import Prediction
from genretree.taxonomy import NodePath

_MAX_BANDS = 5
_SAME_RELEVANCE = 0.02  # share of the greatest relevance: neighbouring rows that differ by less form one band
_COLOR_PERCENTILE = 99.5  # of the magnitude of a map
UNITS = {
    "gradcam": "log odds, a sum",
    "integrated-gradients": "log odds, a sum",
    "occlusion": "log odds lost without it",
    "rollout": "share of attention",
}


@dataclass(frozen=True)
class Relevance:
    """Relevance of one view of the audio, by frequency and time.

    Parameters
    ----------
    view : "mel", "cqt", "chroma" or "mel_16k"
    values : float32 array, shape (n_slices, rows, 57)
        In the unit of the explanation: positive for the node, negative against it. The lowest frequency comes first.
        Values are additive over cells; the value of a single cell depends on the resolution.
    """

    view: View
    values: Float32Array

    @property
    def axis(self) -> FrequencyAxis:
        """The frequency axis of the rows."""
        return frequency_axis(self.view)

    def by_band(self) -> Float32Array:
        """Sum over time and average over slices, shape (rows,)."""
        sums: Float32Array = self.values.sum(axis=2).mean(axis=0)
        return sums

    def by_step(self) -> Float32Array:
        """Sum over frequency, shape (n_slices, 57)."""
        sums: Float32Array = self.values.sum(axis=1)
        return sums


@dataclass(frozen=True, kw_only=True)
class NodeExplanation:
    """Explanation of one node against others.

    Parameters
    ----------
    target : Target
    log_odds, baseline : array, shape (n_slices,)
        Uncalibrated natural log odds of the node for each slice, and for the baseline of the slice.
    shares : mapping of view to array, shape (n_slices,)
        Shapley values of the views. They sum to `log_odds - baseline`.
    maps : tuple of Relevance
        One map for each view that the model uses.
    sentences : tuple of Sentence
        The reasons in plain words, the strongest first, each with the relevance that it rests on. Empty if no relevance
        is distinguishable from noise.
    """

    target: Target
    log_odds: Float64Array
    baseline: Float64Array
    shares: Mapping[View, Float64Array]
    maps: tuple[Relevance, ...]
    sentences: tuple[Sentence, ...] = ()

    def bands(self, n: int = _MAX_BANDS) -> list[dict[str, Any]]:
        """List the `n` most relevant bands over all views: view, name, edges in Hz, mean relevance of a slice.

        Neighbouring rows with nearly equal relevance, such as the rows of one occluded part, form one band.
        """
        joined = [band for item in self.maps for band in join_rows(item.axis, item.by_band())]
        return sorted(joined, key=lambda item: -item["relevance"])[:n]

    @property
    def baseline_dominates(self) -> bool:
        """Whether the log odds of the baseline alone are positive and reach those of the audio."""
        return float(self.baseline.mean()) >= max(0.0, float(self.log_odds.mean()))

    @property
    def color_scale(self) -> float:
        """Relevance, scaled to a full-height row, that pictures show in full colour; the same for all views."""
        dense = [np.abs(relevance.values) * relevance.axis.rows for relevance in self.maps]
        strongest = max((float(np.percentile(values, _COLOR_PERCENTILE)) for values in dense), default=0.0)
        return strongest or max((float(values.max()) for values in dense), default=0.0) or 1.0


def join_rows(axis: FrequencyAxis, values: NDArray[np.floating]) -> list[dict[str, Any]]:
    """Join neighbouring rows of nearly equal relevance, shape (rows,), to bands: view, name, edges in Hz, sum."""
    cuts = [
        0,
        *(np.flatnonzero(np.abs(np.diff(values)) > _SAME_RELEVANCE * np.abs(values).max()) + 1).tolist(),
        axis.rows,
    ]
    bands = []
    for start, end in pairwise(cuts):
        first, last = axis.names[start], axis.names[end - 1]
        low, high = float(axis.edges[start]), float(axis.edges[end])
        hertz = [round(low, 1), round(high, 1)] if axis.in_hertz else None
        name = first if start + 1 == end else f"{first} to {last}"
        if end - start > 1 and axis.view in ("mel", "mel_16k"):
            name = f"{low:.0f} to {high:.0f} Hz"
        bands.append({"view": axis.view, "name": name, "hertz": hertz, "relevance": float(values[start:end].sum())})
    return bands


@dataclass(frozen=True)
class Passage:
    """A passage of the track, in seconds, and the calibrated probability of the node in it."""

    start: float
    end: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Calibrated probability of a node in each slice, and its most and least typical passages."""

    node: NodePath
    probabilities: Float64Array
    typical: tuple[Passage, ...]
    untypical: tuple[Passage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return {
            "node": list(self.node),
            "probabilities": np.round(self.probabilities, 6).tolist(),
            "typical": [vars(item) for item in self.typical],
            "untypical": [vars(item) for item in self.untypical],
        }


@dataclass(frozen=True)
class Neighbour:
    """A track of the index: its genre, its cosine distance (0 to 2), and whether the model was trained on it."""

    track: str
    genre: NodePath
    distance: float
    learned: bool = True


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Explanation of the prediction of a bundle for one track.

    Parameters
    ----------
    prediction : Prediction
        The prediction that is explained.
    tree : tuple of (path, probability)
        Calibrated probability of every node of the tree for the whole track.
    method, unit : str
        Method that computed the maps, and the unit of their values.
    track_slices : TrackSlices
        The slices that were explained.
    reasons : tuple of NodeExplanation
        One for each explained node.
    timelines : tuple of Timeline
        One for each node of the predicted path, and for each explained node that is not on the path.
    neighbours : tuple of Neighbour or None
        Nearest tracks of the index; None if the bundle has no index.
    family : str
        Model family of the bundle.
    seconds : float
        Run time in seconds.
    check : mapping, optional
        Faithfulness of the map of the last node, from
        `genretree.explanation.evaluate.faithfulness.measure_faithfulness`.

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
        """The time line of the last explained node."""
        node = self.reasons[-1].target.node
        return next((line for line in self.timelines if line.node == node), self.timelines[-1])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable content of `explanation.json`, with maps summed by band and by time step."""
        return {
            "prediction": self.prediction.to_json(),
            "family": self.family,
            "method": self.method,
            "unit": self.unit,
            "seconds": round(self.seconds, 2),
            "tree": [{"path": list(path), "probability": round(probability, 6)} for path, probability in self.tree],
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
        """Return the arrays of `relevance.npz`: every map and its axes."""
        arrays: dict[str, Array] = {
            "starts": self.track_slices.starts,
            "slice_seconds": np.array(self.track_slices.seconds),
        }
        for index, reason in enumerate(self.reasons):
            for relevance in reason.maps:
                arrays[f"reason_{index}.{relevance.view}"] = relevance.values
                arrays[f"edges.{relevance.view}"] = relevance.axis.edges
        return arrays


def _describe(reason: NodeExplanation, track_slices: TrackSlices) -> dict[str, Any]:
    steps = track_slices.seconds / STEPS
    when = sum(relevance.by_step() for relevance in reason.maps)
    assert not isinstance(when, int)
    return {
        "question": reason.target.question,
        "node": list(reason.target.node),
        "against": [list(path) for path in reason.target.against],
        "sentences": [sentence.to_json() for sentence in reason.sentences],
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
