"""Which image files belong to one slice, by their names: `song_mel.png`, `mel/song.png` or `song/mel.png`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genretree.errors import ImageError
from genretree.files import printable
from genretree.settings import MODALITIES, ImageSettings, Modality
from genretree.sound.images import IMAGE_SUFFIXES, ImageForm, read_image

_NAMES = "|".join(MODALITIES)
_ENDS = re.compile(rf"(?:(.*)[ _.-])?({_NAMES})", re.IGNORECASE | re.DOTALL)
_BEGINS = re.compile(rf"({_NAMES})[ _.-](.*)", re.IGNORECASE | re.DOTALL)
_INSIDE = re.compile(rf"(.*)[ _.-]({_NAMES})([ _.-].*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class ImageSet:
    """The images of one slice.

    Parameters
    ----------
    name : str
        What the files have in common, with their folder.
    files : dict
        For each modality the files that name it; more than one is a fault, which `read_set` reports.
    unnamed : tuple of Path
        Files whose names don't say what they show.
    """

    name: str
    files: dict[Modality, list[Path]] = field(default_factory=dict)
    unnamed: tuple[Path, ...] = ()


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image or a raw array."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def modality_of(path: Path) -> tuple[Modality | None, Path]:
    """Tell from a path what it shows, and the path that the images of its slice have in common."""
    above = path.parent.name.lower()
    stem = path.stem
    ends = _ENDS.fullmatch(stem)
    for name in MODALITIES:
        if above == name:
            own = ends is not None and (ends[1] or "") and ends[2].lower() == name
            return name, path.parent.parent / (ends[1].rstrip(" _.-") if ends is not None and own else stem)
    if ends is not None:
        base, found = ends[1] or "", ends[2]
    elif begins := _BEGINS.fullmatch(stem):
        found, base = begins[1], begins[2]
    elif inside := _INSIDE.fullmatch(stem):
        base, found = inside[1] + inside[3], inside[2]
    else:
        return None, path
    base = base.strip(" _.-")
    modality = next(name for name in MODALITIES if name == found.lower())
    return modality, path.parent / base if base else path.parent


def group_images(paths: Iterable[Path]) -> list[ImageSet]:
    """Put image files together that belong to one slice, in the order of their first files."""
    sets: dict[Path, ImageSet] = {}
    for path in paths:
        modality, base = modality_of(path)
        if modality is None:
            sets[path] = ImageSet(printable(path), unnamed=(path,))
            continue
        found = sets.setdefault(base, ImageSet(printable(base)))
        if path not in found.files.setdefault(modality, []):
            found.files[modality].append(path)
    return list(sets.values())


def walk_images(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder whose names say what they show, sorted, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and is_image(path) and modality_of(path)[0] is not None and path.is_file():
            yield path


def read_set(
    found: ImageSet, settings: ImageSettings, needed: Sequence[Modality] = MODALITIES, form: ImageForm = "auto"
) -> NDArray[np.uint8]:
    """Read the images that a model needs.

    Returns
    -------
    ndarray, uint8, shape (3, size, size)
        mel, CQT and chroma; 0 where one is not needed.

    Raises
    ------
    ImageError
        If one is missing, is there twice, or can't be read.
    """
    if found.unnamed:
        detail = (
            "can't tell whether it shows mel, cqt or chroma; say so in the name (song_mel.png) or in the folder "
            "(mel/song.png)"
        )
        raise ImageError("unnamed", found.unnamed[0], detail)
    missing = [name for name in needed if name not in found.files]
    if missing:
        detail = (
            f"has no image for {', '.join(missing)}; it has {', '.join(found.files)}, and the model needs "
            f"{', '.join(needed)}"
        )
        raise ImageError("missing", found.name, detail)
    images = np.zeros((len(MODALITIES), settings.size, settings.size), np.uint8)
    for place, name in enumerate(MODALITIES):
        if name not in needed:
            continue
        files = found.files[name]
        if len(files) > 1:
            listed = ", ".join(printable(file.name) for file in files)
            detail = f"has {len(files)} images for {name}: {listed}; keep one"
            raise ImageError("ambiguous", found.name, detail)
        images[place] = read_image(files[0], name, settings, form, printable(files[0]))
    return images
