"""A sound file as libsndfile should see it: with another beginning, or without the tags behind its sound."""

from __future__ import annotations

import io
import os
from typing import IO, Any, cast

from genretree.sound.containers import read_at


def view(file: io.FileIO, header: bytes = b"", end: int | None = None) -> IO[bytes]:
    """Give a file with its first bytes replaced, or only up to a position; nothing is copied."""
    size = os.fstat(file.fileno()).st_size if end is None else end
    return cast(IO[bytes], io.BufferedReader(_View(file, header, size), 1 << 16))


class _View(io.RawIOBase):
    def __init__(self, file: io.FileIO, header: bytes, size: int) -> None:
        self._file, self._header, self._size, self._at = file, header, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: Any) -> int:
        count = max(0, min(len(target), self._size - self._at))
        data = self._header[self._at : self._at + count] or read_at(self._file, self._at, count)
        target[: len(data)] = data
        self._at += len(data)
        return len(data)
