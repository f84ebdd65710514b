"""Registry of input features by name, and the mapping of arrays that every model takes.

`images` are the uint8 images of mel, CQT and chroma, shape (3, size, size); `mel`, `cqt` and `chroma` are one of them
each, shape (size, size). Every other feature is computed on request: `mel_16k`, `mel_32k`, `wave_16k` and
`wave_48k` (the samples as int16), and those of `register_feature`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import IO, Self, TypeAlias

import numpy as np

from genretree.arrays import Array, Float32Array, Int64Array
from genretree.checks import require_integer, require_iterable, suggest
from genretree.errors import ArgumentError, SettingsError
from genretree.settings import (
    HOP_LENGTH,
    MEL_16K_BANDS,
    MEL_16K_RATE,
    MODALITIES,
    SAMPLE_RATE,
    ImageSettings,
)
from genretree.sound.mel_16k import MEL_16K_HOP, Mel16kTap, compute_mel_16k, mel_16k_frames
from genretree.sound.mel_32k import MEL_32K_BANDS, MEL_32K_RATE, compute_mel_32k, mel_32k_frames
from genretree.sound.wave import compute_wave, wave_16k_shape, wave_48k_shape

IMAGES = "images"
MEL_16K = "mel_16k"
MEL_32K = "mel_32k"
WAVE_16K = "wave_16k"
WAVE_48K = "wave_48k"
ENTRY_POINTS = "genretree.features"
_BUILT_IN = (IMAGES, *MODALITIES)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_BYTES_IN_MEMORY = 32 << 20  # bytes; about 6 minutes of samples

Inputs: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True)
class Feature:
    """A feature of slices that a model may take as input.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and '_'; stored as `NAME.npy`.
    compute : callable
        `compute(y, sr)` returns the feature of one slice, given its audio samples, float32, mono, at `sr` Hz. Worker
        processes import it by its name, so it must be a function of a module.
    shape : callable
        `shape(settings)` returns the shape of the feature of one slice, for `ImageSettings`.
    dtype : str
        NumPy type in the store.
    sr : int
        Sample rate of the audio that `compute` takes, in Hz. The file is decoded again for a rate other than 22,050.
    """

    name: str
    compute: Callable[[Float32Array, int], Array]
    shape: Callable[[ImageSettings], tuple[int, ...]]
    dtype: str = "float32"
    sr: int = SAMPLE_RATE


def _mel_16k_shape(settings: ImageSettings) -> tuple[int, ...]:
    return mel_16k_frames(settings), MEL_16K_BANDS


def _mel_32k_shape(settings: ImageSettings) -> tuple[int, ...]:
    return MEL_32K_BANDS, mel_32k_frames(settings)


_MEL_16K = Feature(MEL_16K, compute_mel_16k, _mel_16k_shape, "float16")
_COMPUTED = {
    MEL_16K: _MEL_16K,
    MEL_32K: Feature(MEL_32K, compute_mel_32k, _mel_32k_shape, "float16", MEL_32K_RATE),
    WAVE_16K: Feature(WAVE_16K, compute_wave, wave_16k_shape, "int16", 16000),
    WAVE_48K: Feature(WAVE_48K, compute_wave, wave_48k_shape, "int16", 48000),
}
_registered: dict[str, Feature] = {}


def register_feature(
    name: str,
    compute: Callable[[Float32Array, int], Array],
    shape: tuple[int, ...] | Callable[[ImageSettings], tuple[int, ...]],
    dtype: str = "float32",
    sr: int = SAMPLE_RATE,
) -> Feature:
    """Register a feature extractor, so that stores and models can ask for it by name.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and '_'.
    compute : callable
        `compute(y, sr)` returns the feature of one slice, given its audio samples: float32, mono, shape (n_samples,),
        at `sr` Hz. A function of a module, because worker processes import it by its name.
    shape : tuple of int, or callable
        Shape of the feature of one slice, or a function that returns it for `ImageSettings`.
    dtype : str
        NumPy type in which it is stored.
    sr : int
        Sample rate in Hz of the audio that `compute` takes.

    Returns
    -------
    Feature

    Raises
    ------
    ArgumentError
        If the name is not valid or belongs to another feature.

    See Also
    --------
    genretree.models.register_family : Register a model family, whose models name their features.

    Notes
    -----
    A package registers its features without being imported by an entry point in the group `genretree.features`, whose
    object is a `Feature`. The service decodes files in a process of its own and finds features only there.

    Examples
    --------
    >>> import librosa
    >>> def compute_tempogram(y, sr):
    ...     return librosa.feature.tempogram(y=y, sr=sr).mean(axis=1)
    >>> register_feature("tempogram", compute_tempogram, shape=(384,)).name
    'tempogram'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError(f"a feature's name has lower-case letters, digits and '_', got {name!r}")
    if not callable(compute):
        raise ArgumentError(f"compute must be a function of audio samples, got {type(compute).__name__}")
    try:
        numpy_dtype = np.dtype(dtype)
    except TypeError as error:
        raise ArgumentError(f"dtype must be the name of a NumPy type, got {dtype!r}") from error
    if numpy_dtype.kind not in "biufc":
        raise ArgumentError(f"dtype must be numeric, got {dtype!r}")
    require_integer("sr", sr)
    if not callable(shape):
        require_iterable("shape", shape, "positive integers")
        shape = tuple(shape)
        for size in shape:
            require_integer("each of shape", size)
    feature = Feature(name, compute, shape if callable(shape) else _FixedShape(shape), numpy_dtype.str, sr)
    existing = _registered.get(name)
    if name in (*_BUILT_IN, *_COMPUTED) or (existing is not None and _origin(existing) != _origin(feature)):
        raise ArgumentError(f"a feature named '{name}' is already registered; choose another name")
    _registered[name] = feature
    return feature


