"""Maps by gradients: the Grad-CAM family and integrated gradients, through captum.

Grad-CAM is taken in its element-wise form (HiResCAM, Draelos and Carin 2020): gradient times activation of the last
convolutional layer, which for a network that ends in pooling and a linear layer is exactly what each place adds to the
score. The layer mixes mel, CQT and chroma, whose rows mean different frequencies; so it is asked for every coalition of
them, and each place's sum is divided among them by Shapley values. What is mapped adds up to the log odds less those of
the background, but for what no place of the layer holds: the curvature of what comes after it, and statistics of the
images, if the model sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genretree.arrays import Float32Array
from genretree.errors import MissingExtraError, SettingsError
from genretree.explanation.baseline import replace_views
from genretree.explanation.coordinates import IMAGES, View, gather_pixels
from genretree.explanation.methods.shapley import join, shapley_weights, subsets
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target
from genretree.models.base import Model
from genretree.models.features.image_statistics import image_statistics
from genretree.models.linear.hierarchical import LinearTree
from genretree.models.neural.linear_probe import LinearNetworkModel
from genretree.models.neural.network import GenreNetwork, NetworkModel, shift_in_time
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy

_IG_STEPS = 32
_AT_A_TIME = 32


Maps = dict[View, Float32Array]


class LogOdds(nn.Module):
    """From images, as float tensors of grey levels, to the log odds of a target.

    By the network's head, or by a linear classifier on its features.

    Parameters
    ----------
    model : NetworkModel or LinearNetworkModel
    taxonomy : Taxonomy
    target : Target
    """

    def __init__(self, model: NetworkModel | LinearNetworkModel, taxonomy: Taxonomy, target: Target) -> None:
        super().__init__()
        self.network: GenreNetwork = model.network
        self.linear = model.linear if isinstance(model, LinearNetworkModel) else None
        self.taxonomy = taxonomy
        self.target = target

    def forward(self, images: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Give log odds, shape (n,), of images (n, 3, size, size); `statistics`, (n, width), count as given."""
        turns = self.network.settings.n_tta_shifts
        pixels = self.network.read_images(torch.cat(list(shift_in_time(images, turns))))
        features: Tensor = self.network.backbone.features(pixels)  # type: ignore[operator]
        if self.linear is None:
            scores = self.network.backbone.classify(features)  # type: ignore[operator]
            levels = [
                level.reshape(turns, -1, level.shape[1]).logsumexp(dim=0)
                for level in self.network.head.log_probabilities(scores)
            ]
        else:
            pooled = features.reshape(turns, -1, features.shape[1]).mean(dim=0)
            seen = pooled if statistics is None else torch.cat([pooled, statistics], dim=1)
            levels = _linear_levels(self.linear, seen)
        own: Tensor = levels[self.target.level][:, list(self.target.nodes)].logsumexp(dim=1)
        return own - levels[self.target.other_level][:, list(self.target.others)].logsumexp(dim=1)


def _linear_levels(linear: LinearTree, seen: Tensor) -> list[Tensor]:
    """Give log probabilities by level, (n, n_nodes), as `LinearTree.predict` does without a gradient."""
    found = []
    for level, head in zip(linear.levels, linear.linear, strict=True):
        width = len(linear.taxonomy.nodes(level))
        if head is None:
            found.append(seen.new_zeros(len(seen), width))
            continue
        mean, scale, weights, bias = (
            torch.from_numpy(part) for part in (head.mean, head.scale, head.weights, head.bias)
        )
        scores = ((seen - mean) / scale) @ weights.T + bias
        lowest = seen.new_full((len(seen), width), -30.0)  # classes that never occurred
        found.append(lowest.index_copy(1, torch.from_numpy(head.classes), scores.log_softmax(dim=1)))
    if linear.heads == "independent":
        return found
    leaves, ancestors = found[0], linear.taxonomy.ancestors
    return [
        torch.stack(
            [
                leaves[:, np.flatnonzero(ancestors[:, level] == node).tolist()].logsumexp(dim=1)
                for node in range(len(linear.taxonomy.nodes(level)))
            ],
            dim=1,
        )
        for level in range(linear.taxonomy.depth)
    ]


def as_network(model: Model, method: str) -> NetworkModel | LinearNetworkModel:
    """Refuse a method that needs a network for what is none.

    Raises
    ------
    SettingsError
    """
    if isinstance(model, (NetworkModel, LinearNetworkModel)):
        return model
    raise SettingsError(f"{method} needs the gradients of a network that sees images only; use `method='occlusion'`")


def need_captum() -> None:
    """Refuse if captum is not installed. Raises MissingExtraError."""
    if find_spec("captum") is None:
        raise MissingExtraError("captum", "explain")


