r"""Compare genretree with other tools on the same tracks: accuracy on held-out artists, and time to a prediction.

    python benchmarks/comparison.py accuracy STORE --out DIR [--paa PYTHON] [--seeds 0 1 2]
    python benchmarks/comparison.py speed STORE --music FOLDER --out DIR [--paa PYTHON] [--rounds 3]
    python benchmarks/comparison.py autogenre STORE --out DIR --beets PYTHON
    python benchmarks/comparison.py page DIR/comparison.json docs/comparison.md

STORE is a prepared store of audio files with artists, in a tree of two levels. `accuracy` makes the folds of `genretree
cross-validate` for each seed and gives every tool the same tracks to train on (genretree takes its validation part from
them) and to predict. Nothing is chosen on test folds: librosa's functions, scikit-learn's classifiers and genretree's
recipes have their default settings, and pyAudioAnalysis searches its parameters itself, within the training tracks
(with fewer repetitions than by default). It goes on where it stopped. Intervals (95 %) are for new artists, of each
track's mean over the seeds. The table of leakage splits the same features at random, as many tutorials do.

`speed` trains each tool on all tracks of the store, then starts a new process for each prediction: of one file of
FOLDER and of all, one tool after the other, medians of the rounds. It also compares the predicted genres with those of
the store's files of the same names, which may be in another format. `autogenre` imports copies of the tracks, with
tags, into a new beets library and runs `beet autogenre` without a network. `page` writes the tables into the page.

The other tools have environments of their own (Python 3.11; ffmpeg must be on the path):

    pip install pyAudioAnalysis==0.3.14 'numpy<2' scipy scikit-learn imbalanced-learn matplotlib plotly hmmlearn \
        eyed3 pydub tqdm                                                        # --paa; it declares no dependencies
    pip install beets==2.5.1 beets-autogenre==0.8.1 beets-xtractor==0.4.2      # --beets

The weights of MusiCNN and mn04 must be there (`genretree weights get musicnn`, `genretree weights get mn04`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import pickle
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from genretree.corpus.store import Store

# pyAudioAnalysis' interpreter runs this file, too, so genretree and librosa are imported where they are used.

FOLDS = 5
QUIET = ("-W", "ignore")  # scikit-learn warns at each of thousands of fits that `SVC(probability=True)` will go
REFERENCE = "librosa + SVC"
FOREST = "librosa + random forest"
PAA_SVM = "pyAudioAnalysis, svm"
PAA_BOOSTING = "pyAudioAnalysis, gradientboosting"
UNTRAINED = "genretree, no training"
RECIPES = ("boosting", "cnn-ours", "boosting-ours")
SLICE_FRAMES = 129  # of 512 samples at 22,050 Hz: 3 s, as in the GTZAN tables of many tutorials
MID_SECONDS = 1.0  # window and step of the example in pyAudioAnalysis' README
REPEATS = 20  # of each value in pyAudioAnalysis' search; by itself, it takes 50,000 / tracks, here 266
SVM_VALUES = (0.001, 0.01, 0.5, 1.0, 5.0, 10.0, 20.0)  # that its search tries
TREE_VALUES = (10, 25, 50, 100, 200, 500)
TREES = 100  # scikit-learn's default, for pyAudioAnalysis' boosting without its search, which takes hours
PAA_MODEL = "svm_rbf_musical_genre_6"  # in its package: the model with genres that still loads

# ---------------------------------------------------------------------------------------------------------------------
# librosa and scikit-learn, as in common tutorials


def compute_frames(path: str) -> np.ndarray:
    """Compute the usual features of each frame: 20 MFCC, 12 chroma, centroid, roll-off and zero-crossing rate."""
    import librosa

    y, sr = librosa.load(path)
    features = (
        librosa.feature.mfcc(y=y, sr=sr),
        librosa.feature.chroma_stft(y=y, sr=sr),
        librosa.feature.spectral_centroid(y=y, sr=sr),
        librosa.feature.spectral_rolloff(y=y, sr=sr),
        librosa.feature.zero_crossing_rate(y),
    )
    return np.vstack(features)


def summarise(frames: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of each feature."""
    return np.concatenate([frames.mean(axis=1), frames.std(axis=1)])


