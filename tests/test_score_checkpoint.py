"""Checkpoints inside a long file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genretree.prediction import predict, score_checkpoint
from genretree.prediction.predict import score_slices
from genretree.prediction.score_checkpoint import checkpoint_scores
from genretree.sound.features import SliceInputs
from genretree.sound.slices import FeatureSlice

N_SLICES = 11


class CountingModel:
    """Predicts from the feature `value`, and keeps what it was asked for."""

    def __init__(self, fail_at: float | None = None, tags: bool = False) -> None:
        self.seen: list[float] = []
        self._fail_at = fail_at
        if tags:
            self.predict_with_tags = lambda inputs: (self.predict_proba(inputs), inputs["value"][:, None] / 100)

    def predict_proba(self, inputs: SliceInputs) -> list[Any]:
        values = inputs["value"]
        if self._fail_at in values:
            raise KeyboardInterrupt
        self.seen += values.tolist()
        share = (values / 20).astype(np.float32)[:, None]
        return [np.hstack([share, 1 - share]), np.hstack([share, share, 1 - 2 * share])]


def _slices(offset: float = 0.0) -> Iterator[FeatureSlice]:
    for value in range(N_SLICES):
        start = value * 11.4 + (offset if value >= 6 else 0)
        yield FeatureSlice(start=start, padded=False, silent=False, features={"value": np.float32(value)})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_BATCH", 2)
    monkeypatch.setattr(score_checkpoint, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.parametrize("tags", [False, True])
def test_a_long_file_continues_where_it_was_interrupted(tmp_path: Path, tags: bool) -> None:
    whole = score_slices(SimpleNamespace(training={}, model=CountingModel(tags=tags)), _slices())
    path = tmp_path / "partial" / "file.npz"
    with checkpoint_scores(path):
        with pytest.raises(KeyboardInterrupt):
            score_slices(SimpleNamespace(training={}, model=CountingModel(fail_at=8, tags=tags)), _slices())
        assert path.is_file()
        model = CountingModel(tags=tags)
        resumed = score_slices(SimpleNamespace(training={}, model=model), _slices())
    assert model.seen == [8, 9, 10]
    assert resumed.starts == whole.starts
    for one, other in zip(resumed.levels, whole.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (resumed.tags is None) == (not tags)
    if tags:
        np.testing.assert_array_equal(resumed.tags, whole.tags)
    assert list(path.parent.iterdir()) == []


def test_a_checkpoint_of_other_slices_is_used_as_far_as_it_agrees(tmp_path: Path) -> None:
    with checkpoint_scores(tmp_path / "file.npz"):
        with pytest.raises(KeyboardInterrupt):
            score_slices(SimpleNamespace(training={}, model=CountingModel(fail_at=10)), _slices())
        model = CountingModel()
        scores = score_slices(SimpleNamespace(training={}, model=model), _slices(offset=1.0))
    assert model.seen == [6, 7, 8, 9, 10]
    assert scores.starts == [item.start for item in _slices(offset=1.0)]
    assert all(len(level) == N_SLICES for level in scores.levels)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 truncated"])
def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.npz").write_bytes(content)
    model = CountingModel()
    with checkpoint_scores(tmp_path / "file.npz"):
        score_slices(SimpleNamespace(training={}, model=model), _slices())
    assert len(model.seen) == N_SLICES


def test_a_folder_that_cannot_be_written_costs_only_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with checkpoint_scores(tmp_path / "file" / "below.npz"):
        assert len(score_slices(SimpleNamespace(training={}, model=CountingModel()), _slices()).starts) == N_SLICES
