"""Files of an evaluation: `metrics.json`, `tracks.csv`, plots and the HTML report."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from genretree.corpus.store import Store
from genretree.errors import SoundError
from genretree.evaluation.evaluate import Evaluation, ItemResult, describe_pair
from genretree.evaluation.plots import draw_confusion, draw_coverage, draw_history, draw_reliability, draw_strip
from genretree.files import printable_text, sha256_file, write_bytes, write_text
from genretree.metrics.calibration import UNITS
from genretree.metrics.scores import Difference
from genretree.parallel import command_line
from genretree.settings import HOP_LENGTH, SAMPLE_RATE
from genretree.sound.decode import iter_blocks
from genretree.sound.encode import encode_ogg
from genretree.taxonomy import display_level, display_name, display_path, display_text, format_path

_N_HARDEST = 6
_N_PAIRS = 4

Differences = Mapping[str, Sequence[Difference]]


def save_evaluation(
    evaluation: Evaluation,
    out: str | Path,
    store: Store | None = None,
    against: tuple[Evaluation, Differences] | None = None,
) -> Path:
    """Write `metrics.json`, `tracks.csv`, `report.html` and the confusion matrices as PNG into a folder.

    Parameters
    ----------
    evaluation : Evaluation
    out : path
    store : Store, optional
        The evaluated store, for spectrograms of the hardest tracks.
    against : (Evaluation, differences), optional
        Another bundle's evaluation on the same music, and the result of `compare_evaluations`.

    Returns
    -------
    Path
        Path of the HTML report.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    content = evaluation.to_json()
    if against is not None:
        other, differences = against
        listed = {unit: [vars(item) for item in items] for unit, items in differences.items()}
        content["against"] = {
            "bundle": other.bundle,
            "splits": [evaluation.disjoint, other.disjoint],
            "evaluation": other.to_json(),
            "differences": listed,
        }
    write_text(out / "metrics.json", json.dumps(content, indent=1, ensure_ascii=False))
    write_text(out / "tracks.csv", format_tracks(evaluation))
    for name, png in confusion_pngs(evaluation).items():
        write_bytes(out / f"{name}.png", png)
    evaluations = [evaluation] if against is None else [evaluation, against[0]]
    pairs = {} if against is None else {describe_pair(evaluation, against[0]): against[1]}
    return write_report(evaluations, out / "report.html", store=store, differences=pairs)


def format_tracks(evaluation: Evaluation) -> str:
    """Format the result of every track as CSV, errors with the lowest probability of the true leaf first."""
    names = [level.name for level in evaluation.track.levels]
    columns = ["track", "group", "true", "predicted", "right", *(f"{name}_probability" for name in names)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*columns, "true_probability", "cut_by"])
    for item in _hardest_first(evaluation.outcomes):
        shares = [f"{share:.6f}" for share in (*item.probabilities, item.true_probability)]
        paths = [format_path(item.true), format_path(item.predicted)]
        writer.writerow([item.name, item.group, *paths, int(all(item.right)), *shares, evaluation.disjoint])
    return buffer.getvalue()


def confusion_pngs(evaluation: Evaluation) -> dict[str, bytes]:
    """Plot a confusion matrix for every level, by track and by slice; PNG bytes by name (`confusion-track-level_1`)."""
    png_by_name = {}
    for unit, plots in _draw_confusions(evaluation).items():
        for level, png in zip(getattr(evaluation, unit).levels, plots, strict=True):
            png_by_name[re.sub(r"[^\w-]+", "_", f"confusion-{unit}-{level.name}")] = png  # used as a file name
    return png_by_name


def _draw_confusions(evaluation: Evaluation) -> dict[str, list[bytes]]:
    plots: dict[str, list[bytes]] = {}
    for unit in UNITS:
        levels = getattr(evaluation, unit).levels
        plots[unit] = [
            draw_confusion(level, unit, evaluation.disjoint, level.branches, display_level(level.name, at, len(levels)))
            for at, level in enumerate(levels)
        ]
    return plots


def write_report(
    evaluations: Sequence[Evaluation],
    path: str | Path,
    title: str = "genretree: evaluation",
    costs: Sequence[Mapping[str, Any]] = (),
    skipped: Mapping[str, str] | None = None,
    *,
    store: Store | None = None,
    differences: Mapping[str, Differences] | None = None,
    titles: Mapping[str, str] | None = None,
    published: Sequence[Sequence[str]] = (),
) -> Path:
    """Write a self-contained HTML report on one or more evaluations, with embedded plots.

    Parameters
    ----------
    evaluations : sequence of Evaluation
    path : path
    title : str
    costs : sequence of mappings, optional
        `parameters`, `training_seconds` and `slices_per_second` of each evaluation.
    skipped : mapping, optional
        Families that could not be trained, with the reasons.
    store : Store, optional
        The evaluated store, for spectrograms of the hardest tracks.
    differences : mapping, optional
        Results of `compare_evaluations`, by a title that names the pair.
    titles : mapping of str to str, optional
        Column titles of levels; default the levels' names.
    published : sequence of sequences of str, optional
        Cells of a row of published results (name, split, overall, levels) for each evaluation, or an empty sequence.

    Returns
    -------
    Path
        Path of the HTML report.
    """
    path = Path(path)
    page = render(
        "report.html.j2",
        title=title,
        evaluations=[_view(evaluation, store) for evaluation in evaluations],
        units=evaluations[0].units,
        costs=list(costs),
        skipped=dict(skipped or {}),
        differences=dict(differences or {}),
        titles=dict(titles or {}),
        published=list(published),
        date=datetime.now(UTC).astimezone().date().isoformat(),
        verdict=summarise(evaluations),
        command=command_line(),
    )
    write_text(path, page)
    return path


