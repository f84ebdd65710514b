"""File utilities: atomic writes, the cache folder, escaping of unsafe names, limits on JSON, checksums."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` for the caller to write; it replaces `path` at the end.

    On an error the temporary file is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to `path` for the caller to fill; it replaces `path` at the end.

    On an error the temporary folder is removed and `path` is unchanged. What a killed process left of it is removed by
    the next one, so two processes need a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    remove(draft)
    draft.mkdir()
    try:
        yield draft
        remove(path)
        draft.rename(path)
    finally:
        remove(draft)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its contents, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def cache_folder() -> Path:
    """Return the folder for downloads and cached results: `$GENRETREE_CACHE`, or the user's cache folder."""
    import platformdirs

    override = os.environ.get("GENRETREE_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("genretree")


def release_pages(array: object) -> None:
    """Release the resident pages of a memory-mapped array; they are read again on the next access.

    Without it, a pass over a large file ends with all of it in memory. Does nothing for other arrays, or where the
    system lacks `madvise`.
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
    """Return the type of a special file from its `st_mode`; "" for regular files and folders.

    Opening a special file may block forever or have side effects.
    """
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return _SPECIAL_FILES.get(stat.S_IFMT(mode), "a special file")


# C0 and C1 control characters and DEL, line and paragraph separators, and bidirectional controls: in a name they could
# move the cursor, start an escape sequence, or make it look like another name.
_UNSAFE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_HALF_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that do not represent a byte
_UNSAFE_IN_NAMES = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT = re.compile(f"(?![\n\t])[{_UNSAFE}]")
_UNSAFE_IN_JSON = re.compile(f"(?![\n\t])[{_UNSAFE}\ud800-\udfff]")


def printable(name: str | os.PathLike[str]) -> str:
    r"""Escape a name for display: control characters become `\x1b`, bytes that are not UTF-8 `\xff`.

    Parameters
    ----------
    name : str or path-like
        A file name, tag or other single line; surrogates represent bytes that are not UTF-8.

    Returns
    -------
    str
        Valid Unicode on one line, without control characters or bidirectional controls.

    Examples
    --------
    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    halves_escaped = _HALF_CHARACTER.sub(_escape, os.fsdecode(name))
    text = halves_escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _UNSAFE_IN_NAMES.sub(_escape, text)


def printable_text(text: str) -> str:
    r"""Escape multi-line text as `printable`, except line feeds and tabs."""
    valid = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNSAFE_IN_TEXT.sub(_escape, valid)


def is_unsafe(name: str) -> bool:
    """Return whether a name contains characters that `printable` escapes."""
    return _UNSAFE_IN_NAMES.search(name) is not None


def is_encodable(text: str) -> bool:
    """Return whether text can be encoded as UTF-8: JSON may contain unpaired surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_line(content: object, indent: int | None = None) -> str:
    r"""Format JSON for a terminal or a pipe: letters of all scripts stay readable, unsafe characters become `\u009b`.

    Surrogates, which represent bytes of file names that are not UTF-8, are escaped, too: UTF-8 cannot encode them.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def is_lfs_pointer(head: bytes) -> bool:
    """Return whether a file's first bytes (64 suffice) are those of a Git LFS pointer."""
    return head.startswith(b"version https://git-lfs.github.com/spec/")


def content_digest(path: Path) -> bytes:
    """Hash a file's content (BLAKE2b, 16 bytes)."""
    with path.open("rb") as stream:
        return stream_digest(stream)


def stream_digest(stream: BufferedReader) -> bytes:
    """Hash an open file from its current position, as `content_digest` does."""
    return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json_text(path: Path, max_bytes: int, max_depth: int = 32) -> str:
    """Read JSON text; raise ValueError if it is larger or nested deeper than the limits."""
    with path.open("rb") as stream:
        raw = stream.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"larger than {max_bytes >> 20} MiB")
    if _json_depth(raw) > max_depth:
        raise ValueError(f"nested more than {max_depth} levels deep")
    return raw.decode("utf-8")


def _json_depth(raw: bytes) -> int:
    """Return the nesting depth of JSON text in linear time, ignoring brackets in strings."""
    import numpy as np

    text = np.frombuffer(
        raw.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8
    )  # only quotes that begin or end a string
    in_string = np.bitwise_xor.accumulate((text == ord('"')).astype(np.uint8)).astype(bool)
    brackets = text[np.isin(text, np.frombuffer(b"[]{}", np.uint8)) & ~in_string]
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))
