"""A trained model as one object: files, folders, arrays and images in; paths, probabilities and embeddings out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, overload

import numpy as np

from genretree.arrays import Array, Float32Array, Float64Array, UInt8Array
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.checks import require_names, require_path, require_paths, require_type
from genretree.errors import ArgumentError, BundleError, SoundError
from genretree.explanation.bundle_weights import load_weights_for
from genretree.models.base import LevelProbabilities, embed_slices
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.parallel import FILE_WORKERS
from genretree.prediction.predict import (
    Prediction,
    PredictionError,
    SliceScores,
    as_prediction,
    check_arguments,
    iter_inputs,
    map_files,
    predict,
    predict_file,
    score_file,
    score_images,
    score_slices,
)
from genretree.settings import N_FFT, SAMPLE_RATE
from genretree.sound.decode import MAX_AMPLITUDE, iter_blocks
from genretree.sound.features import IMAGES, SliceInputs, requested_features
from genretree.sound.slices import FeatureSlice, stack_slices
from genretree.taxonomy import NodePath, format_path

if TYPE_CHECKING:
    import pandas as pd


Paths: TypeAlias = Sequence[str | Path]
_ARRAY = "<array>"
_BATCH = 32
_MAX_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """Probabilities of all nodes of a genre tree for several tracks.

    Parameters
    ----------
    files : tuple of str
        One name for each track, `<array>` for an array.
    nodes : tuple of node paths
        All nodes of the tree, level by level; each once.
    values : ndarray, float64, shape (n_files, n_nodes)
        Calibrated, in [0, 1]. Within a level they sum to 1, where leaves that end above it count as well. With the tree
        head, a parent's probability is the sum of its children's. A row is NaN if its file could not be used.
    errors : tuple of PredictionError
        Files that could not be used, with reasons.

    See Also
    --------
    genretree.Classifier.predict_proba : Compute them.

    Examples
    --------
    >>> import numpy as np
    >>> nodes = (("Rock",), ("Rock", "Punk"))
    >>> table = Probabilities(files=("a.mp3",), nodes=nodes, values=np.array([[0.9, 0.4]]))
    >>> table.labels
    ('Rock', 'Rock > Punk')
    >>> table["Rock > Punk"]
    array([0.4])
    """

    files: tuple[str, ...]
    nodes: tuple[NodePath, ...]
    values: Float64Array
    errors: tuple[PredictionError, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the nodes as text, such as `Non_classic > Rock`."""
        return tuple(format_path(node) for node in self.nodes)

    def __getitem__(self, node: str | NodePath) -> Float64Array:
        """Probabilities of one node, shape (n_files,)."""
        if not isinstance(node, str):
            node = tuple(require_names("node", node))
        label = node if isinstance(node, str) else format_path(node)
        try:
            column: Float64Array = self.values[:, self.labels.index(label)]
        except ValueError as error:
            raise ArgumentError(f"no node '{label}'; choose one of: {', '.join(self.labels)}") from error
        return column

    def __len__(self) -> int:
        return len(self.files)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with one row for each file and one column for each node; needs pandas."""
        import pandas as pd

        return pd.DataFrame(self.values, index=pd.Index(self.files, name="file"), columns=list(self.labels))


@dataclass(frozen=True, repr=False)
class Classifier(Bundle):
    """A trained bundle that predicts for files, folders, arrays and images.

    `genretree.load` returns one. It is also a `Bundle`, and all functions that take a bundle take it.

    Parameters
    ----------
    folder, family, taxonomy, images, settings, model, training, calibration, runtime
        As for `genretree.Bundle`.

    See Also
    --------
    genretree.load : Load one.
    genretree.GenreClassifier : A scikit-learn estimator that trains one.

    Examples
    --------
    >>> import genretree
    >>> model = genretree.load("BUNDLE")
    >>> model.predict("song.mp3").path
    ('Rock', 'Punk')
    """

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Classifier:
        """Add the methods of this class to a bundle."""
        require_type("bundle", bundle, Bundle, "use genretree.load")
        return cls(**{field.name: getattr(bundle, field.name) for field in fields(Bundle)})

    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        inputs: str | Path | Array,
        *,
        sr: float | None = None,
        top: int = 3,
        min_confidence: float = 0.0,
        n_genres: int | None = None,
        salvage: bool = False,
        music_only: bool = True,
        workers: int = FILE_WORKERS,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        inputs: Paths,
        *,
        sr: float | None = None,
        top: int = 3,
        min_confidence: float = 0.0,
        n_genres: int | None = None,
        salvage: bool = False,
        music_only: bool = True,
        workers: int = FILE_WORKERS,
    ) -> list[Prediction | PredictionError]: ...

    def predict(
        self,
        inputs: str | Path | Paths | Array,
        *,
        sr: float | None = None,
        top: int = 3,
        min_confidence: float = 0.0,
        n_genres: int | None = None,
        salvage: bool = False,
        music_only: bool = True,
        workers: int = FILE_WORKERS,
    ) -> Prediction | list[Prediction | PredictionError]:
        """Predict the genre path of one or several tracks.

        Parameters
        ----------
        inputs : path, sequence of paths, or ndarray
            An audio file; a folder, which is searched for audio files; several of both; audio samples as floats, shape
            (n_samples,) or (n_channels, n_samples), with `sr`; or the images of one track's slices, uint8, shape
            (n_slices, 3, size, size).
        sr : float, optional
            Sampling rate of an array of audio samples, in Hz.
        top : int
            Number of most probable nodes to return for each level.
        min_confidence : float
            In [0, 1]. The path ends above the first node with a smaller probability.
        n_genres : int, optional
            Return up to this many genres in `Prediction.genres`: the predicted path, and the most probable other nodes
            of the same level with a probability of at least 0.1.
        salvage : bool
            Use what can be decoded of a truncated file.
        music_only : bool
            Predict no genre for speech, silence, noise and sound effects, if the model detects them.
        workers : int
            Files in work at a time.

        Returns
        -------
        Prediction or list
            One prediction for one file or array. For a folder or a sequence, a list with a `Prediction` or a
            `PredictionError` for each file: a bad file never stops the others.

        Raises
        ------
        ArgumentError
            If `inputs` or `sr` has the wrong type, shape or range.
        SoundError
            If a single file can't be used.

        Examples
        --------
        >>> import genretree, soundfile
        >>> model = genretree.load("BUNDLE")
        >>> model.predict("song.mp3").path
        ('Rock', 'Punk')
        >>> y, sr = soundfile.read("song.mp3")
        >>> model.predict(y.T, sr=sr).path  # shape (n_channels, n_samples)
        ('Rock', 'Punk')
        """
        check_arguments(self, min_confidence, top, workers, n_genres)
        if _is_array(inputs):
            scores = self._score_array(inputs, sr)
            return as_prediction(self, _ARRAY, scores, top, min_confidence, music_only, n_genres)
        _refuse_sr(sr, inputs)
        if _is_one_file(inputs):
            return predict_file(
                self,
                inputs,
                top=top,
                min_confidence=min_confidence,
                n_genres=n_genres,
                salvage=salvage,
                music_only=music_only,
            )
        files = require_paths("inputs", inputs)
        options: dict[str, Any] = {"top": top, "min_confidence": min_confidence, "salvage": salvage}
        options["music_only"] = music_only
        return list(predict(self, files, workers=workers, n_genres=n_genres, **options))

    def predict_proba(
        self,
        inputs: str | Path | Paths | Array,
        *,
        sr: float | None = None,
        salvage: bool = False,
        workers: int = FILE_WORKERS,
    ) -> Probabilities:
        """Compute the calibrated probabilities of all nodes of the tree.

        Parameters
        ----------
        inputs, sr, salvage, workers
            As for `predict`.

        Returns
        -------
        Probabilities
            One row for each file. Files that can't be used have a row of NaN and an entry in `errors`.

        Examples
        --------
        >>> import genretree
        >>> table = genretree.load("BUNDLE").predict_proba(["song.mp3"])
        >>> table.labels
        ('Jazz', 'Rock', 'Rock > Indie', 'Rock > Punk')
        >>> table.values.shape
        (1, 4)
        """
        check_arguments(self, workers=workers)
        if _is_array(inputs):
            row = self._join_levels(self.average_slices(self._score_array(inputs, sr).levels))
            return Probabilities(files=(_ARRAY,), nodes=self._nodes, values=row)
        _refuse_sr(sr, inputs)
        files = require_paths("inputs", inputs)
        names, rows, errors = [], [], []

        def average_file(file: Path) -> tuple[str, LevelProbabilities]:
            return str(file), self.average_slices(score_file(self, file, salvage).levels)

        for result in map_files(average_file, files, workers):
            if isinstance(result, PredictionError):
                errors.append(result)
                names.append(result.file)
                rows.append(np.full((1, len(self._nodes)), np.nan))
            else:
                names.append(result[0])
                rows.append(self._join_levels(result[1]))
        values = np.concatenate(rows) if rows else np.zeros((0, len(self._nodes)))
        return Probabilities(files=tuple(names), nodes=self._nodes, values=values, errors=tuple(errors))

    def embed(
        self,
        inputs: str | Path | Paths | Array,
        *,
        sr: float | None = None,
        salvage: bool = False,
        workers: int = FILE_WORKERS,
    ) -> Float32Array | dict[str, Float32Array]:
        """Compute the model's features before its last layer, one vector for each slice.

        Parameters
        ----------
        inputs, sr, salvage, workers
            As for `predict`.

        Returns
        -------
        ndarray, float32, shape (n_slices, n_features), or dict
            For a folder or a sequence, a dict from file name to array; files that can't be used are left out.

        Raises
        ------
        ArgumentError
            If `inputs` or `sr` has the wrong type, shape or range.
        SoundError
            If a single file can't be used.
        BundleError
            If the model has no features.

        Examples
        --------
        >>> import genretree
        >>> genretree.load("BUNDLE").embed("song.mp3").ndim
        2
        """
        check_arguments(self, workers=workers)
        bundle = load_weights_for(self)
        if _is_array(inputs):
            if inputs.ndim == 4:
                _refuse_sr(sr, inputs)
                return embed_slices(bundle.model, SliceInputs({IMAGES: _check_images(self, inputs)}))
            return _embed(bundle, self._slices(inputs, sr))
        _refuse_sr(sr, inputs)

        def embed_file(file: Path) -> tuple[str, Float32Array]:
            return str(file), _embed(bundle, iter_inputs(bundle, partial(iter_blocks, file, salvage=salvage), file))

        if _is_one_file(inputs):
            return embed_file(require_path("inputs", inputs))[1]
        files = require_paths("inputs", inputs)
        results = map_files(embed_file, files, workers)
        return dict(item for item in results if not isinstance(item, PredictionError))

    def _score_array(self, inputs: Array, sr: float | None) -> SliceScores:
        if inputs.ndim != 4:
            return score_slices(self, self._slices(inputs, sr))
        _refuse_sr(sr, inputs)
        return score_images(self, _check_images(self, inputs))

    def _slices(self, y: Array, sr: float | None) -> Iterator[FeatureSlice]:
        mono, native_sr = _to_mono(y, sr)
        return iter_inputs(self, partial(_resample, mono, native_sr), _ARRAY)

    @property
    def _nodes(self) -> tuple[NodePath, ...]:
        levels = range(self.taxonomy.depth)
        return tuple(dict.fromkeys(node for level in levels for node in self.taxonomy.nodes(level)))

    def _join_levels(self, levels: LevelProbabilities) -> Float64Array:
        columns: dict[NodePath, Float64Array] = {}
        for level, values in enumerate(levels):
            for column, node in enumerate(self.taxonomy.nodes(level)):
                columns.setdefault(node, values[:, column])
        return np.stack([columns[node] for node in self._nodes], axis=1)


def load(
    source: str | Path, *, runtime: RuntimeChoice = "torch", precision: Precision = "float32", download: bool = False
) -> Classifier:
    """Load a trained model.

    Parameters
    ----------
    source : path or str
        The folder of a bundle; `user/name` or `user/name@revision` on the Hugging Face Hub; or `zoo:NAME`, a ready
        model (see `genretree models`). `hf://user/name` and `zoo:NAME` are never folders.
    runtime : {"torch", "openvino", "onnxruntime", "auto"}
        Backend for the networks. All but torch need an export, see `genretree export`.
    precision : {"float32", "bf16", "auto"}
        `auto` uses bf16 on processors with hardware support for it.
    download : bool
        Download a Hub bundle that is not in the cache.

    Returns
    -------
    Classifier

    Raises
    ------
    BundleError
        If a file of the bundle is missing, damaged or of another format, or a ready model is not on this machine.
    MissingExtraError
        If the runtime is not installed.
    HubError
        If the bundle is on the Hub and not in the cache, or can't be downloaded.

    See Also
    --------
    genretree.train : Train a bundle.
    genretree.pull : Download a bundle from the Hub.

    Examples
    --------
    >>> import genretree
    >>> model = genretree.load("BUNDLE")
    >>> model.predict("song.mp3").path
    ('Rock', 'Punk')
    """
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(f"source must be a path or a name on the Hub, got {type(source).__name__}")
    require_path("source", source)  # not empty
    return Classifier.from_bundle(load_bundle(source, runtime, precision, download=download))


def _embed(bundle: Bundle, slices: Iterable[FeatureSlice]) -> Float32Array:
    embeddings = []
    remaining = iter(slices)
    while batch := list(itertools.islice(remaining, _BATCH)):
        embeddings.append(embed_slices(bundle.model, stack_slices(batch)))
    return np.concatenate(embeddings)


def _is_array(inputs: object) -> TypeGuard[Array]:
    """Check for an array of audio samples or images; an array of strings or paths is a sequence of paths."""
    return isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "OUS"


def _is_one_file(inputs: object) -> TypeGuard[str | Path]:
    """Check for the path of a file; a path that can't be looked up is left to the decoder's message."""
    return isinstance(inputs, str | os.PathLike) and inputs != "" and not os.path.isdir(inputs)  # noqa: PTH112


def _refuse_sr(sr: float | None, inputs: object) -> None:
    if sr is None:
        return
    if isinstance(inputs, np.ndarray) and inputs.ndim == 4:
        raise ArgumentError("sr is only for an array of audio samples; omit it for images")
    if isinstance(inputs, str | os.PathLike):
        raise ArgumentError("sr is only for an array of audio samples; a file states its own sampling rate")
    raise ArgumentError(f"sr is only for a NumPy array of one track's audio samples, got {type(inputs).__name__}")


def _to_mono(y: Array, sr: float | None) -> tuple[Float32Array, float]:
    """Check audio samples and average their channels; return them and their sample rate in Hz."""
    if y.ndim not in (1, 2):
        shapes = "(n_samples,) or (n_channels, n_samples), and images (n_slices, 3, size, size)"
        raise ArgumentError(f"audio samples must have shape {shapes}, got {y.shape}")
    if sr is None or isinstance(sr, bool) or not isinstance(sr, int | float | np.number) or not 1000 <= sr <= 768_000:
        raise ArgumentError(f"an array of audio samples needs its sampling rate sr, 1000 to 768000 Hz, got {sr!r}")
    if y.dtype.kind != "f":
        raise ArgumentError(f"audio samples must be floating-point in [-1, 1], got {y.dtype}; scale integers first")
    if y.ndim == 2 and y.shape[0] > _MAX_CHANNELS:
        hint = f"at most {_MAX_CHANNELS} channels; got {y.shape}" + ("; use y.T" if y.shape[1] <= _MAX_CHANNELS else "")
        raise ArgumentError(f"audio samples must have shape (n_samples,) or (n_channels, n_samples), {hint}")
    if not y.size:
        raise ArgumentError("the array has no audio samples")
    mono = np.asarray(y if y.ndim == 1 else y.mean(axis=0), np.float32)
    if not np.isfinite(mono).all():
        raise ArgumentError("audio samples contain NaN or infinity")
    if np.abs(mono).max() > MAX_AMPLITUDE:
        raise ArgumentError("audio samples are a million times full scale; divide them, so that they are in [-1, 1]")
    n_samples = round(len(mono) * SAMPLE_RATE / float(sr))
    if n_samples < N_FFT:
        milliseconds = 1000 * len(mono) / float(sr)
        detail = f"only {n_samples} samples ({milliseconds:.0f} ms) of audio; at least {N_FFT} are required"
        raise SoundError("too_short", _ARRAY, detail)
    return mono, float(sr)


def _resample(y: Float32Array, native_sr: float, sr: int) -> Iterator[Float32Array]:
    """Yield samples resampled to `sr` Hz, as one block."""
    import soxr

    yield y if native_sr == sr else np.asarray(soxr.resample(y, native_sr, sr, "HQ"), np.float32)


def _check_images(bundle: Bundle, images: Array) -> UInt8Array:
    size = bundle.images.size
    if images.dtype != np.uint8 or images.shape[1:] != (3, size, size) or not len(images):
        raise ArgumentError(
            f"images must be uint8 of shape (n_slices, 3, {size}, {size}), got {images.dtype} {images.shape}"
        )
    if requested_features(bundle.model.input_features):
        raise BundleError(f"{bundle.family} needs audio, not images; pass audio samples or a file")
    return images
