from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genretree.corpus.copies import Copies, count_joined, join_copies
from genretree.corpus.splits import JoinedCopies, Split, fold_groups, join_groups, split_groups, split_slices
from genretree.errors import ArgumentError, CorpusError


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


@pytest.mark.filterwarnings("error")  # scikit-learn warns of leaves with fewer tracks than folds
@pytest.mark.parametrize("seed", [16, 22, 30, 31, 45])
def test_groups_are_returned_to_training_where_a_leaf_would_be_lost(seed: int) -> None:
    # So few groups, of several leaves each, that every choice of whole groups would take all tracks of some leaf.
    rng = np.random.default_rng(seed)
    groups, leaves = rng.integers(0, 10, 24), rng.integers(0, 8, 24)
    split = split_groups(leaves, groups, seed=seed)
    _assert_disjoint(split, groups)
    assert set(leaves[np.array(split.parts) == "train"]) == set(leaves)
    assert "test" in split.parts
    assert ("validation" in split.parts) == (seed != 45)  # only what has to be is returned


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    leaves, groups = _corpus(0, 2, 6)
    for split in (split_groups, fold_groups):
        with pytest.raises(ArgumentError, match="seed must be"):
            split(leaves, groups, seed=seed)
    with pytest.raises(ArgumentError, match="seed must be"):
        split_slices(leaves, seed=seed)
    assert len(fold_groups(leaves, groups, seed=2**32 - 1)) == 5


def test_parts_have_about_the_asked_share_and_every_leaf() -> None:
    leaves, groups = _corpus(0, 4, 25)
    split = split_groups(leaves, groups, test=0.2, validation=0.15)
    assert split.protocol == "group"
    parts = np.array(split.parts)
    assert 0.15 < np.mean(parts == "test") < 0.25
    assert 0.10 < np.mean(parts == "validation") < 0.20
    for part in ("train", "validation", "test"):
        assert set(leaves[parts == part]) == {0, 1, 2, 3}


def test_small_corpora_are_split_as_closely_as_groups_allow() -> None:
    two = np.arange(2)
    assert sorted(split_groups(two * 0, two, test=0.5, validation=0).parts) == ["test", "train"]
    twenty = np.arange(20)
    parts = split_groups(twenty * 0, twenty, test=0.5, validation=0).parts
    assert (parts.count("test"), parts.count("train")) == (10, 10)


def test_the_seed_decides() -> None:
    leaves, groups = _corpus(1, 4, 10)
    assert split_groups(leaves, groups, seed=3) == split_groups(leaves, groups, seed=3)
    assert split_groups(leaves, groups, seed=3).parts != split_groups(leaves, groups, seed=4).parts
    assert fold_groups(leaves, groups, seed=3) == fold_groups(leaves, groups, seed=3)
    assert fold_groups(leaves, groups, seed=3)[0].parts != fold_groups(leaves, groups, seed=4)[0].parts
    assert split_slices(leaves, seed=3) == split_slices(leaves, seed=3)
    assert split_slices(leaves, seed=3).parts != split_slices(leaves, seed=4).parts
    assert split_groups(leaves, groups, seed=2**32 - 1).seed == 2**32 - 1  # the largest of scikit-learn
    assert (split_slices(leaves, seed=3).seed, split_groups(leaves, groups, seed=3).seed) == (3, 3)


def test_folds_test_every_track_once() -> None:
    leaves, groups = _corpus(2, 4, 10)
    splits = fold_groups(leaves, groups, seed=7)
    tested = np.sum([np.array(split.parts) == "test" for split in splits], axis=0)
    assert (tested == 1).all()
    for split in splits:
        _assert_disjoint(split, groups)
        assert 0.08 < split.parts.count("validation") / len(leaves) < 0.22
        assert (split.protocol, split.seed, split.folds) == ("group", 7, 5)
    assert [split.fold for split in splits] == [0, 1, 2, 3, 4]
    assert [split.name for split in splits] == [f"default-{i}" for i in range(5)]


def test_the_rest_of_a_fold_loses_no_leaf_to_validation() -> None:
    leaves, groups = _corpus(5, 6, 3)
    for split in fold_groups(leaves, groups, folds=3, validation=0.3):
        parts = np.array(split.parts)
        assert set(leaves[parts == "train"]) == set(leaves[parts != "test"])


def test_too_few_groups_for_the_folds() -> None:
    groups = np.array([0, 1, 0])
    with pytest.raises(CorpusError, match="3 folds need at least 3 groups, got 2"):
        fold_groups(groups, groups, folds=3)
    with pytest.raises(CorpusError, match="folds must be at least 2, got 1"):
        fold_groups(groups, groups, folds=1)
    assert sorted(split.parts.count("test") for split in fold_groups(groups, groups, folds=2)) == [1, 2]


@pytest.mark.parametrize("share", [0.9, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    numbers = np.arange(12)
    with pytest.raises(CorpusError, match=r"the test share must be in \[0, 0.5\], got"):
        split_groups(numbers % 2, numbers, test=share)
    with pytest.raises(CorpusError, match=r"the validation share must be in \[0, 0.5\], got"):
        split_groups(numbers % 2, numbers, validation=share)
    with pytest.raises(CorpusError, match=r"the validation share must be in \[0, 0.5\], got"):
        fold_groups(numbers % 2, numbers, validation=share)


def test_the_same_audio_joins_its_groups() -> None:
    joined = join_groups(["ana", "bo", "cy", "ana", "di"], ["s1", "s1", "s2", "s3", "s4"])
    assert joined[0] == joined[1] == joined[3]
    assert sorted(np.bincount(joined)) == [1, 1, 3]


def test_the_slice_protocol_parts_tracks_and_says_so() -> None:
    slice_tracks = np.repeat(np.arange(40), 10)
    split = split_slices(slice_tracks % 4)
    assert split.protocol == "slice"
    assert "LEAKING" in split.note
    parts = split.slice_parts(slice_tracks)
    parted = [track for track in range(40) if len(set(parts[slice_tracks == track])) > 1]
    assert len(parted) > 20
    assert split.name == "slices"
    shares = split_slices(slice_tracks % 4, test=0.25, validation=0.4)
    assert (shares.parts.count("test"), shares.parts.count("validation")) == (100, pytest.approx(160, abs=45))
    whole = Split(name="x", protocol="group", seed=0, parts=("train", "test"))
    assert whole.slice_parts(np.array([1, 0, 1])).tolist() == ["test", "train", "test"]


def test_a_split_survives_its_file(tmp_path: Path) -> None:
    leaves, groups = _corpus(3, 3, 8)
    split = split_groups(leaves, groups, name="mine")
    split.save(tmp_path)
    assert Split.load(tmp_path, "mine") == split
    with pytest.raises(CorpusError, match=r"no split named 'other' in .*; available: none"):
        Split.load(tmp_path / "empty", "other")
    split_groups(leaves, groups, name="early").save(tmp_path)
    with pytest.raises(CorpusError, match="available: early, mine"):
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
    assert str(JoinedCopies("audit.json", "00", 1, 0, 0)) == "1 pair of copies in audit.json: no groups to join"


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
