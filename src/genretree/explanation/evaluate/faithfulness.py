"""Faithfulness of relevance maps: deletion and insertion curves, weight randomisation, and stability under noise.

Deletion and insertion (Petsiuk et al. 2018) replace the parts of a slice by the baseline, most relevant first, or
restore them from the baseline. For a faithful map the probability of the node falls, or rises, sooner than in other
orders: random, by energy (brightest parts first) and by edges (greatest change over time first). The sanity check
(Adebayo et al. 2018) randomises the weights, which must change the map. The stability check adds inaudible noise, which
must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genretree.arrays import Float64Array
from genretree.bundle.bundle import Bundle
from genretree.explanation.baseline import compute_baseline, replace_with_baseline
from genretree.explanation.bundle_weights import load_weights_for
from genretree.explanation.coordinates import IMAGES, SOUND, View, spread_mask, stretch_mask
from genretree.explanation.methods.band_occlusion import add_noise
from genretree.explanation.methods.occlusion import Maps, cells, gather_cells
from genretree.explanation.methods.registry import Method, compute_maps
from genretree.explanation.methods.shapley import compute_shapley_values
from genretree.explanation.perturb import map_slices
from genretree.explanation.slices import TrackSlices, score
from genretree.explanation.target import Target
from genretree.models import base
from genretree.sound.mel_16k import compress

STEPS = 10  # steps of a curve; it has one point more
_RANDOM_ORDERS = 3
MAX_SLICES = 3  # per track, evenly spaced
_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Faithfulness of one map. Areas under curves are mean probabilities, 0 to 1.

    Parameters
    ----------
    deletion, insertion : mapping of order to float
        Area under the curve for the orders `map`, `random`, `energy`, `edges`. Lower deletion and higher insertion are
        better.
    curves : mapping of order to array, shape (2, STEPS + 1)
        Deletion and insertion curves over the share of the area, 0 to 1.
    randomised : float or None
        Rank correlation with the map of the same model with shuffled weights; None for models without a network.
    noisy : float
        Rank correlation with the map of slices with inaudible noise.
    """

    deletion: dict[str, float]
    insertion: dict[str, float]
    curves: dict[str, Float64Array]
    randomised: float | None
    noisy: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return {
            "deletion": _rounded(self.deletion),
            "insertion": _rounded(self.insertion),
            "better_than_random": bool(self.deletion["map"] < self.deletion["random"]),
            "randomised_weights": None if self.randomised is None else round(self.randomised, 4),
            "inaudible_noise": round(self.noisy, 4),
            "curves": {
                order: {"deletion": np.round(curve[0], 4).tolist(), "insertion": np.round(curve[1], 4).tolist()}
                for order, curve in self.curves.items()
            },
        }


def measure_faithfulness(
    bundle: Bundle, track_slices: TrackSlices, target: Target, method: Method, seed: int = 0, progress: bool = False
) -> Faithfulness:
    """Measure the faithfulness of a method on a track, on at most 3 slices.

    Parameters
    ----------
    bundle : Bundle
    track_slices : TrackSlices
    target : Target
    method : {"occlusion", "gradcam", "integrated-gradients", "rollout"}
    seed : int
        Seed of random orders, shuffled weights and noise.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Faithfulness
    """
    rows = np.unique(np.linspace(0, len(track_slices) - 1, MAX_SLICES).round().astype(int))
    track_slices = track_slices.select(rows)
    baseline = compute_baseline(track_slices)
    views = compute_shapley_values(bundle, track_slices, baseline, [target]).views
    maps = compute_maps(bundle, track_slices, baseline, [target], views, method)

    def correlation_with(other: Bundle, slices: TrackSlices) -> float:
        return rank_correlation(maps, compute_maps(other, slices, baseline, [target], views, method))

    curves = measure_curves(bundle, track_slices, baseline, target, maps, seed, progress)
    shuffled = shuffle_weights(bundle, seed)
    return Faithfulness(
        deletion={order: float(np.trapezoid(curve[0])) / STEPS for order, curve in curves.items()},
        insertion={order: float(np.trapezoid(curve[1])) / STEPS for order, curve in curves.items()},
        curves=curves,
        randomised=None if shuffled is None else correlation_with(shuffled, track_slices),
        noisy=correlation_with(bundle, add_noise(track_slices, seed)),
    )


