"""Slices of 11.4 s from a track's spectra as small grey images, and the data set's images converted to the same.

The data set's authors rendered each slice with `librosa.display.specshow`: every cell of the spectrum a rectangle of
one colour, scaled to the slice's own minimum and maximum, low frequencies at the bottom, in the colour map magma, as a
JPEG of 496x369 pixels. `render_image` averages the cells of those pixels straight into a smaller grey image, by two
small matrices, and `read_rendered_image` maps the colours of such a JPEG back to numbers before shrinking it. Both give
the same image.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from genretree.arrays import Array, Float32Array, Int64Array, UInt8Array
from genretree.errors import SoundError
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, TOP_DB, ImageSettings
from genretree.sound.decode import SampleFile, iter_blocks
from genretree.sound.features import IMAGES, FeatureTaps, SliceInputs, requested_features
from genretree.sound.spectra import StoredSpectra, stream_spectra

if TYPE_CHECKING:
    from scipy.sparse import csr_array


Sparse: TypeAlias = "csr_array[np.float32]"

# The size of the authors' drawing in pixels: of 369.6 that the cells span upwards, matplotlib keeps 369.
_CANVAS = (369, 496)
_CANVAS_HEIGHT = 369.6
_LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in a JPEG's Y (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class SliceImages:
    """The three images of one slice.

    Parameters
    ----------
    images : ndarray, uint8, shape (3, size, size)
        mel, CQT and chroma; 0 is the slice's least value and 255 its greatest, the highest frequency in row 0.
    start : float
        Seconds from the track's beginning.
    padded : bool
        Whether the track was shorter than a slice and was repeated to fill it.
    silent : bool
        Whether the mel slice has no range: all of it lies at the floor, 80 dB below the track's loudest point.
    features : mapping of name to ndarray
        Features of the slice that were requested; see `genretree.sound.features`.
    decibels : tuple of three (low, high)
        What 0 and 255 of each image stand for, in dB of the track's loudest point, -80 to 0.
    """

    images: UInt8Array
    start: float
    padded: bool
    silent: bool
    features: Mapping[str, Array] = field(default_factory=dict)
    decibels: tuple[tuple[float, float], ...] = ((-TOP_DB, 0.0),) * 3


# ---------------------------------------------------------------------------------------------------------------------
# Tracks to slices


def slice_starts(n_frames: int, slice_frames: int) -> Int64Array:
    """First frames of the consecutive slices of a track.

    Parameters
    ----------
    n_frames : int
        Frames in the track.
    slice_frames : int
        Frames in a slice, at least 1.

    Returns
    -------
    ndarray, int64, shape (n_frames // slice_frames,)
        What is left over is dropped, half at each end.

    Raises
    ------
    ValueError
        If a slice has no frames.
    """
    if slice_frames < 1:
        raise ValueError(f"a slice must have at least 1 frame; got {slice_frames}")
    count = max(0, n_frames) // slice_frames
    return (max(0, n_frames) - count * slice_frames) // 2 + slice_frames * np.arange(count, dtype=np.int64)


def pad_slice(y: Float32Array, slice_samples: int) -> Float32Array:
    """Repeat a track shorter than a slice until it fills one.

    Repeating keeps level and contrast as they are in the track; zeros would add a floor that sets the slice's minimum.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono, at least one sample.
    slice_samples : int
        Samples wanted.

    Returns
    -------
    ndarray, float32, shape (max(samples, slice_samples),)
        `y` itself if it is long enough.

    Raises
    ------
    ValueError
        If there is nothing to repeat.
    """
    if len(y) >= slice_samples:
        return y
    if len(y) == 0:
        raise ValueError("an empty track can't be repeated to fill a slice")
    return np.resize(y, slice_samples)


def iter_slices(
    path: SampleFile,
    settings: ImageSettings,
    engine: str = "auto",
    salvage: bool = False,
    features: Sequence[str] = (),
) -> Iterator[SliceImages]:
    """Turn a sound file into the images of its slices, in bounded memory: the only road from file to images.

    Parameters
    ----------
    path : path-like
        A sound file.
    settings : ImageSettings
        Length of a slice and size of an image.
    engine : str
        Engine of `genretree.sound.spectra`, or "auto".
    salvage : bool
        Take what decodes of a truncated file instead of refusing it.
    features : sequence of str
        Names of features to compute as well as the images; see `genretree.sound.features`.

    Yields
    ------
    SliceImages
        At least one, in order of time. The first comes after the whole file is decoded, for the loudest point of the
        whole track sets the scale.

    Raises
    ------
    SoundError
        If the file can't be used; see `genretree.sound.decode.iter_blocks`.
    SettingsError
        If there is no such engine.
    """
    return slice_blocks(iter_blocks(path, SAMPLE_RATE, salvage), settings, engine, features)


def slice_track(
    y: Float32Array, settings: ImageSettings, engine: str = "auto", features: Sequence[str] = ()
) -> Iterator[SliceImages]:
    """Turn samples in memory into the images of their slices.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono and finite, at 22,050 Hz.
    settings : ImageSettings
        Length of a slice and size of an image.
    engine : str
        Engine of `genretree.sound.spectra`, or "auto".
    features : sequence of str
        Names of features to compute as well as the images; see `genretree.sound.features`.

    Yields
    ------
    SliceImages
        As `iter_slices` of a file with these samples.

    Raises
    ------
    ValueError
        If there are no samples, or samples that are not finite.
    SettingsError
        If there is no such engine.
    """
    return slice_blocks(iter([y]), settings, engine, features)


def slice_blocks(
    blocks: Iterator[Float32Array], settings: ImageSettings, engine: str = "auto", features: Sequence[str] = ()
) -> Iterator[SliceImages]:
    """Turn sound that comes block by block, mono at 22,050 Hz, into the images of its slices, as `iter_slices` does."""
    sound, padded = _pad_track(blocks, settings)
    with (
        FeatureTaps(requested_features(features), settings) as taps,
        stream_spectra(taps.through(sound), SAMPLE_RATE, engine) as stored,
    ):
        for start in slice_starts(stored.frames, settings.slice_frames):
            yield _render_slice(stored, taps, int(start), settings, padded)


def iter_features(
    path: SampleFile,
    settings: ImageSettings,
    starts: Iterable[float],
    features: Sequence[str],
    salvage: bool = False,
) -> Iterator[dict[str, Array]]:
    """Compute features of known slices of a sound file, without their spectra.

    Parameters
    ----------
    path : path-like
        A sound file.
    settings : ImageSettings
        Length of a slice.
    starts : iterable of float
        Seconds from the track's beginning, as `iter_slices` gave them.
    features : sequence of str
        Names of features; see `genretree.sound.features`.
    salvage : bool
        Use what can be decoded of a truncated file instead of refusing it.

    Yields
    ------
    dict of str to ndarray
        The features of one slice, as `iter_slices` gives them.

    Raises
    ------
    SoundError
        If the file can't be used.
    """
    sound, _ = _pad_track(iter_blocks(path, SAMPLE_RATE, salvage), settings)
    with FeatureTaps(requested_features(features), settings) as taps:
        for _ in taps.through(sound):
            pass
        for start in starts:
            yield taps.read(round(start * SAMPLE_RATE / HOP_LENGTH))


def _pad_track(blocks: Iterator[Float32Array], settings: ImageSettings) -> tuple[Iterable[Float32Array], bool]:
    """Fill up a track that is shorter than a slice; returns its blocks, and whether it was."""
    # Frames are centred: this many samples have one more frame than hops.
    wanted = (settings.slice_frames - 1) * HOP_LENGTH
    head: list[Float32Array] = []
    have = 0
    for block in blocks:
        head.append(block)
        have += len(block)
        if have >= wanted:
            break
    padded = have < wanted
    if padded:
        head = [pad_slice(np.concatenate(head), wanted)]
    return itertools.chain(head, blocks), padded


def stack_slices(slices: Sequence[SliceImages]) -> SliceInputs:
    """Stack the images and features of slices into the inputs of a model."""
    arrays: dict[str, Array] = {IMAGES: np.stack([piece.images for piece in slices])}
    for name in slices[0].features:
        arrays[name] = np.stack([piece.features[name] for piece in slices])
    return SliceInputs(arrays)


def skip_silent(slices: Iterable[SliceImages], path: SampleFile) -> Iterator[SliceImages]:
    """Leave silent slices out.

    Raises
    ------
    SoundError
        If all are, naming `path`; of kind silence.
    """
    count = 0
    for piece in slices:
        if not piece.silent:
            count += 1
            yield piece
    if not count:
        detail = "every slice is silent (sound may lie in the remainder that is cut off)"
        raise SoundError("silence", Path(path), detail)


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
# Drawing


def render_image(db: Float32Array, size: int) -> UInt8Array:
    """Draw a slice of a spectrum as a square grey image.

    Parameters
    ----------
    db : ndarray, float32, shape (bins, frames)
        In dB, low frequencies first.
    size : int
        Height and width in pixels.

    Returns
    -------
    ndarray, uint8, shape (size, size)
        Minimum to 0, maximum to 255, the highest frequency in row 0; all 0 if the slice has no range. Each pixel is the
        mean, weighted by area, of what lies under it in the authors' drawing of 496x369 pixels.

    Raises
    ------
    ValueError
        If `db` isn't two-dimensional or has no cells.
    """
    if db.ndim != 2 or db.size == 0:
        raise ValueError(f"a slice must be of shape (bins, frames) and not empty; got shape {db.shape}")
    low, high = float(db.min()), float(db.max())
    if not high > low:
        return np.zeros((size, size), np.uint8)
    grey = (np.asarray(db[::-1], np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    rows, columns = db.shape
    # Columns first: they shrink, which leaves less for the second product.
    return _round(_row_weights(rows, size) @ (_column_weights(columns, size) @ grey.T).T)


@lru_cache(maxsize=16)
def _row_weights(bins: int, size: int) -> Sparse:
    """Share of each bin, highest first, in each row of the image, by way of the canvas."""
    # Rows are counted from the bottom, where the canvas begins.
    canvas = _nearest(bins, _CANVAS[0], _CANVAS_HEIGHT)[::-1, ::-1]
    return _sparse(overlaps(_CANVAS[0], size) @ canvas)


@lru_cache(maxsize=16)
def _column_weights(frames: int, size: int) -> Sparse:
    """Share of each frame in each column of the image, by way of the canvas."""
    if frames > _CANVAS[1]:  # the canvas would drop frames
        return _sparse(overlaps(frames, size))
    return _sparse(overlaps(_CANVAS[1], size) @ _nearest(frames, _CANVAS[1], _CANVAS[1]))


def _nearest(cells: int, pixels: int, span: float) -> Float32Array:
    """Matrix, (pixels, cells), that gives each pixel the cell at its centre, where the cells span `span` pixels."""
    at = np.floor((np.arange(pixels) + 0.5) * cells / span).astype(int)
    return np.asarray(np.eye(cells, dtype=np.float32)[at])


@lru_cache(maxsize=64)
def overlaps(cells: int, pixels: int) -> Float32Array:
    """Share of each cell in each pixel, where `cells` equal cells and `pixels` equal pixels span the same length.

    Parameters
    ----------
    cells, pixels : int
        How many there are, at least 1.

    Returns
    -------
    ndarray, float32, shape (pixels, cells)
        Read-only; every row sums to 1.
    """
    # In units of 1 / (cells * pixels) all edges are whole numbers.
    pixel = np.arange(pixels)[:, None] * cells
    cell = np.arange(cells)[None, :] * pixels
    shared = np.minimum(pixel + cells, cell + pixels) - np.maximum(pixel, cell)
    matrix: Float32Array = (np.maximum(shared, 0) / cells).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=16)
def _shrinking(cells: int, pixels: int) -> Sparse:
    return _sparse(overlaps(cells, pixels))


def _sparse(matrix: Float32Array) -> Sparse:
    """Keep what isn't 0: a pixel sees only the few cells under it."""
    from scipy.sparse import csr_array

    return csr_array(matrix)


def _round(grey: Float32Array) -> UInt8Array:
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8, order="C")


