from __future__ import annotations

import numpy as np
import pytest
import torch

from genretree.models.neural.head import TreeHead
from genretree.models.neural.spec_augment import spec_augment
from genretree.taxonomy import Taxonomy

TREE = Taxonomy.builtin("ccmusic")


def test_levels_equal_sums_of_the_taxonomy() -> None:
    scores = torch.randn(7, 16, generator=torch.Generator().manual_seed(0)) * 4
    levels = TreeHead(TREE, "tree", [0.1]).log_probabilities(scores)
    expected = TREE.sum_levels(torch.softmax(scores.double(), 1).numpy())
    for found, wanted in zip(levels, expected, strict=True):
        np.testing.assert_allclose(found.exp().numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("smoothing", [[0.0], [0.05, 0.1, 0.15]])
def test_the_loss_is_pytorchs_smoothed_cross_entropy_averaged_over_levels(smoothing: list[float]) -> None:
    head = TreeHead(TREE, "independent", smoothing)
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(9, head.n_scores, generator=generator)
    leaves = torch.randint(0, 16, (9,), generator=generator)
    nodes = torch.from_numpy(TREE.ancestors)[leaves]
    expected = [
        torch.nn.functional.cross_entropy(
            part, nodes[:, level], label_smoothing=smoothing[min(level, len(smoothing) - 1)]
        )
        for level, part in enumerate(scores.split([2, 9, 16], dim=1))
    ]
    torch.testing.assert_close(head.loss(scores, leaves), torch.stack(expected).mean())


def test_single_node_level_has_no_loss() -> None:
    tree = Taxonomy.from_nested({"music": ["a", "b"]})
    scores = torch.randn(4, 2)
    leaves = torch.tensor([0, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(scores, leaves)
    torch.testing.assert_close(TreeHead(tree, "tree", [0.0]).loss(scores, leaves), expected)


def test_extreme_scores_stay_finite() -> None:
    head = TreeHead(TREE, "tree", [0.1])
    scores = (torch.eye(16)[:4] * 200).requires_grad_()
    loss = head.loss(scores, torch.tensor([15, 14, 13, 12]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def test_masks_are_stripes_of_bounded_width() -> None:
    torch.manual_seed(0)
    images = torch.ones(200, 3, 40, 60)
    masked = spec_augment(images, 1.0, 1, 10, 0, 0)
    blank = masked[:, 0, 0] == 0
    assert (masked == 0).eq(blank[:, None, None, :]).all(), "a time mask covers all rows of all modalities"
    widths = blank.sum(dim=1)
    assert widths.max() == 10
    assert widths.min() == 0
    by_row = spec_augment(images, 1.0, 0, 0, 1, 8)
    rows = by_row[:, :, :, 0] == 0
    assert (by_row == 0).eq(rows[..., None]).all()
    assert rows.sum(dim=2).max() == 8
    assert not (rows[:, 0] == rows[:, 1]).all(), "frequency masks differ between modalities"


def test_mask_probability() -> None:
    torch.manual_seed(0)
    images = torch.ones(500, 1, 30, 30)
    touched = (spec_augment(images, 0.5, 2, 20, 2, 20) == 0).flatten(1).any(dim=1).float().mean()
    assert 0.35 < touched < 0.55
    assert (spec_augment(images, 0.0, 2, 20, 2, 20) == 1).all()
