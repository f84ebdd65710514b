r"""Where more processors stop helping: `prepare` and `predict` simulated with up to 16, from what was measured on one.

    python benchmarks/many_cores.py BUNDLE MUSIC [--files 50] [--tracks 400] [--cores 1 2 4 8 16] [--json FILE]

The work of one file is timed on one processor, which it keeps busy. With more processors than the machine has, the work
itself is replaced by waiting just as long, and everything around it is real:

- prepare: worker processes wait, then write the file's shard; the main process submits, collects and joins the shards
  to a store: of `--tracks` files, copies of those of MUSIC. What is counted begins when the workers have started.
- predict: threads of one process. py-spy samples for how much of a file's time its thread holds Python's interpreter
  lock (GIL). Each simulated file holds the lock for this time, in `--pieces` pieces, and waits without it for the rest.

The disk is the machine's own. Not simulated: processors that share caches, memory bandwidth and their clock rate. So
the simulated figures are upper bounds. To check them, the same files are also processed in reality with as many
processors as this machine has and with one, by turns, also from when libraries are loaded and workers run: the column
`measured` has the ratio of medians and its range over the rounds. py-spy is among the development tools (`make test`
installs them).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from whole_process import ratio

from genretree.bundle.bundle import load_bundle
from genretree.corpus.manifest import Failure, read_manifest
from genretree.corpus.prepare import TrackJob, prepare, prepare_safely, shard_files
from genretree.parallel import available_processors, worker_pool
from genretree.prediction.predict import find_files, predict
from genretree.settings import ImageSettings

RATE = 200  # samples of the interpreter lock in a second
NAP = 0.2  # seconds for which a worker that has started waits for the others
HEAD = (
    "command | seconds a file, one processor | cores | files a second, simulated | times one core, simulated "
    "| times one core, measured (range) | limit"
)


@contextmanager
def processors(count: int) -> Iterator[None]:
    """Let this process, and what it starts, use some processors only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


# -- prepare -----------------------------------------------------------------------------------------------------------


def copy_files(files: Sequence[Path], copies: int, folder: Path) -> Path:
    """Copy files, list them in a CSV, and return its path."""
    table = folder / "tracks.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "genre", "artist"])
        for number, file in enumerate(files):
            for copy in range(copies):
                path = folder / f"{copy}-{number}{file.suffix}"
                shutil.copy(file, path)
                writer.writerow([path, ("music", "other")[number % 2], f"artist {number % 20}"])
    return table


def prepare_and_nap(job: TrackJob | None) -> int:
    """Load libraries by the work of a file, leave other workers the time to start, and return this worker's process."""
    if job is not None:
        with tempfile.TemporaryDirectory() as folder:
            prepare_safely(replace(job, shard=Path(folder) / "shard"))
    time.sleep(NAP)
    return os.getpid()


def await_workers(pool: Executor, count: int, job: TrackJob | None = None) -> None:
    """Wait until `count` workers run and, if a job is given, each has done it."""
    seen: set[int] = set()
    until = time.monotonic() + 60
    while len(seen) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(seen)} of {count} workers started within a minute")
        seen |= {future.result() for future in [pool.submit(prepare_and_nap, job) for _ in range(count)]}


def measure_prepare(files: Sequence[Path], count: int) -> float:
    """Time `prepare` on `count` processors, in seconds, from when its workers have loaded their libraries."""
    began = 0.0

    def run(jobs: Sequence[TrackJob], report: Callable[[TrackJob, Failure | None], None]) -> None:
        nonlocal began
        with worker_pool(count) as pool:
            await_workers(pool, count, jobs[0])
            began = time.perf_counter()
            futures = {pool.submit(prepare_safely, job): job for job in jobs}
            for future in as_completed(futures):
                report(futures[future], future.result())

    with tempfile.TemporaryDirectory() as name, processors(count):
        (Path(name) / "music").mkdir()
        manifest = read_manifest(copy_files(files, 1, Path(name) / "music"))
        prepare(manifest, Path(name) / "store", ImageSettings(), run_jobs=run)
        return time.perf_counter() - began