def last_maps(network: GenreNetwork) -> nn.Module | None:
    """Give the layer before the pooling of a convolutional network; None if there is none."""
    backbone: Any = network.backbone
    if hasattr(backbone, "stages"):
        return backbone.norm  # type: ignore[no-any-return]
    encoder = getattr(getattr(backbone, "backbone", None), "encoder", None)
    return getattr(encoder, "top_activation", None)


def gradcam(
    model: Model,
    taxonomy: Taxonomy,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    progress: bool,
) -> Maps:
    """Map by the last convolutional layer; shapes as `occlude` gives.

    Raises
    ------
    SettingsError
        If the model has no such layer.
    MissingExtraError
        If captum is not installed.
    """
    known = as_network(model, "gradcam")
    layer = last_maps(known.network)
    if layer is None:
        raise SettingsError(
            "gradcam needs convolutions (cnn, efficientnet-b0); use `method='rollout'` or `method='occlusion'`"
        )
    need_captum()
    from captum.attr import LayerGradientXActivation

    views: list[View] = list(known.network.settings.modalities)
    coalitions = subsets(views)
    everything = frozenset(views)
    weights = shapley_weights(views).astype(np.float32)
    size = track_slices.images.shape[-1]
    found: dict[View, list[list[Float32Array]]] = {view: [] for view in views}
    with progress_bar(len(track_slices) * len(targets), "gradcam", "slice", progress) as tick:
        for number in range(len(track_slices)):
            own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
            versions = join([replace_views(own, empty, everything - some) for some in coalitions])
            images, statistics = _as_tensors(known, versions)
            rows: dict[View, list[Float32Array]] = {view: [] for view in views}
            for target in targets:
                attribute = LayerGradientXActivation(LogOdds(known, taxonomy, target), layer).attribute
                given = (images,) if statistics is None else (images, statistics)
                at_places: Any = attribute(given).detach().sum(dim=1).float()
                by_view = np.tensordot(weights, _turn_back(at_places, known.network, size), axes=1)
                for view, pixels in zip(views, by_view, strict=True):
                    rows[view].append(gather_pixels(pixels, view))
                tick()
            for view in views:
                found[view].append(rows[view])
    return {view: np.asarray(found[view], np.float32) for view in views}


def _turn_back(places: Tensor, network: GenreNetwork, size: int) -> Float32Array:
    """Spread maps of a layer, (turns * n, h, w), over the images, and undo the turns in time: (n, size, size)."""
    turns = network.settings.n_tta_shifts
    height, width = places.shape[1:]
    large = functional.interpolate(places[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    large *= height * width / size**2  # what a place has is divided among the pixels under it
    by_turn = large.reshape(turns, -1, size, size)
    back = [one.roll(-round(turn * size / turns), dims=2) for turn, one in enumerate(by_turn)]
    summed: Float32Array = torch.stack(back).sum(dim=0).numpy()
    return summed


def integrated_gradients(
    model: Model,
    taxonomy: Taxonomy,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    progress: bool,
) -> Maps:
    """Map by integrated gradients (Sundararajan et al. 2017) from the background to the slice, in 32 steps.

    Raises
    ------
    SettingsError
        If the model is no network that sees images.
    MissingExtraError
        If captum is not installed.
    """
    known = as_network(model, "integrated-gradients")
    need_captum()
    from captum.attr import IntegratedGradients

    images, statistics = _as_tensors(known, track_slices)
    empty, _ = _as_tensors(known, baseline, statistics=False)
    views: list[View] = list(known.network.settings.modalities)
    by_target = []
    with progress_bar(len(track_slices) * len(targets), "integrate", "slice", progress) as tick:
        for target in targets:
            attribute: Callable[..., Any] = IntegratedGradients(LogOdds(known, taxonomy, target)).attribute
            parts = []
            for number in range(len(track_slices)):
                given = None if statistics is None else (statistics[number : number + 1],)
                pixels = attribute(
                    images[number : number + 1],
                    baselines=empty[number : number + 1],
                    additional_forward_args=given,
                    n_steps=_IG_STEPS,
                    internal_batch_size=_AT_A_TIME,
                )
                parts.append(pixels.detach().float().numpy()[0])
                tick()
            by_target.append(np.stack(parts))
    found = np.stack(by_target, axis=1)  # (n, n_targets, 3, size, size)
    return {view: gather_pixels(found[:, :, IMAGES.index(view)], view) for view in views}


def _as_tensors(
    model: NetworkModel | LinearNetworkModel, track_slices: TrackSlices, statistics: bool = True
) -> tuple[Tensor, Tensor | None]:
    images = torch.from_numpy(track_slices.images.astype(np.float32))
    if not (statistics and isinstance(model, LinearNetworkModel) and model.statistics):
        return images, None
    return images, torch.from_numpy(image_statistics(track_slices.images))
