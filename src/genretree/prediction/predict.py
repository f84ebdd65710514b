"""Predict the genre paths of audio files, in order and in bounded memory."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from genretree.arrays import Array, Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.bundle.bundle import Bundle
from genretree.checks import require_integer, require_number, require_path, require_paths
from genretree.errors import ArgumentError, SettingsError, SoundError
from genretree.files import printable
from genretree.metrics.familiarity import describe_inputs, measure_distance
from genretree.metrics.scores import decode_levels, name_path
from genretree.models.base import LevelProbabilities
from genretree.models.families.tagger.content import Content, detect_content
from genretree.models.families.tagger.model import TaggerModel
from genretree.parallel import FILE_WORKERS, available_processors, shared_by
from genretree.prediction.score_checkpoint import current_checkpoint
from genretree.progress import report_position
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, Heads
from genretree.sound.decode import iter_blocks
from genretree.sound.features import IMAGES, SliceInputs
from genretree.sound.slices import (
    DecodeAt,
    FeatureSlice,
    iter_input_slices,
    slice_feature_blocks,
    stack_slices,
)
from genretree.sound.walk import SoundWalk
from genretree.taxonomy import Taxonomy, drop_unspecified, format_path, is_same_branch

_BATCH = 32  # slices computed before they are scored, so that memory doesn't grow with a file's length
_TOP = 3
MIN_GENRE_PROBABILITY = 0.1  # of a further genre; below this, 9 of 10 would be wrong
UNSURE = "?"

T = TypeVar("T")
FileOrFiles = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class LabelProbability:
    """A node's name and its probability.

    Parameters
    ----------
    label : str
    probability : float
        In [0, 1].

    See Also
    --------
    LevelPrediction : The level of a path that the node belongs to.

    Examples
    --------
    >>> import genretree
    >>> level = genretree.load("BUNDLE").predict("song.mp3").levels[0]
    >>> [item.label for item in level.top]
    ['Rock', 'Jazz']
    """

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class LevelPrediction:
    """One level of a predicted path.

    Parameters
    ----------
    name : str
        Name of the level.
    label : str
        Name of the predicted node.
    probability : float
        Calibrated probability of that node, in [0, 1].
    top : tuple of LabelProbability
        The most probable nodes, in descending order.
    sure : bool
        Whether the probability reaches `min_confidence` at this level and all above it.

    See Also
    --------
    genretree.Prediction : The whole prediction.

    Examples
    --------
    >>> import genretree
    >>> level = genretree.load("BUNDLE").predict("song.mp3").levels[0]
    >>> level.name, level.label, level.sure
    ('level_1', 'Rock', True)
    """

    name: str
    label: str
    probability: float
    top: tuple[LabelProbability, ...]
    sure: bool = True


@dataclass(frozen=True)
class PathProbability:
    """A path and the probability of its last node.

    Parameters
    ----------
    path : tuple of str
        From the top level down.
    probability : float
        Calibrated, in [0, 1].

    See Also
    --------
    genretree.Prediction : Has several of them for a file of several genres.

    Examples
    --------
    >>> import genretree
    >>> prediction = genretree.load("BUNDLE").predict("song.mp3", n_genres=2)
    >>> prediction.genres[0].path
    ('Rock', 'Punk')
    """

    path: tuple[str, ...]
    probability: float


@dataclass(frozen=True, kw_only=True)
class SlicePrediction:
    """Prediction for one slice of a track.

    Parameters
    ----------
    start, end : float
        Position in the track, in seconds.
    path : tuple of str
        Empty if the slice is not music.
    probability : float
        Calibrated probability of the leaf, in [0, 1].
    content : Content, optional
        Music, speech or another type of sound, if the model detects it.

    See Also
    --------
    genretree.Prediction : The prediction for the whole track.

    Examples
    --------
    >>> import genretree
    >>> timeline = genretree.load("BUNDLE").predict("song.mp3").timeline
    >>> timeline[0].start
    0.0
    """

    start: float
    end: float
    path: tuple[str, ...]
    probability: float
    content: Content | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names."""
        values = {
            "start": self.start,
            "end": self.end,
            "path": list(self.path),
            "probability": _round(self.probability),
        }
        return values | _not_music(self.content)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted genre path of a file.

    Parameters
    ----------
    file : str
    path : tuple of str
        From the top level to the leaf, or down to the last node whose probability reaches `min_confidence`. With the
        tree head, each node is a child of the one before it; independent heads may contradict each other. Empty if the
        file is not music.
    levels : tuple of LevelPrediction
        One for each level. A leaf above the deepest level counts as its own child at the deeper levels.
    slices : int
        Number of slices averaged, without silent ones.
    timeline : tuple of SlicePrediction
    padded : bool
        Whether the file is shorter than one slice and was repeated to fill it.
    consistent : bool
        Whether each node of the path is a child of the one before it; always true with the tree head.
    note : str
        A limitation of the bundle, such as that it was not trained.
    complete : bool
        Whether `path` ends in a leaf.
    runtime : str
        Runtime and precision of the model's networks, such as `openvino bf16`.
    genres : tuple of PathProbability, or None
        Up to `n_genres` genres: the predicted path, then the most probable other nodes of the level at which it ends.
        None is an ancestor of another. None unless `n_genres` is given.
    content : Content, optional
        Music, speech, silence, noise or a sound effect, if the model detects it.
    training_distance : float, optional
        How far the spectrum of the file is from that of the training data: within 1 are 95 % of held-out training
        tracks. Above, the probabilities should not be believed. None for bundles of older versions.

    See Also
    --------
    genretree.predict : Predict for several files.
    PredictionError : The result for a file that can't be used.

    Examples
    --------
    >>> import genretree
    >>> prediction = genretree.load("BUNDLE").predict("song.mp3")
    >>> prediction.shown
    'Rock > Punk'
    >>> [level.label for level in prediction.levels]
    ['Rock', 'Punk']
    """

    file: str
    path: tuple[str, ...]
    levels: tuple[LevelPrediction, ...]
    slices: int
    timeline: tuple[SlicePrediction, ...]
    padded: bool = False
    consistent: bool = True
    note: str = ""
    complete: bool = True
    runtime: str = ""
    genres: tuple[PathProbability, ...] | None = None
    content: Content | None = None
    training_distance: float | None = None

    @property
    def shown(self) -> str:
        """The path as text: `Non_classic > Rock > Soft_rock`, `Non_classic > Rock > ?`, or `not music: speech`."""
        if not self.path and self.content is not None and not self.content.is_music:
            return f"not music: {self.content.type}"
        return format_path(self.path if self.complete else (*self.path, UNSURE))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, as `genretree predict --json` prints them."""
        return {
            "file": self.file,
            "path": list(self.path),
            "complete": self.complete,
            **({} if self.genres is None else {"genres": [_genre_json(genre) for genre in self.genres]}),
            **_not_music(self.content),
            "levels": [
                {
                    "name": level.name,
                    "label": level.label,
                    "probability": _round(level.probability),
                    "sure": level.sure,
                    "top": [{"label": item.label, "probability": _round(item.probability)} for item in level.top],
                }
                for level in self.levels
            ],
            "slices": self.slices,
            "padded": self.padded,
            "consistent": self.consistent,
            **({"note": self.note} if self.note else {}),
            "training_distance": None if self.training_distance is None else round(self.training_distance, 3),
            "runtime": self.runtime,
            "timeline": [item.to_json() for item in self.timeline],
        }


