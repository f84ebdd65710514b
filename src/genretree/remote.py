"""Remote files: URLs and temporary local copies through fsspec."""

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


def is_url(location: str | os.PathLike[str]) -> bool:
    """Return whether a location is a URL such as s3://bucket/music."""
    return "://" in str(location)


def local_path(location: str | os.PathLike[str]) -> str:
    """Convert a file:// URL to a local path; return other locations unchanged.

    A percent sign is kept if such a file exists, and decoded as a URL escape otherwise.
    """
    text = str(location)
    if not text.startswith(_LOCAL):
        return text
    path = text.removeprefix(_LOCAL).removeprefix("localhost")
    return path if "%" not in path or os.path.lexists(path) else unquote(path, errors="surrogateescape")


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises
    ------
    MissingExtraError
        If fsspec is not installed.
    SettingsError
        If the protocol is unknown, or its package (s3fs, gcsfs ...) is not installed.
    """
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "ray") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SettingsError(f"{url}: {error}") from error
    return filesystem, path


@contextmanager
def download_file(url: str) -> Iterator[Path]:
    """Download a file to a temporary local copy, removed at the end of the context.

    Raises
    ------
    OSError
        If the download fails.
    """
    filesystem, path = open_filesystem(url)
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        copy = Path(folder) / f"sound{PurePosixPath(path).suffix}"
        filesystem.get_file(path, str(copy))
        yield copy
