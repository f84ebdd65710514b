"""The layers of a backbone that explanations use: the last convolutional layer, and the attention of a transformer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from genretree.models.differentiable import Attention


def find_last_conv_layer(backbone: Any) -> nn.Module | None:
    """Return the last layer before the pooling of a convolutional backbone, or None for others."""
    if hasattr(backbone, "stages"):
        return backbone.norm  # type: ignore[no-any-return]
    encoder = getattr(getattr(backbone, "backbone", None), "encoder", None)
    return getattr(encoder, "top_activation", None)


def find_attention(backbone: Any) -> Attention | None:
    """Return the attention of a backbone with a transformer from transformers, or None for others."""
    inner: Any = getattr(backbone, "backbone", None)
    if inner is None or not hasattr(inner.config, "num_attention_heads"):
        return None
    config, embeddings = inner.config, inner.embeddings
    is_ast = hasattr(embeddings, "get_shape")  # AST puts the lowest band first
    side = 0 if is_ast else config.image_size // config.patch_size
    return Attention(
        record=partial(_record_attention, inner),
        grid=tuple(embeddings.get_shape(config)) if is_ast else (side, side),
        n_special_tokens=2 if hasattr(embeddings, "distillation_token") else 1,
        lowest_band_first=is_ast,
    )


@contextmanager
def _record_attention(backbone: Any) -> Iterator[list[Tensor]]:
    """Switch the backbone to eager attention and record the attention of every layer."""
    attentions: list[Tensor] = []
    implementation = backbone.config._attn_implementation

    def append_attention(module: nn.Module, args: Any, output: Any) -> None:
        attentions.append(output[1])

    layers = [module for module in backbone.modules() if hasattr(module, "q_proj")]
    handles = [layer.register_forward_hook(append_attention) for layer in layers]
    backbone.set_attn_implementation("eager")
    try:
        yield attentions
    finally:
        backbone.set_attn_implementation(implementation)
        for handle in handles:
            handle.remove()
