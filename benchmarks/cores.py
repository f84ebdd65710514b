"""What all processors give against one: whole commands on many files.

    python benchmarks/cores.py BUNDLE MUSIC [--files 100] [--rounds 3] [--json FILE]

`genretree prepare` and `genretree predict BUNDLE` on so many of MUSIC's files, in processes that may use one processor
or all (affinity), by turns; the times include the start of the command and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genretree.predict import find_files

PINNED = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


def seconds(words: list[str], processor: int | None) -> float:
    """Time a command."""
    command = words if processor is None else ["-c", PINNED, str(processor), *words]
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("music", type=Path)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    files = [path.absolute() for path in find_files([given.music])][: given.files]
    processors = sorted(os.sched_getaffinity(0))
    ways = {"one processor": processors[0], f"all {len(processors)}": None}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "tracks.csv"
        rows = [f'"{path}",{"one" if place % 2 else "other"}' for place, path in enumerate(files)]
        listed.write_text("\n".join(["path,genre", *rows]), encoding="utf-8")
        commands = {
            "prepare": ["-m", "genretree", "prepare", str(listed), str(Path(name) / "store"), "--overwrite", "--quiet"],
            "predict": ["-m", "genretree", "predict", str(given.bundle), *map(str, files), "--json", "--quiet"],
        }
        for title, words in commands.items():
            times: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(given.rounds + 1):
                for way, processor in ways.items():
                    took = seconds(words, processor)
                    if turn:  # the first warms up
                        times[way].append(took)
            found.append({"what": f"{title}, {len(files)} files", "seconds": times})
            print(title, {way: [round(value, 2) for value in taken] for way, taken in times.items()}, flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
