"""Names of bundles on the Hub: `user/name`, or `user/name@revision`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from genretree.errors import HubError

MAIN = "main"
_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_NAME = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>{_WORD}(?:/{_WORD})*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 96  # of `user/name`, by the Hub's own rule


@dataclass(frozen=True)
class HubName:
    """A bundle's name on the Hub.

    Parameters
    ----------
    repo : str
        `user/name`.
    revision : str
        A branch, a tag, or a commit's hash or its beginning.
    """

    repo: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"


def parse_name(place: str | PurePath) -> HubName | None:
    """Read `user/name` or `user/name@revision`; None if that is no name the Hub would give."""
    found = _NAME.fullmatch(place.as_posix() if isinstance(place, PurePath) else place)
    if found is None or ".." in found[0] or "--" in found["repo"] or len(found["repo"]) > _LONGEST:
        return None
    return HubName(found["repo"], found["revision"] or MAIN)


def require_name(text: str, revision: str | None = None) -> HubName:
    """Read a name that has to be one, with the revision given beside it or after its `@`.

    Raises
    ------
    HubError
    """
    name = parse_name(text)
    if name is None:
        raise HubError(f"'{text}' is no name on the Hub; it looks like user/name, or user/name@revision")
    if revision is None:
        return name
    if "@" in text:
        raise HubError(f"{text} names a revision already; leave out `revision='{revision}'`")
    given = parse_name(f"{text}@{revision}")
    if given is None:
        raise HubError(f"'{revision}' is no revision: a branch, a tag or a commit's hash")
    return given


def is_commit(revision: str) -> bool:
    """Say whether a revision is a whole commit hash, which never comes to mean anything else."""
    return _COMMIT.fullmatch(revision) is not None
