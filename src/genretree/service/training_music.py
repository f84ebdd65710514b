"""Training tracks that the page plays as neighbours: those that a model's index lists, below a folder of the owner."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genretree.corpus.file_tags import read_tags
from genretree.errors import SettingsError
from genretree.service.config import MAX_TAG_LENGTH
from genretree.sound.suffixes import SUFFIXES


class TrainingMusic:
    """Audio files below a folder.

    Parameters
    ----------
    folder : path
        The folder that the paths of the training tracks are relative to: usually that of the CSV.

    Raises
    ------
    SettingsError
        If it isn't a folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise SettingsError(f"{folder}: not a folder; give the folder with the music that the model was trained on")

    def find(self, track: str) -> Path | None:
        """Return the file of a track; None unless it is a regular audio file in the folder, links resolved."""
        try:
            path = (self.folder / track).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # missing; a NUL; links in a circle
            return None
        inside = path.is_relative_to(self.folder) and path.suffix.lower() in SUFFIXES
        return path if inside and path.is_file() else None

    def describe(self, neighbours: Iterable[dict[str, Any]]) -> None:
        """Add `playable` to neighbours as JSON, and `title` and `artist` from the tags of files that are there."""
        for item in neighbours:
            path = self.find(item["track"])
            item["playable"] = path is not None
            if path is not None:
                item |= read_tags(path, ("title", "artist"), MAX_TAG_LENGTH)
