"""Preparation of a store from a manifest: images and features of every track, in parallel, resumable and atomic.

Each track is written to its own shard in `STORE.partial`; an interrupted run resumes with the missing tracks. Finally
the shards are concatenated, and the folder is renamed in one step.
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

from genretree.checks import require_integer, require_names, require_path, require_type
from genretree.corpus.manifest import Failure, Manifest, Track
from genretree.corpus.splits import MAX_SEED, split_groups
from genretree.corpus.store import Store, StoreMetadata, write_tables
from genretree.errors import CorpusError, SoundError
from genretree.files import atomic_path, printable, sha256_file, write_text
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.remote import download_file, is_url
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, ImageSettings
from genretree.sound.features import MEL_16K, Feature, register_all, requested_features
from genretree.sound.images import image_hint
from genretree.taxonomy import format_path

_CONTENTS = 3  # version of a shard's contents; increase it to invalidate older shards and stores


@dataclass(frozen=True)
class TrackJob:
    """The input of a worker for one track."""

    path: Path
    shard: Path
    settings: ImageSettings
    engine: str
    salvage: bool
    url: str = ""
    features: tuple[Feature, ...] = ()
    starts: tuple[float, ...] | None = None  # of known slices: compute only their features
    sha256: str = ""  # of the file of the known slices


JobRunner = Callable[[Sequence["TrackJob"], Callable[["TrackJob", Failure | None], None]], None]


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
    run_jobs: JobRunner | None = None,
    cache: str | Path | None = None,
    features: Sequence[str] = (),
) -> Store:
    """Compute the spectrogram images and features of all tracks of a manifest and write them to a store.

    Parameters
    ----------
    manifest : Manifest
    out : path
        The store's folder. Work in progress is in `OUT.partial` next to it, and the next call resumes it.
    settings : ImageSettings, optional
    engine : str
        Engine of the spectra; `auto` is the fastest that agrees with librosa.
    salvage : bool
        Decode what is left of truncated files instead of reporting them as failed.
    workers : int, optional
        Number of processes; by default the number of available processors.
    seed : int
        Seed of the default split.
    overwrite : bool
        Replace a store that was made from other data.
    progress : bool
        Show a bar on standard error.
    run_jobs : callable, optional
        Runs the jobs outside local processes, and reports each; see `genretree.corpus.on_ray`.
    cache : path, optional
        Folder that caches the images of each track for other stores of the same files and settings.
    features : sequence of str
        Names of features to store in addition to the images, such as "mel_16k"; see
        `genretree.sound.features.register_feature`. If `out` is the result of the same call with fewer features, the
        missing ones are added; `genretree.train` adds the features that a family needs.

    Returns
    -------
    Store
        `Store.failures` lists the tracks that cannot be used, with the reasons. One bad file never stops the others.

    Raises
    ------
    CorpusError
        If no track can be used, `out` contains something else, or a feature cannot be added to it.
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
    features = require_names("features", features)
    if workers is not None:
        require_integer("workers", workers)
    require_integer("seed", seed, 0, MAX_SEED)
    requested = requested_features(features)
    metadata = StoreMetadata(
        source=str(manifest.source),
        group_by=manifest.group_by,
        engine=resolve_engine(engine),
        version=version("genretree"),
        digest=_digest(manifest, settings, resolve_engine(engine), salvage, seed),
    )
    existing = check_target(out, metadata.digest, overwrite)
    if existing is not None:
        paths = {track.name: track.path for track in manifest.tracks}
        return add_features(
            existing, features, salvage=salvage, workers=workers, progress=progress, run_jobs=run_jobs, paths=paths
        )
    work = out.with_name(f"{out.name}.partial")
    shards = work / "tracks" if cache is None else require_path("cache", cache)
    work.mkdir(parents=True, exist_ok=True)
    shards.mkdir(parents=True, exist_ok=True)
    jobs = {
        track: TrackJob(
            track.path,
            shards / _shard_name(track, settings, metadata.engine, salvage),
            settings,
            metadata.engine,
            salvage,
            track.name if is_url(track.name) else "",
            requested,
        )
        for track in manifest.tracks
    }
    failures = _prepare_all(list(jobs.values()), workers or available_processors(), progress, run_jobs)
    done = [track for track in manifest.tracks if jobs[track].shard not in failures]
    if not done:
        first = next(iter(failures.values()))
        raise CorpusError(f"none of the {len(jobs)} tracks can be used; the first: {first.message}")
    failed = [failures[job.shard] for job in jobs.values() if job.shard in failures]
    rejected = [*manifest.rejected, *failed]
    _join(work, manifest, {track: jobs[track].shard for track in done}, settings, metadata, rejected, seed, requested)
    return publish(work, None if cache is not None else shards, out)


