"""Stores: prepared images as memory-mapped arrays on disk, and tables of slices and tracks.

A store is a folder::

    images.npy       uint8, shape (slices, 3, size, size), in the order mel, cqt, chroma
    NAME.npy         shape (slices, ...): a further requested feature, such as mel_16k; see sound/features.py
    slices.parquet   one row per slice: track, start in seconds, padded, silent
    tracks.parquet   one row per track: path, genre, leaf, group, sha256, seconds, slices, and the source's columns
    splits/*.json    splits of the tracks
    store.json       tree, image settings, versions, and the tracks that failed; written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genretree.arrays import Array, Float64Array, Int64Array, UInt8Array
from genretree.checks import require_choice, require_path, require_text, require_type
from genretree.corpus.manifest import Failure
from genretree.corpus.splits import PARTS, Split, join_groups
from genretree.errors import CorpusError
from genretree.files import atomic_path, write_text
from genretree.settings import MODALITIES, ImageSettings, Modality
from genretree.sound.features import IMAGES, MEL_16K, SliceInputs, get_feature
from genretree.taxonomy import Taxonomy

FORMAT = 1
_PARTS = ("images.npy", "slices.parquet", "tracks.parquet", "store.json")


@dataclass(frozen=True, kw_only=True)
class StoreMetadata:
    """Metadata of a store.

    Parameters
    ----------
    source : str
        The folder, CSV or data set that it was made from.
    group_by : str
        What must not be divided by a split: `artist`, `album`, `folder`, `track`.
    engine : str
        Engine of the spectra.
    version : str
        Version of genretree that made it.
    digest : str
        Hash of source, tree and settings; equal for equal calls.
    """

    source: str
    group_by: str
    engine: str
    version: str
    digest: str


class Store:
    """A prepared corpus, opened for reading.

    Images are memory-mapped, so that opening a store of any size is quick.

    Parameters
    ----------
    folder : path
        Folder that `genretree.prepare` wrote.

    Raises
    ------
    CorpusError
        If the store is incomplete, damaged or of another format.

    See Also
    --------
    genretree.prepare : Make a store.

    Examples
    --------
    >>> import genretree
    >>> store = genretree.Store("STORE")
    >>> store.n_tracks, store.images.shape[1:]
    (24, (3, 32, 32))
    >>> store.split().parts.count("test")
    4
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = require_path("folder", folder)
        missing = [name for name in _PARTS if not (self.folder / name).is_file()]
        if missing:
            what = (
                "no such folder" if not self.folder.is_dir() else f"not a complete store, {', '.join(missing)} missing"
            )
            raise CorpusError(f"{self.folder}: {what}; make one with: genretree prepare SOURCE {self.folder}")
        try:
            content = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
            self.format = content["format"]
            self.metadata = StoreMetadata(**content["facts"])
            self.taxonomy = Taxonomy.from_json(content["taxonomy"])
            self.settings = ImageSettings.build(content["images"])
            self.failures = tuple(Failure(**item) for item in content["failures"])
            self.tracks: dict[str, list[Any]] = pq.read_table(self.folder / "tracks.parquet").to_pydict()
            slices = pq.read_table(self.folder / "slices.parquet")
            self.images: UInt8Array = np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)
        except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
            raise CorpusError(f"{self.folder}: damaged store ({error}); prepare it again") from error
        if self.format != FORMAT:
            raise CorpusError(
                f"{self.folder}: store format {self.format}, this genretree reads {FORMAT}; prepare it again"
            )
        if not self.n_tracks:
            raise CorpusError(f"{self.folder}: holds no tracks; prepare it again")
        self._unsaved_splits: dict[str, Split] = {}
        self.features = {
            path.stem: self._open_feature(path) for path in sorted(self.folder.glob("*.npy")) if path.stem != IMAGES
        }
        self.slice_tracks: Int64Array = slices["track"].to_numpy()
        self.starts: Float64Array = slices["start"].to_numpy()
        self.padded: NDArray[np.bool_] = slices["padded"].to_numpy(zero_copy_only=False)
        self.silent: NDArray[np.bool_] = slices["silent"].to_numpy(zero_copy_only=False)
        expected = (len(self.slice_tracks), 3, self.settings.size, self.settings.size)
        if self.images.shape != expected or self.images.dtype != np.uint8:
            raise CorpusError(
                f"{self.folder}: images.npy is {self.images.dtype} {self.images.shape}, not uint8 {expected}; "
                "prepare it again"
            )

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}, n_tracks={self.n_tracks}, n_slices={self.n_slices})"

    def _open_feature(self, path: Path) -> Array:
        """Memory-map the feature of a file; the file name is its name."""
        try:
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise CorpusError(f"{path}: damaged ({error}); prepare the store again") from error
        # Other features may come from a package that is not installed; only their length is checked.
        feature = get_feature(MEL_16K) if path.stem == MEL_16K else None
        shape = array.shape[1:] if feature is None else feature.shape(self.settings)
        dtype = array.dtype if feature is None else np.dtype(feature.dtype)
        expected = (len(self.images), *shape)
        if array.shape != expected or array.dtype != dtype:
            raise CorpusError(f"{path}: {array.dtype} {array.shape}, not {dtype} {expected}; prepare the store again")
        return array

    def inputs(self, rows: Int64Array | None = None) -> SliceInputs:
        """Return the inputs of a model for some slices, by default all; features are read on first access."""
        return SliceInputs({IMAGES: self.images, **self.features}, rows)

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        return len(self.tracks["path"])

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The available modalities; images of others are all 0."""
        named = re.fullmatch(r"drawn \((.*) only\)", self.metadata.engine)
        return MODALITIES if named is None else tuple(name for name in MODALITIES if name in named[1].split(", "))

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        """Raise an error for modalities that the store lacks.

        Raises
        ------
        CorpusError
            If any is missing.
        """
        if missing := [name for name in modalities if name not in self.modalities]:
            raise CorpusError(
                f"{self.folder}: has no images of {', '.join(missing)}, but the model uses "
                f"{', '.join(modalities)}; train one with `modalities={list(self.modalities)}`"
            )

    @property
    def n_slices(self) -> int:
        """Number of slices, including silent ones."""
        return len(self.slice_tracks)

    @cached_property
    def track_leaves(self) -> Int64Array:
        """Leaf index of every track."""
        return np.array(self.tracks["leaf"], dtype=np.int64)

    @cached_property
    def track_groups(self) -> Int64Array:
        """Group number of every track; tracks with the same audio share one."""
        return join_groups(self.tracks["group"], self.tracks["sha256"])

    def split(self, name: str = "default") -> Split:
        """Load one of the store's splits."""
        require_text("name", name)
        split = self._unsaved_splits.get(name) or Split.load(self.folder / "splits", name)
        expected = self.n_slices if split.protocol == "slice" else self.n_tracks
        if len(split.parts) != expected:
            raise CorpusError(f"{self.folder}: the split '{name}' was made for other contents; create it again")
        return split

    def with_splits(self, splits: Sequence[Split]) -> Store:
        """Return the same store with further splits, which are not saved."""
        store = copy(self)
        store._unsaved_splits = {**self._unsaved_splits, **{split.name: split for split in splits}}
        return store

    def split_names(self) -> list[str]:
        """Return the names of the store's splits."""
        return sorted(path.stem for path in (self.folder / "splits").glob("*.json"))

    def rows(self, part: str = "all", split: Split | None = None) -> Int64Array:
        """Return the indices of the slices in a part (`train`, `validation`, `test`, `all`), without silent ones."""
        require_choice("part", part, (*PARTS, "all"))
        if split is not None:
            require_type("split", split, Split, "use Store.split")
        audible = ~self.silent
        if part == "all":
            return np.flatnonzero(audible)
        parts = (split or self.split()).slice_parts(self.slice_tracks)
        return np.flatnonzero((parts == part) & audible)


def write_tables(
    folder: Path,
    tracks: dict[str, list[Any]],
    slices: dict[str, Any],
    taxonomy: Taxonomy,
    settings: ImageSettings,
    metadata: StoreMetadata,
    failures: Sequence[Failure],
) -> None:
    """Write everything of a store but its images; `store.json` comes last and marks it as complete."""
    for name, table in (("tracks", tracks), ("slices", slices)):
        with atomic_path(folder / f"{name}.parquet") as temporary:
            pq.write_table(pa.table(table), temporary)
    content = {
        "format": FORMAT,
        "facts": asdict(metadata),
        "taxonomy": taxonomy.to_json(),
        "images": settings.model_dump(),
        "failures": [asdict(failure) for failure in failures],
    }
    write_text(folder / "store.json", json.dumps(content, indent=1, ensure_ascii=False))
