"""Comparison of model families: training, evaluation and results tables."""

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
    """Rows of the results table, and the reasons why families were skipped."""

    rows: tuple[ComparisonRow, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One row of the results table: a family's evaluation, number of parameters, training time and throughput."""

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
    """Train and evaluate families on a store's split; families that were trained before are not trained again.

    A family that can't be trained, because its weights or the store's audio features are missing, is skipped.

    Parameters
    ----------
    store : Store
    out : path
        Output folder for a bundle and a report for each family, `results.md`, `results.csv` and `results.html`.
    models : sequence of str, optional
        Families; default all that are registered.
    settings : mapping, optional
        Settings by family; default the published ones.
    split : str
    seed : int
        Seed for training and for the calibration error by chance.
    published : bool
        Add the published results to the table.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    Comparison

    Raises
    ------
    SettingsError
        For an unknown family or setting, before anything is trained.
    TrainingError
        If none of the families could be trained.
    """
    out = Path(out)
    families = family_names() if models is None else list(dict.fromkeys(models))
    if not families:
        raise SettingsError("name at least one family to compare")
    settings = dict(settings or {})
    unused = sorted(set(settings) - set(families))
    if unused:
        raise SettingsError(f"settings for {', '.join(unused)}, which is not compared; add it to `models`")
    prepared = {
        name: get_family(name).settings_type.build({"seed": seed, **settings.get(name, {})}) for name in families
    }
    rows: list[ComparisonRow] = []
    skipped: dict[str, str] = {}
    for name in families:
        try:
            bundle = train_once(store, name, out / name, prepared[name], split=split, progress=progress)
        except TrainingError as error:
            if len(families) == 1:
                raise
            skipped[name] = str(error)
            continue
        evaluation = evaluate(bundle, store, split=split, seed=seed, progress=progress)
        save_evaluation(evaluation, out / f"{name}-report", store)
        metadata = bundle.training["facts"]
        rows.append(
            ComparisonRow(
                evaluation=evaluation,
                parameters=metadata.get("parameters"),
                training_seconds=bundle.training["seconds"],
                slices_per_second=_measure_throughput(bundle, store),
            )
        )
        # After each family, so that an interrupted comparison keeps its results.
        _write_tables(Comparison(tuple(rows), dict(skipped)), out, published, store)
    if not rows:
        raise TrainingError("; ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    comparison = Comparison(tuple(rows), skipped)
    _write_tables(comparison, out, published, store)
    return comparison


def _measure_throughput(bundle: Bundle, store: Store) -> float:
    """Measure slices per second, after a warm-up batch."""
    rows = np.arange(min(_SPEED_SLICES, store.n_slices))
    inputs = store.inputs(rows)
    bundle.model.predict_proba(inputs)
    start, n_batches = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < _SPEED_SECONDS or n_batches == 0:
        bundle.model.predict_proba(inputs)
        n_batches += 1
    return n_batches * len(rows) / seconds


def _write_tables(comparison: Comparison, out: Path, published: bool, store: Store) -> None:
    write_text(out / "results.md", format_markdown(comparison, published))
    write_text(out / "results.csv", _format_csv(comparison.rows))
    evaluations = [row.evaluation for row in comparison.rows]
    content = {
        "families": [{**row.evaluation.to_json(), "costs": _costs(row)} for row in comparison.rows],
        "skipped": dict(comparison.skipped),
    }
    write_text(out / "results.json", json.dumps(content, ensure_ascii=False))
    costs = [_costs(row) for row in comparison.rows]
    differences = _compare_with_best(comparison.rows)
    cells = (
        [_published_cells(row.evaluation.family, row.evaluation.slice) for row in comparison.rows] if published else []
    )
    write_report(
        evaluations,
        out / "results.html",
        "genretree: comparison",
        costs,
        comparison.skipped,
        store=store,
        differences=differences,
        titles=_STUDY_TITLES,
        published=cells if any(cells) else (),
    )


def _compare_with_best(rows: Sequence[ComparisonRow]) -> dict[str, dict[str, tuple[Difference, ...]]]:
    """Compare the model with the best track-level overall accuracy with each of the others."""
    best = max(rows, key=lambda row: row.evaluation.track.overall).evaluation
    others = [row.evaluation for row in rows if row.evaluation is not best]
    return {describe_pair(best, other): compare_evaluations(best, other) for other in others}


def format_markdown(comparison: Comparison, published: bool = False) -> str:
    """Format the results table in Markdown: accuracy in % with its 95 % interval, overall and by level, and costs.

    Parameters
    ----------
    comparison : Comparison
    published : bool
        Add the slice accuracies that the study reports for each model, if the store has the study's levels, followed by
        the differences, ours minus published, in percentage points.
    """
    rows = comparison.rows
    first = rows[0].evaluation
    names = [level.name for level in first.slice.levels]
    lines = []
    for protocol in dict.fromkeys(row.evaluation.protocol for row in rows):
        affected = [row.evaluation.family for row in rows if row.evaluation.protocol == protocol]
        which = "" if len(affected) == len(rows) else f" ({', '.join(affected)})"
        lines += [f"Part {first.part} of {first.store}{which}; {protocol}.", ""]
    for unit in reversed(first.units):
        header = ["model", "split", "Overall", *map(_title, names), "macro-F1", "parameters", "training s", "slices/s"]
        lines += [f"By {unit} ({getattr(first, unit).n}):", "", _line(header), _line(["---"] * len(header))]
        for row in rows:
            scores = getattr(row.evaluation, unit)
            lines.append(_line(_cells(row, scores)))
            if published and unit == "slice" and (cells := _published_cells(row.evaluation.family, scores)):
                lines.append(_line([*cells, *["-"] * (len(header) - len(cells))]))
        lines.append("")
    note = "Overall is the mean of the levels' accuracies."
    if published and any(_published_cells(row.evaluation.family, row.evaluation.slice) for row in rows):
        note += (
            " Published results are the study's, on its own test set, whose tracks have slices in training, too; "
            "the difference in brackets is ours minus published, in percentage points."
        )
    lines += [note, ""]
    if first.few_groups_note:
        lines += [first.few_groups_note, ""]
    lines += _difference_lines(rows)
    lines += [f"- Not trained: {name}, because {reason}" for name, reason in comparison.skipped.items()]
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
    """Return the study's title of a level."""
    return _STUDY_TITLES.get(level, level)


def _published_cells(family: str, scores: UnitScores) -> list[str]:
    """Format the study's results for a family with the differences from ours; empty if there are none."""
    name = f"{family}-published"
    if name not in recipe_names():
        return []
    accuracy = Recipe.load(name).results[0].accuracy
    if [level.name for level in scores.levels] != list(accuracy):
        return []
    results = [(sum(accuracy.values()) / len(accuracy), scores.overall)]
    results += [(accuracy[level.name], level.accuracy) for level in scores.levels]
    cells = [f"{reported:.1f} ({100 * own - reported:+.1f})" for reported, own in results]
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
    """Return one record for each unit and level."""
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
                    "split": row.evaluation.disjoint,
                    **_costs(row),
                    "protocol": row.evaluation.protocol,
                }
            )
    return records
