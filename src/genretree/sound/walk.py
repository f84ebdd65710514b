"""Search for audio files in folders, shared by all commands."""

from __future__ import annotations

import mimetypes
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from genretree.files import describe_special
from genretree.sound.suffixes import SUFFIXES

_PLAIN_SUFFIX = re.compile(r"\.\w{1,10}", re.ASCII)  # "Vol. 2 (live)" has none
_MAX_NAMED_SUFFIXES = 8


@dataclass(frozen=True)
class FoundFile:
    """An audio file, or an entry of a folder that cannot be read.

    Parameters
    ----------
    path : str
        Real path, with symbolic links resolved; or a URL.
    size : int
        Size in bytes; -1 if there is an error.
    mtime_ns : int
        Modification time in nanoseconds.
    error : str
        `not_found`, `unreadable`, or empty for no error.
    message : str
        Error message without the path.
    link : str
        Path by which the walk reached the file, if different: below the folder as the caller named it.
    """

    path: str
    size: int
    mtime_ns: int
    error: str = ""
    message: str = ""
    link: str = ""

    @property
    def name(self) -> str:
        """The path by which the walk reached the file, as the user knows it."""
        return self.link or self.path


@dataclass(frozen=True)
class _Folder:
    """A folder or file to visit: its real path, and the path by which it was reached."""

    real: str
    name: str


@dataclass
class Skipped:
    """What a walk skipped.

    Parameters
    ----------
    types : dict
        Number of files of other types by lower-case suffix; "" for files without a suffix.
    links : int
        Number of links not followed, because they lead to something already found or to a parent folder.
    """

    types: dict[str, int] = field(default_factory=dict)
    links: int = 0

    def __str__(self) -> str:
        parts = []
        if total := sum(self.types.values()):
            ordered = sorted(self.types.items(), key=lambda item: (-item[1], item[0]))
            named = [f"{suffix or 'no suffix'} {count}" for suffix, count in ordered[:_MAX_NAMED_SUFFIXES]]
            if len(ordered) > _MAX_NAMED_SUFFIXES:
                named.append("...")
            parts.append(f"{total} {'files' if total > 1 else 'file'} of other types ({', '.join(named)})")
        if self.links:
            what = "links that lead" if self.links > 1 else "link that leads"
            parts.append(f"{self.links} {what} to files already found or to a parent folder")
        return " and ".join(parts)


