from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genretree.corpus.copies import Copies, count_joined, join_copies
from genretree.corpus.splits import JoinedCopies, Split, fold_groups, join_groups, split_groups, split_slices
from genretree.errors import CorpusError


def _corpus(seed: int, leaves: int, artists: int) -> tuple[np.ndarray, np.ndarray]:
    """Leaf and group of every track: 1 to 6 tracks an artist; every artist stays with one leaf."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(leaves * artists), rng.integers(1, 7, leaves * artists))
    return groups % leaves, groups


def _assert_disjoint(split: Split, groups: np.ndarray) -> None:
    parts = np.array(split.parts)
    for group in np.unique(groups):
        assert len(set(parts[groups == group])) == 1


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_no_group_is_ever_parted_and_every_leaf_is_learned(seed: int, n_leaves: int, artists: int) -> None:
    leaves, groups = _corpus(seed, n_leaves, artists)
    split = split_groups(leaves, groups, seed=seed)
    _assert_disjoint(split, groups)
    train = np.array(split.parts) == "train"
    assert set(leaves[train]) == set(leaves)


def test_parts_have_about_the_asked_share_and_every_leaf() -> None:
    leaves, groups = _corpus(0, 4, 25)
    split = split_groups(leaves, groups, test=0.2, validation=0.15)
    parts = np.array(split.parts)
    assert 0.15 < np.mean(parts == "test") < 0.25
    assert 0.10 < np.mean(parts == "validation") < 0.20
    for part in ("train", "validation", "test"):
        assert set(leaves[parts == part]) == {0, 1, 2, 3}


def test_the_seed_decides() -> None:
    leaves, groups = _corpus(1, 4, 10)
    assert split_groups(leaves, groups, seed=3) == split_groups(leaves, groups, seed=3)
    assert split_groups(leaves, groups, seed=3).parts != split_groups(leaves, groups, seed=4).parts


def test_folds_test_every_track_once() -> None:
    leaves, groups = _corpus(2, 4, 10)
    splits = fold_groups(leaves, groups, folds=5)
    tested = np.sum([np.array(split.parts) == "test" for split in splits], axis=0)
    assert (tested == 1).all()
    for split in splits:
        _assert_disjoint(split, groups)
        assert "validation" in split.parts
    assert [split.name for split in splits] == [f"default-{i}" for i in range(5)]


def test_too_few_groups_for_the_folds() -> None:
    with pytest.raises(CorpusError, match="folds need at least"):
        fold_groups(np.array([0, 1, 0]), np.array([0, 1, 0]), folds=3)
    with pytest.raises(CorpusError, match=r"must be in \[0, 0.5\]"):
        split_groups(np.array([0, 1]), np.array([0, 1]), test=0.9)


def test_the_same_audio_joins_its_groups() -> None:
    joined = join_groups(["ana", "bo", "cy", "ana", "di"], ["s1", "s1", "s2", "s3", "s4"])
    assert joined[0] == joined[1] == joined[3]
    assert len({int(joined[0]), int(joined[2]), int(joined[4])}) == 3


def test_the_slice_protocol_parts_tracks_and_says_so() -> None:
    slice_tracks = np.repeat(np.arange(40), 10)
    split = split_slices(slice_tracks % 4)
    assert split.protocol == "slice"
    assert "LEAKING" in split.note
    parts = split.slice_parts(slice_tracks)
    parted = [track for track in range(40) if len(set(parts[slice_tracks == track])) > 1]
    assert len(parted) > 20


def test_a_split_survives_its_file(tmp_path: Path) -> None:
    leaves, groups = _corpus(3, 3, 8)
    split = split_groups(leaves, groups, name="mine")
    split.save(tmp_path)
    assert Split.load(tmp_path, "mine") == split
    with pytest.raises(CorpusError, match="available: mine"):
        Split.load(tmp_path, "other")
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(CorpusError, match="damaged split file"):
        Split.load(tmp_path, "mine")
    with pytest.raises(CorpusError, match="name may contain letters"):
        Split.load(tmp_path, "../mine")


def test_groups_with_copies_are_joined_through_others_too() -> None:
    groups = np.array([4, 4, 2, 7, 9, 9])
    assert join_copies(groups, []).tolist() == groups.tolist()
    joined = join_copies(groups, [(0, 2), (3, 2), (4, 5)])
    assert joined.tolist() == [2, 2, 2, 2, 9, 9]
    counted = count_joined(Copies("audit.json", "00", ((0, 2), (2, 3), (4, 5))), groups, joined)
    assert (counted.pairs, counted.groups, counted.into) == (3, 3, 1)
    assert str(counted) == "3 pairs of copies in audit.json: 3 groups joined into 1"


def test_a_split_names_its_audit_and_those_of_before_are_read(tmp_path: Path) -> None:
    split = Split(
        name="mine", protocol="group", seed=0, parts=("train", "test"), copies=JoinedCopies("audit.json", "00", 1, 2, 1)
    )
    path = split.save(tmp_path)
    assert Split.load(tmp_path, "mine") == split
    Split(name="mine", protocol="group", seed=0, parts=("train", "test")).save(tmp_path)
    assert set(json.loads(path.read_text())) == {"name", "protocol", "seed", "parts", "fold", "folds"}
    assert Split.load(tmp_path, "mine").copies is None
    path.write_text("[]")
    with pytest.raises(CorpusError, match="damaged split file"):
        Split.load(tmp_path, "mine")
