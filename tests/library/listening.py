"""A listener that needs no model: what it hears is told by the first bytes of a file's name."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genretree.library.database.records import ModelKey, Result
from genretree.taxonomy import Taxonomy

SECONDS = 1.2
FORMATS = ("v23.mp3", "v24.mp3", "none.mp3", "flac.flac", "vorbis.ogg", "opus.opus", "aac.m4a", "pcm.wav", "pcm.aiff")
TREE = Taxonomy.from_nested(
    {"Classic": ["Chamber", "Opera"], "Other": {"Rock": ["Soft_rock", "Hard_rock"], "Pop": None}}
)
LEAVES = len(TREE.leaves)


def levels_of(*leaves: float) -> list[np.ndarray]:
    """Probabilities of all nodes, from those of the leaves."""
    return TREE.sum_levels(np.array([leaves], dtype=np.float64))


class FakeClassifier:
    """Says Soft_rock with the probability it is given, and writes down what it heard.

    Parameters
    ----------
    sure : float
        Probability of the leaf; the rest is divided among the others. None: another one for each file.
    seconds : float
        How long it takes.
    log : path, optional
        Gets a line for every file that was heard to the end.
    """

    def __init__(
        self, sure: float | None = 0.8, seconds: float = 0.0, log: Path | None = None, digest: str = "0" * 16
    ) -> None:
        self.sure, self.seconds, self.log = sure, seconds, log
        self.card = ModelKey(digest, "fake_classifier", "tree", TREE, "nowhere")

    def score_file(self, path: Path) -> Result:
        time.sleep(self.seconds)
        if path.name.startswith("bad"):
            return Result(None, error="not_audio", message="is no sound")
        if path.name.startswith("abort"):
            os.abort()
        if path.name.startswith("hang"):
            time.sleep(3600)
        seed = zlib.crc32(path.read_bytes()[:64] + path.name.encode(errors="replace"))
        sure = 0.5 + (seed % 1000) / 2000 if self.sure is None else self.sure
        leaf = TREE.find_leaf("Soft_rock") if self.sure is not None else seed % LEAVES
        chances = np.full(LEAVES, (1 - sure) / (LEAVES - 1))
        chances[leaf] = sure
        if self.log is not None:
            with self.log.open("ab") as stream:
                stream.write(os.fsencode(path.name) + b"\n")
        return Result(levels_of(*chances), leaf, float(sure), 3, False, "none")


def fake_classifier(**options: object) -> Callable[[], FakeClassifier]:
    """What `analyse` makes its listener by."""
    return lambda: FakeClassifier(**options)  # type: ignore[arg-type]
