r"""How fast explanations are, how faithful, and whether they point to an instrument that was planted.

    python benchmarks/explain.py speed BUNDLE... --file FOUR_MINUTES.mp3 [--runtimes auto torch] [--rounds 3]
    python benchmarks/explain.py faithful BUNDLE... --store STORE [--methods occlusion gradcam] [--most 50]
    python benchmarks/explain.py refine BUNDLE... --store STORE [--most 12]
    python benchmarks/explain.py levels --store STORE --music FOLDER
    python benchmarks/explain.py planted --out DIR [--pieces 24] [--models cnn boosting] [--methods occlusion gradcam]

speed: seconds from the start of `genretree.explain` to its end, decoding included, and its processor seconds, after one
run to load libraries; then the whole command, from a fresh process; medians of the rounds. faithful: deletion and
insertion against orders at random, by energy and by edges, sanity and stability, on held-out tracks that are predicted
correctly. refine: deletion and insertion of coarse-to-fine occlusion and of occlusion of every part, on two slices of
each held-out track that is predicted correctly, in float32 and bf16; curves always in float32. planted: composes two
genres that a hi-hat alone tells apart, trains on some pieces, and gives the share of the relevance for "With" that lies
where the hi-hat lifts the spectrum by 10 dB, over the share of that region in the map, on pieces held out. levels:
quartiles of the loudness and the fluctuation of each band over the training tracks of a store, whose audio lies in
FOLDER: the table in `genretree.explanation.sentences`. Seed 0 everywhere.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from genretree.bundle.bundle import load_bundle
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.datasets.composed.compose import ComposeSettings
from genretree.datasets.composed.planted import compose_planted
from genretree.evaluation.evaluate import match_leaves
from genretree.explanation.api import explain, predicted_nodes
from genretree.explanation.bands import Aspect, Band
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.coordinates import STEPS, View, frequency_axis
from genretree.explanation.evaluate.faithfulness import measure_curves
from genretree.explanation.methods.occlusion import occlude
from genretree.explanation.methods.registry import choose_method
from genretree.explanation.methods.shapley import compute_shapley_values
from genretree.explanation.result import Explanation
from genretree.explanation.sentences import PHRASES, measure_level
from genretree.explanation.slices import TrackSlices, read_track, score
from genretree.explanation.survey import survey
from genretree.explanation.target import make_target
from genretree.models.runtime.types import RuntimeChoice
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, ImageSettings
from genretree.sound.decode import decode
from genretree.sound.slices import iter_slices, skip_silent
from genretree.sound.spectra import compute_spectra
from genretree.taxonomy import Taxonomy
from genretree.training.train import train

PAIR = Taxonomy.from_nested(["With", "Without"])
CYCLE, BURST = 5.7, 1.0  # seconds: two bursts in a slice
METHODS = ("occlusion", "gradcam", "rollout", "integrated-gradients")
FIT: dict[str, Sequence[str]] = {
    "cnn": ("occlusion", "gradcam", "integrated-gradients"),
    "efficientnet-b0": ("occlusion", "gradcam", "integrated-gradients"),
    "ast": ("occlusion", "rollout", "integrated-gradients"),
}


def speed(
    bundles: Sequence[Path],
    file: Path,
    methods: Sequence[str],
    runtimes: Sequence[RuntimeChoice] = ("auto",),
    rounds: int = 1,
) -> list[dict[str, Any]]:
    """Print a line for each bundle, runtime and method, and return the seconds of each round."""
    seconds = len(decode(file)) / SAMPLE_RATE
    measured: list[dict[str, Any]] = []
    for folder, runtime in itertools.product(bundles, runtimes):
        bundle = load_bundle(folder, runtime, "auto")
        if any((row["bundle"], row["runtime"]) == (folder.name, bundle.runtime) for row in measured):
            continue  # without an export, `auto` is torch
        for method in methods:
            if method not in FIT.get(bundle.family, ("occlusion",)):
                continue
            command = [sys.executable, "-m", "genretree", "explain", str(folder), str(file)]
            command += ["--method", method, "--runtime", runtime, "--quiet"]
            n_slices = len(explain(bundle, file, method=method).track_slices)
            warm, processor, whole = [], [], []
            for _ in range(rounds):
                begun, used = time.monotonic(), time.process_time()
                explain(bundle, file, method=method)
                warm.append(time.monotonic() - begun)
                processor.append(time.process_time() - used)
                begun = time.monotonic()
                subprocess.run(command, check=True, capture_output=True)
                whole.append(time.monotonic() - begun)
            measured.append(
                {
                    "bundle": folder.name,
                    "runtime": bundle.runtime,
                    "method": method,
                    "sound": seconds,
                    "slices": n_slices,
                    "explain": warm,
                    "processor": processor,
                    "command": whole,
                }
            )
            cells = [folder.name, bundle.runtime, method, f"{seconds:.0f} s", str(n_slices)]
            medians = [f"{statistics.median(times):.1f} s" for times in (warm, processor, whole)]
            print(" | ".join([*cells, *medians]), flush=True)
    return measured


def faithful(bundles: Sequence[Path], store: Store, methods: Sequence[str], most: int) -> None:
    """Print a line for each bundle and method."""
    for folder in bundles:
        bundle = load_bundle(folder, "auto", "auto")
        for method in methods:
            if method not in FIT.get(bundle.family, ("occlusion",)):
                continue
            begun = time.monotonic()
            found = survey(bundle, store, choose_method(method), max_tracks=most, progress=True).to_json()
            areas = [
                " / ".join(f"{found[kind][order]:.3f}" for order in ("map", "random", "energy", "edges"))
                for kind in ("deletion", "insertion")
            ]
            better = [
                " / ".join(f"{100 * found[kind][order]:.0f}" for order in ("random", "energy", "edges"))
                for kind in ("deletion_better_than", "insertion_better_than")
            ]
            drawn = found["randomised_weights"]
            cells = [folder.name, method, f"{found['right']} of {found['looked_at']}", *areas, *better]
            cells += ["-" if drawn is None else f"{drawn:.2f}", f"{found['inaudible_noise']:.2f}"]
            print(" | ".join([*cells, f"{time.monotonic() - begun:.0f} s"]), flush=True)


def planted(out: Path, track_slices: int, models: Sequence[str], methods: Sequence[str]) -> None:
    """Compose, train and print a line for each model and method."""
    store, sounds = _compose(out, track_slices)
    settings: dict[str, dict[str, Any]] = {
        "cnn": {"image_size": 112, "epochs": 20},
        "boosting": {"features": ["statistics"], "epochs": 40, "min_samples_leaf": 5},
    }
    for model in models:
        folder = out / model
        bundle = load_bundle(folder) if folder.exists() else train(store, model, folder, settings.get(model, {}))
        for method in methods:
            if method not in FIT.get(model, ("occlusion",)):
                continue
            ratios, shares, right = [], [], 0
            tracks = np.unique(store.slice_tracks[store.rows("test")]).tolist()
            for track in tracks:
                name = Path(store.tracks["path"][track]).name
                found = explain(bundle, f"#{track}", store=store, method=method)
                named = found.prediction.path[-1] == name.split("-")[0]
                right += named
                if named and name.startswith("With-"):
                    ratio, share = _point(found, *sounds[name])
                    ratios.append(ratio)
                    shares.append(share)
            lowest = f"{min(ratios):.1f}" if ratios else "-"
            print(
                f"{model} | {method} | {right} of {len(tracks)} right | {len(ratios)} explained | mean "
                f"{np.mean(ratios):.1f}, median {np.median(ratios):.1f}, least {lowest} times chance | chance "
                f"{np.mean(shares):.3f}",
                flush=True,
            )


def refine(bundles: Sequence[Path], store: Store, most: int) -> None:
    """Print a line for each bundle and way to occlude: areas under the curves, and the slices that were scored."""
    ways = {"every part, float32": ("float32", True), "every part, bf16": ("auto", True), "refined": ("auto", False)}
    for folder in bundles:
        loaded = {precision: load_bundle(folder, "auto", precision) for precision in ("float32", "auto")}
        bundle = loaded["float32"]
        leaves = match_leaves(bundle.taxonomy, store)
        tracks = np.unique(store.slice_tracks[store.rows("test")])
        tracks = tracks[np.unique(np.linspace(0, len(tracks) - 1, most).round().astype(int))]
        areas: dict[str, list[list[float]]] = {way: [] for way in ways}
        for track in tracks.tolist():
            slices = read_track(bundle, store, track)
            nodes = predicted_nodes(bundle, score(bundle, slices))
            if nodes != bundle.taxonomy.ancestors[leaves[track]].tolist():
                continue
            slices = slices.select(np.unique(np.linspace(0, len(slices) - 1, 2).round().astype(int)))
            empty, target = compute_baseline(slices), make_target(bundle.taxonomy, len(nodes) - 1, nodes[-1])
            views = compute_shapley_values(bundle, slices, empty, [target]).views
            for way, (precision, exhaustive) in ways.items():
                maps = occlude(loaded[precision], slices, empty, [target], views, exhaustive=exhaustive)
                curve = measure_curves(bundle, slices, empty, target, maps)["map"]
                areas[way].append([float(np.trapezoid(part)) / (len(part) - 1) for part in curve])
        for way, values in areas.items():
            change = np.subtract(values, areas["every part, float32"])
            mean, error = np.mean(values, axis=0), change.std(axis=0) / np.sqrt(len(values))
            cells = [f"{mean[i]:.3f} ({change[:, i].mean():+.3f} ± {error[i]:.3f})" for i in (0, 1)]
            print(" | ".join([folder.name, way, str(len(values)), *cells]), flush=True)


def levels(store: Store, music: Path) -> None:
    """Print quartiles of each band's loudness and fluctuation over the tracks that are not in the test part."""
    tracks = np.unique(store.slice_tracks[store.rows("train")])
    held_back = store.rows("validation")
    tracks = np.union1d(tracks, store.slice_tracks[held_back]) if len(held_back) else tracks
    files = [music / str(store.tracks["path"][track]) for track in tracks]
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(_levels_of, files, chunksize=8))
    for key in found[0]:
        (quiet, steady), (loud, uneven) = np.percentile([each[key] for each in found], (25, 75), axis=0)
        print(f"{key!r}: (({quiet:.0f}, {loud:.0f}), ({steady:.0f}, {uneven:.0f})),")


