"""Which files of a bundle travel, and what is taken out of them on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from genretree.bundle.manifest import is_inside
from genretree.errors import HubError
from genretree.files import is_unsafe, printable

# None of these can run code when it is read: arrays and text.
TYPES = (".safetensors", ".json", ".yaml", ".csv")
OLD_TREES = ".skops"  # of boosting, in bundles of genretree 0.1
_ORIGIN = "_name_or_path"


def check_types(where: str, names: Iterable[str]) -> None:
    """Refuse files of any other type, and such that would lie outside the bundle.

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
                f"{where}: {name} is of genretree 0.1 and doesn't travel any more; its author can push it again "
                "with genretree 0.2, which converts it; refused"
            )
        if PurePosixPath(name).suffix not in TYPES:
            raise HubError(f"{where}: {name} is of a type that doesn't travel ({', '.join(TYPES)} do); refused")


def clean_description(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave of every path in what a bundle says of its training only the last name: others need not know a disk.

    The hash in the description no longer fits then.
    """
    cleaned = {**content, **{part: _without_places(content[part]) for part in ("settings", "training")}}
    store = cleaned["training"].get("store")
    if isinstance(store, dict) and isinstance(store.get("folder"), str):
        store["folder"] = _last_name(store["folder"])
    return cleaned


def clean_part(content: Any) -> Any:
    """Leave of the path that transformers notes in a network's description only the last name."""
    if isinstance(content, dict) and isinstance(content.get(_ORIGIN), str) and _is_place(content[_ORIGIN]):
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


def _without_places(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_places(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_places(value) for value in content]
    return _last_name(content) if isinstance(content, str) and _is_place(content) else content


def _is_place(text: str) -> bool:
    return text.startswith(("/", "~/", "./", "../", "\\\\", "file:")) or (len(text) > 2 and text[1:3] in (":\\", ":/"))


def _last_name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name
