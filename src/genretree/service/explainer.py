"""The worker that explains: slices that the decoder drew to maps and pictures. It is killed when nobody waits any more.

The service starts it as `python -P -m genretree.service.explainer SETUP`.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.explanation.api import explain_slices
from genretree.explanation.render.figures import draw_reason, draw_tree
from genretree.explanation.render.page import list_shares, plot_views, time_marks
from genretree.explanation.result import Explanation
from genretree.explanation.similar.neighbours import FOLDER as INDEX
from genretree.explanation.slices import TrackSlices
from genretree.progress import on_progress
from genretree.service import worker
from genretree.service.wire import Message, take_array, take_features
from genretree.service.worker import Tell

# How far the whole is when a bar begins and ends; all other bars are of the maps.
_PARTS = {"views": (0.0, 0.1)}
_MAPS = (0.1, 0.9)


@lru_cache(maxsize=4)
def _load(folder: str, torch: bool) -> Bundle:
    return load_bundle(folder, "torch" if torch else "auto", "float32")  # maps are small differences


def work(message: Message, tell: Tell) -> Message:
    """Explain slices; the pictures are drawn if they are asked for."""
    facts = message.facts
    method = facts["question"]["method"]
    # Gradients and features are torch's; an export only predicts.
    torch = method not in (None, "occlusion") or (Path(facts["bundle"]) / INDEX).is_dir()

    def bar(title: str, done: int, total: int) -> None:
        low, high = _PARTS.get(title, _MAPS)
        tell("explaining", low + (high - low) * done / max(1, total))

    tell("explaining", 0.0)
    with on_progress(bar):
        found = explain_slices(_load(facts["bundle"], torch), read_pieces(facts, message.blobs), **facts["question"])
    pictures: dict[str, bytes] = {}
    view = _draw(found, facts["end"], pictures) if facts["pictures"] else None
    content = json.dumps(found.to_json(), ensure_ascii=False).encode()
    return Message("explained", {"view": view, "pictures": list(pictures)}, [content, *pictures.values()])


def describe_pieces(track_slices: TrackSlices) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Give what `read_pieces` makes slices of, on the other side."""
    arrays = [
        track_slices.images,
        track_slices.decibels,
        *track_slices.features.values(),
    ]
    facts = {
        "name": track_slices.name,
        "starts": track_slices.starts.tolist(),
        "slice_seconds": track_slices.seconds,
        "padded": track_slices.padded,
        "shapes": [array.shape for array in arrays if array is not None],
        "features": list(track_slices.features),
    }
    return facts, [array for array in arrays if array is not None]


def read_pieces(facts: dict[str, Any], blobs: Any) -> TrackSlices:
    """Make slices of a message."""
    images, decibels, *shapes = facts["shapes"]
    return TrackSlices(
        facts["name"],
        take_array(blobs[0], np.uint8, images),
        take_features(facts["features"], blobs[2:], shapes),
        np.array(facts["starts"], np.float64),
        facts["slice_seconds"],
        take_array(blobs[1], np.float32, decibels),
        facts["padded"],
    )


def _draw(found: Explanation, end: float, pictures: dict[str, bytes]) -> dict[str, Any]:
    """Draw all of a page's pictures, by name, and say where they belong."""
    pictures["tree.png"] = draw_tree(found)
    reasons = []
    for number, reason in enumerate(found.reasons):
        pictures[f"reason-{number + 1}.png"] = draw_reason(found, number)
        views = []
        for plot in plot_views(found, reason, end):
            names = {kind: f"r{number}-{plot.view}-{kind}.png" for kind in ("grey", "colour")}
            pictures |= {names["grey"]: plot.grey, names["colour"]: plot.colour}
            views.append({"view": plot.view, "title": plot.title, **names, "ticks": plot.ticks, "range": plot.range})
        reasons.append({"views": views, "shares": list_shares(reason)})
    return {"end": end, "marks": time_marks(end), "reasons": reasons}


def main() -> None:
    """Work until the service goes away."""
    given = worker.setup()
    channel = worker.take_channel()
    worker.start(threads=True)
    os.nice(5)  # who only wants a name goes first
    _load(given["bundles"][0], (Path(given["bundles"][0]) / INDEX).is_dir())
    worker.answer(channel, work)


if __name__ == "__main__":
    main()