class SoundWalk:
    """A walk through folders that finds each audio file once.

    Symbolic links (and junctions, on Windows) are followed. Their targets are visited after everything else, so a file
    that is also in the folder itself has its own name and not that of a link. A link to something already visited, or
    to a folder that contains the link, is not followed, so loops end. Audio files are recognised by suffix, in upper or
    lower case; links to files by the suffix of the link.

    Memory grows with the number of links and the largest folder, not with the number of files.

    Parameters
    ----------
    hidden : bool
        Include files and folders whose names begin with a dot.

    Attributes
    ----------
    skipped : Skipped
        What was skipped so far; hidden files are not counted.
    """

    def __init__(self, hidden: bool = False) -> None:
        self.hidden = hidden
        self.skipped = Skipped()
        self._tops: set[str] = set()  # real paths of the arguments and of link targets
        self._marked: set[str] = set()  # real paths of files that the caller excludes
        self._unlisted: set[str] = set()  # folders whose entries could not be read

    def find(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[FoundFile]:
        """Yield the audio files at and below some paths, except those that an earlier call yielded.

        Parameters
        ----------
        paths : iterable of paths
            Folders; or files, whatever their suffix.

        Yields
        ------
        FoundFile
            In the order of `paths`, sorted by name within each, then the targets of links, likewise. Dangling links,
            unreadable folders, and named pipes, sockets and devices with the suffix of an audio format have an error.
            Files are not opened.
        """
        pending = deque(_Folder(os.path.realpath(path), os.fspath(path)) for path in paths)
        links = deque[_Folder]()
        while pending or links:
            is_link = not pending
            top = (links if is_link else pending).popleft()
            if top.real in self._marked or self.covers(top.real):
                self.skipped.links += is_link
                continue
            self._tops.add(top.real)
            if os.path.isdir(top.real):  # noqa: PTH112
                yield from self._descend(top, links)
            else:
                yield _stat_path(top)

    def covers(self, path: str | os.PathLike[str]) -> bool:
        """Return whether the walk has covered an existing path."""
        real = os.path.realpath(path)
        if real in self._tops:
            return True
        if not os.path.isdir(real) and not is_sound_name(real):  # noqa: PTH112
            return False
        below = real
        while (above := os.path.dirname(below)) != below:  # noqa: PTH120
            if not self.hidden and os.path.basename(below).startswith("."):  # noqa: PTH119
                return False
            if above in self._unlisted:
                return False
            if above in self._tops:
                return True
            below = above
        return False

    def mark(self, path: str | os.PathLike[str]) -> None:
        """Exclude a file from now on."""
        self._marked.add(os.path.realpath(path))

    def _descend(self, top: _Folder, links: deque[_Folder]) -> Iterator[FoundFile]:
        """Yield the audio files below a folder in the order of their names; append the targets of links to `links`."""
        entries, problem = self._list(top)
        if problem:
            yield problem
        stack = [(top, entries)]
        while stack:
            folder, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            here = _Folder(entry.path, os.path.join(folder.name, entry.name))  # noqa: PTH118
            try:
                is_link = _is_link(entry)
                is_folder = entry.is_dir()
                if is_folder and not is_link:
                    if here.real in self._tops:
                        continue
                    entries, problem = self._list(here)
                    if problem:
                        yield problem
                    stack.append((here, entries))
                elif is_link:
                    yield from self._follow(here, is_folder, links)
                elif self.accepts_name(entry.name) and here.real not in self._tops and here.real not in self._marked:
                    yield _to_found_file(here, entry.stat())
            except OSError as error:
                yield _unreadable(here, error)

    def _list(self, folder: _Folder) -> tuple[Iterator[os.DirEntry[str]], FoundFile | None]:
        """Return a folder's entries in the order of their names, and the error if not all could be read."""
        entries_found: list[os.DirEntry[str]] = []
        problem = None
        try:
            with os.scandir(folder.real) as entries:
                for entry in entries:  # if reading fails midway, the entries before count
                    if self.hidden or not entry.name.startswith("."):
                        entries_found.append(entry)
        except OSError as error:
            problem = _unreadable(folder, error)
            self._unlisted.add(folder.real)
        return iter(sorted(entries_found, key=lambda entry: entry.name)), problem

    def _follow(self, link: _Folder, is_folder: bool, links: deque[_Folder]) -> Iterator[FoundFile]:
        try:
            target = os.path.realpath(link.real, strict=True)
        except OSError as error:
            # The target may have been a folder of music, unless the name has another file type's suffix.
            if is_sound_name(link.name) or mimetypes.guess_type(link.name)[0] is None or self.accepts_name(link.name):
                yield _unreadable(link, error)
            return
        if not is_folder and not self.accepts_name(link.name):
            return
        if is_folder and _contains(target, os.path.dirname(link.real)):  # noqa: PTH120
            self.skipped.links += 1
            return
        links.append(_Folder(target, link.name))

    def accepts_name(self, name: str) -> bool:
        """Return whether a file has the suffix of an audio format; count it as skipped if not."""
        if is_sound_name(name):
            return True
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        key = suffix if _PLAIN_SUFFIX.fullmatch(suffix) else ""
        self.skipped.types[key] = self.skipped.types.get(key, 0) + 1
        return False


def is_sound_name(name: str | os.PathLike[str]) -> bool:
    """Return whether a file's name has the suffix of an audio format, in upper or lower case."""
    return os.path.splitext(os.fspath(name))[1].lower() in SUFFIXES  # noqa: PTH122


def _is_link(entry: os.DirEntry[str]) -> bool:
    if sys.platform == "win32":
        junction = entry.stat(follow_symlinks=False).st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT
        return junction or entry.is_symlink()
    return entry.is_symlink()


def _contains(folder: str, path: str) -> bool:
    """Return whether a folder is `path` or a parent of it; both are real paths."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _stat_path(path: _Folder) -> FoundFile:
    try:
        return _to_found_file(path, os.stat(path.real))  # noqa: PTH116
    except OSError as error:
        return _unreadable(path, error)


def _to_found_file(file: _Folder, status: os.stat_result) -> FoundFile:
    link = file.name if file.name != file.real else ""
    if special := describe_special(status.st_mode):
        return FoundFile(file.real, -1, 0, "unreadable", f"is {special}, not an audio file", link)
    return FoundFile(file.real, status.st_size, status.st_mtime_ns, link=link)


def _unreadable(file: _Folder, error: OSError) -> FoundFile:
    link = file.name if file.name != file.real else ""
    if isinstance(error, FileNotFoundError):
        message = "is a dangling link" if os.path.islink(file.real) else "no such file or folder"  # noqa: PTH114
        return FoundFile(file.real, -1, 0, "not_found", message, link)
    return FoundFile(file.real, -1, 0, "unreadable", f"cannot be read: {error.strerror or error}", link)
