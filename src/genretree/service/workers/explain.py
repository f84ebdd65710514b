"""The explaining worker: computes relevance maps and pictures of decoded slices.

It is killed if the request is cancelled.

The service runs `python -P -m genretree.service.workers.explain SETUP`.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float32Array
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.explanation.api import explain_slices, find_tagger
from genretree.explanation.render.figures import draw_reason, draw_tree
from genretree.explanation.render.page import list_shares, plot_views, time_marks
from genretree.explanation.result import Explanation
from genretree.explanation.similar.neighbours import FOLDER as INDEX
from genretree.explanation.slices import TrackSlices
from genretree.progress import on_progress
from genretree.service.training_music import TrainingMusic
from genretree.service.workers import process
from genretree.service.workers.process import Reporter
from genretree.service.workers.protocol import Message, read_array, read_features
from genretree.sound.features import MEL_32K

# Share of the total progress at the start and end of a progress bar; all other bars belong to the maps.
_STAGE_PROGRESS = {"views": (0.0, 0.06), "coarse": (0.06, 0.45), "bands": (0.75, 0.9)}
_MAPS = (0.45, 0.75)


@lru_cache(maxsize=4)
def _load(folder: str, torch: bool) -> Bundle:
    # Occlusion is as faithful in bf16 (docs/figures-explanations.md); gradients are not measured in it.
    return load_bundle(folder, "torch", "float32") if torch else load_bundle(folder, "auto", "auto")


def work(message: Message, report: Reporter) -> Message:
    """Explain slices, with pictures if requested; coarse pictures are sent ahead."""
    header = message.header
    method = header["question"]["method"]
    # Gradients and embeddings need torch; an export only predicts.
    torch = method not in (None, "occlusion") or (Path(header["bundle"]) / INDEX).is_dir()

    def bar(title: str, done: int, total: int) -> None:
        low, high = _STAGE_PROGRESS.get(title, _MAPS)
        report("explaining", low + (high - low) * done / max(1, total))

    report("explaining", 0.0)
    bundle, track_slices = _load(header["bundle"], torch), unpack_slices(header, message.blobs)
    track_slices, tags = _split_tags(bundle, track_slices)

    with on_progress(bar), ThreadPoolExecutor(1) as thread:
        drawing: list[Future[tuple[dict[str, Any], dict[str, bytes]]]] = []

        def show(explanation: Explanation, coarse: bool) -> None:
            if coarse:
                _send_preview(explanation, header["end"], report)
            else:  # while the relevance of bands is measured
                drawing.append(thread.submit(_draw, explanation, header["end"]))

        on_maps = show if header["pictures"] else None
        explanation = explain_slices(bundle, track_slices, **header["question"], tags=tags, on_maps=on_maps)
        view, pictures = drawing[0].result() if drawing else (None, {})
    found = explanation.to_json()
    if header["music"] is not None:
        TrainingMusic(header["music"]).describe(found["neighbours"] or ())
    content = json.dumps(found, ensure_ascii=False).encode()
    return Message("explained", {"view": view, "pictures": list(pictures)}, [content, *pictures.values()])


def _send_preview(explanation: Explanation, end: float, report: Reporter) -> None:
    """Send coarse maps, with their pictures."""
    view, pictures = _draw_views(explanation, end, "coarse-")
    content = json.dumps({"reasons": explanation.to_json()["reasons"], "unit": explanation.unit}).encode()
    report.preview({"view": view, "pictures": list(pictures)}, [content, *pictures.values()])


_load_tagger = lru_cache(maxsize=1)(find_tagger)


def _split_tags(bundle: Bundle, track_slices: TrackSlices) -> tuple[TrackSlices, Float32Array | None]:
    """Compute mn04's tags of slices from its input, and take out this input if the model has no use for it."""
    tagger = _load_tagger()
    if tagger is None or MEL_32K not in track_slices.features:
        return track_slices, None
    tags = tagger.predict_with_tags({MEL_32K: track_slices.features[MEL_32K]})[1]
    kept = {name: values for name, values in track_slices.features.items() if name in bundle.model.input_features}
    return replace(track_slices, features=kept), tags


def pack_slices(track_slices: TrackSlices) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Return the header and arrays from which `unpack_slices` rebuilds slices in the worker."""
    arrays = [
        track_slices.images,
        track_slices.decibels,
        *track_slices.features.values(),
    ]
    header = {
        "name": track_slices.name,
        "starts": track_slices.starts.tolist(),
        "slice_seconds": track_slices.seconds,
        "padded": track_slices.padded,
        "shapes": [array.shape for array in arrays if array is not None],
        "features": list(track_slices.features),
    }
    return header, [array for array in arrays if array is not None]


def unpack_slices(header: dict[str, Any], blobs: Any) -> TrackSlices:
    """Rebuild slices from a message."""
    images, decibels, *shapes = header["shapes"]
    return TrackSlices(
        header["name"],
        read_array(blobs[0], np.uint8, images),
        read_features(header["features"], blobs[2:], shapes),
        np.array(header["starts"], np.float64),
        header["slice_seconds"],
        read_array(blobs[1], np.float32, decibels),
        header["padded"],
    )


def _draw(explanation: Explanation, end: float) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Render all pictures of a page: their positions on the page, and PNG images by name."""
    view, pictures = _draw_views(explanation, end)
    pictures["tree.png"] = draw_tree(explanation)
    for number in range(len(explanation.reasons)):
        pictures[f"reason-{number + 1}.png"] = draw_reason(explanation, number)
    return view, pictures


def _draw_views(explanation: Explanation, end: float, prefix: str = "") -> tuple[dict[str, Any], dict[str, bytes]]:
    """Render the spectrograms and overlays of a page."""
    reasons = []
    pictures: dict[str, bytes] = {}
    for number, reason in enumerate(explanation.reasons):
        views = []
        for plot in plot_views(explanation, reason, end):
            names = {kind: f"{prefix}r{number}-{plot.view}-{kind}.png" for kind in ("grey", "colour")}
            pictures |= {names["grey"]: plot.grey, names["colour"]: plot.colour}
            views.append({"view": plot.view, "title": plot.title, **names, "ticks": plot.ticks, "range": plot.range})
        reasons.append({"views": views, "shares": list_shares(reason)})
    return {"end": end, "marks": time_marks(end), "reasons": reasons}, pictures


def main() -> None:
    """Process messages until the service ends."""
    setup = process.read_setup()
    channel = process.open_channel()
    process.set_up(threads=True)
    os.nice(5)  # predictions have priority
    _load(setup["bundles"][0], (Path(setup["bundles"][0]) / INDEX).is_dir())
    _load_tagger()
    process.serve_messages(channel, work)


if __name__ == "__main__":
    main()
