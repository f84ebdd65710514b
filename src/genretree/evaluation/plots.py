"""Plots of an evaluation as PNG: confusion matrices, learning curves, reliability, coverage, spectrogram strips."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.metrics.scores import CalibrationScores, LevelScores
from genretree.settings import MODALITIES
from genretree.taxonomy import display_level, display_name

_INCHES_PER_CLASS = 0.42
_BLUE, _ORANGE = "#00429d", "#e07b00"  # differ in lightness, for colour-blind readers and print
_SIDE, _GAP = 128, 6  # pixels: side of an image in a strip, and gap between images
_COLOURS = {"mel": "magma", "cqt": "magma", "chroma": "cividis"}
_ACCURACIES = ("train_accuracy_", "validation_accuracy_")
_STYLES = ("-", "--", ":", "-.")


def _titled(levels: Sequence[LevelScores]) -> tuple[tuple[str, CalibrationScores], ...]:
    depth = len(levels)
    return tuple((display_level(level.name, at, depth), level.trust) for at, level in enumerate(levels))


def draw_confusion(
    level: LevelScores, unit: str, note: str = "", boundaries: Sequence[int] = (), title: str = ""
) -> bytes:
    """Plot a level's confusion matrix: counts as text, row-normalised shares as colour.

    Parameters
    ----------
    level : LevelScores
    unit : str
        `track` or `slice`.
    note : str
        `Evaluation.disjoint`, shown below the title.
    boundaries : sequence of int
        Indices of classes that begin another branch of the taxonomy; a line separates them.
    title : str
        By default the level's name.
    """
    names = tuple(display_name(item.name) for item in level.classes)
    confusion = tuple(map(tuple, level.confusion))
    return _draw_counts(title or level.name, level.accuracy, names, confusion, unit, note, tuple(boundaries))


# The files and report of an evaluation and the report of a comparison show the same plots.
@lru_cache(maxsize=64)
def _draw_counts(
    level: str,
    accuracy: float,
    names: tuple[str, ...],
    confusion: tuple[tuple[int, ...], ...],
    unit: str,
    note: str,
    boundaries: tuple[int, ...],
) -> bytes:
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3.2 + _INCHES_PER_CLASS * len(names)
    figure = make_figure(side, side * 0.92)
    axes = figure.subplots()
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for place in boundaries:
        axes.axhline(place - 0.5, color="white", linewidth=0.8)
        axes.axvline(place - 0.5, color="white", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{level}, {int(counts.sum())} {unit}s: accuracy {accuracy:.1%}" + (note and f"\n{note}"))
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "black" if shares[row, column] > 0.6 else "white"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return to_png(figure)


def draw_history(history: Sequence[dict[str, float]]) -> bytes | None:
    """Plot the learning curves: training and validation loss and, if recorded, the accuracy of each level.

    genretree 0.1 did not record accuracies. Returns None if there is no history.
    """
    return _draw_history(tuple(tuple(row.items()) for row in history)) if history else None


@lru_cache(maxsize=16)
def _draw_history(rows: tuple[tuple[tuple[str, float], ...], ...]) -> bytes:
    history = [dict(row) for row in rows]
    step = next(name for name in ("epoch", "iteration", "step") if name in history[0])
    recorded = list(dict.fromkeys(name for row in history for name in row))
    accuracies = [name for name in recorded if name.startswith(_ACCURACIES)]
    losses = sorted(name for name in recorded if "_loss" in name and name not in accuracies)
    figure = make_figure(9 if accuracies else 5.5, 3)
    panels = figure.subplots(1, 2 if accuracies else 1, squeeze=False)[0]
    for axes, names, title in zip(panels, (losses, accuracies), ("loss", "accuracy"), strict=False):
        levels = list(dict.fromkeys(_level_of(name) for name in names))
        for name in names:
            points = [(row[step], row[name]) for row in history if name in row]
            # One classifier for each level, as boosting's independent heads have, gives several loss curves.
            number = (
                levels.index(_level_of(name)) if title == "accuracy" else int(name[-1]) if name[-1].isdigit() else 0
            )
            colour = _BLUE if name.startswith("train") else _ORANGE
            label = name.replace("_accuracy_", " ", 1) if title == "accuracy" else name.replace("_", " ")
            axes.plot(*zip(*points, strict=True), _STYLES[number % len(_STYLES)], label=label, color=colour)
        axes.set_xlabel(step)
        axes.set_ylabel(title)
        axes.legend(frameon=False, fontsize=8 if accuracies else None)
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def _level_of(name: str) -> str:
    return name.removeprefix("train_accuracy_").removeprefix("validation_accuracy_")


def draw_reliability(levels: Sequence[LevelScores]) -> bytes:
    """Plot reliability diagrams, one for each level: accuracy over confidence, before and after calibration."""
    return _draw_reliability(_titled(levels))


@lru_cache(maxsize=16)
def _draw_reliability(levels: tuple[tuple[str, CalibrationScores], ...]) -> bytes:
    figure = make_figure(3.2 * len(levels), 3.4)
    for axes, (title, trust) in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels, strict=True):
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
        curves = (
            ("before", trust.bins_before, trust.ece_before, _ORANGE, "s--"),
            ("after", trust.bins, trust.ece, _BLUE, "o-"),
        )
        for name, bins, error, colour, style in curves:
            points = [(item.confidence, item.accuracy) for item in bins]
            axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=f"{name}: ECE {error:.3f}")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        axes.set_title(title)
        axes.set_xlabel("confidence")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy")
    return to_png(figure)


def draw_coverage(levels: Sequence[LevelScores]) -> bytes:
    """Plot accuracy over coverage, the share of examples with the highest confidence, one curve for each level."""
    return _draw_coverage(_titled(levels))


@lru_cache(maxsize=16)
def _draw_coverage(levels: tuple[tuple[str, CalibrationScores], ...]) -> bytes:
    figure = make_figure(5.5, 3)
    axes = figure.subplots()
    for number, (name, trust) in enumerate(levels):
        colour = (_BLUE, _ORANGE, "#444444", "#93003a")[number % 4]
        axes.plot(*zip(*trust.curve, strict=True), _STYLES[number % 4], color=colour, label=name)
    axes.axvline(0.8, color="#888888", linewidth=0.8)
    axes.set_xlabel("coverage")
    axes.set_ylabel("accuracy")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(top=1.02)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def draw_strip(images: NDArray[np.uint8]) -> bytes:
    """Render a slice's images, uint8 (3, size, size), as a small strip: mel, CQT and chroma side by side."""
    from PIL import Image

    strip = Image.new("RGB", (len(images) * (_SIDE + _GAP) - _GAP, _SIDE), (128, 128, 128))
    for number, (name, image) in enumerate(zip(MODALITIES, images, strict=True)):
        small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        coloured = _palette(_COLOURS[name])[np.asarray(small)]
        strip.paste(Image.fromarray(coloured), (number * (_SIDE + _GAP), 0))
    stream = io.BytesIO()
    # 128 colours are visually lossless here and reduce the size to a third.
    strip.quantize(128, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


@cache
def _palette(name: str) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    colours: NDArray[np.uint8] = (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return colours


def make_figure(width: float, height: float) -> Any:
    """Create an empty figure, size in inches, at 110 dpi."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Any) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer)  # savefig renders twice
    return buffer.getvalue()
