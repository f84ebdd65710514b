r"""Peak memory of each stage in a fresh process, and whether it grows with the number of files or their length.

    python benchmarks/memory.py [--files 8] [--long 60] [--tracks 200] [--json FILE]

The sound is made by the script (wav, stereo, 44,100 Hz), and so are the stores (smooth noise, 5 slices of 224x224 a
track). Each command runs by itself and is sampled with all that it starts: proportional set size, so shared pages count
once, and what is mapped of files counts too. Each line has a smaller and a larger task; `grows` is what the larger one
takes on top for each megabyte (of files, of images in the store, of rows) that it has more.

- prepare, predict: 4 times as many files of a minute; one file of 15 minutes and not of 4; of `--long` and not of 15
- train (cnn, images reduced to 64 pixels), evaluate, audit: a store 4 times as large
- components: StreamingPCA(512) on 4 times as many rows of 49,152 pixels
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import write_music, write_sound, write_store
from whole_process import measure

from genretree._train import train
from genretree.corpus.store import Store

TIMES = 4
LENGTHS = (4, 15)  # minutes: below and beyond what is held of a file to estimate its tuning
PIXELS = 3 * 128 * 128
EVERY = 0.1  # seconds between samples
GENRETREE = (sys.executable, "-m", "genretree")


def peak(command: Sequence[str | Path]) -> tuple[float, float]:
    """Run a command: seconds and peak megabytes of its processes together."""
    seconds, megabytes, _ = measure([str(word) for word in command], every=EVERY, quiet=True)
    return seconds, megabytes


def compare(
    what: str, run: Callable[[Any], tuple[float, float]], tasks: dict[str, tuple[Any, float]]
) -> dict[str, Any]:
    """Run a smaller and a larger task, given with their megabytes."""
    found = {name: (*run(task), size) for name, (task, size) in tasks.items()}
    (_, low, small), (_, high, large) = found.values()
    row = {
        "stage": what,
        "tasks": list(found),
        "seconds": [seconds for seconds, _, _ in found.values()],
        "megabytes": [low, high],
        "grows": (high - low) / (large - small),
    }
    print(line(row), flush=True)
    return row


def line(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    small, large = row["megabytes"]
    smaller, larger = row["tasks"]
    return f"| {row['stage']} | {smaller}: {small:.0f} | {larger}: {large:.0f} | {row['grows']:+.3f} |"


HEAD = "| stage | smaller task, peak MB | larger task, peak MB | grows, MB a MB |\n| --- | ---: | ---: | ---: |"


def megabytes(path: Path) -> float:
    """Size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def files_and_lengths(folder: Path, files: int, minutes: int, bundle: Path) -> list[dict[str, Any]]:
    """Prepare and predict: more files, and a longer one."""
    music = {count: write_music(folder / f"music-{count}", count, 60).parent for count in (files, TIMES * files)}
    many = {f"{count} files of a minute": (path, megabytes(path)) for count, path in music.items()}
    long = {}
    for length in (*LENGTHS, minutes):
        genre = folder / f"long-{length}" / "Solo"
        genre.mkdir(parents=True)
        write_sound(genre / "long.wav", 60 * length)
        write_sound(genre.parent / "short.wav", 60)
        long[f"a file of {length} minutes"] = (genre, megabytes(genre))

    pairs = [dict(pair) for pair in pairwise(long.items())]

    def prepare(source: Path) -> tuple[float, float]:
        csv = source / "tracks.csv"
        return peak([*GENRETREE, "prepare", csv if csv.exists() else _list(source), folder / "out", *_ANEW])

    def predict(source: Path) -> tuple[float, float]:
        return peak([*GENRETREE, "predict", bundle, source, "--json", "--quiet"])

    return [
        compare(f"{name}, {kind}", run, tasks)
        for name, run in (("prepare", prepare), ("predict", predict))
        for kind, tasks in (("number of files", many), *(("length of a file", pair) for pair in pairs))
    ]


_ANEW = ("--overwrite", "--quiet")


def _list(folder: Path) -> Path:
    """List the one long file twice, as two genres are needed for a tree."""
    path = folder / "tracks.csv"
    path.write_text("path,genre\nlong.wav,Solo\n../short.wav,Chamber\n", encoding="utf-8")
    return path


def stores(folder: Path, tracks: int, bundle: Path) -> list[dict[str, Any]]:
    """Train, evaluate and audit: a larger store."""
    made = [write_store(folder / f"store-{count}", count).folder for count in (tracks, TIMES * tracks)]
    tasks = {f"{Store(store).n_slices} slices": (store, megabytes(store)) for store in made}
    words: dict[str, Callable[[Path], list[str | Path]]] = {
        "train": lambda store: [
            *("train", store, "--model", "cnn", "--out", folder / "trained", "--overwrite", "--quiet"),
            *("--epochs", "1", "--set", "image_size=64"),
        ],
        "evaluate": lambda store: ["evaluate", bundle, store, "--out", folder / "report", "--part", "all", "--quiet"],
        "audit": lambda store: ["audit", store, "--out", folder / f"audit-{store.name}", "--quiet"],
    }
    return [
        compare(name, lambda store, make=make: peak([*GENRETREE, *make(store)]), tasks)  # type: ignore[misc]
        for name, make in words.items()
    ]


def components(folder: Path, rows: int) -> dict[str, Any]:
    """Fit principal components to more rows."""
    tasks = {}
    rng = np.random.default_rng(0)
    for count in (rows, TIMES * rows):
        path = folder / f"rows-{count}.npy"
        made = np.lib.format.open_memmap(path, "w+", np.uint8, (count, PIXELS))
        for start in range(0, count, 512):
            made[start : start + 512] = rng.integers(0, 256, made[start : start + 512].shape, dtype=np.uint8)
        made.flush()
        tasks[f"{count} rows"] = (path, megabytes(path))
    script = Path(__file__).with_name("components.py")

    def fit(path: Path) -> tuple[float, float]:
        return peak([sys.executable, script, path, "--way", "ours", "--held-out", "600"])

    return compare("principal components", fit, tasks)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--long", type=int, default=60, help="minutes of the long file")
    parser.add_argument("--tracks", type=int, default=200, help="in the smaller store")
    parser.add_argument("--rows", type=int, default=6000, help="of the smaller matrix; 0: leave components out")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        store = write_store(folder / "few", 20)
        train(store, "cnn", folder / "bundle", {"epochs": 1, "image_size": 64})
        print(HEAD)
        rows = files_and_lengths(folder, given.files, given.long, folder / "bundle")
        rows += stores(folder, given.tracks, folder / "bundle")
        if given.rows:
            rows.append(components(folder, given.rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
