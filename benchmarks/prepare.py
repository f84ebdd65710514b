"""How long `genretree prepare` takes on real music, and how much memory.

    python benchmarks/prepare.py MUSIC/tracks.csv --tree tree.yaml [--runs 3]

Runs the whole command in a process of its own, each time into a new store, and samples the memory of it and all its
workers together (proportional set size, so that shared pages count once). Prints the minimum, median and maximum.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import psutil
from whole_process import measure


def run_once(source: Path, words: list[str]) -> tuple[float, float, int]:
    """Return seconds, peak megabytes of all processes together, and the number of slices."""
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "genretree", "prepare", str(source), str(folder / "store"), "--quiet", "--json"]
    seconds, peak, output = measure([*command, *words])
    shutil.rmtree(folder)
    return seconds, peak, int(json.loads(output)["slices"])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--tree")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers")
    given = parser.parse_args()
    words = [word for name in ("tree", "workers") if (value := getattr(given, name)) for word in (f"--{name}", value)]
    runs = [run_once(given.source, words) for _ in range(given.runs)]
    print(f"{given.source}: {runs[0][2]} slices, {given.runs} runs, {psutil.cpu_count()} processors")
    for name, column in (("seconds", 0), ("peak MB", 1)):
        values = [run[column] for run in runs]
        print(f"{name:8}  min {min(values):.1f}  median {statistics.median(values):.1f}  max {max(values):.1f}")


if __name__ == "__main__":
    main()
