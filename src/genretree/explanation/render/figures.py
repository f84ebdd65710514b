"""Figures of an explanation as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.evaluation.plots import make_figure, to_png
from genretree.explanation.coordinates import FrequencyAxis, View
from genretree.explanation.render.canvas import TITLES, Canvas, build_canvas
from genretree.explanation.result import Explanation, Timeline
from genretree.taxonomy import NodePath, display_name, display_text

_HEIGHTS: dict[View, float] = {"mel": 2.0, "cqt": 2.0, "chroma": 1.1, "mel_16k": 2.0}
_HERTZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000)
_FOR, _AGAINST = (224, 92, 0), (0, 96, 214)
_LINES = ("#00429d", "#e07b00", "#444444", "#93003a")
_PATH = "#b5367a"
_OPAQUE = 0.85


def draw_reason(explanation: Explanation, index: int = 0) -> bytes:
    """Plot the explanation of one node: each view with its relevance overlaid, and the time lines below."""
    reason = explanation.reasons[index]
    views = [relevance for relevance in reason.maps if relevance.values.any()] or list(reason.maps[:1])
    heights = [_HEIGHTS[relevance.view] for relevance in views]
    figure = make_figure(10, sum(heights) + 2.1)
    rows = figure.subplots(len(views) + 1, 1, height_ratios=[*heights, 1.2], sharex=True)
    for axes, relevance in zip(rows, views, strict=False):
        canvas = build_canvas(explanation.track_slices, relevance, reason.color_scale)
        share = float(reason.shares.get(relevance.view, np.zeros(1)).mean())
        title = f"{TITLES[relevance.view]}: {share:+.2f} of the log odds"
        draw_canvas(axes, canvas, relevance.axis, title)
    draw_timelines(rows[-1], explanation.timelines, explanation.track_slices.starts, explanation.track_slices.seconds)
    rows[-1].set_xlabel("seconds")
    figure.suptitle(f"{display_text(reason.target.question)} ({explanation.method}); orange: for, blue: against")
    return to_small_png(figure)


def draw_canvas(axes: Any, canvas: Canvas, axis: FrequencyAxis, title: str) -> None:
    """Plot one view: the spectrogram in grey, positive relevance in orange, negative relevance in blue."""
    extent = (*canvas.seconds, 0, axis.rows)
    axes.imshow(canvas.shown, aspect="auto", cmap="gray", extent=extent, interpolation="nearest")
    axes.imshow(relevance_to_rgba(canvas.relevance), aspect="auto", extent=extent, interpolation="bilinear")
    places, names = ticks(axis)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    if canvas.decibels:
        low, high = float(np.nanmin(canvas.shown)), float(np.nanmax(canvas.shown))
        axes.set_title(f"grey: {low:.0f} to {high:.0f} dB", fontsize=8, loc="right", color="#666666")


def relevance_to_rgba(relevance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert relevance of -1 to 1 to RGBA, uint8, shape (..., 4)."""
    colours = np.where(relevance[..., None] >= 0, np.array(_FOR), np.array(_AGAINST))
    opacity = 255 * _OPAQUE * np.abs(relevance)
    rgba: NDArray[np.uint8] = np.concatenate([colours, opacity[..., None]], axis=-1).round().astype(np.uint8)
    return rgba


def ticks(axis: FrequencyAxis) -> tuple[list[float], list[str]]:
    """Return positions (in rows from the lowest) and labels of the ticks of a frequency axis."""
    if axis.view == "chroma":
        naturals = [row for row, name in enumerate(axis.names) if name in ("C", "D", "E", "G", "A", "B")]
        return [row + 0.5 for row in naturals], [axis.names[row] for row in naturals]
    if axis.view == "cqt":
        return [position + 0.5 for position in range(0, axis.rows, 12)], list(axis.names[::12])
    labelled = [hertz for hertz in _HERTZ if axis.edges[0] < hertz < axis.edges[-1]]
    positions = np.interp(labelled, axis.edges, np.arange(axis.rows + 1))
    spaced = [i for i in range(len(labelled)) if i == 0 or positions[i] - positions[i - 1] > axis.rows / 20]
    names = [f"{labelled[i] / 1000:g} kHz" if labelled[i] >= 1000 else f"{labelled[i]} Hz" for i in spaced]
    return [float(positions[i]) for i in spaced], names


def draw_timelines(axes: Any, timelines: Sequence[Timeline], starts: NDArray[np.float64], seconds: float) -> None:
    """Plot the probability of each node over the track, one step per slice."""
    for index, timeline in enumerate(timelines):
        colour = _LINES[index % len(_LINES)]
        for start, probability in zip(starts.tolist(), timeline.probabilities.tolist(), strict=True):
            axes.plot(
                [start, start + seconds], [probability, probability], color=colour, linewidth=2.5, solid_capstyle="butt"
            )
        axes.plot([], [], color=colour, label=display_name(timeline.node[-1]))
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("probability", fontsize=8)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)


def draw_tree(explanation: Explanation) -> bytes:
    """Plot the tree with the probability of each node on its branch and the predicted path in colour."""
    probabilities: Mapping[NodePath, float] = dict(explanation.tree)
    leaves = [
        path
        for path in probabilities
        if not any(other[: len(path)] == path and other != path for other in probabilities)
    ]
    heights = {leaf: float(-rank) for rank, leaf in enumerate(leaves)}
    inner = {path[:cut] for path in probabilities for cut in range(len(path))}
    for path in sorted(inner, key=len, reverse=True):
        below = [heights[other] for other in heights if other[: len(path)] == path and len(other) == len(path) + 1]
        heights[path] = sum(below) / len(below)
    predicted = explanation.prediction.path
    figure = make_figure(2.2 + 2.9 * max(map(len, probabilities)), 0.8 + 0.34 * len(leaves))
    axes = figure.subplots()
    for path, probability in probabilities.items():
        is_predicted = predicted[: len(path)] == path
        colour, parent = (_PATH if is_predicted else "#8a8a96"), path[:-1]
        x_bend = len(path) - 0.55
        xs = [len(parent) + 0.12 * bool(parent), x_bend, len(path) - 0.5]
        ys = [heights[parent], heights[path], heights[path]]
        axes.plot(
            xs, ys, color=colour, linewidth=0.6 + 5 * probability, solid_joinstyle="round", zorder=1 + is_predicted
        )
        name = f"{display_name(path[-1])}  {probability:.0%}"
        weight = "bold" if is_predicted else "normal"
        axes.text(len(path) - 0.46, heights[path], name, va="center", fontsize=9, fontweight=weight, color=colour)
    axes.set_xlim(-0.1, max(map(len, probabilities)) + 0.55)
    axes.set_ylim(min(heights.values()) - 0.7, 0.7)
    axes.axis("off")
    return to_png(figure)


def to_small_png(figure: Any) -> bytes:
    """Render a figure as PNG with 128 colours, a third of the size without a visible difference here."""
    from PIL import Image

    figure.canvas.draw()
    stream = io.BytesIO()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(stream, "PNG")
    return stream.getvalue()


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode greyscale or RGBA pixels as PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()
