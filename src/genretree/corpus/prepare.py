"""From a manifest to a store: decode, compute, slice and draw every track, in parallel, resumable, atomic.

Each track becomes a file of its own in `STORE.partial`; a run that was killed goes on with the tracks that are
missing. When all are done they are joined, and the folder takes its final name in one step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from genretree.checks import require_path, require_type
from genretree.corpus.manifest import Failure, Manifest, Track
from genretree.corpus.splits import split_groups
from genretree.corpus.store import Store, StoreMetadata, write_tables
from genretree.errors import CorpusError, SoundError
from genretree.files import atomic_path, printable, sha256_file, write_text
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.remote import fetched, is_url
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, ImageSettings
from genretree.sound.features import MEL_16K, Feature, register_found, requested_features
from genretree.sound.images import name_image
from genretree.taxonomy import format_path

_CONTENTS = 3  # what is kept of a track; another number makes shards and stores of old anew


@dataclass(frozen=True)
class TrackJob:
    """What a worker needs to draw one track."""

    path: Path
    shard: Path
    settings: ImageSettings
    engine: str
    salvage: bool
    url: str = ""
    features: tuple[Feature, ...] = ()
    starts: tuple[float, ...] | None = None  # of slices that are known: only their features are computed
    sha256: str = ""  # of the file that the known slices are from


Draw = Callable[[Sequence["TrackJob"], Callable[["TrackJob", Failure | None], None]], None]


def prepare(
    manifest: Manifest,
    out: str | Path,
    settings: ImageSettings | None = None,
    *,
    engine: str = "auto",
    salvage: bool = False,
    workers: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
    draw: Draw | None = None,
    cache: str | Path | None = None,
    features: Sequence[str] = (),
) -> Store:
    """Draw every track of a manifest into a store.

    Parameters
    ----------
    manifest : Manifest
    out : path
        The store's folder. Work in progress lies beside it in `OUT.partial` and is taken up again by the next call.
    settings : ImageSettings, optional
    engine : str
        Engine for the spectra; `auto` takes the fastest that agrees with librosa.
    salvage : bool
        Use what can be decoded of a truncated file instead of reporting it as failed.
    workers : int, optional
        Processes; by default one for each processor this process may use.
    seed : int
        Of the default split.
    overwrite : bool
        Replace a store that was made from something else.
    progress : bool
        Show a bar on standard error.
    draw : callable, optional
        Draws jobs elsewhere than in processes of this machine, and reports each; see `genretree.corpus.on_ray`.
    cache : path, optional
        Folder that keeps the images of each track for other stores of the same files and settings.
    features : sequence of str
        Names of the features to store next to the images, such as "mel_16k"; see
        `genretree.sound.features.register_feature`. If the same call made `out` before with fewer features, those that
        it lacks are added; `genretree.train` adds what a family needs.

    Returns
    -------
    Store
        Its `failures` name every track that could not be used, and why. One bad file never stops the others.

    Raises
    ------
    CorpusError
        If no track at all could be used, `out` holds something else, or a feature can't be added to it.
    SettingsError
        If a feature is not registered.

    See Also
    --------
    genretree.read_manifest : Read the tracks of a folder or CSV.
    genretree.Dataset.prepare : Prepare records, data frames or mirdata loaders.
    genretree.Store : The result.

    Examples
    --------
    >>> import genretree
    >>> manifest = genretree.read_manifest("tracks.csv")
    >>> settings = genretree.ImageSettings(slice_seconds=2.0, size=32)
    >>> store = genretree.prepare(manifest, "STORE", settings)
    >>> store.n_tracks, store.failures
    (24, ())
    """
    from genretree.sound.spectra import resolve_engine

    require_type("manifest", manifest, Manifest, "use genretree.read_manifest")
    out = require_path("out", out)
    settings = settings or ImageSettings()
    require_type("settings", settings, ImageSettings, "use ImageSettings.build")
    requested = requested_features(features)
    facts = StoreMetadata(
        source=str(manifest.source),
        group_by=manifest.group_by,
        engine=resolve_engine(engine),
        version=version("genretree"),
        digest=_digest(manifest, settings, resolve_engine(engine), salvage, seed),
    )
    existing = check_target(out, facts.digest, overwrite)
    if existing is not None:
        paths = {track.name: track.path for track in manifest.tracks}
        return add_features(
            existing, features, salvage=salvage, workers=workers, progress=progress, draw=draw, paths=paths
        )
    work = out.with_name(f"{out.name}.partial")
    shards = work / "tracks" if cache is None else Path(cache)
    work.mkdir(parents=True, exist_ok=True)
    shards.mkdir(parents=True, exist_ok=True)
    jobs = {
        track: TrackJob(
            track.path,
            shards / _shard_name(track, settings, facts.engine, salvage),
            settings,
            facts.engine,
            salvage,
            track.name if is_url(track.name) else "",
            requested,
        )
        for track in manifest.tracks
    }
    failures = _draw_all(list(jobs.values()), workers or available_processors(), progress, draw)
    done = [track for track in manifest.tracks if jobs[track].shard not in failures]
    if not done:
        first = next(iter(failures.values()))
        raise CorpusError(f"none of the {len(jobs)} tracks could be used; the first: {first.message}")
    failed = [failures[job.shard] for job in jobs.values() if job.shard in failures]
    rejected = [*manifest.rejected, *failed]
    _join(work, manifest, {track: jobs[track].shard for track in done}, settings, facts, rejected, seed, requested)
    return publish(work, None if cache is not None else shards, out)


def add_features(
    store: Store,
    features: Sequence[str],
    *,
    salvage: bool = True,
    workers: int | None = None,
    progress: bool = False,
    draw: Draw | None = None,
    paths: Mapping[str, Path] | None = None,
) -> Store:
    """Compute features that a store lacks, of the slices that it has; nothing changes unless all of them succeed.

    Parameters
    ----------
    store : Store
        Made from audio files.
    features : sequence of str
        Names of features, such as "mel_16k"; those that the store holds are left alone.
    salvage : bool
        Use what can be decoded of truncated files.
    workers : int, optional
        Processes; by default one for each processor this process may use.
    progress : bool
        Show a bar on standard error.
    draw : callable, optional
        As for `prepare`.
    paths : mapping of str to Path, optional
        The file of each track of the store; by default those that it was made from.

    Returns
    -------
    Store
        The same store, opened again.

    Raises
    ------
    CorpusError
        If the store was made from images alone, or a file has changed, moved, or can't be decoded any more.
    SettingsError
        If a feature is not registered.
    """
    missing = tuple(item for item in requested_features(features) if item.name not in store.features)
    if not missing:
        return store
    names = ", ".join(feature.name for feature in missing)
    files = store.tracks.get("file", ())
    if paths is None and not any(files):
        raise CorpusError(
            f"{store.folder}: was made from images, and {names} is computed from audio; prepare it from audio files"
        )
    paths = paths or {name: Path(file) for name, file in zip(store.tracks["path"], files, strict=True)}
    work = store.folder.with_name(f"{store.folder.name}.partial")
    shards = work / "features"
    shards.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, name in enumerate(store.tracks["path"]):
        content = json.dumps([store.facts.digest, number, name, _stamp(paths[name]), [item.name for item in missing]])
        jobs.append(
            TrackJob(
                paths[name],
                shards / hashlib.sha256(content.encode()).hexdigest()[:24],
                store.settings,
                store.facts.engine,
                salvage,
                name if is_url(name) else "",
                missing,
                tuple(float(start) for start in store.starts[store.slice_tracks == number]),
                str(store.tracks["sha256"][number]),
            )
        )
    if failures := _draw_all(jobs, workers or available_processors(), progress, draw):
        first = next(iter(failures.values()))
        raise CorpusError(
            f"{store.folder}: cannot add {names}: {len(failures)} of {len(jobs)} tracks failed, the first: "
            f"{first.message}; restore these files and repeat, or prepare a new store"
        )
    for feature in missing:
        parts = [feature_file(job.shard, feature.name) for job in jobs]
        _join_feature(parts, store.folder, feature, store.n_slices, store.settings)
    shutil.rmtree(work)
    return Store(store.folder)


def _join_feature(files: Sequence[Path], folder: Path, feature: Feature, total: int, settings: ImageSettings) -> None:
    shape = (total, *feature.shape(settings))
    join_arrays(files, folder / f"{feature.name}.npy", np.dtype(feature.dtype).str, shape)


def _digest(manifest: Manifest, settings: ImageSettings, engine: str, salvage: bool, seed: int) -> str:
    """Hash of all that decides a store's contents, file sizes and times included."""
    rows = [(str(track.path), track.leaf, track.group, _stamp(track.path)) for track in manifest.tracks]
    content = [_CONTENTS, rows, manifest.taxonomy.to_json(), settings.model_dump(), engine, salvage, seed]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _shard_name(track: Track, settings: ImageSettings, engine: str, salvage: bool) -> str:
    content = json.dumps([_CONTENTS, str(track.path), _stamp(track.path), settings.digest, engine, salvage])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def check_target(out: Path, digest: str, overwrite: bool) -> Store | None:
    """Return the finished store if this very call was made before; refuse anything else in the way.

    Raises
    ------
    CorpusError
        If `out` is something else than a store, or one made from something else and not to be overwritten.
    """
    if not out.exists():
        return None
    if not (out / "store.json").is_file():
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise CorpusError(f"{out}: exists and is not a store; give another name")
    if overwrite:
        return None
    store = Store(out)
    if store.facts.digest == digest:
        return store
    raise CorpusError(
        f"{out}: was prepared from other music or settings, or files have changed since; "
        "give another name, or replace it with `overwrite=True`"
    )


