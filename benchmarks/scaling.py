r"""How time grows with the amount of data: prepare, an epoch of training, and predict at 1, 4 and 16 times as much.

    python benchmarks/scaling.py [--files 8] [--seconds 60] [--rounds 3] [--json FILE]

The sound is made by the script (wav, stereo, 44,100 Hz). `prepare` and `predict` run in this process, as their commands
do; an epoch of training (cnn at its defaults) is the difference between a run of three and one of one, halved, so
that starting doesn't count. An exponent of 1 is a time in proportion to the data: it is fitted by least squares to the
logarithms of the medians. What starts once makes it less than 1, so the exponent of the last step alone is given too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np
from synthetic import TREE, write_music

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.models import get_family
from genretree.models.base import FitContext
from genretree.prediction.predict import predict
from genretree.settings import ImageSettings
from genretree.training.data import slice_dataset_of
from genretree.training.train import train

FACTORS = (1, 4, 16)
STAGES = ("prepare", "train", "predict")


def time_prepare(music: Path, out: Path, size: int) -> float:
    """Seconds to draw all files into a store."""
    began = time.perf_counter()
    prepare(read_manifest(music, TREE), out, ImageSettings.build({"size": size}), overwrite=True)
    return time.perf_counter() - began


def time_epoch(store: Store, size: int) -> float:
    """Seconds of an epoch."""
    known = slice_dataset_of(store, store.rows())
    kind = get_family("cnn")
    seconds = []
    for epochs in (1, 3):
        settings = kind.settings_type.build({"epochs": epochs, "image_size": size})
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            kind.fit(known, None, store.taxonomy, settings, FitContext(Path(folder)))
            seconds.append(time.perf_counter() - began)
    return (seconds[1] - seconds[0]) / 2


def time_predict(bundle: Bundle, music: Path) -> float:
    """Seconds to name the genre of all files."""
    began = time.perf_counter()
    for _ in predict(bundle, [music.parent]):
        pass
    return time.perf_counter() - began


def measure(folder: Path, files: int, seconds: float, rounds: int, size: int) -> dict[str, dict[int, list[float]]]:
    """Time all stages at all sizes, by turns: seconds by stage and factor."""
    found: dict[str, dict[int, list[float]]] = {stage: {factor: [] for factor in FACTORS} for stage in STAGES}
    sources = {factor: write_music(folder / f"music-{factor}", files * factor, seconds) for factor in FACTORS}
    for turn in range(rounds + 1):  # the first, of the smallest only, warms up
        for factor in FACTORS if turn else FACTORS[:1]:
            spent = {"prepare": time_prepare(sources[factor], folder / f"store-{factor}", size)}
            store = Store(folder / f"store-{factor}")
            if not turn:
                train(store, "cnn", folder / "bundle", {"epochs": 1, "image_size": size})
            spent["train"] = time_epoch(store, size)
            spent["predict"] = time_predict(load_bundle(folder / "bundle"), sources[factor])
            for stage, value in spent.items():
                if turn:
                    found[stage][factor].append(value)
    return found


def exponents(times: dict[int, list[float]]) -> tuple[float, float]:
    """Fit the exponent to all sizes, and to the last two alone."""
    middles = np.array([np.median(values) for values in times.values()])
    amounts = np.log(np.array(list(times), dtype=float))
    return tuple(float(np.polyfit(amounts[some:], np.log(middles[some:]), 1)[0]) for some in (0, -2))  # type: ignore[return-value]


def line(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    cells = [row["stage"]]
    for values in row["seconds"].values():
        cells.append(f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    return "| " + " | ".join([*cells, f"{row['exponent']:.2f}", f"{row['last_exponent']:.2f}"]) + " |"


HEAD = (
    "| stage | 1x, s (range) | 4x, s (range) | 16x, s (range) | exponent | of the last step |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: |"
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8, help="at 1x")
    parser.add_argument("--seconds", type=float, default=60, help="length of a file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), given.files, given.seconds, given.rounds, given.image_size)
    rows = []
    print(f"1x: {given.files} files of {given.seconds:g} s, {given.rounds} rounds\n\n{HEAD}")
    for stage, times in found.items():
        fitted, last = exponents(times)
        row = {"stage": stage, "files": given.files, "file_seconds": given.seconds, "seconds": times}
        rows.append({**row, "exponent": fitted, "last_exponent": last})
        print(line(rows[-1]))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
