"""From sound files to genre paths."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from genretree.arrays import Int64Array, UInt8Array
from genretree.bundle.bundle import Bundle
from genretree.checks import require_integer, require_number, require_path
from genretree.errors import ArgumentError, SettingsError, SoundError
from genretree.files import printable
from genretree.metrics.scores import decode_levels, name_path
from genretree.models.base import LevelProbabilities
from genretree.parallel import available_processors, shared_by
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, Heads
from genretree.sound.features import IMAGES, SliceInputs
from genretree.sound.slices import SliceImages, iter_slices, skip_silent, stack_slices
from genretree.sound.walk import SoundWalk
from genretree.taxonomy import Taxonomy, format_path

_BATCH = 32  # slices drawn before they are scored, so memory doesn't grow with a file's length
_TOP = 3
UNSURE = "?"

T = TypeVar("T")
FileOrFiles = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class LabelProbability:
    """A node's name and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class LevelPrediction:
    """One level of a path: the node taken, its probability, the likeliest nodes, and whether it is sure enough."""

    name: str
    label: str
    probability: float
    top: tuple[LabelProbability, ...]
    sure: bool = True


@dataclass(frozen=True, kw_only=True)
class SlicePrediction:
    """What one slice says: where it lies in the track (seconds), the path and its leaf's probability."""

    start: float
    end: float
    path: tuple[str, ...]
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A file's genre path.

    Parameters
    ----------
    file : str
    path : tuple of str
        From the top level to the leaf, or as far down as the model is sure. Each name is a child of the one before it
        (with the tree head; independent heads, kept for comparison, may contradict themselves).
    levels : tuple of LevelPrediction
        One for each level; a leaf that ends above stands for itself at the deeper ones.
    slices : int
        How many slices were averaged; silent ones are left out.
    timeline : tuple of SlicePrediction
    padded : bool
        The file is shorter than one slice and was repeated to fill it.
    consistent : bool
        Whether each name of the path is a child of the one before it; always so with the tree head.
    note : str
        What one must know of the bundle: that it was never trained, say.
    complete : bool
        Whether `path` ends in a leaf; if not, the model is not sure enough of what lies below.
    runtime : str
        What ran the model's networks, and in which arithmetic: `openvino bf16`, say.
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

    @property
    def shown(self) -> str:
        """The path for people: `Non_classic > Rock > Soft_rock`, or `Non_classic > Rock > ?`."""
        return format_path(self.path if self.complete else (*self.path, UNSURE))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, as `genretree predict --json` prints them."""
        return {
            "file": self.file,
            "path": list(self.path),
            "complete": self.complete,
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
            "runtime": self.runtime,
            "timeline": [
                {"start": item.start, "end": item.end, "path": list(item.path), "probability": _round(item.probability)}
                for item in self.timeline
            ],
        }


@dataclass(frozen=True)
class PredictionError:
    """A file that could not be classified, or a folder that could not be read, and why."""

    file: str
    kind: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return what `genretree predict --json` prints."""
        return {"file": self.file, "error": {"kind": self.kind, "message": self.message}}


def predict(
    bundle: Bundle,
    files: FileOrFiles,
    *,
    top: int = _TOP,
    min_confidence: float = 0.0,
    salvage: bool = False,
    workers: int = 2,
) -> Iterator[Prediction | PredictionError]:
    """Predict the genre path of audio files, in their order.

    Parameters
    ----------
    bundle : Bundle
    files : path or iterable of paths
        Audio files. Folders are searched for them. Symbolic links are followed; a file that several links or folders
        lead to comes once.
    top : int
        How many of the likeliest nodes to give at each level.
    min_confidence : float
        0 to 1: name the path only as far down as a node's probability reaches this.
    salvage : bool
        Use what can be decoded of a truncated file.
    workers : int
        Files that are worked on at a time, but no more than there are processors; these are divided among them.

    Yields
    ------
    Prediction or PredictionError
        One for each file, and an error for each link to nothing and each folder that can't be read. A bad file never
        stops the others.

    Raises
    ------
    ArgumentError
        If an argument has the wrong type.
    SettingsError
        If `min_confidence` is not in [0, 1].
    """
    check_arguments(bundle, min_confidence, top, workers)
    return map_files(lambda file: _predict_file(bundle, file, top, min_confidence, salvage), files, workers)


