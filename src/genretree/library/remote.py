"""Sound files that are not on this machine: found by URL, and known by what their storage says of them."""

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

_HASHES = ("ETag", "etag", "md5Hash", "content_md5", "md5")  # what storage services call the hash of a content


def walk_anywhere(walk: SoundWalk, places: Sequence[str | os.PathLike[str]]) -> Iterator[FoundFile]:
    """Yield the sound files below folders of this machine and below URLs; see `SoundWalk.find`.

    Parameters
    ----------
    walk : SoundWalk
        Counts what is passed over.
    places : sequence of paths and URLs

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
            for name, facts in sorted(files.items()):
                if not walk.hidden and any(part.startswith(".") for part in _below(facts["name"], top)):
                    continue
                if not walk.accepts_name(name):
                    continue
                yield FoundFile(system.unstrip_protocol(facts["name"]), int(facts["size"] or 0), _mtime_ns(facts))
    except OSError as error:
        raise LibraryError(f"{url}: can't be listed ({error})") from error


def _below(path: str, top: str) -> tuple[str, ...]:
    return PurePosixPath(path[len(top) :] if path.startswith(top) else path).parts


def remote_content(url: str) -> tuple[int, int, bytes]:
    """Give size, time and a hash of the content, as the storage knows them; nothing is fetched.

    Where the storage has no hash of the content, address, size and time stand for it: copies are then not recognised.
    """
    system, path = open_filesystem(url)
    facts = system.info(path)
    size, mtime_ns = int(facts["size"] or 0), _mtime_ns(facts)
    known = next((str(facts[name]) for name in _HASHES if facts.get(name)), "")
    telling = [known, size] if known else [url, size, mtime_ns]
    return size, mtime_ns, hashlib.blake2b(json.dumps(telling).encode(), digest_size=16).digest()


def _mtime_ns(facts: dict[str, Any]) -> int:
    found = next((facts[name] for name in ("mtime", "LastModified", "updated", "created") if facts.get(name)), 0)
    if isinstance(found, datetime):
        return int(found.timestamp() * 1e9)
    if isinstance(found, str):
        return int(datetime.fromisoformat(found).timestamp() * 1e9)
    return int(found * 1e9)
