"""Race of two databases on one library: every file has to come back exactly, or with a reason.

    python benchmarks/library_race.py [--files 8] [--megabytes 25] [--rounds 30] [--delay 2.5] [--seed 0] [--folder DIR]
        [--padding]

In each round two processes with databases of their own apply to the same WAV files, the second one 0 to 2.5 s after the
first; then both undo at the same time, and once more in turn. Between the two, other programs check every file. Exits
with 1 if a file is damaged, lost, or neither exactly undone nor refused with a reason. With `--padding` the files have
tags with padding, so that genretree writes in place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from library_process import SoundCheck, command, pad, undo_all


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=25.0, help="size of each file")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--delay", type=float, default=2.5, help="maximum seconds between the two starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work, for example on a network file system")
    parser.add_argument("--padding", action="store_true", help="give the files tags with padding")
    given = parser.parse_args()
    began, lost = time.monotonic(), 0
    with tempfile.TemporaryDirectory(dir=given.folder) as work, tempfile.TemporaryDirectory() as local:
        folder, rng, check = Path(work), np.random.default_rng(given.seed), SoundCheck()
        for i in range(given.files):
            samples = rng.integers(-9000, 9000, (round(given.megabytes * 1e6 / 4), 2), dtype=np.int16)
            sf.write(folder / f"{i}.wav", samples, 44100)
            if given.padding:
                pad(folder / f"{i}.wav")
        before = {path: _hash(path) for path in sorted(folder.iterdir())}
        sounds = {path: check.sound(path) for path in before}
        print(f"checked by {check.programs}; seed {given.seed}")
        print("| round | second start | written by one, two | refused | damaged | undone exactly | not undone |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for round_ in range(given.rounds):
            delay = float(rng.uniform(0, given.delay))
            lost += _race(round_, delay, folder, Path(local), before, sounds, check)
    print(f"{lost} files damaged, lost or not undone in {given.rounds} rounds; {time.monotonic() - began:.0f} s")
    sys.exit(1 if lost else 0)


def _race(
    round_: int,
    delay: float,
    folder: Path,
    local: Path,
    before: dict[Path, str],
    sounds: dict[Path, str],
    check: SoundCheck,
) -> int:
    """Run one round; returns how many files were harmed."""
    databases = {local / f"{round_}-{name}.sqlite": digest * 16 for name, digest in (("one", "1"), ("two", "2"))}
    for db, digest in databases.items():
        subprocess.run(command(db, "analyse", folder, digest), check=True, stdout=subprocess.DEVNULL)
    refused = _both(databases, "apply", folder, delay)
    written = [_count(db) for db in databases]
    damaged = {path for path in before if not path.exists() or check.sound(path) != sounds[path]}
    _both(databases, "undo", folder, delay)
    explained = dict(undo_all(databases, folder))
    exact = {path for path in before if path.exists() and _hash(path) == before[path]}
    others = set(before) - exact
    unexplained = {path for path in others if not explained.get(str(path))}
    left = [path.name for path in folder.iterdir() if path not in before]
    print(
        f"| {round_ + 1} | {delay:.2f} s | {written[0]}, {written[1]} | {refused} | {len(damaged)} | {len(exact)} | "
        f"{len(others)} |" + (f" left behind: {left}" if left else ""),
        flush=True,
    )
    for path in sorted(others):
        print(f"{path.name}: {explained.get(str(path)) or 'not undone, without a reason'}", flush=True)
    for db in databases:
        for file in local.glob(f"{db.name}*"):
            file.unlink()
    return len(damaged | unexplained) + len(left)


def _both(databases: dict[Path, str], what: str, folder: Path, delay: float) -> int:
    """Run both processes, the second one later; returns how many files were refused."""
    start = time.time() + 2.0  # both have imported everything by then
    running = [
        subprocess.Popen(command(db, what, folder, digest, start=start + i * delay), stdout=subprocess.PIPE, text=True)
        for i, (db, digest) in enumerate(databases.items())
    ]
    found = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        print(f"{what} ended with {[process.returncode for process in running]}", flush=True)
    lists = [json.loads(text.splitlines()[-1]) for text in found if text.splitlines()[1:]]
    missing = [path for items in lists for path, reason in items if not reason]
    if missing:
        print(f"refused without a reason: {missing}", flush=True)
    return sum(map(len, lists))


def _count(db: Path) -> int:
    from genretree.library.database import journal
    from genretree.library.database.connection import open_database

    with open_database(db) as database:
        return sum(run.written for run in journal.list_runs(database))


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