# ---------------------------------------------------------------------------------------------------------------------
# Reading drawings


def read_rendered_image(source: bytes | str | os.PathLike[str], size: int) -> UInt8Array:
    """Read an image of the data set: a slice drawn in magma, as JPEG (or any other form that Pillow reads).

    Parameters
    ----------
    source : bytes or path-like
        Content of the file, or where it is.
    size : int
        Height and width of the result in pixels.

    Returns
    -------
    ndarray, uint8, shape (size, size)
        As `render_image` gives for the slice behind the image.

    Raises
    ------
    ValueError
        If it is no image, or a damaged one.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    Magma's luminance rises with the number it stands for, but not in proportion, so it is inverted through a table,
    before any pixels are averaged.
    """
    from PIL import Image as PilImage
    from PIL import UnidentifiedImageError

    name = "the image" if isinstance(source, bytes) else os.fspath(source)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        with PilImage.open(io.BytesIO(content)) as image:
            image.draft("L", image.size)  # a JPEG's own Y channel, without a detour over RGB
            luma = np.asarray(image.convert("L"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no image ({len(content)} bytes)") from error
    except (OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    return shrink(np.take(magma_numbers(), luma), size)


def shrink(grey: Float32Array, size: int) -> UInt8Array:
    """Average an image of numbers 0 to 255, by area, into a square of `size` pixels, uint8."""
    rows, columns = grey.shape
    return _round((_shrinking(columns, size) @ (_shrinking(rows, size) @ grey).T).T)


@lru_cache(maxsize=1)
def magma_numbers() -> Float32Array:
    """Table from luminance 0..255 to the number 0..255 that magma shows so."""
    import matplotlib

    # Drawing rounds colours to bytes, where matplotlib's own `bytes=True` would cut them off and read 0.5 too high.
    colours = np.rint(255 * np.asarray(matplotlib.colormaps["magma"](np.arange(256)))[:, :3])
    luma = np.maximum.accumulate(colours @ np.array(_LUMA))  # rounding lets it fall a little in places
    numbers = (np.arange(256) + 0.5) * 255 / 256  # a colour stands for a 256th of the range: take its middle
    return np.asarray(np.interp(np.arange(256), luma, numbers), np.float32)
