"""Every error that genretree raises on purpose.

Each carries a `kind`, a short machine-readable name that the command line and the JSON output repeat,
and a message that names the file or setting at fault and says what to do about it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from genretree.files import printable

SoundErrorKind = Literal[
    "not_found",
    "unreadable",
    "empty",
    "not_audio",
    "truncated",
    "too_short",
    "too_long",
    "not_finite",
    "silence",
    "too_many_channels",
]


class GenretreeError(Exception):
    """Base of all errors meant for the user to read."""

    kind: str = "error"


class SettingsError(GenretreeError):
    """A setting is unknown, of the wrong type or out of range."""

    kind = "settings"


class ArgumentError(GenretreeError, ValueError):
    """An argument of a Python function is of the wrong type, shape or range."""

    kind = "argument"


class TaxonomyError(GenretreeError):
    """A genre tree is malformed, or a name is not in it."""

    kind = "taxonomy"


class CorpusError(GenretreeError):
    """A source of tracks, a manifest, a split or a store can't be used."""

    kind = "corpus"


class BundleError(GenretreeError):
    """A trained bundle is damaged, incomplete or of another kind."""

    kind = "bundle"


class HubError(GenretreeError):
    """A bundle can't be pulled from the Hub, or pushed to it."""

    kind = "hub"


class LibraryError(GenretreeError):
    """A library's database, its mapping file or a run of changes can't be used."""

    kind = "library"


class TrainingError(GenretreeError):
    """Training can't start or can't go on."""

    kind = "training"


class MissingExtraError(GenretreeError):
    """An optional dependency is needed and not installed."""

    kind = "missing_extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'genretree[{extra}]'")


class SoundError(GenretreeError):
    """One sound file can't be used.

    Parameters
    ----------
    kind : SoundErrorKind
        Short name of what is wrong, stable across versions.
    path : path-like
        The file.
    detail : str
        What was found and what to do.
    """

    def __init__(self, kind: SoundErrorKind, path: str | Path, detail: str) -> None:
        shown = printable(path)
        super().__init__(kind, shown, detail)
        self.kind = kind
        self.path = shown
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


class ImageError(GenretreeError):
    """One image of a spectrum can't be used.

    Parameters
    ----------
    kind : str
        Short name of what is wrong, stable across versions: `not_found`, `lfs_pointer`, `colours`, `shape`, ...
    path : path-like
        The file, or the row of a data set.
    detail : str
        What was found and what to do.
    """

    def __init__(self, kind: str, path: str | Path, detail: str) -> None:
        shown = printable(path)
        super().__init__(kind, shown, detail)
        self.kind = kind
        self.path = shown
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"
