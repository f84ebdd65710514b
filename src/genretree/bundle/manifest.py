"""The description of a bundle, `bundle.json`: reading, verification and writing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genretree.errors import BundleError
from genretree.files import is_encodable, is_unsafe, printable, read_json_text, sha256_file, write_text
from genretree.models.runtime.types import EXPORT_FORMATS, export_again

FORMAT = 1
DESCRIPTION = "bundle.json"
# Limits that are checked before parsing. Descriptions of 0.1 have about 100 kB, mostly training history.
MAX_BYTES = 32 << 20
MAX_DEPTH = 32
MAX_FILES = 1000
MAX_FILE_NAME = 200  # bytes in UTF-8, as file systems count
_TYPES: dict[str, type | tuple[type, ...]] = {
    "family": str,
    "taxonomy": dict,
    "images": dict,
    "settings": dict,
    "training": dict,
    "files": dict,
    "genretree": str,
    "calibration": (dict, type(None)),
}
_TRAINING_TYPES: dict[str, type | tuple[type, ...]] = {
    "facts": dict,
    "store": dict,
    "split": dict,
    "versions": dict,
    "history": list,
    "reference": dict,
    "seconds": (int, float),
}
_HASH = re.compile(r"[0-9a-f]{64}")


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Check that a bundle's files exist and match their SHA-256.

    Parameters
    ----------
    folder : Path
    files : mapping of str to str
        SHA-256 by file name, as in the description.

    Raises
    ------
    BundleError
    """
    # In the Hub client's cache a bundle's files are links to `../../blobs`.
    blobs = folder.resolve().parents[1] / "blobs" if folder.resolve().parent.name == "snapshots" else folder.resolve()
    for name, expected in files.items():
        path = folder / name
        if not is_inside(name):
            raise BundleError(f"{folder / DESCRIPTION}: names a file outside the bundle: {name!r}; refused")
        remedy = "copy the whole bundle again, or train it again"
        if Path(name).parts[0] in EXPORT_FORMATS:
            remedy = export_again(path)
        if not any(path.resolve().is_relative_to(allowed) for allowed in (folder.resolve(), blobs)):
            raise BundleError(f"{path}: is a link to a file outside the bundle; replace the link by a copy of the file")
        if not path.is_file():
            raise BundleError(f"{path}: missing; {remedy}")
        if sha256_file(path) != expected:
            raise BundleError(f"{path}: damaged (its SHA-256 differs from the recorded one); {remedy}")


def is_inside(name: str) -> bool:
    """Check that a file lies in the bundle, at most one folder deep, as the members of an ensemble do."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and 1 <= len(path.parts) <= 2


def write_description(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `bundle.json` with a hash of its content."""
    signed = {**content, "sha256": _digest(content)}
    write_text(folder / DESCRIPTION, json.dumps(signed, indent=1, ensure_ascii=False))


def update_files(folder: Path, part: str, files: Mapping[str, str]) -> None:
    """Replace the entries of one of a bundle's folders in the description.

    The description is read again, because another process may have updated another folder.
    """
    content = read_description(folder)
    write_description(folder, {**content, "files": {**files_outside(content, part), **files}})


def files_outside(content: Mapping[str, Any], part: str) -> dict[str, str]:
    """Return the entries of a description outside one of the bundle's folders: SHA-256 by name."""
    return {name: digest for name, digest in content["files"].items() if Path(name).parts[0] != part}


def _digest(content: Mapping[str, Any]) -> str:
    """Compute the hash of a description, without the hash itself and independent of its formatting."""
    bare = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `bundle.json` without loading the weights.

    Raises
    ------
    BundleError
        If it is missing, damaged, too large, or of another format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        problem = "is not a bundle, it has no bundle.json" if folder.is_dir() else "no such bundle"
        raise BundleError(f"{folder}: {problem}; check the path, or train a model first")
    try:
        content = json.loads(read_json_text(path, MAX_BYTES, MAX_DEPTH), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: damaged ({error}); copy the bundle again, or train it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        version = content.get("format") if isinstance(content, dict) else None
        raise BundleError(f"{path}: bundle format {version!r} is not supported, only {FORMAT}; upgrade genretree")
    if content.get("sha256") != _digest(content):
        raise BundleError(f"{path}: damaged or edited (its hash doesn't fit); copy the bundle again, or train it again")
    missing = {"family", "taxonomy", "images", "settings", "training", "files"} - set(content)
    if missing:
        raise BundleError(f"{path}: {', '.join(sorted(missing))} missing; copy the bundle again, or train it again")
    _check_types(path, content)
    if not content["files"]:
        raise BundleError(f"{path}: lists no weights; copy the bundle again, or train it again")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys: parsers differ in which value they take."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    return content


def _check_types(path: Path, content: Mapping[str, Any]) -> None:
    again = "copy the bundle again, or train it again"
    for where, types in ((content, _TYPES), (content["training"], _TRAINING_TYPES)):
        for name, expected in types.items():
            if isinstance(where, dict) and name in where and not isinstance(where[name], expected):
                raise BundleError(f"{path}: '{name}' has the wrong type ({type(where[name]).__name__}); {again}")
    if len(content["files"]) > MAX_FILES:
        raise BundleError(f"{path}: lists {len(content['files'])} files; at most {MAX_FILES} are allowed")
    for name, digest in content["files"].items():
        if not is_inside(name):
            raise BundleError(f"{path}: names a file outside the bundle: '{printable(name[:MAX_FILE_NAME])}'; refused")
        shown = printable(name[:MAX_FILE_NAME])
        if not 0 < len(name.encode("utf-8", "replace")) <= MAX_FILE_NAME or is_unsafe(name) or not is_encodable(name):
            raise BundleError(
                f"{path}: the file name '{shown}' is empty, too long or has control characters or invalid Unicode; "
                f"{again}"
            )
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            raise BundleError(f"{path}: the hash of '{shown}' is not a SHA-256 in hex; {again}")
