"""SpecAugment and mixup of training images, in batches."""

from __future__ import annotations

import torch
from torch import Tensor


def spec_augment(
    images: Tensor, probability: float, time_masks: int, time_width: int, frequency_masks: int, frequency_width: int
) -> Tensor:
    """Mask random intervals of time and frequency (SpecAugment, Park et al. 2019, without time warping).

    Parameters
    ----------
    images : float tensor, shape (n, modalities, height, width)
        Normalised images; masked pixels become 0, the mean.
    probability : float
        Probability that an image is masked, in [0, 1].
    time_masks : int
        Number of masks in time.
    time_width : int
        Maximum width of a mask in time, in pixels; widths are uniformly distributed from 0.
    frequency_masks : int
        Number of masks in frequency.
    frequency_width : int
        Maximum width of a mask in frequency, in pixels.

    Returns
    -------
    tensor of the same shape
        Time masks are the same for all modalities; frequency masks differ.
    """
    n, modalities, height, width = images.shape
    blank = _stripes((n, 1), width, time_masks, time_width, images.device)[:, :, None, :]
    blank = blank | _stripes((n, modalities), height, frequency_masks, frequency_width, images.device)[:, :, :, None]
    masked = torch.rand(n, 1, 1, 1, device=images.device) < probability
    return images.masked_fill(blank & masked, 0.0)


def mix_pairs(images: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each image with another one of the batch (mixup, Zhang et al. 2018), with random weights.

    Parameters
    ----------
    images : float tensor, shape (n, modalities, height, width)
    alpha : float
        Both parameters of the beta distribution of the weights; 0 disables mixing.

    Returns
    -------
    images : tensor of the same shape
    partners : int64 tensor, shape (n,)
        Index of the image that was mixed in.
    weights : float tensor, shape (n,)
        Weight of the image itself, in [0, 1].
    """
    n = len(images)
    if alpha == 0:
        return images, torch.arange(n, device=images.device), torch.ones(n, device=images.device)
    partners = torch.randperm(n, device=images.device)
    weights = torch.distributions.Beta(alpha, alpha).sample((n,)).to(images.device)
    return torch.lerp(images[partners], images, weights[:, None, None, None]), partners, weights


def _stripes(shape: tuple[int, int], length: int, count: int, max_width: int, device: torch.device) -> Tensor:
    """Sample `count` random intervals along an axis of `length`; True inside, shape (*shape, length)."""
    widths = torch.randint(0, min(max_width, length) + 1, (*shape, count, 1), device=device)
    starts = (torch.rand(*shape, count, 1, device=device) * (length - widths + 1)).long()
    position = torch.arange(length, device=device)
    return ((position >= starts) & (position < starts + widths)).any(dim=2)
