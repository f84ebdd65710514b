"""Faster layers for training on CPUs, equal to PyTorch's up to rounding: see `enable_cpu_kernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION = "genretree"
_DRAWS = 1 << 16  # 16 random bits decide whether an element is dropped


class FastDropout(nn.Dropout):
    """Dropout with 16 random bits for each element, where PyTorch draws and converts 32 or more.

    On a CPU PyTorch's dropout takes 10 ns for each element, a fifth of a training step of a small transformer; this one
    takes 2 ns. The probability is rounded to 1/65536, and the scale corresponds to the rounded probability.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Set random values to 0 and scale up the others, in training."""
        threshold = round((1 - self.p) * _DRAWS)
        if not self.training or threshold == _DRAWS or values.device.type != "cpu":
            return super().forward(values)
        words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: values.numel()].view(values.shape)
        return values * (draws < threshold - _DRAWS // 2).to(values.dtype).mul_(_DRAWS / max(threshold, 1))


class GlobalMean(nn.Module):
    """Global average pooling as `AdaptiveAvgPool2d(1)`, with a gradient that is expanded lazily.

    PyTorch materialises this gradient in a memory format other than that of the gradients it is added to. This is slow:
    it takes a tenth of a training step of EfficientNet-B0, in its sixteen squeeze-and-excitation layers.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Average (n, channels, h, w) to (n, channels, 1, 1)."""
        if not self.training:
            return functional.adaptive_avg_pool2d(maps, 1)
        mean: Tensor = _Mean.apply(maps)  # type: ignore[no-untyped-call]
        return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return maps.mean(dim=(2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        spread: Tensor = (gradients[0] / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)
        return spread


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention as transformers' `sdpa`, but with plain matrix products when training in bf16 on a CPU.

    There PyTorch's fused kernel takes three times as long; it saves memory, which doesn't matter for a few hundred
    patches. Inputs are of shape (n, heads, length, width), the output of shape (n, length, heads, width).
    """
    plain = module.training and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not plain or attention_mask is not None or dropout or scaling is None:
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return result
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


def enable_cpu_kernels(network: Any) -> None:
    """Replace a network's dropout, global pooling and attention with the layers above; weights don't change."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, FastDropout(child.p).train(child.training))
            elif type(child) is nn.AdaptiveAvgPool2d and child.output_size == 1:
                setattr(module, name, GlobalMean().train(child.training))
        if hasattr(module, "set_attn_implementation") and module.config._attn_implementation == "sdpa":
            AttentionInterface.register(_ATTENTION, attention)
            AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
            module.set_attn_implementation(_ATTENTION)
