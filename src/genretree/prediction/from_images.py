"""From images of spectra to genre paths, without any sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from genretree.arrays import UInt8Array
from genretree.bundle.bundle import Bundle
from genretree.corpus.triples import ImageSet, group_images, is_image, read_set, walk_images
from genretree.errors import ImageError, SettingsError
from genretree.files import printable
from genretree.prediction.predict import (
    Prediction,
    PredictionError,
    check_arguments,
    describe,
    find_files,
    score_images,
)
from genretree.settings import MODALITIES, Modality
from genretree.sound.features import requested_features
from genretree.sound.images import ImageForm
from genretree.sound.walk import is_sound_name


def needed_images(bundle: Bundle) -> tuple[Modality, ...]:
    """Give the images that a model sees.

    Raises
    ------
    SettingsError
        If it works from sound.
    """
    if requested_features(bundle.model.input_features):
        raise SettingsError(
            f"{bundle.folder}: a model of the family {bundle.family} works from sound, not from images; give it sound "
            "files, or use a model of another family"
        )
    modalities: tuple[Modality, ...] = getattr(bundle.settings, "modalities", MODALITIES)
    return modalities


def find_image_sets(paths: Iterable[str | Path]) -> list[ImageSet]:
    """Group images, and those in folders, by slice; see `genretree.corpus.triples`."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += walk_images(path) if path.is_dir() else [path]
    return group_images(found)


def read_slices(bundle: Bundle, sets: Sequence[ImageSet], form: ImageForm = "auto") -> UInt8Array:
    """Read the slices of one track; returns uint8, shape (n, 3, size, size), without silent slices.

    Raises
    ------
    ImageError
        If an image can't be used, or all slices are without range.
    SettingsError
        If the model works from sound.
    """
    needed = needed_images(bundle)
    places = [MODALITIES.index(name) for name in needed]
    images = [read_set(item, bundle.images, needed, form) for item in sets]
    kept = [image for image in images if any(image[place].max() > image[place].min() for place in places)]
    if not kept:
        raise ImageError("silence", sets[0].name, "every pixel has the same value, as in silence")
    return np.stack(kept)


def predict_images(
    bundle: Bundle,
    sets: Sequence[ImageSet],
    *,
    form: ImageForm = "auto",
    one_track: bool = False,
    top: int = 3,
    min_confidence: float = 0.0,
) -> Iterator[Prediction | PredictionError]:
    """Name the genre path of slices given as images.

    Parameters
    ----------
    bundle : Bundle
    sets : sequence of ImageSet
        As `find_image_sets` gives them.
    form : "auto", "drawn", "grey" or "raw"
        See `genretree.sound.images.read_image`.
    one_track : bool
        Take all for slices of one track, in their order, and average them; else each is a track of one slice.
    top, min_confidence
        As for `genretree.predict`.

    Yields
    ------
    Prediction or PredictionError
        One for each track. Bad images never stop the others.

    Raises
    ------
    SettingsError
        If the model works from sound, or `min_confidence` is out of range.
    """
    check_arguments(bundle, min_confidence, top)
    needed_images(bundle)
    for track in [list(sets)] if one_track else [[item] for item in sets]:
        try:
            images = read_slices(bundle, track, form)
            yield describe(bundle, track[0].name, score_images(bundle, images), top, min_confidence)
        except ImageError as error:
            yield PredictionError(error.path, error.kind, str(error))
        except Exception as error:  # whatever one image brings about must not stop the others
            name = printable(track[0].name)
            yield PredictionError(name, "internal", f"{name}: {type(error).__name__}: {error}")


def holds_images(path: Path) -> bool:
    """Whether a path is an image, or a folder with images of spectra in it and no sound."""
    return find_content(path) == "images"


def find_content(path: Path) -> Literal["audio", "images"] | None:
    """Say whether a path is, or its name promises, audio or an image; of a folder, what it contains, audio first."""
    if path.is_dir():
        if next(find_files([path]), None) is not None:
            return "audio"
        return "images" if next(walk_images(path), None) is not None else None
    if is_image(path):
        return "images"
    return "audio" if path.is_file() or is_sound_name(path) else None
