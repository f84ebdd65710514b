"""File types that may be pushed and pulled, and removal of local paths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from genretree.bundle.manifest import is_inside
from genretree.errors import HubError
from genretree.files import is_unsafe, printable

# Arrays and text: reading them cannot execute code.
TYPES = (".safetensors", ".json", ".yaml", ".csv")
OLD_TREES = ".skops"  # trees of boosting bundles written by genretree 0.1
_ORIGIN = "_name_or_path"


def check_types(where: str, names: Iterable[str]) -> None:
    """Refuse files of other types, and paths outside the bundle.

    Raises
    ------
    HubError
    """
    for name in names:
        if not is_inside(name):
            raise HubError(f"{where}: names a file outside the bundle: {name!r}; refused")
        if is_unsafe(name):
            raise HubError(f"{where}: names a file with control characters: {printable(name)}; refused")
        if PurePosixPath(name).suffix == OLD_TREES:
            raise HubError(
                f"{where}: {name} was written by genretree 0.1 and can't be transferred any more; "
                "its author can push it again with genretree 0.2, which converts it; refused"
            )
        if PurePosixPath(name).suffix not in TYPES:
            raise HubError(
                f"{where}: {name} has a file type that can't be transferred ({', '.join(TYPES)} can); refused"
            )


def clean_description(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce every path in the settings and training metadata to its last component, for privacy.

    The hash in the description no longer matches.
    """
    cleaned = {**content, **{part: _strip_paths(content[part]) for part in ("settings", "training")}}
    store = cleaned["training"].get("store")
    if isinstance(store, dict) and isinstance(store.get("folder"), str):
        store["folder"] = _last_name(store["folder"])
    return cleaned


def clean_config(content: Any) -> Any:
    """Reduce the path that transformers records in a network's configuration to its last component."""
    if isinstance(content, dict) and isinstance(content.get(_ORIGIN), str) and _is_path(content[_ORIGIN]):
        return {**content, _ORIGIN: _last_name(content[_ORIGIN])}
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file of a bundle.

    Raises
    ------
    HubError
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HubError(f"{path}: can't be read ({error})") from error


def _strip_paths(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _strip_paths(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_strip_paths(value) for value in content]
    return _last_name(content) if isinstance(content, str) and _is_path(content) else content


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~/", "./", "../", "\\\\", "file:")) or (len(text) > 2 and text[1:3] in (":\\", ":/"))


def _last_name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name
