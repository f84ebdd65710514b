"""Writing the composed corpus: one audio file per track, and a table of tracks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

from genretree.datasets.composed.compose import ComposeSettings, TrackMetadata, compose_score
from genretree.datasets.composed.styles import TREE, leaves
from genretree.errors import CorpusError, MissingExtraError
from genretree.files import atomic_path
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.taxonomy import Taxonomy

COLUMNS = (
    "path", "genre", "level_1", "level_2", "level_3", "artist", "album", "title", "bpm", "key", "seconds", "seed",
)  # fmt: skip
_RECORD = "composed.json"
_RULES = 1  # increment when the audio for the same settings changes
_SUBTYPES = {"flac": "PCM_16", "wav": "PCM_16", "ogg": "VORBIS"}


class _RenderTask(NamedTuple):
    path: Path
    leaf: str
    artist: int
    track: int
    settings: ComposeSettings


def compose_corpus(
    out: str | Path,
    settings: ComposeSettings | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Compose, render and write music for all 16 leaves.

    An interrupted call can be repeated; it skips existing tracks. The files depend on the settings only, not on the
    number of workers.

    Parameters
    ----------
    out : path-like
        Output folder for `audio/<leaf>/<artist>-<n>.<format>`, `tracks.csv` and `composed.json` (the settings).
    settings : ComposeSettings, optional
    workers : int, optional
        Number of processes; by default the number of available processors. 1 renders in the calling process.
    progress : bool, default True
        Show a progress bar on standard error.

    Returns
    -------
    Path
        Path of `tracks.csv`, which has the columns `COLUMNS` and paths relative to its folder.

    Raises
    ------
    CorpusError
        If the folder has a corpus with other settings or is not writable, or `workers` is below 1.
    MissingExtraError
        If pretty_midi, scipy or soundfile is not installed.
    """
    out = Path(out)
    settings = settings or ComposeSettings.build()
    if workers is not None and workers < 1:
        raise CorpusError(f"workers is {workers}; use 1 or more")
    check_extra()
    try:
        _check_settings_record(out, settings)
        jobs, rows = _list_tracks(out, settings)
        missing = [job for job in jobs if not job.path.is_file()]
        for folder in {job.path.parent for job in missing}:
            folder.mkdir(parents=True, exist_ok=True)
        _render_all(missing, workers or available_processors(), progress)
        return _write_csv(out / "tracks.csv", rows)
    except OSError as error:
        message = f"{out}: the corpus cannot be written ({error}); check the folder and the free space"
        raise CorpusError(message) from error


def check_extra() -> None:
    """Check that the packages for rendering are installed.

    Raises
    ------
    MissingExtraError
        For the first missing package.
    """
    from importlib.util import find_spec

    for package in ("pretty_midi", "scipy", "soundfile"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "compose")


def _check_settings_record(out: Path, settings: ComposeSettings) -> None:
    """Write the settings to the folder, or check that they match."""
    record = out / _RECORD
    content = {"rules": _RULES, "digest": settings.digest, "settings": settings.model_dump()}
    if not record.exists():
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(record) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return
    try:
        existing = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorpusError(f"{record}: not readable ({error}); choose another folder or delete this one") from error
    if not isinstance(existing, dict) or (existing.get("digest"), existing.get("rules")) != (settings.digest, _RULES):
        raise CorpusError(f"{out}: contains a corpus with other settings; choose another folder or delete this one")


def _list_tracks(out: Path, settings: ComposeSettings) -> tuple[list[_RenderTask], list[dict[str, object]]]:
    """List the files and the rows of the table; composition without rendering is fast, so metadata are not cached."""
    jobs: list[_RenderTask] = []
    rows: list[dict[str, object]] = []
    paths = {path[-1]: path for path in Taxonomy.builtin(TREE).leaves}
    for leaf in leaves():
        for artist in range(settings.artists):
            for track in range(settings.tracks):
                metadata = compose_score(leaf, artist, track, settings).metadata
                stem = metadata.artist.lower().replace(" ", "_")
                path = Path("audio") / leaf / f"{stem}-{track + 1}.{settings.format}"
                jobs.append(_RenderTask(out / path, leaf, artist, track, settings))
                rows.append(_row(path, paths[leaf], metadata))
    return jobs, rows


def _row(path: Path, node: tuple[str, ...], metadata: TrackMetadata) -> dict[str, object]:
    levels = [*node, *[node[-1]] * (3 - len(node))]  # a leaf above the deepest level repeats below
    values = (
        path.as_posix(), metadata.leaf, *levels, metadata.artist, metadata.album, metadata.title,
        metadata.bpm, metadata.key, metadata.seconds, metadata.seed,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _render_all(jobs: list[_RenderTask], workers: int, progress: bool) -> None:
    with progress_bar(len(jobs), "compose", "track", progress) as tick:
        if workers == 1 or len(jobs) < 4:
            for job in jobs:
                _render(job)
                tick()
            return
        chunk = max(1, min(8, len(jobs) // (4 * workers)))
        with worker_pool(min(workers, len(jobs))) as pool:
            for _ in pool.map(_render, jobs, chunksize=chunk):
                tick()


def _render(job: _RenderTask) -> None:
    import soundfile

    from genretree.datasets.composed.render import compose_track

    y, _ = compose_track(job.leaf, job.artist, job.track, job.settings)
    format_name = job.settings.format
    with atomic_path(job.path) as temporary:
        soundfile.write(temporary, y.T, job.settings.rate, format=format_name.upper(), subtype=_SUBTYPES[format_name])


def _write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path
