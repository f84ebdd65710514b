"""What was pulled: whole, checked bundles in the user's cache, one folder for each commit.

Of each name::

CACHE/hub/USER/NAME/COMMIT/           a bundle
CACHE/hub/USER/NAME/revisions.json    which commit a branch or tag was when it was last pulled
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genretree.bundle.hub.names import HubName, is_commit
from genretree.bundle.manifest import DESCRIPTION
from genretree.files import cache_folder, write_text

_REVISIONS = "revisions.json"
_SHORTEST = 7  # of the beginning of a commit's hash


def home_of(name: HubName) -> Path:
    """Where all that was pulled of one name lies."""
    return cache_folder().joinpath("hub", *name.repo.split("/"))


def folder_of(name: HubName, commit: str) -> Path:
    """Where the bundle of one commit lies, or would."""
    return home_of(name) / commit


def find_pulled(name: HubName) -> Path | None:
    """Give the folder of a bundle that was pulled; None if it was not. Nothing is asked of the Hub.

    A branch or tag is what it was when it was last pulled, however it may have moved on since.
    """
    commit = read_revisions(name).get(name.revision) or _complete(name)
    if commit is None or not is_commit(commit):
        return None
    folder = folder_of(name, commit)
    return folder if (folder / DESCRIPTION).is_file() else None


@contextmanager
def run_exclusively(name: HubName) -> Iterator[None]:
    """Let only one process or thread at a time put something under a name; the others wait."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    home_of(name).mkdir(parents=True, exist_ok=True)
    with WeakFileLock(home_of(name) / ".lock"):
        yield


def remember(name: HubName, commit: str) -> None:
    """Note which commit a branch or tag is."""
    if name.revision != commit:
        known = {**read_revisions(name), name.revision: commit}
        write_text(home_of(name) / _REVISIONS, json.dumps(known, indent=1))


def read_revisions(name: HubName) -> dict[str, str]:
    """Give the commits of the branches and tags that were pulled."""
    try:
        content = json.loads((home_of(name) / _REVISIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never written, or by another hand; then it is pulled again
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _complete(name: HubName) -> str | None:
    """Find the one commit that was pulled whose hash begins as the revision does."""
    if len(name.revision) < _SHORTEST or not home_of(name).is_dir():
        return None
    found = [path.name for path in home_of(name).iterdir() if path.name.startswith(name.revision)]
    return found[0] if len(found) == 1 else None
