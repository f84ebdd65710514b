"""Tables of labelled images: from a CSV, or from a data set in the formats of the library `datasets`."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from genretree.corpus.csv_table import CsvTable, find_level_columns
from genretree.corpus.manifest import Failure
from genretree.corpus.splits import PARTS
from genretree.errors import CorpusError, MissingExtraError, SettingsError
from genretree.files import is_lfs_pointer, printable
from genretree.settings import MODALITIES, Modality
from genretree.sound.walk import SoundWalk
from genretree.taxonomy import NodePath, split_path

_ROLES = (*MODALITIES, "label", "track", "artist")
_PART = re.compile(r"(?:^|[^a-z])(train|training|validation|valid|val|dev|test)(?:[^a-z]|$)")
_PART_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation"}
_TABLES = (".parquet", ".arrow")


@dataclass(frozen=True)
class Columns:
    """Column names of images, labels, track and artist.

    Parameters
    ----------
    images : dict
        Column of each available modality.
    labels : tuple of str
        From the top level down.
    track, artist : str
        Empty if there is none.
    """

    images: dict[Modality, str]
    labels: tuple[str, ...]
    track: str = ""
    artist: str = ""


@dataclass(frozen=True)
class ImageRow:
    """One slice: its genre, track, artist and other columns."""

    name: str
    part: str
    genre: NodePath
    track: str
    artist: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRows:
    """All rows of a source.

    Parameters
    ----------
    source : str
    columns : Columns
    rows : list of (position, ImageRow)
        The rows with a label; the position counts all rows of the source.
    rejected : list of Failure
    fingerprints : list of str
        Values that change with the contents.
    """

    source: str
    columns: Columns
    rows: list[tuple[int, ImageRow]]
    rejected: list[Failure]
    fingerprints: list[str]
    contents: Any  # a list of cells by modality, or concatenated data sets

    def read(self, positions: Sequence[int]) -> list[dict[Modality, bytes | Path | None]]:
        """Return the undecoded images of some rows."""
        if isinstance(self.contents, list):
            return [self.contents[position] for position in positions]
        return [_image_cells(self.contents[position], self.columns) for position in positions]


def parse_columns(text: str | None) -> dict[str, list[str]]:
    """Parse `mel=a,label=b,label=c` to the columns of each role.

    Raises
    ------
    SettingsError
        For an unknown role, or one that occurs twice (only labels may).
    """
    found: dict[str, list[str]] = defaultdict(list)
    for item in (text or "").split(","):
        if not item.strip():
            continue
        role, equals, column = (part.strip() for part in item.partition("="))
        if not equals or not column or role not in _ROLES:
            raise SettingsError(f"`columns` takes ROLE=COLUMN with one of the roles {', '.join(_ROLES)}, not '{item}'")
        if found[role] and role != "label":
            raise SettingsError(f"`columns` gives {role} twice: {found[role][0]} and {column}")
        found[role].append(column)
    return dict(found)


def is_image_csv(source: Path, columns: Mapping[str, list[str]]) -> bool:
    """Return whether a CSV lists images: it has a column mel, cqt or chroma and no path, or columns are named."""
    if not source.is_file() or source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    if columns:
        return True
    try:
        with source.open(encoding="utf-8-sig") as stream:
            header = stream.readline(100_000)
    except (OSError, UnicodeDecodeError):
        return False
    names = {name.strip().strip('"') for name in re.split(r"[,;\t]", header)}
    return bool(names & set(MODALITIES)) and "path" not in names


def is_image_dataset(source: Path, columns: Mapping[str, list[str]]) -> bool:
    """Return whether a source is for `datasets`: a save_to_disk copy, Parquet or Arrow files, or named columns."""
    if source.is_file():
        return source.suffix.lower() in _TABLES
    if not source.is_dir():
        return bool(columns)
    if (source / "store.json").exists():
        return False
    saved = (source / "dataset_dict.json").is_file() or (source / "state.json").is_file()
    if saved or columns:
        return True
    nearby = (path for depth in ("*", "*/*", "*/*/*") for path in source.glob(depth))
    found = any(path.suffix.lower() in _TABLES for path in nearby)
    return found and not any(SoundWalk().find([source]))  # a table next to music is not a data set of images


def find_columns(source: str, names: Sequence[str], role_columns: Mapping[str, list[str]]) -> Columns:
    """Return the columns, by default names or as named by the caller.

    Raises
    ------
    CorpusError
        If a named column is missing, or there are no images or no labels.
    """
    listed = ", ".join(names) or "none"
    missing = [column for columns in role_columns.values() for column in columns if column not in names]
    if missing:
        raise CorpusError(f"{source}: has no column {', '.join(missing)}; it has: {listed}")
    named: dict[Modality, str] = {name: role_columns[name][0] for name in MODALITIES if name in role_columns}
    images: dict[Modality, str] = named or {name: name for name in MODALITIES if name in names}
    if not images:
        raise CorpusError(
            f"{source}: has no column mel, cqt or chroma; it has: {listed}. Name them: "
            "`columns=mel=COLUMN,label=COLUMN`"
        )
    labels = role_columns.get("label", [])
    if not labels:
        try:
            labels = find_level_columns(Path(source), names)
        except CorpusError as error:
            if "label" not in names:
                raise CorpusError(
                    f"{source}: has no labels (no column genre, label or level_1, level_2 ...); it has: {listed}. "
                    "Name the label columns, top level first: `columns=label=COLUMN,label=COLUMN`"
                ) from error
            labels = ["label"]
    track, artist = (role_columns.get(role, [role if role in names else ""])[0] for role in ("track", "artist"))
    return Columns(images, tuple(labels), track, artist)


def read_image_csv(source: Path, role_columns: Mapping[str, list[str]]) -> ImageRows:
    """Read a CSV with one row per slice; image paths are relative to it.

    Raises
    ------
    CorpusError
        If it cannot be read, or lacks a column.
    """
    table = CsvTable(source)
    columns = find_columns(str(source), table.columns, role_columns)
    rows: list[tuple[int, ImageRow]] = []
    rejected: list[Failure] = []
    cells: list[dict[Modality, bytes | Path | None]] = []
    fingerprints: list[str] = [table.text]
    for position, (line, metadata) in enumerate(table):
        files = {name: metadata[column] for name, column in columns.images.items()}
        cells.append({name: source.parent / file if file else None for name, file in files.items()})
        fingerprints += [_fingerprint_file(file) for file in cells[-1].values() if isinstance(file, Path)]
        name = next((file for file in files.values() if file), f"line {line}")
        genre = _genre([metadata[column] for column in columns.labels])
        if genre is None:
            message = f"{source.name}, line {line}: no label, or a level left out between two"
            rejected.append(Failure(printable(name), "label", message))
            continue
        track, artist = (metadata[column] if column else "" for column in (columns.track, columns.artist))
        rows.append((position, ImageRow(printable(name), "", genre, track, artist, metadata)))
    return ImageRows(str(source), columns, rows, rejected, fingerprints, cells)


def _fingerprint_file(file: Path) -> str:
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return f"{file} -"
    return f"{file} {stat.st_size} {stat.st_mtime_ns}"


def _genre(names: list[str]) -> NodePath | None:
    """Return the genre path of labels from the top down; a short leaf may be repeated for deeper levels."""
    filled = [name for name in names if name]
    if not filled or filled != names[: len(filled)]:
        return None
    if len(names) == 1:
        return split_path(filled[0])
    while len(filled) > 1 and filled[-1] == filled[-2]:
        filled.pop()
    return tuple(filled)


# -- data sets -----------------------------------------------------------------------------------------------


def read_image_dataset(source: Path, role_columns: Mapping[str, list[str]], cache: Path) -> ImageRows:
    """Open a data set by name on the Hub, a folder or a file, and read its labels.

    Parameters
    ----------
    source : path
        A name on the Hub, a `save_to_disk` folder, a folder with a card, Parquet or Arrow files.
    role_columns : mapping
        As returned by `parse_columns`.
    cache : path
        Cache folder of `datasets` for converted local files.

    Raises
    ------
    CorpusError
        If it cannot be opened, or has no images or labels.
    MissingExtraError
        If `datasets` is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "hub") from error
    _check_pointers(source)
    try:
        parts = _open_parts(source, cache)
    except CorpusError:
        raise
    except Exception as error:  # datasets passes on all exceptions of its readers, the file system and the Hub
        reason = (str(error).splitlines() or [""])[0]
        what = "cannot be read as a data set" if source.exists() else "no such local path, and not found on the Hub"
        raise CorpusError(f"{source}: {what} ({type(error).__name__}: {reason})") from error
    first = next(iter(parts.values()))
    columns = find_columns(str(source), list(first.features), role_columns)
    for part, data in parts.items():
        if missing := [name for name in first.features if name not in data.features]:
            raise CorpusError(f"{source}: the part {part} has no column {', '.join(missing)}")
    used_columns = [*columns.images.values(), *columns.labels, *filter(None, (columns.track, columns.artist))]
    rows: list[tuple[int, ImageRow]] = []
    rejected: list[Failure] = []
    joined, position = [], 0
    for part, data in parts.items():
        data = data.select_columns(list(dict.fromkeys(used_columns)))
        for column in columns.images.values():
            feature = data.features[column]
            if isinstance(feature, datasets.Audio):
                raise CorpusError(f"{source}: the column '{column}' contains audio, not images; save it as files")
            if isinstance(feature, datasets.Image):
                data = data.cast_column(column, datasets.Image(decode=False))
        joined.append(data)
        labels = data.select_columns(
            [name for name in dict.fromkeys(used_columns) if name not in columns.images.values()]
        )
        for place, row in enumerate(labels):
            name = f"{part}/{place:06d}"
            genre = _genre([_label(data.features[column], row[column]) for column in columns.labels])
            if genre is None:
                found = ", ".join(f"{column} is {row[column]!r}" for column in columns.labels)
                rejected.append(Failure(name, "label", f"{name}: {found}, not a class"))
            else:
                track, artist = (
                    _label(data.features[key], row[key]) if key else "" for key in (columns.track, columns.artist)
                )
                rows.append(
                    (position, ImageRow(name, part, genre, track, artist, {"artist": artist} if artist else {}))
                )
            position += 1
    fingerprints = [f"{part} {len(data)} {data._fingerprint}" for part, data in parts.items()]
    if source.exists():
        fingerprints += [_fingerprint_file(file) for file in (_data_files(source) if source.is_dir() else [source])]
    return ImageRows(str(source), columns, rows, rejected, fingerprints, _ConcatenatedRows(joined))


