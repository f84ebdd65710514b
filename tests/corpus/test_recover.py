"""Recovery of tracks from images of slices."""

from __future__ import annotations

import numpy as np
import pytest

from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.recovery.groups import NO_LINK, Groups, compute_confidence
from genretree.recovery.pairs import (
    CONTINUITY,
    PAIR_FEATURES,
    SIDE_WIDTH,
    STATISTICS,
    Pairs,
    SliceFeatures,
    continuity,
    extract_slice_features,
    find_pairs,
)
from genretree.recovery.recover import MIN_LIMIT, Recovery, max_block_size, max_track_size, recover_tracks
from genretree.recovery.regroup import regroup_store
from genretree.recovery.weights import WEIGHTS_FILE, load_default_weights
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.slices import slice_track

pytestmark = pytest.mark.slow

SLICES, TRACKS = 4, 10
SECONDS = 11.4


def compose(seed: int) -> np.ndarray:
    """A track with its own instrument, scale, tempo and mastering, and without repetition."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    length = round(SLICES * (SECONDS + 0.1) * SAMPLE_RATE)
    y = np.zeros(length)
    tempo, root = rng.uniform(1.5, 5), rng.uniform(80, 300)
    partials = rng.uniform(0, 1, 12) ** 2 / np.arange(1, 13)
    decay, scale = rng.uniform(1, 8), rng.choice(12, 6, replace=False)
    for beat in range(int(length / SAMPLE_RATE * tempo)):
        start = round((beat + rng.uniform(0, 0.1)) / tempo * SAMPLE_RATE)
        time = np.arange(min(round(1.5 * SAMPLE_RATE), length - start)) / SAMPLE_RATE
        pitch = root * 2 ** (rng.choice(scale) / 12 + rng.integers(2))
        tone = sum(share * np.sin(2 * np.pi * pitch * (k + 1) * time) for k, share in enumerate(partials))
        y[start : start + len(time)] += tone * np.exp(-decay * time) * rng.uniform(0.3, 1)
    noise = lfilter([1], [1, -rng.uniform(0.2, 0.95)], rng.standard_normal(length))
    y += rng.uniform(0.002, 0.05) * noise
    return (0.5 * y / np.abs(y).max()).astype(np.float32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Slices of all tracks, in order."""
    track_slices = [[item.images for item in slice_track(compose(seed), ImageSettings())] for seed in range(TRACKS)]
    assert {len(pieces) for pieces in track_slices} == {SLICES}
    return np.concatenate(track_slices)


TRUTH = np.repeat(np.arange(TRACKS), SLICES)
LEAVES = TRUTH % 2


@pytest.fixture(scope="module")
def found(images: np.ndarray) -> Recovery:
    return recover_tracks(images, LEAVES)


def pairs_of(groups: np.ndarray) -> np.ndarray:
    """Whether each pair of rows is in one group."""
    return (groups[:, None] == groups[None])[np.triu_indices(len(groups), 1)]


# -- recovered groups -------------------------------------------------------------------------------------------


def test_tracks_are_recovered(found: Recovery) -> None:
    ours, theirs = pairs_of(found.tracks), pairs_of(TRUTH)
    assert theirs[ours].mean() > 0.9
    assert ours[theirs].mean() > 0.6
    assert pairs_of(found.blocks)[theirs].mean() > 0.95


def test_a_track_has_one_confidence(found: Recovery) -> None:
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()
    for track in np.unique(found.tracks):
        assert np.ptp(found.confidence[found.tracks == track]) == 0


def test_tracks_lie_within_blocks_and_labels(found: Recovery) -> None:
    for groups, within in ((found.tracks, found.blocks), (found.blocks, LEAVES)):
        for group in np.unique(groups):
            assert len(set(within[groups == group])) == 1
    assert found.tracks[0] == found.blocks[0] == 0
    assert set(found.tracks) == set(range(found.tracks.max() + 1))


