"""Manifests: the tracks of a corpus with genre path and group, read from folders, CSV files or records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

from genretree.checks import require_integer, require_names, require_path, require_text, require_type
from genretree.corpus.csv_table import CsvTable, find_level_columns
from genretree.corpus.file_tags import read_tags
from genretree.corpus.multiple_genres import GenreCells, MultipleGenres
from genretree.corpus.names import join_by_name
from genretree.errors import CorpusError, TaxonomyError
from genretree.files import printable
from genretree.progress import progress_bar
from genretree.remote import is_url
from genretree.sound.walk import Skipped, SoundWalk
from genretree.taxonomy import MAX_LEVELS, NodePath, Taxonomy, format_path, split_path

ALONE = "track:"  # prefix of the group of a track without an artist (album ...)
_GROUP_COLUMNS = ("artist", "album")


@dataclass(frozen=True)
class Failure:
    """A track that cannot be used: its path, a stable error type, and a message that says what to do."""

    path: str
    kind: str
    message: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Track:
    """A track of a manifest.

    Parameters
    ----------
    path : Path
        The audio file.
    name : str
        The path as in the source, relative to the source's folder; or a URL to download it from.
    leaf : int
        Index of its genre in the manifest's taxonomy.
    group : str
        Tracks of the same group are never divided by a split; a track without a group is its own.
    metadata : dict
        All other columns of the source (artist, album, title, ...).
    """

    path: Path
    name: str
    leaf: int
    group: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Labelled tracks of a folder or CSV, in order.

    Parameters
    ----------
    source : Path
        The folder or CSV.
    tracks : tuple of Track
    taxonomy : Taxonomy
        The genre tree; each track's genre is one of its leaves.
    group_by : str
        What a split must not divide: `artist`, `album`, `folder` or `track`.
    rejected : tuple of Failure
        Rows that can't be used, with reasons.
    skipped : Skipped
        What the search of a folder passed over.

    See Also
    --------
    genretree.read_manifest : Read one.
    genretree.Dataset : The same from records, data frames or mirdata loaders.

    Examples
    --------
    >>> import genretree
    >>> manifest = genretree.read_manifest("tracks.csv")
    >>> manifest.group_by, manifest.tracks[0].path.name
    ('artist', 'Punk-0-0.wav')
    """

    source: Path
    tracks: tuple[Track, ...]
    taxonomy: Taxonomy
    group_by: str
    rejected: tuple[Failure, ...] = ()
    skipped: Skipped = field(default_factory=Skipped, compare=False)


@dataclass(frozen=True)
class _Row:
    """A track before its genre is matched with the tree."""

    path: Path
    name: str
    genre: NodePath
    metadata: dict[str, str]


def read_manifest(
    source: str | Path,
    tree: Taxonomy | None = None,
    group: str | None = None,
    levels: Sequence[str] | None = None,
    depth: int | None = None,
    progress: bool = False,
    multiple_genres: MultipleGenres = "ask",
) -> Manifest:
    r"""Read the tracks of a folder tree or a CSV.

    Parameters
    ----------
    source : path
        A folder whose sub-folders are genres (`Classic/Chamber/x.mp3`), or a CSV with `path` (relative to the CSV) and
        either `genre` (a leaf's name or path) or one column for each level (`level_1`, `level_2` ...).
    tree : Taxonomy, optional
        By default inferred from the genre paths.
    group : str, optional
        The column (for a folder: `artist` or `album` from the files' tags, or `folder`) that must not be divided by a
        split. By default `artist`, else `album`, else each track is its own group.
    levels : sequence of str, optional
        The CSV's level columns from the root down, if not the default names.
    depth : int, optional
        For a folder without a tree: the number of folder levels that are genres; deeper ones are artist or album.
    progress : bool
        Show a bar on standard error while the tags of a folder's files are read.
    multiple_genres : {"ask", "first", "skip", "keep"}
        Handling of CSV rows with several genres, such as "Rock;Pop": raise an error, use the first, reject the row, or
        use the whole text as one name. A text that is a leaf of `tree` is always one name.

    Returns
    -------
    Manifest

    Raises
    ------
    ArgumentError
        If an argument has the wrong type.
    CorpusError
        If the source can't be read, lacks a column, or has no usable track. A single bad row is in `rejected` instead.

    See Also
    --------
    genretree.prepare : Compute the images of the tracks.
    genretree.Dataset : The same from records, data frames or mirdata loaders.

    Examples
    --------
    >>> import genretree
    >>> manifest = genretree.read_manifest("tracks.csv", group="artist")
    >>> len(manifest.tracks), manifest.rejected
    (24, ())
    >>> manifest.taxonomy.leaves
    (('Jazz',), ('Rock', 'Indie'), ('Rock', 'Punk'))
    """
    source = require_path("source", source)
    if tree is not None:
        require_type("tree", tree, Taxonomy, "use Taxonomy.load")
    if levels is not None:
        levels = require_names("levels", levels)
    if depth is not None:
        require_integer("depth", depth)
    if group is not None:
        require_text("group", group)
    if not source.exists():
        raise CorpusError(f"{source}: no such folder or CSV file")
    walk = SoundWalk()
    if source.is_dir():
        rows, rejected = _read_folder(source, tree, depth, walk)
        rows, group_by = _group_folder(rows, source, group, progress)
        level_names: Sequence[str] | None = None
    else:
        rows, rejected, level_names = _read_csv(source, levels, tree, multiple_genres)
        group_by = _group_column(rows, source, group)
    return replace(_match(source, rows, rejected, tree, level_names, group_by), skipped=walk.skipped)


