"""Encode and decode probabilities, genres and tag fields for the database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genretree.models.base import LevelProbabilities
from genretree.taxonomy import Taxonomy


def pack_levels(levels: LevelProbabilities | None) -> bytes | None:
    """Pack the probabilities of all nodes, level by level, as little-endian float32."""
    return None if levels is None else np.concatenate([level[0] for level in levels]).astype("<f4").tobytes()


def unpack_levels(packed: bytes, tree: Taxonomy) -> LevelProbabilities:
    """Unpack the output of `pack_levels`: one array of shape (1, n_nodes) per level."""
    values: NDArray[np.float64] = np.frombuffer(packed, "<f4").astype(np.float64)
    ends = np.cumsum([len(tree.nodes(level)) for level in range(tree.depth)])
    return [part[None, :] for part in np.split(values, ends[:-1])]


def genres_json(genres: Sequence[str] | None) -> str | None:
    """Encode genres as JSON; None stays None."""
    return None if genres is None else json.dumps(list(genres), ensure_ascii=True)


def own_json(own: Mapping[str, str] | None) -> str | None:
    """Encode tag fields as JSON; None stays None."""
    return None if own is None else json.dumps(dict(own), ensure_ascii=True)
