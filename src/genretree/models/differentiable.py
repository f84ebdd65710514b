"""What explanation methods other than occlusion need of a model: gradients, a convolutional layer, or attention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from genretree.models.base import Model
from genretree.settings import MODALITIES
from genretree.sound.features import IMAGES

if TYPE_CHECKING:  # models without networks are explained without torch
    from torch import Tensor, nn

_MEMBERS = {"integrated-gradients": (), "gradcam": ("gradcam_layer",), "rollout": ("attention",)}
_NEEDS = {
    "integrated-gradients": "the gradients of a network that sees images only",
    "gradcam": "a convolutional network that sees images only",
    "rollout": "a transformer that sees images only",
}


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The attention of a transformer, which attention rollout multiplies.

    Parameters
    ----------
    record : callable
        Returns a context manager that yields a list. Inside it, each layer appends its attention to the list whenever
        `log_probabilities` runs, the first layer first: tensors of shape (n, heads, tokens, tokens) with gradients.
    grid : (int, int)
        Rows and columns of the patches, whose tokens come last, row by row.
    n_special_tokens : int
        Number of tokens before the patches, which the network classifies.
    lowest_band_first : bool
        Whether the first row of the grid holds the lowest frequencies, unlike that of images.
    """

    record: Callable[[], AbstractContextManager[list[Tensor]]]
    grid: tuple[int, int]
    n_special_tokens: int = 1
    lowest_band_first: bool = False


class DifferentiableModel(Model, Protocol):
    """A model that images alone determine, with gradients.

    `explain_methods` names the methods that it supports. "integrated-gradients" needs `log_probabilities`, "gradcam"
    needs `gradcam_layer`, too, and "rollout" needs `attention`. All of them compute in torch, even if `set_backend` has
    replaced the network. A network may compute copies of the images that are shifted in time by 0, 1/k, 2/k ... of
    their width, as genretree's own do for `n_tta_shifts`; it then computes all in one batch, shift by shift.

    Optional members: `modalities` names the images that the network sees (by default mel, CQT and chroma);
    `constant_features(images)` computes features of stored images, uint8 (n, 3, size, size), that count as constants:
    a float32 array (n, width) or None. If it returns an array, `log_probabilities` gets it as a second argument.
    """

    explain_methods: tuple[str, ...]

    def log_probabilities(self, images: Tensor, constants: Tensor | None = None) -> list[Tensor]:
        """Compute the logarithms of what `predict_proba` returns, with gradients.

        Parameters
        ----------
        images : float32 tensor, shape (n, 3, size, size)
            Grey levels, 0 to 255.
        constants : float32 tensor, shape (n, width), optional
            The result of `constant_features`.

        Returns
        -------
        list of tensors, one for each level, shape (n, n_nodes)
        """
        ...

    def gradcam_layer(self) -> nn.Module | None:
        """Return the last layer with a convolutional map, (n, channels, rows, columns), or None if there is none."""
        ...

    def attention(self) -> Attention | None:
        """Return the attention of a transformer, or None if the network is of another type."""
        ...


def find_obstacle(model: Model, method: str) -> str | None:
    """Return why a model can't be explained by a method other than occlusion, or None if it can be.

    Parameters
    ----------
    model : Model
    method : {"gradcam", "integrated-gradients", "rollout"}

    Returns
    -------
    str or None
        A clause such as `log_probabilities is missing`.
    """
    if method not in getattr(model, "explain_methods", ()):
        return f"explain_methods does not name {method}"
    others = [name for name in model.input_features if name not in (IMAGES, *MODALITIES)]
    if others:
        return f"input_features names {', '.join(others)}, but gradients cover images only"
    if not callable(getattr(model, "log_probabilities", None)):
        return "log_probabilities is missing"
    for name in _MEMBERS[method]:
        member: Callable[[], Any] | None = getattr(model, name, None)
        if not callable(member):
            return f"{name} is missing"
        if member() is None:
            return f"{name}() returns None"
    return None


def supported_methods(model: Model) -> list[str]:
    """List the explanation methods other than occlusion that a model declares and can do.

    If only an export is loaded, these are the declared ones: they load the weights when they need them.
    """
    declared: tuple[str, ...] = getattr(model, "explain_methods", ())
    known = [name for name in declared if name in _MEMBERS]
    return [name for name in known if not has_weights(model) or find_obstacle(model, name) is None]


def describe_needs(method: str) -> str:
    """Return what a method other than occlusion needs: a phrase such as `a transformer that sees images only`."""
    return _NEEDS[method]


def has_weights(model: Model) -> bool:
    """Return whether the weights of a model's networks are in memory, rather than an export alone."""
    return bool(getattr(model, "has_weights", True))


def model_modalities(model: Model) -> tuple[str, ...]:
    """Return the images that a model sees: its `modalities`, or those in its `input_features`, or all three."""
    own: tuple[str, ...] = getattr(model, "modalities", ())
    named = () if IMAGES in model.input_features else tuple(name for name in MODALITIES if name in model.input_features)
    return tuple(own) or named or MODALITIES
