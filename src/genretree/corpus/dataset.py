"""Labelled data sets of tracks, from records, data frames, folders, CSV files or mirdata."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genretree.checks import require_iterable, require_names, require_path, require_text
from genretree.corpus.manifest import Failure, Manifest, Track, match_records, read_manifest
from genretree.corpus.multiple_genres import MultipleGenres
from genretree.corpus.prepare import prepare
from genretree.errors import ArgumentError, CorpusError, TaxonomyError
from genretree.settings import ImageSettings
from genretree.taxonomy import Taxonomy, format_path, join_names

if TYPE_CHECKING:
    import pandas as pd

    from genretree.corpus.store import Store

Genre = str | Sequence[str]
Tree = Taxonomy | Mapping[str, Any] | str | Path | None


class Dataset:
    """Tracks with a genre path and a group each.

    Create one with a `from_...` method.

    Parameters
    ----------
    manifest : Manifest

    See Also
    --------
    genretree.read_manifest : Read a folder or CSV.

    Examples
    --------
    >>> data = Dataset.from_records(
    ...     [
    ...         {"path": "a.mp3", "genre": "Rock/Punk", "artist": "One"},
    ...         {"path": "b.mp3", "genre": "Jazz", "artist": "Two"},
    ...     ]
    ... )
    >>> data
    Dataset(2 tracks, 2 genres, grouped by artist)
    >>> data.taxonomy.leaves
    (('Jazz',), ('Rock', 'Punk'))
    """

    def __init__(self, manifest: Manifest) -> None:
        if not isinstance(manifest, Manifest):
            raise ArgumentError(f"manifest must be a Manifest, got {type(manifest).__name__}; use Dataset.from_records")
        self.manifest = manifest

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        *,
        audio: str = "path",
        genre: Genre = "genre",
        group: str | None = None,
        taxonomy: Tree = None,
        root: str | Path | None = None,
        multiple_genres: MultipleGenres = "ask",
    ) -> Self:
        """Create a data set from dicts, one for each track.

        Parameters
        ----------
        records : iterable of mappings
        audio : str
            Key of the audio file's path.
        genre : str or sequence of str
            Key of the genre, a leaf's name, a path such as `Rock/Punk`, or a sequence of names such as
            `("Rock", "Punk")`; or one key for each level of the tree.
        group : str, optional
            Key of the group that must not be divided by a split. By default `artist`, else `album`, else each track is
            its own group.
        taxonomy : Taxonomy, nested dict, or path of a YAML file, optional
            By default inferred from the genres in use.
        root : path, optional
            Base folder of relative paths; by default the current one.
        multiple_genres : {"ask", "first", "skip", "keep"}
            Handling of a genre such as `Rock;Pop`: raise an error, use the first genre, reject the record, or use the
            whole text as the name of one genre.

        Raises
        ------
        ArgumentError
            If the records are not mappings.
        CorpusError
            If a key is missing, or no record is usable.
        TaxonomyError
            If the tree is malformed, or a name in a sequence of names contains `/` or `>`.
        """
        require_iterable("records", records, "mappings")
        rows = []
        for number, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise ArgumentError(f"record {number} must be a mapping, got {type(record).__name__}")
            rows.append({str(key): cell_text(value) for key, value in record.items()})
            if isinstance(genre, str) and not _is_single(names := record.get(genre)):
                rows[-1][genre] = _join_genre(f"'{genre}' of record {number}", names)
        keys = [genre] if isinstance(genre, str) else require_names("genre", genre)
        if not keys:
            raise ArgumentError("genre is empty; name the key of the genre, or one key for each level")
        require_text("audio", audio)
        if group is not None:
            require_text("group", group)
        source = (Path() if root is None else require_path("root", root)).absolute() / "records"
        return cls(match_records(source, rows, audio, keys, group, as_taxonomy(taxonomy), multiple_genres))

    @classmethod
    def from_dataframe(
        cls,
        df: pd.DataFrame,
        *,
        audio: str = "path",
        genre: Genre = "genre",
        group: str | None = None,
        taxonomy: Tree = None,
        root: str | Path | None = None,
        multiple_genres: MultipleGenres = "ask",
    ) -> Self:
        """Create a data set from a pandas data frame with one row per track; parameters as for `from_records`."""
        if not hasattr(df, "to_dict") or not hasattr(df, "columns"):
            raise ArgumentError(f"df must be a pandas DataFrame, got {type(df).__name__}")
        records = df.to_dict("records")
        return cls.from_records(
            records,
            audio=audio,
            genre=genre,
            group=group,
            taxonomy=taxonomy,
            root=root,
            multiple_genres=multiple_genres,
        )

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, group: str | None = None, taxonomy: Tree = None, depth: int | None = None
    ) -> Self:
        """Create a data set from a folder whose sub-folders are genres, such as `Classic/Chamber/x.mp3`.

        See Also
        --------
        genretree.read_manifest : Describes the parameters.
        """
        path = require_path("folder", folder)
        if path.exists() and not path.is_dir():
            raise CorpusError(f"{path}: is not a folder; use Dataset.from_csv for a CSV file")
        return cls(read_manifest(path, as_taxonomy(taxonomy), group, depth=depth))

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        group: str | None = None,
        taxonomy: Tree = None,
        levels: Sequence[str] | None = None,
        multiple_genres: MultipleGenres = "ask",
    ) -> Self:
        """Create a data set from a CSV file with the columns `path` and `genre`, or one column for each level.

        See Also
        --------
        genretree.read_manifest : Describes the parameters.
        """
        path = require_path("path", path)
        return cls(read_manifest(path, as_taxonomy(taxonomy), group, levels, multiple_genres=multiple_genres))

    @classmethod
    def from_mirdata(
        cls,
        dataset: Any,
        *,
        genre: str | Callable[[Any], str | Sequence[str] | None] = "genre",
        group: str | Callable[[Any], str | None] | None = "artist",
        taxonomy: Tree = None,
    ) -> Self:
        """Create a data set from a mirdata data set.

        Parameters
        ----------
        dataset : mirdata.core.Dataset
            For example `mirdata.initialize("gtzan_genre")`, whose tracks have no artist and need `group=None`.
        genre : str or callable
            Attribute of a mirdata track, or a function of a track that returns the genre's name or path.
        group : str, callable or None
            The same for the artist; None makes each track its own group.
        taxonomy : Taxonomy, nested dict, or path of a YAML file, optional

        Raises
        ------
        CorpusError
            If no track has the attribute, a function fails, or no track is usable. Single tracks without audio or genre
            are in `rejected` instead.
        TaxonomyError
            If the tree is malformed, or a name in a sequence of names contains `/` or `>`.
        """
        if not hasattr(dataset, "load_tracks"):
            raise ArgumentError(f"dataset must be a mirdata Dataset, got {type(dataset).__name__}")
        for name, key in (("genre", genre), ("group", "" if group is None else group)):
            if not callable(key):
                require_text(name, key)
        tracks = dataset.load_tracks()
        labels = _read_mirdata(tracks, "genre", genre)
        groups = {} if group is None else _read_mirdata(tracks, "group", group)
        files = _read_mirdata(tracks, "audio_path", "audio_path")
        column = "artist" if callable(group) else group
        records, rejected = [], []
        for track_id in tracks:
            label = labels[track_id]
            if not isinstance(label, str) and (not _is_single(label) or cell_text(label)):
                label = _join_genre(f"the genre of track {track_id}", label)
            lacking = [
                what for what, value in (("audio file", files[track_id]), ("genre", label)) if not cell_text(value)
            ]
            if lacking:
                message = f"track {track_id}: has no {' and no '.join(lacking)}"
                rejected.append(Failure(cell_text(files[track_id]) or f"track {track_id}", "genre", message))
                continue
            of_group = {} if column is None else {column: groups[track_id]}
            records.append({**of_group, "path": files[track_id], "genre": label, "track_id": track_id})
        if not records and rejected:
            raise CorpusError(f"no track can be used; the first problem: {rejected[0].message}")
        data = cls.from_records(records, group=column, taxonomy=taxonomy)
        return cls(replace(data.manifest, rejected=(*rejected, *data.rejected)))

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The usable tracks."""
        return self.manifest.tracks

    @property
    def taxonomy(self) -> Taxonomy:
        """The genre tree."""
        return self.manifest.taxonomy

    @property
    def rejected(self) -> tuple[Failure, ...]:
        """Records that cannot be used, with the reasons."""
        return self.manifest.rejected

    def __len__(self) -> int:
        return len(self.manifest.tracks)

    def __repr__(self) -> str:
        count = len(Counter(track.leaf for track in self.tracks))
        rejected = f", {len(self.rejected)} rejected" if self.rejected else ""
        return f"Dataset({len(self)} tracks, {count} genres, grouped by {self.manifest.group_by}{rejected})"

    def count_genres(self) -> dict[str, int]:
        """Return the number of tracks of each leaf by its path."""
        counts = Counter(track.leaf for track in self.tracks)
        return {format_path(leaf): counts[number] for number, leaf in enumerate(self.taxonomy.leaves)}

    def prepare(
        self, out: str | Path, settings: ImageSettings | Mapping[str, Any] | None = None, **options: Any
    ) -> Store:
        """Compute the spectrogram images of all tracks and write them to a store.

        Parameters
        ----------
        out : path
            The store's folder.
        settings : ImageSettings or mapping, optional
            `slice_seconds` and `size`.
        **options
            As for `genretree.prepare`: `features`, `workers`, `seed`, `overwrite`, `progress`, `salvage`.

        Returns
        -------
        Store
        """
        image_settings = settings if isinstance(settings, ImageSettings | None) else ImageSettings.build(settings)
        return prepare(self.manifest, out, image_settings, **options)


