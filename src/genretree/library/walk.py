"""Which sound files lie below some folders: each once, whatever links lead to it, in memory that doesn't grow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genretree.files import describe_special
from genretree.sound.decode import SUFFIXES


@dataclass(frozen=True)
class FoundFile:
    """A file that the walk came to.

    Parameters
    ----------
    path : str
        Its real path, links resolved; or a URL.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, nanoseconds.
    error : str
        What kind of problem there is, if it can't even be looked at; the size is then -1.
    message : str
    """

    path: str
    size: int
    mtime_ns: int
    error: str = ""
    message: str = ""


def walk(places: Iterable[str | os.PathLike[str]], hidden: bool = False) -> Iterator[FoundFile]:
    """Yield the sound files at and below some places.

    Links are followed. A folder that a link leads to is walked under its real path, once, so that links in a circle
    end, and a file has one row however it is reached. Files are told by their suffix, in any letter case.

    Parameters
    ----------
    places : iterable of paths
        Folders, or files whatever their suffix.
    hidden : bool
        Also files and folders whose names begin with a dot.

    Yields
    ------
    FoundFile
        In no particular order. A folder that can't be read is one with an error, and so is a named pipe, a socket or a
        device with a sound file's name.
    """
    waiting = [os.path.realpath(place) for place in places]
    tops: set[str] = set()  # only the places and the folders that links lead to: few, however large the library
    while waiting:
        top = waiting.pop(0)
        if any(_covers(other, top, hidden) for other in tops):
            continue
        tops.add(top)
        if not os.path.isdir(top):  # noqa: PTH112
            yield _look(top)
            continue
        folders = [top]
        while folders:
            folder = folders.pop()
            if folder != top and folder in tops:
                continue
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") and not hidden:
                            continue
                        yield from _enter(entry, folders, waiting)
            except OSError as error:
                yield _unreadable(folder, error)


def _enter(entry: os.DirEntry[str], folders: list[str], waiting: list[str]) -> Iterator[FoundFile]:
    """Yield a file, or put a folder on one of the two lists: those to go down into, and those that links lead to."""
    try:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
            return
        linked = entry.is_symlink()
        if linked and entry.is_dir():
            waiting.append(os.path.realpath(entry.path))
            return
    except OSError as error:  # a link that leads to itself, say
        yield _unreadable(entry.path, error)
        return
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:  # noqa: PTH122
        return
    try:
        status = entry.stat()
    except OSError as error:
        yield _unreadable(entry.path, error)
        return
    yield _found(os.path.realpath(entry.path) if linked else entry.path, status)


def _look(path: str) -> FoundFile:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return _unreadable(path, error)
    return _found(path, status)


def _found(path: str, status: os.stat_result) -> FoundFile:
    if special := describe_special(status.st_mode):
        return FoundFile(path, -1, 0, "unreadable", f"is {special}, not a sound file")
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def _unreadable(path: str, error: OSError) -> FoundFile:
    kind = "not_found" if isinstance(error, FileNotFoundError) else "unreadable"
    what = "a link to nothing" if kind == "not_found" and os.path.islink(path) else error.strerror or error  # noqa: PTH114
    return FoundFile(path, -1, 0, kind, str(what))


def _covers(folder: str, path: str, hidden: bool) -> bool:
    """Say whether the walk through a folder comes to a path by itself."""
    if path == folder:
        return True
    start = folder.rstrip(os.sep) + os.sep
    return path.startswith(start) and (hidden or f"{os.sep}." not in os.sep + path[len(start) :])
