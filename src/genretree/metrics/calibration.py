"""Probabilities one can trust: a temperature for each level, fitted on music that the model did not learn from.

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") for a tree: what is tempered at a
level is the choice among a parent's children, `p(child | parent)`; a node's probability is the product down its path.
So a parent's probability stays the sum of its children's, whatever the temperatures.
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

_LEAST = 1e-9
_BOUND = np.log(20.0)
_PRIOR_SPREAD = np.log(2) / 2  # of log T around 0: temperatures usually lie between a half and two


@dataclass(frozen=True)
class Calibration:
    """Temperatures of whole tracks (slices averaged) and of single slices.

    Parameters
    ----------
    track, slice : tuple of float
        One temperature for each level, from the top down; above 1 makes less sure, below 1 surer.
    tracks : int
        How many tracks they were fitted on.
    source : str
        What those were: the validation part, or predictions out of fold.
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
            found = cls(track, each, int(content["tracks"]), str(content["source"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a calibration: {error!r}") from error
        for temperatures in (track, each):
            if len(temperatures) != depth or not all(0 < number < np.inf for number in temperatures):
                raise ValueError(f"not a temperature for each of {depth} levels: {temperatures}")
        return found


def temper(
    levels: LevelProbabilities, temperatures: Sequence[float], taxonomy: Taxonomy, heads: Heads
) -> LevelProbabilities:
    """Change how sure level probabilities are.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n, n_nodes)
        Rows sum to 1; with `heads == "tree"` a parent's probability is the sum of its children's, and stays so.
    temperatures : sequence of float
        One for each level. All 1 changes nothing (but for rounding).
    taxonomy : Taxonomy
    heads : "tree" or "independent"
        Independent heads are tempered each for itself.

    Returns
    -------
    list of arrays of the same shapes
    """
    found: LevelProbabilities = []
    for level, temperature in enumerate(temperatures):
        parents = _parents(taxonomy, level, heads)
        tempered = np.exp(_log_conditional(levels, level, parents) / temperature)
        tempered /= _sum_siblings(tempered, parents)
        found.append(tempered if level == 0 or heads == "independent" else tempered * found[-1][:, parents])
    return found


def fit_calibration(held: OutOfFoldPredictions, taxonomy: Taxonomy, heads: Heads, source: str) -> Calibration:
    """Fit the temperatures of tracks and of slices by maximum a posteriori likelihood of the true nodes.

    Parameters
    ----------
    held : OutOfFoldPredictions
        Probabilities of slices that the model did not learn from. Every track counts the same.
    taxonomy : Taxonomy
    heads : "tree" or "independent"
    source : str
        What the slices are, to be told.
    """
    tracks, first, position = np.unique(held.tracks, return_index=True, return_inverse=True)
    counts = np.bincount(position)
    averaged = [average_by(level, position, len(tracks)) for level in held.levels]
    whole = _fit_levels(averaged, held.leaves[first], np.ones(len(tracks)), taxonomy, heads)
    single = _fit_levels(held.levels, held.leaves, 1 / counts[position], taxonomy, heads)
    return Calibration(whole, single, len(tracks), source)


def average_by(values: NDArray[np.float64], index: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Average rows that share an index: shape (rows, columns) to (n, columns)."""
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

    found = []
    for level in range(taxonomy.depth):
        parents = _parents(taxonomy, level, heads)
        logs = _log_conditional(levels, level, parents)
        true = taxonomy.ancestors[leaves, level]
        siblings = parents[None, :] == parents[true][:, None]
        chosen = np.where(siblings, logs, -np.inf)

        def loss(log_temperature: float, chosen: Any = chosen, true: Any = true) -> float:
            from scipy.special import log_softmax

            scores = log_softmax(chosen / np.exp(log_temperature), axis=1)[np.arange(len(true)), true]
            return float(-(weights * scores).sum() + (log_temperature / _PRIOR_SPREAD) ** 2 / 2)

        best = minimize_scalar(loss, bounds=(-_BOUND, _BOUND), method="bounded", options={"xatol": 1e-4})
        found.append(round(float(np.exp(best.x)), 4))
    return tuple(found)


def _parents(taxonomy: Taxonomy, level: int, heads: Heads) -> NDArray[np.int64]:
    """Give the parent of every node of a level, shape (n_nodes,); one and the same for all where none counts."""
    parents = np.zeros(len(taxonomy.nodes(level)), dtype=np.int64)
    if level and heads == "tree":
        parents[taxonomy.ancestors[:, level]] = taxonomy.ancestors[:, level - 1]
    return parents


def _log_conditional(levels: LevelProbabilities, level: int, parents: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the log of every node's probability given its parent, shape (n, n_nodes)."""
    clipped = np.maximum(levels[level], _LEAST)
    logs: NDArray[np.float64] = np.log(clipped / _sum_siblings(clipped, parents))
    return logs


def _sum_siblings(values: NDArray[np.float64], parents: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give for every node the sum over its parent's children, shape (n, n_nodes)."""
    totals = np.zeros((len(values), int(parents.max()) + 1))
    np.add.at(totals.T, parents, values.T)
    summed: NDArray[np.float64] = totals[:, parents]
    return summed
