"""Explaining a track: the one way in, for files and for tracks of a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.bundle.bundle import Bundle
from genretree.checks import require_path, require_type
from genretree.corpus.store import Store
from genretree.corpus.triples import ImageSet
from genretree.errors import SettingsError
from genretree.evaluation.evaluate import check_images
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.methods.occlusion import Maps
from genretree.explanation.methods.registry import Method, choose_method, make_maps
from genretree.explanation.methods.shapley import ShapleyValues, compute_shapley_values
from genretree.explanation.result import UNITS, Explanation, NodeExplanation, Passage, Relevance, Timeline
from genretree.explanation.similar.neighbours import check_index, find_neighbours
from genretree.explanation.slices import TrackSlices, find_track, read_file, read_images, read_track, score
from genretree.explanation.target import Target, find_node, make_target, targets_of_path
from genretree.metrics.scores import decode_levels
from genretree.models.base import LevelProbabilities
from genretree.prediction.predict import SliceScores, as_prediction
from genretree.sound.images import ImageForm
from genretree.taxonomy import NodePath

_PASSAGES = 2


def explain(
    bundle: Bundle,
    file: str | Path,
    *,
    store: Store | None = None,
    images: Sequence[ImageSet] = (),
    image_form: ImageForm = "auto",
    node: str | None = None,
    against: str | None = None,
    method: str | None = None,
    level: int | str | None = None,
    masks: int = 0,
    neighbours: int | None = None,
    seed: int = 0,
    salvage: bool = False,
    check: bool = False,
    progress: bool = False,
) -> Explanation:
    """Say which part of the sound decided.

    Parameters
    ----------
    bundle : Bundle
    file : path
        A sound file; with `store`, a track's path in it, or `#` and its number.
    store : Store, optional
        Take the slices from there.
    images : sequence of ImageSet, optional
        Images of the track's slices, as `genretree.prediction.from_images.find_image_sets` gives them; they take the
        place of
        `file`.
    image_form : "auto", "drawn", "grey" or "raw"
        See `genretree.sound.images.read_image`.
    node : str, optional
        The node to ask for; by default that of the predicted path, at each level.
    against : str, optional
        Another node to hold it against; by default its siblings.
    method : "gradcam", "rollout", "integrated-gradients" or "occlusion", optional
        By default occlusion, which serves every family; gradcam is for cnn and efficientnet-b0, rollout for ast.
    level : int or str, optional
        Ask for the predicted node of this level only, by its name or its number from 1.
    masks : int
        For occlusion: 0 takes each part away by itself; else so many random masks.
    neighbours : int, optional
        How many of the nearest training tracks to name; by default 5 if the bundle has an index.
    seed : int
        Of random masks.
    salvage : bool
        Use what can be decoded of a truncated file.
    check : bool
        Measure how faithful the deepest node's map is; see `genretree.explanation.evaluate.faithfulness`.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    Explanation

    Raises
    ------
    SoundError, ImageError
        If the file or an image can't be used.
    TaxonomyError
        For a node that isn't in the tree, with the likely intended one.
    SettingsError
        For an unknown method, or one that doesn't fit the family.
    CorpusError
        If there is no such track in the store, or it was drawn in another way.
    BundleError
        If neighbours are asked for and the bundle has no index.

    See Also
    --------
    genretree.Explanation : The result.
    genretree.predict : Predict without an explanation.

    Examples
    --------
    >>> import genretree
    >>> model = genretree.load("BUNDLE")
    >>> explanation = genretree.explain(model, "song.mp3", node="Rock", against="Jazz")
    >>> len(explanation.reasons)
    1
    """
    require_type("bundle", bundle, Bundle, "use genretree.load")
    if not images:
        file = require_path("file", file)
    if store is not None:
        require_type("store", store, Store, "use genretree.Store")
    check_question(bundle, node, against, method, level, masks)  # before anything is read
    check_index(bundle, neighbours)
    begun = time.monotonic()
    if images:
        track_slices = read_images(bundle, images, image_form)
    elif store is None:
        track_slices = read_file(bundle, file, salvage)
    else:
        check_images(bundle, store)
        track_slices = read_track(bundle, store, find_track(store, str(file)))
    found = explain_slices(
        bundle,
        track_slices,
        node=node,
        against=against,
        method=method,
        level=level,
        masks=masks,
        neighbours=neighbours,
        seed=seed,
        check=check,
        progress=progress,
    )
    return replace(found, seconds=time.monotonic() - begun)


def explain_slices(
    bundle: Bundle,
    track_slices: TrackSlices,
    *,
    node: str | None = None,
    against: str | None = None,
    method: str | None = None,
    level: int | str | None = None,
    masks: int = 0,
    neighbours: int | None = None,
    seed: int = 0,
    check: bool = False,
    progress: bool = False,
) -> Explanation:
    """Explain slices that were read before; all else is as `explain` takes it."""
    chosen, asked = check_question(bundle, node, against, method, level, masks)
    check_index(bundle, neighbours)
    begun = time.monotonic()
    levels = score(bundle, track_slices)
    prediction = as_prediction(
        bundle, track_slices.name, SliceScores(levels, track_slices.starts.tolist(), track_slices.padded)
    )
    nodes = predicted_nodes(bundle, levels)
    targets = asked or targets_of_path(bundle.taxonomy, nodes)
    if level is not None:
        targets = [make_target(bundle.taxonomy, at := _find_level(bundle, level), nodes[at], against)]
    baseline = compute_baseline(track_slices)
    shares = compute_shapley_values(bundle, track_slices, baseline, targets, progress)
    maps = make_maps(bundle, track_slices, baseline, targets, shares.views, chosen, masks, seed, progress)
    return Explanation(
        prediction,
        tuple(node_probabilities(bundle, levels)),
        chosen,
        UNITS[chosen],
        track_slices,
        tuple(_reason(target, number, shares, maps) for number, target in enumerate(targets)),
        tuple(
            make_timelines(
                bundle, levels, nodes, track_slices.starts, track_slices.seconds, [item.node for item in targets]
            )
        ),
        find_neighbours(bundle, track_slices, neighbours),
        bundle.family,
        time.monotonic() - begun,
        _check(bundle, track_slices, targets[-1], chosen, seed) if check else None,
    )


def _check(bundle: Bundle, track_slices: TrackSlices, target: Target, method: Method, seed: int) -> dict[str, Any]:
    from genretree.explanation.evaluate.faithfulness import measure_faithfulness  # loads torch

    return measure_faithfulness(bundle, track_slices, target, method, seed).to_json()


def predicted_nodes(bundle: Bundle, levels: LevelProbabilities) -> list[int]:
    """Give the index of the predicted node at each level, of the whole track."""
    averaged = bundle.calibrate([level.mean(axis=0, keepdims=True) for level in levels], "track")
    nodes: list[int] = decode_levels(bundle.taxonomy, bundle.model.heads, averaged)[0].tolist()
    return nodes


def check_question(
    bundle: Bundle,
    node: str | None = None,
    against: str | None = None,
    method: str | None = None,
    level: int | str | None = None,
    masks: int = 0,
) -> tuple[Method, list[Target]]:
    """Refuse a question that can't be answered; else give the method, and the target if it is known without the sound.

    Raises
    ------
    TaxonomyError, SettingsError
        As `explain`.
    """
    chosen = choose_method(method)
    if masks and chosen != "occlusion":
        raise SettingsError(f"random masks are for the method occlusion, not {chosen}")
    return chosen, _find_targets(bundle, node, against, level)


def _find_targets(bundle: Bundle, node: str | None, against: str | None, level: int | str | None) -> list[Target]:
    if level is not None:
        _find_level(bundle, level)
        if node is not None:
            raise SettingsError("give a node or a level, not both")
    if node is None:
        if against is not None and level is None:
            raise SettingsError("`against` needs a `node` or a `level` to contrast with it")
        return []
    return [make_target(bundle.taxonomy, *find_node(bundle.taxonomy, node), against)]


def _find_level(bundle: Bundle, level: int | str) -> int:
    names = bundle.taxonomy.levels
    if level in names:
        return names.index(str(level))
    if str(level).isdigit() and 1 <= int(level) <= len(names):
        return int(level) - 1
    raise SettingsError(f"no level '{level}'; there are: {', '.join(names)} (or 1 to {len(names)})")


def node_probabilities(bundle: Bundle, levels: LevelProbabilities) -> list[tuple[NodePath, float]]:
    """Give every node of the tree with its calibrated probability for the whole track."""
    averaged = bundle.calibrate([level.mean(axis=0, keepdims=True) for level in levels], "track")
    found: dict[NodePath, float] = {}
    for level, probabilities in enumerate(averaged):
        for path, chance in zip(bundle.taxonomy.nodes(level), probabilities[0].tolist(), strict=True):
            found.setdefault(path, chance)
    return sorted(found.items())


def _reason(target: Target, number: int, shares: ShapleyValues, maps: Maps) -> NodeExplanation:
    return NodeExplanation(
        target,
        shares.full[:, number],
        shares.none[:, number],
        {view: shares.values[:, number, place] for place, view in enumerate(shares.views)},
        tuple(Relevance(view, values[:, number]) for view, values in maps.items()),
    )


def make_timelines(
    bundle: Bundle,
    levels: LevelProbabilities,
    nodes: Sequence[int],
    starts: NDArray[np.float64],
    seconds: float,
    beside: Sequence[NodePath] = (),
) -> list[Timeline]:
    """Give a line for each node of a path, from what the model says of slices that begin at `starts`, in seconds.

    And for each of the nodes `beside` that is not on it.
    """
    by_slice = bundle.calibrate(levels, "slice")
    listed = [bundle.taxonomy.nodes(level) for level in range(len(nodes))]
    path_nodes = [listed[level][node] for level, node in enumerate(nodes)]
    found: list[Timeline] = []
    for path in dict.fromkeys((*path_nodes, *beside)):
        level = next(level for level, known in enumerate(listed) if path in known)
        chances = by_slice[level][:, listed[level].index(path)]
        order = np.argsort(-chances, kind="stable")
        most = max(1, min(_PASSAGES, len(order) // 2))
        passages = [_passage(float(starts[row]), seconds, float(chances[row])) for row in order]
        typical = tuple(passages[:most])
        untypical = tuple(passages[::-1][:most]) if len(order) > 1 else ()
        found.append(Timeline(path, chances, typical, untypical))
    return found


def _passage(start: float, seconds: float, chance: float) -> Passage:
    return Passage(round(start, 3), round(start + seconds, 3), round(chance, 6))
