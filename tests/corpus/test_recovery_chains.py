"""Chains of slices, the blocks of artists, and the file of weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genretree.corpus.splits import RecoveredBlocks, Split
from genretree.errors import BundleError
from genretree.recovery.chains import CHAIN_FEATURES, cover_by_paths, find_chains, list_paths
from genretree.recovery.groups import Groups
from genretree.recovery.pairs import CONTINUITY, PAIR_FEATURES, SIDE_WIDTH, Pairs, SliceFeatures, find_pairs
from genretree.recovery.recover import group_slices, join_blocks, max_artist_size
from genretree.recovery.regroup import summarise_blocks
from genretree.recovery.weights import FORMAT, Weights, load_default_weights, read_weights, write_weights
from genretree.taxonomy import Taxonomy

# -- path cover ----------------------------------------------------------------------------------------------


def cover(gains: dict[tuple[int, int], float], n: int) -> list[int]:
    earlier, later = (np.array(column, np.int64) for column in zip(*gains, strict=True))
    return cover_by_paths(earlier, later, np.array(list(gains.values())), n).tolist()


def test_path_cover_has_the_greatest_sum() -> None:
    # The best continuation of 0 is 2; without it, 1 would have none.
    assert cover({(0, 2): 5.0, (0, 3): 4.5, (1, 2): 4.0}, 4) == [3, 2, -1, -1]
    assert cover({(0, 2): 5.0, (0, 3): 0.5, (1, 2): 4.0}, 4) == [2, -1, -1, -1]


def test_cycles_are_cut_at_their_weakest_continuation() -> None:
    assert cover({(0, 1): 2.0, (1, 2): 1.0, (2, 0): 3.0, (3, 4): 1.0}, 5) == [1, -1, 0, 4, -1]


def test_no_continuations() -> None:
    empty = np.zeros(0, np.int64)
    assert cover_by_paths(empty, empty, np.zeros(0), 3).tolist() == [-1, -1, -1]
    assert cover_by_paths(empty, empty, np.zeros(0), 0).tolist() == []
    assert list_paths(np.array([2, -1, 1, -1])) == [[0, 2, 1], [3]]


# -- chains --------------------------------------------------------------------------------------------------


def by_share() -> Weights:
    """Weights whose chains are linked by the column at the cut and its share among competitors alone."""
    hidden = np.zeros((CHAIN_FEATURES + 1, 1), np.float32)
    hidden[[0, CONTINUITY, CONTINUITY + 1]] = 1
    hidden[-1] = 1
    return replace(
        load_default_weights(),
        cut=np.full(CONTINUITY, 1, np.float32),
        chain_hidden=hidden,
        chain_output=np.array([2, -3], np.float32),
        thresholds=np.array([0.9, 0.1, 0.9, 0.5], np.float32),
    )


def play(tracks: int, slices: int, seed: int = 0, noise: float = 0.2) -> SliceFeatures:
    """Slices of tracks that sound the same but for their cuts, where they continue."""
    rng = np.random.default_rng(seed)
    n = tracks * slices
    cuts = rng.standard_normal((tracks, slices + 1, SIDE_WIDTH))
    starts = cuts[:, :-1] + noise * rng.standard_normal((tracks, slices, SIDE_WIDTH))
    ends = cuts[:, 1:] + noise * rng.standard_normal((tracks, slices, SIDE_WIDTH))
    vectors = []
    for side in (ends, starts):
        parts = np.split(side.reshape(n, SIDE_WIDTH), np.cumsum([128] * 5 + [84] * 4), axis=1)
        parts = [part - part.mean(axis=1, keepdims=True) for part in parts]
        vectors.append(np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1))
    same = np.ones((n, 1), np.float32)
    return SliceFeatures(vectors[0].astype(np.float32), vectors[1].astype(np.float32), same, same)


def test_tracks_that_sound_the_same_are_told_apart_by_their_chains() -> None:
    order = np.random.default_rng(1).permutation(6 * 21)
    chains = find_chains(play(6, 21).take(order), by_share())
    truth = order // 21
    assert len(set(chains)) == 6
    for chain in range(6):
        assert len(set(truth[chains == chain])) == 1


def test_weak_links_are_cut() -> None:
    slices = play(2, 6)
    slices.ends[2] = play(1, 1, seed=9).ends[0]  # the third slice of the first track ends as no other starts
    chains = find_chains(slices, by_share())
    assert chains[:3].tolist() == [chains[0]] * 3
    assert chains[3:6].tolist() == [chains[3]] * 3
    assert chains[0] != chains[3]
    assert len(set(chains[6:])) == 1


def test_no_slices_and_one_slice_are_chains() -> None:
    slices = play(1, 1)
    assert find_chains(slices, by_share()).tolist() == [0]
    assert find_chains(slices.take(np.zeros(0, np.int64)), by_share()).tolist() == []


def test_chains_are_the_first_groups() -> None:
    slices = play(3, 4)
    pairs = Pairs(np.array([0, 4, 3]), np.array([4, 8, 7]), np.zeros((3, PAIR_FEATURES), np.float32))
    chains = np.repeat([7, 2, 5], 4)
    links = np.array([1.0, -3.0, 4.0], np.float32)
    groups = Groups(slices, pairs, links, np.ones(12, np.int64), by_best_link(), chains)
    assert groups.join(0.99, 12).tolist() == [0] * 4 + [4] * 4 + [8] * 4
    assert groups.join(0.9, 7).tolist() == [0] * 4 + [4] * 4 + [8] * 4
    assert groups.join(0.9, 8).tolist() == [0] * 8 + [8] * 4  # refused before, for its size


# -- blocks of artists ---------------------------------------------------------------------------------------


def by_best_link() -> Weights:
    hidden = np.zeros((9, 2), np.float32)
    hidden[2] = 1, -1
    return replace(by_share(), merge_hidden=hidden, merge_output=np.array([1, -1, 0], np.float32))


def test_blocks_hold_tracks_that_cannot_be_told_apart() -> None:
    # Twelve tracks of 40 slices: six of one artist that nothing separates, and six others that are little alike.
    n = 12 * 40
    slices = SliceFeatures(*(np.ones((n, 1), np.float32),) * 4)
    first = np.arange(11) * 40
    links = np.array([2.0] * 5 + [-2.0] * 6, np.float32)
    pairs = Pairs(first, first + 40, np.zeros((11, PAIR_FEATURES), np.float32))

    def blocks(thresholds: list[float]) -> list[int]:
        weights = replace(by_best_link(), thresholds=np.array(thresholds, np.float32))
        groups = Groups(slices, pairs, links, np.ones(n, np.int64), weights, np.arange(n) // 40)
        sizes = np.unique(join_blocks(groups, weights, n, n), return_counts=True)[1]
        return sorted((sizes // 40).tolist())

    assert blocks([0.9, 0.05]) == [1] * 12  # at most an eighth of the label, and at most 40 slices
    assert blocks([0.9, 0.05, 0.9, 0.5]) == [1] * 6 + [6]
    assert blocks([0.9, 0.05, 0.9, 0.05]) == [3, 9]  # a quarter of the label can be held out
    assert max_artist_size(n) == 360


def test_labels_with_blocks_of_artists_are_named() -> None:
    tree = Taxonomy.from_paths([("Rock",), ("Pop",), ("Opera",)])
    leaves = np.repeat([0, 1, 2], [1000, 1000, 100])
    blocks = np.concatenate([np.repeat([0, 1], [600, 400]), 2 + np.arange(1000) // 30, np.full(100, 99)])
    found = summarise_blocks(leaves, blocks, tree)
    names = [" > ".join(path) for path in tree.leaves]
    assert found == RecoveredBlocks(37, {names[0]: 0.6}, (names[2],))
    assert f"{names[0]} (60 %)" in str(found)
    assert f"stay in training, so that no figure covers them: {names[2]}" in str(found)
    assert str(RecoveredBlocks(3, {})) == ""


def test_splits_record_blocks_of_artists(tmp_path: Path) -> None:
    split = Split(name="recovered", protocol="recovered", seed=0, parts=("train", "test"))
    split.save(tmp_path)
    assert '"recovery"' not in (tmp_path / "recovered.json").read_text(encoding="utf-8")
    assert Split.load(tmp_path, "recovered") == split
    coarse = replace(split, recovery=RecoveredBlocks(2, {"Rock": 0.6}, ("Opera",)))
    coarse.save(tmp_path)
    assert Split.load(tmp_path, "recovered") == coarse
    assert coarse.note.startswith(split.note)
    assert "Rock (60 %)" in coarse.note


# -- the file ------------------------------------------------------------------------------------------------

FIRST = ("center", "projection", "cut", "pair_hidden", "pair_output", "merge_hidden", "merge_output")


def test_weights_are_read_as_written(tmp_path: Path) -> None:
    write_weights(by_share(), tmp_path / "w.safetensors")
    again = read_weights(tmp_path / "w.safetensors")
    for name, value in vars(by_share()).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert again.min_link == again.min_track == pytest.approx(0.9)
    assert again.min_artist == pytest.approx(0.5)


def test_first_format_is_read_and_has_no_chains(tmp_path: Path) -> None:
    arrays = {name: getattr(by_share(), name) for name in FIRST} | {"thresholds": np.array([0.94, 0.05], np.float32)}
    save_file(arrays, tmp_path / "old.safetensors")  # without metadata
    old = read_weights(tmp_path / "old.safetensors")
    assert old.min_link is None
    assert old.min_artist is None
    slices = play(2, 4)
    slices = replace(slices, place=np.random.default_rng(0).standard_normal((8, 100)).astype(np.float32))
    assert find_chains(slices, old).tolist() == list(range(8))
    found = group_slices(slices, old, np.ones(8, np.int64), 8)
    pairs = find_pairs(slices, old)
    assert found.tracks.shape == (8,)
    assert len(pairs.first)


@pytest.mark.parametrize("version", [str(FORMAT + 1), "two"])
def test_later_formats_are_rejected(tmp_path: Path, version: str) -> None:
    arrays = {name: getattr(by_share(), name) for name in FIRST} | {"thresholds": np.zeros(2, np.float32)}
    save_file(arrays, tmp_path / "new.safetensors", {"recovery_format": version})
    with pytest.raises(BundleError, match=f"weights of format {version}; this version reads formats up to {FORMAT}"):
        read_weights(tmp_path / "new.safetensors")


def test_other_files_are_rejected(tmp_path: Path) -> None:
    save_file({"center": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="not weights of track recovery"):
        read_weights(tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(BundleError, match="damaged weights"):
        read_weights(tmp_path / "torn.safetensors")
