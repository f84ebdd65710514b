"""Conversion of the data set ccmusic-database/music_genre to a store, from the Hub or from a local copy.

Each row is a slice, rendered by the authors as three JPEG images, with its genre at three levels. The track of a slice
is not published, so each slice is a track of its own in the store. The published parts separate slices of one track;
the split keeps them under a protocol that is marked as leaking.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.corpus.copies import Copies
from genretree.corpus.manifest import Failure
from genretree.corpus.prepare import check_target, images_file, join_arrays, metadata_file, publish
from genretree.corpus.splits import PARTS, Split
from genretree.corpus.store import Store, StoreMetadata, write_tables
from genretree.errors import CorpusError, GenretreeError, MissingExtraError, SettingsError
from genretree.files import atomic_path, write_text
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.recovery.regroup import regroup_store
from genretree.settings import HOP_LENGTH, MODALITIES, SAMPLE_RATE, ImageSettings
from genretree.sound.slices import read_rendered_image
from genretree.taxonomy import Taxonomy

HUB_NAME = "ccmusic-database/music_genre"
CHUNK = 64  # rows per shard, the unit of resuming: 8 MB of JPEG

_TREE = "ccmusic"
_LIKE_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class _Chunk:
    """Consecutive rows of one part, and the shard that a worker writes them to.

    `rows` are columns by name, or a selection of a memory-mapped data set. A selection is pickled as a file name, and
    its memory is released when the chunk is done.
    """

    part: str
    start: int
    count: int
    rows: Any
    shard: Path
    size: int
    tree: Taxonomy


class _BadRowError(Exception):
    """A row that cannot be used; `kind` is the kind of the failure."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def is_dataset(source: str | Path) -> bool:
    """Whether a source is a data set of the Hub: `owner/name` without a local path of that name, or a local copy."""
    path = Path(source)
    if not path.exists():
        return bool(_LIKE_HUB_NAME.fullmatch(str(source))) and path.suffix.lower() not in _TABLES
    card = path / "README.md"
    if not card.is_file():
        return False
    return bool(re.search(r"^dataset_info:", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))


def prepare_dataset(
    source: str | Path,
    out: str | Path,
    settings: ImageSettings | None = None,
    *,
    stream: bool | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    regroup: bool = False,
    find_copies: Callable[[Store], Copies | None] | None = None,
    progress: bool = False,
) -> Store:
    """Convert every row of the data set to a store.

    Parameters
    ----------
    source : str or path
        Name of the data set on the Hub, or folder with a copy of the repository.
    out : path
        Folder of the store. `OUT.partial` holds unfinished work, which the next call resumes.
    settings : ImageSettings, optional
        Size of the images. The length of a slice is fixed by the data set.
    stream : bool, optional
        Stream the Arrow files from the Hub or the folder instead of copying 4.6 GB first. A resumed run streams
        finished rows again. By default, folders are streamed, and data from the Hub goes into the cache of `datasets`.
    workers : int, optional
        Number of processes; by default the number of available processors.
    overwrite : bool
        Replace a store of other contents.
    regroup : bool
        Recover tracks from the images; see `genretree.recovery.regroup`. Adds groups to a finished store without them.
    find_copies : callable, optional
        With `regroup`: function from the finished store to the pairs of slices whose groups are merged, such as
        `genretree.audit.evidence.find_copies`.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    Store
        One track of one slice for each valid row, named `train/000123` by part and position. The split `default` is the
        published one. Invalid rows are in `failures`: kind `label` (missing, or not in the tree), `parent` (a leaf
        whose parent contradicts the tree) or `image` (missing or damaged).

    Raises
    ------
    CorpusError
        If the data set cannot be loaded, has other columns, classes or parts, has no valid row, or `out` has other
        contents.
    SettingsError
        If `settings` has another slice length.
    MissingExtraError
        If `datasets` is not installed.
    """
    out = Path(out)
    settings = settings or ImageSettings()
    _check_settings(settings)
    tree = Taxonomy.builtin(_TREE)
    with _quiet_datasets(progress):
        builder = _open_builder(str(source))
        if builder.info.features is not None:  # from the card, before 4.6 GB are downloaded
            _check_columns(str(source), builder.info.features, tree)
        digest = _digest(str(source), builder, settings)
        metadata = StoreMetadata(
            source=str(source), group_by="slice", engine="drawn", version=version("genretree"), digest=digest
        )
        existing = check_target(out, digest, overwrite)
        if existing is not None:
            return _regroup(existing, find_copies, progress) if regroup else existing
        work = out.with_name(f"{out.name}.partial")
        shards = work / "rows"
        shards.mkdir(parents=True, exist_ok=True)
        parts = _load_parts(str(source), builder, stream, shards / f"{digest}-arrow", tree)
        counts = _count_rows(builder)
        chunks = _iter_chunks(str(source), parts, counts, _Template(shards, digest, settings.size, tree))
        finished = _convert_all(chunks, sum(counts.values()), workers or available_processors(), progress)
    _join(work, finished, tree, settings, metadata)
    store = publish(work, shards, out)
    return _regroup(store, find_copies, progress) if regroup else store