# -- drawing -------------------------------------------------------------------------------------------------


def _draw_all(jobs: Sequence[TrackJob], workers: int, progress: bool, draw: Draw | None) -> dict[Path, Failure]:
    """Draw the tracks that have no finished shard yet; returns the failures by shard."""
    pending = [job for job in jobs if not all(file.exists() for file in shard_files(job))]
    failures: dict[Path, Failure] = {}
    with progress_bar(len(jobs), "prepare", "track", progress, initial=len(jobs) - len(pending)) as tick:

        def report(job: TrackJob, failure: Failure | None) -> None:
            if failure is not None:
                failures[job.shard] = failure
            tick()

        if draw is not None:
            draw(pending, report)
            return failures
        if workers == 1 or len(pending) == 1:
            for job in pending:
                report(job, prepare_safely(job))
            return failures
        while pending:
            unfinished = _draw_in_pool(pending, workers, report)
            # If a worker died, it was by one of the files in hand: each of those gets a process of its own.
            suspects, pending = unfinished[: workers + 1], unfinished[workers + 1 :]
            for job in suspects:
                if _draw_in_pool([job], 1, report):
                    message = f"{printable(job.path)}: the decoder crashed on this file; convert it to another format"
                    report(job, Failure(printable(job.path), "crashed", message))
    return failures


