"""What runs a bundle's networks, how fast, and how far from torch in float32: docs/figures-methods.md has the figures.

Usage:
    python benchmarks/runtimes.py networks STORE BUNDLE... [--rounds 7] [--sample 600]
    python benchmarks/runtimes.py track BUNDLE FILE [--rounds 5]
    python benchmarks/runtimes.py folder BUNDLE MUSIC [--files 200] [--rounds 3]
    python benchmarks/runtimes.py start BUNDLE FILE [--rounds 5]

`networks`: slices a second of each network by every runtime at batch 1 and 32, as ratios to torch in float32 (eager) in
the same round, and the greatest difference of any node's probability on `--sample` random slices of STORE. `track`: one
file, warm, against torch in float32 with librosa's images. `folder`: seconds of music a second with 1 and 2 workers.
`start`: the command itself, cold. The ways take turns within a round, so that other work on the machine meets them
all; what is given is the median over rounds and the quartiles. Bundles without exports are exported to a copy.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.export import export_bundle
from genretree.bundle.manifest import read_description
from genretree.corpus.store import Store
from genretree.files import cache_folder
from genretree.models.runtime.backends import open_runner
from genretree.models.runtime.graph import HasGraphs, run_torch
from genretree.models.runtime.types import EXPORT_FORMATS, ExportFormat, Runner, RuntimeConfig, graph_file
from genretree.parallel import fast_bf16, shared_by
from genretree.prediction.predict import Prediction, find_files, predict, predict_file
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.decode import AudioPath, decode
from genretree.sound.features import Inputs
from genretree.sound.slices import DecodeAt, FeatureSlice, iter_input_slices, skip_silent, slice_track

BATCHES = (1, 32)
MEASURED: list[dict[str, Any]] = []  # for --json
SAMPLE = 600  # slices on which probabilities are compared
REFERENCE = RuntimeConfig("torch", bf16=False)
OF_FORM: Mapping[ExportFormat, Sequence[RuntimeConfig]] = {
    "openvino": (RuntimeConfig("openvino", bf16=False), RuntimeConfig("openvino", bf16=True)),
    "onnx": (RuntimeConfig("onnxruntime", bf16=False),),
}


def with_exports(folder: Path, scratch: Path) -> tuple[Path, list[RuntimeConfig]]:
    """Give a bundle that has all exports for which something is installed, and the ways to run it."""
    copy = scratch / folder.name
    shutil.copytree(folder, copy)
    ways = [REFERENCE, RuntimeConfig("torch", bf16=True)]
    for form in EXPORT_FORMATS:
        if find_spec(OF_FORM[form][0].runtime) is None:
            continue
        if not any(name.startswith(f"{form}/") for name in read_description(copy)["files"]):
            export_bundle(copy, form)
        ways += OF_FORM[form]
    return copy, ways


def by_turns(work: Mapping[str, Callable[[], object]], rounds: int, label: str = "") -> dict[str, np.ndarray]:
    """Time pieces of work, each once in every round after one to warm up: seconds, shape (rounds,)."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, do in work.items():
            start = time.perf_counter()
            do()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    MEASURED.append({"what": label, "seconds": seconds})
    return {name: np.array(found) for name, found in seconds.items()}


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Median and quartiles as text."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def farthest(expected: Sequence[np.ndarray], other: Bundle, inputs: Inputs) -> float:
    """Greatest difference of any node's probability from those expected."""
    pairs = zip(expected, other.model.predict_proba(inputs), strict=True)
    return max(float(np.abs(first - second).max()) for first, second in pairs)