def as_taxonomy(tree: Tree) -> Taxonomy | None:
    """Convert a nested mapping, the path of a YAML file, or the name of a built-in tree to a taxonomy."""
    if tree is None or isinstance(tree, Taxonomy):
        return tree
    if isinstance(tree, str | os.PathLike):
        return Taxonomy.load(tree)
    return Taxonomy.from_nested(tree)


def _read_mirdata(tracks: Mapping[str, Any], name: str, key: str | Callable[[Any], Any]) -> dict[str, Any]:
    """Read an attribute of each track, or call a function with it; None for a track without the attribute.

    Raises
    ------
    CorpusError
        If no track has the attribute, or reading one fails.
    """
    values, n_missing = {}, 0
    for track_id, track in tracks.items():
        try:
            values[track_id] = key(track) if callable(key) else getattr(track, key)
        except Exception as error:
            if isinstance(error, AttributeError) and not callable(key):
                values[track_id] = None
                n_missing += 1
                continue
            raise CorpusError(f"track {track_id}: cannot read its {name} ({type(error).__name__}: {error})") from error
    if tracks and n_missing == len(tracks):
        hint = "; name another attribute in `group`, or make each track its own group with `group=None`"
        raise CorpusError(f"no track has the attribute '{key}'{hint if name == 'group' else ''}")
    return values


def _is_single(value: Any) -> bool:
    """Return whether a cell is a single value, not a list, tuple, array or another collection."""
    return isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0


def _join_genre(what: str, names: Any) -> str:
    """Join the names of a genre's path.

    Raises
    ------
    ArgumentError
        If they are not a sequence of text.
    TaxonomyError
        If a name contains a separator of levels.
    """
    if isinstance(names, Mapping | Set):
        raise ArgumentError(f"{what} must be a name or a sequence of names, got {type(names).__name__}")
    try:
        return join_names(require_names(what, names))
    except TaxonomyError as error:
        raise TaxonomyError(f"{what}: {error}") from error


def cell_text(value: Any) -> str:
    """Convert a cell to text; None and NaN are empty."""
    if value is None or type(value).__name__ == "NAType" or (isinstance(value, Real) and value != value):
        return ""
    return str(value)
