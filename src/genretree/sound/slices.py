"""Slices of a track as small grey images of mel, CQT and chroma, and the data set's images converted to the same.

The data set's authors rendered each slice with `librosa.display.specshow`: one rectangle of one colour for each cell of
the spectrum, scaled to the minimum and maximum of the slice, low frequencies at the bottom, in the colour map magma, as
a JPEG of 496x369 pixels. `render_image` averages the cells under those pixels directly into a smaller grey image, with
two small matrices. `read_rendered_image` maps the colours of such a JPEG back to values before it shrinks the image.
Both give the same result.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from genretree.arrays import Array, Float32Array, Int64Array, UInt8Array
from genretree.errors import SoundError
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, TOP_DB, ImageSettings
from genretree.sound.decode import AudioPath, iter_blocks
from genretree.sound.features import IMAGES, FeatureTaps, SliceInputs, needs_images, requested_features
from genretree.sound.spectra import StoredSpectra, stream_spectra

if TYPE_CHECKING:
    from scipy.sparse import csr_array


Sparse: TypeAlias = "csr_array[np.float32]"
DecodeAt: TypeAlias = Callable[[int], Iterator[Float32Array]]
AnySlice = TypeVar("AnySlice", bound="FeatureSlice")

# The size of the authors' images in pixels: the cells span 369.6 pixels, of which matplotlib keeps 369.
_CANVAS = (369, 496)
_CANVAS_HEIGHT = 369.6
_PEAK_SAMPLES = 4096  # resolution at which silence is detected
_LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in a JPEG's Y (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class FeatureSlice:
    """The features of one slice.

    Parameters
    ----------
    start : float
        Start in the track in seconds.
    padded : bool
        Whether the track is shorter than a slice and was repeated to fill it.
    silent : bool
        Whether all of the slice is 80 dB or more below the track's peak.
    features : mapping of name to ndarray
        Requested features of the slice; see `genretree.sound.features`.
    """

    start: float
    padded: bool
    silent: bool
    features: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SliceImages(FeatureSlice):
    """The three images of one slice, and its features.

    Parameters
    ----------
    start, padded, silent, features
        As for `FeatureSlice`; silent means that the mel slice is constant.
    images : ndarray, uint8, shape (3, size, size)
        mel, CQT and chroma; 0 is the minimum of the slice and 255 its maximum, the highest frequency in row 0.
    decibels : tuple of three (low, high)
        Values of 0 and 255 in each image, in dB relative to the track's peak, -80 to 0.
    """

    images: UInt8Array
    decibels: tuple[tuple[float, float], ...] = ((-TOP_DB, 0.0),) * 3


# ---------------------------------------------------------------------------------------------------------------------
# Tracks to slices


def slice_starts(n_frames: int, slice_frames: int) -> Int64Array:
    """Return the first frames of the consecutive slices of a track.

    Parameters
    ----------
    n_frames : int
        Frames in the track.
    slice_frames : int
        Frames in a slice, at least 1.

    Returns
    -------
    ndarray, int64, shape (n_frames // slice_frames,)
        The remainder is dropped, half at each end.

    Raises
    ------
    ValueError
        If a slice has no frames.
    """
    if slice_frames < 1:
        raise ValueError(f"slice_frames must be at least 1, got {slice_frames}")
    count = max(0, n_frames) // slice_frames
    return (max(0, n_frames) - count * slice_frames) // 2 + slice_frames * np.arange(count, dtype=np.int64)


def pad_slice(y: Float32Array, slice_samples: int) -> Float32Array:
    """Repeat a track shorter than a slice until it fills one.

    Repetition preserves level and contrast; zero-padding would add a floor that sets the minimum of the slice.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono, at least one sample.
    slice_samples : int
        Minimum number of samples.

    Returns
    -------
    ndarray, float32, shape (max(samples, slice_samples),)
        `y` itself if it is long enough.

    Raises
    ------
    ValueError
        If `y` is empty.
    """
    if len(y) >= slice_samples:
        return y
    if len(y) == 0:
        raise ValueError("y is empty; at least 1 sample is required")
    return np.resize(y, slice_samples)


def iter_slices(
    path: AudioPath,
    settings: ImageSettings,
    engine: str = "auto",
    salvage: bool = False,
    features: Sequence[str] = (),
) -> Iterator[SliceImages]:
    """Compute the images and features of the slices of an audio file, in bounded memory.

    Parameters
    ----------
    path : path-like
        An audio file.
    settings : ImageSettings
        Length of a slice and size of an image.
    engine : str
        Engine of `genretree.sound.spectra`, or "auto".
    salvage : bool
        Decode what is left of a truncated file instead of raising an error.
    features : sequence of str
        Names of features to compute in addition to the images; see `genretree.sound.features`.

    Yields
    ------
    SliceImages
        At least one, in order of time. The first is available after the whole file has been decoded, because the peak
        of the track sets the scale.

    Raises
    ------
    SoundError
        If the file cannot be decoded; see `genretree.sound.decode.iter_blocks`.
    SettingsError
        If the engine is unknown.
    """
    return slice_blocks(partial(iter_blocks, path, salvage=salvage), settings, engine, features)


def slice_track(
    y: Float32Array, settings: ImageSettings, engine: str = "auto", features: Sequence[str] = ()
) -> Iterator[SliceImages]:
    """Compute the images and features of the slices of samples in memory.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono and finite, at 22,050 Hz.
    settings : ImageSettings
        Length of a slice and size of an image.
    engine : str
        Engine of `genretree.sound.spectra`, or "auto".
    features : sequence of str
        Names of features to compute in addition to the images; see `genretree.sound.features`.

    Yields
    ------
    SliceImages
        Equal to `iter_slices` of a file with these samples.

    Raises
    ------
    ValueError
        If there are no samples, or samples are not finite.
    SettingsError
        If the engine is unknown.

    See Also
    --------
    iter_slices : The same for an audio file.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.settings import ImageSettings
    >>> y = np.sin(np.arange(4 * 22050) / 9).astype(np.float32)
    >>> slices = list(slice_track(y, ImageSettings(slice_seconds=2.0, size=32)))
    >>> len(slices), slices[0].images.shape
    (2, (3, 32, 32))
    """
    return slice_blocks(partial(_resample, y), settings, engine, features)


def slice_blocks(
    decode_at: DecodeAt, settings: ImageSettings, engine: str = "auto", features: Sequence[str] = ()
) -> Iterator[SliceImages]:
    """Compute the slices of audio that arrives block by block, as `iter_slices`.

    Parameters
    ----------
    decode_at : callable
        `decode_at(sr)` yields the audio in blocks, mono at `sr` Hz. It is called for 22,050 Hz, and for the sample
        rates of features that need another.
    settings, engine, features
        As for `iter_slices`.
    """
    padded_blocks, padded = _pad_track(decode_at(SAMPLE_RATE), settings)
    with (
        FeatureTaps(requested_features(features), settings, decode_at) as taps,
        stream_spectra(taps.through(padded_blocks), SAMPLE_RATE, engine) as stored,
    ):
        for start in slice_starts(stored.frames, settings.slice_frames):
            yield _render_slice(stored, taps, int(start), settings, padded)


def slice_feature_blocks(
    decode_at: DecodeAt, settings: ImageSettings, features: Sequence[str]
) -> Iterator[FeatureSlice]:
    """Compute the features of slices without their spectrograms, which take most of the time.

    Parameters
    ----------
    decode_at : callable
        `decode_at(sr)` yields the audio in blocks, mono at `sr` Hz.
    settings : ImageSettings
        Length of a slice.
    features : sequence of str
        Names of features, at least one and none of them an image; see `genretree.sound.features`.

    Yields
    ------
    FeatureSlice
        At the positions of the slices of `slice_blocks`, up to the rounding of sample rates.
    """
    requested = requested_features(features)
    rates = {feature.sr for feature in requested}
    sr = SAMPLE_RATE if SAMPLE_RATE in rates else min(rates)
    hop_length = HOP_LENGTH * sr / SAMPLE_RATE
    padded_blocks, padded = _pad_track(decode_at(sr), settings, sr)
    ends, peaks = [0], [0.0]
    with FeatureTaps(requested, settings, decode_at) as taps:
        for block in taps.through(padded_blocks, sr):
            for at in range(0, len(block), _PEAK_SAMPLES):
                part = np.abs(block[at : at + _PEAK_SAMPLES])
                ends.append(ends[-1] + len(part))
                peaks.append(float(part.max()))
        audible = np.array(peaks) > max(peaks) * 10 ** (-TOP_DB / 20)
        for start in slice_starts(1 + int(ends[-1] // hop_length), settings.slice_frames):
            first = np.searchsorted(ends, start * hop_length, "right")
            last = np.searchsorted(ends, (start + settings.slice_frames - 1) * hop_length)
            yield FeatureSlice(
                start=start * HOP_LENGTH / SAMPLE_RATE,
                padded=padded,
                silent=not audible[first : last + 1].any(),
                features=taps.read(int(start)),
            )


def iter_features(
    path: AudioPath,
    settings: ImageSettings,
    starts: Iterable[float],
    features: Sequence[str],
    salvage: bool = False,
) -> Iterator[dict[str, Array]]:
    """Compute features of known slices of an audio file, without their spectra.

    Parameters
    ----------
    path : path-like
        An audio file.
    settings : ImageSettings
        Length of a slice.
    starts : iterable of float
        Starts in seconds, as returned by `iter_slices`.
    features : sequence of str
        Names of features; see `genretree.sound.features`.
    salvage : bool
        Decode what is left of a truncated file instead of raising an error.

    Yields
    ------
    dict of str to ndarray
        The features of one slice, equal to those of `iter_slices`.

    Raises
    ------
    SoundError
        If the file cannot be decoded.
    """
    decode_at = partial(iter_blocks, path, salvage=salvage)
    padded_blocks, _ = _pad_track(decode_at(SAMPLE_RATE), settings)
    with FeatureTaps(requested_features(features), settings, decode_at) as taps:
        for _ in taps.through(padded_blocks):
            pass
        for start in starts:
            yield taps.read(round(start * SAMPLE_RATE / HOP_LENGTH))


def _resample(y: Float32Array, sr: int) -> Iterator[Float32Array]:
    """Yield samples at 22,050 Hz, resampled to `sr`."""
    if sr == SAMPLE_RATE:
        yield y
        return
    import soxr

    yield soxr.resample(y, SAMPLE_RATE, sr, "HQ")


def _pad_track(
    blocks: Iterator[Float32Array], settings: ImageSettings, sr: int = SAMPLE_RATE
) -> tuple[Iterable[Float32Array], bool]:
    """Repeat a track shorter than a slice to fill one; return its blocks, and whether it was shorter."""
    # Frames are centred: n hops have n + 1 frames.
    min_samples = math.ceil((settings.slice_frames - 1) * HOP_LENGTH * sr / SAMPLE_RATE)
    head: list[Float32Array] = []
    n_samples = 0
    for block in blocks:
        head.append(block)
        n_samples += len(block)
        if n_samples >= min_samples:
            break
    padded = n_samples < min_samples
    if padded:
        head = [pad_slice(np.concatenate(head), min_samples)]
    return itertools.chain(head, blocks), padded


def stack_slices(slices: Sequence[FeatureSlice]) -> SliceInputs:
    """Stack the features of slices, and their images if they have any, into the inputs of a model."""
    images = [track_slice.images for track_slice in slices if isinstance(track_slice, SliceImages)]
    arrays: dict[str, Array] = {IMAGES: np.stack(images)} if images else {}
    for name in slices[0].features:
        arrays[name] = np.stack([track_slice.features[name] for track_slice in slices])
    return SliceInputs(arrays)


def skip_silent(slices: Iterable[AnySlice], path: AudioPath) -> Iterator[AnySlice]:
    """Yield the slices that are not silent.

    Raises
    ------
    SoundError
        Of kind `silence` if all slices are silent; `path` is for the message.
    """
    count = 0
    for track_slice in slices:
        if not track_slice.silent:
            count += 1
            yield track_slice
    if not count:
        detail = "every slice is silent (audio may be in the remainder that is dropped)"
        raise SoundError("silence", Path(path), detail)


def iter_input_slices(
    decode_at: DecodeAt, settings: ImageSettings, features: Sequence[str], path: AudioPath
) -> Iterator[FeatureSlice]:
    """Compute features of the slices that are not silent, and spectrograms only if a feature is an image.

    Parameters
    ----------
    decode_at : callable
        `decode_at(sr)` yields the audio in blocks, mono at `sr` Hz.
    settings : ImageSettings
    features : sequence of str
        Names of features; see `genretree.sound.features`.
    path : path-like
        Name of the track for error messages.

    Raises
    ------
    SoundError
        Of kind `silence` if all slices are silent.
    """
    if needs_images(features):
        return skip_silent(slice_blocks(decode_at, settings, features=features), path)
    return skip_silent(slice_feature_blocks(decode_at, settings, features), path)


def _render_slice(
    stored: StoredSpectra, taps: FeatureTaps, start: int, settings: ImageSettings, padded: bool
) -> SliceImages:
    parts = stored.read(start, settings.slice_frames)
    return SliceImages(
        images=np.stack([render_image(part, settings.size) for part in parts]),
        start=start * HOP_LENGTH / SAMPLE_RATE,
        padded=padded,
        silent=bool(parts[0].max() == parts[0].min()),
        features=taps.read(start),
        decibels=tuple((float(part.min()), float(part.max())) for part in parts),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Rendering


def render_image(db: Float32Array, size: int) -> UInt8Array:
    """Render a slice of a spectrum as a square grey image.

    Parameters
    ----------
    db : ndarray, float32, shape (bins, frames)
        In dB, low frequencies first.
    size : int
        Height and width in pixels.

    Returns
    -------
    ndarray, uint8, shape (size, size)
        Minimum to 0, maximum to 255, the highest frequency in row 0; all 0 if the slice is constant. Each pixel is the
        area-weighted mean of the pixels that it covers in the authors' image of 496x369 pixels.

    Raises
    ------
    ValueError
        If `db` is not two-dimensional or is empty.
    """
    if db.ndim != 2 or db.size == 0:
        raise ValueError(f"db must have shape (bins, frames) and not be empty, got shape {db.shape}")
    low, high = float(db.min()), float(db.max())
    if not high > low:
        return np.zeros((size, size), np.uint8)
    grey = (np.asarray(db[::-1], np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    rows, columns = db.shape
    # Columns first: they shrink more, which leaves less for the second product.
    return _round(_row_weights(rows, size) @ (_column_weights(columns, size) @ grey.T).T)


@lru_cache(maxsize=16)
def _row_weights(bins: int, size: int) -> Sparse:
    """Return the share of each bin, highest first, in each row of the image, via the canvas."""
    # Rows count from the bottom of the canvas.
    canvas = _nearest(bins, _CANVAS[0], _CANVAS_HEIGHT)[::-1, ::-1]
    return _sparse(overlaps(_CANVAS[0], size) @ canvas)


@lru_cache(maxsize=16)
def _column_weights(frames: int, size: int) -> Sparse:
    """Return the share of each frame in each column of the image, via the canvas."""
    if frames > _CANVAS[1]:  # the canvas would drop frames
        return _sparse(overlaps(frames, size))
    return _sparse(overlaps(_CANVAS[1], size) @ _nearest(frames, _CANVAS[1], _CANVAS[1]))


def _nearest(cells: int, pixels: int, span: float) -> Float32Array:
    """Return a (pixels, cells) matrix that maps each pixel to the cell at its centre; the cells span `span` pixels."""
    at = np.floor((np.arange(pixels) + 0.5) * cells / span).astype(int)
    return np.asarray(np.eye(cells, dtype=np.float32)[at])


@lru_cache(maxsize=64)
def overlaps(cells: int, pixels: int) -> Float32Array:
    """Return the share of each cell in each pixel, where equal cells and equal pixels span the same length.

    Parameters
    ----------
    cells, pixels : int
        Their numbers, at least 1.

    Returns
    -------
    ndarray, float32, shape (pixels, cells)
        Read-only; every row sums to 1.
    """
    # In units of 1 / (cells * pixels), all edges are integers.
    pixel = np.arange(pixels)[:, None] * cells
    cell = np.arange(cells)[None, :] * pixels
    shared = np.minimum(pixel + cells, cell + pixels) - np.maximum(pixel, cell)
    matrix: Float32Array = (np.maximum(shared, 0) / cells).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=16)
def _resize_weights(cells: int, pixels: int) -> Sparse:
    return _sparse(overlaps(cells, pixels))


def _sparse(matrix: Float32Array) -> Sparse:
    """Convert to a sparse matrix: a pixel depends only on the few cells that it covers."""
    from scipy.sparse import csr_array

    return csr_array(matrix)


def _round(grey: Float32Array) -> UInt8Array:
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8, order="C")


# ---------------------------------------------------------------------------------------------------------------------
# Reading rendered images


def read_rendered_image(source: bytes | str | os.PathLike[str], size: int) -> UInt8Array:
    """Read an image of the data set: a slice rendered in magma, as JPEG or any other format that Pillow reads.

    Parameters
    ----------
    source : bytes or path-like
        Content of the file, or its path.
    size : int
        Height and width of the result in pixels.

    Returns
    -------
    ndarray, uint8, shape (size, size)
        Equal to `render_image` of the same slice, up to the rounding of the image format.

    Raises
    ------
    ValueError
        If it is not an image, or is damaged.
    FileNotFoundError
        If the file does not exist.

    Notes
    -----
    The luminance of magma increases with the value, but not linearly, so it is inverted with a table before pixels are
    averaged.
    """
    from PIL import Image as PilImage
    from PIL import UnidentifiedImageError

    name = "the image" if isinstance(source, bytes) else os.fspath(source)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        with PilImage.open(io.BytesIO(content)) as image:
            image.draft("L", image.size)  # a JPEG's Y channel, without conversion to RGB
            luma = np.asarray(image.convert("L"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image ({len(content)} bytes)") from error
    except (OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    return shrink(np.take(magma_levels(), luma), size)


def shrink(grey: Float32Array, size: int) -> UInt8Array:
    """Resize an image of values 0 to 255 to a square of `size` pixels, uint8, by area-weighted means."""
    rows, columns = grey.shape
    return _round((_resize_weights(columns, size) @ (_resize_weights(rows, size) @ grey).T).T)


@lru_cache(maxsize=1)
def magma_levels() -> Float32Array:
    """Return the table from luminance 0..255 to the value 0..255 that magma renders with it."""
    import matplotlib

    # Rendering rounds colours to bytes, which matplotlib's `bytes=True` would truncate and so read 0.5 too high.
    colours = np.rint(255 * np.asarray(matplotlib.colormaps["magma"](np.arange(256)))[:, :3])
    luma = np.maximum.accumulate(colours @ np.array(_LUMA))  # rounding makes it decrease slightly in places
    numbers = (np.arange(256) + 0.5) * 255 / 256  # a colour represents 1/256 of the range: use its midpoint
    return np.asarray(np.interp(np.arange(256), luma, numbers), np.float32)
