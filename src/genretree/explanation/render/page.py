"""Writing an explanation: explanation.json, relevance.npz, pictures, clips and a page with a player."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float32Array
from genretree.evaluation.report import data_url, render
from genretree.explanation.coordinates import View
from genretree.explanation.render.canvas import TITLES, build_canvas
from genretree.explanation.render.clips import cut_passage, keep_bands, write_clips
from genretree.explanation.render.figures import as_png, draw_reason, draw_tree, relevance_to_rgba, ticks
from genretree.explanation.render.tree_svg import tree_rows, tree_svg
from genretree.explanation.result import Explanation, NodeExplanation, Relevance
from genretree.explanation.sentences import Sentence
from genretree.files import atomic_path, write_bytes, write_text
from genretree.parallel import command_line
from genretree.settings import SAMPLE_RATE
from genretree.sound.decode import decode
from genretree.sound.encode import encode_ogg
from genretree.taxonomy import display_name

MAX_EMBEDDED_SECONDS = 900.0  # the audio of longer tracks goes into a file next to the page
_REASON = re.compile(r"reason-(\d+)\.png")
_MAX_ROWS = 96  # of a spectrogram on the page


def save_explanation(
    explanation: Explanation,
    out: str | Path,
    sound: str | Path | None = None,
    clips: str | Path | None = None,
    salvage: bool = False,
) -> Path:
    """Write an explanation into a folder.

    Parameters
    ----------
    explanation : Explanation
    out : path
        Folder for `explanation.json`, `relevance.npz`, `tree.png`, `reason-1.png` ..., and `explanation.html`.
    sound : path, optional
        Audio file for the player of the page. Without it (tracks of a store) the page has pictures only.
    clips : path, optional
        Folder for clips of typical passages; needs `sound`.
    salvage : bool
        Use the decodable part of a truncated file.

    Returns
    -------
    Path
        Path of the page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    y = None if sound is None else decode(sound, SAMPLE_RATE, salvage)
    write_text(out / "explanation.json", json.dumps(explanation.to_json(), indent=1, ensure_ascii=False))
    with atomic_path(out / "relevance.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **explanation.arrays())  # type: ignore[arg-type]
    write_bytes(out / "tree.png", draw_tree(explanation))
    for index in range(len(explanation.reasons)):
        write_bytes(out / f"reason-{index + 1}.png", draw_reason(explanation, index))
    for stale in out.glob("reason-*.png"):  # from an earlier explanation
        if (match := _REASON.fullmatch(stale.name)) and int(match[1]) > len(explanation.reasons):
            stale.unlink()
    if clips is not None and y is not None:
        write_clips(explanation, y, clips)
    return write_page(explanation, out / "explanation.html", y, command_line())


def write_page(explanation: Explanation, path: Path, y: Float32Array | None, command: str = "") -> Path:
    """Write the page with embedded pictures and audio; audio longer than 15 minutes goes into a separate file."""
    seconds = None if y is None else len(y) / SAMPLE_RATE
    source = None
    if y is not None and len(y) <= MAX_EMBEDDED_SECONDS * SAMPLE_RATE:
        source = "data:audio/ogg;base64," + base64.b64encode(encode_ogg(y)).decode()
    elif y is not None:
        write_bytes(path.with_suffix(".ogg"), encode_ogg(y))
        source = path.with_suffix(".ogg").name
    end = max(float(explanation.track_slices.starts[-1] + explanation.track_slices.seconds), seconds or 0.0)
    page = render(
        "explain.html.j2",
        explanation=explanation,
        tree=tree_svg(explanation),
        nodes=tree_rows(explanation),
        reasons=[_render_node(explanation, reason, end, y) for reason in explanation.reasons],
        lines=[
            {
                "name": display_name(line.node[-1]),
                "line": line,
                "bars": [
                    {
                        "left": 100 * start / end,
                        "width": 100 * explanation.track_slices.seconds / end,
                        "chance": probability,
                    }
                    for start, probability in zip(
                        explanation.track_slices.starts.tolist(), line.probabilities.tolist(), strict=True
                    )
                ],
            }
            for line in explanation.timelines
        ],
        marks=time_marks(end),
        source=source,
        inside=source is not None and source.startswith("data:"),
        end=end,
        command=command,
    )
    write_text(path, page)
    return path


def _render_node(
    explanation: Explanation, reason: NodeExplanation, end: float, y: Float32Array | None
) -> dict[str, Any]:
    plots = plot_views(explanation, reason, end)
    return {
        "reason": reason,
        "views": [{**vars(plot), "grey": data_url(plot.grey), "colour": data_url(plot.colour)} for plot in plots],
        "sentences": [(sentence, _render_band(sentence, y)) for sentence in reason.sentences],
        "shares": list_shares(reason),
        "log_odds": float(reason.log_odds.mean()),
        "background": float(reason.baseline.mean()),
    }


def _render_band(sentence: Sentence, y: Float32Array | None) -> str | None:
    """Return the passage of a sentence, filtered to its band, as a data URL."""
    if y is None or sentence.passage is None or sentence.hertz is None:
        return None
    clip = keep_bands(cut_passage(y, *sentence.passage), [sentence.hertz])
    return "data:audio/ogg;base64," + base64.b64encode(encode_ogg(clip)).decode() if len(clip) else None


@dataclass(frozen=True)
class Plot:
    """One view of a track on a page: the spectrogram and its relevance overlay, from 0 to the end of the track.

    Parameters
    ----------
    view : str
    title : str
    grey, colour : bytes
        PNG images; the relevance is transparent.
    ticks : list of (float, str)
        Frequency axis: position in % from the top, label.
    range : str
        Meaning of the grey levels.
    """

    view: View
    title: str
    grey: bytes
    colour: bytes
    ticks: list[tuple[float, str]]
    range: str


def plot_views(explanation: Explanation, reason: NodeExplanation, end: float) -> list[Plot]:
    """Render the views with non-zero relevance; `end` is the end of the track in seconds."""
    visible = [relevance for relevance in reason.maps if relevance.values.any()] or list(reason.maps[:1])
    return [_plot(explanation, reason, relevance, end) for relevance in visible]


def list_shares(reason: NodeExplanation) -> list[tuple[str, float, float]]:
    """List the views: title, mean Shapley value, and its magnitude in % of the greatest."""
    shares = {view: float(values.mean()) for view, values in reason.shares.items()}
    largest = max(map(abs, shares.values()), default=0.0) or 1.0
    return [(TITLES[view], share, 100 * abs(share) / largest) for view, share in shares.items()]


def _plot(explanation: Explanation, reason: NodeExplanation, relevance: Relevance, end: float) -> Plot:
    canvas = build_canvas(explanation.track_slices, relevance, reason.color_scale, end)
    low, high = float(np.nanmin(canvas.shown)), float(np.nanmax(canvas.shown))
    grey = np.nan_to_num(255 * (canvas.shown - low) / max(high - low, 1e-6)).astype(np.uint8)
    grey = grey[:: max(1, len(grey) // _MAX_ROWS)]
    positions, names = ticks(relevance.axis)
    return Plot(
        relevance.view,
        TITLES[relevance.view],
        as_png(grey),
        as_png(relevance_to_rgba(canvas.relevance)),
        [(100 - 100 * position / relevance.axis.rows, name) for position, name in zip(positions, names, strict=True)],
        f"grey: {low:.0f} to {high:.0f} dB" if canvas.decibels else "grey: range of each slice",
    )


def time_marks(end: float) -> list[tuple[float, str]]:
    """Return about ten round ticks of the time axis: positions in %, and labels."""
    step = next((step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if end / step <= 10), 1800)
    return [(100 * at / end, f"{at // 60}:{at % 60:02d}") for at in range(0, int(end) + 1, step)]