def test_result_is_independent_of_order_and_label_numbers(images: np.ndarray, found: Recovery) -> None:
    order = np.random.default_rng(0).permutation(len(images))
    again = recover_tracks(images[order], np.array([7, 3])[LEAVES[order]])
    for ours, theirs in ((again.tracks, found.tracks), (again.blocks, found.blocks)):
        np.testing.assert_array_equal(pairs_of(ours), pairs_of(theirs[order]))
    np.testing.assert_array_equal(again.confidence, found.confidence[order])


def test_result_is_nearly_invariant_to_scale_and_offset(images: np.ndarray, found: Recovery) -> None:
    gain = np.random.default_rng(1).uniform(0.7, 0.95, (len(images), 3, 1, 1))
    again = recover_tracks(np.rint(gain * images + 10).astype(np.uint8), LEAVES)
    assert (pairs_of(again.tracks) == pairs_of(found.tracks)).mean() > 0.98


def test_continuity_finds_the_next_slice(images: np.ndarray) -> None:
    features = extract_slice_features(images)
    assert features.ends.shape == features.starts.shape == (len(images), SIDE_WIDTH)
    assert features.place.shape == (len(images), STATISTICS)
    rows = np.flatnonzero(np.arange(len(images)) % SLICES < SLICES - 1)
    everyone = np.arange(len(images))
    right = 0
    for row in rows:
        scores = continuity(features, np.full(len(images), row), everyone) @ load_default_weights().cut
        scores[row] = -np.inf
        right += scores.argmax() == row + 1
    assert right / len(rows) > 0.7  # chance: 1 in 39


# -- corner cases --------------------------------------------------------------------------------------------


def test_no_slices_or_one_slice(images: np.ndarray) -> None:
    none = recover_tracks(images[:0], np.zeros(0, np.int64))
    assert none.tracks.shape == none.confidence.shape == none.blocks.shape == (0,)
    one = recover_tracks(images[:1], np.array([5]))
    assert (one.tracks.tolist(), one.blocks.tolist()) == ([0], [0])
    assert 0 <= one.confidence[0] <= 1


def test_label_with_one_slice_is_its_own_group(images: np.ndarray) -> None:
    found = recover_tracks(images[:3], np.array([0, 1, 0]))
    assert (found.tracks == found.tracks[1]).sum() == (found.blocks == found.blocks[1]).sum() == 1


def test_equal_slices_are_in_one_track(images: np.ndarray) -> None:
    rows = np.array([0, 9, 9, 17, 9, 0])
    found = recover_tracks(images[rows], np.zeros(6, np.int64))
    assert found.tracks[1] == found.tracks[2] == found.tracks[4]
    assert found.tracks[0] == found.tracks[5]


def test_black_images_have_no_confidence(images: np.ndarray) -> None:
    black = np.zeros((3, *images.shape[1:]), np.uint8)
    found = recover_tracks(np.concatenate([images[:4], black]), np.zeros(7, np.int64))
    assert len(set(found.tracks[4:]) | set(found.tracks[:4])) == 3 + len(set(found.tracks[:4]))
    assert found.confidence[4:].tolist() == [0, 0, 0]
    assert len(set(found.blocks[4:])) == 3
    assert np.isfinite(found.confidence).all()


def test_constant_chroma_and_cqt_are_accepted(images: np.ndarray) -> None:
    flat = images[:8].copy()
    flat[:, 1:] = 0
    found = recover_tracks(flat, np.zeros(8, np.int64))
    assert np.isfinite(found.confidence).all()


def test_other_image_sizes_are_accepted() -> None:
    small = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    assert recover_tracks(small, np.zeros(5, np.int64)).tracks.shape == (5,)


