"""A file classifier without a model: the first letters of a file's name decide its result."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genretree.library.database.records import FileResult, ModelKey
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
    """Predicts Soft_rock with a fixed confidence, and logs the files that it has classified.

    Parameters
    ----------
    confidence : float
        Probability of the leaf; the rest is divided among the others. None: a different leaf for each file.
    seconds : float
        Time that each file takes.
    log : path, optional
        File that gets one line per classified file.
    """

    def __init__(
        self, confidence: float | None = 0.8, seconds: float = 0.0, log: Path | None = None, digest: str = "0" * 16
    ) -> None:
        self.confidence, self.seconds, self.log = confidence, seconds, log
        self.model_key = ModelKey(digest, "fake_classifier", "tree", TREE, "nowhere")

    def score_file(self, path: Path) -> FileResult:
        time.sleep(self.seconds)
        if path.name.startswith("bad"):
            return FileResult(None, error="not_audio", message="not audio")
        if path.name.startswith("abort"):
            os.abort()
        if path.name.startswith("hang"):
            time.sleep(3600)
        seed = zlib.crc32(path.read_bytes()[:64] + path.name.encode(errors="replace"))
        confidence = 0.5 + (seed % 1000) / 2000 if self.confidence is None else self.confidence
        leaf = TREE.find_leaf("Soft_rock") if self.confidence is not None else seed % LEAVES
        probabilities = np.full(LEAVES, (1 - confidence) / (LEAVES - 1))
        probabilities[leaf] = confidence
        if self.log is not None:
            with self.log.open("ab") as stream:
                stream.write(os.fsencode(path.name) + b"\n")
        return FileResult(levels_of(*probabilities), leaf, float(confidence), 3, False, "none")


def fake_classifier(**options: object) -> Callable[[], FakeClassifier]:
    """Return the factory that `analyse` takes."""
    return lambda: FakeClassifier(**options)  # type: ignore[arg-type]
