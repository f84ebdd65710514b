"""Select single files and folders of a library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from genretree.errors import LibraryError
from genretree.library.database.connection import Database, encode_path, folder_range
from genretree.library.database.folders import list_folders
from genretree.remote import is_url, local_path


@dataclass(frozen=True)
class PathSelection:
    """A selection of files by their paths.

    Parameters
    ----------
    only : tuple of str
        Files and folders, as real paths; if empty, all files are selected.
    skip : tuple of str
        Files and folders that are not selected, also within `only`.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether the selection excludes any file."""
        return bool(self.only or self.skip)

    def includes(self, path: str) -> bool:
        """Return whether a file is selected."""
        if any(_is_in(path, place) for place in self.skip):
            return False
        return not self.only or any(_is_in(path, place) for place in self.only)

    def includes_file(self, names: Sequence[str]) -> bool:
        """Return whether a file with several names (hard links) is selected: by any of them, and skipped by none."""
        selected = not self.only or any(_is_in(name, place) for name in names for place in self.only)
        return selected and not any(_is_in(name, place) for name in names for place in self.skip)


def _is_in(path: str, place: str) -> bool:
    separator = "/" if is_url(place) else os.sep
    return path == place or path.startswith(place.rstrip(separator) + separator)


def select_paths(database: Database, only: Sequence[str] = (), skip: Sequence[str] = ()) -> PathSelection:
    """Build a selection from paths as a user writes them.

    Raises
    ------
    LibraryError
        If no known file is at or below one of the paths: a misspelt name must not select other files than intended.
    """
    known = [tuple(_known_path(database, path) for path in paths) for paths in (only, skip)]
    return PathSelection(*known)


def _known_path(database: Database, place: str) -> str:
    path = local_path(place)
    path = path if is_url(path) else os.path.realpath(path)
    low, high = folder_range(path)
    for table in ("file", "change"):  # a file that was renamed after it was written may be known to the journal only
        query = f"SELECT 1 FROM {table} WHERE path = ? OR (path >= ? AND path < ?) LIMIT 1"
        if database.connection.execute(query, (encode_path(path), low, high)).fetchone() is not None:
            return path
    known = list_folders(database)
    where = f"its files are below: {', '.join(known)}" if known else "it is empty"
    raise LibraryError(f"{place}: {database.path} has no file at or below this path; {where}")