def wait_and_copy(job: TrackJob, ready: TrackJob, seconds: float) -> None:
    """Take the place of a file's work: wait as long, and write the shard."""
    time.sleep(seconds)
    for source, target in zip(shard_files(ready), shard_files(job), strict=True):
        shutil.copyfile(source, target)


def simulate_prepare(files: Sequence[Path], copies: int, cores: Sequence[int]) -> dict[str, Any]:
    """Time `prepare` around simulated workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "music").mkdir()
        manifest = read_manifest(copy_files(files, copies, folder / "music"))
        ready: list[TrackJob] = []
        seconds = 0.0

        def measure(jobs: Sequence[TrackJob], report: Callable[[TrackJob, Failure | None], None]) -> None:
            nonlocal seconds
            chosen = [job for job in jobs if job.path.name.startswith("0-")]
            for job in chosen[:2]:  # loads libraries
                prepare_safely(job)
            began = time.perf_counter()
            for job in chosen[2:]:
                prepare_safely(job)
            seconds = (time.perf_counter() - began) / len(chosen[2:])
            ready.extend(chosen)
            raise InterruptedError

        try:
            with processors(1):
                prepare(manifest, folder / "measured", ImageSettings(), run_jobs=measure)
        except InterruptedError:
            pass
        by_number = {job.path.name.split("-")[1]: job for job in ready}
        found: dict[str, Any] = {"command": "prepare", "seconds": seconds, "cores": {}}
        for count in cores:
            found["cores"][count] = len(manifest.tracks) / _prepare_with(
                count, manifest, folder / f"store-{count}", by_number, seconds
            )
            shutil.rmtree(folder / f"store-{count}")
        return found


def _prepare_with(count: int, manifest: Any, out: Path, by_number: dict[str, TrackJob], seconds: float) -> float:
    """Return the seconds of `prepare` from when the workers are running."""
    began = 0.0

    def run(jobs: Sequence[TrackJob], report: Callable[[TrackJob, Failure | None], None]) -> None:
        nonlocal began
        with worker_pool(count) as pool:
            await_workers(pool, count)
            began = time.perf_counter()
            futures = {
                pool.submit(wait_and_copy, job, by_number[job.path.name.split("-")[1]], seconds): job for job in jobs
            }
            for future in as_completed(futures):
                future.result()
                report(futures[future], None)

    prepare(manifest, out, ImageSettings(), run_jobs=run)
    return time.perf_counter() - began


# -- predict -----------------------------------------------------------------------------------------------------------


def predict_forever(folder: Path, files: Sequence[Path]) -> None:
    """Predict on one processor, file after file; print the seconds of a file when libraries are loaded."""
    with processors(1):
        bundle = load_bundle(folder, "auto", "auto")
        list(predict(bundle, files[:2], workers=1))
        began = time.perf_counter()
        list(predict(bundle, files, workers=1))
        print((time.perf_counter() - began) / len(files), flush=True)
        while True:
            list(predict(bundle, files, workers=1))


def predict_once(folder: Path, files: Sequence[Path], count: int) -> None:
    """Predict on `count` processors with as many workers, and print the seconds; loading libraries does not count."""
    with processors(count):
        bundle = load_bundle(folder, "auto", "auto")
        list(predict(bundle, files[: 2 * count], workers=count))
        began = time.perf_counter()
        list(predict(bundle, files, workers=count))
        print(time.perf_counter() - began)


def measure_predict(folder: Path, music: Path, n_files: int, count: int) -> float:
    """Time `predict` on `count` processors in a new process, in seconds."""
    words = [sys.executable, __file__, str(folder), str(music), "--files", str(n_files), "--once", str(count)]
    return float(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_lock(folder: Path, music: Path, n_files: int, duration: int) -> tuple[float, float]:
    """Return the seconds of a file on one processor, and the share of them in which the lock is held."""
    words = [sys.executable, __file__, str(folder), str(music), "--files", str(n_files), "--forever"]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process,
        tempfile.TemporaryDirectory() as name,
    ):
        try:
            assert process.stdout is not None
            seconds = float(process.stdout.readline())
            samples = Path(name) / "samples"
            command = [
                str(Path(sys.executable).with_name("py-spy")),
                "record",
                "--pid",
                str(process.pid),
                "--gil",
                "--format",
                "raw",
                "--rate",
                str(RATE),
            ]
            command += ["--duration", str(duration), "--output", str(samples)]
            subprocess.run(command, check=True, capture_output=True)
        finally:
            process.kill()
        held = sum(int(line.rsplit(" ", 1)[1]) for line in samples.read_text(encoding="utf-8").splitlines())
    return seconds, held / (RATE * duration)


def simulate_predict(
    seconds: float, share: float, cores: Sequence[int], pieces: int, duration: float
) -> dict[str, Any]:
    """Time threads that hold the lock for a share of the time."""
    found: dict[str, Any] = {"command": "predict", "seconds": seconds, "lock": share, "cores": {}}
    hold, wait = share * seconds / pieces, (1 - share) * seconds / pieces

    def work(end: float) -> float:
        done = 0
        while time.perf_counter() < end:
            released = time.perf_counter() + hold
            while time.perf_counter() < released:
                pass
            time.sleep(wait)
            done += 1
        return done / pieces

    for count in cores:
        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            done = sum(pool.map(work, [began + duration] * count))
            found["cores"][count] = done / (time.perf_counter() - began)
    return found


# ----------------------------------------------------------------------------------------------------------------------


def measure_speedup(run: Callable[[int], float], count: int, rounds: int) -> dict[str, Any]:
    """Measure with one processor and with `count`, by turns."""
    turns = [(run(1), run(count)) for _ in range(rounds)]
    return {"cores": count, "one": [one for one, _ in turns], "all": [every for _, every in turns]}


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the lines of a command in the table."""
    measured = found.get("measured", {"cores": 0})
    first = found["cores"][min(found["cores"], key=int)]
    limit = f"interpreter lock, held {found['lock']:.0%} of a file's time" if "lock" in found else "main process, disk"
    lines = []
    for count, rate in found["cores"].items():
        own = ratio(measured["one"], measured["all"]) if int(count) == measured["cores"] else "-"
        simulated = [f"{rate:.1f}", f"{rate / first:.1f}"]
        lines.append([found["command"], f"{found['seconds']:.3f}", str(count), *simulated, own, limit])
    return lines


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("music", type=Path)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--tracks", type=int, default=400, help="of the simulated prepare: copies of the files")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of the simulation")
    parser.add_argument("--pieces", type=int, default=100, help="in which a simulated file holds the lock")
    parser.add_argument("--seconds", type=int, default=10, help="of sampling, and of each simulation of predict")
    parser.add_argument("--rounds", type=int, default=3, help="of measuring with this machine's processors")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--forever", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    files = [path.absolute() for path in find_files([given.music]) if isinstance(path, Path)][: given.files]
    if given.forever:
        predict_forever(given.bundle, files)
    if given.once:
        predict_once(given.bundle, files, given.once)
        return
    seconds, share = measure_lock(given.bundle, given.music, given.files, given.seconds)
    found = [
        simulate_predict(seconds, share, given.cores, given.pieces, given.seconds),
        simulate_prepare(files, -(-given.tracks // len(files)), given.cores),
    ]
    own = available_processors()
    if own > 1:
        timed = (partial(measure_predict, given.bundle, given.music, given.files), partial(measure_prepare, files))
        for item, run in zip(found, timed, strict=True):
            item["measured"] = measure_speedup(run, own, given.rounds)
    print(f"| {HEAD} |")
    for row in [row for item in found for row in rows(item)]:
        print("| " + " | ".join(row) + " |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