def measure_curves(
    bundle: Bundle,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    target: Target,
    maps: Maps,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Float64Array]:
    """Compute deletion and insertion curves in each order.

    Parameters
    ----------
    maps : mapping of view to array, shape (n_slices, 1, rows, steps)

    Returns
    -------
    mapping of `map`, `random`, `energy`, `edges` to array, shape (2, STEPS + 1)
        Deletion and insertion: the probability of the node against the other nodes of the target after each share of
        the area, averaged over slices (and over 3 random orders).
    """
    views = list(maps)
    areas = np.concatenate([cells(view).mean(axis=(1, 2)) for view in views]) / len(views)
    cuts = np.cumsum([len(cells(view)) for view in views])[:-1]

    def predict_versions(index: int) -> Float64Array:
        own, empty = track_slices.select(slice(index, index + 1)), baseline.select(slice(index, index + 1))
        rng = np.random.default_rng((seed, index))
        orders = [
            np.concatenate([gather_cells(maps[view][index, 0], view) for view in views]) / areas,
            *(_brightness(own, views, edges) for edges in (False, True)),
            *(rng.random(len(areas)) for _ in range(_RANDOM_ORDERS)),
        ]
        removed = np.stack([_removals(order, areas) for order in orders])  # (n_orders, STEPS + 1, n_parts)
        masked = np.stack([removed, 1 - removed]).reshape(-1, len(areas)).astype(np.float32)
        odds = []
        for at in range(0, len(masked), _AT_A_TIME):
            parts = np.split(masked[at : at + _AT_A_TIME], cuts, axis=1)
            masks = {view: np.tensordot(part, cells(view), axes=1) for view, part in zip(views, parts, strict=True)}
            odds.append(target.log_odds(score(bundle, replace_with_baseline(own, empty, masks))))
        probabilities = 1 / (1 + np.exp(-np.concatenate(odds)))
        return probabilities.reshape(2, len(orders), STEPS + 1)

    mean_curves = map_slices(len(track_slices), predict_versions, "check", progress).mean(axis=0)
    return {
        "map": mean_curves[:, 0],
        "random": mean_curves[:, 3:].mean(axis=1),
        "energy": mean_curves[:, 1],
        "edges": mean_curves[:, 2],
    }


def _removals(order: Float64Array, areas: Float64Array) -> Float64Array:
    """Mark the parts that are removed at each share of the area, shape (STEPS + 1, n_parts); greatest value first."""
    ranking = np.argsort(-order, kind="stable")
    removed_share = np.empty(len(areas))
    removed_share[ranking] = np.cumsum(areas[ranking])  # share of the area removed up to and including each part
    shares = np.arange(STEPS + 1) / STEPS
    return (removed_share[None, :] <= shares[:, None] + 1e-6).astype(np.float64)


def _brightness(piece: TrackSlices, views: Sequence[View], edges: bool) -> Float64Array:
    """Compute the mean brightness of each part of one slice, or its mean absolute change over time."""
    parts = []
    for view in views:
        if view == SOUND:
            assert piece.mel_16k is not None
            shown, time = compress(piece.mel_16k[0]), 0
            masks = stretch_mask(cells(view), *shown.shape)
        else:
            shown, time = piece.images[0, IMAGES.index(view)].astype(np.float32), 1
            masks = spread_mask(cells(view), shown.shape[1])
        if edges:
            first = shown[:1] if time == 0 else shown[:, :1]
            shown = np.abs(np.diff(shown, axis=time, prepend=first))
        parts.append(np.tensordot(masks, shown, axes=2) / masks.sum(axis=(1, 2)))
    return np.concatenate(parts).astype(np.float64)


def rank_correlation(one: Maps, other: Maps) -> float:
    """Compute Spearman's rank correlation of two maps over their parts: -1 to 1, or 0 if one map is constant."""
    from scipy.stats import spearmanr

    first, second = (np.concatenate([gather_cells(maps[view], view).ravel() for view in one]) for maps in (one, other))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def shuffle_weights(bundle: Bundle, seed: int = 0) -> Bundle | None:
    """Shuffle the values within each weight array of the model; returns None for boosting, which has no weights.

    Shuffling preserves the distribution of each array. Newly initialised weights would saturate or flatten the output.
    """
    whole = load_weights_for(bundle)
    model = base.shuffle_weights(whole.model, np.random.default_rng(seed))
    return None if model is None else replace(whole, model=model)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
