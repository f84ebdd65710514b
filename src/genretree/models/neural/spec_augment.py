"""Random changes to training images, on whole batches."""

from __future__ import annotations

import torch
from torch import Tensor


def spec_augment(
    images: Tensor, probability: float, time_masks: int, time_width: int, frequency_masks: int, frequency_width: int
) -> Tensor:
    """Blank out random stretches of time and of frequency (SpecAugment, Park et al. 2019, without time warping).

    Parameters
    ----------
    images : float tensor, shape (n, modalities, height, width)
        Zero must mean "average": masked pixels become 0.
    probability : float
        Chance for each image to be masked at all, 0 to 1.
    time_masks, frequency_masks : int
        How many masks of each kind.
    time_width, frequency_width : int
        Greatest width of a mask in pixels; widths are uniform from 0 to it.

    Returns
    -------
    tensor of the same shape
        A time mask covers the same moment in all modalities; frequency masks are drawn for each modality.
    """
    n, modalities, height, width = images.shape
    blank = _stripes((n, 1), width, time_masks, time_width, images.device)[:, :, None, :]
    blank = blank | _stripes((n, modalities), height, frequency_masks, frequency_width, images.device)[:, :, :, None]
    chosen = torch.rand(n, 1, 1, 1, device=images.device) < probability
    return images.masked_fill(blank & chosen, 0.0)


def mix_pairs(images: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each image with another of the batch (mixup, Zhang et al. 2018), with a share of its own.

    Parameters
    ----------
    images : float tensor, shape (n, modalities, height, width)
    strength : float
        Both parameters of the beta distribution that the shares are drawn from; 0 mixes nothing.

    Returns
    -------
    images : tensor of the same shape
    partners : int64 tensor, shape (n,)
        Which image was mixed in.
    shares : float tensor, shape (n,)
        How much of the image itself was kept, 0 to 1.
    """
    n = len(images)
    if strength == 0:
        return images, torch.arange(n, device=images.device), torch.ones(n, device=images.device)
    partners = torch.randperm(n, device=images.device)
    shares = torch.distributions.Beta(strength, strength).sample((n,)).to(images.device)
    return torch.lerp(images[partners], images, shares[:, None, None, None]), partners, shares


def _stripes(shape: tuple[int, int], length: int, count: int, widest: int, device: torch.device) -> Tensor:
    """Draw `count` random intervals along an axis of `length`; True inside, shape (*shape, length)."""
    widths = torch.randint(0, min(widest, length) + 1, (*shape, count, 1), device=device)
    starts = (torch.rand(*shape, count, 1, device=device) * (length - widths + 1)).long()
    position = torch.arange(length, device=device)
    return ((position >= starts) & (position < starts + widths)).any(dim=2)
