"""Find the bytes of a file that new tags change, if they fit into the padding of the old tags.

The tags are written into a sparse copy, which has everything but the middle of the audio. If its size and the place of
the audio stay the same, the difference between the copy and the file is all that has to be written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from genretree.library.tags.adapters import TagError, TagValues, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, audio_parts
from genretree.library.tags.trial_write import needs_trial
from genretree.library.tags.verify_unchanged import check_unchanged

CAN_WRITE_IN_PLACE = hasattr(os, "pwrite")  # not on Windows
MAX_REGION = 16 << 20  # bytes; pictures in the tags may move, and are part of the region
_MAX_COPIED = 64 << 20
_EDGE = 0x11000  # bytes of the audio at each end; formats are recognised by the first 64 KiB
_FORMATS = ("mp3", "flac", "mp4", "wav", "aiff")  # each page of an ogg has a number and a checksum

Span = tuple[int, int]


@dataclass(frozen=True)
class TagRegion:
    """A range of bytes to replace.

    Parameters
    ----------
    start : int
        Its offset in the file.
    old, new : bytes
        What is there, and what replaces it, of the same length.
    """

    start: int
    old: bytes
    new: bytes

    @property
    def end(self) -> int:
        """Offset of the first byte after the region."""
        return self.start + len(self.old)


class _NoPaddingError(TagError):
    """The new tags do not fit into the padding."""


def find_region(
    path: Path, source: BinaryIO, values: TagValues, genres: Sequence[str], own: Mapping[str, str]
) -> tuple[TagRegion, TagValues] | None:
    """Find what has to be written for new tags.

    Parameters
    ----------
    path : Path
        The file; not changed.
    source : binary file
        The same file, open.
    values : TagValues
        Its tags.
    genres : sequence of str
        New genres.
    own : mapping of str to str
        New values of genretree's fields.

    Returns
    -------
    (TagRegion, TagValues) or None
        The region, and the tags as they are read after the write. None if the tags don't fit, or if anything about the
        file is unusual: it has to be copied then.
    """
    try:
        if not CAN_WRITE_IN_PLACE or needs_trial(path):
            return None
        return _find(path, source, values, genres, own)
    except (TagError, LayoutError, OSError, ValueError, IndexError):
        return None


def _find(
    path: Path, source: BinaryIO, values: TagValues, genres: Sequence[str], own: Mapping[str, str]
) -> tuple[TagRegion, TagValues] | None:
    number = source.fileno()
    size = os.fstat(number).st_size
    with path.open("rb", buffering=0) as file:
        format_, parts = audio_parts(file)
        same = os.path.samestat(os.fstat(file.fileno()), os.fstat(number))
    if not same or format_ not in _FORMATS:
        return None
    spans = [part for part in parts if not isinstance(part, bytes)]
    copied = _outside([(start + _EDGE, end - _EDGE) for start, end in spans if end - start > 3 * _EDGE], size)
    if sum(end - start for start, end in copied) > _MAX_COPIED:
        return None
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        before, after = Path(folder) / "before.tmp", Path(folder) / "after.tmp"
        old = [os.pread(number, end - start, start) for start, end in copied]
        for copy in (before, after):
            with copy.open("wb") as stream:
                stream.truncate(size)
                for (start, _), data in zip(copied, old, strict=True):
                    stream.seek(start)
                    stream.write(data)
        if read_tags(before) != values:
            return None
        write_tags(after, genres, own, padding=_keep_size)
        with after.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != size or audio_parts(file) != (format_, parts):
                return None
            new = [os.pread(file.fileno(), end - start, start) for start, end in copied]
        region = _difference(copied, old, new)
        if region is None or len(region.old) > MAX_REGION:
            return None
        if any(start < region.end and region.start < end for start, end in spans):
            return None
        check_unchanged(before, after)
        written = read_tags(after)
        return (region, written) if written.own == own and written.genres == values.after(genres) else None


def _keep_size(padding: Any) -> int:
    """Return the size of the padding that keeps the size of the file, for mutagen."""
    if padding.padding < 0:
        raise _NoPaddingError("the tags don't fit into the padding")
    return int(padding.padding)


def _outside(holes: Sequence[Span], size: int) -> list[Span]:
    """Return the ranges of a file between holes."""
    outside, at = [], 0
    for start, end in sorted(holes):
        if start > at:
            outside.append((at, start))
        at = max(at, end)
    return [*outside, (at, size)] if at < size else outside


def _difference(copied: Sequence[Span], old: Sequence[bytes], new: Sequence[bytes]) -> TagRegion | None:
    """Return the range that differs; None if nothing does, or if it is in several parts of a file."""
    changed = [
        (start, before, after)
        for (start, _), before, after in zip(copied, old, new, strict=True)
        if before != after and len(before) == len(after)
    ]
    if len(changed) != 1:
        return None
    start, before, after = changed[0]
    places = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
    low, high = int(places[0]), int(places[-1]) + 1
    return TagRegion(start + low, before[low:high], after[low:high])
