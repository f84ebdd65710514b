"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
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


# C0 and C1 control characters and DEL, line and paragraph separators, and characters that reverse the reading order: in
# a name they could move the cursor, start an escape sequence, or make it look like another one.
_UNSAFE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_HALF_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte
_UNSAFE_IN_NAMES = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT = re.compile(f"(?![\n\t])[{_UNSAFE}]")
_UNSAFE_IN_JSON = re.compile(f"(?![\n\t])[{_UNSAFE}\ud800-\udfff]")


def printable(name: str | os.PathLike[str]) -> str:
    r"""Escape a name for people to read: control characters become `\x1b`, bytes that aren't UTF-8 `\xff`.

    Parameters
    ----------
    name : str or path-like
        A file's name, a tag or another text of one line; surrogates stand for bytes that aren't UTF-8.

    Returns
    -------
    str
        Valid Unicode on one line, without control characters or characters that reverse the reading order.

    Examples
    --------
    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    halves_escaped = _HALF_CHARACTER.sub(_escape, os.fsdecode(name))
    text = halves_escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _UNSAFE_IN_NAMES.sub(_escape, text)


def printable_text(text: str) -> str:
    r"""Escape text of several lines as `printable` does, but leave line feeds and tabs."""
    valid = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNSAFE_IN_TEXT.sub(_escape, valid)


def is_unsafe(name: str) -> bool:
    """Check whether a name holds characters that `printable` would escape."""
    return _UNSAFE_IN_NAMES.search(name) is not None


def is_encodable(text: str) -> bool:
    """Check whether text can be written as UTF-8: JSON may hold halves of surrogate pairs, which can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_line(content: object, indent: int | None = None) -> str:
    r"""Format JSON for a terminal or a pipe: readable letters of all scripts, but unsafe characters as `\u009b`.

    Surrogates, which stand for bytes that aren't UTF-8 in file names, are escaped, too; UTF-8 can't hold them.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def is_lfs_pointer(head: bytes) -> bool:
    """Check whether a file that begins with these bytes (64 are enough) stands for one that Git LFS has not fetched."""
    return head.startswith(b"version https://git-lfs.github.com/spec/")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json_text(path: Path, max_bytes: int, max_depth: int = 32) -> str:
    """Read a JSON text that is small and flat enough to be parsed; ValueError otherwise."""
    with path.open("rb") as stream:
        raw = stream.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"larger than {max_bytes >> 20} MiB")
    if _json_depth(raw) > max_depth:
        raise ValueError(f"nested more than {max_depth} levels deep")
    return raw.decode("utf-8")


def _json_depth(raw: bytes) -> int:
    """Give how deep a JSON text nests, in time that is linear in its length; brackets within strings don't count."""
    import numpy as np

    text = np.frombuffer(
        raw.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8
    )  # only quotes that begin or end a string
    in_string = np.bitwise_xor.accumulate((text == ord('"')).astype(np.uint8)).astype(bool)
    brackets = text[np.isin(text, np.frombuffer(b"[]{}", np.uint8)) & ~in_string]
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))