@dataclass(frozen=True)
class PredictionError:
    """A file that could not be classified, or a folder that could not be read, and the reason.

    Parameters
    ----------
    file : str
    kind : str
        Stable machine-readable reason, such as `not_audio`, `truncated` or `silence`.
    message : str
        What is wrong, and what to do.

    See Also
    --------
    genretree.SoundError : The exception that functions of a single file raise.

    Examples
    --------
    >>> import genretree
    >>> [result] = genretree.predict(genretree.load("BUNDLE"), "no-such-file.mp3")
    >>> isinstance(result, genretree.PredictionError), result.kind
    (True, 'not_found')
    """

    file: str
    kind: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return plain names, as `genretree predict --json` prints them."""
        return {"file": self.file, "error": {"kind": self.kind, "message": self.message}}


def _not_music(content: Content | None) -> dict[str, Any]:
    """Return the JSON field `not_music`: null for music; none at all if the model doesn't detect content."""
    return {} if content is None else {"not_music": None if content.is_music else content.to_json()}


def predict(
    bundle: Bundle,
    files: FileOrFiles,
    *,
    top: int = _TOP,
    min_confidence: float = 0.0,
    n_genres: int | None = None,
    salvage: bool = False,
    workers: int = FILE_WORKERS,
    music_only: bool = True,
    tagger: TaggerModel | None = None,
) -> Iterator[Prediction | PredictionError]:
    """Predict the genre paths of audio files, in order.

    Parameters
    ----------
    bundle : Bundle
    files : path or iterable of paths
        Audio files. Folders are searched for audio files and symbolic links are followed; each file is included once.
    top : int
        Number of most probable nodes to return for each level.
    min_confidence : float
        In [0, 1]. The path ends above the first node with a smaller probability.
    n_genres : int, optional
        Return up to this many genres in `Prediction.genres`: the predicted path, and the most probable other nodes of
        the same level with a probability of at least 0.1.
    salvage : bool
        Use what can be decoded of a truncated file.
    workers : int
        Files in work at a time, at most the number of processors, which are divided among them.
    music_only : bool
        Predict no genre for speech, noise and sound effects, if the model or `tagger` detects them; for silence in no
        case.
    tagger : TaggerModel, optional
        Detects them for a bundle of a family other than `tagger`.

    Returns
    -------
    iterator of Prediction or PredictionError
        One for each file, and an error for each broken link and each folder that can't be read. A bad file never
        stops the others.

    Raises
    ------
    ArgumentError
        If an argument has the wrong type.
    SettingsError
        If `min_confidence` is not in [0, 1].

    See Also
    --------
    predict_file : Predict for one file.
    genretree.Classifier.predict : The same as a method, for arrays too.

    Examples
    --------
    >>> import genretree
    >>> model = genretree.load("BUNDLE")
    >>> for result in genretree.predict(model, ["song.mp3", "no-such-file.mp3"]):
    ...     print(result.path if isinstance(result, genretree.Prediction) else result.kind)
    ('Rock', 'Punk')
    not_found
    """
    check_arguments(bundle, min_confidence, top, workers, n_genres)  # before the files are looked at
    return predict_found_files(
        bundle,
        find_files(require_paths("files", files)),
        top=top,
        min_confidence=min_confidence,
        n_genres=n_genres,
        salvage=salvage,
        workers=workers,
        music_only=music_only,
        tagger=tagger,
    )


