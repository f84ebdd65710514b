"""Draw the README's picture: a track's three images, its path with probabilities, and its time line.

python docs/make_picture.py quickstart/cnn quickstart/corpus/audio/Solo/SOMEONE-1.flac docs/pictures/overview.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from genretree._predict import Prediction, predict_file
from genretree.bundle import Bundle, load_bundle
from genretree.sound.slices import iter_slices

TITLES = {"mel": "mel spectrogram", "cqt": "constant-Q (CQT)", "chroma": "chroma"}


def draw(bundle: Bundle, file: Path, out: Path) -> None:
    """Draw and save."""
    found = predict_file(bundle, file)
    pieces = [piece.images for piece in iter_slices(file, bundle.images)]
    whole = np.concatenate(pieces, axis=2)
    figure = Figure(figsize=(10, 4.6), dpi=130, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    for axes, (name, title), image in zip(left.subplots(3, 1, sharex=True), TITLES.items(), whole, strict=True):
        seconds = len(pieces) * bundle.images.slice_seconds
        axes.imshow(image, aspect="auto", cmap="magma", extent=(0, seconds, 0, 1))
        axes.set_yticks([])
        axes.set_ylabel(name)
        axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("seconds")
    _draw_levels(right.subplots(len(found.levels), 1), found)
    right.suptitle(" > ".join(found.path).replace("_", " "), fontsize=12, fontweight="bold")
    figure.savefig(out)


def _draw_levels(rows: Any, found: Prediction) -> None:
    for axes, level in zip(np.atleast_1d(rows), found.levels, strict=True):
        names = [item.label.replace("_", " ") for item in level.top][::-1]
        values = [item.probability for item in level.top][::-1]
        colours = ["#b5367a" if item.label == level.label else "#b8b8c8" for item in level.top][::-1]
        axes.barh(names, values, color=colours)
        for row, value in enumerate(values):
            axes.text(value + 0.01, row, f"{value:.0%}", va="center", fontsize=9)
        axes.set_xlim(0, 1.12)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_title(level.name, fontsize=9, loc="left")


if __name__ == "__main__":
    draw(load_bundle(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