def predict_found_files(
    bundle: Bundle,
    files: Iterable[Path | PredictionError],
    *,
    top: int = _TOP,
    min_confidence: float = 0.0,
    salvage: bool = False,
    workers: int = 2,
) -> Iterator[Prediction | PredictionError]:
    """Do the same as `predict` for what `find_files` found; errors are passed on in their places."""
    check_arguments(bundle, min_confidence, top, workers)
    return _map_found(lambda file: _predict_file(bundle, file, top, min_confidence, salvage), iter(files), workers)


def check_arguments(bundle: Bundle, min_confidence: float = 0.0, top: int = _TOP, workers: int = 1) -> None:
    """Refuse what is not a bundle, a threshold that is not a probability, and counts that are not positive integers.

    Raises
    ------
    ArgumentError, SettingsError
    """
    if not isinstance(bundle, Bundle):
        raise ArgumentError(
            f"bundle must be a loaded bundle, got {type(bundle).__name__}; load it: genretree.load(...)"
        )
    require_integer("top", top)
    require_integer("workers", workers)
    require_number("min_confidence", min_confidence)
    if not 0 <= min_confidence <= 1:
        raise SettingsError(f"min_confidence must be in [0, 1], got {min_confidence}")


def map_files(function: Callable[[Path], T], files: FileOrFiles, workers: int = 2) -> Iterator[T | PredictionError]:
    """Apply a function to audio files, some at a time, and yield the results in the order of the files.

    Parameters
    ----------
    function : callable
        Takes a path. What it raises becomes a `PredictionError`.
    files : path or iterable of paths
        Audio files. Folders are searched for them.
    workers : int
        Files in work at a time, at most the number of processors.

    Raises
    ------
    ArgumentError
        If `files` contains something other than paths.
    """
    if isinstance(files, str | os.PathLike):
        files = [files]
    try:
        paths = [Path(file) for file in files]
    except TypeError as error:
        raise ArgumentError(f"files must be a path or a sequence of paths, got {type(files).__name__}") from error
    return _map_found(function, find_files(paths), workers)


def _map_found(
    function: Callable[[Path], T], found: Iterator[Path | PredictionError], workers: int
) -> Iterator[T | PredictionError]:
    workers = max(1, min(workers, available_processors()))
    first = list(itertools.islice(found, workers))  # a single file gets all processors
    workers = max(1, len(first))
    with shared_by(workers), ThreadPoolExecutor(workers) as pool:
        prefetch: list[Future[T | PredictionError]] = []
        for file in itertools.chain(first, found):
            prefetch.append(pool.submit(_apply_safely, function, file))
            if len(prefetch) > workers:
                yield prefetch.pop(0).result()
        for future in prefetch:
            yield future.result()


def find_files(paths: Iterable[str | Path], walk: SoundWalk | None = None) -> Iterator[Path | PredictionError]:
    """Yield files as given and, for a folder, every sound file below it.

    Parameters
    ----------
    paths : iterable of paths
    walk : SoundWalk, optional
        Knows what was found before, and counts what is passed over.

    Yields
    ------
    Path or PredictionError
        An error for what a folder holds that can't be read, such as a link to nothing.
    """
    walk = walk or SoundWalk()
    for path in map(Path, paths):
        if path.is_dir():
            for found in walk.find([path]):
                name = printable(found.name)
                yield (
                    PredictionError(name, found.error, f"{name}: {found.message}") if found.error else Path(found.name)
                )
        elif not (path.is_file() and walk.covers(path)):
            walk.mark(path)
            yield path


