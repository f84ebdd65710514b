"""The function `explain`, and the steps of an explanation that the service calls one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array
from genretree.bundle.bundle import Bundle
from genretree.checks import (
    require_choice,
    require_integer,
    require_iterable,
    require_name_or_path,
    require_path,
    require_type,
)
from genretree.corpus.store import Store
from genretree.corpus.triples import ImageSet
from genretree.errors import SettingsError
from genretree.evaluation.evaluate import check_images
from genretree.explanation.bands import BandRelevance
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.methods.band_occlusion import measure_bands
from genretree.explanation.methods.occlusion import Maps
from genretree.explanation.methods.registry import Method, choose_method, compute_maps
from genretree.explanation.methods.shapley import ShapleyValues, compute_shapley_values
from genretree.explanation.result import UNITS, Explanation, NodeExplanation, Passage, Relevance, Timeline
from genretree.explanation.sentences import write_sentences
from genretree.explanation.similar.neighbours import check_index, find_neighbours
from genretree.explanation.slices import (
    TrackSlices,
    find_track,
    read_file,
    read_images,
    read_track,
    require_views,
    score,
)
from genretree.explanation.target import Target, find_node, make_target, targets_of_path
from genretree.metrics.scores import decode_levels
from genretree.models.base import LevelProbabilities
from genretree.models.families.tagger.model import TaggerModel
from genretree.models.pretrained.sources import has_mn04
from genretree.prediction.predict import SliceScores, as_prediction, tag_slices
from genretree.sound.images import ImageForm
from genretree.taxonomy import NodePath, display_name, format_path

_PASSAGES = 2


def explain(
    bundle: Bundle,
    file: str | Path,
    *,
    store: Store | None = None,
    images: Sequence[ImageSet] = (),
    image_form: ImageForm = "auto",
    node: str | Sequence[str] | None = None,
    against: str | Sequence[str] | None = None,
    method: str | None = None,
    level: int | str | None = None,
    masks: int = 0,
    neighbours: int | None = None,
    seed: int = 0,
    salvage: bool = False,
    check: bool = False,
    progress: bool = False,
) -> Explanation:
    """Explain which parts of the audio drove a prediction.

    Relevance is computed for the log odds of a node against others, per slice, on axes of frequency and time.

    Parameters
    ----------
    bundle : Bundle
        The model.
    file : str or path
        An audio file; with `store`, the path of a track in the store, the end of that path, or `#` and its row.
    store : Store, optional
        Read the slices from this store. It must have the image settings of the bundle.
    images : sequence of ImageSet, optional
        Images of the slices of one track, from `genretree.prediction.from_images.find_image_sets`. They replace
        `file`, which is ignored.
    image_form : {"auto", "drawn", "grey", "raw"}, default "auto"
        How `images` encode their values; see `genretree.sound.images.read_image`.
    node : str or sequence of str, optional
        Name or path of the node to explain, such as `Rock`, `Rock > Punk` or `("Rock", "Punk")`. By default, each node
        of the predicted path.
    against : str or sequence of str, optional
        Name or path of the node to contrast with. By default, the siblings of `node`.
    method : {"occlusion", "gradcam", "integrated-gradients", "rollout"}, optional
        By default occlusion, which supports every family. gradcam supports cnn and efficientnet-b0, rollout supports
        ast, and integrated-gradients supports all three; families of other packages support what their
        `explain_methods` names.
    level : int or str, optional
        Explain only the predicted node of this level, given by name or by number (1 is the top level).
    masks : int, default 0
        Number of random masks for occlusion (RISE). 0 occludes each part in turn.
    neighbours : int, optional
        Number of nearest training tracks to list. By default 5 if the bundle has an index, otherwise none.
    seed : int, default 0
        Seed of random masks and of the faithfulness check.
    salvage : bool, default False
        Use the decodable part of a truncated file.
    check : bool, default False
        Measure the faithfulness of the map of the deepest node; see `genretree.explanation.evaluate.faithfulness`.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    Explanation
        Relevance maps, Shapley values of the views, time lines and, if available, the nearest training tracks.

    Raises
    ------
    ArgumentError
        If an argument is of the wrong type or out of range.
    SoundError, ImageError
        If the file or an image cannot be read, is silent, or is too short.
    TaxonomyError
        If a node is not in the tree; the message suggests the closest name.
    SettingsError
        If the method is unknown or does not support the family of the bundle, if the model takes registered features
        only, or if options contradict each other.
    CorpusError
        If the store has no such track, or its image settings differ from those of the bundle.
    BundleError
        If `neighbours` is set and the bundle has no index.

    See Also
    --------
    genretree.Explanation : The result.
    genretree.explanation.render.page.save_explanation : Write an explanation as a page, pictures and arrays.
    genretree.explanation.evaluate.faithfulness.measure_faithfulness : Measure the faithfulness of a map.

    Examples
    --------
    >>> import genretree
    >>> model = genretree.load("BUNDLE")
    >>> explanation = genretree.explain(model, "song.mp3", node="Rock", against="Jazz")
    >>> len(explanation.reasons)
    1
    """
    require_type("bundle", bundle, Bundle, "use genretree.load")
    require_iterable("images", images, "ImageSets")
    images = list(images)
    for image_set in images:
        require_type("each of images", image_set, ImageSet, "use genretree.prediction.from_images.find_image_sets")
    if not images:
        file = require_path("file", file)
    if store is not None:
        require_type("store", store, Store, "use genretree.Store")
    require_choice("image_form", image_form, get_args(ImageForm))
    require_integer("masks", masks, minimum=0)
    require_integer("seed", seed, minimum=0)
    if neighbours is not None:
        require_integer("neighbours", neighbours)
    if node is not None:
        node = require_name_or_path("node", node)
    if against is not None:
        against = require_name_or_path("against", against)
    if level is not None and not isinstance(level, str):
        require_integer("level", level)
    check_question(bundle, node, against, method, level, masks)  # before decoding
    check_index(bundle, neighbours)
    start = time.monotonic()
    if images:
        track_slices = read_images(bundle, images, image_form)
    elif store is None:
        track_slices = read_file(bundle, file, salvage)
    else:
        check_images(bundle, store)
        track_slices = read_track(bundle, store, find_track(store, str(file)))
    explanation = explain_slices(
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
        tags=None if images or store is not None else find_tags(bundle, file, track_slices, salvage),
    )
    return replace(explanation, seconds=time.monotonic() - start)


def explain_slices(
    bundle: Bundle,
    track_slices: TrackSlices,
    *,
    node: str | Sequence[str] | None = None,
    against: str | Sequence[str] | None = None,
    method: str | None = None,
    level: int | str | None = None,
    masks: int = 0,
    neighbours: int | None = None,
    seed: int = 0,
    check: bool = False,
    progress: bool = False,
    tags: Float32Array | None = None,
    on_maps: Callable[[Explanation, bool], None] | None = None,
) -> Explanation:
    """Explain slices that are already in memory.

    The options are those of `explain`. `tags` holds tag probabilities of mn04, shape (n_slices, 527). `on_maps` is
    called with an explanation that has maps, but no sentences, neighbours or check yet, and whether its maps are
    coarse: once after about half of the work of an occlusion, and once when the maps are complete.
    """
    method_name, requested_targets = check_question(bundle, node, against, method, level, masks)
    check_index(bundle, neighbours)
    start = time.monotonic()
    levels = score(bundle, track_slices)
    prediction = as_prediction(
        bundle, track_slices.name, SliceScores(levels, track_slices.starts.tolist(), track_slices.padded)
    )
    nodes = predicted_nodes(bundle, levels)
    targets = requested_targets or targets_of_path(bundle.taxonomy, nodes)
    if level is not None:
        targets = [make_target(bundle.taxonomy, at := _find_level(bundle, level), nodes[at], against)]
    baseline = compute_baseline(track_slices)
    shapley_values = compute_shapley_values(bundle, track_slices, baseline, targets, progress)
    views = shapley_values.views

    def show(maps: Maps, coarse: bool) -> None:
        if on_maps is not None:
            on_maps(replace(without_maps, reasons=explain_nodes(maps, ())), coarse)

    def explain_nodes(maps: Maps, bands: Sequence[BandRelevance]) -> tuple[NodeExplanation, ...]:
        return tuple(
            _explain_node(target, number, shapley_values, maps, bands, track_slices, tags if bands else None)
            for number, target in enumerate(targets)
        )

    without_maps = Explanation(
        prediction=prediction,
        tree=tuple(node_probabilities(bundle, levels)),
        method=method_name,
        unit=UNITS[method_name],
        track_slices=track_slices,
        reasons=(),
        timelines=tuple(
            make_timelines(
                bundle, levels, nodes, track_slices.starts, track_slices.seconds, [item.node for item in targets]
            )
        ),
        neighbours=None,
        family=bundle.family,
        seconds=0.0,
    )
    maps = compute_maps(
        bundle, track_slices, baseline, targets, views, method_name, masks, seed, progress, partial(show, coarse=True)
    )
    show(maps, coarse=False)
    bands = measure_bands(bundle, track_slices, baseline, targets, views, seed, progress)
    return replace(
        without_maps,
        reasons=explain_nodes(maps, bands),
        neighbours=find_neighbours(bundle, track_slices, neighbours),
        seconds=time.monotonic() - start,
        check=_check(bundle, track_slices, targets[-1], method_name, seed) if check else None,
    )


def find_tagger() -> TaggerModel | None:
    """Load mn04; None if its weights are not on this machine."""
    if not has_mn04():
        return None
    from genretree.prediction.untrained import load_tagger

    return load_tagger()


def find_tags(
    bundle: Bundle, file: str | Path, track_slices: TrackSlices, salvage: bool = False
) -> Float32Array | None:
    """Compute the tags of mn04 for the slices of a file: shape (n_slices, 527); None if its weights are not cached."""
    tagger = find_tagger()
    return None if tagger is None else tag_slices(tagger, file, bundle, track_slices.starts.tolist(), salvage)


def _check(bundle: Bundle, track_slices: TrackSlices, target: Target, method: Method, seed: int) -> dict[str, Any]:
    from genretree.explanation.evaluate.faithfulness import measure_faithfulness  # loads torch

    return measure_faithfulness(bundle, track_slices, target, method, seed).to_json()


def predicted_nodes(bundle: Bundle, levels: LevelProbabilities) -> list[int]:
    """Predict the node of the whole track at each level, as an index into the nodes of the level."""
    averaged = bundle.average_slices(levels)
    nodes: list[int] = decode_levels(bundle.taxonomy, bundle.model.heads, averaged)[0].tolist()
    return nodes


def check_question(
    bundle: Bundle,
    node: str | Sequence[str] | None = None,
    against: str | Sequence[str] | None = None,
    method: str | None = None,
    level: int | str | None = None,
    masks: int = 0,
) -> tuple[Method, list[Target]]:
    """Validate the options of `explain`; return the method, and the target if it does not depend on the prediction.

    Raises
    ------
    TaxonomyError, SettingsError
        As in `explain`.
    """
    method_name = choose_method(method)
    require_views(bundle)
    if masks and method_name != "occlusion":
        raise SettingsError(f"`masks` needs the method occlusion, got '{method_name}'")
    return method_name, _find_targets(bundle, node, against, level)


def _find_targets(
    bundle: Bundle, node: str | Sequence[str] | None, against: str | Sequence[str] | None, level: int | str | None
) -> list[Target]:
    if level is not None:
        _find_level(bundle, level)
        if node is not None:
            raise SettingsError(f"got node '{_show_node(node)}' and level '{level}'; give a node or a level, not both")
    if node is None:
        if against is not None and level is None:
            raise SettingsError(
                f"`against` is '{_show_node(against)}', but there is no node to contrast it with; "
                "give `node` or `level`"
            )
        return []
    return [make_target(bundle.taxonomy, *find_node(bundle.taxonomy, node), against)]


def _show_node(node: str | Sequence[str]) -> str:
    return node if isinstance(node, str) else format_path(node)


def _find_level(bundle: Bundle, level: int | str) -> int:
    names = bundle.taxonomy.levels
    if level in names:
        return names.index(str(level))
    if str(level).isdecimal() and 1 <= int(level) <= len(names):
        return int(level) - 1
    raise SettingsError(f"no level '{level}'; use one of: {', '.join(names)} (or 1 to {len(names)})")


def node_probabilities(bundle: Bundle, levels: LevelProbabilities) -> list[tuple[NodePath, float]]:
    """Compute the calibrated probability of every node of the tree for the whole track."""
    averaged = bundle.average_slices(levels)
    probabilities_by_path: dict[NodePath, float] = {}
    for level, probabilities in enumerate(averaged):
        for path, probability in zip(bundle.taxonomy.nodes(level), probabilities[0].tolist(), strict=True):
            probabilities_by_path.setdefault(path, probability)
    return sorted(probabilities_by_path.items())


def _explain_node(
    target: Target,
    index: int,
    shapley_values: ShapleyValues,
    maps: Maps,
    bands: Sequence[BandRelevance],
    track_slices: TrackSlices,
    tags: Float32Array | None,
) -> NodeExplanation:
    of_node = {view: values[:, index] for view, values in maps.items()}
    return NodeExplanation(
        target=target,
        log_odds=shapley_values.full[:, index],
        baseline=shapley_values.none[:, index],
        shares={view: shapley_values.values[:, index, column] for column, view in enumerate(shapley_values.views)},
        maps=tuple(Relevance(view, values) for view, values in of_node.items()),
        sentences=write_sentences(
            display_name(target.node[-1]),
            bands,
            index,
            of_node,
            track_slices,
            tags,
            alternative=display_name(target.against[0][-1]) if len(target.against) == 1 else None,
            log_odds=float(shapley_values.full[:, index].mean()),
        ),
    )


def make_timelines(
    bundle: Bundle,
    levels: LevelProbabilities,
    nodes: Sequence[int],
    starts: NDArray[np.float64],
    seconds: float,
    extra_nodes: Sequence[NodePath] = (),
) -> list[Timeline]:
    """Compute the time line of each node of a path, and of each extra node that is not on the path.

    `levels` holds the probabilities of slices that begin at `starts` and last `seconds`, in seconds.
    """
    by_slice = bundle.calibrate(levels, "slice")
    nodes_by_level = [bundle.taxonomy.nodes(level) for level in range(len(nodes))]
    path_nodes = [nodes_by_level[level][node] for level, node in enumerate(nodes)]
    timelines: list[Timeline] = []
    for path in dict.fromkeys((*path_nodes, *extra_nodes)):
        level = next(level for level, nodes_at_level in enumerate(nodes_by_level) if path in nodes_at_level)
        probabilities = by_slice[level][:, nodes_by_level[level].index(path)]
        order = np.argsort(-probabilities, kind="stable")
        n_passages = max(1, min(_PASSAGES, len(order) // 2))
        passages = [_passage(float(starts[row]), seconds, float(probabilities[row])) for row in order]
        typical = tuple(passages[:n_passages])
        untypical = tuple(passages[::-1][:n_passages]) if len(order) > 1 else ()
        timelines.append(Timeline(node=path, probabilities=probabilities, typical=typical, untypical=untypical))
    return timelines


def _passage(start: float, seconds: float, probability: float) -> Passage:
    return Passage(round(start, 3), round(start + seconds, 3), round(probability, 6))
