"""Bytes that writing and undoing tags read and write, for files of each format, with and without padding.

    python benchmarks/library_io.py [--megabytes 20] [--seed 0] [--folder DIR]

Makes one file of each format with ffmpeg, with padding in its tags and without, and writes tags into each as
`genretree library apply` does, then undoes it. The bytes are those of all read and write calls of this process
(`rchar` and `wchar` in /proc/self/io; Linux only): those of the file, of its copies in the temporary folder, of the
undo record and of the database.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import mutagen
import numpy as np
import soundfile as sf
from library_process import FileClassifier, pad

from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.database import records
from genretree.library.database.connection import open_database
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse

_TAGS = ("-metadata", "title=A title", "-metadata", "artist=Ärtist 名")
_FORMATS = {
    "a.mp3": ("-b:a", "320k"),
    "a.flac": (),
    "a.m4a": ("-b:a", "256k"),
    "a.wav": ("-fflags", "+bitexact"),
    "a.aiff": ("-write_id3v2", "1"),
    "a.ogg": ("-q:a", "9"),
}
_BYTES_PER_SECOND = {"a.mp3": 40_000, "a.flac": 160_000, "a.m4a": 32_000, "a.ogg": 40_000}


def _counters() -> tuple[int, int]:
    """Return the bytes that this process has read and written."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def _make(folder: Path, name: str, megabytes: float, seed: int) -> Path:
    rate = 44100
    seconds = min(1200.0, megabytes * 1e6 / _BYTES_PER_SECOND.get(name, 4 * rate))
    rng = np.random.default_rng(seed)
    source, path = folder / "source.w64", folder / name
    with sf.SoundFile(source, "w", rate, 2, format="W64") as stream:
        for _ in range(round(seconds)):
            stream.write(rng.standard_normal((rate, 2)) * 0.1)
    words = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(source), *_TAGS, *_FORMATS[name], str(path)]
    subprocess.run(words, check=True)
    source.unlink()
    return path


def _measure(path: Path, database_path: Path) -> str:
    """Write and undo; returns the columns of a table."""
    size, inode, before = path.stat().st_size, path.stat().st_ino, path.read_bytes()
    columns = [f"{size / 1e6:.1f} MB"]
    with open_database(database_path, create=True) as database:
        analyse(database, [path], lambda: FileClassifier("1" * 16))
        model, model_key = records.find_model(database)
        plans = list(iter_plans(database, model, model_key, Mapping(), "overwrite"))
        for act in ("apply", "undo"):
            start = _counters()
            if act == "apply":
                run, written, refused = apply_plans(database, plans, model_key.digest)
            else:
                written, refused = undo(database, run or 0)
            end = _counters()
            if written != 1:
                sys.exit(f"{path.name}: {refused}")
            read, wrote = (b - a for a, b in zip(start, end, strict=True))
            columns += [f"{read / size:.2f}", f"{wrote / size:.3f}"]
            if act == "apply":
                columns.append("in place" if path.stat().st_ino == inode else "copy")
    if path.read_bytes() != before:
        sys.exit(f"{path.name} was not restored")
    return " | ".join(columns)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0, help="size of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work")
    given = parser.parse_args()
    print("| file | size | read, times the size | written | how | undo: read | written |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=given.folder) as work:
        for name in _FORMATS:
            folder = Path(work) / name.partition(".")[2]
            folder.mkdir()
            path = _make(folder, name, given.megabytes, given.seed)
            for padding in (True, False) if name != "a.ogg" else (False,):
                if padding:
                    pad(path)
                else:
                    mutagen.File(path).save(padding=lambda _: 0)
                label = f"{name[2:]}, {'with' if padding else 'without'} padding"
                print(f"| {label} | {_measure(path, folder / f'{padding}.sqlite')} |", flush=True)


if __name__ == "__main__":
    main()