def match_records(
    source: Path,
    records: Iterable[Mapping[str, str]],
    audio: str,
    genre: Sequence[str],
    group: str | None = None,
    tree: Taxonomy | None = None,
    multiple_genres: MultipleGenres = "ask",
) -> Manifest:
    """Create a manifest from records in memory, with the same rules as a CSV.

    Parameters
    ----------
    source : Path
        Name of the source. Relative audio paths are relative to its folder.
    records : iterable of mappings
        One per track, all values as text.
    audio : str
        Key of the audio file's path.
    genre : sequence of str
        Key of the genre's name or path, or one key for each level from the root down.
    group : str, optional
        Key of the group that must not be divided; by default `artist`, else `album`, else each track.
    tree : Taxonomy, optional
        By default inferred from the genre paths.
    multiple_genres : {"ask", "first", "skip", "keep"}
        As for `read_manifest`.

    Raises
    ------
    CorpusError
        If a key is missing or no track is usable. Single bad records are in `rejected` instead.
    """
    rows, rejected = [], []
    columns = ["genre"] if len(genre) == 1 else list(genre)
    cells = GenreCells(source, columns, multiple_genres, tree)
    for number, record in enumerate(records):
        missing = [key for key in (audio, *genre) if key not in record]
        if missing:
            raise CorpusError(f"record {number} has no '{missing[0]}'; it has: {', '.join(record) or 'nothing'}")
        metadata = {"path": record[audio], **record}
        if len(genre) == 1:
            metadata["genre"] = record[genre[0]]
        resolved = cells.resolve(metadata, f"record {number}")
        row = None if resolved is None else _csv_row(source, resolved, columns)
        if row is None:
            why = (
                "several genres; left out" if resolved is None else "no path, no genre, or a level left out between two"
            )
            message = f"record {number}: {why}"
            rejected.append(Failure(record[audio] or f"record {number}", "genre", message))
        else:
            rows.append(row)
    cells.check()
    level_names = None if len(genre) == 1 else genre
    return _match(source, rows, rejected, tree, level_names, _group_column(rows, source, group))


def _leave_out_inner(rows: list[_Row], rejected: list[Failure]) -> list[_Row]:
    """Reject tracks whose genre has sub-genres with tracks: a node is either a leaf or a branch."""
    inner = {row.genre[:cut] for row in rows for cut in range(1, len(row.genre))}
    for row in rows:
        if row.genre in inner:
            where = f"'{format_path(row.genre)}' has sub-genres; move it into one of them"
            rejected.append(Failure(row.name, "genre", f"{row.name}: {where}"))
    return [row for row in rows if row.genre not in inner]


def _match(
    source: Path,
    rows: list[_Row],
    rejected: list[Failure],
    tree: Taxonomy | None,
    level_names: Sequence[str] | None,
    group_by: str,
) -> Manifest:
    """Match the rows with the leaves of the tree, by default inferred from them, and group them."""
    if tree is None:
        rows = _leave_out_inner(rows, rejected)
    if not rows:
        first = f"; the first problem: {rejected[0].message}" if rejected else ""
        raise CorpusError(f"{source}: no tracks found{first}")
    if tree is None:
        depth = max(len(row.genre) for row in rows)
        names = None if level_names is None else list(level_names)[:depth]
        tree = Taxonomy.from_paths((row.genre for row in rows), names)
    tracks: dict[Path, Track] = {}
    for row in rows:
        try:
            leaf = tree.find_leaf(row.genre if len(row.genre) > 1 else row.genre[0])
        except TaxonomyError as error:
            rejected.append(Failure(row.name, "genre", str(error)))
            continue
        known = tracks.get(row.path)
        if known is not None and known.leaf != leaf:
            rejected.append(Failure(row.name, "genre", f"listed twice with different genres in {source.name}"))
            continue
        tracks.setdefault(row.path, Track(path=row.path, name=row.name, leaf=leaf, group="", metadata=row.metadata))
    if not tracks:
        raise CorpusError(f"{source}: no track has a genre of the tree; the first problem: {rejected[0].message}")
    groups = join_by_name([track.metadata.get(group_by, "") for track in tracks.values()], group_by)
    grouped = [
        replace(track, group=f"{group_by}:{name}" if name else f"{ALONE}{track.name}")
        for track, name in zip(tracks.values(), groups, strict=True)
    ]
    return Manifest(source=source, tracks=tuple(grouped), taxonomy=tree, group_by=group_by, rejected=tuple(rejected))


# -- CSV -----------------------------------------------------------------------------------------------------