@pytest.mark.parametrize(
    ("images", "leaves", "message"),
    [
        (np.zeros((2, 3, 32, 32), np.float32), np.zeros(2, int), "float32"),
        (np.zeros((2, 1, 32, 32), np.uint8), np.zeros(2, int), r"\(2, 1, 32, 32\)"),
        (np.zeros((2, 3, 32, 32), np.uint8), np.zeros(3, int), r"a label for each of 2 slices; got shape \(3,\)"),
    ],
)
def test_bad_input_is_rejected(images: np.ndarray, leaves: np.ndarray, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        recover_tracks(images, leaves)


# -- pairs and groups ----------------------------------------------------------------------------------------


def described_at(angles: np.ndarray) -> SliceFeatures:
    """Slices that differ only in `place`."""
    same = np.ones((len(angles), 1), np.float32)
    place = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    return SliceFeatures(np.repeat(same, SIDE_WIDTH, 1), np.repeat(same, SIDE_WIDTH, 1), place, same)


def chain(n: int, links: list[float]) -> tuple[SliceFeatures, Pairs, np.ndarray]:
    pairs = Pairs(np.arange(n - 1), np.arange(1, n), np.zeros((n - 1, PAIR_FEATURES), np.float32))
    return described_at(np.linspace(0, 0.1, n)), pairs, np.array(links, np.float32)


def by_best_link() -> object:
    from dataclasses import replace

    hidden = np.zeros((9, 2), np.float32)
    hidden[2] = 1, -1
    return replace(load_default_weights(), merge_hidden=hidden, merge_output=np.array([1, -1, 0], np.float32))


def test_most_probable_pairs_merge_first_up_to_the_limit() -> None:
    slices, pairs, links = chain(5, [3.0, 5.0, 1.0, -4.0])
    groups = Groups(slices, pairs, links, np.ones(5, np.int64), by_best_link())
    assert groups.join(0.99, 5).tolist() == [0, 1, 1, 3, 4]
    assert groups.join(0.9, 2).tolist() == [0, 1, 1, 3, 4]
    groups = Groups(slices, pairs, links, np.ones(5, np.int64), by_best_link())
    assert len(set(groups.join(0.9, 5))) == 3
    assert len(set(groups.join(0.01, 5))) == 1


def test_copies_count_towards_the_limit() -> None:
    slices, pairs, links = chain(2, [9.0])
    assert len(set(Groups(slices, pairs, links, np.array([1, 2]), by_best_link()).join(0.5, 2))) == 2
    assert len(set(Groups(slices, pairs, links, np.array([1, 2]), by_best_link()).join(0.5, 3))) == 1


def test_confidence_of_single_slice_uses_its_best_link() -> None:
    slices, pairs, links = chain(3, [4.0, -2.0])
    rated = compute_confidence(slices, pairs, links, np.array([0, 0, 1]), by_best_link())
    np.testing.assert_allclose(rated, [1 / (1 + np.exp(-4))] * 2 + [1 / (1 + np.exp(-2))], rtol=1e-5)
    alone = compute_confidence(
        slices,
        Pairs(*(np.zeros(0, np.int64),) * 2, np.zeros((0, PAIR_FEATURES))),
        links[:0],
        np.arange(3),
        by_best_link(),
    )
    np.testing.assert_allclose(alone, 1 / (1 + np.exp(NO_LINK)))


def test_pairs_are_unique_and_finite(images: np.ndarray) -> None:
    features = extract_slice_features(images)
    weights = load_default_weights()
    place = (features.place - weights.center) @ weights.projection
    pairs = find_pairs(SliceFeatures(features.ends, features.starts, place, features.rhythm), weights)
    assert (pairs.first < pairs.second).all()
    assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == len(pairs.first)
    assert pairs.features.shape == (len(pairs.first), PAIR_FEATURES)
    assert np.isfinite(pairs.features).all()
    assert weights.cut.shape == (CONTINUITY,)


def test_limits_of_group_sizes() -> None:
    assert max_track_size(100) == max_block_size(100, 100) == MIN_LIMIT
    assert max_track_size(36_375) == 1818
    assert [max_block_size(n, 36_375) for n in (1, 2, 30, 300)] == [1, 1, 15, 40]
    assert max_block_size(4000, 36_375) == 500
    assert max_block_size(36_375, 36_375) == 1818


# -- stores --------------------------------------------------------------------------------------------------


def test_store_with_known_tracks_is_rejected(store: Store) -> None:
    with pytest.raises(CorpusError, match="its tracks are known"):
        regroup_store(store)


def test_package_contains_the_weights() -> None:
    assert WEIGHTS_FILE.stat().st_size < 600_000
    assert WEIGHTS_FILE.suffix == ".safetensors"
