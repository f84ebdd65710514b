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
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genretree.arrays import Float32Array, UInt8Array
from genretree.errors import MissingExtraError, SettingsError
from genretree.explanation.baseline import replace_views
from genretree.explanation.coordinates import IMAGES, View, gather_pixels
from genretree.explanation.methods.shapley import shapley_weights, subsets
from genretree.explanation.slices import TrackSlices, join
from genretree.explanation.target import Target
from genretree.models.base import Model
from genretree.models.differentiable import (
    DifferentiableModel,
    describe_needs,
    find_obstacle,
    model_modalities,
    supported_methods,
)
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy

_N_STEPS = 32
_AT_A_TIME = 32


Maps = dict[View, Float32Array]


class LogOdds(nn.Module):
    """Module that maps images, float tensors of grey levels, to the log odds of a target.

    Parameters
    ----------
    model : DifferentiableModel
    target : Target
    """

    def __init__(self, model: DifferentiableModel, target: Target) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, images: Tensor, constants: Tensor | None = None) -> Tensor:
        """Compute log odds, shape (n,), of images (n, 3, size, size); `constants`, (n, width), have no gradients."""
        levels = self.model.log_probabilities(*([images] if constants is None else [images, constants]))
        own: Tensor = levels[self.target.level][:, list(self.target.nodes)].logsumexp(dim=1)
        return own - levels[self.target.other_level][:, list(self.target.others)].logsumexp(dim=1)


def require_support(model: Model, method: str) -> DifferentiableModel:
    """Return the model if it declares a method and has what the method needs.

    Raises
    ------
    SettingsError
        If not; the message lists the methods that it supports.
    """
    if find_obstacle(model, method) is None:
        return cast(DifferentiableModel, model)
    others = [f"`method='{name}'`" for name in (*supported_methods(model), "occlusion")]
    options = " or ".join(filter(None, [", ".join(others[:-1]), others[-1]]))
    raise SettingsError(f"{method} needs {describe_needs(method)}; use {options}")


def require_captum() -> None:
    """Raise MissingExtraError if captum is not installed."""
    if find_spec("captum") is None:
        raise MissingExtraError("captum", "explain")


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
    explained = require_support(model, "gradcam")
    layer = explained.gradcam_layer()
    require_captum()
    from captum.attr import LayerGradientXActivation

    views: list[View] = seen_views(model)
    coalitions = subsets(views)
    everything = frozenset(views)
    weights = shapley_weights(views).astype(np.float32)
    size = track_slices.images.shape[-1]
    rows_by_view: dict[View, list[list[Float32Array]]] = {view: [] for view in views}
    with progress_bar(len(track_slices) * len(targets), "gradcam", "slice", progress) as tick:
        for number in range(len(track_slices)):
            own, empty = track_slices.select(slice(number, number + 1)), baseline.select(slice(number, number + 1))
            versions = join([replace_views(own, empty, everything - some) for some in coalitions])
            images, constants = as_tensors(explained, versions)
            rows: dict[View, list[Float32Array]] = {view: [] for view in views}
            for target in targets:
                attribute = LayerGradientXActivation(LogOdds(explained, target), layer).attribute
                inputs = (images,) if constants is None else (images, constants)
                activations: Any = attribute(inputs).detach().sum(dim=1).float()
                by_view = np.tensordot(weights, _undo_time_shifts(activations, len(images), size), axes=1)
                for view, pixels in zip(views, by_view, strict=True):
                    rows[view].append(gather_pixels(pixels, view))
                tick()
            for view in views:
                rows_by_view[view].append(rows[view])
    return {view: np.asarray(rows_by_view[view], np.float32) for view in views}


def _undo_time_shifts(maps: Tensor, n: int, size: int) -> Float32Array:
    """Upsample the maps of a layer, (n_shifts * n, h, w), to pixels and undo the time shifts: (n, size, size)."""
    n_shifts = len(maps) // n
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
    explained = require_support(model, "integrated-gradients")
    require_captum()
    from captum.attr import IntegratedGradients

    images, constants = as_tensors(explained, track_slices)
    empty = grey_levels(baseline)
    views: list[View] = seen_views(model)
    by_target = []
    with progress_bar(len(track_slices) * len(targets), "integrate", "slice", progress) as tick:
        for target in targets:
            attribute: Callable[..., Any] = IntegratedGradients(LogOdds(explained, target)).attribute
            parts = []
            for index in range(len(track_slices)):
                forward_args = None if constants is None else (constants[index : index + 1],)
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


def as_tensors(model: DifferentiableModel, track_slices: TrackSlices) -> tuple[Tensor, Tensor | None]:
    """Return the grey levels of slices, and the features that count as constants, if the model has them."""
    compute: Callable[[UInt8Array], Float32Array | None] | None = getattr(model, "constant_features", None)
    constants = None if compute is None else compute(track_slices.images)
    return grey_levels(track_slices), None if constants is None else torch.from_numpy(constants)


def grey_levels(track_slices: TrackSlices) -> Tensor:
    """Return the images of slices as a float tensor, (n, 3, size, size)."""
    return torch.from_numpy(track_slices.images.astype(np.float32))


def seen_views(model: Model) -> list[View]:
    """List the images that a model sees as views."""
    return [view for view in IMAGES if view in model_modalities(model)]
