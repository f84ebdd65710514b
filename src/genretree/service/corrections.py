"""Corrected genres: the audio files and, for each tree of genres, a CSV that `genretree prepare` reads."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from genretree.corpus.csv_table import CsvTable
from genretree.errors import CorpusError, SettingsError, TaxonomyError
from genretree.files import atomic_path, sha256_file, write_text
from genretree.service.errors import Problem, busy
from genretree.taxonomy import NodePath, Taxonomy, format_path

TABLE = "corrections.csv"
COLUMNS = ("path", "genre", "artist", "album", "title", "predicted", "model", "file")
_AUDIO = "audio"
_SUFFIX = re.compile(r"\.[a-z0-9]{2,5}")
_MAX_DISK_SHARE = 0.95  # of the disk that may be full before a correction is refused


class Corrections:
    """A folder with corrected tracks: their tables, and their audio under `audio/`, named by content hash.

    `prepare` reads a table with one tree, so each tree has its own: that of the first model is `corrections.csv`, that
    of a model with another tree `corrections-MODEL.csv`. Models with the same leaves share a table.

    Parameters
    ----------
    folder : path
        Is created if it does not exist.
    trees : mapping of str to Taxonomy
        The tree of each model by the model's name, the default model first.

    Raises
    ------
    SettingsError
        If the folder can't be written to, or a table is not one of corrections, or has genres of another tree.
    """

    def __init__(self, folder: str | Path, trees: Mapping[str, Taxonomy]) -> None:
        self.folder = Path(folder)
        self._tables: dict[str, Path] = {}
        by_leaves: dict[tuple[NodePath, ...], Path] = {}
        for model, tree in trees.items():
            name = f"{Path(TABLE).stem}-{model}.csv" if by_leaves else TABLE
            self._tables[model] = by_leaves.setdefault(tree.leaves, self.folder / name)
        try:
            (self.folder / _AUDIO).mkdir(parents=True, exist_ok=True)
            for model, table in self._tables.items():
                if table.exists():
                    self._check(table, model, trees[model])
                else:
                    self._write(table, [])
        except (OSError, CorpusError) as error:
            raise SettingsError(f"{self.folder}: can't keep corrections there ({error})") from error

    def table(self, model: str) -> Path:
        """Return the path of a model's CSV."""
        return self._tables[model]

    def add(self, model: str, audio: Path, genre: NodePath, name: str, metadata: Mapping[str, str]) -> int:
        """Keep a corrected track; an earlier correction of the same file in the model's table is replaced.

        Parameters
        ----------
        model : str
            Name of the model that was wrong.
        audio : Path
            The audio file; it is copied.
        genre : tuple of str
            Path of the right leaf in the model's tree.
        name : str
            The client's file name, for display; its suffix, if it looks like one, names the copy.
        metadata : mapping
            Values of the other columns.

        Returns
        -------
        int
            The number of corrections in the table.

        Raises
        ------
        Problem
            If the disk is full.
        """
        usage = shutil.disk_usage(self.folder)
        if usage.used + audio.stat().st_size > _MAX_DISK_SHARE * usage.total:
            raise busy("the disk with the corrections is nearly full; the correction is not saved", 60)
        path = f"{_AUDIO}/{self._stem(audio)}{_suffix(name)}"
        rows = self._without(self.table(model), path)
        row = {**metadata, "path": path, "genre": format_path(genre), "file": name, "model": model}
        try:
            if not (self.folder / path).exists():
                with atomic_path(self.folder / path) as temporary:
                    shutil.copyfile(audio, temporary)
            self._write(self.table(model), [*rows, {column: _cell(row.get(column, "")) for column in COLUMNS}])
        except OSError as error:
            raise busy(f"can't save the correction ({error.strerror or error})", 30) from error
        return len(rows) + 1

    def remove(self, model: str, audio: Path, name: str) -> int:
        """Remove the correction of a file from the model's table; returns the number of the others there.

        The copy of the audio is removed with its last correction.
        """
        path = f"{_AUDIO}/{self._stem(audio)}{_suffix(name)}"
        table = self.table(model)
        rows = self._without(table, path)
        self._write(table, rows)
        others = set(self._tables.values()) - {table}
        if not any(row["path"] == path for other in others for row in self._rows(other)):
            (self.folder / path).unlink(missing_ok=True)
        return len(rows)

    @staticmethod
    def _stem(audio: Path) -> str:
        return sha256_file(audio)[:32]

    def _without(self, table: Path, path: str) -> list[dict[str, str]]:
        return [row for row in self._rows(table) if row["path"] != path]

    def _rows(self, table: Path) -> list[dict[str, str]]:
        try:
            return self._read(table)
        except CorpusError as error:
            raise Problem("internal", f"the table of corrections can't be read: {error}") from error

    def _check(self, table: Path, model: str, tree: Taxonomy) -> None:
        """Raise CorpusError for a genre that the model's tree does not have."""
        for row in self._read(table):
            try:
                tree.find_leaf(row["genre"])
            except TaxonomyError as error:
                raise CorpusError(
                    f"{table} has corrections of another tree than that of {model}: {error}; choose another folder"
                ) from error

    def _read(self, table: Path) -> list[dict[str, str]]:
        source = CsvTable(table)
        if not {"path", "genre"} <= set(source.columns):
            raise CorpusError(f"{table}: has no columns path and genre; choose another folder")
        return [row for _, row in source]

    def _write(self, table: Path, rows: list[dict[str, str]]) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(table, stream.getvalue())


def _suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _cell(value: str) -> str:
    """Return text on one line."""
    return " ".join(value.split())
