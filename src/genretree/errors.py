"""All errors that genretree raises on purpose, as a tree by cause.

::

    GenretreeError
    ├── ArgumentError         the caller passed something wrong; also a ValueError
    │   └── SettingsError     a setting is unknown, of the wrong type or out of range
    ├── DataError             something that was read can't be used
    │   ├── FileError         one file of audio or image; the others of a run go on
    │   │   ├── SoundError
    │   │   └── ImageError
    │   ├── TaxonomyError     a genre tree, or a name that is not in it
    │   ├── CorpusError       a source of tracks, a split or a store
    │   ├── BundleError       a trained bundle
    │   └── LibraryError      the database of a music library, its mapping or a run of changes
    ├── TrainingError         training can't start or continue
    ├── HubError              the Hugging Face Hub refused or could not be reached
    └── MissingExtraError     an optional dependency is not installed

Each has a `kind`, a short machine-readable name that the command line and the JSON output repeat, and a message that
says what is wrong, with the file or value, and what to do about it. A message names arguments of Python functions in
backticks, such as `overwrite=True`; the command line shows its own options instead.
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
    """Base of all errors of genretree.

    See Also
    --------
    ArgumentError : The caller passed something wrong.
    SoundError : An audio file can't be used.

    Examples
    --------
    >>> import genretree
    >>> try:
    ...     genretree.load("no-such-folder")
    ... except genretree.GenretreeError as error:
    ...     print(error.kind)
    bundle
    """

    kind: str = "error"


class ArgumentError(GenretreeError, ValueError):
    """An argument of a Python function is of the wrong type, shape or range.

    See Also
    --------
    GenretreeError : Base of all errors.

    Examples
    --------
    >>> import genretree
    >>> try:
    ...     genretree.ImageSettings.build({"size": 8})
    ... except genretree.ArgumentError as error:
    ...     print(error.kind)
    settings
    """

    kind = "argument"


class SettingsError(ArgumentError):
    """A setting is unknown, of the wrong type or out of range."""

    kind = "settings"


class DataError(GenretreeError):
    """Something that was read can't be used."""

    kind = "data"


class TaxonomyError(DataError):
    """A genre tree is malformed, or a name is not in it."""

    kind = "taxonomy"


class CorpusError(DataError):
    """A source of tracks, a manifest, a split or a store can't be used."""

    kind = "corpus"


class BundleError(DataError):
    """A trained bundle is damaged, incomplete, of another format, or can't do what is asked of it."""

    kind = "bundle"


class LibraryError(DataError):
    """A library's database, its mapping file or a run of changes can't be used."""

    kind = "library"


class HubError(GenretreeError):
    """A bundle can't be pulled from the Hub, or pushed to it."""

    kind = "hub"


class TrainingError(GenretreeError):
    """Training can't start or continue."""

    kind = "training"


class MissingExtraError(GenretreeError):
    """An optional dependency is needed and not installed."""

    kind = "missing_extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'genretree[{extra}]'")


class FileError(DataError):
    """One file of a run can't be used.

    Parameters
    ----------
    kind : str
        Short name of what is wrong, stable across versions.
    path : path-like
        The file, or the row of a data set.
    detail : str
        What is wrong, and what to do.
    """

    def __init__(self, kind: str, path: str | Path, detail: str) -> None:
        shown = printable(path)
        super().__init__(kind, shown, detail)
        self.kind = kind
        self.path = shown
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


class SoundError(FileError):
    """One audio file can't be used.

    Parameters
    ----------
    kind : str
        One of `SoundErrorKind`, such as `not_found`, `not_audio`, `truncated` or `silence`; stable across versions.
    path : path-like
        The file.
    detail : str
        What is wrong, and what to do.

    See Also
    --------
    genretree.PredictionError : What `genretree.predict` yields in its place.

    Examples
    --------
    >>> import genretree
    >>> model = genretree.load("BUNDLE")
    >>> try:
    ...     model.predict("no-such-file.mp3")
    ... except genretree.SoundError as error:
    ...     print(error.kind)
    not_found
    """

    def __init__(self, kind: SoundErrorKind, path: str | Path, detail: str) -> None:
        super().__init__(kind, path, detail)


class ImageError(FileError):
    """One image of a spectrum can't be used; `kind` is `not_found`, `lfs_pointer`, `colours`, `shape`, ..."""