def predict_found_files(
    bundle: Bundle,
    files: Iterable[Path | PredictionError],
    *,
    top: int = _TOP,
    min_confidence: float = 0.0,
    n_genres: int | None = None,
    salvage: bool = False,
    workers: int = FILE_WORKERS,
    music_only: bool = True,
    tagger: TaggerModel | None = None,
) -> Iterator[Prediction | PredictionError]:
    """Predict the genre paths of the files that `find_files` yields, and pass its errors on in place."""
    check_arguments(bundle, min_confidence, top, workers, n_genres)
    predict_one = partial(
        _predict_file,
        bundle,
        top=top,
        min_confidence=min_confidence,
        n_genres=n_genres,
        salvage=salvage,
        music_only=music_only,
        tagger=tagger,
    )
    return _map_found(predict_one, iter(files), workers)


def check_arguments(
    bundle: Bundle, min_confidence: float = 0.0, top: int = _TOP, workers: int = 1, n_genres: int | None = None
) -> None:
    """Check the types and ranges of arguments that several functions share.

    Raises
    ------
    ArgumentError
        If `bundle` is not a bundle, or `top`, `workers` or `n_genres` not a positive integer.
    SettingsError
        If `min_confidence` is not in [0, 1].
    """
    if not isinstance(bundle, Bundle):
        raise ArgumentError(
            f"bundle must be a loaded bundle, got {type(bundle).__name__}; load it: genretree.load(...)"
        )
    require_integer("top", top)
    require_integer("workers", workers)
    if n_genres is not None:
        require_integer("n_genres", n_genres)
    require_number("min_confidence", min_confidence)
    if not 0 <= min_confidence <= 1:
        raise SettingsError(f"min_confidence must be in [0, 1], got {min_confidence}")


