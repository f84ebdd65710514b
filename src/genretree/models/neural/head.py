"""The hierarchical head: from leaf scores to log probabilities of all levels, and the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genretree.settings import Heads
from genretree.taxonomy import Taxonomy


class TreeHead(nn.Module):
    """Convert a network's scores to log probabilities for each level.

    With `heads="tree"` the network scores the leaves. A softmax gives their distribution, and sums over it the levels
    above, so that a parent's probability is the sum of its children's. With `heads="independent"`, as published, each
    level has its own scores and softmax, and levels can contradict each other.

    Parameters
    ----------
    taxonomy : Taxonomy
    heads : "tree" or "independent"
    smoothing : sequence of float
        Label smoothing from the top level down, each in [0, 1); the last value also applies to deeper levels.
    """

    masks: Tensor

    def __init__(self, taxonomy: Taxonomy, heads: Heads, smoothing: Sequence[float]) -> None:
        super().__init__()
        self.taxonomy = taxonomy
        self.heads = heads
        self.widths = [len(taxonomy.nodes(level)) for level in range(taxonomy.depth)]
        self.smoothing = [smoothing[min(level, len(smoothing) - 1)] for level in range(taxonomy.depth)]
        ancestors = torch.from_numpy(taxonomy.ancestors.copy())
        self.register_buffer("ancestors", ancestors, persistent=False)
        for level, width in enumerate(self.widths):
            # 0 for leaves below the node and -inf elsewhere, so that logsumexp sums over the node's own leaves.
            below = ancestors[:, level, None] == torch.arange(width)
            mask = torch.zeros(below.shape).masked_fill(~below, -math.inf)
            self.register_buffer(f"mask_{level}", mask, persistent=False)

    @property
    def n_scores(self) -> int:
        """Number of scores of the network for a slice."""
        return self.widths[-1] if self.heads == "tree" else sum(self.widths)

    def log_probabilities(self, scores: Tensor) -> list[Tensor]:
        """Compute log probabilities from scores of shape (n, n_scores): a tensor (n, n_nodes) for each level."""
        scores = scores.float()
        if self.heads == "independent":
            return [part.log_softmax(dim=1) for part in torch.split(scores, self.widths, dim=1)]
        leaves = scores.log_softmax(dim=1)
        return [
            torch.logsumexp(leaves[:, :, None] + self.get_buffer(f"mask_{level}"), dim=1)
            for level in range(len(self.widths))
        ]

    def decode(self, scores: Tensor) -> Tensor:
        """Predict a node for each level, shape (n, depth): a path with the tree head, each level's argmax otherwise."""
        levels = self.log_probabilities(scores)
        if self.heads == "independent":
            return torch.stack([level.argmax(dim=1) for level in levels], dim=1)
        ancestors = self.get_buffer("ancestors")
        expected = torch.stack([level.exp()[:, ancestors[:, number]] for number, level in enumerate(levels)])
        chosen: Tensor = ancestors[expected.sum(dim=0).argmax(dim=1)]
        return chosen

    def loss(self, scores: Tensor, leaves: Tensor) -> Tensor:
        """Compute the mean of `losses` over the slices."""
        return self.losses(scores, leaves).mean()

    def losses(self, scores: Tensor, leaves: Tensor) -> Tensor:
        """Compute the smoothed cross-entropy, averaged over levels, for true leaf indices of shape (n,): shape (n,)."""
        nodes = self.get_buffer("ancestors")[leaves]
        losses = [
            _smoothed_cross_entropy(log_probabilities, nodes[:, level], self.smoothing[level])
            for level, log_probabilities in enumerate(self.log_probabilities(scores))
            if log_probabilities.shape[1] > 1
        ]
        return torch.stack(losses).mean(dim=0)


def _smoothed_cross_entropy(log_probabilities: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Compute the cross-entropy with label smoothing (Szegedy et al. 2016), as PyTorch does."""
    true = log_probabilities.gather(1, target[:, None]).squeeze(1)
    return -((1 - smoothing) * true + smoothing * log_probabilities.mean(dim=1))