def predict_file(
    bundle: Bundle, file: str | Path, *, top: int = _TOP, min_confidence: float = 0.0, salvage: bool = False
) -> Prediction:
    """Name one file's genre path, with the options of `predict`.

    Raises
    ------
    ArgumentError
        If an argument has the wrong type or is out of range.
    SoundError
        If the file can't be used; its `kind` says why.
    """
    check_arguments(bundle, min_confidence, top)
    file = require_path("file", file)
    with shared_by(1):
        return _predict_file(bundle, file, top, min_confidence, salvage)


def _predict_file(bundle: Bundle, file: str | Path, top: int, min_confidence: float, salvage: bool) -> Prediction:
    return describe(bundle, printable(file), score_file(bundle, file, salvage), top, min_confidence)


@dataclass(frozen=True)
class SliceScores:
    """What a model says of a file's slices, before calibration.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n_slices, n_nodes)
    starts : list of float
        Where each slice begins, in seconds; silent slices are left out.
    padded : bool
        The file is shorter than one slice and was repeated to fill it.
    """

    levels: LevelProbabilities
    starts: list[float]
    padded: bool


def score_file(bundle: Bundle, file: str | Path, salvage: bool = False) -> SliceScores:
    """Draw a file's slices and score them, in bounded memory.

    Raises
    ------
    SoundError
        If the file can't be used; its `kind` says why.
    """
    slices = iter_slices(file, bundle.images, salvage=salvage, features=bundle.model.input_features)
    return score_slices(bundle, skip_silent(slices, file))


def score_slices(bundle: Bundle, slices: Iterable[SliceImages]) -> SliceScores:
    """Score the slices of one track, at least one, in batches."""
    starts: list[float] = []
    padded = False
    found: list[LevelProbabilities] = []
    batch: list[SliceImages] = []
    for piece in slices:
        padded = piece.padded
        starts.append(float(piece.start))
        batch.append(piece)
        if len(batch) == _BATCH:
            found.append(_score(bundle, batch))
            batch = []
    if batch:
        found.append(_score(bundle, batch))
    return SliceScores([np.concatenate(parts) for parts in zip(*found, strict=True)], starts, padded)


def score_images(bundle: Bundle, images: UInt8Array) -> SliceScores:
    """Score the images of consecutive slices of one track, uint8, shape (n_slices, 3, size, size), in batches."""
    batches = (SliceInputs({IMAGES: images[at : at + _BATCH]}) for at in range(0, len(images), _BATCH))
    parts = [bundle.model.predict_proba(batch) for batch in batches]
    seconds = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
    levels = [np.concatenate(level) for level in zip(*parts, strict=True)]
    return SliceScores(levels, [place * seconds for place in range(len(images))], False)


def average_slices(bundle: Bundle, heard: SliceScores) -> LevelProbabilities:
    """Give a whole file's calibrated probabilities: arrays of shape (1, n_nodes), one for each level."""
    return bundle.average_slices(heard.levels)


def _score(bundle: Bundle, pieces: Sequence[SliceImages]) -> LevelProbabilities:
    return bundle.model.predict_proba(stack_slices(pieces))


def _apply_safely(function: Callable[[Path], T], file: Path | PredictionError) -> T | PredictionError:
    if isinstance(file, PredictionError):
        return file
    try:
        return function(file)
    except SoundError as error:
        return PredictionError(error.path, error.kind, str(error))
    except Exception as error:  # whatever one file brings about must not stop the others
        return PredictionError(printable(file), "internal", f"{printable(file)}: {type(error).__name__}: {error}")


