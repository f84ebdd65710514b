"""Writing a shortcut audit: shortcuts.json, and a page with the table, the verdict and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from genretree.audit.shortcuts import MUSIC, ShortcutAudit
from genretree.evaluation.plots import make_figure, to_png
from genretree.evaluation.report import data_url, render
from genretree.files import write_text


def save_shortcuts(result: ShortcutAudit, out: str | Path, command: str = "") -> Path:
    """Write `shortcuts.json` and `shortcuts.html` into a folder.

    Parameters
    ----------
    result : ShortcutAudit
    out : path
    command : str
        Command line shown on the page.

    Returns
    -------
    Path
        Path of the page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "shortcuts.json", json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    pictures = [
        {
            "url": data_url(draw_separation(result)),
            "alt": "separation of each class by each cue, in standard deviations",
        },
        {"url": data_url(draw_accuracy(result)), "alt": "mean recall of each cue, and chance"},
    ]
    page = render("shortcuts.html.j2", audit=result, music=MUSIC, pictures=pictures, command=command)
    write_text(out / "shortcuts.html", page)
    return out / "shortcuts.html"


def draw_separation(result: ShortcutAudit) -> bytes:
    """Plot the separation of each class by each cue; a frame marks shortcuts."""
    values = np.array([cue.separation for cue in result.cues])
    names = [leaf.split(" > ")[-1].replace("_", " ") for leaf in result.leaves]
    figure = make_figure(3.0 + 0.45 * len(names), 2.2 + 0.4 * len(values))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=max(4.0, float(values.max())), aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(values)), [cue.name for cue in result.cues])
    for row, column in np.ndindex(values.shape):
        color = "black" if values[row, column] > 0.6 * values.max() else "white"
        axes.text(column, row, f"{values[row, column]:.1f}", ha="center", va="center", color=color, fontsize=7)
    marked = {(item.cue, item.leaf) for item in result.shortcuts}
    _frame(axes, result, marked)
    axes.set_title("separation of classes by cues on unseen groups (standard deviations)")
    figure.colorbar(image, ax=axes, fraction=0.03)
    return to_png(figure)


def _frame(axes: Any, result: ShortcutAudit, marked: set[tuple[str, str]]) -> None:
    from matplotlib.patches import Rectangle

    for row, cue in enumerate(result.cues):
        for column, leaf in enumerate(result.leaves):
            if (cue.name, leaf) in marked:
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#e07b00", linewidth=2.5)
                )


def draw_accuracy(result: ShortcutAudit) -> bytes:
    """Plot the mean recall of each cue with chance."""
    figure = make_figure(6.5, 1.2 + 0.35 * len(result.cues))
    axes = figure.subplots()
    places = np.arange(len(result.cues))
    colors = ["#e07b00" if cue.name == MUSIC else "#00429d" for cue in result.cues]
    axes.barh(places, [100 * cue.accuracy for cue in result.cues], color=colors)
    axes.scatter([100 * cue.chance for cue in result.cues], places, marker="|", color="black", s=120, label="chance")
    axes.set_yticks(places, [cue.name for cue in result.cues])
    axes.invert_yaxis()
    axes.set_xlabel("mean recall on unseen groups (%)")
    axes.legend(loc="lower right")
    return to_png(figure)
