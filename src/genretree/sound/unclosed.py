"""WAV files whose writer never filled in the sizes, as programs that are stopped or write into a pipe leave them."""

from __future__ import annotations

import io
import os
from typing import IO, Any, cast

from genretree.sound.containers import OPEN_ENDED, read_at


def mend_wav(file: io.FileIO) -> IO[bytes] | None:
    """Give a WAV whose header was never closed such that libsndfile reads it; None for any other."""
    header = _unclosed_header(file)
    return cast(IO[bytes], io.BufferedReader(_Patched(file, header), 1 << 16)) if header else None


class _Patched(io.RawIOBase):
    """A file with its first bytes replaced."""

    def __init__(self, file: io.FileIO, header: bytes) -> None:
        self._file, self._header, self._at = file, header, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, os.fstat(self._file.fileno()).st_size)[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: Any) -> int:
        data = self._header[self._at : self._at + len(target)] or read_at(self._file, self._at, len(target))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


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