def describe(bundle: Bundle, file: str, heard: SliceScores, top: int = _TOP, min_confidence: float = 0.0) -> Prediction:
    """Make a prediction of what the model says of a file's slices."""
    tree, heads, starts = bundle.taxonomy, bundle.model.heads, heard.starts
    by_slice = bundle.calibrate(heard.levels, "slice")
    averaged = average_slices(bundle, heard)
    nodes = decode_levels(tree, heads, averaged)[0]
    known, nodes = cut_path(tree, heads, averaged, nodes, min_confidence)
    path = name_path(tree, heads, nodes)[:known]
    named = []
    for level, (node, probabilities) in enumerate(zip(nodes, averaged, strict=True)):
        labels = tree.labels(level)
        best = np.argsort(-probabilities[0], kind="stable")[:top]
        choices = tuple(LabelProbability(labels[i], float(probabilities[0, i])) for i in best)
        chance = float(probabilities[0, node])
        named.append(
            LevelPrediction(
                name=tree.levels[level], label=labels[node], probability=chance, top=choices, sure=level < known
            )
        )
    length = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
    rows = decode_levels(tree, heads, by_slice)
    timeline = tuple(
        SlicePrediction(
            start=round(start, 3),
            end=round(start + length, 3),
            path=name_path(tree, heads, row),
            probability=float(by_slice[-1][i, row[-1]]),
        )
        for i, (start, row) in enumerate(zip(starts, rows, strict=True))
    )
    consistent = nodes.tolist() in tree.ancestors.tolist()
    note = str(bundle.training.get("note", ""))
    return Prediction(
        file=file,
        path=path,
        levels=tuple(named),
        slices=len(starts),
        timeline=timeline,
        padded=heard.padded,
        consistent=consistent,
        note=note,
        complete=known == tree.depth,
        runtime=bundle.runtime,
    )


def cut_path(
    tree: Taxonomy, heads: Heads, averaged: LevelProbabilities, nodes: Int64Array, least: float
) -> tuple[int, Int64Array]:
    """Give how many levels are sure enough, and the nodes of a path that starts with those.

    Parameters
    ----------
    tree : Taxonomy
    heads : "tree" or "independent"
    averaged : list of arrays, one for each level, shape (1, n_nodes)
    nodes : array, shape (depth,)
        The nodes that were chosen, as `decode_levels` gives them.
    least : float
        0 to 1: the probability that makes a node sure.

    Notes
    -----
    The path that is chosen gets the most levels right, but another may stay sure for longer: where one branch has many
    children, each of them is unlikely, and yet the branch is not. Then that one is taken.
    """

    def sure(row: Int64Array) -> int:
        below = [level for level, node in enumerate(row) if averaged[level][0, node] < least]
        return below[0] if below else tree.depth

    if heads != "tree":
        known = sure(nodes)
        if least:  # what contradicts itself is not sure
            paths = tree.ancestors.tolist()
            while known and not any(path[:known] == nodes[:known].tolist() for path in paths):
                known -= 1
        return known, nodes
    # On equal depth the path that was chosen stands first, then the likeliest.
    order = np.argsort(-averaged[-1][0], kind="stable")
    rows = [nodes, *(tree.ancestors[leaf] for leaf in order)]
    depths = [sure(row) for row in rows]
    deepest = max(depths)
    if deepest == 0 or deepest == depths[0]:
        return deepest, nodes
    candidates = [row for row, depth in zip(rows, depths, strict=True) if depth == deepest]
    return deepest, max(candidates, key=lambda row: averaged[deepest - 1][0, row[deepest - 1]])


def write_csv(results: Sequence[Prediction | PredictionError], level_names: Sequence[str]) -> str:
    """Give predictions as CSV text: file, path, a label and a probability column for each level, slices, error."""
    buffer = io.StringIO()
    columns = ["file", "path", "complete"]
    for name in level_names:
        columns += [name, f"{name}_probability"]
    writer = csv.DictWriter(buffer, [*columns, "slices", "note", "error", "message"], lineterminator="\n")
    writer.writeheader()
    for result in results:
        if isinstance(result, PredictionError):
            writer.writerow({"file": result.file, "error": result.kind, "message": result.message})
            continue
        row: dict[str, Any] = {"file": result.file, "path": result.shown, "slices": result.slices}
        row |= {"complete": int(result.complete), "note": result.note}
        for level in result.levels:
            row[level.name] = level.label if level.sure else UNSURE
            row[f"{level.name}_probability"] = _round(level.probability)
        writer.writerow(row)
    return buffer.getvalue()


def _round(probability: float) -> float:
    return round(probability, 6)
