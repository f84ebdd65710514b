"""Links of a chained Ogg file: FFmpeg's demuxer refuses a chain whose sample rate or number of channels changes."""

from __future__ import annotations

import io
from dataclasses import dataclass

from genretree.sound.containers import read_at

_READ = 1 << 20
_PAGE = 27 + 255 + 255 * 255  # bytes of the largest page (RFC 3533)
_FIRST, _LAST = 2, 4  # flags in a page's header
_MAX_LINKS = 10_000


@dataclass
class OggChain:
    """Where each link begins and ends in bytes, and what shows that something is missing ("" if nothing does)."""

    links: list[tuple[int, int]]
    problem: str


def read_chain(file: io.FileIO, size: int) -> OggChain:
    """Walk over all pages of an Ogg file; the time is linear in its size.

    Raises
    ------
    ValueError
        If it has more than 10,000 links.
    """
    starts: list[int] = []
    expected: dict[bytes, int] = {}  # number of the next page of each logical stream
    problem = ""
    ended = first = False
    base = at = 0
    data = read_at(file, 0, _READ)
    while True:
        if at + _PAGE > len(data) and base + len(data) < size:
            base += at
            data, at = read_at(file, base, _READ), 0
        if data[at : at + 4] != b"OggS":
            if not any(data[at:]) and base + len(data) >= size:  # nothing, or zeros behind the last page
                break
            found = data.find(b"OggS", at + 1)
            problem = problem or f"no Ogg page begins at byte {base + at:,}"
            at = found if found >= 0 else max(at + 1, len(data) - 3)
            continue
        count = data[at + 26] if at + 27 <= len(data) else 0
        length = 27 + count + sum(data[at + 27 : at + 27 + count])
        if at + length > len(data) or at + 27 > len(data):
            problem = problem or "its last Ogg page is cut off"
            break
        flags, serial = data[at + 5], data[at + 14 : at + 18]
        number = int.from_bytes(data[at + 18 : at + 22], "little")
        if flags & _FIRST:
            if not first:
                starts.append(base + at)
                expected = {}
            if len(starts) > _MAX_LINKS:
                raise ValueError(f"has more than {_MAX_LINKS:,} links")
        elif number > expected.get(serial, number):
            problem = problem or f"{number - expected[serial]:,} Ogg pages are missing before byte {base + at:,}"
        expected[serial] = number + 1
        first, ended = bool(flags & _FIRST), bool(flags & _LAST)
        at += length
    if not problem and not ended:
        problem = "the Ogg page that should close the stream is missing"
    starts = starts or [0]
    return OggChain(list(zip(starts, [*starts[1:], size], strict=True)), problem)
