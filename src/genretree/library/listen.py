"""What is done with one file: its content is hashed, and a model hears it. Threads and remote workers do it alike."""

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
from genretree.library.delta import content_digest
from genretree.library.records import UNCALIBRATED, ModelCard, Result
from genretree.library.tags import Carried, TagError, read_tags
from genretree.metrics.scores import decode_levels
from genretree.models.runtime.types import FORMS, Precision, RuntimeChoice
from genretree.prediction.predict import average_slices, score_file

OF_THE_FILE = ("not_found", "unreadable", "changed")  # kinds of problem that the content has no part in
_TELLING = ("family", "taxonomy", "images", "settings", "calibration")


@dataclass(frozen=True)
class Stamp:
    """What was read of a file: size, time, hash of its content, and the genres and own fields in its tags."""

    size: int
    mtime_ns: int
    content: bytes
    genres: tuple[str, ...] | None
    own: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Problem:
    """Why a file can't be read now; nothing is said about its content."""

    error: str
    message: str


class Listener(Protocol):
    """Whoever names the genre of a file.

    Parameters
    ----------
    card : ModelCard
    """

    card: ModelCard

    def score_file(self, path: Path) -> Result:
        """Say what a file is; what goes wrong with it is a result, too."""


class BundleListener:
    """A trained bundle, loaded once."""

    def __init__(self, bundle: Bundle, salvage: bool = False) -> None:
        self.bundle, self.salvage = bundle, salvage
        arithmetic = bundle.runtime.rpartition(" ")[2]
        description: Mapping[str, Any] = read_description(bundle.folder)
        notes = arithmetic, "salvage" if salvage else "", "" if bundle.calibration else UNCALIBRATED
        self.card = ModelCard(
            digest=model_digest(description, arithmetic, salvage),
            family=bundle.family,
            heads=bundle.model.heads,
            taxonomy=bundle.taxonomy,
            bundle=str(bundle.folder.absolute()),
            note=", ".join(filter(None, notes)),
        )

    def score_file(self, path: Path) -> Result:
        """Say what a file is."""
        bundle = self.bundle
        try:
            heard = score_file(bundle, path, self.salvage)
        except SoundError as error:
            return Result(None, error=error.kind, message=error.detail)
        except Exception as error:  # whatever one file brings about must not stop the others
            return Result(None, error="internal", message=f"{type(error).__name__}: {error}")
        levels = average_slices(bundle, heard)
        leaf = int(decode_levels(bundle.taxonomy, bundle.model.heads, levels)[0][-1])
        sure = float(levels[-1][0, leaf])
        return Result(levels, leaf, sure, len(heard.starts), heard.padded, bundle.runtime)


def load_listener(
    bundle: str | Path, runtime: RuntimeChoice = "auto", precision: Precision = "auto", salvage: bool = False
) -> BundleListener:
    """Load a bundle to hear by; the options are those of `load_bundle` and `predict`."""
    return BundleListener(load_bundle(bundle, runtime, precision), salvage)


def model_digest(description: Mapping[str, Any], arithmetic: str, salvage: bool) -> str:
    """Hash all that changes what a bundle says: weights, tree, settings, arithmetic; not its exports."""
    files = {
        name: digest
        for name, digest in description["files"].items()
        if Path(name).parts[0] not in FORMS and Path(name).suffix != ".csv"
    }
    telling = [{name: description.get(name) for name in _TELLING}, files, arithmetic, salvage]
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:16]


def stamp_file(path: str) -> Stamp | Problem:
    """Read a whole file once: the hash of its content, and what its tags hold."""
    try:
        before = os.stat(path)  # noqa: PTH116
        if special := describe_special(before.st_mode):
            return Problem("unreadable", f"is {special}, not an audio file")
        content = content_digest(Path(path))
        carried = _carried(path)
        after = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return Problem("not_found", "is no longer there")
    except OSError as error:
        return Problem("unreadable", f"can't be read: {error.strerror or error}")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return _changed()
    if carried is None:
        return Stamp(after.st_size, after.st_mtime_ns, content, None)
    return Stamp(after.st_size, after.st_mtime_ns, content, carried.genres, carried.own)


def hear_file(listener: Listener, path: str, stamp: Stamp) -> Result | Problem:
    """Let a model hear a file whose content is known; a problem if it is no longer that content."""
    result = listener.score_file(Path(path))
    if result.error in OF_THE_FILE:
        return Problem(result.error, result.message)
    try:
        now = os.stat(path)  # noqa: PTH116
    except OSError:
        return Problem("not_found", "went away while it was being read")
    return result if (now.st_size, now.st_mtime_ns) == (stamp.size, stamp.mtime_ns) else _changed()


def _changed() -> Problem:
    return Problem("changed", "was changed while it was being read; the next run reads it again")


def _carried(path: str) -> Carried | None:
    try:
        return read_tags(path)
    except TagError:
        return None
