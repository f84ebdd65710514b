"""How far an explanation can be believed: measured on the model itself.

Deletion and insertion (Petsiuk et al. 2018): the parts of the slices are replaced by background in the order of their
relevance, the greatest first, or put back into it. If the map is right the node's probability falls, or rises, sooner
than in other orders: at random, by energy (the brightest parts first) and by edges (the most restless first). Sanity
(Adebayo et al. 2018): with the weights drawn anew the map must change. Stability: noise that can't be heard must not
change it.
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
from genretree.explanation.methods.occlusion import Maps, cells, gather_cells
from genretree.explanation.methods.registry import Method, make_maps
from genretree.explanation.methods.shapley import compute_shapley_values
from genretree.explanation.perturb import each_slice
from genretree.explanation.slices import TrackSlices, score
from genretree.explanation.target import Target
from genretree.models import base
from genretree.sound.mel_16k import compress, decompress

STEPS = 10  # points of a curve after the first
_RANDOM_ORDERS = 3
MOST_SLICES = 3  # of a track, evenly spread
_AT_A_TIME = 64
_NOISE = 1.0  # grey levels: about 0.3 dB where an image spans 80 dB
_HEARD_NOISE = 0.01  # of the compressed mel power, which is about 2 in music


@dataclass(frozen=True)
class Faithfulness:
    """What was measured on one track and target; areas under curves are means of the probability, 0 to 1.

    Parameters
    ----------
    deletion, insertion : mapping of order to float
        Orders are `map`, `random`, `energy`, `edges`. Of deletion less is better, of insertion more.
    curves : mapping of order to array, shape (2, STEPS + 1)
        Deletion and insertion over the share of the area, from 0 to 1.
    randomised : float or None
        Rank correlation of the map with that of the same model with its weights drawn anew; None without a network.
    noisy : float
        Rank correlation of the map with that of the slices with noise that can't be heard.
    """

    deletion: dict[str, float]
    insertion: dict[str, float]
    curves: dict[str, Float64Array]
    randomised: float | None
    noisy: float

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and names."""
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
    """Measure how faithful a method is on a track, on at most 3 slices of it.

    Parameters
    ----------
    bundle : Bundle
    track_slices : TrackSlices
    target : Target
    method : str
    seed : int
        Of the random orders, the weights drawn anew and the noise.
    progress : bool
    """
    rows = np.unique(np.linspace(0, len(track_slices) - 1, MOST_SLICES).round().astype(int))
    track_slices = track_slices.select(rows)
    baseline = compute_baseline(track_slices)
    views = compute_shapley_values(bundle, track_slices, baseline, [target]).views
    maps = make_maps(bundle, track_slices, baseline, [target], views, method)

    def again(other: Bundle, some: TrackSlices) -> float:
        return rank_correlation(maps, make_maps(other, some, baseline, [target], views, method))

    curves = measure_curves(bundle, track_slices, baseline, target, maps, seed, progress)
    shuffled = shuffle_weights(bundle, seed)
    return Faithfulness(
        {order: float(np.trapezoid(curve[0])) / STEPS for order, curve in curves.items()},
        {order: float(np.trapezoid(curve[1])) / STEPS for order, curve in curves.items()},
        curves,
        None if shuffled is None else again(shuffled, track_slices),
        again(bundle, add_noise(track_slices, seed)),
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
    """Delete and insert in each order.

    Parameters
    ----------
    maps : mapping of view to array, shape (n_slices, 1, rows, steps)

    Returns
    -------
    mapping of `map`, `random`, `energy`, `edges` to array, shape (2, STEPS + 1)
        Deletion and insertion: the node's probability, against the others of the target, after each share of the area,
        the mean of the slices (and of 3 orders at random).
    """
    views = list(maps)
    areas = np.concatenate([cells(view).mean(axis=(1, 2)) for view in views]) / len(views)
    cuts = np.cumsum([len(cells(view)) for view in views])[:-1]

    def ask(number: int) -> Float64Array:
        own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
        rng = np.random.default_rng((seed, number))
        orders = [
            np.concatenate([gather_cells(maps[view][number, 0], view) for view in views]) / areas,
            *(_brightness(own, views, edges) for edges in (False, True)),
            *(rng.random(len(areas)) for _ in range(_RANDOM_ORDERS)),
        ]
        removed = np.stack([_removals(order, areas) for order in orders])  # (n_orders, STEPS + 1, n_parts)
        both = np.stack([removed, 1 - removed]).reshape(-1, len(areas)).astype(np.float32)
        odds = []
        for at in range(0, len(both), _AT_A_TIME):
            parts = np.split(both[at : at + _AT_A_TIME], cuts, axis=1)
            masks = {view: np.tensordot(part, cells(view), axes=1) for view, part in zip(views, parts, strict=True)}
            odds.append(target.log_odds(score(bundle, replace_with_baseline(own, empty, masks))))
        chances = 1 / (1 + np.exp(-np.concatenate(odds)))
        return chances.reshape(2, len(orders), STEPS + 1)

    found = each_slice(len(track_slices), ask, "check", progress).mean(axis=0)
    return {
        "map": found[:, 0],
        "random": found[:, 3:].mean(axis=1),
        "energy": found[:, 1],
        "edges": found[:, 2],
    }


def _removals(order: Float64Array, areas: Float64Array) -> Float64Array:
    """Say which parts are gone when each share of the area is: (STEPS + 1, n_parts), the greatest first."""
    place = np.argsort(-order, kind="stable")
    gone = np.empty(len(areas))
    gone[place] = np.cumsum(areas[place])  # the share of the area that is gone with each part
    shares = np.arange(STEPS + 1) / STEPS
    return (gone[None, :] <= shares[:, None] + 1e-6).astype(np.float64)


def _brightness(piece: TrackSlices, views: Sequence[View], edges: bool) -> Float64Array:
    """Give the mean brightness of each part of one slice, or how much it moves in time."""
    found = []
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
        found.append(np.tensordot(masks, shown, axes=2) / masks.sum(axis=(1, 2)))
    return np.concatenate(found).astype(np.float64)


def rank_correlation(one: Maps, other: Maps) -> float:
    """Give Spearman's rank correlation of two maps, part by part: -1 to 1; 0 if one of them is flat."""
    from scipy.stats import spearmanr

    first, second = (np.concatenate([gather_cells(maps[view], view).ravel() for view in one]) for maps in (one, other))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def add_noise(track_slices: TrackSlices, seed: int = 0) -> TrackSlices:
    """Add noise that can't be heard: of a spread of one grey level, and of 0.01 of the compressed mel power."""
    rng = np.random.default_rng(seed)
    images = track_slices.images + rng.normal(0, _NOISE, track_slices.images.shape)
    sound = None
    if track_slices.mel_16k is not None:
        heard = compress(track_slices.mel_16k) + rng.normal(0, _HEARD_NOISE, track_slices.mel_16k.shape).astype(
            np.float32
        )
        sound = decompress(np.maximum(heard, 0))
    return track_slices.replace(np.clip(np.rint(images), 0, 255).astype(np.uint8), sound)


def shuffle_weights(bundle: Bundle, seed: int = 0) -> Bundle | None:
    """Give the bundle with the numbers within each array of weights shuffled; None for trees, which have none.

    Shuffled and not drawn anew, so that their size stays: else the answers would all be the same, or none.
    """
    whole = load_weights_for(bundle)
    model = base.shuffle_weights(whole.model, np.random.default_rng(seed))
    return None if model is None else replace(whole, model=model)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
