"""Attention rollout for transformers (Abnar and Zuidema 2020), weighted by gradients (Chefer, Gur and Wolf 2021).

In each layer the attention of the heads is weighed by the gradient of the log odds, what is negative left out,
averaged, and added to what came through the layers before. It says where the transformer looked, as shares that sum to
1, and never what spoke against the node. The images are mixed in its first layer: a patch's share is divided among them
by the gradient times the difference from the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genretree.arrays import Float32Array
from genretree.errors import SettingsError
from genretree.explanation.coordinates import IMAGES, View, gather_pixels
from genretree.explanation.methods.gradients import LogOdds, Maps, _as_tensors, as_network
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target
from genretree.models.base import Model
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy

_SMALLEST = 1e-12


def rollout(
    model: Model,
    taxonomy: Taxonomy,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    progress: bool,
) -> Maps:
    """Map where a transformer looked; shapes as `genretree.explanation.methods.occlusion.occlude` gives, sums are 1.

    Raises
    ------
    SettingsError
        If the model is no transformer.
    """
    known = as_network(model, "rollout")
    backbone: Any = getattr(known.network.backbone, "backbone", None)
    if backbone is None or not hasattr(backbone.config, "num_attention_heads"):
        raise SettingsError("rollout needs a transformer (ast); use `method='gradcam'` or `method='occlusion'`")
    images, statistics = _as_tensors(known, track_slices)
    empty, _ = _as_tensors(known, baseline, statistics=False)
    views: list[View] = list(known.network.settings.modalities)
    size = images.shape[-1]
    found: list[list[list[Float32Array]]] = []
    with (
        progress_bar(len(track_slices) * len(targets), "rollout", "slice", progress) as tick,
        _watching(backbone) as seen,
    ):
        for number in range(len(track_slices)):
            rows = slice(number, number + 1)
            given = images[rows].clone().requires_grad_()
            own = None if statistics is None else statistics[rows]
            by_target = []
            for target in targets:
                seen.clear()
                odds = LogOdds(known, taxonomy, target)(given, own)
                gradients = torch.autograd.grad(odds.sum(), [*seen, given])
                shares = _place(
                    multiply_attention(seen, gradients[:-1], _special_tokens(backbone)),
                    backbone,
                    known.network.settings.n_tta_shifts,
                    size,
                )
                pull = (gradients[-1] * (given - empty[rows])).detach().abs()[0]
                by_target.append(_divide(shares, pull, views))
                tick()
            found.append(by_target)
    stacked = np.asarray(found, np.float32)  # (n, n_targets, n_views, size, size)
    return {view: gather_pixels(stacked[:, :, place], view) for place, view in enumerate(views)}


def multiply_attention(attentions: Sequence[Tensor], gradients: Sequence[Tensor], special: int) -> Tensor:
    """Follow attention from the class tokens down to the patches.

    Parameters
    ----------
    attentions, gradients : sequences of tensors, shape (n, heads, tokens, tokens)
        Of each layer, the first first.
    special : int
        How many tokens stand before the patches; the model pools these.

    Returns
    -------
    tensor, shape (n, patches)
        None is negative; rows sum to 1, or are 0 where nothing speaks for the node.
    """
    tokens = attentions[0].shape[-1]
    relevance = torch.eye(tokens).expand(len(attentions[0]), tokens, tokens)
    for attention, gradient in zip(attentions, gradients, strict=True):
        weighed = (attention.detach() * gradient).clamp(min=0).mean(dim=1)
        relevance = relevance + weighed @ relevance
    looked = relevance[:, :special, special:].mean(dim=1)
    return looked / looked.sum(dim=1, keepdim=True).clamp(min=_SMALLEST)


def _special_tokens(backbone: Any) -> int:
    """Count the tokens before the patches: AudioSet's transformers have one for distillation, too."""
    return 2 if hasattr(backbone.embeddings, "distillation_token") else 1


def _place(looked: Tensor, backbone: Any, turns: int, size: int) -> Tensor:
    """Lay the patches' shares, (turns, patches), over the images, and undo the turns in time: (size, size)."""
    config = backbone.config
    if hasattr(backbone.embeddings, "get_shape"):  # AudioSet's see the lowest band first
        grid = looked.reshape(len(looked), *backbone.embeddings.get_shape(config)).flip(1)
    else:
        side = config.image_size // config.patch_size
        grid = looked.reshape(len(looked), side, side)
    large = functional.interpolate(grid[:, None], size=(size, size), mode="nearest")[:, 0]
    large = large * (grid.shape[1] * grid.shape[2] / size**2) / turns
    return torch.stack([one.roll(-round(turn * size / turns), dims=1) for turn, one in enumerate(large)]).sum(dim=0)


def _divide(shares: Tensor, pull: Tensor, views: Sequence[View]) -> list[Float32Array]:
    """Divide each place's share, (size, size), among the images by how much the gradient pulls at each around it."""
    chosen = pull[[IMAGES.index(view) for view in views]]
    window = 2 * (shares.shape[-1] // 16) + 1
    around = functional.avg_pool2d(chosen[None], window, stride=1, padding=window // 2, count_include_pad=False)[0]
    parts = around / around.sum(dim=0).clamp(min=_SMALLEST)
    return [(shares * part).numpy() for part in parts]


@contextmanager
def _watching(backbone: Any) -> Iterator[list[Tensor]]:
    """Let the backbone compute its attention in the plain way, and collect it."""
    seen: list[Tensor] = []
    before = backbone.config._attn_implementation

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        seen.append(output[1])

    layers = [module for module in backbone.modules() if hasattr(module, "q_proj")]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    backbone.set_attn_implementation("eager")
    try:
        yield seen
    finally:
        backbone.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