@dataclass(frozen=True)
class _FixedShape:
    """A shape that does not depend on the image settings; an object of a module, for worker processes."""

    shape: tuple[int, ...]

    def __call__(self, settings: ImageSettings) -> tuple[int, ...]:
        return self.shape


def feature_names() -> list[str]:
    """Return the names of all features: built-in, registered, and from installed packages."""
    return list(dict.fromkeys([*_BUILT_IN, *_COMPUTED, *_registered, *_installed()]))


def get_feature(name: str) -> Feature:
    """Return the feature of a name; images are always computed and have none.

    Raises
    ------
    SettingsError
        For an unknown name; the message suggests the closest one.
    """
    if name in _COMPUTED:
        return _COMPUTED[name]
    if name in _registered:
        return _registered[name]
    entry = _installed().get(name)
    if entry is None:
        names = feature_names()
        raise SettingsError(f"unknown feature '{name}'; {suggest(str(name), names)}")
    try:
        feature = entry.load()
    except Exception as error:  # whatever importing another package raises
        raise SettingsError(f"cannot import the feature '{name}' from {entry.value}: {error}") from error
    if not isinstance(feature, Feature) or feature.name != name:
        raise ArgumentError(f"{entry.value}: not a genretree Feature named '{name}'")
    return feature


def requested_features(names: Iterable[str]) -> tuple[Feature, ...]:
    """Return the features to compute, each once, without the images, which are always computed."""
    return tuple(get_feature(name) for name in dict.fromkeys(names) if name not in _BUILT_IN)


def needs_images(names: Iterable[str]) -> bool:
    """Return whether any of the features are spectrogram images."""
    return any(name in _BUILT_IN for name in names)


def register_all(features: Iterable[Feature]) -> list[str]:
    """Register features in a worker process, which lacks the caller's registrations; return their names."""
    names = []
    for feature in features:
        names.append(feature.name)
        if feature.name not in _COMPUTED:
            _registered.setdefault(feature.name, feature)
    return names


@lru_cache(maxsize=1)
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _origin(feature: Feature) -> tuple[str, str]:
    return getattr(feature.compute, "__module__", ""), getattr(feature.compute, "__qualname__", repr(feature.compute))


