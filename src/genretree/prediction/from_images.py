"""Predict the genre paths of tracks from spectrogram images, without audio."""

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
    as_prediction,
    check_arguments,
    find_files,
    score_images,
)
from genretree.settings import MODALITIES, Modality
from genretree.sound.features import requested_features
from genretree.sound.images import ImageForm
from genretree.sound.walk import is_sound_name


def needed_images(bundle: Bundle) -> tuple[Modality, ...]:
    """Return the names of the images that a model takes.

    Raises
    ------
    SettingsError
        If the model needs audio.
    """
    if requested_features(bundle.model.input_features):
        raise SettingsError(
            f"{bundle.folder}: models of the family {bundle.family} need audio, not images; pass audio files, or "
            "use a model of another family"
        )
    modalities: tuple[Modality, ...] = getattr(bundle.settings, "modalities", MODALITIES)
    return modalities


def find_image_sets(paths: Iterable[str | Path]) -> list[ImageSet]:
    """Group image files, and those in folders, by slice; see `genretree.corpus.triples`."""
    images: list[Path] = []
    for path in map(Path, paths):
        images += walk_images(path) if path.is_dir() else [path]
    return group_images(images)


def read_slices(bundle: Bundle, sets: Sequence[ImageSet], form: ImageForm = "auto") -> UInt8Array:
    """Read the images of one track's slices; silent slices are left out.

    Returns
    -------
    ndarray, uint8, shape (n_slices, 3, size, size)

    Raises
    ------
    ImageError
        If an image can't be used, or all slices are silent.
    SettingsError
        If the model needs audio.
    """
    needed = needed_images(bundle)
    channels = [MODALITIES.index(name) for name in needed]
    images = [read_set(item, bundle.images, needed, form) for item in sets]
    not_silent = [image for image in images if any(np.ptp(image[channel]) > 0 for channel in channels)]
    if not not_silent:
        raise ImageError("silence", sets[0].name, "every pixel has the same value, as in silence")
    return np.stack(not_silent)


def predict_images(
    bundle: Bundle,
    sets: Sequence[ImageSet],
    *,
    form: ImageForm = "auto",
    one_track: bool = False,
    top: int = 3,
    min_confidence: float = 0.0,
    n_genres: int | None = None,
) -> Iterator[Prediction | PredictionError]:
    """Predict genre paths from spectrogram images of slices.

    Parameters
    ----------
    bundle : Bundle
    sets : sequence of ImageSet
        From `find_image_sets`.
    form : {"auto", "drawn", "grey", "raw"}
        See `genretree.sound.images.read_image`.
    one_track : bool
        Treat all images as consecutive slices of one track and average them; otherwise each slice is a track.
    top, min_confidence, n_genres
        As for `genretree.predict`.

    Yields
    ------
    Prediction or PredictionError
        One for each track. Bad images never stop the others.

    Raises
    ------
    SettingsError
        If the model needs audio, or `min_confidence` is not in [0, 1].
    """
    check_arguments(bundle, min_confidence, top, n_genres=n_genres)
    needed_images(bundle)
    for track in [list(sets)] if one_track else [[item] for item in sets]:
        try:
            images = read_slices(bundle, track, form)
            scores = score_images(bundle, images)
            yield as_prediction(bundle, track[0].name, scores, top, min_confidence, n_genres=n_genres)
        except ImageError as error:
            yield PredictionError(error.path, error.kind, str(error))
        except Exception as error:  # no error of one image may stop the others
            name = printable(track[0].name)
            yield PredictionError(name, "internal", f"{name}: {type(error).__name__}: {error}")


def holds_images(path: Path) -> bool:
    """Check for an image, or a folder that has spectrogram images and no audio."""
    return find_content(path) == "images"


def find_content(path: Path) -> Literal["audio", "images"] | None:
    """Classify a path as audio or images by its content or suffix; audio takes precedence in a folder that has both."""
    if path.is_dir():
        if next(find_files([path]), None) is not None:
            return "audio"
        return "images" if next(walk_images(path), None) is not None else None
    if is_image(path):
        return "images"
    return "audio" if path.is_file() or is_sound_name(path) else None