def _regroup(store: Store, find_copies: Callable[[Store], Copies | None] | None, progress: bool) -> Store:
    return regroup_store(store, copies=find_copies(store) if find_copies else None, progress=progress)


def _check_settings(settings: ImageSettings) -> None:
    if settings.slice_seconds != ImageSettings().slice_seconds:
        raise SettingsError(
            f"slice_seconds is {settings.slice_seconds}, but the slices of this data set are "
            f"{ImageSettings().slice_seconds} s long; leave it unset"
        )


def _digest(source: str, builder: Any, settings: ImageSettings) -> str:
    """Hash what determines the contents of a store: sizes and times of local files, or the revision on the Hub."""
    content = [source, str(builder.hash), settings.digest]
    for files in (builder.config.data_files or {}).values() if Path(source).exists() else ():
        content += [f"{file} {(stat := Path(file).stat()).st_size} {stat.st_mtime_ns}" for file in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# -- the data set --------------------------------------------------------------------------------------------


@contextmanager
def _quiet_datasets(progress: bool) -> Iterator[None]:
    """Hide the progress bars of `datasets` unless `progress`."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "hub") from error
    silence = not progress and not datasets.are_progress_bars_disabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()


@contextmanager
def _dataset_errors(source: str) -> Iterator[None]:
    try:
        yield
    except GenretreeError:
        raise
    except Exception as error:  # datasets propagates any exception of its builders, the file system and the Hub client
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        summary = f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}"
        raise CorpusError(_format_error(source, summary)) from error


def _format_error(source: str, summary: str) -> str:
    command = f"hf download {HUB_NAME} --repo-type dataset --local-dir FOLDER"
    if Path(source).exists():
        return f"{source}: cannot be read as a data set ({summary}); download missing or damaged files with: {command}"
    return (
        f"{source}: not a local path, and it cannot be loaded from the Hub ({summary}); without a network, make a copy "
        f"on another machine with: {command}, and prepare that folder"
    )


def _open_builder(source: str) -> Any:
    import datasets

    # load_dataset in two steps: the columns are checked before the download, which is of the same revision.
    with _dataset_errors(source):
        return datasets.load_dataset_builder(source)


def _load_parts(source: str, builder: Any, stream: bool | None, copy: Path, tree: Taxonomy) -> dict[str, Any]:
    """Load the parts by name, each with the required columns and undecoded images."""
    import datasets

    is_folder = Path(source).exists()
    with _dataset_errors(source):
        if stream or (stream is None and is_folder):
            parts = builder.as_streaming_dataset()
        else:
            # The cache identifies folders by name and card only, so each store has its own.
            builder.download_and_prepare(str(copy) if is_folder else None)
            parts = builder.as_dataset()
    if set(parts) != set(PARTS):
        raise CorpusError(f"{source}: expected the parts {', '.join(PARTS)}; found {', '.join(parts) or 'none'}")
    opened = {}
    for part in PARTS:
        _check_columns(source, parts[part].features, tree)
        data = parts[part].select_columns([*MODALITIES, *_label_columns(tree)])
        for name in MODALITIES:
            data = data.cast_column(name, datasets.Image(decode=False))
        opened[part] = data
    return opened


def _label_columns(tree: Taxonomy) -> list[str]:
    return [f"{level}_label" for level in tree.levels]


def _check_columns(source: str, features: Any, tree: Taxonomy) -> None:
    import datasets

    expected = [*MODALITIES, *_label_columns(tree)]
    columns = dict(features or {})
    missing = [name for name in expected if name not in columns]
    if missing:
        raise CorpusError(
            f"{source}: expected the columns {', '.join(expected)}; found {', '.join(columns) or 'none'} "
            f"(missing: {', '.join(missing)}). For another data set of images, name its columns: "
            "`columns=mel=COLUMN,cqt=COLUMN,chroma=COLUMN,label=COLUMN`"
        )
    for modality in MODALITIES:
        if not isinstance(columns[modality], datasets.Image):
            raise CorpusError(f"{source}: expected images in the column '{modality}'; found {columns[modality]}")
    for level, name in enumerate(_label_columns(tree)):
        _check_classes(source, name, columns[name], list(tree.labels(level)))


def _check_classes(source: str, column: str, feature: Any, expected: list[str]) -> None:
    names = getattr(feature, "names", None)
    if names is None:
        raise CorpusError(f"{source}: expected class labels in the column '{column}'; found {feature}")
    if list(names) != expected:
        raise CorpusError(
            f"{source}: expected the classes of '{column}' to be, in this order, {', '.join(expected)}; "
            f"found {', '.join(names)}"
        )


def _count_rows(builder: Any) -> dict[str, int]:
    """Return the number of rows of each part, if the card or the cached copy states it."""
    splits = builder.info.splits or {}
    return {part: int(splits[part].num_examples) for part in PARTS if part in splits and splits[part].num_examples}


@dataclass(frozen=True)
class _Template:
    """Properties common to all chunks."""

    shards: Path
    digest: str
    size: int
    tree: Taxonomy

    def chunk(self, part: str, start: int, count: int, rows: Any) -> _Chunk:
        shard = self.shards / f"{self.digest}-{part}-{start:06d}-{count}"
        return _Chunk(part, start, count, rows, shard, self.size, self.tree)


def _iter_chunks(source: str, parts: dict[str, Any], counts: dict[str, int], template: _Template) -> Iterator[_Chunk]:
    for part, data in parts.items():
        seen = 0
        with _dataset_errors(source):
            for rows, count in _iter_rows(data):
                yield template.chunk(part, seen, count, rows)
                seen += count
        if seen != counts.get(part, seen):
            raise CorpusError(_format_error(source, f"{part} has {seen} rows of {counts[part]}"))


def _iter_rows(data: Any) -> Iterator[tuple[Any, int]]:
    """Yield consecutive rows and their number from a streamed or memory-mapped data set."""
    import datasets

    if isinstance(data, datasets.IterableDataset):
        for columns in data.iter(batch_size=CHUNK):
            yield columns, len(columns[MODALITIES[0]])
        return
    for start in range(0, len(data), CHUNK):
        stop = min(start + CHUNK, len(data))
        yield data.select(range(start, stop)), stop - start


# -- conversion ----------------------------------------------------------------------------------------------


def _convert_all(chunks: Iterable[_Chunk], total: int, workers: int, progress: bool) -> list[Path]:
    """Convert chunks without a finished shard; returns the shards of all chunks in order."""
    shards: list[Path] = []
    with progress_bar(total, "prepare", "row", progress) as tick:

        def pending() -> Iterator[_Chunk]:
            for chunk in chunks:
                shards.append(chunk.shard)
                if metadata_file(chunk.shard).exists():
                    tick(chunk.count)
                else:
                    yield chunk

        if workers == 1:
            for chunk in pending():
                tick(_convert_chunk(chunk))
        else:
            _convert_in_pool(pending(), workers, tick)
    return shards


def _convert_in_pool(chunks: Iterator[_Chunk], workers: int, tick: Callable[[int], None]) -> None:
    with worker_pool(workers) as pool:
        waiting: set[Future[int]] = set()

        def collect(most: int) -> None:
            nonlocal waiting
            while len(waiting) > most:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    tick(future.result())

        try:
            for chunk in chunks:
                waiting.add(pool.submit(_convert_chunk, chunk))
                collect(2 * workers)  # bounds the memory of pending chunks
            collect(0)
        except BrokenProcessPool as error:
            raise CorpusError("a worker process was killed; run the same call again to resume") from error


def _convert_chunk(chunk: _Chunk) -> int:
    """Write images of valid rows as raw bytes, then metadata and failures as JSON; returns the number of rows."""
    columns = chunk.rows if isinstance(chunk.rows, dict) else chunk.rows[:]
    valid, failures = [], []
    with atomic_path(images_file(chunk.shard)) as temporary, temporary.open("wb") as stream:
        for i in range(chunk.count):
            name = f"{chunk.part}/{chunk.start + i:06d}"
            row = {column: values[i] for column, values in columns.items()}
            try:
                leaf = _read_leaf(row, chunk.tree)
                images = np.stack([_read_image(row, modality, chunk.size) for modality in MODALITIES])
            except _BadRowError as error:
                failures.append(asdict(Failure(name, error.kind, f"{name}: {error}")))
                continue
            stream.write(images.data)
            mel = images[0]
            sha256 = hashlib.sha256(row[MODALITIES[0]]["bytes"]).hexdigest()
            valid.append({"path": name, "leaf": leaf, "sha256": sha256, "silent": bool(mel.max() == mel.min())})
    write_text(metadata_file(chunk.shard), json.dumps({"rows": valid, "failures": failures}))
    return chunk.count


def _read_leaf(row: dict[str, Any], tree: Taxonomy) -> int:
    columns = _label_columns(tree)
    labels = [row[column] for column in columns]
    for level, (column, label) in enumerate(zip(columns, labels, strict=True)):
        if label is None or not 0 <= label < len(tree.nodes(level)):
            raise _BadRowError("label", f"{column} is {label}, not a class")
    leaf = int(labels[-1])
    for level, label in enumerate(labels):
        parent = int(tree.ancestors[leaf, level])
        if label != parent:
            names = tree.labels(level)
            raise _BadRowError(
                "parent",
                f"{tree.labels(tree.depth - 1)[leaf]} belongs to {names[parent]}, but {columns[level]} is "
                f"{names[label]}",
            )
    return leaf


def _read_image(row: dict[str, Any], modality: str, size: int) -> NDArray[np.uint8]:
    content = (row[modality] or {}).get("bytes")
    if not content:
        raise _BadRowError("image", f"the {modality} image is missing")
    try:
        return read_rendered_image(content, size)
    except Exception as error:  # an unreadable image must not stop the run
        raise _BadRowError("image", f"{modality}: {error}") from error


# -- joining -------------------------------------------------------------------------------------------------


def _join(work: Path, shards: Sequence[Path], tree: Taxonomy, settings: ImageSettings, metadata: StoreMetadata) -> None:
    contents = [json.loads(metadata_file(shard).read_text(encoding="utf-8")) for shard in shards]
    rows = [row for item in contents for row in item["rows"]]
    failures = [Failure(**failure) for item in contents for failure in item["failures"]]
    if not rows:
        first = f"; the first: {failures[0].message}" if failures else ""
        raise CorpusError(f"{metadata.source}: none of {len(failures)} rows is valid{first}")
    shape = (len(rows), 3, settings.size, settings.size)
    join_arrays([images_file(shard) for shard in shards], work / "images.npy", "|u1", shape)
    slices = {
        "track": np.arange(len(rows), dtype=np.int64),
        "start": np.zeros(len(rows)),  # the position of a slice in its track is not published
        "padded": np.zeros(len(rows), dtype=bool),
        "silent": np.array([row["silent"] for row in rows], dtype=bool),
    }
    write_tables(work, _track_table(rows, tree, settings), slices, tree, settings, metadata, failures)
    parts = tuple(row["path"].partition("/")[0] for row in rows)
    Split(name="default", protocol="slice", seed=0, parts=parts).save(work / "splits")


def _track_table(rows: Sequence[dict[str, Any]], tree: Taxonomy, settings: ImageSettings) -> dict[str, list[Any]]:
    genres = [" > ".join(leaf) for leaf in tree.leaves]
    return {
        "path": [row["path"] for row in rows],
        "file": [""] * len(rows),
        "genre": [genres[row["leaf"]] for row in rows],
        "leaf": [row["leaf"] for row in rows],
        "group": [f"slice:{row['path']}" for row in rows],
        "sha256": [row["sha256"] for row in rows],
        "slices": [1] * len(rows),
        "sliced_seconds": [round(settings.slice_frames * HOP_LENGTH / SAMPLE_RATE, 3)] * len(rows),
    }
