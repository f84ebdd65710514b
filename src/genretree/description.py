"""The description of a bundle, `bundle.json`: read, checked by the hashes in it, and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genretree.errors import BundleError
from genretree.files import sha256_file, write_text
from genretree.models.ways import FORMS, export_again

FORMAT = 1
DESCRIPTION = "bundle.json"


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Refuse if one of a bundle's files, given with their hashes, is missing or damaged."""
    for name, expected in files.items():
        path = folder / name
        if not is_inside(name):
            raise BundleError(f"{folder / DESCRIPTION}: names a file outside the bundle: {name!r}; refused")
        again = "copy the whole bundle again, or train it again"
        if Path(name).parts[0] in FORMS:
            again = export_again(path)
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
        raise BundleError(f"{folder}: {what}; make one with: genretree train STORE --model cnn --out {folder}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: damaged ({error}); copy the bundle again, or train it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise BundleError(f"{path}: bundle format {found!r}, this genretree reads {FORMAT}")
    if content.get("sha256") != _digest(content):
        raise BundleError(f"{path}: damaged or edited (its hash doesn't fit); copy the bundle again, or train it again")
    missing = {"family", "taxonomy", "images", "settings", "training", "files"} - set(content)
    if missing:
        raise BundleError(f"{path}: {', '.join(sorted(missing))} missing; copy the bundle again, or train it again")
    for name in ("files", "images", "settings", "training"):
        if not isinstance(content[name], dict):
            raise BundleError(f"{path}: '{name}' is not what it should be; copy the bundle again, or train it again")
    if not content["files"]:
        raise BundleError(f"{path}: lists no weights; copy the bundle again, or train it again")
    return content
