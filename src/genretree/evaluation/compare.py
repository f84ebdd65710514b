"""Train and evaluate several families on one store, and write the results table."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.errors import SettingsError, TrainingError
from genretree.evaluation.evaluate import Evaluation, compare_evaluations, describe_pair, evaluate
from genretree.evaluation.report import save_evaluation, write_report
from genretree.files import write_text
from genretree.metrics.scores import Difference, UnitScores
from genretree.models import family_names, get_family
from genretree.training.recipes import Recipe, recipe_names
from genretree.training.train import train_once

_STUDY_TITLES = {"fst_level": "Classic / Non-classic", "sec_level": "2nd level", "thr_level": "3rd level"}
_SPEED_SLICES = 64
_SPEED_SECONDS = 1.0


@dataclass(frozen=True)
class Comparison:
    """The rows of the table, and why some families have none."""

    rows: tuple[ComparisonRow, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class ComparisonRow:
    """One family's line of the table: its evaluation, and what it costs."""

    evaluation: Evaluation
    parameters: int | None
    training_seconds: float
    slices_per_second: float


def compare(
    store: Store,
    out: str | Path,
    models: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    split: str = "default",
    seed: int = 0,
    published: bool = False,
    progress: bool = False,
) -> Comparison:
    """Train and evaluate families on a store's split; a family that is done already is not trained again.

    A family that can't be trained here, for want of its weights or of sound in the store, is left out with the reason.

    Parameters
    ----------
    store : Store
    out : path
        Gets a bundle and a report for each family, `results.md`, `results.csv` and `results.html`.
    models : sequence of str, optional
        Families; all registered ones by default.
    settings : mapping, optional
        Settings by family; the published ones by default.
    split : str
    seed : int
        Seed for training and for the bootstrap.
    published : bool
        Show the study's figures next to the table's own.
    progress : bool

    Raises
    ------
    SettingsError
        For an unknown family, before anything is trained.
    TrainingError
        If none of the families could be trained.
    """
    out = Path(out)
    chosen = family_names() if models is None else list(dict.fromkeys(models))
    if not chosen:
        raise SettingsError("name at least one family to compare")
    given = dict(settings or {})
    strange = sorted(set(given) - set(chosen))
    if strange:
        raise SettingsError(f"settings for {', '.join(strange)}, which is not compared")
    prepared = {name: get_family(name).settings_type.build({"seed": seed, **given.get(name, {})}) for name in chosen}
    rows: list[ComparisonRow] = []
    skipped: dict[str, str] = {}
    for name in chosen:
        try:
            bundle = train_once(store, name, out / name, prepared[name], split=split, progress=progress)
        except TrainingError as error:
            if len(chosen) == 1:
                raise
            skipped[name] = str(error)
            continue
        evaluation = evaluate(bundle, store, split=split, seed=seed, progress=progress)
        save_evaluation(evaluation, out / f"{name}-report", store)
        facts = bundle.training["facts"]
        rows.append(
            ComparisonRow(evaluation, facts.get("parameters"), bundle.training["seconds"], _speed(bundle, store))
        )
        # After each family, so that an interrupted comparison leaves what it has.
        _write_tables(Comparison(tuple(rows), dict(skipped)), out, published)
    if not rows:
        raise TrainingError("; ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    found = Comparison(tuple(rows), skipped)
    _write_tables(found, out, published)
    return found


def _speed(bundle: Bundle, store: Store) -> float:
    """Slices scored a second, after a first batch that warms up."""
    # On the processor, where bundles are used.
    rows = np.arange(min(_SPEED_SLICES, store.n_slices))
    inputs = store.inputs(rows)
    bundle.model.predict_proba(inputs)
    began, times = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < _SPEED_SECONDS or times == 0:
        bundle.model.predict_proba(inputs)
        times += 1
    return times * len(rows) / seconds


def _write_tables(found: Comparison, out: Path, published: bool) -> None:
    write_text(out / "results.md", format_markdown(found, published))
    write_text(out / "results.csv", _format_csv(found.rows))
    evaluations = [row.evaluation for row in found.rows]
    content = {
        "families": [{**row.evaluation.to_json(), "costs": _costs(row)} for row in found.rows],
        "skipped": dict(found.skipped),
    }
    write_text(out / "results.json", json.dumps(content, ensure_ascii=False))
    costs = [_costs(row) for row in found.rows]
    differences = _compare_with_best(found.rows)
    cells = [_published_cells(row.evaluation.family, row.evaluation.slice) for row in found.rows] if published else []
    write_report(
        evaluations,
        out / "results.html",
        "genretree: comparison",
        costs,
        found.skipped,
        differences=differences,
        titles=_STUDY_TITLES,
        published=cells if any(cells) else (),
    )


def _compare_with_best(rows: Sequence[ComparisonRow]) -> dict[str, dict[str, tuple[Difference, ...]]]:
    """Compare the best model, by whole tracks over all levels, with each of the others."""
    best = max(rows, key=lambda row: row.evaluation.track.overall).evaluation
    others = [row.evaluation for row in rows if row.evaluation is not best]
    return {describe_pair(best, other): compare_evaluations(best, other) for other in others}


def format_markdown(found: Comparison, published: bool = False) -> str:
    """Format the results table in Markdown: accuracy in % with its 95 % interval, overall and by level, and costs.

    Parameters
    ----------
    found : Comparison
    published : bool
        Add to each model the figures that the study reports for it, where the store has the study's levels. They are
        accuracies of slices; each is followed by the difference, ours minus published, in points.
    """
    rows = found.rows
    first = rows[0].evaluation
    names = [level.name for level in first.slice.levels]
    lines = []
    for protocol in dict.fromkeys(row.evaluation.protocol for row in rows):
        of = [row.evaluation.family for row in rows if row.evaluation.protocol == protocol]
        which = "" if len(of) == len(rows) else f" ({', '.join(of)})"
        lines += [f"Part {first.part} of {first.store}{which}; {protocol}.", ""]
    for unit in reversed(first.units):
        header = ["model", "cut", "Overall", *map(_title, names), "macro-F1", "parameters", "training s", "slices/s"]
        lines += [f"By {unit} ({getattr(first, unit).n}):", "", _line(header), _line(["---"] * len(header))]
        for row in rows:
            scores = getattr(row.evaluation, unit)
            lines.append(_line(_cells(row, scores)))
            if published and unit == "slice" and (cells := _published_cells(row.evaluation.family, scores)):
                lines.append(_line([*cells, *["-"] * (len(header) - len(cells))]))
        lines.append("")
    note = "Overall is the plain mean of the levels' accuracies."
    if published and any(_published_cells(row.evaluation.family, row.evaluation.slice) for row in rows):
        note += (
            " Published figures are the study's, on its own test part, whose pieces have slices in training, too; the "
            "difference in brackets is ours minus published, in points."
        )
    lines += [note, ""]
    lines += _difference_lines(rows)
    lines += [f"- Not trained: {name}, because {reason}" for name, reason in found.skipped.items()]
    return "\n".join(lines)


def _difference_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    unit = rows[0].evaluation.units[0]
    lines = []
    for title, differences in _compare_with_best(rows).items():
        cells = [
            f"{item.name} {100 * item.difference:+.1f} ({100 * item.ci95[0]:+.1f} to {100 * item.ci95[1]:+.1f}), "
            f"McNemar p {item.p_value:.3f}"
            for item in differences[unit]
        ]
        lines.append(f"- {title}, points by {unit}: {'; '.join(cells)}")
    return [*lines, ""] if lines else []


def _costs(row: ComparisonRow) -> dict[str, Any]:
    return {
        "parameters": row.parameters,
        "training_seconds": row.training_seconds,
        "slices_per_second": round(row.slices_per_second, 1),
    }


def _cells(row: ComparisonRow, scores: UnitScores) -> list[str]:
    levels = [
        f"{100 * level.accuracy:.1f} ({100 * level.ci95[0]:.1f} to {100 * level.ci95[1]:.1f})"
        for level in scores.levels
    ]
    f1 = ", ".join(f"{level.macro_f1:.2f}" for level in scores.levels)
    parameters = "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M"
    costs = [parameters, f"{row.training_seconds:.0f}", f"{row.slices_per_second:.0f}"]
    return [row.evaluation.family, row.evaluation.disjoint, f"{100 * scores.overall:.1f}", *levels, f1, *costs]


def _title(level: str) -> str:
    """Name a level of the study's tree as the study's table does."""
    return _STUDY_TITLES.get(level, level)


def _published_cells(family: str, scores: UnitScores) -> list[str]:
    """Give the study's figures for a family with the difference to ours; nothing where there are none."""
    name = f"{family}-published"
    if name not in recipe_names():
        return []
    accuracy = Recipe.load(name).results[0].accuracy
    if [level.name for level in scores.levels] != list(accuracy):
        return []
    figures = [(sum(accuracy.values()) / len(accuracy), scores.overall)]
    figures += [(accuracy[level.name], level.accuracy) for level in scores.levels]
    cells = [f"{figure:.1f} ({100 * own - figure:+.1f})" for figure, own in figures]
    return [f"{family}, published", "by slices", *cells]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _format_csv(rows: Sequence[ComparisonRow]) -> str:
    buffer = io.StringIO()
    records = [record for row in rows for record in _records(row)]
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _records(row: ComparisonRow) -> list[dict[str, Any]]:
    """One record for each unit and level."""
    records = []
    for unit in reversed(row.evaluation.units):
        scores = getattr(row.evaluation, unit)
        for level in scores.levels:
            records.append(
                {
                    "model": row.evaluation.family,
                    "unit": unit,
                    "n": scores.n,
                    "overall": scores.overall,
                    "level": level.name,
                    "accuracy": level.accuracy,
                    "low": level.ci95[0],
                    "high": level.ci95[1],
                    "macro_f1": level.macro_f1,
                    "ece": level.trust.ece,
                    "hierarchical_f1": scores.hierarchical.f1,
                    "cut": row.evaluation.disjoint,
                    **_costs(row),
                    "protocol": row.evaluation.protocol,
                }
            )
    return records
