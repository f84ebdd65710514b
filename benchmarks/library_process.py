"""One process that works on a library, and checks of sound files by other programs; for library_race and library_kills.

    python library_process.py DB analyse|apply|undo|undo-all|cycle FOLDER START DIGEST MODE

Works on a library with a listener that needs no model, prints `ready` before it begins (not before the time START) and
a JSON list of [file, reason] for what was refused. `cycle` analyses, applies and undoes in random order until it is
killed, and prints the name of each step before it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
from mutagen.id3 import ID3, TPE2

from genretree.errors import LibraryError
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.recover import recover
from genretree.library.apply.replace_file import Refusal
from genretree.library.apply.undo import undo
from genretree.library.database import journal, records
from genretree.library.database.connection import Database, lock_database, open_database
from genretree.library.database.records import FileResult, ModelKey
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.taxonomy import Taxonomy

_TREE = Taxonomy.from_nested({"Classic": ["Chamber", "Opera"], "Other": {"Rock": ["Soft_rock", "Hard_rock"]}})


class FileClassifier:
    """A model that predicts the same genre for every file.

    Parameters
    ----------
    digest : str
        Hash of the model, 16 characters; written into the files.
    """

    def __init__(self, digest: str) -> None:
        self.model_key = ModelKey(digest, "constant", "tree", _TREE, "nowhere")

    def score_file(self, path: Path) -> FileResult:
        """Return the result for a file."""
        path.read_bytes()
        leaf = _TREE.find_leaf("Soft_rock")
        chances = np.full(len(_TREE.leaves), 0.2 / (len(_TREE.leaves) - 1))
        chances[leaf] = 0.8
        return FileResult(_TREE.sum_levels(chances[None]), leaf, 0.8, 3, False, "none")


def command(db: Path, what: str, folder: Path, digest: str, mode: str = "overwrite", start: float = 0.0) -> list[str]:
    """Return the command of such a process."""
    return [sys.executable, __file__, str(db), what, str(folder), str(start), digest, mode]


def work(database: Database, what: str, folder: Path, digest: str, mode: str) -> list[Refusal]:
    """Do one thing with a library; returns what was refused."""
    if what == "analyse":
        analyse(database, [folder], lambda: FileClassifier(digest))
        return []
    if what == "apply":
        model, model_key = records.find_model(database, digest)
        return apply_plans(database, iter_plans(database, model, model_key, Mapping(), mode), model_key.digest)[2]  # type: ignore[arg-type]
    refused = []
    for run in [run.id for run in journal.list_runs(database) if run.written][: None if what == "undo-all" else 1]:
        refused += undo(database, run)[1]
    return refused


class SoundCheck:
    """Hashes of sound by programs other than genretree, each content only once.

    ffmpeg copies the packets and decodes the samples, mutagen opens the tags, TagLib too if `pytaglib` is installed.
    """

    def __init__(self) -> None:
        self.has_ffmpeg = shutil.which("ffmpeg") is not None
        try:
            import taglib
        except ImportError:
            taglib = None
        self._taglib: Any = taglib
        self._known: dict[bytes, str] = {}

    @property
    def programs(self) -> str:
        """Names of the programs that check."""
        return ", ".join(["mutagen", *(["ffmpeg"] if self.has_ffmpeg else []), *(["TagLib"] if self._taglib else [])])

    def sound(self, path: Path) -> str:
        """Return hashes of a file's packets and samples; what is wrong if it can't be read."""
        content = hashlib.sha256(path.read_bytes()).digest()
        if content not in self._known:
            self._known[content] = self._read(path)
        return self._known[content]

    def _read(self, path: Path) -> str:
        try:
            if mutagen.File(path) is None:
                return "mutagen does not know it"
            if self._taglib:
                self._taglib.File(str(path)).close()
        except Exception as error:
            return f"does not open: {type(error).__name__}: {error}"
        if not self.has_ffmpeg:
            return ""
        found = []
        for how in (["-c", "copy"], ["-c:a", "pcm_s32le"]):
            words = ["ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{path}", "-map", "0:a", *how, "-f", "md5", "-"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            found.append(done.stdout.strip() if done.returncode == 0 else f"ffmpeg: {done.stderr.strip()}")
        return " ".join(found)


def pad(path: Path) -> None:
    """Save the tags of a file by mutagen, which adds padding."""
    file: Any = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, ID3):
        file.tags.add(TPE2(encoding=3, text=["An album artist"]))
    file.save(padding=lambda _: 4096)


def undo_all(databases: dict[Path, str], folder: Path) -> list[tuple[str, str]]:
    """Undo all that databases (by path, with the model's hash) wrote, each as often as another one's undo frees a file.

    Returns
    -------
    list of (str, str)
        Files that could not be undone, with the reason.
    """
    refused: dict[Path, list[tuple[str, str]]] = {}
    before = -1
    for _ in range(20):
        for db, digest in databases.items():
            done = subprocess.run(
                command(db, "undo-all", folder, digest), capture_output=True, text=True, check=True, timeout=600
            )
            refused[db] = [tuple(item) for item in json.loads(done.stdout.splitlines()[-1])]
        count = sum(map(len, refused.values()))
        if count in (0, before):
            break
        before = count
    return [item for items in refused.values() for item in items]


def main() -> None:
    """Work."""
    db, what, folder, start, digest, mode = sys.argv[1:]
    with lock_database(Path(db), f"library {what}"), open_database(db, create=True) as database:
        time.sleep(max(0.0, float(start) - time.time()))
        print("ready", flush=True)
        recover(database)
        while what == "cycle":
            step = random.choice(("analyse", "apply", "apply", "undo"))
            print(step, flush=True)
            if step == "apply":
                work(database, "analyse", Path(folder), digest, mode)
            work(database, step, Path(folder), digest, mode)
        try:
            refused = work(database, what, Path(folder), digest, mode)
        except LibraryError as error:
            sys.exit(str(error))
        print(json.dumps([(item.path, item.reason) for item in refused]), flush=True)


if __name__ == "__main__":
    main()