def _levels_of(file: Path) -> dict[tuple[Aspect, Band], tuple[float, float]]:
    pieces = list(skip_silent(iter_slices(file, ImageSettings.build()), file))
    track = TrackSlices(
        str(file),
        np.stack([piece.images for piece in pieces]),
        {},
        np.array([piece.start for piece in pieces]),
        ImageSettings.build().slice_seconds,
        np.array([piece.decibels for piece in pieces], np.float32),
    )
    measured = {key: measure_level(*key, track) for key in PHRASES}
    return {key: level for key, level in measured.items() if level is not None}


def _compose(out: Path, track_slices: int) -> tuple[Store, dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    settings = ComposeSettings.build({"seconds": 36.0})
    folder = out / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    rows, sounds = [], {}
    for number in range(track_slices):
        music, instrument = compose_planted(number, settings, CYCLE, BURST)
        for genre, sound in (("With", music + instrument), ("Without", music)):
            name = f"{genre}-{number}.wav"
            sf.write(folder / name, 0.5 * sound / np.abs(sound).max(), SAMPLE_RATE)
            rows.append({"path": name, "genre": genre, "artist": f"artist {number}"})
            sounds[name] = (music, instrument)
    with (folder / "tracks.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if (out / "store").exists():
        return Store(out / "store"), sounds
    manifest = read_manifest(folder / "tracks.csv", PAIR)
    return prepare(manifest, out / "store", ImageSettings.build(), workers=2), sounds


def _point(found: Explanation, music: NDArray[np.float32], instrument: NDArray[np.float32]) -> tuple[float, float]:
    """Give how many times more relevance lies in the planted region than its share of the map, and that share."""
    region = planted_region(music, instrument, found.track_slices)
    values = {item.view: np.maximum(item.values, 0) for item in found.reasons[0].maps if item.view in region}
    mass = sum(float(part.sum()) for part in values.values())
    inside = sum(float(part[region[view]].sum()) for view, part in values.items())
    chance = float(np.mean([region[view].mean() for view in values]))
    return (inside / mass / chance if mass else 0.0), chance


def planted_region(
    music: NDArray[np.float32], instrument: NDArray[np.float32], track_slices: TrackSlices
) -> dict[View, NDArray[np.bool_]]:
    """Say where the instrument lifts mel or CQT by 10 dB for a third of a cell: bool, (n_slices, rows, STEPS)."""
    both = music + instrument
    views: tuple[View, ...] = ("mel", "cqt")
    alone, mixed = compute_spectra(music), compute_spectra(both)
    found: dict[View, NDArray[np.bool_]] = {}
    for view in views:
        lifted = (getattr(mixed, view) - getattr(alone, view) > 10).astype(np.float32)
        parts = []
        for start in track_slices.starts:
            at = round(float(start) * SAMPLE_RATE / HOP_LENGTH)
            piece = lifted[:, at : at + round(track_slices.seconds * SAMPLE_RATE / HOP_LENGTH)]
            rows = np.stack([band.mean(axis=0) for band in np.array_split(piece, frequency_axis(view).rows)])
            parts.append(np.stack([step.mean(axis=1) for step in np.array_split(rows, STEPS, axis=1)], axis=1) > 1 / 3)
        found[view] = np.stack(parts)
    return found


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "faithful", "planted", "levels", "refine"])
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--music", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--models", nargs="+", default=["cnn", "boosting"])
    parser.add_argument("--pieces", type=int, default=24)
    parser.add_argument("--most", type=int, default=50)
    parser.add_argument("--runtimes", nargs="+", default=["auto"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.what == "speed":
        measured = speed(given.bundles, given.file, given.methods, given.runtimes, given.rounds)
        if given.json:
            given.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    elif given.what == "faithful":
        faithful(given.bundles, Store(given.store), given.methods, given.most)
    elif given.what == "refine":
        refine(given.bundles, Store(given.store), given.most)
    elif given.what == "levels":
        levels(Store(given.store), given.music)
    else:
        planted(given.out, given.pieces, given.models, given.methods)


if __name__ == "__main__":
    main()
