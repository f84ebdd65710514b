"""Hash and classify one file; threads and remote workers use the same code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import read_description
from genretree.errors import SoundError
from genretree.files import describe_special
from genretree.library.database.records import UNCALIBRATED, ModelKey, Result
from genretree.library.tags.adapters import TagError, TagValues, read_tags
from genretree.library.tags.binary_delta import content_digest
from genretree.metrics.scores import decode_levels
from genretree.models.runtime.types import FORMS, Precision, RuntimeChoice
from genretree.prediction.predict import average_slices, score_file

FILE_PROBLEMS = ("not_found", "unreadable", "changed")  # kinds of problem that the content has no part in
_MODEL_FIELDS = ("family", "taxonomy", "images", "settings", "calibration")


@dataclass(frozen=True)
class FileFingerprint:
    """Size, time and content hash of a file, and the genres and `GENRETREE_*` fields in its tags."""

    size: int
    mtime_ns: int
    content: bytes
    genres: tuple[str, ...] | None
    own: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Problem:
    """Why a file can't be read now, whatever its content."""

    error: str
    message: str


class FileClassifier(Protocol):
    """Classifies files.

    Parameters
    ----------
    card : ModelKey
    """

    card: ModelKey

    def score_file(self, path: Path) -> Result:
        """Classify a file; errors are results, too."""


class BundleClassifier:
    """A trained bundle, loaded once."""

    def __init__(self, bundle: Bundle, salvage: bool = False) -> None:
        self.bundle, self.salvage = bundle, salvage
        arithmetic = bundle.runtime.rpartition(" ")[2]
        description: Mapping[str, Any] = read_description(bundle.folder)
        notes = arithmetic, "salvage" if salvage else "", "" if bundle.calibration else UNCALIBRATED
        self.card = ModelKey(
            digest=model_digest(description, arithmetic, salvage),
            family=bundle.family,
            heads=bundle.model.heads,
            taxonomy=bundle.taxonomy,
            bundle=str(bundle.folder.absolute()),
            note=", ".join(filter(None, notes)),
        )

    def score_file(self, path: Path) -> Result:
        """Classify a file."""
        bundle = self.bundle
        try:
            scores = score_file(bundle, path, self.salvage)
        except SoundError as error:
            return Result(None, error=error.kind, message=error.detail)
        except Exception as error:  # whatever one file brings about must not stop the others
            return Result(None, error="internal", message=f"{type(error).__name__}: {error}")
        levels = average_slices(bundle, scores)
        leaf = int(decode_levels(bundle.taxonomy, bundle.model.heads, levels)[0][-1])
        sure = float(levels[-1][0, leaf])
        return Result(levels, leaf, sure, len(scores.starts), scores.padded, bundle.runtime)


def load_file_classifier(
    bundle: str | Path, runtime: RuntimeChoice = "auto", precision: Precision = "auto", salvage: bool = False
) -> BundleClassifier:
    """Load a bundle as a file classifier; the options are those of `load_bundle` and `predict`."""
    return BundleClassifier(load_bundle(bundle, runtime, precision), salvage)


def model_digest(description: Mapping[str, Any], arithmetic: str, salvage: bool) -> str:
    """Hash all that changes what a bundle says: weights, tree, settings, arithmetic; not its exports."""
    files = {
        name: digest
        for name, digest in description["files"].items()
        if Path(name).parts[0] not in FORMS and Path(name).suffix != ".csv"
    }
    telling = [{name: description.get(name) for name in _MODEL_FIELDS}, files, arithmetic, salvage]
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_file(path: str) -> FileFingerprint | Problem:
    """Read a whole file once: the hash of its content, and what its tags hold."""
    try:
        before = os.stat(path)  # noqa: PTH116
        if special := describe_special(before.st_mode):
            return Problem("unreadable", f"is {special}, not a sound file")
        content = content_digest(Path(path))
        values = _tag_values(path)
        after = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return Problem("not_found", "no longer exists")
    except OSError as error:
        return Problem("unreadable", f"can't be read: {error.strerror or error}")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return _changed()
    if values is None:
        return FileFingerprint(after.st_size, after.st_mtime_ns, content, None)
    return FileFingerprint(after.st_size, after.st_mtime_ns, content, values.genres, values.own)


def classify_file(classifier: FileClassifier, path: str, stamp: FileFingerprint) -> Result | Problem:
    """Classify a file whose content is known; a problem if the content has changed."""
    result = classifier.score_file(Path(path))
    if result.error in FILE_PROBLEMS:
        return Problem(result.error, result.message)
    try:
        now = os.stat(path)  # noqa: PTH116
    except OSError:
        return Problem("not_found", "went away while it was being read")
    return result if (now.st_size, now.st_mtime_ns) == (stamp.size, stamp.mtime_ns) else _changed()


def _changed() -> Problem:
    return Problem("changed", "changed while it was being read; the next run reads it again")


def _tag_values(path: str) -> TagValues | None:
    try:
        return read_tags(path)
    except TagError:
        return None
