r"""Calibration on another collection: confidence, accuracy and calibration error by distance from the training data.

    python benchmarks/shift.py BUNDLE STORE [--part all] [--map Symphony=classical Opera=classical ...]

`--map` names the bundle's leaf of each leaf of the store; leaves without one are left out. Without `--map`, the names
are equal. Prints a line for all tracks, for those within a distance of 1, and for those beyond.

    python benchmarks/shift.py BUNDLE STORE --home HOME [--fitted-on train validation]

compares the first level, whose nodes must have equal names, on the test part of HOME (the store that the bundle was
trained on) and on all of STORE: temperatures, calibration, and how many tracks several distances flag. `--fitted-on`
names the parts whose tracks the distances are measured from: those that the network was not trained on, if there are
enough. All thresholds come from cross-validation over the artists of these parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genretree.arrays import Float64Array, Int64Array
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import predict_rows
from genretree.metrics.calibration import average_by, fit_calibration, temper
from genretree.metrics.familiarity import _distances, _fit, describe_in_batches, describe_inputs, measure_distance
from genretree.metrics.scores import score_units
from genretree.models.base import OutOfFoldPredictions, embed_slices
from genretree.taxonomy import Taxonomy
from genretree.training.train import reads_spectrum

_FOLDS, _NEIGHBOURS, _QUANTILE = 5, 5, 0.95
_BATCH = 128
_SPECTRA = ("mel", "mel_16k", "mel_32k")
Distance = Callable[[Float64Array, Float64Array], Float64Array]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--part", default="all")
    parser.add_argument("--map", nargs="*", default=[], metavar="LEAF=LEAF")
    parser.add_argument("--home", type=Path, metavar="HOME")
    parser.add_argument("--fitted-on", nargs="+", default=["train", "validation"], metavar="PART")
    options = parser.parse_args()
    if options.home:
        compare_collections(load_bundle(options.bundle), Store(options.home), Store(options.store), options.fitted_on)
        return
    bundle, store = load_bundle(options.bundle), Store(options.store)
    names = dict(text.split("=") for text in options.map) or {leaf[-1]: leaf[-1] for leaf in store.taxonomy.leaves}
    leaf_of = {
        number: bundle.taxonomy.find_leaf(names[leaf[-1]])
        for number, leaf in enumerate(store.taxonomy.leaves)
        if leaf[-1] in names
    }
    rows = store.rows(options.part)
    rows = rows[np.isin(store.track_leaves[store.slice_tracks[rows]], list(leaf_of))]
    tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    levels = bundle.average_slices(predict_rows(bundle, store, rows), position)
    leaves = np.array([leaf_of[int(leaf)] for leaf in store.track_leaves[tracks]])
    inputs = store.inputs(rows)
    read = list_spectra(bundle)
    described = describe_inputs({name: inputs[name] for name in read})
    assert described is not None
    reference = bundle.training.get("reference")
    distance = np.array([measure_distance(reference, described[position == i]) for i in range(len(tracks))], float)
    print("| tracks | n | level | accuracy in % | mean confidence in % | calibration error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for title, chosen in (("all", distance >= 0), ("distance up to 1", distance <= 1), ("beyond 1", distance > 1)):
        if not chosen.any():
            continue
        part = [level[chosen] for level in levels]
        groups = store.track_groups[tracks[chosen]]
        scores = score_units(bundle.taxonomy, bundle.model.heads, part, leaves[chosen], groups, 0)
        for number, level in enumerate(scores.levels):
            low, high = level.ci95
            right = level.accuracy
            confidence = sum(item.n * item.confidence for item in level.trust.bins) / scores.n
            accuracy = f"{100 * right:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            cells = (title, str(scores.n), bundle.taxonomy.levels[number], accuracy, f"{100 * confidence:.1f}")
            print(f"| {' | '.join(cells)} | {level.trust.ece:.3f} |")
    quantiles = ", ".join(f"{value:.2f}" for value in np.quantile(distance, [0.05, 0.5, 0.95]))
    print(f"distance: 5th, 50th and 95th percentile {quantiles}; beyond 1: {100 * (distance > 1).mean():.0f} %")


def list_spectra(bundle: Bundle) -> list[str]:
    """List the spectra that a bundle reads, of those from which distances are measured."""
    return [name for name in _SPECTRA if reads_spectrum(set(bundle.model.input_features), name)]


def compare_collections(bundle: Bundle, home: Store, away: Store, fitted_on: list[str]) -> None:
    """Print the tables of `--home`."""
    nodes = [node[-1] for node in bundle.taxonomy.nodes(0)]
    print("| tracks | n | temperature | accuracy in % | mean confidence in % | ECE (by chance) | log loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    own = bundle.calibration.track[0] if bundle.calibration else 1.0
    for title, store, part in (("home, held-out artists", home, "test"), ("away", away, "all")):
        rows = store.rows(part)
        tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
        truth = np.array([nodes.index(store.taxonomy.leaves[leaf][0]) for leaf in store.track_leaves[tracks]])
        proba = average_by(predict_rows(bundle, store, rows)[0], position, len(tracks))
        flat = Taxonomy.from_nested(nodes)
        as_tracks = OutOfFoldPredictions([proba], truth, np.arange(len(tracks)))
        best = fit_calibration(as_tracks, flat, bundle.model.heads, "this collection").track[0]
        for name, temperature in (("none", 1.0), ("the bundle's", own), ("best here", best)):
            levels = temper([proba], [temperature], flat, bundle.model.heads)
            scores = score_units(flat, bundle.model.heads, levels, truth, store.track_groups[tracks], 0).levels[0]
            confidence = 100 * levels[0].max(axis=1).mean()
            loss = -np.log(np.maximum(levels[0][np.arange(len(truth)), truth], 1e-9)).mean()
            low, high = scores.ci95
            accuracy = f"{100 * scores.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            trust = f"{scores.trust.ece:.3f} ({scores.trust.ece_chance:.3f})"
            print(f"| {title} | {len(tracks)} | {temperature:.2f}, {name} | {accuracy} | {confidence:.1f} ", end="")
            print(f"| {trust} | {loss:.3f} |")
    print("\n| distance | home, held-out artists: flagged in % | away: flagged in % | area under the ROC curve |")
    print("| --- | --- | --- | --- |")
    compare_distances(bundle, home, away, fitted_on)


def compare_distances(bundle: Bundle, home: Store, away: Store, fitted_on: list[str]) -> None:
    """Print how many tracks each distance flags at a threshold of 5 % in cross-validation over artists."""
    from sklearn.metrics import roc_auc_score

    parts = [(home, np.concatenate([home.rows(part) for part in fitted_on])), (home, home.rows("test"))]
    parts.append((away, away.rows("all")))
    tables = [describe_tracks(bundle, store, rows) for store, rows in parts]
    groups = home.track_groups[np.unique(home.slice_tracks[parts[0][1]])]
    folds = np.unique(groups, return_inverse=True)[1] % _FOLDS
    distances: list[tuple[str, str, Distance]] = [
        ("Mahalanobis, 16 bands (`training_distance`)", "bands", _mahalanobis),
        ("Mahalanobis, embedding", "embedding", _mahalanobis),
        (f"{_NEIGHBOURS} nearest neighbours, embedding", "embedding", _neighbours),
    ]
    for title, key, measure in distances:
        train, test, other = (table[key] for table in tables)
        held_out = np.zeros(len(train))
        for fold in range(_FOLDS):
            held_out[folds == fold] = measure(train[folds != fold], train[folds == fold])
        limit = np.quantile(held_out, _QUANTILE)
        near, far = measure(train, test), measure(train, other)
        area = roc_auc_score(np.repeat([0, 1], [len(near), len(far)]), np.concatenate([near, far]))
        print(f"| {title} | {100 * (near > limit).mean():.0f} | {100 * (far > limit).mean():.0f} | {area:.2f} |")


def describe_tracks(bundle: Bundle, store: Store, rows: Int64Array) -> dict[str, Float64Array]:
    """Average the bands and the embeddings of each track's slices."""
    position = np.unique(store.slice_tracks[rows], return_inverse=True)[1]
    read = list_spectra(bundle)

    def spectra(batch: slice) -> dict[str, np.ndarray]:
        inputs = store.inputs(rows[batch])
        return {name: inputs[name] for name in read if name in inputs}

    bands = describe_in_batches(spectra, len(rows))
    assert bands is not None
    starts = range(0, len(rows), _BATCH)
    embedded = [embed_slices(bundle.model, store.inputs(rows[start : start + _BATCH])) for start in starts]
    n = int(position.max()) + 1
    embedding = np.concatenate(embedded).astype(float)
    return {"bands": average_by(bands, position, n), "embedding": average_by(embedding, position, n)}


def _mahalanobis(train: Float64Array, values: Float64Array) -> Float64Array:
    return _distances(*_fit(train), values)


def _neighbours(train: Float64Array, values: Float64Array) -> Float64Array:
    from sklearn.neighbors import NearestNeighbors

    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    fitted = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit((train - mean) / scale)
    distances: Float64Array = fitted.kneighbors((values - mean) / scale)[0].mean(axis=1)
    return distances


if __name__ == "__main__":
    main()
