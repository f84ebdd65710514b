"""Make tests/data/v0.1: a database of format 1 with one run, and the two files that it wrote.

Run once, with genretree 0.1: `python tests/data/make_v0_1_library.py`. Paths in it begin with /library.
"""

from __future__ import annotations

import gzip
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).parent.parent / "library"))
from genretree.library.analyse import analyse
from genretree.library.mapping import Mapping
from genretree.library.state import encode_path, open_state
from listening import hearer

from genretree.library import records
from genretree.library.apply import apply_plans
from genretree.library.plan import iter_plans

OUT = Path(__file__).parent / "v0.1"


def main() -> None:
    """Write library.db.gz, and the files as the run left them and as they were before."""
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        music = folder / "music"
        music.mkdir()
        sound = folder / "sound.wav"
        sf.write(sound, 0.1 * np.sin(np.arange(4000) / 9), 8000)
        for file in ("a.flac", "b.mp3"):
            command = ["ffmpeg", "-v", "error", "-i", str(sound), "-metadata", "title=A title", str(music / file)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            (OUT / f"before-{file}").write_bytes((music / file).read_bytes())
        with open_state(folder / "library.db", create=True) as state:
            analyse(state, [music], hearer())
            model, card = records.find_model(state)
            apply_plans(state, iter_plans(state, model, card, Mapping()), card.digest, "genretree library apply")
        for file in ("a.flac", "b.mp3"):
            (OUT / file).write_bytes((music / file).read_bytes())
        connection = sqlite3.connect(folder / "library.db")
        prefix = encode_path(music)
        for table in ("file", "change"):
            rows = connection.execute(f"SELECT id, path FROM {table}").fetchall()
            moved = [(b"/library" + path[len(prefix) :], id_) for id_, path in rows]
            connection.executemany(f"UPDATE {table} SET path = ? WHERE id = ?", moved)
        connection.execute("UPDATE change SET temporary = x'2f'")
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
        connection.close()
        (OUT / "library.db.gz").write_bytes(gzip.compress((folder / "library.db").read_bytes(), mtime=0))


if __name__ == "__main__":
    main()
