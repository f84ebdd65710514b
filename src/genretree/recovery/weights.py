"""Weights of track recovery, and the file that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from genretree.arrays import Float32Array
from genretree.errors import BundleError
from genretree.files import atomic_path

WEIGHTS_FILE = Path(__file__).with_name("recover.safetensors")
FORMAT = 2  # of the file; format 1 has no metadata, no chains and two thresholds
_FORMAT_KEY = "recovery_format"


@dataclass(frozen=True)
class Weights:
    """Weights fitted on slices of known tracks by `benchmarks/recover_tracks.py`.

    Parameters
    ----------
    center, projection : ndarray, float32, shapes (STATISTICS,) and (STATISTICS, dimensions)
        Projection of the statistics of a slice to a space where slices of one track are close.
    cut : ndarray, float32, shape (CONTINUITY,)
        Weights of the correlations at a cut in the score of a continuation.
    pair_hidden, pair_output : ndarray, float32, shapes (PAIR_FEATURES + 1, units) and (units + 1,)
        Network for the log odds that two slices are from one track; see `genretree.recovery.pairs.log_odds`.
    merge_hidden, merge_output : ndarray, float32
        The same for two groups of slices; see `genretree.recovery.groups`.
    thresholds : ndarray, float32, shape (4,) or (2,)
        Minimum probability for merging groups into tracks, and into blocks; for linking chains; and for merging groups
        into a block of any size. Weights of format 1 have the first two.
    chain_hidden, chain_output : ndarray, float32, optional
        The same for two chains of slices; see `genretree.recovery.chains`. Weights of format 1 have none: slices are
        then grouped without chains, and no block exceeds its limit.
    """

    center: Float32Array
    projection: Float32Array
    cut: Float32Array
    pair_hidden: Float32Array
    pair_output: Float32Array
    merge_hidden: Float32Array
    merge_output: Float32Array
    thresholds: Float32Array
    chain_hidden: Float32Array | None = None
    chain_output: Float32Array | None = None

    @property
    def min_track(self) -> float:
        """Minimum probability for merging two groups into a track."""
        return float(self.thresholds[0])

    @property
    def min_block(self) -> float:
        """Minimum probability for merging two groups into a block of limited size."""
        return float(self.thresholds[1])

    @property
    def min_link(self) -> float | None:
        """Minimum probability for linking two chains; None without chains."""
        return float(self.thresholds[2]) if self.chain_hidden is not None else None

    @property
    def min_artist(self) -> float | None:
        """Minimum probability for merging two groups into a block of any size; None if none may exceed its limit."""
        return float(self.thresholds[3]) if len(self.thresholds) > 3 else None


@cache
def load_default_weights() -> Weights:
    """Load the weights of the package."""
    return read_weights(WEIGHTS_FILE)


def read_weights(path: Path) -> Weights:
    """Read weights of this or an earlier format.

    Raises
    ------
    BundleError
        If the file has a later format, lacks an array or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            version = (file.metadata() or {}).get(_FORMAT_KEY, "1")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise BundleError(f"{path}: damaged weights ({error}); reinstall genretree") from error
    if not version.isdecimal() or int(version) > FORMAT:
        raise BundleError(
            f"{path}: weights of format {version}; this version reads formats up to {FORMAT}: update genretree"
        )
    try:
        return Weights(**arrays)
    except TypeError as error:
        raise BundleError(f"{path}: not weights of track recovery ({error}); reinstall genretree") from error


def write_weights(weights: Weights, path: Path) -> None:
    """Write weights in the present format."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value) for name, value in vars(weights).items() if value is not None}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, {_FORMAT_KEY: str(FORMAT)})
