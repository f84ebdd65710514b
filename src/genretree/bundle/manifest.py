"""The description of a bundle, `bundle.json`: read, checked by the hashes in it, and written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genretree.errors import BundleError
from genretree.files import is_encodable, is_unsafe, printable, read_json_text, sha256_file, write_text
from genretree.models.runtime.types import FORMS, export_again

FORMAT = 1
DESCRIPTION = "bundle.json"
# What a description may hold at most, checked before it is parsed. Those of 0.1 have some 100 kB, most of it history.
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
    "seconds": (int, float),
}
_HASH = re.compile(r"[0-9a-f]{64}")


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Refuse if one of a bundle's files, given with their hashes, is missing or damaged."""
    # In the Hub client's cache a bundle's files are links to `../../blobs`.
    blobs = folder.resolve().parents[1] / "blobs" if folder.resolve().parent.name == "snapshots" else folder.resolve()
    for name, expected in files.items():
        path = folder / name
        if not is_inside(name):
            raise BundleError(f"{folder / DESCRIPTION}: names a file outside the bundle: {name!r}; refused")
        again = "copy the whole bundle again, or train it again"
        if Path(name).parts[0] in FORMS:
            again = export_again(path)
        if not any(path.resolve().is_relative_to(allowed) for allowed in (folder.resolve(), blobs)):
            raise BundleError(f"{path}: is a link to a file outside the bundle; copy the file itself there")
        if not path.is_file():
            raise BundleError(f"{path}: missing; {again}")
        if sha256_file(path) != expected:
            raise BundleError(f"{path}: damaged (its hash is not the recorded one); {again}")


def is_inside(name: str) -> bool:
    """Say whether a file's name stays in the bundle: at most one folder down, as the members of an ensemble are."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and 1 <= len(path.parts) <= 2


def write_description(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `bundle.json` with the hash of its own content."""
    signed = {**content, "sha256": _digest(content)}
    write_text(folder / DESCRIPTION, json.dumps(signed, indent=1, ensure_ascii=False))


def list_part(folder: Path, part: str, files: Mapping[str, str]) -> None:
    """List what lies in one of a bundle's folders, by name and hash, instead of what is listed of it.

    The description is read anew: another part, made at the same time, may have been listed meanwhile.
    """
    content = read_description(folder)
    write_description(folder, {**content, "files": {**files_beside(content, part), **files}})


def files_beside(content: Mapping[str, Any], part: str) -> dict[str, str]:
    """Give what a description lists outside one of the bundle's folders: hashes by name."""
    return {name: digest for name, digest in content["files"].items() if Path(name).parts[0] != part}


def _digest(content: Mapping[str, Any]) -> str:
    """Hash of a description, whatever its layout and apart from the hash itself."""
    bare = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `bundle.json` without loading the weights."""
    path = folder / DESCRIPTION
    if not path.is_file():
        what = "is not a bundle, it has no bundle.json" if folder.is_dir() else "no such bundle"
        raise BundleError(f"{folder}: {what}; make one with: genretree train")
    try:
        content = json.loads(read_json_text(path, MAX_BYTES, MAX_DEPTH), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: damaged ({error}); copy the bundle again, or train it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise BundleError(f"{path}: bundle format {found!r}, this genretree reads {FORMAT}")
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
    """Refuse an object that names a key twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    return found


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