def map_files(
    function: Callable[[Path], T], files: FileOrFiles, workers: int = FILE_WORKERS
) -> Iterator[T | PredictionError]:
    """Apply a function to audio files, some at a time, and yield the results in the order of the files.

    Parameters
    ----------
    function : callable
        Takes a path. An exception that it raises becomes a `PredictionError`.
    files : path or iterable of paths
        Audio files. Folders are searched for them.
    workers : int
        Files in work at a time, at most the number of processors.

    Raises
    ------
    ArgumentError
        If `files` contains something other than paths.
    """
    return _map_found(function, find_files(require_paths("files", files)), workers)


def _map_found(
    function: Callable[[Path], T], files: Iterator[Path | PredictionError], workers: int
) -> Iterator[T | PredictionError]:
    workers = max(1, min(workers, available_processors()))
    first = list(itertools.islice(files, workers))  # a single file gets all processors
    workers = max(1, len(first))
    with shared_by(workers), ThreadPoolExecutor(workers) as pool:
        prefetch: list[Future[T | PredictionError]] = []
        for file in itertools.chain(first, files):
            prefetch.append(pool.submit(_apply_safely, function, file))
            if len(prefetch) > workers:
                yield prefetch.pop(0).result()
        for future in prefetch:
            yield future.result()


def find_files(paths: Iterable[str | Path], walk: SoundWalk | None = None) -> Iterator[Path | PredictionError]:
    """Yield the files given and, for a folder, every audio file below it.

    Parameters
    ----------
    paths : iterable of paths
    walk : SoundWalk, optional
        Remembers the files of earlier calls, and counts those skipped.

    Yields
    ------
    Path or PredictionError
        An error for each entry of a folder that can't be read, such as a broken link.
    """
    walk = walk or SoundWalk()
    for path in map(Path, paths):
        if os.path.isdir(path):  # noqa: PTH112 (False, where is_dir raises an error for a name that is too long)
            for entry in walk.find([path]):
                name = printable(entry.name)
                yield (
                    PredictionError(name, entry.error, f"{name}: {entry.message}") if entry.error else Path(entry.name)
                )
        elif not (os.path.isfile(path) and walk.covers(path)):  # noqa: PTH113
            walk.mark(path)
            yield path


def predict_file(
    bundle: Bundle,
    file: str | Path,
    *,
    top: int = _TOP,
    min_confidence: float = 0.0,
    n_genres: int | None = None,
    salvage: bool = False,
    music_only: bool = True,
) -> Prediction:
    """Predict the genre path of one audio file.

    Parameters
    ----------
    bundle : Bundle
    file : path
    top : int
        Number of most probable nodes to return for each level.
    min_confidence : float
        In [0, 1]. The path ends above the first node with a smaller probability.
    n_genres : int, optional
        Return up to this many genres in `Prediction.genres`: the predicted path, and the most probable other nodes of
        the same level with a probability of at least 0.1.
    salvage : bool
        Use what can be decoded of a truncated file.
    music_only : bool
        Predict no genre for speech, noise and sound effects, if the model detects them; for silence in no case.

    Returns
    -------
    Prediction

    Raises
    ------
    ArgumentError
        If an argument has the wrong type or is out of range.
    SoundError
        If the file can't be used; its `kind` is the reason.

    See Also
    --------
    predict : Predict for several files or folders.

    Examples
    --------
    >>> import genretree
    >>> genretree.predict_file(genretree.load("BUNDLE"), "song.mp3").path
    ('Rock', 'Punk')
    """
    check_arguments(bundle, min_confidence, top, n_genres=n_genres)
    file = require_path("file", file)
    with shared_by(1):
        return _predict_file(
            bundle,
            file,
            top=top,
            min_confidence=min_confidence,
            n_genres=n_genres,
            salvage=salvage,
            music_only=music_only,
        )


