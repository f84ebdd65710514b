"""Parsing of names on the Hub: `user/name` and `user/name@revision`, also after `hf://`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from genretree.errors import HubError

MAIN = "main"
_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_SCHEME = re.compile(r"^hf:(?://?|$)")  # as a path, `hf://user/name` has one slash, and `hf://` none
_NAME = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>{_WORD}(?:/{_WORD})*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_LENGTH = 96  # of `user/name`, the Hub's limit


@dataclass(frozen=True)
class HubName:
    """A bundle's name on the Hub.

    Parameters
    ----------
    repo : str
        `user/name`.
    revision : str
        A branch, a tag, or a commit hash, which may be abbreviated.
    """

    repo: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"


def has_scheme(place: str | PurePath) -> bool:
    """Check for `hf://`, which says that a name is on the Hub and not a folder."""
    return _SCHEME.match(_as_text(place)) is not None


def _as_text(place: str | PurePath) -> str:
    return place.as_posix() if isinstance(place, PurePath) else place


def parse_name(place: str | PurePath) -> HubName | None:
    """Parse `user/name` or `user/name@revision`, also after `hf://`; None if the Hub doesn't allow such a name."""
    match = _NAME.fullmatch(_SCHEME.sub("", _as_text(place)))
    if match is None or ".." in match[0] or "--" in match["repo"] or len(match["repo"]) > _MAX_LENGTH:
        return None
    return HubName(match["repo"], match["revision"] or MAIN)


def require_name(text: str, revision: str | None = None) -> HubName:
    """Parse a name; the revision follows its `@` or is given separately.

    Raises
    ------
    HubError
    """
    name = parse_name(text)
    if name is None:
        raise HubError(f"'{_SCHEME.sub('hf://', text)}' is not a name on the Hub; use user/name or user/name@revision")
    if revision is None:
        return name
    if "@" in text:
        raise HubError(f"{text} already names a revision; omit `revision='{revision}'`")
    pinned = parse_name(f"{text}@{revision}")
    if pinned is None:
        raise HubError(f"'{revision}' is not a revision; name a branch, a tag or a commit hash")
    return pinned


def is_commit(revision: str) -> bool:
    """Check whether a revision is a full commit hash, which always refers to the same files."""
    return _COMMIT.fullmatch(revision) is not None
