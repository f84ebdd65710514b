"""Attention rollout for transformers (Abnar and Zuidema 2020), weighted by gradients (Chefer, Gur and Wolf 2021).

Each layer weights the attention of its heads by the gradient of the log odds, clips negative values, averages over
heads and adds the product with the rollout of the layers before. The result is a distribution over patches that sums to
1; it holds no negative relevance. The first layer mixes the images, so the share of a patch is divided among the images
by the gradient times the difference from the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genretree.arrays import Float32Array
from genretree.explanation.coordinates import IMAGES, View, gather_pixels
from genretree.explanation.methods.gradients import LogOdds, Maps, as_tensors, grey_levels, require_support, seen_views
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target
from genretree.models.base import Model
from genretree.models.differentiable import Attention
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy

_EPSILON = 1e-12


def rollout(
    model: Model,
    taxonomy: Taxonomy,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    progress: bool,
) -> Maps:
    """Compute attention rollout maps, shaped as those of `genretree.explanation.methods.occlusion.occlude`; sums are 1.

    Raises
    ------
    SettingsError
        If the model is not a transformer.
    """
    explained = require_support(model, "rollout")
    attention = cast(Attention, explained.attention())
    images, constants = as_tensors(explained, track_slices)
    empty = grey_levels(baseline)
    views = seen_views(model)
    size = images.shape[-1]
    by_slice: list[list[list[Float32Array]]] = []
    with (
        progress_bar(len(track_slices) * len(targets), "rollout", "slice", progress) as tick,
        attention.record() as attentions,
    ):
        for index in range(len(track_slices)):
            rows = slice(index, index + 1)
            inputs = images[rows].clone().requires_grad_()
            own = None if constants is None else constants[rows]
            by_target = []
            for target in targets:
                attentions.clear()
                odds = LogOdds(explained, target)(inputs, own)
                gradients = torch.autograd.grad(odds.sum(), [*attentions, inputs])
                relevance = multiply_attention(attentions, gradients[:-1], attention.n_special_tokens)
                shares = _upsample_shares(relevance, attention, size)
                gradient_magnitude = (gradients[-1] * (inputs - empty[rows])).detach().abs()[0]
                by_target.append(_divide_among_views(shares, gradient_magnitude, views))
                tick()
            by_slice.append(by_target)
    stacked = np.asarray(by_slice, np.float32)  # (n, n_targets, n_views, size, size)
    return {view: gather_pixels(stacked[:, :, column], view) for column, view in enumerate(views)}


def multiply_attention(attentions: Sequence[Tensor], gradients: Sequence[Tensor], n_special_tokens: int) -> Tensor:
    """Propagate gradient-weighted attention from the class tokens to the patches.

    Parameters
    ----------
    attentions, gradients : sequences of tensors, shape (n, heads, tokens, tokens)
        One per layer, the first layer first.
    n_special_tokens : int
        Number of tokens before the patches, which the model pools.

    Returns
    -------
    tensor, shape (n, patches)
        Non-negative. Rows sum to 1, or are 0 if no attention has a positive gradient.
    """
    tokens = attentions[0].shape[-1]
    relevance = torch.eye(tokens).expand(len(attentions[0]), tokens, tokens)
    for attention, gradient in zip(attentions, gradients, strict=True):
        weighted = (attention.detach() * gradient).clamp(min=0).mean(dim=1)
        relevance = relevance + weighted @ relevance
    attended = relevance[:, :n_special_tokens, n_special_tokens:].mean(dim=1)
    return attended / attended.sum(dim=1, keepdim=True).clamp(min=_EPSILON)


def _upsample_shares(shares: Tensor, attention: Attention, size: int) -> Tensor:
    """Upsample the shares of patches, (n_shifts, patches), to pixels and undo the time shifts: (size, size)."""
    n_shifts = len(shares)
    grid = shares.reshape(n_shifts, *attention.grid)
    if attention.lowest_band_first:
        grid = grid.flip(1)
    upsampled = functional.interpolate(grid[:, None], size=(size, size), mode="nearest")[:, 0]
    upsampled = upsampled * (grid.shape[1] * grid.shape[2] / size**2) / n_shifts
    return torch.stack(
        [shifted.roll(-round(shift * size / n_shifts), dims=1) for shift, shifted in enumerate(upsampled)]
    ).sum(dim=0)


def _divide_among_views(shares: Tensor, gradient_magnitude: Tensor, views: Sequence[View]) -> list[Float32Array]:
    """Divide the share of each pixel, (size, size), among the images by the smoothed gradient magnitude of each."""
    by_view = gradient_magnitude[[IMAGES.index(view) for view in views]]
    window = 2 * (shares.shape[-1] // 16) + 1
    smoothed = functional.avg_pool2d(by_view[None], window, stride=1, padding=window // 2, count_include_pad=False)[0]
    fractions = smoothed / smoothed.sum(dim=0).clamp(min=_EPSILON)
    return [(shares * part).numpy() for part in fractions]