def summarise(evaluations: Sequence[Evaluation]) -> str:
    """Return the result in a sentence: the accuracy of the best bundle at the deepest and the top level."""
    unit = evaluations[0].units[0]
    best = max(evaluations, key=lambda evaluation: getattr(evaluation, unit).overall)
    scores = getattr(best, unit)
    leaf, top = scores.levels[-1], scores.levels[0]
    depth = len(scores.levels)
    name = display_level(leaf.name, depth - 1, depth).lower()
    low, high = (f"{100 * bound:.0f}" for bound in leaf.ci95)
    words = (
        f"{best.label}: the {name} is correct for {100 * leaf.accuracy:.0f} % of {scores.n} {unit}s ({low} to {high} %)"
    )
    if depth > 1:
        words += f", the {display_level(top.name, 0, depth).lower()} for {100 * top.accuracy:.0f} %"
    return f"Best of {len(evaluations)}: {words}." if len(evaluations) > 1 else f"{words}."


def render(template: str, **content: Any) -> str:
    """Render one of the package's HTML templates; values are escaped, including control characters."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genretree", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: printable_text(value) if type(value) is str else value,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["path"] = display_path
    environment.filters["written"] = display_text
    environment.filters["node"] = display_name
    environment.globals["level_name"] = display_level
    return environment.get_template(template).render(**content)


def _view(evaluation: Evaluation, store: Store | None) -> dict[str, Any]:
    """Collect the template variables of one evaluation."""
    history = draw_history(evaluation.training.get("history", []))
    unit = getattr(evaluation, evaluation.units[0])
    return {
        "evaluation": evaluation,
        "pictures": {unit: [data_url(png) for png in pngs] for unit, pngs in _draw_confusions(evaluation).items()},
        "reliability": data_url(draw_reliability(unit.levels)),
        "coverage": data_url(draw_coverage(unit.levels)),
        "history": None if history is None else data_url(history),
        "hardest": _show_hardest(evaluation, store),
        "confused": _show_confused(evaluation, store),
        "metadata": evaluation.training.get("facts", {}),
        "versions": evaluation.training.get("versions", {}),
    }


def _show_hardest(evaluation: Evaluation, store: Store | None) -> list[dict[str, Any]]:
    wrong = [item for item in _hardest_first(evaluation.outcomes) if not all(item.right)]
    return [
        {"outcome": item, "picture": _picture(item, store), "sound": _sound(item, store)} for item in wrong[:_N_HARDEST]
    ]


def _show_confused(evaluation: Evaluation, store: Store | None) -> list[dict[str, Any]]:
    """Return the most frequently confused pairs of leaves, each with its hardest track."""
    wrong = [item for item in _hardest_first(evaluation.outcomes) if not all(item.right)]
    counts = Counter((item.true, item.predicted) for item in wrong)
    pairs = []
    for (true, predicted), n in counts.most_common(_N_PAIRS):
        example = next(item for item in wrong if (item.true, item.predicted) == (true, predicted))
        pairs.append({"n": n, "outcome": example, "picture": _picture(example, store), "sound": None})
    return pairs


def _hardest_first(outcomes: Sequence[ItemResult]) -> list[ItemResult]:
    """Sort errors first, then by the probability of the true leaf, ascending."""
    return sorted(outcomes, key=lambda item: (all(item.right), item.true_probability))


def _sound(outcome: ItemResult, store: Store | None) -> str | None:
    """Return the audio of the slice of an outcome as a data URL, if the file is still where it was prepared from."""
    if store is None or "file" not in store.tracks:
        return None
    track = int(store.slice_tracks[outcome.row])
    path = Path(str(store.tracks["file"][track] or ""))
    try:
        if not path.is_file() or sha256_file(path) != store.tracks["sha256"][track]:
            return None
        start = round(float(store.starts[outcome.row]) * SAMPLE_RATE)
        stop = start + store.settings.slice_frames * HOP_LENGTH
        n, blocks = 0, []
        for block in iter_blocks(path, salvage=True):
            blocks.append(block[max(0, start - n) : max(0, stop - n)])
            n += len(block)
            if n >= stop:
                break
        y = np.concatenate(blocks)
    except (OSError, SoundError, ValueError):
        return None
    return "data:audio/ogg;base64," + base64.b64encode(encode_ogg(y)).decode() if len(y) else None


def _picture(outcome: ItemResult, store: Store | None) -> str | None:
    return None if store is None else data_url(draw_strip(np.asarray(store.images[outcome.row])))


def data_url(png: bytes) -> str:
    """Encode a PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