def networks(store: Store, folders: Sequence[Path], rounds: int, sample: int = SAMPLE) -> None:
    """Print a line for each network, runtime and batch."""
    rows = np.sort(np.random.default_rng(0).choice(len(store.images), min(sample, len(store.images)), replace=False))
    inputs = store.inputs(rows)
    images = inputs["images"]
    print("| bundle | network | runtime | batch | inputs a second | times torch float32 | probabilities differ by |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch, shared_by(1):
        for folder in folders:
            copy, ways = with_exports(folder, Path(scratch))
            reference = load_bundle(copy)
            assert isinstance(reference.model, HasGraphs)
            expected = reference.model.predict_proba(inputs)
            away = {str(REFERENCE): 0.0}
            for way in ways:
                if way != REFERENCE:
                    loaded = load_bundle(copy, way.runtime, "bf16" if way.bf16 else "float32")
                    away[str(way)] = farthest(expected, loaded, inputs)
            for name, graph in reference.model.graphs(reference.images.size).items():
                runners: dict[str, Runner] = {}
                for way in ways:
                    form: ExportFormat = "openvino" if way.runtime == "openvino" else "onnx"
                    path = copy / form / graph_file(form, name)
                    runners[str(way)] = run_torch(graph, way.bf16) if way.runtime == "torch" else open_runner(way, path)
                for batch in BATCHES:
                    drawn = images[np.arange(batch) % len(images)]
                    example = graph.example.numpy()
                    seen = drawn if example.dtype == np.uint8 else example[np.arange(batch) % 2]
                    times = by_turns(
                        {way: partial(run, seen) for way, run in runners.items()},
                        rounds,
                        f"{folder.name}, {name}, batch {batch}",
                    )
                    for way_name, seconds in times.items():
                        ratio = times[str(REFERENCE)] / seconds
                        print(
                            f"| {folder.name} | {name} | {way_name} | {batch} | {np.median(batch / seconds):.1f} "
                            f"| {spread(ratio)} | {away[way_name]:.1e} |",
                            flush=True,
                        )


def _by_librosa(bundle: Bundle, file: Path) -> Prediction:
    """Name a file's path the usual way: librosa decodes it and computes the features, torch runs the network."""
    import librosa

    module = sys.modules[predict_file.__module__]

    used = False

    def usual(
        decode_at: DecodeAt, settings: ImageSettings, features: Sequence[str], path: AudioPath
    ) -> Iterator[FeatureSlice]:
        nonlocal used
        used = True
        return skip_silent(slice_track(librosa.load(path)[0], settings, "librosa", features), path)

    module.iter_input_slices = usual  # type: ignore[attr-defined]
    try:
        found = predict_file(bundle, file)
    finally:
        module.iter_input_slices = iter_input_slices  # type: ignore[attr-defined]
    assert used, "predict_file computes its slices by another function"
    return found


def track(folder: Path, file: Path, rounds: int) -> None:
    """Print how much faster one file is done than by torch in float32 with librosa's images."""
    with tempfile.TemporaryDirectory() as scratch:
        copy, ways = with_exports(folder, Path(scratch))
        reference = load_bundle(copy)
        chosen = {str(way): load_bundle(copy, way.runtime, "bf16" if way.bf16 else "float32") for way in ways}
        work: dict[str, Callable[[], Prediction]] = {"librosa": partial(_by_librosa, reference, file)}
        work |= {name: partial(predict_file, bundle, file) for name, bundle in chosen.items()}
        expected = work["librosa"]()
        times = by_turns(work, rounds, f"{file.name}, {folder.name}")
        for name, seconds in times.items():
            found = work[name]()
            pairs = zip(expected.levels, found.levels, strict=True)
            away = max(abs(one.probability - other.probability) for one, other in pairs)
            ratio = spread(times["librosa"] / seconds)
            print(
                f"{name}: {spread(seconds)} s, {ratio} times as fast; "
                f"{'the same path' if found.path == expected.path else 'ANOTHER PATH'}, probabilities within {away:.4f}"
            )


def music(folder: Path, place: Path, most: int, rounds: int) -> None:
    """Print how much music is done in a second, by torch in float32 and by the fastest runtime."""
    files = [path for path in find_files([place]) if isinstance(path, Path)][:most]
    with tempfile.TemporaryDirectory() as scratch:
        copy, ways = with_exports(folder, Path(scratch))
        fastest, reference = load_bundle(copy, "auto", "auto"), load_bundle(copy)
        length = fastest.images.slice_seconds
        done = [each for each in predict(fastest, files) if isinstance(each, Prediction)]
        seconds_of_music = length * sum(each.slices for each in done)
        work = {
            f"{bundle.runtime}, {workers} workers": partial(_all, bundle, files, workers)
            for bundle, workers in ((reference, 2), (fastest, 1), (fastest, 2))
        }
        print(f"{len(done)} files, {seconds_of_music / 60:.0f} minutes; {len(ways)} ways")
        for name, seconds in by_turns(work, rounds, f"{len(done)} files, {seconds_of_music:.0f} s of music").items():
            print(f"{name}: {spread(seconds)} s, {spread(seconds_of_music / seconds, 0)} times real time")


def _all(bundle: Bundle, files: Sequence[Path], workers: int) -> None:
    for _ in predict(bundle, files, workers=workers):
        pass


def start(folder: Path, file: Path, rounds: int) -> None:
    """Print how long the command takes for a file and for its first minute, with all that it has to load.

    Without a bundle, too, where the weights of mn04 are at hand (`genretree weights get mn04`).
    """
    command = [sys.executable, "-m", "genretree"]
    words = {
        "genretree --help": [*command, "--help"],
        "genretree predict, torch": [*command, "predict", str(folder), str(file), "--runtime", "torch"],
        "genretree predict, auto": [*command, "predict", str(folder), str(file)],
    }
    with tempfile.TemporaryDirectory() as name:
        minute = Path(name) / "minute.flac"
        soundfile.write(minute, decode(file)[: 60 * SAMPLE_RATE], SAMPLE_RATE)
        words["genretree predict, auto, a minute"] = [*command, "predict", str(folder), str(minute)]
        if (cache_folder() / "mn04.safetensors").exists():
            words["genretree predict, no bundle"] = [*command, "predict", str(file)]
            words["genretree predict, no bundle, a minute"] = [*command, "predict", str(minute)]
        work = {name: partial(subprocess.run, each, check=True, capture_output=True) for name, each in words.items()}
        for name, seconds in by_turns(work, rounds, f"start, {folder.name}").items():
            print(f"{name}: {spread(seconds)} s")


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["networks", "track", "folder", "start"])
    parser.add_argument("first", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="slices on which probabilities are compared")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"torch threads {torch.get_num_threads()}, fast bf16: {fast_bf16()}", file=sys.stderr)
    if given.what == "networks":
        networks(Store(given.first), given.others, given.rounds, given.sample)
    elif given.what == "track":
        track(given.first, given.others[0], given.rounds)
    elif given.what == "folder":
        music(given.first, given.others[0], given.files, given.rounds)
    else:
        start(given.first, given.others[0], given.rounds)
    if given.json:
        given.json.write_text(json.dumps(MEASURED, indent=1))


if __name__ == "__main__":
    main()
