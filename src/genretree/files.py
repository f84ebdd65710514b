"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, to be written by the caller; it takes the place of `path` at the end.

    On an error the temporary file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cache_folder() -> Path:
    """Where downloaded weights and what is computed once are kept: `$GENRETREE_CACHE`, or the user's cache folder."""
    import platformdirs

    given = os.environ.get("GENRETREE_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("genretree")


def release_pages(array: object) -> None:
    """Give back the memory of what was read of a memory-mapped array; it is read again if need be.

    Without it a pass over a large file ends with all of it in the process. Does nothing for other arrays, and where the
    system knows no such call.
    """
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


_SPECIAL_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def describe_special(mode: int) -> str:
    """Name the type of a file that is neither a regular file nor a folder, from its `st_mode`; "" for those two.

    Opening such a file may block for ever or have side effects.
    """
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return _SPECIAL_FILES.get(stat.S_IFMT(mode), "a special file")


def printable(name: str | os.PathLike[str]) -> str:
    r"""Give a file's name as text that can always be written: bytes that aren't UTF-8 are shown as `\xff`."""
    return os.fsdecode(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
