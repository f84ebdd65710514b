"""Reuse the results of a library database for files with the same content, instead of analysing them again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from genretree.errors import LibraryError
from genretree.files import content_digest
from genretree.library.database.connection import open_database
from genretree.library.database.records import FileResult, find_content_result
from genretree.library.scan.classifier import FileClassifier


class KnownResults:
    """A file classifier that looks files up in a library database by content, and classifies only unknown ones.

    Parameters
    ----------
    classifier : FileClassifier
    database : Path
        Only read. If it is missing or damaged, every file is classified.
    """

    def __init__(self, classifier: FileClassifier, database: Path) -> None:
        self.model_key = classifier.model_key
        self.n_reused = 0
        self._classifier, self._path = classifier, database

    def score_file(self, path: Path) -> FileResult:
        """Return the known result of a file's content and this model, or classify the file."""
        known = self._find(path)
        if known is None:
            return self._classifier.score_file(path)
        self.n_reused += 1
        return known

    def _find(self, path: Path) -> FileResult | None:
        if not self._path.is_file():
            return None
        try:  # opened for each file, since a connection is bound to its thread
            with open_database(self._path, read_only=True, check=False) as database:
                return find_content_result(database, self.model_key, content_digest(path))
        except (LibraryError, sqlite3.DatabaseError, OSError):
            return None