def summarise_track(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of a track, shape (70,), and of its slices of 3 s, shape (n, 70)."""
    frames = compute_frames(path)
    starts = range(0, frames.shape[1] - SLICE_FRAMES + 1, SLICE_FRAMES)
    return summarise(frames), np.array([summarise(frames[:, start : start + SLICE_FRAMES]) for start in starts])


def make_classifier(name: str, seed: int) -> Any:
    """Build a scikit-learn pipeline with default settings."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC() if name == REFERENCE else RandomForestClassifier(random_state=seed))


def load_librosa_features(files: Sequence[str], out: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute or read the features of all tracks, of all slices, and the track of each slice."""
    path = out / "librosa.npz"
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            pairs = list(pool.map(summarise_track, files, chunksize=4))
        slice_tracks = np.repeat(np.arange(len(pairs)), [len(slices) for _, slices in pairs])
        tracks, slices = np.array([track for track, _ in pairs]), np.concatenate([slices for _, slices in pairs])
        np.savez(path, tracks=tracks, slices=slices, slice_tracks=slice_tracks)
    with np.load(path) as content:
        return content["tracks"], content["slices"], content["slice_tracks"]


# ---------------------------------------------------------------------------------------------------------------------
# pyAudioAnalysis, run by its own interpreter


def write_paa_job(store: Store, folds: Sequence[dict[str, Any]], out: Path) -> Path:
    """Link the tracks into folders of genres, as pyAudioAnalysis reads them, and describe the folds."""
    music = out / "paa" / "music"
    genres = [leaf[-1] for leaf in store.taxonomy.leaves]
    for number, (file, leaf) in enumerate(zip(store.tracks["file"], store.track_leaves, strict=True)):
        link = music / genres[leaf] / f"{number:04}{Path(file).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(file).resolve())
    job = {"folder": str(out / "paa"), "genres": genres, "leaves": store.track_leaves.tolist(), "folds": list(folds)}
    path = out / "paa" / "job.json"
    path.write_text(json.dumps(job))
    return path


def extract_paa_folder(folder: str) -> tuple[list[str], np.ndarray]:
    """Compute the features of the files of a folder with pyAudioAnalysis' function; the last two are of the beat."""
    aT: Any = importlib.import_module("pyAudioAnalysis.audioTrainTest")
    windows = (MID_SECONDS, MID_SECONDS, aT.shortTermWindow, aT.shortTermStep)
    with contextlib.redirect_stdout(io.StringIO()):
        features, files, _ = aT.aF.directory_feature_extraction(folder, *windows, compute_beat=True)
    return files, features


def read_paa_features(job: dict[str, Any]) -> np.ndarray:
    """Compute or read the features of all tracks, shape (n, 138)."""
    path = Path(job["folder"], "features.npy")
    if not path.exists():
        rows: dict[int, np.ndarray] = {}
        folders = sorted(str(folder) for folder in Path(job["folder"], "music").iterdir())
        with ProcessPoolExecutor() as pool:
            for files, features in pool.map(extract_paa_folder, folders):
                rows.update({int(Path(file).stem): row for file, row in zip(files, features, strict=True)})
        missing = set(range(len(job["leaves"]))) - set(rows)
        if missing:
            raise SystemExit(f"pyAudioAnalysis could not read {len(missing)} of {len(job['leaves'])} tracks")
        np.save(path, np.array([rows[number] for number in range(len(rows))]))
    return np.asarray(np.load(path))


def train_paa(job: dict[str, Any], features: np.ndarray, fold: dict[str, Any]) -> None:
    """Train on the training tracks of a fold, and predict its test tracks, unless that is done."""
    if Path(fold["out"]).exists():
        return
    aT: Any = importlib.import_module("pyAudioAnalysis.audioTrainTest")
    search = aT.evaluate_classifier
    aT.evaluate_classifier = lambda *words, **options: search(*words, **{**options, "n_exp": REPEATS})
    leaves, genres, name = np.array(job["leaves"]), job["genres"], fold["classifier"]
    features = features[:, :-2]  # by default, it trains without the beat
    train = np.array(fold["train"])
    classes = [features[train[leaves[train] == leaf]] for leaf in range(len(genres))]
    model = Path(fold["model"])
    printed, began = io.StringIO(), time.process_time()
    np.random.seed(fold["seed"])  # noqa: NPY002 - its splits take random numbers from there
    if name == "svm":  # as users call it; the features of the folders are those computed before
        aT.aF.multiple_directory_feature_extraction = lambda *_, **__: (classes, genres, [[] for _ in genres])
        with contextlib.redirect_stdout(printed):
            windows = (MID_SECONDS, MID_SECONDS, aT.shortTermWindow, aT.shortTermStep)
            aT.extract_features_and_train(genres, *windows, name, str(model), False)
        classifier, mean, std = aT.load_model(str(model))[:3]
    else:
        x, y = aT.features_to_matrix(classes)
        mean, std = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-12)
        classifier = aT.train_gradient_boosting((x - mean) / std, y, TREES)
    aT.evaluate_classifier = search
    result: dict[str, Any] = {"cpu": time.process_time() - began}
    if best := re.search(r"^.*best f1.*$", printed.getvalue(), re.MULTILINE):
        result["own_accuracy"] = float(best[0].split()[1 + 3 * len(genres)]) / 100
    result["predicted"] = [
        int(aT.classifier_wrapper(classifier, name, (features[track] - mean) / std)[0]) for track in fold["test"]
    ]
    Path(fold["out"]).write_text(json.dumps(result))


def run_paa_training(path: str) -> None:
    """Train and predict all folds of a job, time the searches, and predict with the model in the package."""
    aT: Any = importlib.import_module("pyAudioAnalysis.audioTrainTest")
    job = json.loads(Path(path).read_text())
    features = read_paa_features(job)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(train_paa, job, features), job["folds"]))
    more = Path(job["folder"], "more.json")
    if more.exists():
        return
    found: dict[str, Any] = {}
    for name, values in (("svm", SVM_VALUES), ("gradientboosting", TREE_VALUES)):
        classes = [features[np.array(job["leaves"]) == leaf, :-2] for leaf in range(len(job["genres"]))]
        began = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            aT.evaluate_classifier(classes, job["genres"], name, np.array(values), 1, n_exp=1)
        found[name] = {"cpu": time.process_time() - began, "repeats": 50000 // len(job["leaves"]) + 1}
    model = Path(aT.__file__).parent / "data" / "models" / PAA_MODEL
    classifier, mean, std, genres = aT.load_model(str(model))[:4]
    found["bundled"] = [
        genres[int(aT.classifier_wrapper(classifier, "svm", (row - mean) / std)[0])] for row in features
    ]
    more.write_text(json.dumps(found))


def run_paa_prediction(model: str, files: Sequence[str]) -> None:
    """Predict files as pyAudioAnalysis' README does."""
    aT: Any = importlib.import_module("pyAudioAnalysis.audioTrainTest")
    for file in files:
        with contextlib.redirect_stdout(io.StringIO()):
            label, _, genres = aT.file_classification(file, model, "svm")
        print(json.dumps({"path": file, "genre": genres[int(label)]}), flush=True)


def run_librosa_prediction(model: str, files: Sequence[str]) -> None:
    """Predict files with a pickled pipeline, as tutorials do."""
    content = pickle.loads(Path(model).read_bytes())  # written by this script a moment ago
    for file in files:
        label = content["pipeline"].predict([summarise(compute_frames(file))])[0]
        print(json.dumps({"path": file, "genre": content["genres"][label]}), flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy


def score(store: Store, predicted: Sequence[np.ndarray], reference: Sequence[np.ndarray] | None) -> dict[str, Any]:
    """Score the nodes predicted for all tracks, an array of shape (n_tracks, depth) for each seed."""
    from genretree.metrics.intervals import accuracy_interval, difference_interval

    true = store.taxonomy.ancestors[store.track_leaves]
    groups = store.track_groups
    correct = np.stack([nodes == true for nodes in predicted]).astype(float)
    result: dict[str, Any] = {"seeds": len(predicted)}
    for level, name in ((0, "first"), (-1, "leaf")):
        marks = correct[:, :, level].mean(axis=0)
        result[name] = {
            "accuracy": marks.mean(),
            "ci95": accuracy_interval(marks, groups),
            "by_seed": correct[:, :, level].mean(axis=1).tolist(),
        }
    marks, counts = correct[:, :, -1].mean(axis=0), np.bincount(true[:, -1])
    weights = len(true) / np.count_nonzero(counts) / counts[true[:, -1]]  # the mean recall as a weighted mean of tracks
    weighted, top = marks * weights, weights.max()
    limits = [top * limit for limit in accuracy_interval(weighted / top, groups)]
    result["leaf"] |= {"balanced": weighted.mean(), "balanced_ci95": limits}
    if reference is not None:
        other = np.stack([nodes == true for nodes in reference]).astype(float)[:, :, -1].mean(axis=0)
        gains = correct[:, :, -1].mean(axis=0) - other
        result["gain"] = {"mean": gains.mean(), "ci95": difference_interval(gains, groups)}
    return result


def cross_validate_sklearn(store: Store, name: str, features: np.ndarray, seeds: Sequence[int]) -> list[np.ndarray]:
    """Predict each track by a classifier that was trained on other artists."""
    from genretree.evaluation.cross_validate import make_folds

    predicted = []
    for seed in seeds:
        leaves = np.full(store.n_tracks, -1)
        for split in make_folds(store, FOLDS, seed):
            test = np.array(split.parts) == "test"
            pipeline = make_classifier(name, seed).fit(features[~test], store.track_leaves[~test])
            leaves[test] = pipeline.predict(features[test])
        predicted.append(store.taxonomy.ancestors[leaves])
    return predicted


def cross_validate_genretree(store: Store, recipe: str, seeds: Sequence[int], out: Path) -> list[np.ndarray]:
    """Predict each track by a recipe that was trained on other artists."""
    from genretree.evaluation.cross_validate import (
        FoldPredictions,
        add_needed_features,
        build_candidates,
        make_folds,
        predict_fold,
    )

    (candidate,) = build_candidates([recipe])
    store = add_needed_features(store, [candidate])
    predicted = []
    for seed in seeds:
        splits = make_folds(store, FOLDS, seed)
        parts = [predict_fold(store, split, candidate, seed, out / "genretree", lambda _: None) for split in splits]
        predicted.append(FoldPredictions.join(parts).predicted(store))
    return predicted


def predict_untrained(store: Store) -> list[np.ndarray]:
    """Predict each track from the tags of mn04; -1 where the path ends above a level."""
    from genretree.prediction.predict import Prediction, predict
    from genretree.prediction.untrained import untrained_bundle

    tree = store.taxonomy
    nodes = np.full((store.n_tracks, tree.depth), -1)
    for number, result in enumerate(predict(untrained_bundle(tree), store.tracks["file"])):
        if isinstance(result, Prediction):
            for level, _ in enumerate(result.path):
                nodes[number, level] = next(
                    tree.ancestors[leaf, level]
                    for leaf, path in enumerate(tree.leaves)
                    if path[: level + 1] == result.path[: level + 1]
                )
    return [nodes]


def cross_validate_paa(
    store: Store, python: Path, seeds: Sequence[int], out: Path
) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """Predict each track by pyAudioAnalysis, trained on other artists; also its own estimates and times."""
    from genretree.evaluation.cross_validate import make_folds

    folds: list[dict[str, Any]] = []
    (out / "paa").mkdir(parents=True, exist_ok=True)
    for classifier in ("svm", "gradientboosting"):
        for seed in seeds:
            for split in make_folds(store, FOLDS, seed):
                is_test = np.array(split.parts) == "test"
                base = out / "paa" / f"{classifier}-{split.name}"
                parts = {"train": np.flatnonzero(~is_test).tolist(), "test": np.flatnonzero(is_test).tolist()}
                fold = {"classifier": classifier, "seed": seed, "model": f"{base}.model", "out": f"{base}.json"}
                folds.append({**fold, **parts})
    job = write_paa_job(store, folds, out)
    subprocess.run([python, *QUIET, __file__, "run-paa-training", job], check=True)
    predicted: dict[str, list[np.ndarray]] = {}
    more = json.loads((out / "paa" / "more.json").read_text())
    details: dict[str, Any] = {"search": {name: more[name] for name in ("svm", "gradientboosting")}}
    for classifier, name in (("svm", PAA_SVM), ("gradientboosting", PAA_BOOSTING)):
        results = [(fold, json.loads(Path(fold["out"]).read_text())) for fold in folds]
        results = [(fold, result) for fold, result in results if fold["classifier"] == classifier]
        details[name] = {"cpu": [result["cpu"] for _, result in results]}
        if classifier == "svm":
            details[name]["own_accuracy"] = [result["own_accuracy"] for _, result in results]
        for seed in seeds:
            leaves = np.full(store.n_tracks, -1)
            for fold, result in results:
                if fold["seed"] == seed:
                    leaves[fold["test"]] = result["predicted"]
            predicted.setdefault(name, []).append(store.taxonomy.ancestors[leaves])
    details["bundled"] = {genre: more["bundled"].count(genre) for genre in sorted(set(more["bundled"]))}
    return predicted, details


def measure_leakage(
    store: Store, name: str, tracks: np.ndarray, slices: np.ndarray, slice_tracks: np.ndarray, seeds: Sequence[int]
) -> dict[str, float]:
    """Accuracy of a classifier for four ways to split the same data; means over the seeds."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    from genretree.evaluation.cross_validate import make_folds

    of_slices = store.track_leaves[slice_tracks]
    found: dict[str, list[float]] = {}
    for seed in seeds:
        parts = train_test_split(slices, of_slices, test_size=0.2, random_state=seed)
        x_train, x_test, y_train, y_test = parts
        pipeline = make_classifier(name, seed).fit(x_train, y_train)
        found.setdefault("random slices, by slice", []).append(pipeline.score(x_test, y_test))
        hits = np.zeros(len(slices))
        for split in make_folds(store, FOLDS, seed):
            test = (np.array(split.parts) == "test")[slice_tracks]
            pipeline = make_classifier(name, seed).fit(slices[~test], of_slices[~test])
            hits[test] = pipeline.predict(slices[test]) == of_slices[test]
        found.setdefault("artists, by slice", []).append(hits.mean())
        hits = np.zeros(len(tracks))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(tracks, store.track_leaves):
            pipeline = make_classifier(name, seed).fit(tracks[train], store.track_leaves[train])
            hits[test] = pipeline.predict(tracks[test]) == store.track_leaves[test]
        found.setdefault("random tracks, by track", []).append(hits.mean())
    return {split: float(np.mean(values)) for split, values in found.items()}


def compare_accuracy(given: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate all tools on the same folds."""
    from genretree.corpus.store import Store

    store = Store(given.store)
    tracks, slices, slice_tracks = load_librosa_features(store.tracks["file"], given.out)
    leakage: dict[str, Any] = {}
    predicted: dict[str, list[np.ndarray]] = {}
    for name in (REFERENCE, FOREST):
        predicted[name] = remember(
            given, name, given.seeds, partial(cross_validate_sklearn, store, name, tracks, given.seeds)
        )
        path = given.out / "predictions" / f"leakage-{slug(name)}.json"
        if not path.exists():
            found = measure_leakage(store, name, tracks, slices, slice_tracks, given.seeds)
            path.write_text(json.dumps(found))
        leakage[name] = json.loads(path.read_text())
    details: dict[str, Any] = {}
    if given.paa:
        nodes, details = cross_validate_paa(store, given.paa, given.seeds, given.out)
        predicted |= nodes
    for recipe in RECIPES:
        seeds = given.seeds[: None if recipe.endswith("-ours") else 1]  # components of images take the longest
        predicted[f"genretree, {recipe}"] = cross_validate_genretree(store, recipe, seeds, given.out)
    predicted[UNTRAINED] = remember(given, UNTRAINED, [], partial(predict_untrained, store))
    rows = {name: score(store, nodes, predicted[REFERENCE]) for name, nodes in predicted.items()}
    facts = {"tracks": store.n_tracks, "artists": len(np.unique(store.track_groups)), "slices": len(slices)}
    return {**facts, "rows": rows, "leakage": leakage, "paa": details}


def slug(name: str) -> str:
    """Turn a name into one for files."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def remember(
    given: argparse.Namespace, name: str, seeds: Sequence[int], make: Callable[[], list[np.ndarray]]
) -> list[np.ndarray]:
    """Read predictions that an earlier call made, or make them."""
    path = given.out / "predictions" / f"{'-'.join([slug(name), *map(str, seeds)])}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.stack(make()))
    return list(np.load(path))


# ---------------------------------------------------------------------------------------------------------------------
# Speed


def train_all(store: Store, given: argparse.Namespace) -> dict[str, list[str]]:
    """Train each tool on the tracks of the store, unless that is done; return the commands that predict files."""
    import yaml

    from genretree.bundle.bundle import save_bundle
    from genretree.bundle.export import export_bundle
    from genretree.prediction.untrained import untrained_bundle
    from genretree.training.recipes import Recipe
    from genretree.training.train import train

    models = given.out / "models"
    models.mkdir(exist_ok=True)
    genres = [leaf[-1] for leaf in store.taxonomy.leaves]
    pipeline = models / "librosa.pickle"
    if not pipeline.exists():
        features = load_librosa_features(store.tracks["file"], given.out)[0]
        fitted = make_classifier(REFERENCE, 0).fit(features, store.track_leaves)
        pipeline.write_bytes(pickle.dumps({"pipeline": fitted, "genres": genres}))
    commands = {REFERENCE: [sys.executable, __file__, "run-librosa", str(pipeline)]}
    if given.paa:
        name = models / "paa"
        every = list(range(store.n_tracks))
        fold = {"classifier": "svm", "seed": 0, "model": str(name), "out": f"{name}.json", "train": every, "test": []}
        (given.out / "paa").mkdir(exist_ok=True)
        subprocess.run(
            [given.paa, *QUIET, __file__, "run-paa-training", write_paa_job(store, [fold], given.out)], check=True
        )
        commands[PAA_SVM] = [str(given.paa), *QUIET, __file__, "run-paa", str(name)]
    genretree = [sys.executable, "-m", "genretree", "predict", "--json", "--quiet"]
    for recipe in ("cnn-ours", "boosting-ours"):
        if not (models / recipe).exists():
            loaded = Recipe.load(recipe)
            train(store, loaded.family, models / recipe, loaded.settings)
        commands[f"genretree, {recipe}"] = [*genretree, str(models / recipe)]
    tree = models / "tree.yaml"
    nested: dict[str, list[str]] = {}
    for first, last in store.taxonomy.leaves:
        nested.setdefault(first, []).append(last)
    tree.write_text(yaml.safe_dump(nested))
    commands[UNTRAINED] = [*genretree, "--tree", str(tree)]
    exported = models / "untrained"
    if not exported.exists():
        save_bundle(replace(untrained_bundle(store.taxonomy), folder=exported))
        export_bundle(exported, "openvino")
    commands[f"{UNTRAINED}, OpenVINO export"] = [*genretree, str(exported)]
    return commands


def time_command(command: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Run a command; return seconds, CPU seconds and peak memory of its largest process, and the genre by file name."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        lines = [json.loads(line) for line in output if line.startswith("{")]
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ...: exit status {process.returncode}")
    genres = {Path(line["path" if "genre" in line else "file"]).stem: find_genre(line) for line in lines}
    cost = {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / 1024}
    return cost, genres


def find_genre(line: dict[str, Any]) -> str:
    """Read the last node of a prediction."""
    if "genre" in line:
        return str(line["genre"])
    return str((line.get("path") or ["none"])[-1])


def compare_speed(given: argparse.Namespace) -> dict[str, Any]:
    """Time a file, and a folder of files, with each tool in turn."""
    from genretree.corpus.store import Store

    store = Store(given.store)
    commands = train_all(store, given)
    music = sorted(str(path) for path in given.music.iterdir() if path.suffix in (".mp3", ".ogg", ".wav"))
    originals = [file for file in store.tracks["file"] if Path(file).stem in {Path(path).stem for path in music}]
    minutes = sum(measure_minutes(path) for path in music)
    costs: dict[str, dict[str, list[dict[str, float]]]] = {name: {"one": [], "all": []} for name in commands}
    agreement = {}
    for name, command in commands.items():  # this round warms the disk's cache and is not counted
        same = time_command([*command, *originals])[1]
        genres = time_command([*command, *music])[1]
        agreement[name] = [sum(genres[stem] == genre for stem, genre in same.items()), len(same)]
    for turn in range(given.rounds):
        for name in list(commands)[:: 1 if turn % 2 == 0 else -1]:
            for which, files in (("one", music[:1]), ("all", music)):
                costs[name][which].append(time_command([*commands[name], *files])[0])
    return {
        "files": len(music),
        "minutes": minutes,
        "first_minutes": measure_minutes(music[0]),
        "rounds": given.rounds,
        "rows": {name: {**cost, "agreement": agreement[name]} for name, cost in costs.items()},
    }


def measure_minutes(path: str) -> float:
    """Duration of a file in minutes."""
    import soundfile

    return float(soundfile.info(path).duration) / 60


# ---------------------------------------------------------------------------------------------------------------------
# beets-autogenre

BEETS_CONFIG = """
directory: {folder}/library
library: {folder}/library.db
plugins: [autogenre, lastgenre, xtractor]
import: {{copy: false, move: false, write: false, autotag: false, quiet: true}}
lastgenre: {{auto: false, separator: ', ', canonical: {folder}/tree.yaml, whitelist: {names}/genres.txt}}
xtractor: {{auto: false, output_path: {folder}, essentia_extractor: /usr/local/bin/essentia_streaming_extractor_music}}
"""


def run_autogenre(given: argparse.Namespace) -> dict[str, Any]:
    """Count the genres that beets-autogenre finds without a network."""
    import mutagen
    import yaml

    from genretree.corpus.store import Store

    store = Store(given.store)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, file in enumerate(store.tracks["file"]):
            copy = folder / "music" / f"{number:04}{Path(file).suffix}"
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
            tags = mutagen.File(copy, easy=True)
            for key in ("artist", "title", "album"):
                tags[key] = store.tracks[key][number]
            tags.save()
        where = [given.beets, "-c", "import beetsplug.lastgenre as plugin; print(plugin.__path__[0])"]
        names = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
        # The plugin fails on a branch without genres, of which beets' own tree has one.
        branches = yaml.safe_load(Path(names, "genres-tree.yaml").read_text())
        branches = [{name: genres or [] for name, genres in branch.items()} for branch in branches]
        (folder / "tree.yaml").write_text(yaml.safe_dump(branches))
        (folder / "config.yaml").write_text(BEETS_CONFIG.format(folder=folder, names=names))
        environment = {**os.environ, "BEETSDIR": str(folder), "HOME": str(folder)}
        beet = [str(given.beets), "-m", "beets"]
        log = ""
        for words in (["import", "-q", "-A", str(folder / "music")], ["-v", "autogenre"]):
            done = subprocess.run([*beet, *words], env=environment, capture_output=True, text=True, check=False)
            log += done.stdout + done.stderr
        listing = [*beet, "ls", "-f", "$path|$genre|$genres|$genre_source"]
        lines = subprocess.run(listing, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    (given.out / "autogenre.log").write_text(log)
    found = []
    for line in lines:
        path, genre, genres, source = line.split("|")
        if source and not source.startswith("$"):
            number = int(Path(path).stem)
            true = store.taxonomy.leaves[store.track_leaves[number]][-1]
            found.append({"genre": genre, "genres": genres, "source": source, "true": true})
    return {"tracks": store.n_tracks, "listed": len(lines), "found": found}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def percent(value: float, limits: Sequence[float] | None = None) -> str:
    """Format a share in %, with its interval."""
    return f"{100 * value:.1f}" + (f" ({100 * limits[0]:.1f} to {100 * limits[1]:.1f})" if limits else "")


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_table(results: dict[str, Any]) -> str:
    """Accuracy of each tool on held-out artists."""
    rows = []
    for name, row in results["rows"].items():
        gain = row["gain"]
        low, high = (f"{100 * limit:+.1f}" for limit in gain["ci95"])
        rows.append(
            [
                name,
                percent(row["leaf"]["accuracy"], row["leaf"]["ci95"]),
                percent(row["leaf"]["balanced"], row["leaf"]["balanced_ci95"]),
                percent(row["first"]["accuracy"], row["first"]["ci95"]),
                "-" if name == REFERENCE else f"{100 * gain['mean']:+.1f} ({low} to {high})",
                ", ".join(f"{100 * each:.1f}" for each in row["leaf"]["by_seed"]),
            ]
        )
    head = ["tool", "4 genres", "balanced", "Classic / Non_classic", f"difference from {REFERENCE}", "4 genres by seed"]
    return write_table(head, rows)


def leakage_table(results: dict[str, Any]) -> str:
    """What random splits would have claimed."""
    rows = []
    for name, splits in results["leakage"].items():
        honest = results["rows"][name]["leaf"]["accuracy"]
        order = ("random slices, by slice", "artists, by slice", "random tracks, by track")
        rows.append([name, *(percent(splits[split]) for split in order), percent(honest)])
    if PAA_SVM in results["rows"]:
        own = float(np.mean(results["paa"][PAA_SVM]["own_accuracy"]))
        honest = results["rows"][PAA_SVM]["leaf"]["accuracy"]
        rows.append([f"{PAA_SVM}: as it reports itself", "-", "-", percent(own), percent(honest)])
    head = ["tool", "random slices, by slice", "held-out artists, by slice", "random tracks", "held-out artists"]
    return write_table(head, rows)


def speed_table(results: dict[str, Any]) -> str:
    """Seconds to a prediction."""
    rows = []
    for name, row in results["rows"].items():

        def middle(which: str, what: str, row: dict[str, Any] = row) -> float:
            return float(statistics.median(cost[what] for cost in row[which]))

        spread = [cost["seconds"] for cost in row["one"]]
        minutes = results["minutes"] - results["first_minutes"]
        more, cpu = (middle("all", what) - middle("one", what) for what in ("seconds", "cpu"))
        rows.append(
            [
                name,
                f"{middle('one', 'seconds'):.1f} ({min(spread):.1f} to {max(spread):.1f})",
                f"{middle('one', 'cpu'):.1f}",
                f"{more / minutes:.2f}",
                f"{cpu / minutes:.2f}",
                f"{max(cost['megabytes'] for cost in row['all']):.0f}",
                "{} of {}".format(*row["agreement"]),
            ]
        )
    head = ["tool", "one file, s", "CPU s", "each further minute, s", "CPU s", "MB", "same genre as for the Ogg file"]
    return write_table(head, rows)


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "accuracy": ("accuracy", accuracy_table),
    "leakage": ("accuracy", leakage_table),
    "speed": ("speed", speed_table),
}


def write_page(given: argparse.Namespace) -> None:
    """Replace the tables of the page, each between `<!-- NAME -->` and `<!-- end -->`."""
    results = json.loads(given.results.read_text())
    page = given.page.read_text(encoding="utf-8")
    for name, (section, make) in TABLES.items():
        if section in results:
            begin, end = f"<!-- {name} -->\n", "<!-- end -->"
            if page.count(begin) != 1:
                raise SystemExit(f"{given.page}: has {page.count(begin)} tables marked '{name}', not one")
            before, _, after = page.partition(begin)
            page = f"{before}{begin}{make(results[section])}\n{end}{after.partition(end)[2]}"
    given.page.write_text(page, encoding="utf-8")


def save(given: argparse.Namespace, section: str, content: dict[str, Any]) -> None:
    """Add results, and what they were measured on, to DIR/comparison.json."""
    from everything import _processor

    path = given.out / "comparison.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    packages = ("genretree", "librosa", "scikit-learn", "numpy", "torch")
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in packages},
    }
    results[section] = {**content, "machine": machine}
    path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("accuracy", "speed", "autogenre"):
        command = commands.add_parser(name)
        command.add_argument("store", type=Path)
        command.add_argument("--out", type=Path, required=True)
        if name == "autogenre":
            command.add_argument("--beets", type=Path, required=True, metavar="PYTHON")
            continue
        command.add_argument("--paa", type=Path, metavar="PYTHON", help="interpreter that has pyAudioAnalysis")
        if name == "accuracy":
            command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        else:
            command.add_argument("--music", type=Path, required=True)
            command.add_argument("--rounds", type=int, default=3)
    page = commands.add_parser("page")
    page.add_argument("results", type=Path)
    page.add_argument("page", type=Path)
    for name in ("run-librosa", "run-paa"):  # what the timed processes run
        command = commands.add_parser(name)
        command.add_argument("model")
        command.add_argument("files", nargs="+")
    commands.add_parser("run-paa-training").add_argument("job")
    given = parser.parse_args()
    if given.command == "run-librosa":
        run_librosa_prediction(given.model, given.files)
    elif given.command == "run-paa":
        run_paa_prediction(given.model, given.files)
    elif given.command == "run-paa-training":
        run_paa_training(given.job)
    elif given.command == "page":
        write_page(given)
    else:
        given.out.mkdir(parents=True, exist_ok=True)
        run = {"accuracy": compare_accuracy, "speed": compare_speed, "autogenre": run_autogenre}[given.command]
        save(given, given.command, run(given))


if __name__ == "__main__":
    main()
