"""Slices of a file, of images, or of a stored track, as model inputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genretree.arrays import Array, Float16Array, Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.corpus.triples import ImageSet
from genretree.errors import CorpusError, SettingsError
from genretree.files import printable
from genretree.models.base import LevelProbabilities
from genretree.prediction.from_images import read_slices
from genretree.settings import HOP_LENGTH, MODALITIES, SAMPLE_RATE
from genretree.sound.features import IMAGES, MEL_16K, Inputs, SliceInputs, requested_features
from genretree.sound.images import ImageForm
from genretree.sound.slices import iter_slices, skip_silent, stack_slices

_AT_A_TIME = 64
_EXPLAINED = (IMAGES, *MODALITIES, MEL_16K)  # features that explanations cover


@dataclass(frozen=True)
class TrackSlices:
    """Slices of one track.

    Parameters
    ----------
    name : str
        Path of the file, or of the track in its store.
    images : uint8 array, shape (n, 3, size, size)
    features : mapping of name to array, shape (n, ...)
        Inputs of the model other than the images, such as `mel_16k`.
    starts : array, shape (n,)
        Seconds from the start of the track.
    seconds : float
        Length of a slice in seconds.
    decibels : array, shape (n, 3, 2), optional
        Levels of grey 0 and 255 of each image, in dB relative to the peak of the track. Available for files only.
    padded : bool
        Whether the track is shorter than a slice and was repeated to fill it.
    """

    name: str
    images: UInt8Array
    features: Mapping[str, Array]
    starts: Float64Array
    seconds: float
    decibels: Float32Array | None = None
    padded: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def inputs(self) -> SliceInputs:
        """The inputs of a model."""
        return SliceInputs({IMAGES: self.images, **self.features})

    @property
    def mel_16k(self) -> Float16Array | None:
        """Mel power at 16 kHz, shape (n, frames, 96), if the model takes it."""
        return self.features.get(MEL_16K)

    def replace(self, images: UInt8Array, mel_16k: Float16Array | None) -> TrackSlices:
        """Return a copy with other images and mel power, for the same number of slices."""
        features = self.features if mel_16k is None else {**self.features, MEL_16K: mel_16k}
        return replace(self, images=images, features=features)

    def select(self, rows: Int64Array | slice) -> TrackSlices:
        """Select slices."""
        return replace(
            self,
            images=self.images[rows],
            features={name: values[rows] for name, values in self.features.items()},
            starts=self.starts[rows],
            decibels=None if self.decibels is None else self.decibels[rows],
        )


def is_explainable(bundle: Bundle) -> bool:
    """Return whether a model takes a feature that explanations cover."""
    return any(name in _EXPLAINED for name in bundle.model.input_features)


def require_views(bundle: Bundle) -> None:
    """Check that a model takes a feature that explanations cover; features of `register_feature` stay constant.

    Raises
    ------
    SettingsError
        If it takes registered features only, for which no part of the audio could be named.
    """
    if not is_explainable(bundle):
        names = ", ".join(bundle.model.input_features)
        raise SettingsError(
            f"explanations cover {', '.join(_EXPLAINED)}, but the family '{bundle.family}' takes {names}; "
            "explain a model of another family"
        )


def read_file(bundle: Bundle, file: str | Path, salvage: bool = False) -> TrackSlices:
    """Compute the slices of an audio file, without silent ones.

    Raises
    ------
    SoundError
        If the file cannot be decoded, or every slice is silent.
    SettingsError
        If explanations don't cover what the model takes.
    """
    require_views(bundle)
    names = bundle.model.input_features
    slices = list(skip_silent(iter_slices(file, bundle.images, salvage=salvage, features=names), file))
    images, features = split_inputs(stack_slices(slices))
    return TrackSlices(
        printable(file),
        images,
        features,
        np.array([each.start for each in slices]),
        bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE,
        np.array([each.decibels for each in slices], np.float32),
        slices[0].padded,
    )


def read_images(bundle: Bundle, images: Sequence[ImageSet], form: ImageForm = "auto") -> TrackSlices:
    """Read images of spectrograms as the slices of one track, without images of constant value.

    Raises
    ------
    ImageError
        If an image cannot be used.
    SettingsError
        If the model needs audio.
    """
    pixels = read_slices(bundle, images, form)
    seconds = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
    return TrackSlices(images[0].name, pixels, {}, np.arange(len(pixels), dtype=np.float64) * seconds, seconds)


def split_inputs(inputs: Inputs) -> tuple[UInt8Array, dict[str, Array]]:
    """Separate the images from the other features."""
    return inputs[IMAGES], {name: inputs[name] for name in inputs if name != IMAGES}


def read_track(bundle: Bundle, store: Store, track: int) -> TrackSlices:
    """Read the slices of a track from a store, without silent ones.

    Raises
    ------
    CorpusError
        If every slice is silent.
    SettingsError
        If explanations don't cover what the model takes.
    """
    require_views(bundle)
    rows = np.flatnonzero((store.slice_tracks == track) & ~store.silent)
    name = str(store.tracks["path"][track])
    if not len(rows):
        raise CorpusError(f"{name}: every slice of this track is silent")
    needed = [feature.name for feature in requested_features(bundle.model.input_features)]
    return TrackSlices(
        name,
        np.asarray(store.images[rows]),
        {name: np.asarray(store.features[name][rows]) for name in needed if name in store.features},
        store.starts[rows],
        bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE,
        padded=bool(store.padded[rows[0]]),
    )


def find_track(store: Store, name: str) -> int:
    """Find a track of a store by its path, by the end of its path, or by its row (`#12`).

    Raises
    ------
    CorpusError
        If no track matches (the message suggests the closest path), or more than one.
    """
    paths = [str(path) for path in store.tracks["path"]]
    if name.startswith("#") and name[1:].isdigit():
        if int(name[1:]) < len(paths):
            return int(name[1:])
        raise CorpusError(
            f"{store.folder}: no track {name}; the store has {len(paths)} tracks, #0 to #{len(paths) - 1}"
        )
    matches = [i for i, path in enumerate(paths) if path == name]
    matches = matches or [i for i, path in enumerate(paths) if path.endswith(f"/{name}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise CorpusError(
            f"{store.folder}: '{name}' matches {len(matches)} tracks, such as {paths[matches[0]]}; give the full path"
        )
    close = difflib.get_close_matches(name, paths, n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'?" if close else f"an example is '{paths[0]}'"
    raise CorpusError(f"{store.folder}: no track '{name}'; {hint}")


def join(versions: Sequence[TrackSlices]) -> TrackSlices:
    """Concatenate versions of slices."""
    first = versions[0]
    return TrackSlices(
        first.name,
        np.concatenate([version.images for version in versions]),
        {name: np.concatenate([version.features[name] for version in versions]) for name in first.features},
        np.concatenate([version.starts for version in versions]),
        first.seconds,
        padded=first.padded,
    )


def score(bundle: Bundle, track_slices: TrackSlices) -> LevelProbabilities:
    """Compute uncalibrated probabilities of slices: by level, shape (n, n_nodes)."""
    parts = [
        bundle.model.predict_proba(part.inputs)
        for part in (track_slices.select(slice(at, at + _AT_A_TIME)) for at in range(0, len(track_slices), _AT_A_TIME))
    ]
    return [np.concatenate(levels) for levels in zip(*parts, strict=True)]
