"""Files that are not on this machine, through fsspec: fetched one at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from genretree.errors import MissingExtraError, SettingsError

_LOCAL = "file://"


def is_url(place: str | os.PathLike[str]) -> bool:
    """Say whether a place is a URL such as s3://bucket/music."""
    return "://" in str(place)


def local_path(place: str | os.PathLike[str]) -> str:
    """Give the path of a file or folder of this machine that was named by file://; any other place as it is.

    Names with a percent sign are taken as they stand if such a file exists, and as a URL's codes if not.
    """
    text = str(place)
    if not text.startswith(_LOCAL):
        return text
    path = text.removeprefix(_LOCAL).removeprefix("localhost")
    return path if "%" not in path or os.path.lexists(path) else unquote(path, errors="surrogateescape")


def open_system(url: str) -> tuple[Any, str]:
    """Give the file system that a URL names (fsspec's), and the path in it.

    Raises
    ------
    MissingExtraError
        If fsspec is not installed.
    SettingsError
        If there is no such protocol, or what speaks it (s3fs, gcsfs ...) is not installed.
    """
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "ray") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SettingsError(f"{url}: {error}") from error
    return system, path


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Give a copy of a file on this machine, which goes afterwards.

    Raises
    ------
    OSError
        If it can't be fetched.
    """
    system, path = open_system(url)
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        copy = Path(folder) / f"sound{PurePosixPath(path).suffix}"
        system.get_file(path, str(copy))
        yield copy
