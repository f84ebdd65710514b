"""Pictures and pages of an evaluation."""

from __future__ import annotations

import base64
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genretree.corpus.splits import WITHOUT_TRACKS
from genretree.evaluate import Evaluation, LevelScores
from genretree.files import write_text

_UNITS = ("track", "slice")
_INCHES_A_CLASS = 0.42


def save_evaluation(evaluation: Evaluation, out: str | Path) -> Path:
    """Write `metrics.json`, `report.html` and the confusion matrices as PNG into a folder; return the page's path."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "metrics.json", json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False))
    for name, png in confusion_pngs(evaluation).items():
        (out / f"{name}.png").write_bytes(png)
    return write_report([evaluation], out / "report.html")


def confusion_pngs(evaluation: Evaluation) -> dict[str, bytes]:
    """Draw a confusion matrix for every level, by track and by slice; PNG bytes by name (`confusion-track-level_1`)."""
    return {
        f"confusion-{unit}-{level.name}": draw_confusion(level, unit)
        for unit in _UNITS
        for level in getattr(evaluation, unit).levels
    }


def draw_confusion(level: LevelScores, unit: str) -> bytes:
    """Draw one level's confusion matrix as PNG: counts as text, shares of the true class as colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(level.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [item.name.replace("_", " ") for item in level.classes]
    side = 3.2 + _INCHES_A_CLASS * len(names)
    figure = Figure(figsize=(side, side * 0.92), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{level.name}, {int(counts.sum())} {unit}s: {level.accuracy:.1%} right")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "black" if shares[row, column] > 0.6 else "white"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return _png(figure)


def draw_history(history: Sequence[dict[str, float]]) -> bytes | None:
    """Draw training and validation loss over epochs or iterations as PNG; None where nothing was recorded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not history:
        return None
    step = next(name for name in ("epoch", "iteration", "step") if name in history[0])
    figure = Figure(figsize=(5.5, 3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = sorted({name for row in history for name in row if "_loss" in name})
    for name in names:
        points = [(row[step], row[name]) for row in history if name in row]
        # One classifier for each level, as boosting's independent heads have, gives more curves of each kind.
        style = ("-", "--", ":", "-.")[int(name[-1]) % 4 if name[-1].isdigit() else 0]
        colour = "#00429d" if name.startswith("train") else "#e07b00"
        axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "), color=colour)
    axes.set_xlabel(step)
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def write_report(
    evaluations: Sequence[Evaluation],
    path: str | Path,
    title: str = "genretree: evaluation",
    costs: Sequence[Mapping[str, Any]] = (),
    skipped: Mapping[str, str] | None = None,
) -> Path:
    """Write one self-contained HTML page (pictures inside, no network) about one or more evaluations.

    Parameters
    ----------
    evaluations : sequence of Evaluation
    path : path
    title : str
    costs : sequence of mappings, optional
        For each evaluation `parameters`, `training_seconds` and `slices_per_second`.
    skipped : mapping, optional
        Families that could not be trained, and why.

    Returns
    -------
    Path
        The page's path.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genretree", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    path = Path(path)
    page = environment.get_template("report.html.j2").render(
        title=title,
        evaluations=[_view(evaluation) for evaluation in evaluations],
        units=_UNITS[1:] if evaluations[0].group_by in WITHOUT_TRACKS else _UNITS,
        costs=list(costs),
        skipped=dict(skipped or {}),
        command=command_line(),
    )
    write_text(path, page)
    return path


def command_line() -> str:
    """Return the command this process was started with, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _view(evaluation: Evaluation) -> dict[str, Any]:
    """Collect what the template shows of one evaluation."""
    pictures = {name: _data_url(png) for name, png in confusion_pngs(evaluation).items()}
    history = draw_history(evaluation.training.get("history", []))
    return {
        "evaluation": evaluation,
        "pictures": pictures,
        "history": None if history is None else _data_url(history),
        "facts": evaluation.training.get("facts", {}),
        "versions": evaluation.training.get("versions", {}),
    }


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
