"""Links of a chained Ogg file: FFmpeg's demuxer rejects a chain whose sample rate or number of channels changes."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

from genretree.sound.containers import read_at

_READ = 1 << 20
_MAX_PAGE_BYTES = 27 + 255 + 255 * 255  # bytes of the largest page (RFC 3533)
_REVERSED = bytes(int(f"{number:08b}"[::-1], 2) for number in range(256))
_FIRST_PAGE, _LAST_PAGE = 2, 4  # flags in a page's header
_MAX_LINKS = 10_000  # and pages without data, of which real files have one or two


@dataclass
class OggChain:
    """Start and end of each link in bytes, and evidence that data is missing ("" if there is none).

    `trailing_start` is the start of other bytes after the last page of a complete chain; 0 if there are none.
    """

    links: list[tuple[int, int]]
    problem: str
    trailing_start: int


def read_chain(file: io.FileIO, size: int) -> OggChain:
    """Read all pages of an Ogg file, in time linear in its size.

    Raises
    ------
    ValueError
        If it has more than 10,000 links, or more than 10,000 pages without data.
    """
    starts: list[int] = []
    expected: dict[bytes, int] = {}  # number of the next page of each logical stream
    problem = ""
    unfinished: set[bytes] = set()  # streams of this link whose last page is still to come
    ended = first = False
    last = (0, 0)  # start and length of the latest page
    base = at = trailing_start = n_empty = 0
    data = read_at(file, 0, _READ)
    while True:
        if at + _MAX_PAGE_BYTES > len(data) and base + len(data) < size:
            base += at
            data, at = read_at(file, base, _READ), 0
        if data[at : at + 4] != b"OggS":
            if not any(data[at:]) and base + len(data) >= size:  # nothing, or zeros after the last page
                break
            next_page = data.find(b"OggS", at + 1)
            if ended and not unfinished and not problem:
                trailing_start = trailing_start or base + at
            else:
                problem = problem or f"no Ogg page begins at byte {base + at:,}"
            at = next_page if next_page >= 0 else max(at + 1, len(data) - 3)
            continue
        count = data[at + 26] if at + 27 <= len(data) else 0
        length = 27 + count + sum(data[at + 27 : at + 27 + count])
        if at + length > len(data) or at + 27 > len(data):
            problem = problem or "its last Ogg page is cut off"
            break
        if trailing_start:
            problem, trailing_start = f"no Ogg page begins at byte {trailing_start:,}", 0
        n_empty += length == 27 + count
        if max(n_empty, len(starts)) > _MAX_LINKS:
            what = "links" if n_empty < len(starts) else "pages without data"
            raise ValueError(f"has more than {_MAX_LINKS:,} Ogg {what}")
        flags, serial = data[at + 5], data[at + 14 : at + 18]
        number = int.from_bytes(data[at + 18 : at + 22], "little")
        if flags & _FIRST_PAGE:
            if not first:
                starts.append(base + at)
                expected = {}
                unfinished = set()
            unfinished.add(serial)
        elif number > expected.get(serial, number):
            problem = problem or f"{number - expected[serial]:,} Ogg pages are missing before byte {base + at:,}"
        expected[serial] = number + 1
        if flags & _LAST_PAGE:
            unfinished.discard(serial)
        first, ended = bool(flags & _FIRST_PAGE), bool(flags & _LAST_PAGE)
        last = (base + at, length)
        at += length
    if not problem:
        problem = _check_last_page(read_at(file, *last) if trailing_start else b"", ended)
        trailing_start = 0 if problem else trailing_start
    starts = starts or [0]
    return OggChain(list(zip(starts, [*starts[1:], trailing_start or size], strict=True)), problem, trailing_start)


def _check_last_page(page: bytes, ended: bool) -> str:
    """Return the problem with the end of a chain. `page` is its last page if other bytes follow."""
    if not ended:
        return "the last Ogg page of the stream is missing"
    return "" if not page or _has_checksum(page) else "its last Ogg page is damaged"


def _has_checksum(page: bytes) -> bool:
    """Return whether a page matches its checksum: zlib's polynomial over the bits in reverse order."""
    data = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    checksum = zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "big").translate(_REVERSED) == page[22:26]
