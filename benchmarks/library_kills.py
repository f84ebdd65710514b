"""Kill processes that analyse, apply and undo on one library, with two databases; no file may be harmed.

    python benchmarks/library_kills.py [--kills 200] [--copies 2] [--commands 0.1] [--seed 0] [--folder DIR]
        [--padding]

Makes a library of all formats that take tags, with ffmpeg. Again and again one or two processes analyse, apply or undo,
each with its own database, and get SIGKILL at a random moment; some are the commands `genretree library apply` and
`undo` themselves. After each kill, programs other than genretree compare packets and samples of every file with those
of the original. After every `--every` kills both databases are undone: every file must be as it was, byte by byte,
and nothing may be left behind. Exits with 1 otherwise. With `--padding` the tags of all files but ogg and opus have
padding, so that genretree writes in place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile as sf
from library_process import SoundCheck, command, pad, undo_all

_TAGS = ("-metadata", "title=A title", "-metadata", "artist=Ärtist 名")
_FORMATS = {
    "v23.mp3": ("-b:a", "128k", *_TAGS, "-id3v2_version", "3", "-write_id3v1", "1"),
    "v24.mp3": ("-b:a", "128k", *_TAGS, "-id3v2_version", "4"),
    "flac.flac": _TAGS,
    "vorbis.ogg": _TAGS,
    "opus.opus": _TAGS,
    "aac.m4a": _TAGS,
    "pcm.wav": _TAGS,
    "pcm.aiff": (*_TAGS, "-write_id3v2", "1"),
}
_SECONDS = 20


class Library:
    """A library under attack, and what has been found out about it.

    Parameters
    ----------
    folder : Path
        The sound files.
    databases : dict of Path to str
        Two databases, with the hash of the model of each.
    rng : random.Random
    """

    def __init__(self, folder: Path, databases: dict[Path, str], rng: random.Random) -> None:
        self.folder, self.databases, self.rng = folder, databases, rng
        self.check = SoundCheck()
        self.files = sorted(folder.iterdir())
        self.before = {path: _hash(path) for path in self.files}
        self.sounds = {path: self.check.sound(path) for path in self.files}
        self.kills: Counter[str] = Counter()
        self.written = self.in_place = 0
        self.inodes = {path: path.stat().st_ino for path in self.files}
        self.changed: set[str] = set()
        self.lost: set[str] = set()
        self.not_undone: dict[str, str] = {}
        self.left: set[str] = set()

    def attack(self, commands: float) -> None:
        """Kill one process, or two that work with different databases at the same time, at random moments."""
        dbs = self.rng.sample(list(self.databases), self.rng.choice([1, 2]))
        running = [self._start(db, commands) for db in dbs]
        for process, name in running:
            assert process.stdout is not None
            if not name:
                process.stdout.readline()  # all is imported
        for process, name in running:
            time.sleep(self.rng.uniform(0.5, 3.0) if name else self.rng.uniform(0, 1.0))
            ended = process.poll()
            process.kill()
            printed, errors = process.communicate()
            if ended is None:
                steps = name or (["recovery", *printed.decode().split()])[-1]
                self.kills[steps + (", two databases" if len(running) > 1 else "")] += 1
            elif not name:
                raise RuntimeError(f"a process ended by itself: {errors.decode()}")
        self._look()

    def _start(self, db: Path, commands: float) -> tuple[subprocess.Popen[bytes], str]:
        """Start a process; the name is that of a command, and empty for one that works until it is killed."""
        name, words = "", command(db, "cycle", self.folder, self.databases[db])
        if self.rng.random() < commands:
            name = self.rng.choice(["apply", "undo"])
            how = ["apply", "--write", "--overwrite"] if name == "apply" else ["undo"]
            words = [sys.executable, "-m", "genretree", "library", *how, "--db", str(db)]
            name = f"genretree library {name}"
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE), name

    def settle(self) -> None:
        """Undo everything and compare every byte."""
        explained = dict(undo_all(self.databases, self.folder))
        for path in self.files:
            if path.exists() and _hash(path) != self.before[path]:
                self.not_undone[path.name] = explained.get(str(path), "without a reason")
        self.inodes = {path: path.stat().st_ino for path in self.files if path.exists()}
        self.left |= {path.name for path in self.folder.iterdir()} - {path.name for path in self.files}

    def _look(self) -> None:
        for path in self.files:
            if not path.exists():
                self.lost.add(path.name)
                continue
            if _hash(path) != self.before[path]:
                self.written += 1
                self.in_place += path.stat().st_ino == self.inodes[path]
            if self.check.sound(path) != self.sounds[path]:
                self.changed.add(path.name)


def _make(folder: Path, copies: int, seed: int, padding: bool) -> None:
    rng = np.random.default_rng(seed)
    source = folder.parent / "source.wav"
    for i in range(copies):
        at = np.arange(_SECONDS * 44100) / 44100
        tone = 0.3 * np.sin(2 * np.pi * (330 + 10 * i) * at)
        sf.write(source, np.stack([tone, tone], axis=1) + 0.05 * rng.standard_normal((len(at), 2)), 44100)
        for name, options in _FORMATS.items():
            words = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(source), *options, str(folder / f"{i}-{name}")]
            subprocess.run(words, check=True)
            if padding and not name.endswith(("ogg", "opus")):
                pad(folder / f"{i}-{name}")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--copies", type=int, default=2, help="files of each format")
    parser.add_argument("--commands", type=float, default=0.1, help="share of processes that are the commands")
    parser.add_argument("--every", type=int, default=20, help="kills between two complete undos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work, for example on a network file system")
    parser.add_argument("--padding", action="store_true", help="give the tags padding")
    given = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        sys.exit("ffmpeg is not installed; it makes the files and checks them")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.folder) as work, tempfile.TemporaryDirectory() as local:
        folder = Path(work) / "music"
        folder.mkdir()
        _make(folder, given.copies, given.seed, given.padding)
        databases = {Path(local) / f"{name}.sqlite": digit * 16 for name, digit in (("one", "1"), ("two", "2"))}
        library = Library(folder, databases, random.Random(given.seed))
        for db, digest in databases.items():
            subprocess.run(command(db, "analyse", folder, digest), stdout=subprocess.DEVNULL, check=True)
        settled = 0
        while library.kills.total() < given.kills:
            library.attack(given.commands)
            if library.kills.total() - settled >= given.every or library.kills.total() >= given.kills:
                library.settle()
                settled = library.kills.total()
                print(f"{settled} kills, {time.monotonic() - began:.0f} s", flush=True)
    print(f"checked by {library.check.programs}; seed {given.seed}; {len(library.files)} files")
    print("| killed | kills |\n| --- | ---: |")
    for what, count in sorted(library.kills.items()):
        print(f"| {what} | {count} |")
    print(f"{library.written} times a written file was compared with its original; {library.in_place} written in place")
    faults = {"sound changed": library.changed, "lost": library.lost, "left behind": library.left}
    for what, names in faults.items():
        print(f"{what}: {len(names)} {', '.join(sorted(names))}")
    print(f"not undone: {len(library.not_undone)}")
    for name, reason in library.not_undone.items():
        print(f"{name}: {reason}")
    sys.exit(1 if library.not_undone or any(faults.values()) else 0)


if __name__ == "__main__":
    main()
