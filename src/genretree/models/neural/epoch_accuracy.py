"""Accuracy of each level during training, accumulated over batches and read once an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genretree.models.neural.head import TreeHead


class EpochAccuracy:
    """Counts of correct predictions for each level, separately for training and validation.

    Training accuracy is measured on the training batches, with augmentation and dropout, while the weights change; the
    study's training curves are computed in the same way.
    """

    def __init__(self) -> None:
        self._counts: dict[bool, Tensor] = {}

    def add(self, head: TreeHead, scores: Tensor, leaves: Tensor, training: bool) -> None:
        """Count the correct predictions of a batch.

        Parameters
        ----------
        head : TreeHead
        scores : float tensor, shape (n, head.n_scores)
        leaves : int64 tensor, shape (n,)
            True leaves.
        training : bool
            Whether this is a training batch.
        """
        with torch.no_grad():
            n_correct = (head.decode(scores) == head.get_buffer("ancestors")[leaves]).sum(dim=0)
            counts = torch.cat([n_correct, n_correct.new_tensor([len(leaves)])])
            previous = self._counts.get(training)
            # Accumulated on the scores' device, so that a GPU isn't synchronised.
            self._counts[training] = counts if previous is None else previous + counts

    def take(self, training: bool, reduce: Callable[[Tensor], Tensor] | None = None) -> list[float]:
        """Return the accuracy of each level, and reset the counts; empty if nothing was counted.

        `reduce` sums the counts of several processes.
        """
        counts = self._counts.pop(training, None)
        if counts is None:
            return []
        total: list[int] = (counts if reduce is None else reduce(counts)).tolist()
        return [n_correct / total[-1] for n_correct in total[:-1]]
