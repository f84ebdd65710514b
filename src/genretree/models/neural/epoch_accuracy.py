"""Accuracy of each level while a network trains: counted batch by batch, read once an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genretree.models.neural.head import TreeHead


class EpochAccuracy:
    """Counts right answers of each level, apart for training and validation.

    Training answers are those of the training batches themselves, as changed by augmentation and dropout and before the
    epoch's last updates; the study's training curves are made the same way.
    """

    def __init__(self) -> None:
        self._counts: dict[bool, Tensor] = {}

    def add(self, head: TreeHead, scores: Tensor, leaves: Tensor, training: bool) -> None:
        """Count a batch.

        Parameters
        ----------
        head : TreeHead
        scores : float tensor, shape (n, head.n_scores)
        leaves : int64 tensor, shape (n,)
            True leaves.
        training : bool
            Whether the network learns from this batch.
        """
        with torch.no_grad():
            right = (head.decode(scores) == head.get_buffer("ancestors")[leaves]).sum(dim=0)
            counts = torch.cat([right, right.new_tensor([len(leaves)])])
            known = self._counts.get(training)
            # Added up where the scores are, so that a GPU need not wait.
            self._counts[training] = counts if known is None else known + counts

    def take(self, training: bool, reduce: Callable[[Tensor], Tensor] | None = None) -> list[float]:
        """Return the shares of right answers, one for each level, and start again; empty if nothing was counted.

        `reduce` adds up the counts of several processes.
        """
        counts = self._counts.pop(training, None)
        if counts is None:
            return []
        total: list[int] = (counts if reduce is None else reduce(counts)).tolist()
        return [right / total[-1] for right in total[:-1]]