def add_features(
    store: Store,
    features: Sequence[str],
    *,
    salvage: bool = True,
    workers: int | None = None,
    progress: bool = False,
    run_jobs: JobRunner | None = None,
    paths: Mapping[str, Path] | None = None,
) -> Store:
    """Compute missing features of a store's slices; the store changes only if all succeed.

    Parameters
    ----------
    store : Store
        Made from audio files.
    features : sequence of str
        Names of features, such as "mel_16k"; those in the store are unchanged.
    salvage : bool
        Decode what is left of truncated files.
    workers : int, optional
        Number of processes; by default the number of available processors.
    progress : bool
        Show a bar on standard error.
    run_jobs : callable, optional
        As for `prepare`.
    paths : mapping of str to Path, optional
        Audio file of each track; by default the files that the store was made from.

    Returns
    -------
    Store
        The same store, opened again.

    Raises
    ------
    CorpusError
        If the store was made from images, or a file has changed, is missing, or cannot be decoded.
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
        content = json.dumps(
            [store.metadata.digest, number, name, _fingerprint_file(paths[name]), [item.name for item in missing]]
        )
        jobs.append(
            TrackJob(
                paths[name],
                shards / hashlib.sha256(content.encode()).hexdigest()[:24],
                store.settings,
                store.metadata.engine,
                salvage,
                name if is_url(name) else "",
                missing,
                tuple(float(start) for start in store.starts[store.slice_tracks == number]),
                str(store.tracks["sha256"][number]),
            )
        )
    if failures := _prepare_all(jobs, workers or available_processors(), progress, run_jobs):
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
    """Return a hash of everything that determines a store's contents, including file sizes and times."""
    rows = [(str(track.path), track.leaf, track.group, _fingerprint_file(track.path)) for track in manifest.tracks]
    content = [_CONTENTS, rows, manifest.taxonomy.to_json(), settings.model_dump(), engine, salvage, seed]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _fingerprint_file(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _shard_name(track: Track, settings: ImageSettings, engine: str, salvage: bool) -> str:
    content = json.dumps([_CONTENTS, str(track.path), _fingerprint_file(track.path), settings.digest, engine, salvage])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def check_target(out: Path, digest: str, overwrite: bool) -> Store | None:
    """Return the finished store if it is the result of the same call; raise an error for anything else at `out`.

    Raises
    ------
    CorpusError
        If `out` is not a store, or was made from other data and `overwrite` is False.
    """
    if not out.exists():
        return None
    if not (out / "store.json").is_file():
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise CorpusError(f"{out}: exists and is not a store; use another name")
    if overwrite:
        return None
    store = Store(out)
    if store.metadata.digest == digest:
        return store
    raise CorpusError(
        f"{out}: was prepared from other music or settings, or files have changed since; "
        "use another name, or replace it with `overwrite=True`"
    )


# -- computing -----------------------------------------------------------------------------------------------


def _prepare_all(
    jobs: Sequence[TrackJob], workers: int, progress: bool, run_jobs: JobRunner | None
) -> dict[Path, Failure]:
    """Process the tracks without a finished shard; return the failures by shard."""
    pending = [job for job in jobs if not all(file.exists() for file in shard_files(job))]
    failures: dict[Path, Failure] = {}
    with progress_bar(len(jobs), "prepare", "track", progress, initial=len(jobs) - len(pending)) as tick:

        def report(job: TrackJob, failure: Failure | None) -> None:
            if failure is not None:
                failures[job.shard] = failure
            tick()

        if run_jobs is not None:
            run_jobs(pending, report)
            return failures
        if workers == 1 or len(pending) == 1:
            for job in pending:
                report(job, prepare_safely(job))
            return failures
        while pending:
            unfinished = _prepare_in_pool(pending, workers, report)
            # If a worker died, one of the files in progress was the cause: run each of them in its own process.
            suspects, pending = unfinished[: workers + 1], unfinished[workers + 1 :]
            for job in suspects:
                if _prepare_in_pool([job], 1, report):
                    message = f"{printable(job.path)}: the decoder crashed on this file; convert it to another format"
                    report(job, Failure(printable(job.path), "crashed", message))
    return failures


def _prepare_in_pool(
    jobs: Sequence[TrackJob], workers: int, report: Callable[[TrackJob, Failure | None], None]
) -> list[TrackJob]:
    """Run jobs in worker processes; return the jobs unfinished when a worker died, in their order."""
    broken: set[Future[Failure | None]] = set()
    with worker_pool(min(workers, len(jobs))) as pool:
        futures: dict[Future[Failure | None], TrackJob] = {pool.submit(prepare_safely, job): job for job in jobs}
        # The split's import takes most of a second: start it while this process only waits.
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
    """Write a track's shard; return a failure if that is impossible."""
    try:
        if not job.url:
            _prepare_track(job)
            return None
        try:
            with download_file(job.url) as copy:
                _prepare_track(replace(job, path=copy))
        except OSError as error:
            return Failure(job.url, "unreadable", f"{job.url}: download failed: {error}")
    except SoundError as error:
        image = "" if job.url else image_hint(job.path)
        return Failure(error.path, error.kind, f"{error.path}: {image}" if image else str(error))
    except Exception as error:  # one bad file must not stop the others
        return Failure(printable(job.path), "internal", f"{printable(job.path)}: {type(error).__name__}: {error}")
    return None


def _prepare_track(job: TrackJob) -> None:
    """Write a track's slices as raw bytes, then their metadata as JSON, which marks the shard as complete."""
    from genretree.sound.slices import iter_slices

    names = register_all(job.features)
    if job.starts is not None:
        _add_to_track(job, names, job.starts)
        return
    starts, padded, silent = [], [], []
    with ExitStack() as stack:
        image_stream = stack.enter_context(_open_atomic(images_file(job.shard)))
        streams = {name: stack.enter_context(_open_atomic(feature_file(job.shard, name))) for name in names}
        for track_slice in iter_slices(job.path, job.settings, engine=job.engine, salvage=job.salvage, features=names):
            image_stream.write(np.ascontiguousarray(track_slice.images).data)
            for name, stream in streams.items():
                stream.write(track_slice.features[name].tobytes())
            starts.append(round(float(track_slice.start), 3))
            padded.append(bool(track_slice.padded))
            silent.append(bool(track_slice.silent))
    if all(silent):
        raise SoundError("silence", job.path, "every slice is silent (audio may be in the remainder that is dropped)")
    contents = {"sha256": sha256_file(job.path), "starts": starts, "padded": padded, "silent": silent}
    write_text(metadata_file(job.shard), json.dumps(contents))


def _add_to_track(job: TrackJob, names: Sequence[str], starts: Sequence[float]) -> None:
    """Write features of the known slices of a track."""
    from genretree.sound.slices import iter_features

    sha256 = sha256_file(job.path)
    if sha256 != job.sha256:
        raise SoundError("unreadable", job.path, "has changed since the store was prepared")
    with ExitStack() as stack:
        streams = {name: stack.enter_context(_open_atomic(feature_file(job.shard, name))) for name in names}
        for values in iter_features(job.path, job.settings, starts, names, job.salvage):
            for name, stream in streams.items():
                stream.write(values[name].tobytes())
    write_text(metadata_file(job.shard), json.dumps({"sha256": sha256}))


@contextmanager
def _open_atomic(path: Path) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def images_file(shard: Path) -> Path:
    """Return the path of a shard's images: raw uint8, consecutive slices."""
    return shard.with_suffix(".u8")


def feature_file(shard: Path, name: str) -> Path:
    """Return the path of a shard's feature: a raw array, consecutive slices."""
    return shard.with_suffix(".f16" if name == MEL_16K else f".{name}")


def metadata_file(shard: Path) -> Path:
    """Return the path of a shard's metadata: JSON, written last, which marks the shard as complete."""
    return shard.with_suffix(".json")


def shard_files(job: TrackJob) -> list[Path]:
    """Return all files of a finished shard; the one that marks it as complete comes last."""
    images = [] if job.starts is not None else [images_file(job.shard)]
    return [*images, *(feature_file(job.shard, item.name) for item in job.features), metadata_file(job.shard)]


# -- joining -------------------------------------------------------------------------------------------------


def _join(
    work: Path,
    manifest: Manifest,
    shards: dict[Track, Path],
    settings: ImageSettings,
    metadata: StoreMetadata,
    failures: Sequence[Failure],
    seed: int,
    features: Sequence[Feature],
) -> None:
    summaries = {track: json.loads(metadata_file(shard).read_text()) for track, shard in shards.items()}
    total = sum(len(item["starts"]) for item in summaries.values())
    image_shape = (total, 3, settings.size, settings.size)
    join_arrays([images_file(shard) for shard in shards.values()], work / "images.npy", "|u1", image_shape)
    for feature in features:
        files = [feature_file(shard, feature.name) for shard in shards.values()]
        _join_feature(files, work, feature, total, settings)
    write_tables(
        work,
        _track_table(manifest, summaries, settings),
        dict(_slice_columns(list(summaries.values()))),
        manifest.taxonomy,
        settings,
        metadata,
        failures,
    )
    store = Store(work)
    split_groups(store.track_leaves, store.track_groups, seed=seed).save(work / "splits")


def join_arrays(files: Sequence[Path], out: Path, kind: str, shape: tuple[int, ...]) -> None:
    """Concatenate raw arrays into an .npy file of a NumPy type and shape."""
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_2_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
        for file in files:
            with file.open("rb") as raw:
                shutil.copyfileobj(raw, stream, 1 << 20)


def publish(work: Path, shards: Path | None, out: Path) -> Store:
    """Remove the shards and rename the finished folder, replacing an existing one."""
    if shards is not None:
        shutil.rmtree(shards)
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return Store(out)


def _track_table(manifest: Manifest, summaries: dict[Track, Any], settings: ImageSettings) -> dict[str, list[Any]]:
    tracks = list(summaries)
    slice_seconds = settings.slice_frames * HOP_LENGTH / SAMPLE_RATE
    table: dict[str, list[Any]] = {
        "path": [track.name for track in tracks],
        "file": [printable(track.path) for track in tracks],
        "genre": [format_path(manifest.taxonomy.leaves[track.leaf]) for track in tracks],
        "leaf": [track.leaf for track in tracks],
        "group": [track.group for track in tracks],
        "sha256": [summaries[track]["sha256"] for track in tracks],
        "slices": [len(summaries[track]["starts"]) for track in tracks],
        "sliced_seconds": [round(len(summaries[track]["starts"]) * slice_seconds, 3) for track in tracks],
    }
    columns = dict.fromkeys(name for track in tracks for name in track.metadata)
    for name in columns:
        if name and name not in table:
            table[name] = [track.metadata.get(name, "") for track in tracks]
    return table


def _slice_columns(summaries: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    counts = [len(item["starts"]) for item in summaries]
    yield "track", np.repeat(np.arange(len(summaries), dtype=np.int64), counts)
    yield "start", np.array([start for item in summaries for start in item["starts"]], dtype=np.float64)
    yield "padded", np.array([flag for item in summaries for flag in item["padded"]], dtype=bool)
    yield "silent", np.array([flag for item in summaries for flag in item["silent"]], dtype=bool)