def _predict_file(
    bundle: Bundle,
    file: str | Path,
    *,
    top: int,
    min_confidence: float,
    n_genres: int | None,
    salvage: bool,
    music_only: bool,
    tagger: TaggerModel | None = None,
) -> Prediction:
    try:
        scores = score_file(bundle, file, salvage, tagger)
    except SoundError as error:
        detects = tagger is not None or hasattr(bundle.model, "predict_with_tags")
        if error.kind == "silence" and detects:
            return _silent(bundle, printable(file))
        raise
    return as_prediction(bundle, printable(file), scores, top, min_confidence, music_only=music_only, n_genres=n_genres)


def _silent(bundle: Bundle, file: str) -> Prediction:
    """Return the prediction for a file without any sound."""
    content = Content(type="silence", tag="Silence", probability=1.0)
    return Prediction(
        file=file,
        path=(),
        levels=(),
        slices=0,
        timeline=(),
        note=str(bundle.training.get("note", "")),
        complete=False,
        runtime=bundle.runtime,
        content=content,
    )


def tag_slices(
    tagger: TaggerModel, file: str | Path, bundle: Bundle, starts: Sequence[float], salvage: bool = False
) -> Float32Array:
    """Compute the tags of the slices of a file that start at given times in seconds: shape (n_slices, 527)."""
    decode_at = partial(iter_blocks, file, salvage=salvage)
    slices = slice_feature_blocks(decode_at, bundle.images, tagger.input_features)
    found: list[tuple[float, Float32Array]] = []
    while batch := list(itertools.islice(slices, _BATCH)):
        tags = tagger.predict_with_tags(stack_slices(batch))[1]
        found += zip((item.start for item in batch), tags, strict=True)
    times = np.array([start for start, _ in found])
    return np.stack([found[int(np.abs(times - start).argmin())][1] for start in starts])


@dataclass(frozen=True)
class SliceScores:
    """Probabilities of the slices of a file, before calibration.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n_slices, n_nodes)
    starts : list of float
        Start of each slice in seconds, without silent slices.
    padded : bool
        Whether the file is shorter than one slice and was repeated to fill it.
    tags : array, shape (n_slices, 527), optional
        Probabilities of mn04's tags, if the model has them.
    training_distance : float, optional
        Distance from the training data; see `Prediction`.
    """

    levels: LevelProbabilities
    starts: list[float]
    padded: bool
    tags: Float32Array | None = None
    training_distance: float | None = None

    @property
    def content(self) -> Content | None:
        """What the file contains, if there are tags."""
        return None if self.tags is None else detect_content(self.tags)


def score_file(
    bundle: Bundle, file: str | Path, salvage: bool = False, tagger: TaggerModel | None = None
) -> SliceScores:
    """Compute the slices of a file and score them, in bounded memory.

    Parameters
    ----------
    bundle : Bundle
    file : path
    salvage : bool
        Use what can be decoded of a truncated file.
    tagger : TaggerModel, optional
        Adds tags for a bundle whose model has none.

    Raises
    ------
    SoundError
        If the file can't be used; its `kind` is the reason.
    """
    scores = score_slices(bundle, iter_inputs(bundle, partial(iter_blocks, file, salvage=salvage), file))
    if tagger is not None and scores.tags is None:
        return replace(scores, tags=tag_slices(tagger, file, bundle, scores.starts, salvage))
    return scores


def iter_inputs(bundle: Bundle, decode_at: DecodeAt, file: str | Path) -> Iterator[FeatureSlice]:
    """Compute the inputs of a bundle's model for the slices of a track that are not silent, in bounded memory.

    Spectrogram images are computed only if the model takes them.

    Parameters
    ----------
    bundle : Bundle
    decode_at : callable
        `decode_at(sr)` yields the audio in blocks, mono at `sr` Hz.
    file : path
        Name of the track for error messages.
    """
    return iter_input_slices(decode_at, bundle.images, bundle.model.input_features, file)


