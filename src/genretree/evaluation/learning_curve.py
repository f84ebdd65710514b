"""Learning curves over artists: accuracy against the number of artists in each class, and extrapolation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float64Array, Int64Array
from genretree.checks import require_type
from genretree.corpus.splits import Split, split_groups
from genretree.corpus.store import Store
from genretree.errors import SettingsError
from genretree.evaluation.cross_validate import (
    FoldPredictions,
    add_needed_features,
    build_candidates,
    check_out,
    check_seeds,
    describe_few_groups,
    describe_folds,
    make_folds,
    predict_fold,
)
from genretree.evaluation.plots import make_figure, to_png
from genretree.files import write_bytes, write_text
from genretree.metrics.intervals import FEW_GROUPS, accuracy_interval, effective_groups, sum_by_group
from genretree.progress import progress_bar
from genretree.taxonomy import format_path

MORE_ARTISTS = 10
_EXPONENTS = (0.25, 0.5, 0.75, 1.0)
_INTERVAL_EXPONENTS = (0.1, *_EXPONENTS)
_RESAMPLES = 300
_UNUSED = "unused"
_MIN_SIZES = 3


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Accuracy of the leaves, by track, with a number of artists in each class; the interval is for new artists."""

    artists: float
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Extrapolation of a curve to more artists in each class.

    Parameters
    ----------
    name : str
        Path of a leaf, or `all`.
    artists : float
        Mean number of artists a class today; for a leaf, its own number.
    points : tuple of (float, float)
        Number of artists, and the measured accuracy (recall, for a leaf), 0 to 1.
    now : float
        Fitted accuracy with all artists.
    more : float
        Extrapolated accuracy with `MORE_ARTISTS` more artists in each class.
    gain : float
        `more - now`.
    gain_ci95 : (float, float)
        Interval of the gain, for other tested artists, other samples of training artists and other exponents. It
        covers the true gain at least as often as 95 % where accuracy follows a power law; see docs/evaluation.md.
    effective_artists : float
        Effective number of tested artists: smaller than their number if some have many more tracks than others.
    few_artists : bool
        Whether this is below 10, so that the width of the interval rests on an assumption.
    """

    name: str
    artists: float
    points: tuple[tuple[float, float], ...]
    now: float
    more: float
    gain: float
    gain_ci95: tuple[float, float]
    effective_artists: float
    few_artists: bool


@dataclass(frozen=True, kw_only=True)
class OmittedClass:
    """A class with labelled tracks for which no curve was computed.

    Parameters
    ----------
    name : str
        Path of a leaf.
    artists : int
    reason : str
    """

    name: str
    artists: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Result of `learning_curve`.

    Parameters
    ----------
    store, recipe, disjoint : str
    folds : int
    seeds : tuple of int
    points : tuple of CurvePoint
    exponent : float
        Of the power law accuracy = limit - slope * artists ** -exponent.
    overall : Extrapolation
    leaves : tuple of Extrapolation
        Those with the largest gains first.
    omitted : tuple of OmittedClass
        Leaves with too few artists for a curve of their own. `overall` includes them.
    notes : tuple of str
        Warnings, such as of few groups.
    """

    store: str
    recipe: str
    disjoint: str
    folds: int
    seeds: tuple[int, ...]
    points: tuple[CurvePoint, ...]
    exponent: float
    overall: Extrapolation
    leaves: tuple[Extrapolation, ...]
    omitted: tuple[OmittedClass, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of `curve.json`."""
        return asdict(self)


def _list_sizes(sizes: Sequence[int] | None, most: float) -> list[int]:
    """Return the sizes asked for; by default powers of two from 2, and 1 as well where there are few artists."""
    if sizes is not None:
        return sorted(set(sizes))
    doubled = [2**power for power in range(1, 20) if 2**power < most]
    return doubled if len(doubled) + 1 >= _MIN_SIZES else [1, *doubled]


def learning_curve(
    store: Store,
    out: str | Path,
    recipe: str,
    *,
    settings: Mapping[str, Any] | None = None,
    sizes: Sequence[int] | None = None,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    progress: bool = False,
) -> LearningCurve:
    """Train with growing numbers of artists in each class, test on other artists, and extrapolate.

    Parameters
    ----------
    store : Store
    out : path
        Output folder for predictions, `curve.json`, `curve.md` and `curve.png`. An interrupted call continues.
    recipe : str
        Name or file of a recipe, or name of a family.
    settings : mapping, optional
        Further settings.
    sizes : sequence of int, optional
        Numbers of artists in each class; by default powers of two. All artists of the training folds come last.
    folds : int, default 5
    seeds : sequence of int, default (0,)
        Seeds for folds, samples of artists and training.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    LearningCurve

    Raises
    ------
    SettingsError
        For an unknown recipe or setting, fewer than two sizes below the number of artists, or seeds that are not
        different numbers from 0 to 2**32 - 1.
    CorpusError
        If the store has fewer groups than folds.

    Examples
    --------
    >>> import genretree
    >>> from genretree.evaluation.learning_curve import learning_curve
    >>> curve = learning_curve(genretree.Store("STORE"), "CURVE", "boosting")  # doctest: +SKIP
    >>> curve.overall.gain  # doctest: +SKIP
    0.04
    """
    require_type("store", store, Store, "use genretree.Store, or genretree.prepare")
    out = check_out(out)
    check_seeds(seeds)
    candidate = build_candidates([recipe], settings)[0]
    counts = count_artists(store.track_leaves, store.track_groups, len(store.taxonomy.leaves))
    present = np.flatnonzero(counts)
    most = float(counts[present].mean()) * (folds - 1) / folds
    steps: list[int] = [size for size in _list_sizes(sizes, most) if 1 <= size < most]
    if len(steps) + 1 < _MIN_SIZES:
        given = "" if sizes is None else f", got {sorted(set(sizes))[:5]}"
        raise SettingsError(
            f"a learning curve needs at least two sizes below {most:.1f}, the mean number of artists a class in the "
            f"training folds{given}; label more artists, or name others in `sizes`"
        )
    store = add_needed_features(store, [candidate], progress)
    marks: dict[int | None, list[FoldPredictions]] = {}
    artists: dict[int | None, list[float]] = {}
    with progress_bar(len(seeds) * folds * (len(steps) + 1), "learning curve", "model", progress) as tick:
        for seed in seeds:
            splits = make_folds(store, folds, seed)
            for size in (*steps, None):
                parts = []
                for split in splits:
                    sampled = split if size is None else sample_artists(store, split, size, seed)
                    known = np.array(sampled.parts) != _UNUSED
                    known &= np.array(sampled.parts) != "test"
                    used = count_artists(store.track_leaves[known], store.track_groups[known], len(counts))
                    artists.setdefault(size, []).append(float(used[present].mean()))
                    parts.append(predict_fold(store, sampled, candidate, seed, out, tick))
                marks.setdefault(size, []).append(FoldPredictions.join(parts))
    tracks = marks[None][0].tracks
    correct = np.stack(
        [np.mean([each.correct(store)[:, -1] for each in marks[size]], axis=0) for size in (*steps, None)]
    )
    numbers = np.array([float(np.mean(artists[size])) for size in (*steps, None)])
    result = _summarise(store, candidate.name, folds, tuple(seeds), tracks, correct, numbers, counts)
    write_text(out / "curve.json", json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    write_text(out / "curve.md", format_curve(result))
    write_bytes(out / "curve.png", draw_curve(result))
    return result


def count_artists(leaves: Int64Array, groups: Int64Array, n_leaves: int) -> Int64Array:
    """Count the groups of each leaf, shape (n_leaves,)."""
    pairs = np.unique(np.stack([leaves, groups], axis=1), axis=0)
    counts: Int64Array = np.bincount(pairs[pairs[:, 0] >= 0, 0], minlength=n_leaves)
    return counts


def sample_artists(store: Store, split: Split, size: int, seed: int) -> Split:
    """Keep `size` random artists of each leaf in training and validation; larger samples contain the smaller ones."""
    leaves, groups = store.track_leaves, store.track_groups
    parts = np.array(split.parts, dtype=object)
    learning = parts != "test"
    rng = np.random.default_rng([seed, split.fold or 0])
    kept = np.zeros(len(parts), dtype=bool)
    for leaf in range(len(store.taxonomy.leaves)):
        own = np.flatnonzero(learning & (leaves == leaf))
        order = rng.permutation(np.unique(groups[own]))
        kept[own[np.isin(groups[own], order[:size])]] = True
    parts[learning] = _UNUSED
    chosen = np.flatnonzero(kept)
    parts[chosen] = split_groups(leaves[chosen], groups[chosen], test=0, seed=seed).parts
    name = f"{split.name}-{size}-artists"
    return Split(name=name, protocol="group", seed=seed, parts=tuple(parts.tolist()), fold=split.fold)


def fit_curve(artists: Float64Array, accuracy: Float64Array, exponent: float) -> tuple[float, float]:
    """Fit accuracy = limit - slope * artists ** -exponent by least squares, with slope >= 0 and limit <= 1.

    Returns
    -------
    limit, slope : float
    """
    x = artists**-exponent
    centered = x - x.mean()
    slope = max(0.0, -float((centered * (accuracy - accuracy.mean())).sum() / (centered**2).sum()))
    limit = float(accuracy.mean() + slope * x.mean())
    if limit > 1:  # the line through 1 that fits best
        limit, slope = 1.0, float((x * (1 - accuracy)).sum() / (x**2).sum())
    return limit, slope


def choose_exponent(artists: Float64Array, accuracy: Float64Array) -> float:
    """Choose the exponent with the smallest squared error."""

    def error(exponent: float) -> float:
        limit, slope = fit_curve(artists, accuracy, exponent)
        return float(((limit - slope * artists**-exponent - accuracy) ** 2).sum())

    return min(_EXPONENTS, key=error)


def extrapolate(
    name: str,
    artists: Float64Array,
    correct: Float64Array,
    groups: Int64Array,
    now: float,
    exponent: float | None = None,
) -> Extrapolation:
    """Extrapolate a curve from the correctness of tracks.

    Parameters
    ----------
    name : str
    artists : float64 array, shape (n_sizes,)
        Numbers of artists.
    correct : float64 array, shape (n_sizes, n_tracks)
        0 to 1.
    groups : int64 array, shape (n_tracks,)
        Resampled for the interval.
    now : float
        Number of artists today.
    exponent : float, optional
        Of the power law; by default the one that fits best.
    """
    accuracy = correct.mean(axis=1)
    power = exponent or choose_exponent(artists, accuracy)
    limit, slope = fit_curve(artists, accuracy, power)
    today, more = limit - slope * now**-power, limit - slope * (now + MORE_ARTISTS) ** -power
    low, high = _bound_gain(artists, correct, groups, now, power, more - today)
    effective = float(effective_groups(np.unique(groups, return_counts=True)[1]))
    return Extrapolation(
        name=name,
        artists=now,
        points=tuple(zip(artists.tolist(), accuracy.tolist(), strict=True)),
        now=today,
        more=more,
        gain=more - today,
        gain_ci95=(float(low), float(high)),
        effective_artists=effective,
        few_artists=effective < FEW_GROUPS,
    )


def _bound_gain(
    artists: Float64Array, correct: Float64Array, groups: Int64Array, now: float, power: float, gain: float
) -> tuple[float, float]:
    """Compute an interval of the gain.

    The tested artists are resampled, the sample of training artists at each size is varied by the residuals of the fit,
    and the largest and the smallest gain over all exponents count, because a few points don't determine the exponent.
    The distances from the estimate are widened by Student's t for the number of groups.

    A curve with the same recall at every size, such as 0, has no residuals and nothing to resample. The deviation of
    each size is therefore at least 1 / (n + 2), with n the effective number of tested artists: that of a difference of
    two sizes to which one artist who is right only with the larger and one who is right only with the smaller size are
    added (Bonett and Price 2012).
    """
    from scipy.stats import t as student

    sizes, by_row = sum_by_group(groups, *correct)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(sizes), (_RESAMPLES, len(sizes)))
    resampled = np.stack(by_row)[:, chosen].sum(axis=2).T / sizes[chosen].sum(axis=1)[:, None]
    limit, slope = fit_curve(artists, correct.mean(axis=1), power)
    residuals = limit - slope * artists**-power - correct.mean(axis=1)
    spread = np.sqrt((residuals**2).sum() / max(len(artists) - 2, 1))
    spread = max(spread, 1 / (float(effective_groups(sizes)) + 2))
    resampled = resampled + rng.normal(0, spread, resampled.shape)
    gains = np.stack([_fit_gains(artists, resampled, now, each) for each in _INTERVAL_EXPONENTS])
    low, high = np.percentile(gains.min(axis=0), 2.5), np.percentile(gains.max(axis=0), 97.5)
    factor = student.ppf(0.975, max(len(sizes) - 1, 1)) / 1.96
    return float(gain - factor * max(gain - low, 0.0)), float(gain + factor * max(high - gain, 0.0))


def _fit_gains(artists: Float64Array, accuracy: Float64Array, now: float, exponent: float) -> Float64Array:
    """Fit curves to accuracies, shape (n, n_sizes), and return their gains, shape (n,); accuracy is in [0, 1]."""
    x = artists**-exponent
    centred = x - x.mean()
    slopes = -(accuracy @ centred) / (centred**2).sum()
    # Only the accuracy is bounded, not the limit: it may be out of reach, and a bound would hide slow growth.
    today = accuracy.mean(axis=1) - slopes * (now**-exponent - x.mean())
    gains = slopes * (now**-exponent - (now + MORE_ARTISTS) ** -exponent)
    bounded: Float64Array = np.clip(gains, -np.maximum(today, 0.0), np.maximum(1 - today, 0.0))
    return bounded


def _summarise(
    store: Store,
    recipe: str,
    folds: int,
    seeds: tuple[int, ...],
    tracks: Int64Array,
    correct: Float64Array,
    numbers: Float64Array,
    counts: Int64Array,
) -> LearningCurve:
    groups, labels = store.track_groups[tracks], store.track_leaves[tracks]
    exponent = choose_exponent(numbers, correct.mean(axis=1))
    overall = extrapolate("all", numbers, correct, groups, float(counts[counts > 0].mean()))
    leaves, omitted = [], []
    for leaf in np.unique(labels).tolist():
        name, own = format_path(store.taxonomy.leaves[leaf]), labels == leaf
        trained = counts[leaf] * (folds - 1) / folds
        if counts[leaf] < folds:
            reason = f"fewer artists than folds ({folds})"
        elif trained <= numbers[1]:
            reason = f"at most as many artists in training as the second size ({numbers[1]:.1f})"
        else:
            sizes = np.minimum(numbers, max(1.0, trained))
            leaves.append(extrapolate(name, sizes, correct[:, own], groups[own], float(counts[leaf]), exponent))
            continue
        omitted.append(OmittedClass(name=name, artists=int(counts[leaf]), reason=reason))
    return LearningCurve(
        store=str(store.folder),
        recipe=recipe,
        disjoint=describe_folds(store),
        folds=folds,
        seeds=seeds,
        points=tuple(
            CurvePoint(artists=float(number), accuracy=float(row.mean()), ci95=accuracy_interval(row, groups))
            for number, row in zip(numbers, correct, strict=True)
        ),
        exponent=exponent,
        overall=overall,
        leaves=tuple(sorted(leaves, key=lambda item: -item.gain)),
        omitted=tuple(omitted),
        notes=tuple(describe_few_groups(store, np.unique(groups, return_counts=True)[1])),
    )


def format_curve(result: LearningCurve) -> str:
    """Format the curve and the extrapolation in Markdown."""
    lines = [
        f"Learning curve of {result.recipe} on {result.store} ({result.disjoint}, {result.folds} folds, seeds "
        f"{', '.join(map(str, result.seeds))}): leaves, by track.",
        "",
        "| artists in each class | accuracy in % (95 % interval) |",
        "| --- | --- |",
    ]
    for point in result.points:
        low, high = point.ci95
        lines.append(f"| {point.artists:.1f} | {100 * point.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f}) |")
    lines += [
        "",
        f"| class | artists | fitted now | {MORE_ARTISTS} more in each class | gain in points (95 % interval) |",
    ]
    lines.append("| --- | --- | --- | --- | --- |")
    for item in (result.overall, *result.leaves):
        low, high = item.gain_ci95
        artists = f"{item.artists:.0f}{' (few)' if item.few_artists else ''}"
        cells = (item.name, artists, f"{100 * item.now:.1f}", f"{100 * item.more:.1f}")
        lines.append(f"| {' | '.join(cells)} | {100 * item.gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |")
    low, high = result.overall.gain_ci95
    lines += [
        "",
        f"{MORE_ARTISTS} more artists in each class would bring about {100 * result.overall.gain:.0f} points "
        f"({round(100 * low)} to {round(100 * high)}), if the power law holds (exponent {result.exponent:g}).",
        *(f"\nNote: {note}." for note in (*_describe_classes(result), *result.notes)),
    ]
    return "\n".join(lines) + "\n"


def _describe_classes(result: LearningCurve) -> Iterator[str]:
    """Describe the classes that were omitted, by reason, and those with few artists."""
    for reason in dict.fromkeys(item.reason for item in result.omitted):
        names = [f"{item.name} ({item.artists})" for item in result.omitted if item.reason == reason]
        yield f"no curve for {len(names)} {'class' if len(names) == 1 else 'classes'} with {reason}: {', '.join(names)}"
    if any(item.few_artists for item in (result.overall, *result.leaves)):
        yield (
            f"few: fewer than {FEW_GROUPS} artists, or as informative as fewer than {FEW_GROUPS} with equally many "
            "tracks; the widths of these intervals rest on an assumed deviation of each size"
        )


def draw_curve(result: LearningCurve) -> bytes:
    """Plot the measured accuracies with intervals, and the fitted curve to twice the number of artists."""
    figure = make_figure(6.5, 4.2)
    axes = figure.subplots()
    numbers = np.array([point.artists for point in result.points])
    accuracy = np.array([point.accuracy for point in result.points])
    errors = np.abs(np.array([point.ci95 for point in result.points]).T - accuracy)
    axes.errorbar(numbers, 100 * accuracy, yerr=100 * errors, fmt="o", color="#00429d", capsize=3, label="measured")
    limit, slope = fit_curve(numbers, accuracy, result.exponent)
    wide = np.geomspace(numbers[0], result.overall.artists + 2 * MORE_ARTISTS, 100)
    axes.plot(wide, 100 * (limit - slope * wide**-result.exponent), color="#e07b00", label="power law")
    axes.axvline(result.overall.artists, color="gray", linewidth=0.8, linestyle=":", label="all artists")
    axes.set_xlabel("artists in each class")
    axes.set_ylabel("accuracy on unseen artists (%)")
    axes.legend()
    return to_png(figure)
