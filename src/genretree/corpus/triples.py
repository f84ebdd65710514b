"""Grouping of image files into slices by name: `song_mel.png`, `mel/song.png` or `song/mel.png`."""

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
        The common part of the files' paths.
    files : dict
        Files of each modality; more than one is an error, which `read_set` reports.
    unnamed : tuple of Path
        Files whose names contain no modality.
    """

    name: str
    files: dict[Modality, list[Path]] = field(default_factory=dict)
    unnamed: tuple[Path, ...] = ()


def is_image(path: Path) -> bool:
    """Return whether a file has the suffix of an image or a raw array."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def modality_of(path: Path) -> tuple[Modality | None, Path]:
    """Return the modality in a file's path, and the path shared by the images of its slice."""
    above = path.parent.name.lower()
    stem = path.stem
    ends = _ENDS.fullmatch(stem)
    for name in MODALITIES:
        if above == name:
            own = ends is not None and (ends[1] or "") and ends[2].lower() == name
            return name, path.parent.parent / (ends[1].rstrip(" _.-") if ends is not None and own else stem)
    if ends is not None:
        base, image_set = ends[1] or "", ends[2]
    elif begins := _BEGINS.fullmatch(stem):
        image_set, base = begins[1], begins[2]
    elif inside := _INSIDE.fullmatch(stem):
        base, image_set = inside[1] + inside[3], inside[2]
    else:
        return None, path
    base = base.strip(" _.-")
    modality = next(name for name in MODALITIES if name == image_set.lower())
    return modality, path.parent / base if base else path.parent


def group_images(paths: Iterable[Path]) -> list[ImageSet]:
    """Group image files by slice, in the order of their first files."""
    sets: dict[Path, ImageSet] = {}
    for path in paths:
        modality, base = modality_of(path)
        if modality is None:
            sets[path] = ImageSet(printable(path), unnamed=(path,))
            continue
        image_set = sets.setdefault(base, ImageSet(printable(base)))
        if path not in image_set.files.setdefault(modality, []):
            image_set.files[modality].append(path)
    return list(sets.values())


def walk_images(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder whose names contain a modality, sorted, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and is_image(path) and modality_of(path)[0] is not None and path.is_file():
            yield path


def read_set(
    image_set: ImageSet, settings: ImageSettings, needed: Sequence[Modality] = MODALITIES, form: ImageForm = "auto"
) -> NDArray[np.uint8]:
    """Read the images that a model needs.

    Returns
    -------
    ndarray, uint8, shape (3, size, size)
        mel, CQT and chroma; modalities that are not needed are 0.

    Raises
    ------
    ImageError
        If one is missing, duplicated, or cannot be read.
    """
    if image_set.unnamed:
        detail = (
            "has no modality in its name; add mel, cqt or chroma to the name (song_mel.png) or to the folder "
            "(mel/song.png)"
        )
        raise ImageError("unnamed", image_set.unnamed[0], detail)
    missing = [name for name in needed if name not in image_set.files]
    if missing:
        detail = (
            f"has no image for {', '.join(missing)}; it has {', '.join(image_set.files)}, and the model needs "
            f"{', '.join(needed)}"
        )
        raise ImageError("missing", image_set.name, detail)
    images = np.zeros((len(MODALITIES), settings.size, settings.size), np.uint8)
    for place, name in enumerate(MODALITIES):
        if name not in needed:
            continue
        files = image_set.files[name]
        if len(files) > 1:
            listed = ", ".join(printable(file.name) for file in files)
            detail = f"has {len(files)} images for {name}: {listed}; remove all but one"
            raise ImageError("ambiguous", image_set.name, detail)
        images[place] = read_image(files[0], name, settings, form, printable(files[0]))
    return images
