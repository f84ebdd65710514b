"""Gradient-based maps: Grad-CAM in the HiResCAM form, and integrated gradients, both through captum.

HiResCAM (Draelos and Carin 2020) multiplies gradient and activation of the last convolutional layer element by element.
For a network that ends in pooling and a linear layer, the product is the exact contribution of each position to the
score. The layer mixes mel, CQT and chroma, whose rows stand for different frequencies. The map is therefore computed
for every coalition of the three, and the value of each position is divided among them by Shapley values. The maps sum
to the log odds minus those of the baseline, except for contributions outside the layer: the curvature of later layers,
and image statistics if the model uses them.
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
from genretree.explanation.methods.shapley import shapley_weights, subsets
from genretree.explanation.slices import TrackSlices, join
from genretree.explanation.target import Target
from genretree.models.base import Model
from genretree.models.features.image_statistics import image_statistics
from genretree.models.linear.hierarchical import LinearTree
from genretree.models.neural.linear_probe import LinearNetworkModel
from genretree.models.neural.network import GenreNetwork, NetworkModel, shift_in_time
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy

_N_STEPS = 32
_AT_A_TIME = 32


Maps = dict[View, Float32Array]


class LogOdds(nn.Module):
    """Module that maps images, float tensors of grey levels, to the log odds of a target.

    The log odds come from the head of the network, or from a linear classifier on its features.

    Parameters
    ----------
    model : NetworkModel or LinearNetworkModel
    taxonomy : Taxonomy
    target : Target
    """

    def __init__(self, model: NetworkModel | LinearNetworkModel, taxonomy: Taxonomy, target: Target) -> None:
        super().__init__()
        self.network = model.torch_module()
        self.linear = model.linear if isinstance(model, LinearNetworkModel) else None
        self.taxonomy = taxonomy
        self.target = target

    def forward(self, images: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Compute log odds, shape (n,), of images (n, 3, size, size); `statistics`, (n, width), are constants."""
        n_shifts = self.network.settings.n_tta_shifts
        pixels = self.network.read_images(torch.cat(list(shift_in_time(images, n_shifts))))
        features: Tensor = self.network.backbone.features(pixels)  # type: ignore[operator]
        if self.linear is None:
            scores = self.network.backbone.classify(features)  # type: ignore[operator]
            levels = [
                level.reshape(n_shifts, -1, level.shape[1]).logsumexp(dim=0)
                for level in self.network.head.log_probabilities(scores)
            ]
        else:
            pooled = features.reshape(n_shifts, -1, features.shape[1]).mean(dim=0)
            inputs = pooled if statistics is None else torch.cat([pooled, statistics], dim=1)
            levels = _linear_levels(self.linear, inputs)
        own: Tensor = levels[self.target.level][:, list(self.target.nodes)].logsumexp(dim=1)
        return own - levels[self.target.other_level][:, list(self.target.others)].logsumexp(dim=1)


def _linear_levels(linear: LinearTree, inputs: Tensor) -> list[Tensor]:
    """Compute log probabilities by level, (n, n_nodes): `LinearTree.predict` with gradients."""
    levels = []
    for level, head in zip(linear.levels, linear.linear, strict=True):
        width = len(linear.taxonomy.nodes(level))
        if head is None:
            levels.append(inputs.new_zeros(len(inputs), width))
            continue
        mean, scale, weights, bias = (
            torch.from_numpy(part) for part in (head.mean, head.scale, head.weights, head.bias)
        )
        scores = ((inputs - mean) / scale) @ weights.T + bias
        lowest = inputs.new_full((len(inputs), width), -30.0)  # classes absent from training
        levels.append(lowest.index_copy(1, torch.from_numpy(head.classes), scores.log_softmax(dim=1)))
    if linear.heads == "independent":
        return levels
    leaves, ancestors = levels[0], linear.taxonomy.ancestors
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


def require_network(model: Model, method: str) -> NetworkModel | LinearNetworkModel:
    """Return the model if it is a network that sees images only.

    Raises
    ------
    SettingsError
        If it is another model.
    """
    if isinstance(model, (NetworkModel, LinearNetworkModel)):
        return model
    raise SettingsError(f"{method} needs the gradients of a network that sees images only; use `method='occlusion'`")


def require_captum() -> None:
    """Raise MissingExtraError if captum is not installed."""
    if find_spec("captum") is None:
        raise MissingExtraError("captum", "explain")


