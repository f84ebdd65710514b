"""From images of spectra to genre paths, without any sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genretree.bundle.bundle import Bundle
from genretree.corpus.triples import ImageSet, group_images, is_image, read_set, walk_images
from genretree.errors import ImageError, SettingsError
from genretree.files import printable
from genretree.prediction.predict import Prediction, PredictionError, SliceScores, describe, find_files
from genretree.settings import HOP_LENGTH, MODALITIES, SAMPLE_RATE, Modality
from genretree.sound.features import IMAGES, SliceInputs, requested_features
from genretree.sound.images import ImageForm


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


def read_slices(bundle: Bundle, sets: Sequence[ImageSet], form: ImageForm = "auto") -> NDArray[np.uint8]:
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
        As for `genretree.prediction.predict.predict`.

    Yields
    ------
    Prediction or PredictionError
        One for each track. Bad images never stop the others.

    Raises
    ------
    SettingsError
        If the model works from sound, or `min_confidence` is out of range.
    """
    if not 0 <= min_confidence <= 1:
        raise SettingsError(f"min_confidence lies between 0 and 1, it can't be {min_confidence}")
    needed_images(bundle)
    seconds = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
    for track in [list(sets)] if one_track else [[item] for item in sets]:
        try:
            images = read_slices(bundle, track, form)
            levels = bundle.model.predict_proba(SliceInputs({IMAGES: images}))
            heard = SliceScores(levels, [place * seconds for place in range(len(images))], False)
            yield describe(bundle, track[0].name, heard, top, min_confidence)
        except ImageError as error:
            yield PredictionError(error.path, error.kind, str(error))
        except Exception as error:  # whatever one image brings about must not stop the others
            name = printable(track[0].name)
            yield PredictionError(name, "internal", f"{name}: {type(error).__name__}: {error}")


def holds_images(path: Path) -> bool:
    """Whether a path is an image, or a folder with images of spectra in it and no sound."""
    if path.is_dir():
        return next(find_files([path]), None) is None and next(walk_images(path), None) is not None
    return is_image(path)
