"""Writing the corpus: one audio file for each track, and the list of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

from genretree.datasets.composed.compose import ComposeSettings, TrackFacts, compose_score
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
_RULES = 1  # raise when the same settings give other sound than before
_SUBTYPES = {"flac": "PCM_16", "wav": "PCM_16", "ogg": "VORBIS"}


class _Job(NamedTuple):
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

    It can be stopped and started again: tracks that are already there aren't made again. What is written depends on
    the settings alone, not on the number of workers.

    Parameters
    ----------
    out : path-like
        Folder to write: `audio/<leaf>/<artist>-<n>.<format>`, `tracks.csv` and `composed.json` (the settings).
    settings : ComposeSettings, optional
    workers : int, optional
        Processes to render in; by default one for each CPU. With 1 the calling process renders.
    progress : bool
        Whether to show a bar on stderr.

    Returns
    -------
    Path
        Of `tracks.csv`, whose columns are `COLUMNS`; its paths are relative to its folder.

    Raises
    ------
    CorpusError
        If the folder holds a corpus of other settings or can't be written, or `workers` is below 1.
    MissingExtraError
        If pretty_midi, scipy or soundfile isn't installed.
    """
    out = Path(out)
    settings = settings or ComposeSettings.build()
    if workers is not None and workers < 1:
        raise CorpusError(f"workers is {workers}; at least one process has to render")
    check_extra()
    try:
        _claim(out, settings)
        jobs, rows = _list_tracks(out, settings)
        missing = [job for job in jobs if not job.path.is_file()]
        for folder in {job.path.parent for job in missing}:
            folder.mkdir(parents=True, exist_ok=True)
        _render_all(missing, workers or available_processors(), progress)
        return _write_csv(out / "tracks.csv", rows)
    except OSError as error:
        raise CorpusError(f"{out}: the corpus can't be written ({error})") from error


def check_extra() -> None:
    """Check that what rendering needs is installed.

    Raises
    ------
    MissingExtraError
        For the first package that isn't.
    """
    from importlib.util import find_spec

    for package in ("pretty_midi", "scipy", "soundfile"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "compose")


def _claim(out: Path, settings: ComposeSettings) -> None:
    """Mark the folder with the settings, or check that it has the same."""
    record = out / _RECORD
    wanted = {"rules": _RULES, "digest": settings.digest, "settings": settings.model_dump()}
    if not record.exists():
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(record) as draft:
            draft.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorpusError(f"{record}: not readable ({error}); choose another folder or delete this one") from error
    if not isinstance(found, dict) or (found.get("digest"), found.get("rules")) != (settings.digest, _RULES):
        raise CorpusError(f"{out}: holds a corpus of other settings; choose another folder or delete this one")


def _list_tracks(out: Path, settings: ComposeSettings) -> tuple[list[_Job], list[dict[str, object]]]:
    """List the files to write and the lines of the table; composing the notes is quick, so facts aren't stored."""
    jobs: list[_Job] = []
    rows: list[dict[str, object]] = []
    paths = {path[-1]: path for path in Taxonomy.builtin(TREE).leaves}
    for leaf in leaves():
        for artist in range(settings.artists):
            for track in range(settings.tracks):
                facts = compose_score(leaf, artist, track, settings).facts
                stem = facts.artist.lower().replace(" ", "_")
                path = Path("audio") / leaf / f"{stem}-{track + 1}.{settings.format}"
                jobs.append(_Job(out / path, leaf, artist, track, settings))
                rows.append(_row(path, paths[leaf], facts))
    return jobs, rows


def _row(path: Path, node: tuple[str, ...], facts: TrackFacts) -> dict[str, object]:
    levels = [*node, *[node[-1]] * (3 - len(node))]  # a leaf that ends early stands for itself below
    values = (
        path.as_posix(), facts.leaf, *levels, facts.artist, facts.album, facts.title,
        facts.bpm, facts.key, facts.seconds, facts.seed,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _render_all(jobs: list[_Job], workers: int, progress: bool) -> None:
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


def _render(job: _Job) -> None:
    import soundfile

    from genretree.datasets.composed.render import compose_track

    samples, _ = compose_track(job.leaf, job.artist, job.track, job.settings)
    kind = job.settings.format
    with atomic_path(job.path) as draft:
        soundfile.write(draft, samples.T, job.settings.rate, format=kind.upper(), subtype=_SUBTYPES[kind])


def _write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path
