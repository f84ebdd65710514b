"""Splits of a corpus into train, validation and test parts by whole groups.

Parts are stratified over the leaves as far as whole groups allow (scikit-learn's StratifiedGroupKFold), seeded, and
saved with the store. The published split of the ccmusic data set is by slices, not tracks; that protocol is available
for comparison, and all results from it are labelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genretree.checks import require_integer
from genretree.errors import CorpusError
from genretree.files import write_text

MAX_SEED = 2**32 - 1  # of scikit-learn
PARTS = ("train", "validation", "test")
Protocol = Literal["group", "slice", "recovered"]
RECOVERED = "recovered track"  # `group_by` of a store whose groups were inferred from its images
WITHOUT_TRACKS = ("slice", RECOVERED)  # `group_by` where each slice counts as a track

PROTOCOL_NOTES = {
    "group": "no group (artist, album or track) stands in more than one part",
    "slice": "LEAKING: slices of one track stand in several parts; the figures say nothing about unseen music",
    "recovered": (
        "by tracks guessed from the images, so that some leak may be left: on known music, 0 to 2.4 % of the test "
        "slices had a slice of their own track in training; where tracks can't be told apart for certain, a block may "
        "hold a whole artist (docs/recovery.md)"
    ),
}


@dataclass(frozen=True)
class JoinedCopies:
    """The audit whose copies a split merged, and the number of merged groups.

    Parameters
    ----------
    audit : str
        The audit file.
    sha256 : str
        SHA-256 of that file.
    pairs : int
        Number of pairs of copies that it lists.
    groups : int
        Number of groups that were merged.
    into : int
        Number of groups after merging.
    """

    audit: str
    sha256: str
    pairs: int
    groups: int
    into: int

    def __str__(self) -> str:
        what = f"{self.pairs} {'pair' if self.pairs == 1 else 'pairs'} of copies in {self.audit}"
        return f"{what}: {self.groups} groups joined into {self.into}" if self.groups else f"{what}: no groups to join"


@dataclass(frozen=True)
class RecoveredBlocks:
    """How coarse the blocks of a split by recovered tracks are.

    Parameters
    ----------
    blocks : int
        Number of blocks.
    by_artist : mapping of str to float
        Labels whose tracks could not be told apart, so that a block may hold all tracks of an artist, and the share of
        the label in its largest block, 0 to 1.
    whole : tuple of str
        Labels that are a single block. They stay in training, so that no figure covers them.
    """

    blocks: int
    by_artist: Mapping[str, float]
    whole: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.by_artist:
            labels = ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in self.by_artist.items())
            parts.append(
                "tracks could not be told apart for certain within these labels, so that a block may hold a whole "
                f"artist (share of the label in its largest block): {labels}"
            )
        if self.whole:
            labels = ", ".join(self.whole)
            parts.append(
                f"these labels are a single block and stay in training, so that no figure covers them: {labels}"
            )
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Split:
    """The part of each track or, for the slice protocol, of each slice.

    Parameters
    ----------
    name : str
    protocol : "group", "slice" or "recovered"
        "recovered" is by groups inferred from images.
    seed : int
    parts : tuple of str
        `train`, `validation` or `test` for each track; for the slice protocol, for each slice.
    fold, folds : int or None
        Index of the test fold and number of folds; None for a single hold-out split.
    copies : JoinedCopies, optional
        The audit whose pairs of copies are in one part.
    recovery : RecoveredBlocks, optional
        How coarse the blocks of recovered tracks are.
    """

    name: str
    protocol: Protocol
    seed: int
    parts: tuple[str, ...]
    fold: int | None = None
    folds: int | None = None
    copies: JoinedCopies | None = None
    recovery: RecoveredBlocks | None = None

    @property
    def note(self) -> str:
        """Explanation of the protocol, shown with every result."""
        return "; ".join(filter(None, (PROTOCOL_NOTES[self.protocol], str(self.recovery or ""))))

    def slice_parts(self, slice_tracks: NDArray[np.int64]) -> NDArray[np.str_]:
        """Return the part of every slice, given the track of every slice."""
        parts = np.array(self.parts)
        return parts if self.protocol == "slice" else parts[slice_tracks]

    def save(self, folder: Path) -> Path:
        """Write the split into a store's `splits` folder."""
        path = _split_path(folder, self.name)
        content = asdict(self)
        for name in ("copies", "recovery"):
            if content[name] is None:
                del content[name]  # so that older versions can read the split
        write_text(path, json.dumps(content, indent=1))
        return path

    @classmethod
    def load(cls, folder: Path, name: str) -> Split:
        """Read a split by its name."""
        path = _split_path(folder, name)
        if not path.exists():
            known = sorted(file.stem for file in folder.glob("*.json"))
            raise CorpusError(f"no split named '{name}' in {folder}; available: {', '.join(known) or 'none'}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            copies = content.get("copies")
            content["copies"] = None if copies is None else JoinedCopies(**copies)
            recovery = content.get("recovery")
            if recovery is not None:
                content["recovery"] = RecoveredBlocks(**{**recovery, "whole": tuple(recovery["whole"])})
            return cls(**{**content, "parts": tuple(content["parts"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorpusError(f"{path}: damaged split file ({error}); make it again with: genretree split") from error


def _split_path(folder: Path, name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+", name):
        raise CorpusError(f"a split's name may contain letters, digits, '-', '_' and '.', got '{name}'")
    return folder / f"{name}.json"


def join_groups(groups: Sequence[str], checksums: Sequence[str]) -> NDArray[np.int64]:
    """Number the groups, merging groups that contain the same audio (by checksum).

    Returns
    -------
    array, shape (n_tracks,)
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(groups)
    names, group_index = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    sums, sum_index = np.unique(np.array(checksums, dtype=object).astype(str), return_inverse=True)
    # A bipartite graph of groups and checksums; each track is an edge, and tracks that belong together are connected.
    size = len(names) + len(sums)
    edges = coo_array((np.ones(n), (group_index, len(names) + sum_index)), shape=(size, size))
    components = connected_components(edges, directed=False)[1]
    return np.unique(components[group_index], return_inverse=True)[1].astype(np.int64)


def split_groups(
    leaves: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    test: float = 0.2,
    validation: float = 0.15,
    seed: int = 0,
    name: str = "default",
) -> Split:
    """Hold out whole groups for validation and test.

    Parameters
    ----------
    leaves : array, shape (n_tracks,)
        Leaf index of each track, for balance.
    groups : array, shape (n_tracks,)
        Group number of each track.
    test, validation : float
        Shares of the tracks to hold out, 0 to 0.5 each, as closely as whole groups allow.
    seed : int
        0 to 2**32 - 1.
    name : str

    Notes
    -----
    The only group of a leaf stays in training: a leaf without training data cannot be tested.
    """
    _check_share("test", test)
    _check_share("validation", validation)
    require_integer("seed", seed, 0, MAX_SEED)
    parts = np.full(len(leaves), "train", dtype=object)
    movable = ~np.isin(groups, _only_groups(leaves, groups))
    held_out = _hold_out(leaves, groups, np.flatnonzero(movable), test * len(leaves), seed)
    parts[held_out] = "test"
    _hold_out_validation(parts, leaves, groups, validation, seed)
    return Split(name=name, protocol="group", seed=seed, parts=tuple(parts.tolist()))


def fold_groups(
    leaves: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    folds: int = 5,
    validation: float = 0.15,
    seed: int = 0,
    name: str = "default",
) -> list[Split]:
    """Split into k folds of whole groups; each fold is the test part of one split, named `NAME-0`, `NAME-1` ...

    The validation part of every split is held out from the other folds, also by whole groups.
    """
    _check_share("validation", validation)
    require_integer("seed", seed, 0, MAX_SEED)
    if folds < 2:
        raise CorpusError(f"folds must be at least 2, got {folds}")
    if len(np.unique(groups)) < folds:
        raise CorpusError(f"{folds} folds need at least {folds} groups, got {len(np.unique(groups))}")
    test_fold = _assign_folds(leaves, groups, folds, seed)
    splits = []
    for fold in range(folds):
        parts = np.where(test_fold == fold, "test", "train").astype(object)
        _hold_out_validation(parts, leaves, groups, validation, seed)
        splits.append(
            Split(
                name=f"{name}-{fold}", protocol="group", seed=seed, parts=tuple(parts.tolist()), fold=fold, folds=folds
            )
        )
    return splits


def split_slices(
    slice_leaves: NDArray[np.int64],
    *,
    test: float = 0.1,
    validation: float = 0.1,
    seed: int = 0,
    name: str = "slices",
) -> Split:
    """Split slices at random, as the published study did. Leaks by construction; only for comparison."""
    alone = np.arange(len(slice_leaves))
    split = split_groups(slice_leaves, alone, test=test, validation=validation, seed=seed, name=name)
    return Split(name=name, protocol="slice", seed=seed, parts=split.parts)


def _check_share(part: str, share: float) -> None:
    if not 0 <= share <= 0.5:
        raise CorpusError(f"the {part} share must be in [0, 0.5], got {share}")


def _only_groups(
    leaves: NDArray[np.int64], groups: NDArray[np.int64], among: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return the groups that are the only one of some leaf."""
    keep = np.ones(len(leaves), dtype=bool) if among is None else among
    pairs = np.unique(np.stack([leaves[keep], groups[keep]], axis=1), axis=0)
    alone: NDArray[np.int64] = pairs[np.bincount(pairs[:, 0])[pairs[:, 0]] == 1, 1]
    return alone


def _hold_out_validation(
    parts: NDArray[np.object_], leaves: NDArray[np.int64], groups: NDArray[np.int64], validation: float, seed: int
) -> None:
    """Move a share of the tracks from `train` to `validation` in `parts`, by whole groups, as far as leaves allow."""
    rest = (parts == "train") & ~np.isin(groups, _only_groups(leaves, groups, parts == "train"))
    another = (seed + 1) % (MAX_SEED + 1)  # than that of the test part
    parts[_hold_out(leaves, groups, np.flatnonzero(rest), validation * len(leaves), another)] = "validation"


def _hold_out(
    leaves: NDArray[np.int64], groups: NDArray[np.int64], candidates: NDArray[np.int64], n_wanted: float, seed: int
) -> NDArray[np.int64]:
    """Select about `n_wanted` of the candidate tracks, by whole groups, stratified over the leaves."""
    n_groups = len(np.unique(groups[candidates]))
    if n_wanted < 0.5 or n_groups < 2:
        return np.zeros(0, dtype=np.int64)
    folds = min(max(2, round(len(candidates) / n_wanted)), n_groups)
    fold_of = _assign_folds(leaves[candidates], groups[candidates], folds, seed)
    for fold in range(folds):
        selected: NDArray[np.int64] = candidates[fold_of == fold]
        remaining = np.setdiff1d(candidates, selected)
        if set(leaves[candidates]) == set(leaves[remaining]):
            return selected
    return _trim(leaves, groups, candidates, candidates[fold_of == 0])


def _trim(
    leaves: NDArray[np.int64], groups: NDArray[np.int64], candidates: NDArray[np.int64], selected: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return selected groups to training where a leaf would otherwise have no training data."""
    for leaf in np.unique(leaves[selected]):
        remaining = np.setdiff1d(candidates, selected)
        if leaf in leaves[remaining]:
            continue
        returned_group = groups[selected[leaves[selected] == leaf][0]]
        selected = selected[groups[selected] != returned_group]
    return selected


def _assign_folds(leaves: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    # scikit-learn rejects classes with fewer members than folds if all are so small, and warns otherwise. Whole groups
    # have priority here, so small classes are stratified together. There are at least as many tracks as folds.
    strata = np.where(np.bincount(leaves)[leaves] < folds, -1, leaves)
    fold_of = np.zeros(len(leaves), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        folds_iter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(leaves, strata, groups)
        for fold, (_, held_out) in enumerate(folds_iter):
            fold_of[held_out] = fold
    return fold_of
