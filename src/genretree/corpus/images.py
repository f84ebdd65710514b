"""Preparation of a store from labelled images; several rows of one track are its slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from genretree.corpus.image_rows import (
    ImageRow,
    ImageRows,
    is_image_csv,
    parse_columns,
    read_image_csv,
    read_image_dataset,
)
from genretree.corpus.manifest import Failure
from genretree.corpus.prepare import check_target, images_file, metadata_file, publish
from genretree.corpus.splits import PARTS, Split, join_groups, split_groups, split_slices
from genretree.corpus.store import Store, StoreMetadata, write_tables
from genretree.errors import CorpusError, ImageError, TaxonomyError
from genretree.files import atomic_path, write_text
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.settings import HOP_LENGTH, MODALITIES, SAMPLE_RATE, ImageSettings, Modality
from genretree.sound.images import ImageForm, read_image
from genretree.taxonomy import Taxonomy, format_path

CHUNK = 64  # rows per shard

Cells = dict[Modality, bytes | Path | None]


def prepare_images(
    source: str | Path,
    out: str | Path,
    settings: ImageSettings | None = None,
    *,
    columns: str | None = None,
    form: ImageForm = "auto",
    tree: Taxonomy | None = None,
    group: str | None = None,
    workers: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Store:
    """Convert labelled images to a store.

    Parameters
    ----------
    source : str or path
        A CSV with any of the columns `mel`, `cqt` and `chroma`, labels (`genre`, or `level_1`, `level_2` ...) and
        optionally `track` and `artist`; or a data set: a name on the Hub, a `save_to_disk` folder, Parquet or Arrow.
    out : path
        The store's folder. Work in progress is in `OUT.partial` next to it, and the next call resumes it.
    settings : ImageSettings, optional
        Size of the stored images; length of a slice.
    columns : str, optional
        Column names other than the default: `mel=a,label=b,label=c,track=d`; several labels from the top level down.
    form : "auto", "drawn", "grey" or "raw"
        See `genretree.sound.images.read_image`.
    tree : Taxonomy, optional
        By default inferred from the labels.
    group : "artist" or "track", optional
        Group that must not be divided by a split; by default the first available.
    workers : int, optional
        Number of processes; by default the number of available processors.
    seed : int
        Seed of the default split.
    overwrite : bool
        Replace a store that was made from other data.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Store
        A modality without a column is all 0. Without track and artist, each row counts as a track, and the default
        split (that of the data set, if it has train, validation and test) is by slices.

    Raises
    ------
    CorpusError
        If the source cannot be read, has no labels or no usable row, or `out` contains something else.
    """
    out, source = Path(out), Path(source)
    settings = settings or ImageSettings()
    role_columns = parse_columns(columns)
    work = out.with_name(f"{out.name}.partial")
    shards = work / "rows"
    if is_image_csv(source, role_columns):
        image_rows = read_image_csv(source, role_columns)
    else:
        image_rows = read_image_dataset(source, role_columns, shards / "cache")
    group_by = _group_by(image_rows, group)
    taxonomy, leaves, rejected = _match_labels(image_rows, tree)
    content = [
        image_rows.fingerprints,
        asdict(image_rows.columns),
        settings.digest,
        form,
        taxonomy.to_json(),
        group_by,
        seed,
    ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    existing = check_target(out, digest, overwrite)
    if existing is not None:
        return existing
    shards.mkdir(parents=True, exist_ok=True)
    labelled_rows = [
        (position, row, leaf) for (position, row), leaf in zip(image_rows.rows, leaves, strict=True) if leaf is not None
    ]
    shards_done = _render_all(
        image_rows, labelled_rows, shards / digest, settings, form, workers or available_processors(), progress
    )
    modalities = ", ".join(image_rows.columns.images)
    engine = "drawn" if len(image_rows.columns.images) == len(MODALITIES) else f"drawn ({modalities} only)"
    metadata = StoreMetadata(
        source=image_rows.source, group_by=group_by, engine=engine, version=version("genretree"), digest=digest
    )
    _join(work, image_rows, labelled_rows, shards_done, rejected, taxonomy, settings, metadata, seed)
    return publish(work, shards, out)


def _group_by(image_rows: ImageRows, group: str | None) -> str:
    available = [role for role in ("artist", "track") if getattr(image_rows.columns, role)]
    if group is None:
        return available[0] if available else "slice"
    if group in available:
        return group
    raise CorpusError(
        f"{image_rows.source}: can't be grouped by '{group}'; it has: {', '.join(available) or 'neither'}"
    )


def _match_labels(image_rows: ImageRows, tree: Taxonomy | None) -> tuple[Taxonomy, list[int | None], list[Failure]]:
    """Return each row's leaf; rows of one track must agree."""
    rejected = list(image_rows.rejected)
    if not image_rows.rows:
        first = f"; the first: {rejected[0].message}" if rejected else ""
        raise CorpusError(f"{image_rows.source}: none of the {len(rejected)} rows has a label{first}")
    genres = {row.genre for _, row in image_rows.rows}
    inner = {genre[:cut] for genre in genres for cut in range(1, len(genre))}
    taxonomy = tree or Taxonomy.from_paths([row.genre for _, row in image_rows.rows if row.genre not in inner])
    leaves: list[int | None] = []
    tracks: dict[str, int] = {}
    for _, row in image_rows.rows:
        leaf: int | None = None
        try:
            leaf = taxonomy.find_leaf(row.genre if len(row.genre) > 1 else row.genre[0])
        except TaxonomyError as error:
            rejected.append(Failure(row.name, "label", f"{row.name}: {error}"))
        if leaf is not None and row.track and tracks.setdefault(row.track, leaf) != leaf:
            detail = f"the track '{row.track}' has another label in an earlier row"
            rejected.append(Failure(row.name, "label", f"{row.name}: {detail}"))
            leaf = None
        leaves.append(leaf)
    return taxonomy, leaves, rejected