def score_slices(bundle: Bundle, slices: Iterable[FeatureSlice]) -> SliceScores:
    """Score the slices of one track, at least one, in batches.

    Within `checkpoint_scores`, scores are saved now and then, and slices that an interrupted run has scored are not
    scored again.
    """
    checkpoint = current_checkpoint()
    scores = _BatchScores(checkpoint.load())
    padded = False
    batch: list[FeatureSlice] = []
    for item in slices:
        padded = item.padded
        if not batch and scores.has(item.start):
            continue
        batch.append(item)
        if len(batch) == _BATCH:
            scores.add(bundle, batch)
            batch = []
            report_position(scores.starts[-1])
            if checkpoint.is_due:
                checkpoint.save(scores.arrays())
    if batch:
        scores.add(bundle, batch)
    found = scores.result(padded)
    if scores.described:
        distance = measure_distance(bundle.training["reference"], np.concatenate(scores.described))
        found = replace(found, training_distance=distance)
    checkpoint.remove()
    return found


class _BatchScores:
    """Collects the scores of batches.

    Parameters
    ----------
    arrays : mapping
        Those of a checkpoint, which ends at the end of a batch, or empty.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.starts: list[float] = [float(start) for start in arrays.get("starts", ())]
        self._levels: list[LevelProbabilities] = []
        self._tags: list[Float32Array] = []
        self.described: list[Float64Array] = [arrays["described"]] if "described" in arrays else []
        self._n_known = 0  # slices of the checkpoint that have been passed
        if self.starts:
            names = sorted((name for name in arrays if name.startswith("level_")), key=lambda name: int(name[6:]))
            self._levels.append([arrays[name] for name in names])
            if "tags" in arrays:
                self._tags.append(arrays["tags"])

    def has(self, start: float) -> bool:
        """Whether the next slice, which starts there, is in the checkpoint."""
        known = self._n_known < len(self.starts) and self.starts[self._n_known] == start
        self._n_known += known
        return known

    def add(self, bundle: Bundle, batch: Sequence[FeatureSlice]) -> None:
        """Score a batch."""
        if self._n_known < len(self.starts):  # the checkpoint has other slices from here on
            self.starts = self.starts[: self._n_known]
            self._levels = [[level[: self._n_known] for level in levels] for levels in self._levels]
            self._tags = [tags[: self._n_known] for tags in self._tags]
            self.described = [rows[: self._n_known] for rows in self.described]
        self.starts += [float(item.start) for item in batch]
        self._n_known = len(self.starts)
        inputs = stack_slices(batch)
        if bundle.training.get("reference") and (described := describe_inputs(inputs)) is not None:
            self.described.append(described)
        predict_with_tags = getattr(bundle.model, "predict_with_tags", None)
        if predict_with_tags is None:
            self._levels.append(bundle.model.predict_proba(inputs))
            return
        levels, tags = predict_with_tags(inputs)
        self._levels.append(levels)
        self._tags.append(tags)

    def arrays(self) -> dict[str, Array]:
        """Return what a checkpoint keeps."""
        found = self.result(padded=False)
        arrays: dict[str, Array] = {"starts": np.array(found.starts)}
        arrays |= {f"level_{number}": level for number, level in enumerate(found.levels)}
        if found.tags is not None:
            arrays["tags"] = found.tags
        if self.described:
            arrays["described"] = np.concatenate(self.described)
        return arrays

    def result(self, padded: bool) -> SliceScores:
        """Return all scores."""
        levels = [np.concatenate(level) for level in zip(*self._levels, strict=True)]
        return SliceScores(levels, self.starts, padded, np.concatenate(self._tags) if self._tags else None)


def score_images(bundle: Bundle, images: UInt8Array) -> SliceScores:
    """Score the images of consecutive slices of one track, uint8, shape (n_slices, 3, size, size), in batches."""
    batches = (SliceInputs({IMAGES: images[start : start + _BATCH]}) for start in range(0, len(images), _BATCH))
    scores = [bundle.model.predict_proba(batch) for batch in batches]
    seconds = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
    levels = [np.concatenate(level) for level in zip(*scores, strict=True)]
    distance = measure_distance(bundle.training.get("reference"), describe_inputs(SliceInputs({IMAGES: images})))
    starts = [index * seconds for index in range(len(images))]
    return SliceScores(levels, starts, False, training_distance=distance)


def _apply_safely(function: Callable[[Path], T], file: Path | PredictionError) -> T | PredictionError:
    if isinstance(file, PredictionError):
        return file
    try:
        return function(file)
    except SoundError as error:
        return PredictionError(error.path, error.kind, str(error))
    except Exception as error:  # no error of one file may stop the others
        return PredictionError(printable(file), "internal", f"{printable(file)}: {type(error).__name__}: {error}")


def as_prediction(
    bundle: Bundle,
    file: str,
    scores: SliceScores,
    top: int = _TOP,
    min_confidence: float = 0.0,
    music_only: bool = True,
    n_genres: int | None = None,
) -> Prediction:
    """Calibrate and average the probabilities of a file's slices, and decode the path.

    With `music_only`, what is not music has no path.
    """
    content = scores.content
    contents = (
        [None] * len(scores.starts) if scores.tags is None else [detect_content(row[None]) for row in scores.tags]
    )
    tree, heads, starts = bundle.taxonomy, bundle.model.heads, scores.starts
    by_slice = bundle.calibrate(scores.levels, "slice")
    averaged = bundle.average_slices(scores.levels)
    nodes = decode_levels(tree, heads, averaged)[0]
    n_confident, nodes = cut_path(tree, heads, averaged, nodes, min_confidence)
    whole = name_path(tree, heads, nodes)
    path = () if music_only and _is_other(content) else drop_unspecified(whole[:n_confident])
    if len(path) < len(whole):
        n_confident = min(n_confident, len(path))
    levels = []
    for level, (node, probabilities) in enumerate(zip(nodes, averaged, strict=True)):
        labels = tree.labels(level)
        best = np.argsort(-probabilities[0], kind="stable")[:top]
        choices = tuple(LabelProbability(labels[i], float(probabilities[0, i])) for i in best)
        levels.append(
            LevelPrediction(
                name=tree.levels[level],
                label=labels[node],
                probability=float(probabilities[0, node]),
                top=choices,
                sure=level < n_confident,
            )
        )
    length = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
    rows = decode_levels(tree, heads, by_slice)
    timeline = tuple(
        SlicePrediction(
            start=round(start, 3),
            end=round(start + length, 3),
            path=() if music_only and _is_other(contents[i]) else drop_unspecified(name_path(tree, heads, row)),
            probability=float(by_slice[-1][i, row[-1]]),
            content=contents[i],
        )
        for i, (start, row) in enumerate(zip(starts, rows, strict=True))
    )
    consistent = nodes.tolist() in tree.ancestors.tolist()
    note = str(bundle.training.get("note", ""))
    return Prediction(
        file=file,
        path=path,
        levels=tuple(levels),
        slices=len(starts),
        timeline=timeline,
        padded=scores.padded,
        consistent=consistent,
        note=note,
        complete=n_confident == tree.depth,
        runtime=bundle.runtime,
        genres=None if n_genres is None else choose_genres(tree, path, averaged, nodes, n_confident, n_genres),
        content=content,
        training_distance=scores.training_distance,
    )


def choose_genres(
    tree: Taxonomy,
    path: tuple[str, ...],
    averaged: LevelProbabilities,
    nodes: Int64Array,
    n_confident: int,
    n_genres: int,
    min_probability: float = MIN_GENRE_PROBABILITY,
) -> tuple[PathProbability, ...]:
    """Choose the predicted path and the most probable other nodes of the level at which it ends.

    Parameters
    ----------
    tree : Taxonomy
    path : tuple of str
        The predicted path.
    averaged : list of arrays, one for each level, shape (1, n_nodes)
    nodes : array, shape (depth,)
    n_confident : int
        Number of levels of the path, as `cut_path` returns it; without any, there are no genres.
    n_genres : int
    min_probability : float
        Minimum probability of the other nodes.

    Returns
    -------
    tuple of PathProbability
        At most `n_genres`, the predicted path first. None is an ancestor of another.
    """
    if not n_confident:
        return ()
    level = n_confident - 1
    probabilities = averaged[level][0]
    chosen = [PathProbability(path, float(probabilities[nodes[level]]))]
    for node in np.argsort(-probabilities, kind="stable").tolist():
        if len(chosen) == n_genres or probabilities[node] < min_probability:
            break
        other = drop_unspecified(tree.nodes(level)[node])
        if not any(is_same_branch(other, item.path) for item in chosen):
            stops = len(other) < len(tree.nodes(level)[node])  # the probability of a genre is that of all below it
            total = averaged[level - 1][0, tree.nodes(level - 1).index(other)] if stops else probabilities[node]
            chosen.append(PathProbability(other, float(total)))
    return tuple(chosen)


def _is_other(content: Content | None) -> bool:
    return content is not None and not content.is_music


def cut_path(
    tree: Taxonomy, heads: Heads, averaged: LevelProbabilities, nodes: Int64Array, min_confidence: float
) -> tuple[int, Int64Array]:
    """Choose the path whose probabilities reach a threshold to the deepest level, and count these levels.

    Parameters
    ----------
    tree : Taxonomy
    heads : {"tree", "independent"}
    averaged : list of arrays, one for each level, shape (1, n_nodes)
    nodes : array, shape (depth,)
        Decoded nodes, from `decode_levels`.
    min_confidence : float
        Threshold in [0, 1].

    Returns
    -------
    n_confident : int
    nodes : array, shape (depth,)

    Notes
    -----
    The decoded path maximises the expected number of correct levels, but another path may stay above the threshold for
    longer: the children of a branch with many children are all improbable even if the branch is not. That path is
    chosen then.
    """

    def count_confident(row: Int64Array) -> int:
        below = [level for level, node in enumerate(row) if averaged[level][0, node] < min_confidence]
        return below[0] if below else tree.depth

    if heads != "tree":
        n_confident = count_confident(nodes)
        if min_confidence:  # levels that contradict each other are not confident
            paths = tree.ancestors.tolist()
            while n_confident and not any(path[:n_confident] == nodes[:n_confident].tolist() for path in paths):
                n_confident -= 1
        return n_confident, nodes
    # At equal depth the decoded path comes first, then the most probable.
    order = np.argsort(-averaged[-1][0], kind="stable")
    rows = [nodes, *(tree.ancestors[leaf] for leaf in order)]
    depths = [count_confident(row) for row in rows]
    deepest = max(depths)
    if deepest == 0 or deepest == depths[0]:
        return deepest, nodes
    candidates = [row for row, depth in zip(rows, depths, strict=True) if depth == deepest]
    return deepest, max(candidates, key=lambda row: averaged[deepest - 1][0, row[deepest - 1]])


def format_csv(results: Sequence[Prediction | PredictionError], level_names: Sequence[str]) -> str:
    """Format predictions as CSV text: file, path, labels with probabilities, slices, error, training distance."""
    buffer = io.StringIO()
    columns = ["file", "path", "complete"]
    if any(isinstance(result, Prediction) and result.genres is not None for result in results):
        columns.append("genres")
    for name in level_names:
        columns += [name, f"{name}_probability"]
    columns += ["slices", "note", "error", "message"]
    if any(isinstance(result, Prediction) and result.content is not None for result in results):
        columns += ["content", "content_tag", "content_probability"]
    columns.append("training_distance")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        if isinstance(result, PredictionError):
            writer.writerow({"file": result.file, "error": result.kind, "message": result.message})
            continue
        path = "" if not result.path and _is_other(result.content) else result.shown
        row: dict[str, Any] = {"file": result.file, "path": path, "slices": result.slices}
        if result.content is not None:
            row |= {f"content{name}": value for name, value in _content_columns(result.content).items()}
        row |= {"complete": int(result.complete), "note": result.note}
        if result.training_distance is not None:
            row["training_distance"] = round(result.training_distance, 3)
        if result.genres is not None:
            row["genres"] = "; ".join(f"{format_path(item.path)} {item.probability:.3f}" for item in result.genres)
        for level in result.levels:
            row[level.name] = level.label if level.sure else UNSURE
            row[f"{level.name}_probability"] = _round(level.probability)
        writer.writerow(row)
    return buffer.getvalue()


def _genre_json(genre: PathProbability) -> dict[str, Any]:
    return {"path": list(genre.path), "probability": _round(genre.probability)}


def _content_columns(content: Content) -> dict[str, str | float]:
    return {"": content.type, "_tag": content.tag, "_probability": _round(content.probability)}


def _round(probability: float) -> float:
    return round(probability, 6)