class SliceInputs(Mapping[str, Array]):
    """Features of slices by name, each of shape (n, ...); read from disk on first access.

    Parameters
    ----------
    arrays : mapping of name to array
        All with the same number of rows; usually memory-mapped. `images` also provides `mel`, `cqt` and `chroma`.
    rows : array or slice, optional
        Rows of the arrays; by default all.
    """

    def __init__(self, arrays: Inputs, rows: Int64Array | slice | None = None) -> None:
        self._arrays = arrays
        self._rows = rows
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name in MODALITIES and name not in self._arrays:
            if IMAGES not in self._arrays:
                raise KeyError(name)
            return self[IMAGES][:, MODALITIES.index(name)]
        if name not in self._read:
            array = self._arrays[name]
            self._read[name] = array if self._rows is None else np.asarray(array[self._rows])
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._arrays or (name in MODALITIES and IMAGES in self._arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class FeatureTaps:
    """Passes a track's blocks through and computes features of its slices, in bounded memory. Use `with`.

    Parameters
    ----------
    features : sequence of Feature
    settings : ImageSettings
    decode_at : callable
        `decode_at(sr)` yields the track's blocks at another sample rate, for features that need one.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        settings: ImageSettings,
        decode_at: Callable[[int], Iterable[Float32Array]],
    ) -> None:
        self._features = features
        self._settings = settings
        self._decode_at = decode_at
        self._exit_stack = ExitStack()
        self._mel = self._exit_stack.enter_context(Mel16kTap()) if _MEL_16K in features else None
        self._samples: dict[int, IO[bytes]] = {}
        if any(feature != _MEL_16K and feature.sr == SAMPLE_RATE for feature in features):
            self._open_samples(SAMPLE_RATE)

    def through(self, blocks: Iterable[Float32Array], sr: int = SAMPLE_RATE) -> Iterator[Float32Array]:
        """Yield the blocks, at `sr` Hz, unchanged; features can be read once all have been consumed."""
        if sr != SAMPLE_RATE:
            self._open_samples(sr)
            return self._write_samples(sr, blocks)
        recorded = self._write_samples(sr, blocks) if sr in self._samples else blocks
        return iter(recorded if self._mel is None else self._mel.through(recorded))

    def _open_samples(self, sr: int) -> None:
        file = tempfile.SpooledTemporaryFile(_MAX_BYTES_IN_MEMORY, prefix="genretree-")  # noqa: SIM115 (closed by the exit stack)
        self._samples[sr] = self._exit_stack.enter_context(file)

    def _write_samples(self, sr: int, blocks: Iterable[Float32Array]) -> Iterator[Float32Array]:
        for block in blocks:
            self._samples[sr].write(np.ascontiguousarray(block, np.float32).tobytes())
            yield block

    def read(self, start: int) -> dict[str, Array]:
        """Compute the features of the slice that starts at frame `start` of the spectra."""
        values: dict[str, Array] = {}
        for feature in self._features:
            shape = tuple(feature.shape(self._settings))
            if feature == _MEL_16K:
                assert self._mel is not None
                at = round(start * HOP_LENGTH / SAMPLE_RATE * MEL_16K_RATE / MEL_16K_HOP)
                values[feature.name] = self._mel.read(at, shape[0])
                continue
            value = np.asarray(feature.compute(self._read_samples(start, feature.sr), feature.sr))
            if value.shape != shape:
                raise ArgumentError(f"the feature '{feature.name}' has shape {value.shape}; registered: {shape}")
            if value.dtype.kind in "fc" and not np.isfinite(value).all():
                raise ArgumentError(f"the feature '{feature.name}' contains NaN or infinity; return finite values")
            values[feature.name] = np.ascontiguousarray(value, np.dtype(feature.dtype))
        return values

    def _read_samples(self, start: int, sr: int) -> Float32Array:
        if sr not in self._samples:
            self._open_samples(sr)
            for _ in self._write_samples(sr, self._decode_at(sr)):
                pass
        file = self._samples[sr]
        length = round((self._settings.slice_frames - 1) * HOP_LENGTH * sr / SAMPLE_RATE)
        n_samples = file.seek(0, 2) // 4
        at = max(0, min(round(start * HOP_LENGTH * sr / SAMPLE_RATE), n_samples - length))
        file.seek(4 * at)
        y = np.frombuffer(file.read(4 * length), np.float32)
        return y if len(y) == length else np.resize(y, length)  # a track shorter than a slice is repeated

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit_stack.close()
