"""Temperature scaling for hierarchical predictions: one temperature for each level, fitted on held-out music.

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") for a taxonomy: at each
level the conditional probabilities `p(child | parent)` are scaled; a node's probability is the product along its path.
So a parent's probability remains the sum of its children's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from genretree.models.base import LevelProbabilities, OutOfFoldPredictions
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy

Unit = Literal["slice", "track"]
UNITS: tuple[Unit, ...] = ("track", "slice")

_MIN_PROBABILITY = 1e-9
_BOUND = np.log(20.0)
_PRIOR_SPREAD = np.log(2) / 2  # standard deviation of log T around 0: 95 % of temperatures lie between 1/2 and 2


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Temperatures for tracks, whose slices are averaged, and for single slices.

    Parameters
    ----------
    track, slice : tuple of float
        One temperature for each level, from the top down; above 1 lowers confidence, below 1 raises it.
    tracks : int
        Number of tracks they were fitted on.
    source : str
        Origin of these tracks: the validation part, or out-of-fold predictions.
    """

    track: tuple[float, ...]
    slice: tuple[float, ...]
    tracks: int
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names."""
        return {"track": list(self.track), "slice": list(self.slice), "tracks": self.tracks, "source": self.source}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], depth: int) -> Self:
        """Rebuild from `to_json`. Raises ValueError if there is not a positive temperature for each level."""
        try:
            track, each = (tuple(float(number) for number in content[unit]) for unit in UNITS)
            calibration = cls(track=track, slice=each, tracks=int(content["tracks"]), source=str(content["source"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a calibration: {error!r}") from error
        for temperatures in (track, each):
            if len(temperatures) != depth or not all(0 < number < np.inf for number in temperatures):
                raise ValueError(f"not a temperature for each of {depth} levels: {temperatures}")
        return calibration


def temper(
    levels: LevelProbabilities, temperatures: Sequence[float], taxonomy: Taxonomy, heads: Heads
) -> LevelProbabilities:
    """Apply temperature scaling to level probabilities.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n, n_nodes)
        Rows sum to 1; with `heads == "tree"` a parent's probability is the sum of its children's, before and after.
    temperatures : sequence of float
        One for each level; 1 leaves a level unchanged, except for rounding.
    taxonomy : Taxonomy
    heads : "tree" or "independent"
        Independent heads are scaled separately.

    Returns
    -------
    list of arrays of the same shapes

    See Also
    --------
    fit_calibration : Fit the temperatures.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.metrics.calibration import temper
    >>> from genretree.taxonomy import Taxonomy
    >>> taxonomy = Taxonomy.from_nested(["Jazz", "Rock"])
    >>> temper([np.array([[0.2, 0.8]])], [2.0], taxonomy, "tree")[0].round(2)
    array([[0.33, 0.67]])
    """
    scaled: LevelProbabilities = []
    for level, temperature in enumerate(temperatures):
        parents = _parents(taxonomy, level, heads)
        conditional = np.exp(_log_conditional(levels, level, parents) / temperature)
        conditional /= _sum_siblings(conditional, parents)
        scaled.append(conditional if level == 0 or heads == "independent" else conditional * scaled[-1][:, parents])
    return scaled


def fit_calibration(predictions: OutOfFoldPredictions, taxonomy: Taxonomy, heads: Heads, source: str) -> Calibration:
    """Fit the temperatures of tracks and slices, maximum a posteriori.

    Parameters
    ----------
    predictions : OutOfFoldPredictions
        Probabilities of slices that are not training data. All tracks have the same weight.
    taxonomy : Taxonomy
    heads : "tree" or "independent"
    source : str
        Description of the slices, for `Calibration.source`.

    Returns
    -------
    Calibration
    """
    tracks, first, position = np.unique(predictions.tracks, return_index=True, return_inverse=True)
    counts = np.bincount(position)
    averaged = [average_by(level, position, len(tracks)) for level in predictions.levels]
    track = _fit_levels(averaged, predictions.leaves[first], np.ones(len(tracks)), taxonomy, heads)
    single_slice = _fit_levels(predictions.levels, predictions.leaves, 1 / counts[position], taxonomy, heads)
    return Calibration(track=track, slice=single_slice, tracks=len(tracks), source=source)


def average_by(values: NDArray[np.float64], index: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Average rows by index: shape (n_rows, n_columns) to (n, n_columns).

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.metrics.calibration import average_by
    >>> average_by(np.array([[1.0], [3.0], [4.0]]), np.array([0, 0, 1]), 2)
    array([[2.],
           [4.]])
    """
    totals = np.zeros((n, values.shape[1]))
    np.add.at(totals, index, values)
    averaged: NDArray[np.float64] = totals / np.bincount(index, minlength=n)[:, None]
    return averaged


def _fit_levels(
    levels: LevelProbabilities,
    leaves: NDArray[np.int64],
    weights: NDArray[np.float64],
    taxonomy: Taxonomy,
    heads: Heads,
) -> tuple[float, ...]:
    from scipy.optimize import minimize_scalar

    temperatures = []
    for level in range(taxonomy.depth):
        parents = _parents(taxonomy, level, heads)
        logs = _log_conditional(levels, level, parents)
        true = taxonomy.ancestors[leaves, level]
        siblings = parents[None, :] == parents[true][:, None]
        logits = np.where(siblings, logs, -np.inf)

        def loss(log_temperature: float, logits: Any = logits, true: Any = true) -> float:
            from scipy.special import log_softmax

            scores = log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(true)), true]
            return float(-(weights * scores).sum() + (log_temperature / _PRIOR_SPREAD) ** 2 / 2)

        best = minimize_scalar(loss, bounds=(-_BOUND, _BOUND), method="bounded", options={"xatol": 1e-4})
        temperatures.append(round(float(np.exp(best.x)), 4))
    return tuple(temperatures)


def _parents(taxonomy: Taxonomy, level: int, heads: Heads) -> NDArray[np.int64]:
    """Return the parent index of every node of a level, shape (n_nodes,); 0 at the top and for independent heads."""
    parents = np.zeros(len(taxonomy.nodes(level)), dtype=np.int64)
    if level and heads == "tree":
        parents[taxonomy.ancestors[:, level]] = taxonomy.ancestors[:, level - 1]
    return parents


def _log_conditional(levels: LevelProbabilities, level: int, parents: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute log p(node | parent), shape (n, n_nodes)."""
    clipped = np.maximum(levels[level], _MIN_PROBABILITY)
    logs: NDArray[np.float64] = np.log(clipped / _sum_siblings(clipped, parents))
    return logs


def _sum_siblings(values: NDArray[np.float64], parents: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute for every node the sum over its parent's children, shape (n, n_nodes)."""
    totals = np.zeros((len(values), int(parents.max()) + 1))
    np.add.at(totals.T, parents, values.T)
    summed: NDArray[np.float64] = totals[:, parents]
    return summed