class _ConcatenatedRows:
    """Rows of several data sets by a single index."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def __getitem__(self, position: int) -> Any:
        for part in self._parts:
            if position < len(part):
                return part[position]
            position -= len(part)
        raise IndexError(position)


def _label(feature: Any, value: Any) -> str:
    names = getattr(feature, "names", None)
    if value is None:
        return ""
    if names is not None:
        return str(names[value]) if 0 <= int(value) < len(names) else ""
    return str(value).strip()


def _image_cells(row: Mapping[str, Any], columns: Columns) -> dict[Modality, bytes | Path | None]:
    found: dict[Modality, bytes | Path | None] = {}
    for name, column in columns.images.items():
        cell = row[column]
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        found[name] = Path(cell) if isinstance(cell, str) else bytes(cell) if cell else None
    return found


def _open_parts(source: Path, cache: Path) -> dict[str, Any]:
    import datasets

    if not source.exists():
        opened = datasets.load_dataset(str(source))
    elif (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
        opened = datasets.load_from_disk(str(source))
    elif (source / "README.md").is_file() and next(_data_files(source), None) is None:
        opened = datasets.load_dataset(str(source), cache_dir=str(cache))
    else:
        opened = _open_files(source, cache)
    parts = dict(opened) if isinstance(opened, dict) else {"train": opened}
    first = {part: place for place, part in enumerate(PARTS)}
    return {part: parts[part] for part in sorted(parts, key=lambda part: (first.get(part, len(first)), part))}


def _open_files(source: Path, cache: Path) -> dict[str, Any]:
    """Open Parquet or Arrow files; folder and file names determine the part."""
    import datasets

    files = list(_data_files(source)) if source.is_dir() else [source]
    if not files:
        raise CorpusError(f"{source}: contains no Parquet or Arrow files, save_to_disk copy or data set card")
    by_part: dict[str, list[str]] = defaultdict(list)
    for file in files:
        inside = str(file.relative_to(source)) if source.is_dir() else file.name
        found = _PART.findall(inside.lower())
        part = found[-1] if found else "train"
        by_part[_PART_NAMES.get(part, part)].append(str(file))
    opened: dict[str, Any] = {}
    for part, paths in by_part.items():
        if paths[0].endswith(".parquet"):
            opened[part] = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(cache))
        else:  # memory-mapped, without conversion
            opened[part] = datasets.concatenate_datasets([datasets.Dataset.from_file(path) for path in paths])
    return opened


def _data_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in _TABLES and path.is_file():
            yield path


def _check_pointers(source: Path) -> None:
    files = _data_files(source) if source.is_dir() else iter([source] if source.is_file() else [])
    for file in islice(files, 10_000):
        if file.stat().st_size < 1024:
            with file.open("rb") as stream:
                if is_lfs_pointer(stream.read(64)):
                    where = os.fspath(source if source.is_dir() else source.parent)
                    raise CorpusError(
                        f"{file}: is a Git LFS pointer, not the data; download it with: git -C {where} lfs pull"
                    )
