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
from genretree.files import content_digest, describe_special
from genretree.library.database.records import UNCALIBRATED, FileResult, ModelKey
from genretree.library.tags.adapters import TagError, TagValues, read_tags
from genretree.metrics.scores import decode_levels
from genretree.models.families.tagger.content import Content
from genretree.models.families.tagger.model import TaggerModel
from genretree.models.runtime.types import EXPORT_FORMATS, Precision, RuntimeChoice
from genretree.prediction.predict import score_file
from genretree.prediction.score_checkpoint import checkpoint_scores
from genretree.prediction.untrained import load_tagger

FILE_ERRORS = ("not_found", "unreadable", "changed")  # error types that do not depend on the content
_MAX_LINKED = 1 << 17
# Contents of files with several hard links, by device, inode, size and times; any write changes the last of them.
_linked_digests: dict[tuple[int, ...], bytes] = {}
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
class FileError:
    """An error that does not depend on a file's content, such as a missing or unreadable file."""

    error: str
    message: str


class FileClassifier(Protocol):
    """Classifies files.

    Parameters
    ----------
    model_key : ModelKey
    """

    model_key: ModelKey

    def score_file(self, path: Path) -> FileResult:
        """Classify a file; errors are results, too."""


class BundleClassifier:
    """A trained bundle, loaded once."""

    def __init__(self, bundle: Bundle, salvage: bool = False, tagger: TaggerModel | None = None) -> None:
        self.bundle, self.salvage, self.tagger = bundle, salvage, tagger
        precision = bundle.runtime.rpartition(" ")[2]
        description: Mapping[str, Any] = read_description(bundle.folder)
        notes = precision, "salvage" if salvage else "", "" if bundle.calibration else UNCALIBRATED
        self.model_key = ModelKey(
            digest=model_digest(description, precision, salvage, tagger is not None),
            family=bundle.family,
            heads=bundle.model.heads,
            taxonomy=bundle.taxonomy,
            bundle=str(bundle.folder.absolute()),
            note=", ".join(filter(None, notes)),
        )

    def score_file(self, path: Path) -> FileResult:
        """Classify a file."""
        bundle = self.bundle
        try:
            scores = score_file(bundle, path, self.salvage, self.tagger)
        except SoundError as error:
            return FileResult(None, error=error.kind, message=error.detail)
        except Exception as error:  # an error in one file must not stop the run
            return FileResult(None, error="internal", message=f"{type(error).__name__}: {error}")
        content = scores.content
        if content is not None and not content.is_music:
            return FileResult(None, error="not_music", message=_describe_content(content))
        levels = bundle.average_slices(scores.levels)
        leaf = int(decode_levels(bundle.taxonomy, bundle.model.heads, levels)[0][-1])
        confidence = float(levels[-1][0, leaf])
        return FileResult(levels, leaf, confidence, len(scores.starts), scores.padded, bundle.runtime)


def load_file_classifier(
    bundle: str | Path,
    runtime: RuntimeChoice = "auto",
    precision: Precision = "auto",
    salvage: bool = False,
    check_music: bool = False,
) -> BundleClassifier:
    """Load a bundle as a file classifier; the options are those of `load_bundle` and `predict`.

    With `check_music`, mn04 detects files that are not music, for bundles whose model doesn't.
    """
    tagger = load_tagger() if check_music else None
    return BundleClassifier(load_bundle(bundle, runtime, precision), salvage, tagger)


def _describe_content(content: Content) -> str:
    """Describe what a file contains instead of music, and what that may be."""
    guess = {"speech": ": an audiobook or podcast?", "silence": ": an empty recording?"}.get(content.type, "")
    return f"{content.type}{guess} ({content.tag} {content.probability:.0%})"


def model_digest(description: Mapping[str, Any], precision: str, salvage: bool, check_music: bool = False) -> str:
    """Hash everything that affects a bundle's predictions: weights, tree, settings, precision; not its exports."""
    files = {
        name: digest
        for name, digest in description["files"].items()
        if Path(name).parts[0] not in EXPORT_FORMATS and Path(name).suffix != ".csv"
    }
    identity = [{name: description.get(name) for name in _MODEL_FIELDS}, files, precision, salvage]
    if check_music:
        identity.append("check_music")
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_file(path: str) -> FileFingerprint | FileError:
    """Hash a file's content and read its tags."""
    try:
        before = os.stat(path)  # noqa: PTH116
        if special := describe_special(before.st_mode):
            return FileError("unreadable", f"is {special}, not an audio file")
        content = _digest(Path(path), before)
        values = _tag_values(path)
        after = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return FileError("not_found", "no longer exists")
    except OSError as error:
        return FileError("unreadable", f"can't be read: {error.strerror or error}")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return _changed()
    if values is None:
        return FileFingerprint(after.st_size, after.st_mtime_ns, content, None)
    return FileFingerprint(after.st_size, after.st_mtime_ns, content, values.genres, values.own)


def _digest(path: Path, status: os.stat_result) -> bytes:
    """Hash a file's content; a hard link to a file that was hashed before is not read again."""
    if status.st_nlink < 2 or not status.st_ino:
        return content_digest(path)
    inode = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = _linked_digests.get(inode)
    if known is None:
        known = content_digest(path)
        if len(_linked_digests) >= _MAX_LINKED:
            _linked_digests.clear()
        _linked_digests[inode] = known
    return known


def classify_file(
    classifier: FileClassifier, path: str, fingerprint: FileFingerprint, checkpoints: Path | None = None
) -> FileResult | FileError:
    """Classify a file; returns an error if it has changed since its fingerprint was taken.

    With a folder for `checkpoints`, an interrupted call continues inside the file.
    """
    name = f"{fingerprint.content.hex()}-{classifier.model_key.digest}.npz"
    with checkpoint_scores(checkpoints and checkpoints / name):
        result = classifier.score_file(Path(path))
    if result.error in FILE_ERRORS:
        return FileError(result.error, result.message)
    try:
        now = os.stat(path)  # noqa: PTH116
    except OSError:
        return FileError("not_found", "went away while it was being read")
    return result if (now.st_size, now.st_mtime_ns) == (fingerprint.size, fingerprint.mtime_ns) else _changed()


def _changed() -> FileError:
    return FileError("changed", "changed while it was being read; the next run reads it again")


def _tag_values(path: str) -> TagValues | None:
    try:
        return read_tags(path)
    except TagError:
        return None
