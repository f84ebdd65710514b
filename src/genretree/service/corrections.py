"""Corrected genres: the audio files and a CSV that `genretree prepare` reads."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from genretree.corpus.csv_table import CsvTable
from genretree.errors import CorpusError, SettingsError
from genretree.files import atomic_path, sha256_file, write_text
from genretree.service.errors import Problem, busy
from genretree.taxonomy import NodePath, format_path

TABLE = "corrections.csv"
COLUMNS = ("path", "genre", "artist", "album", "title", "predicted", "model", "file")
_AUDIO = "audio"
_SUFFIX = re.compile(r"\.[a-z0-9]{2,5}")
_MAX_DISK_SHARE = 0.95  # of the disk that may be full before a correction is refused


class Corrections:
    """A folder with corrected tracks: `corrections.csv`, and their audio under `audio/`, named by content hash.

    Parameters
    ----------
    folder : path
        Is created if it does not exist.

    Raises
    ------
    SettingsError
        If the folder can't be written to, or its table is not one of corrections.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            (self.folder / _AUDIO).mkdir(parents=True, exist_ok=True)
            if self.table.exists():
                self._read()
            else:
                self._write([])
        except (OSError, CorpusError) as error:
            raise SettingsError(f"{self.folder}: can't keep corrections there ({error})") from error

    @property
    def table(self) -> Path:
        """Path of the CSV."""
        return self.folder / TABLE

    def add(self, audio: Path, genre: NodePath, name: str, metadata: Mapping[str, str]) -> int:
        """Keep a corrected track; an earlier correction of the same file is replaced.

        Parameters
        ----------
        audio : Path
            The audio file; it is copied.
        genre : tuple of str
            Path of the right leaf.
        name : str
            The client's file name, for display; its suffix, if it looks like one, names the copy.
        metadata : mapping
            Values of the other columns.

        Returns
        -------
        int
            The number of corrections.

        Raises
        ------
        Problem
            If the disk is full.
        """
        usage = shutil.disk_usage(self.folder)
        if usage.used + audio.stat().st_size > _MAX_DISK_SHARE * usage.total:
            raise busy("the disk with the corrections is nearly full; the correction is not saved", 60)
        path = f"{_AUDIO}/{self._stem(audio)}{_suffix(name)}"
        rows = self._without(path)
        row = {**metadata, "path": path, "genre": format_path(genre), "file": name}
        try:
            if not (self.folder / path).exists():
                with atomic_path(self.folder / path) as temporary:
                    shutil.copyfile(audio, temporary)
            self._write([*rows, {column: _cell(row.get(column, "")) for column in COLUMNS}])
        except OSError as error:
            raise busy(f"can't save the correction ({error.strerror or error})", 30) from error
        return len(rows) + 1

    def remove(self, audio: Path, name: str) -> int:
        """Remove the correction of a file with its copy; returns the number of the others."""
        path = f"{_AUDIO}/{self._stem(audio)}{_suffix(name)}"
        rows = self._without(path)
        self._write(rows)
        (self.folder / path).unlink(missing_ok=True)
        return len(rows)

    @staticmethod
    def _stem(audio: Path) -> str:
        return sha256_file(audio)[:32]

    def _without(self, path: str) -> list[dict[str, str]]:
        try:
            return [row for row in self._read() if row["path"] != path]
        except CorpusError as error:
            raise Problem("internal", f"the table of corrections can't be read: {error}") from error

    def _read(self) -> list[dict[str, str]]:
        table = CsvTable(self.table)
        if not {"path", "genre"} <= set(table.columns):
            raise CorpusError(f"{self.table}: has no columns path and genre; choose another folder")
        return [row for _, row in table]

    def _write(self, rows: list[dict[str, str]]) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.table, stream.getvalue())


def _suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _cell(value: str) -> str:
    """Return text on one line."""
    return " ".join(value.split())
