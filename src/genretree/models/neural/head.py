"""From leaf scores to every level of the tree, and the loss over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genretree.settings import Heads
from genretree.taxonomy import Taxonomy


class TreeHead(nn.Module):
    """Turn a network's scores into log probabilities for each level.

    With `heads="tree"` the network scores the leaves; one softmax over them gives the leaf distribution and sums of it
    every level above, so a parent's probability always is the sum of its children's. With `heads="independent"`, the
    published form, each level has scores and a softmax of its own, which can contradict each other.

    Parameters
    ----------
    taxonomy : Taxonomy
    heads : "tree" or "independent"
    smoothing : sequence of float
        Label smoothing from the top level down, each 0 to 1; the last one serves for deeper levels too.
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
            # 0 where a leaf lies below a node and -inf elsewhere, so that logsumexp adds up a node's own leaves only.
            below = ancestors[:, level, None] == torch.arange(width)
            mask = torch.zeros(below.shape).masked_fill(~below, -math.inf)
            self.register_buffer(f"mask_{level}", mask, persistent=False)

    @property
    def n_scores(self) -> int:
        """How many scores the network must give for a slice."""
        return self.widths[-1] if self.heads == "tree" else sum(self.widths)

    def log_probabilities(self, scores: Tensor) -> list[Tensor]:
        """Give log probabilities from scores of shape (n, n_scores): for each level a tensor of shape (n, n_nodes)."""
        scores = scores.float()
        if self.heads == "independent":
            return [part.log_softmax(dim=1) for part in torch.split(scores, self.widths, dim=1)]
        leaves = scores.log_softmax(dim=1)
        return [
            torch.logsumexp(leaves[:, :, None] + self.get_buffer(f"mask_{level}"), dim=1)
            for level in range(len(self.widths))
        ]

    def decode(self, scores: Tensor) -> Tensor:
        """Choose a node for each level, shape (n, depth): one path with the tree head, each level's best without."""
        levels = self.log_probabilities(scores)
        if self.heads == "independent":
            return torch.stack([level.argmax(dim=1) for level in levels], dim=1)
        ancestors = self.get_buffer("ancestors")
        expected = torch.stack([level.exp()[:, ancestors[:, number]] for number, level in enumerate(levels)])
        chosen: Tensor = ancestors[expected.sum(dim=0).argmax(dim=1)]
        return chosen

    def loss(self, scores: Tensor, leaves: Tensor) -> Tensor:
        """Mean of `losses` over the slices."""
        return self.losses(scores, leaves).mean()

    def losses(self, scores: Tensor, leaves: Tensor) -> Tensor:
        """Mean over the levels of the smoothed cross-entropy, for true leaf indices of shape (n,): shape (n,)."""
        nodes = self.get_buffer("ancestors")[leaves]
        losses = [
            _smoothed_cross_entropy(log_probabilities, nodes[:, level], self.smoothing[level])
            for level, log_probabilities in enumerate(self.log_probabilities(scores))
            if log_probabilities.shape[1] > 1
        ]
        return torch.stack(losses).mean(dim=0)


def _smoothed_cross_entropy(log_probabilities: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy against (1 - s) on the true class and s spread evenly (Szegedy et al. 2016, as in PyTorch)."""
    true = log_probabilities.gather(1, target[:, None]).squeeze(1)
    return -((1 - smoothing) * true + smoothing * log_probabilities.mean(dim=1))
