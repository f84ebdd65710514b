"""Checkpoints of the scores of a long file, so that an interrupted analysis continues inside it."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from genretree.arrays import Array
from genretree.files import atomic_path

CHECKPOINT_SECONDS = 20.0  # between two checkpoints; a file that takes less has none
_path: ContextVar[Path | None] = ContextVar("checkpoint", default=None)


class ScoreCheckpoint:
    """The arrays of the slices that have been scored, in a file that is replaced every 20 seconds.

    Parameters
    ----------
    path : Path or None
        The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Array]:
        """Return the arrays that an interrupted run has saved, or an empty dict; a damaged file counts as none."""
        if self._path is None:
            return {}
        try:
            with np.load(self._path, allow_pickle=False) as saved:
                return dict(saved)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return {}

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return self._path is not None and time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS

    def save(self, arrays: dict[str, Array]) -> None:
        """Replace the file; a full disk does not stop the analysis, which then has no checkpoint."""
        self._saved_at = time.monotonic()
        if self._path is None:
            return
        try:
            with atomic_path(self._path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub has no arrays by name
        except OSError:
            return

    def remove(self) -> None:
        """Delete the file."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


@contextmanager
def checkpoint_scores(path: Path | None) -> Iterator[None]:
    """Keep checkpoints of the file that is scored in this context, and continue from one that is there."""
    token = _path.set(path)
    try:
        yield
    finally:
        _path.reset(token)


def current_checkpoint() -> ScoreCheckpoint:
    """Return the checkpoint of this context."""
    return ScoreCheckpoint(_path.get())
