"""WAV files whose writer never filled in the sizes, as programs that are stopped or write into a pipe leave them."""

from __future__ import annotations

import io
from typing import IO

from genretree.sound.containers import OPEN_ENDED, read_at
from genretree.sound.view import view


def mend_wav(file: io.FileIO) -> IO[bytes] | None:
    """Give a WAV whose header was never closed such that libsndfile reads it; None for any other."""
    header = _unclosed_header(file)
    return view(file, header) if header else None


def _unclosed_header(file: io.FileIO) -> bytes:
    """Header of a WAV whose writer never filled in the sizes, made readable for libsndfile; b"" for any other."""
    head = read_at(file, 0, 1 << 16)
    at = 12
    while head[at : at + 4] not in (b"data", b"") and at < len(head) - 8:
        size = int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    if head[:4] != b"RIFF" or head[at : at + 8] != b"data\0\0\0\0":
        return b""
    if at < int.from_bytes(head[4:8], "little") < OPEN_ENDED:  # a closed file that just has no samples
        return b""
    return head[:4] + b"\xff" * 4 + head[8 : at + 4] + b"\xff" * 4
