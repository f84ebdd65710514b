"""Explaining a track: the one way in, for files and for tracks of a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree._evaluate import check_images
from genretree._predict import Heard, describe
from genretree.bundle import Bundle
from genretree.checks import require_path, require_type
from genretree.corpus.store import Store
from genretree.corpus.triples import ImageSet
from genretree.errors import SettingsError
from genretree.explain.background import find_background
from genretree.explain.methods import Method, choose_method, make_maps
from genretree.explain.modalities import Shares, find_shares
from genretree.explain.neighbours import check_index, find_neighbours
from genretree.explain.occlusion import Maps
from genretree.explain.pieces import Pieces, find_track, read_file, read_images, read_track, score
from genretree.explain.result import UNITS, Explanation, Passage, Reason, Relevance, TimeLine
from genretree.explain.targets import Target, find_node, make_target, targets_of_path
from genretree.models.contract import LevelProbabilities
from genretree.scores import decode_levels
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
        Images of the track's slices, as `genretree.from_images.find_image_sets` gives them; they take the place of
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
        Measure how faithful the deepest node's map is; see `genretree.explain.check`.
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
        pieces = read_images(bundle, images, image_form)
    elif store is None:
        pieces = read_file(bundle, file, salvage)
    else:
        check_images(bundle, store)
        pieces = read_track(bundle, store, find_track(store, str(file)))
    found = explain_pieces(
        bundle,
        pieces,
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


def explain_pieces(
    bundle: Bundle,
    pieces: Pieces,
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
    levels = score(bundle, pieces)
    prediction = describe(bundle, pieces.name, Heard(levels, pieces.starts.tolist(), pieces.padded))
    nodes = predicted_nodes(bundle, levels)
    targets = asked or targets_of_path(bundle.taxonomy, nodes)
    if level is not None:
        targets = [make_target(bundle.taxonomy, at := _find_level(bundle, level), nodes[at], against)]
    background = find_background(pieces)
    shares = find_shares(bundle, pieces, background, targets, progress)
    maps = make_maps(bundle, pieces, background, targets, shares.views, chosen, masks, seed, progress)
    return Explanation(
        prediction,
        tuple(tree_chances(bundle, levels)),
        chosen,
        UNITS[chosen],
        pieces,
        tuple(_reason(target, number, shares, maps) for number, target in enumerate(targets)),
        tuple(make_timelines(bundle, levels, nodes, pieces.starts, pieces.seconds, [item.node for item in targets])),
        find_neighbours(bundle, pieces, neighbours),
        bundle.family,
        time.monotonic() - begun,
        _check(bundle, pieces, targets[-1], chosen, seed) if check else None,
    )


def _check(bundle: Bundle, pieces: Pieces, target: Target, method: Method, seed: int) -> dict[str, Any]:
    from genretree.explain.check import check_track  # loads torch

    return check_track(bundle, pieces, target, method, seed).to_json()


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


def tree_chances(bundle: Bundle, levels: LevelProbabilities) -> list[tuple[NodePath, float]]:
    """Give every node of the tree with its calibrated probability for the whole track."""
    averaged = bundle.calibrate([level.mean(axis=0, keepdims=True) for level in levels], "track")
    found: dict[NodePath, float] = {}
    for level, probabilities in enumerate(averaged):
        for path, chance in zip(bundle.taxonomy.nodes(level), probabilities[0].tolist(), strict=True):
            found.setdefault(path, chance)
    return sorted(found.items())


def _reason(target: Target, number: int, shares: Shares, maps: Maps) -> Reason:
    return Reason(
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
) -> list[TimeLine]:
    """Give a line for each node of a path, from what the model says of slices that begin at `starts`, in seconds.

    And for each of the nodes `beside` that is not on it.
    """
    by_slice = bundle.calibrate(levels, "slice")
    listed = [bundle.taxonomy.nodes(level) for level in range(len(nodes))]
    path_nodes = [listed[level][node] for level, node in enumerate(nodes)]
    found: list[TimeLine] = []
    for path in dict.fromkeys((*path_nodes, *beside)):
        level = next(level for level, known in enumerate(listed) if path in known)
        chances = by_slice[level][:, listed[level].index(path)]
        order = np.argsort(-chances, kind="stable")
        most = max(1, min(_PASSAGES, len(order) // 2))
        passages = [_passage(float(starts[row]), seconds, float(chances[row])) for row in order]
        typical = tuple(passages[:most])
        untypical = tuple(passages[::-1][:most]) if len(order) > 1 else ()
        found.append(TimeLine(path, chances, typical, untypical))
    return found


def _passage(start: float, seconds: float, chance: float) -> Passage:
    return Passage(round(start, 3), round(start + seconds, 3), round(chance, 6))
