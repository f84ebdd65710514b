"""Reference values for deletion and insertion curves, computed with Quantus.

    python -m venv VENV && VENV/bin/pip install quantus==0.6.0 torch==2.13.0
    VENV/bin/python benchmarks/faithfulness_reference.py tests/data/quantus_pixel_flipping.json

The model is logistic in the pixels of one chroma image, and the attribution is constant within each part of the chroma
map. Quantus's pixel flipping replaces the pixels by the baseline in the order of the attribution. The file holds the
probability after each part; the insertion curve comes from flipping the baseline into a constant slice. At 228 pixels
the 12 x 4 parts have no fractional pixels. `tests/explanation/test_explain.py` compares
`genretree.explanation.evaluate.faithfulness` with these values. genretree is not imported, and Quantus is not a
dependency of it.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SIZE, ROWS, STEPS = 228, 12, 57  # pixels; rows and steps of a chroma map
STEP_LENGTHS = (15, 14, 14, 14)  # map steps of the four parts along time
PIXELS_PER_FLIP = 76  # divides the number of pixels of every part
FOREGROUND, BACKGROUND = 200, 90  # grey levels of the slice and of its baseline


def main() -> None:
    """Write the reference values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()

    import quantus  # type: ignore[import-not-found, unused-ignore]

    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, ROWS * len(STEP_LENGTHS))  # one per part; positive for the node
    weights = np.round((weights - weights.mean() + 0.05) / 6, 4)  # keeps the probability away from 0 and 1
    relevance = np.round(weights + rng.normal(0, 0.1, len(weights)), 4)  # an imperfect map
    model = Logistic(spread(weights)).eval()
    curves = {}
    for name, start, replacement in (("deletion", FOREGROUND, BACKGROUND), ("insertion", BACKGROUND, FOREGROUND)):
        metric = quantus.PixelFlipping(
            features_in_step=PIXELS_PER_FLIP,
            perturb_baseline=float(replacement),
            abs=False,
            normalise=False,
            disable_warnings=True,
            display_progressbar=False,
        )
        slices = np.full((1, 1, SIZE, SIZE), float(start), np.float32)
        attribution = spread(relevance)[None, None].astype(np.float32)
        curve = np.array(metric(model, slices, np.array([0]), attribution, softmax=False, device="cpu")[0])
        ends = np.cumsum(part_areas()[np.argsort(-relevance)]) // PIXELS_PER_FLIP
        with torch.no_grad():
            first = float(model(torch.from_numpy(slices))[0, 0])
        curves[name] = [first, *curve[ends - 1].tolist()]
    content = {
        "quantus": version("quantus"),
        "weights": weights.tolist(),
        "relevance": relevance.tolist(),
        "slice": FOREGROUND,
        "baseline": BACKGROUND,
        "size": SIZE,
        **curves,
    }
    given.out.write_text(json.dumps(content) + "\n", encoding="utf-8")


class Logistic(nn.Module):
    """Two classes; the log odds of the first are the weighted mean of the pixels."""

    weights: Tensor

    def __init__(self, weights: NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights) / weights.size)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, shape (n, 1, size, size), to probabilities, shape (n, 2)."""
        odds = (images[:, 0].double() * self.weights).sum(dim=(1, 2))
        return torch.stack([torch.sigmoid(odds), torch.sigmoid(-odds)], dim=1)


def part_areas() -> NDArray[np.int64]:
    """Count the pixels of each part, lowest row first."""
    pixels_per_step = SIZE // STEPS
    return np.tile(np.array(STEP_LENGTHS) * pixels_per_step * (SIZE // ROWS), ROWS)


def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Assign the value of each part to its pixels, shape (size, size); the lowest row of the map is at the bottom."""
    parts = np.repeat(values.reshape(ROWS, -1), np.array(STEP_LENGTHS) * (SIZE // STEPS), axis=1)
    return np.repeat(parts[::-1], SIZE // ROWS, axis=0)


if __name__ == "__main__":
    main()