def _draw_in_pool(
    jobs: Sequence[TrackJob], workers: int, report: Callable[[TrackJob, Failure | None], None]
) -> list[TrackJob]:
    """Draw in worker processes; returns the jobs that were unfinished when a worker died, in their order."""
    broken: set[Future[Failure | None]] = set()
    with worker_pool(min(workers, len(jobs))) as pool:
        futures: dict[Future[Failure | None], TrackJob] = {pool.submit(prepare_safely, job): job for job in jobs}
        # What the split needs takes most of a second to import: here, where this process only waits, it has time.
        preload = threading.Thread(target=import_module, args=("sklearn.model_selection",))
        preload.start()
        for future in as_completed(futures):
            try:
                report(futures[future], future.result())
            except BrokenProcessPool:
                broken.add(future)
        preload.join()
    return [job for future, job in futures.items() if future in broken]


def prepare_safely(job: TrackJob) -> Failure | None:
    """Draw a track into its shard; a failure if that can't be done."""
    try:
        if not job.url:
            _prepare_track(job)
            return None
        try:
            with fetched(job.url) as copy:
                _prepare_track(replace(job, path=copy))
        except OSError as error:
            return Failure(job.url, "unreadable", f"{job.url}: can't be fetched: {error}")
    except SoundError as error:
        image = "" if job.url else name_image(job.path)
        return Failure(error.path, error.kind, f"{error.path}: {image}" if image else str(error))
    except Exception as error:  # whatever one file brings about must not stop the others
        return Failure(printable(job.path), "internal", f"{printable(job.path)}: {type(error).__name__}: {error}")
    return None


def _prepare_track(job: TrackJob) -> None:
    """Write one track's slices as raw bytes, then their facts as JSON; the JSON says that the shard is complete."""
    from genretree.sound.slices import iter_slices

    names = register_found(job.features)
    if job.starts is not None:
        _add_to_track(job, names, job.starts)
        return
    starts, padded, silent = [], [], []
    with ExitStack() as stack:
        image_stream = stack.enter_context(_writing(images_file(job.shard)))
        streams = {name: stack.enter_context(_writing(feature_file(job.shard, name))) for name in names}
        for piece in iter_slices(job.path, job.settings, engine=job.engine, salvage=job.salvage, features=names):
            image_stream.write(np.ascontiguousarray(piece.images).data)
            for name, stream in streams.items():
                stream.write(piece.features[name].tobytes())
            starts.append(round(float(piece.start), 3))
            padded.append(bool(piece.padded))
            silent.append(bool(piece.silent))
    if all(silent):
        raise SoundError("silence", job.path, "every slice is silent (sound may lie in the remainder that is cut off)")
    facts = {"sha256": sha256_file(job.path), "starts": starts, "padded": padded, "silent": silent}
    write_text(facts_file(job.shard), json.dumps(facts))


