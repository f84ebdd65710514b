"""What all processors give against one: whole commands on many files.

    python benchmarks/cores.py BUNDLE MUSIC [--files 100] [--rounds 3] [--json FILE]

`genretree prepare` and `genretree predict BUNDLE` on a number of MUSIC's files, in processes that may use one processor
or all (affinity), by turns; the times include the start of the command and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runtimes import MEASURED, by_turns, spread

from genretree.prediction.predict import find_files


def run(words: Sequence[str], processors: Sequence[int]) -> None:
    """Run Python with these words on these processors alone."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)  # which what is started inherits
    try:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
    finally:
        os.sched_setaffinity(0, allowed)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("music", type=Path)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    files = [path.absolute() for path in find_files([given.music]) if isinstance(path, Path)][: given.files]
    processors = sorted(os.sched_getaffinity(0))
    ways = {"one processor": processors[:1], f"all {len(processors)}": processors}
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "tracks.csv"
        rows = [f'"{path}",{"one" if place % 2 else "other"}' for place, path in enumerate(files)]
        listed.write_text("\n".join(["path,genre", *rows]), encoding="utf-8")
        commands = {
            "prepare": ["-m", "genretree", "prepare", str(listed), str(Path(name) / "store"), "--overwrite", "--quiet"],
            "predict": ["-m", "genretree", "predict", str(given.bundle), *map(str, files), "--json", "--quiet"],
        }
        for title, words in commands.items():
            work = {way: partial(run, words, some) for way, some in ways.items()}
            for way, seconds in by_turns(work, given.rounds, f"{title}, {len(files)} files").items():
                print(f"{title}, {way}: {spread(seconds)} s", flush=True)
    if given.json:
        given.json.write_text(json.dumps(MEASURED, indent=1))


if __name__ == "__main__":
    main()