# -- rendering -----------------------------------------------------------------------------------------------


def _render_all(
    image_rows: ImageRows,
    labelled_rows: Sequence[tuple[int, ImageRow, int]],
    base: Path,
    settings: ImageSettings,
    form: ImageForm,
    workers: int,
    progress: bool,
) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Convert the images, 64 rows at a time; return each shard with the metadata of its rows."""
    shards: list[Path] = []
    with progress_bar(len(labelled_rows), "prepare", "row", progress) as tick, worker_pool(workers) as pool:
        pending: list[tuple[int, Any]] = []
        try:
            for start in range(0, len(labelled_rows), CHUNK):
                chunk = labelled_rows[start : start + CHUNK]
                shard = base.with_name(f"{base.name}-{start:07d}")
                shards.append(shard)
                if metadata_file(shard).exists():
                    tick(len(chunk))
                    continue
                cells = image_rows.read([position for position, _, _ in chunk])
                names = [row.name for _, row, _ in chunk]
                if workers == 1:
                    render_rows(names, cells, shard, settings, form)
                    tick(len(chunk))
                    continue
                pending.append((len(chunk), pool.submit(render_rows, names, cells, shard, settings, form)))
                while len(pending) > 2 * workers:  # bounds memory
                    count, future = pending.pop(0)
                    future.result()
                    tick(count)
            for count, future in pending:
                future.result()
                tick(count)
        except BrokenProcessPool as error:
            raise CorpusError("a worker process was killed; repeat the call to resume") from error
    return [(shard, json.loads(metadata_file(shard).read_text(encoding="utf-8"))) for shard in shards]


def render_rows(
    names: Sequence[str], cells: Sequence[Cells], shard: Path, settings: ImageSettings, form: ImageForm
) -> None:
    """Write the images of the valid rows as raw bytes, then the metadata or failure of every row as JSON."""
    entries: list[dict[str, Any]] = []
    with atomic_path(images_file(shard)) as temporary, temporary.open("wb") as stream:
        for name, row in zip(names, cells, strict=True):
            try:
                images, sha256 = _read_row(name, row, settings, form)
            except ImageError as error:
                entries.append({"kind": error.kind, "message": f"{name}: {error}"})
                continue
            except Exception as error:  # one bad image must not stop the others
                entries.append({"kind": "internal", "message": f"{name}: {type(error).__name__}: {error}"})
                continue
            stream.write(images.tobytes())
            silent = all(bool(image.max() == image.min()) for image in images)
            entries.append({"sha256": sha256, "silent": silent})
    write_text(metadata_file(shard), json.dumps(entries))


def _read_row(name: str, row: Cells, settings: ImageSettings, form: ImageForm) -> tuple[Any, str]:
    images = np.zeros((len(MODALITIES), settings.size, settings.size), np.uint8)
    digest = hashlib.sha256()
    for place, modality in enumerate(MODALITIES):
        if modality not in row:
            continue
        cell = row[modality]
        if cell is None:
            raise ImageError("missing", name, f"has no {modality} image")
        images[place] = read_image(cell, modality, settings, form, "" if isinstance(cell, bytes) else str(cell))
        digest.update(images[place].tobytes())
    return images, digest.hexdigest()


# -- joining -------------------------------------------------------------------------------------------------


def _join(
    work: Path,
    image_rows: ImageRows,
    labelled_rows: Sequence[tuple[int, ImageRow, int]],
    shards_done: Sequence[tuple[Path, list[dict[str, Any]]]],
    rejected: Sequence[Failure],
    taxonomy: Taxonomy,
    settings: ImageSettings,
    metadata: StoreMetadata,
    seed: int,
) -> None:
    failures, good = list(rejected), []
    rows = iter(labelled_rows)
    for shard, items in shards_done:
        place = 0
        for item, (_, row, leaf) in zip(items, rows, strict=False):
            if "message" in item:
                failures.append(Failure(row.name, item["kind"], item["message"]))
                continue
            good.append((row, leaf, item, shard, place))
            place += 1
    if not any(not item["silent"] for _, _, item, _, _ in good):
        first = f"; the first: {failures[0].message}" if failures else "; every image is constant (silence)"
        n_rows = len(labelled_rows) + len(image_rows.rejected)
        raise CorpusError(f"{image_rows.source}: none of the {n_rows} rows can be used{first}")
    numbers: dict[str, int] = {}
    track_of = [numbers.setdefault(row.track or f"\0{row.name}", len(numbers)) for row, *_ in good]
    order = np.argsort(track_of, kind="stable").tolist()
    edge = settings.size
    with atomic_path(work / "images.npy") as temporary:
        joined = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(good), len(MODALITIES), edge, edge))
        target = {at: place for place, at in enumerate(order)}
        opened: tuple[Path, Any] | None = None
        for at, (_, _, _, shard, place) in enumerate(good):
            if opened is None or opened[0] != shard:
                images = np.memmap(images_file(shard), np.uint8, "r").reshape(-1, len(MODALITIES), edge, edge)
                opened = (shard, images)
            joined[target[at]] = opened[1][place]
        joined.flush()
        del joined
    seconds = settings.slice_frames * HOP_LENGTH / SAMPLE_RATE
    counts = np.bincount(track_of, minlength=len(numbers))
    slices = {
        "track": np.array(track_of, dtype=np.int64)[order],
        "start": np.concatenate([np.arange(count) * seconds for count in counts]).round(3),
        "padded": np.zeros(len(good), dtype=bool),
        "silent": np.array([item["silent"] for _, _, item, _, _ in good], dtype=bool)[order],
    }
    members: list[list[Any]] = [[] for _ in numbers]
    for number, entry in zip(track_of, good, strict=True):
        members[number].append(entry)
    table = _track_table(members, taxonomy, seconds, metadata.group_by)
    write_tables(work, table, slices, taxonomy, settings, metadata, failures)
    leaves = np.array(table["leaf"], dtype=np.int64)
    if metadata.group_by != "slice":
        split_groups(leaves, join_groups(table["group"], table["sha256"]), seed=seed).save(work / "splits")
        return
    parts = tuple(row.part for row, *_ in good)
    if set(parts) == set(PARTS):
        Split(name="default", protocol="slice", seed=0, parts=parts).save(work / "splits")
    else:
        split_slices(leaves, seed=seed, name="default").save(work / "splits")


def _track_table(
    members: Sequence[Sequence[Any]], taxonomy: Taxonomy, seconds: float, group_by: str
) -> dict[str, list[Any]]:
    firsts = [items[0] for items in members]
    names = [row.track or row.name for row, *_ in firsts]
    table: dict[str, list[Any]] = {
        "path": names,
        "file": [""] * len(members),
        "genre": [format_path(taxonomy.leaves[leaf]) for _, leaf, *_ in firsts],
        "leaf": [leaf for _, leaf, *_ in firsts],
        "group": [
            f"artist:{row.artist}"
            if group_by == "artist" and row.artist
            else f"{'slice' if group_by == 'slice' else 'track'}:{name}"
            for (row, *_), name in zip(firsts, names, strict=True)
        ],
        "sha256": [_joint_digest([item["sha256"] for _, _, item, *_ in items]) for items in members],
        "slices": [len(items) for items in members],
        "sliced_seconds": [round(len(items) * seconds, 3) for items in members],
    }
    for name in dict.fromkeys(name for row, *_ in firsts for name in row.metadata):
        if name and name not in table:
            table[name] = [row.metadata.get(name, "") for row, *_ in firsts]
    return table


def _joint_digest(digests: Sequence[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
