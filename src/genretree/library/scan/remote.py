"""Find remote audio files by URL, and identify their content by the storage's metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from genretree.errors import LibraryError
from genretree.remote import is_url, open_filesystem
from genretree.sound.walk import FoundFile, SoundWalk

_HASHES = ("ETag", "etag", "md5Hash", "content_md5", "md5")  # names of the content hash in storage services


def walk_anywhere(walk: SoundWalk, places: Sequence[str | os.PathLike[str]]) -> Iterator[FoundFile]:
    """Yield the audio files below local folders and URLs; see `SoundWalk.find`.

    Parameters
    ----------
    walk : SoundWalk
        Counts the skipped files.
    places : sequence of path or URL

    Raises
    ------
    LibraryError
        If a URL can't be listed.
    """
    yield from walk.find(place for place in places if not is_url(place))
    for place in places:
        if is_url(place):
            yield from _walk_url(walk, str(place))


def _walk_url(walk: SoundWalk, url: str) -> Iterator[FoundFile]:
    system, top = open_filesystem(url)
    try:
        if not system.exists(top):
            raise LibraryError(f"{url}: there is nothing at this address; nothing was changed")
        for _, _, files in system.walk(top, detail=True):
            for name, info in sorted(files.items()):
                if not walk.hidden and any(part.startswith(".") for part in _below(info["name"], top)):
                    continue
                if not walk.accepts_name(name):
                    continue
                yield FoundFile(system.unstrip_protocol(info["name"]), int(info["size"] or 0), _mtime_ns(info))
    except OSError as error:
        raise LibraryError(f"{url}: can't be listed ({error})") from error


def _below(path: str, top: str) -> tuple[str, ...]:
    return PurePosixPath(path[len(top) :] if path.startswith(top) else path).parts


def remote_content(url: str) -> tuple[int, int, bytes]:
    """Return a remote file's size, modification time (ns) and content hash, without downloading it.

    If the storage provides no content hash, the URL, size and time are hashed instead; copies are not recognised then.
    """
    system, path = open_filesystem(url)
    info = system.info(path)
    size, mtime_ns = int(info["size"] or 0), _mtime_ns(info)
    known = next((str(info[name]) for name in _HASHES if info.get(name)), "")
    identity = [known, size] if known else [url, size, mtime_ns]
    return size, mtime_ns, hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).digest()


def _mtime_ns(info: dict[str, Any]) -> int:
    mtime = next((info[name] for name in ("mtime", "LastModified", "updated", "created") if info.get(name)), 0)
    if isinstance(mtime, str):
        mtime = datetime.fromisoformat(mtime)
    return int((mtime.timestamp() if isinstance(mtime, datetime) else mtime) * 1e9)