def _read_csv(
    source: Path, levels: Sequence[str] | None, tree: Taxonomy | None, multiple_genres: MultipleGenres
) -> tuple[list[_Row], list[Failure], Sequence[str] | None]:
    table = CsvTable(source)
    columns = table.columns
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise CorpusError(f"{source}: duplicate column {', '.join(twice)}; rename one")
    if "path" not in columns:
        raise CorpusError(f"{source}: needs a column 'path'; it has: {', '.join(columns) or 'none'}")
    level_columns = find_level_columns(source, columns, levels)
    rows, rejected = [], []
    cells = GenreCells(source, level_columns, multiple_genres, tree)
    for line, metadata in table:
        name = metadata["path"] or f"line {line}"
        resolved = cells.resolve(metadata, f"line {line}")
        row = None if resolved is None else _csv_row(source, resolved, level_columns)
        if resolved is None:
            rejected.append(Failure(name, "genre", f"{source.name}, line {line}: several genres; left out"))
        elif row is None:
            message = f"{source.name}, line {line}: no path, no genre, or a level left out between two"
            rejected.append(Failure(name, "genre", message))
        else:
            rows.append(row)
    cells.check()
    return rows, rejected, None if level_columns == ["genre"] else level_columns


def _csv_row(source: Path, metadata: dict[str, str], level_columns: list[str]) -> _Row | None:
    cells = [normalize("NFC", metadata[column]) for column in level_columns]
    names = [name for name in cells if name]
    if names != cells[: len(names)]:
        return None
    if level_columns == ["genre"] and names:
        names = list(split_path(names[0]))
    if not names or not metadata["path"]:
        return None
    while len(names) > 1 and names[-1] == names[-2]:
        names.pop()  # a short leaf repeated for deeper levels
    path = Path(metadata["path"]) if is_url(metadata["path"]) else (source.parent / metadata["path"]).absolute()
    return _Row(path, metadata["path"], tuple(names), metadata)


def _group_column(rows: list[_Row], source: Path, group: str | None) -> str:
    columns = rows[0].metadata if rows else {}
    if group is None:
        return next((name for name in _GROUP_COLUMNS if name in columns), "track")
    if group == "track" or group in columns:
        return group
    raise CorpusError(f"{source}: no column '{group}' to group by; it has: {', '.join(columns)}")


# -- folders -------------------------------------------------------------------------------------------------


def _read_folder(
    source: Path, tree: Taxonomy | None, depth: int | None, walk: SoundWalk
) -> tuple[list[_Row], list[Failure]]:
    rows, rejected = [], []
    for entry in sorted(walk.find([source]), key=lambda entry: Path(entry.name).parts):
        path = Path(entry.name)
        name = printable(path.relative_to(source))
        # Unicode NFC: the file system may use another normalisation than the tree.
        folders = tuple(normalize("NFC", part) for part in path.relative_to(source).parts[:-1])
        if entry.error:
            rejected.append(Failure(name, entry.error, f"{name}: {entry.message}"))
            continue
        if not folders:
            message = f"{name}: is not in a genre folder; move it into one, or list the music in a CSV"
            rejected.append(Failure(name, "genre", message))
            continue
        cut = _genre_depth(folders, tree, depth)
        metadata = {"folder": printable("/".join(folders[cut:]))}
        rows.append(_Row(path.absolute(), name, folders[:cut], metadata))
    return rows, rejected


def _genre_depth(folders: NodePath, tree: Taxonomy | None, depth: int | None) -> int:
    """Return how many of a file's folders are its genre; the rest are artist or album."""
    if depth is not None:
        return min(depth, len(folders))
    if tree is None:
        if len(folders) > MAX_LEVELS:
            raise CorpusError(
                f"{printable('/'.join(folders))}: {len(folders)} folders deep, a tree has at most {MAX_LEVELS} levels; "
                "set `depth` to the number of folder levels that are genres"
            )
        return len(folders)
    for cut in range(1, len(folders) + 1):
        try:
            tree.find_leaf(folders[:cut])
        except TaxonomyError:
            continue
        return cut
    return len(folders)


def _group_folder(rows: list[_Row], source: Path, group: str | None, progress: bool) -> tuple[list[_Row], str]:
    """Add artist and album from the files' tags, if the group needs them."""
    if group not in (None, "artist", "album", "folder", "track"):
        raise CorpusError(f"{source}: group must be artist, album, folder or track for a folder, got '{group}'")
    if group in ("folder", "track"):
        return rows, group
    tagged = []
    with progress_bar(len(rows), "tags", "file", progress) as tick:
        for row in rows:
            tagged.append(replace(row, metadata={**row.metadata, **read_tags(row.path)}))
            tick()
    if group is not None:
        return tagged, group
    counts: dict[str, int] = defaultdict(int)
    for row in tagged:
        for column in (*_GROUP_COLUMNS, "folder"):
            counts[column] += bool(row.metadata.get(column))
    return tagged, max((*_GROUP_COLUMNS, "folder"), key=lambda column: counts[column]) if any(
        counts.values()
    ) else "track"
