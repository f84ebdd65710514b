"""Explanation methods by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from genretree.bundle.bundle import Bundle
from genretree.checks import require_text, suggest
from genretree.errors import SettingsError
from genretree.explanation.bundle_weights import load_weights_for
from genretree.explanation.coordinates import View
from genretree.explanation.methods.occlusion import Maps, occlude
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import Target

Method = Literal["gradcam", "rollout", "integrated-gradients", "occlusion"]
METHODS: tuple[Method, ...] = get_args(Method)
# Supports every family, needs predictions only, and was the most faithful in our measurements:
# docs/figures-explanations.md.
_DEFAULT: Method = "occlusion"


def choose_method(method: str | None) -> Method:
    """Validate the name of a method; None selects the default.

    Raises
    ------
    SettingsError
        If there is no such method; the message suggests the closest name.
    """
    if method is None:
        return _DEFAULT
    require_text("method", method)
    if method not in METHODS:
        raise SettingsError(f"no method '{method}'; {suggest(method, METHODS)}")
    return next(name for name in METHODS if name == method)


def compute_maps(
    bundle: Bundle,
    track_slices: TrackSlices,
    baseline: TrackSlices,
    targets: Sequence[Target],
    views: Sequence[View],
    method: Method,
    masks: int = 0,
    seed: int = 0,
    progress: bool = False,
    on_coarse: Callable[[Maps], None] | None = None,
) -> Maps:
    """Compute relevance maps with a method: for each view an array, shape (n_slices, n_targets, rows, 57).

    `on_coarse` is called with the first, coarse maps of an occlusion without masks.
    """
    if method == "occlusion":
        return occlude(bundle, track_slices, baseline, targets, views, masks, seed, progress, on_coarse=on_coarse)
    from genretree.explanation.methods import attention_rollout, gradients

    functions: dict[str, Any] = {
        "gradcam": gradients.gradcam,
        "integrated-gradients": gradients.integrated_gradients,
        "rollout": attention_rollout.rollout,
    }
    maps: Maps = functions[method](
        load_weights_for(bundle).model, bundle.taxonomy, track_slices, baseline, targets, progress
    )
    return maps