def find_last_conv_layer(network: GenreNetwork) -> nn.Module | None:
    """Return the last layer before the pooling of a convolutional network, or None for other networks."""
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
    """Compute HiResCAM maps of the last convolutional layer, shaped as those of `occlude`.

    Raises
    ------
    SettingsError
        If the model has no convolutional layers.
    MissingExtraError
        If captum is not installed.
    """
    network_model = require_network(model, "gradcam")
    layer = find_last_conv_layer(network_model.torch_module())
    if layer is None:
        raise SettingsError(
            "gradcam needs convolutions (cnn, efficientnet-b0); use `method='rollout'` or `method='occlusion'`"
        )
    require_captum()
    from captum.attr import LayerGradientXActivation

    views: list[View] = list(network_model.torch_module().settings.modalities)
    coalitions = subsets(views)
    everything = frozenset(views)
    weights = shapley_weights(views).astype(np.float32)
    size = track_slices.images.shape[-1]
    rows_by_view: dict[View, list[list[Float32Array]]] = {view: [] for view in views}
    with progress_bar(len(track_slices) * len(targets), "gradcam", "slice", progress) as tick:
        for number in range(len(track_slices)):
            own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
            versions = join([replace_views(own, empty, everything - some) for some in coalitions])
            images, statistics = _as_tensors(network_model, versions)
            rows: dict[View, list[Float32Array]] = {view: [] for view in views}
            for target in targets:
                attribute = LayerGradientXActivation(LogOdds(network_model, taxonomy, target), layer).attribute
                inputs = (images,) if statistics is None else (images, statistics)
                activations: Any = attribute(inputs).detach().sum(dim=1).float()
                by_view = np.tensordot(
                    weights, _undo_time_shifts(activations, network_model.torch_module(), size), axes=1
                )
                for view, pixels in zip(views, by_view, strict=True):
                    rows[view].append(gather_pixels(pixels, view))
                tick()
            for view in views:
                rows_by_view[view].append(rows[view])
    return {view: np.asarray(rows_by_view[view], np.float32) for view in views}


def _undo_time_shifts(maps: Tensor, network: GenreNetwork, size: int) -> Float32Array:
    """Upsample the maps of a layer, (n_shifts * n, h, w), to pixels and undo the time shifts: (n, size, size)."""
    n_shifts = network.settings.n_tta_shifts
    height, width = maps.shape[1:]
    upsampled = functional.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    upsampled *= height * width / size**2  # divide the value of a position among its pixels
    by_shift = upsampled.reshape(n_shifts, -1, size, size)
    aligned = [shifted.roll(-round(shift * size / n_shifts), dims=2) for shift, shifted in enumerate(by_shift)]
    summed: Float32Array = torch.stack(aligned).sum(dim=0).numpy()
    return summed


def integrated_gradients(
    model: Model,
    taxonomy: Taxonomy,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    progress: bool,
) -> Maps:
    """Compute integrated gradients (Sundararajan et al. 2017) from the baseline to the slice, in 32 steps.

    Raises
    ------
    SettingsError
        If the model is not a network that sees images only.
    MissingExtraError
        If captum is not installed.
    """
    network_model = require_network(model, "integrated-gradients")
    require_captum()
    from captum.attr import IntegratedGradients

    images, statistics = _as_tensors(network_model, track_slices)
    empty, _ = _as_tensors(network_model, baseline, statistics=False)
    views: list[View] = list(network_model.torch_module().settings.modalities)
    by_target = []
    with progress_bar(len(track_slices) * len(targets), "integrate", "slice", progress) as tick:
        for target in targets:
            attribute: Callable[..., Any] = IntegratedGradients(LogOdds(network_model, taxonomy, target)).attribute
            parts = []
            for index in range(len(track_slices)):
                forward_args = None if statistics is None else (statistics[index : index + 1],)
                pixels = attribute(
                    images[index : index + 1],
                    baselines=empty[index : index + 1],
                    additional_forward_args=forward_args,
                    n_steps=_N_STEPS,
                    internal_batch_size=_AT_A_TIME,
                )
                parts.append(pixels.detach().float().numpy()[0])
                tick()
            by_target.append(np.stack(parts))
    attributions = np.stack(by_target, axis=1)  # (n, n_targets, 3, size, size)
    return {view: gather_pixels(attributions[:, :, IMAGES.index(view)], view) for view in views}


def _as_tensors(
    model: NetworkModel | LinearNetworkModel, track_slices: TrackSlices, statistics: bool = True
) -> tuple[Tensor, Tensor | None]:
    images = torch.from_numpy(track_slices.images.astype(np.float32))
    if not (statistics and isinstance(model, LinearNetworkModel) and model.statistics):
        return images, None
    return images, torch.from_numpy(image_statistics(track_slices.images))