def _add_to_track(job: TrackJob, names: Sequence[str], starts: Sequence[float]) -> None:
    """Write features of the known slices of a track."""
    from genretree.sound.slices import iter_features

    found = sha256_file(job.path)
    if found != job.sha256:
        raise SoundError("unreadable", job.path, "its content is not the one that the store was made from")
    with ExitStack() as stack:
        streams = {name: stack.enter_context(_writing(feature_file(job.shard, name))) for name in names}
        for values in iter_features(job.path, job.settings, starts, names, job.salvage):
            for name, stream in streams.items():
                stream.write(values[name].tobytes())
    write_text(facts_file(job.shard), json.dumps({"sha256": found}))


@contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def images_file(shard: Path) -> Path:
    """Where the images of a shard lie: raw uint8, one slice after the other."""
    return shard.with_suffix(".u8")


def feature_file(shard: Path, name: str) -> Path:
    """Where a feature of a shard lies: a raw array, one slice after the other."""
    return shard.with_suffix(".f16" if name == MEL_16K else f".{name}")


def facts_file(shard: Path) -> Path:
    """Where the facts of a shard lie: JSON, written after the images, so that it says the shard is complete."""
    return shard.with_suffix(".json")


def shard_files(job: TrackJob) -> list[Path]:
    """All files of a finished shard; the one that says that it is complete comes last."""
    images = [] if job.starts is not None else [images_file(job.shard)]
    return [*images, *(feature_file(job.shard, item.name) for item in job.features), facts_file(job.shard)]


# -- joining -------------------------------------------------------------------------------------------------


def _join(
    work: Path,
    manifest: Manifest,
    shards: dict[Track, Path],
    settings: ImageSettings,
    facts: StoreMetadata,
    failures: Sequence[Failure],
    seed: int,
    features: Sequence[Feature],
) -> None:
    drawn = {track: json.loads(facts_file(shard).read_text()) for track, shard in shards.items()}
    total = sum(len(item["starts"]) for item in drawn.values())
    image_shape = (total, 3, settings.size, settings.size)
    join_arrays([images_file(shard) for shard in shards.values()], work / "images.npy", "|u1", image_shape)
    for feature in features:
        files = [feature_file(shard, feature.name) for shard in shards.values()]
        _join_feature(files, work, feature, total, settings)
    write_tables(
        work,
        _track_table(manifest, drawn, settings),
        dict(_slice_columns(list(drawn.values()))),
        manifest.taxonomy,
        settings,
        facts,
        failures,
    )
    store = Store(work)
    split_groups(store.track_leaves, store.track_groups, seed=seed).save(work / "splits")


def join_arrays(files: Sequence[Path], out: Path, kind: str, shape: tuple[int, ...]) -> None:
    """Put raw arrays one after the other into an .npy file of a NumPy type and shape."""
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_2_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
        for file in files:
            with file.open("rb") as raw:
                shutil.copyfileobj(raw, stream, 1 << 20)


def publish(work: Path, shards: Path | None, out: Path) -> Store:
    """Clear the shards away and give the finished folder its final name, in the place of what may be there."""
    if shards is not None:
        shutil.rmtree(shards)
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return Store(out)


def _track_table(manifest: Manifest, drawn: dict[Track, Any], settings: ImageSettings) -> dict[str, list[Any]]:
    tracks = list(drawn)
    slice_seconds = settings.slice_frames * HOP_LENGTH / SAMPLE_RATE
    table: dict[str, list[Any]] = {
        "path": [track.name for track in tracks],
        "file": [printable(track.path) for track in tracks],
        "genre": [format_path(manifest.taxonomy.leaves[track.leaf]) for track in tracks],
        "leaf": [track.leaf for track in tracks],
        "group": [track.group for track in tracks],
        "sha256": [drawn[track]["sha256"] for track in tracks],
        "slices": [len(drawn[track]["starts"]) for track in tracks],
        "sliced_seconds": [round(len(drawn[track]["starts"]) * slice_seconds, 3) for track in tracks],
    }
    columns = dict.fromkeys(name for track in tracks for name in track.facts)
    for name in columns:
        if name and name not in table:
            table[name] = [track.facts.get(name, "") for track in tracks]
    return table


def _slice_columns(drawn: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    counts = [len(item["starts"]) for item in drawn]
    yield "track", np.repeat(np.arange(len(drawn), dtype=np.int64), counts)
    yield "start", np.array([start for item in drawn for start in item["starts"]], dtype=np.float64)
    yield "padded", np.array([flag for item in drawn for flag in item["padded"]], dtype=bool)
    yield "silent", np.array([flag for item in drawn for flag in item["silent"]], dtype=bool)
