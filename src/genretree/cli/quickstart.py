"""Run the full pipeline on a synthetic corpus: compose, prepare, train two models, evaluate, predict."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from genretree.cli.tables import show_evaluations, show_prediction
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.datasets.composed import ComposeSettings, compose_corpus
from genretree.evaluation.evaluate import evaluate
from genretree.evaluation.report import save_evaluation, write_report
from genretree.files import printable_text
from genretree.models import get_family
from genretree.prediction.predict import predict_file
from genretree.taxonomy import Taxonomy
from genretree.training.train import train_once

# Chosen on the validation part for a short run: many artists with short tracks, smaller images and fewer epochs than
# the defaults. float32 gives the same results, up to rounding, on machines without bf16.
CORPUS: dict[str, Any] = {"artists": 12, "tracks": 2, "seconds": 24.0}
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"image_size": 112, "epochs": 16, "warmup_epochs": 2, "learning_rate": 1e-3, "precision": "float32"},
    "boosting": {"components": 128, "epochs": 60, "image_size": 64},
}


def run_quickstart(out: Path, seed: int = 0, progress: bool = True) -> None:
    """Run the full pipeline in the folder `out` and print the results; steps that are finished there are skipped."""
    began = time.monotonic()
    _print("1/5  compose: synthetic music for 16 sub-genres")
    tracks = compose_corpus(out / "corpus", ComposeSettings.build({**CORPUS, "seed": seed}), progress=progress)
    _print("2/5  prepare: mel, CQT and chroma images of 11.4 s slices")
    manifest = read_manifest(tracks, Taxonomy.builtin("ccmusic"), group="artist")
    store = prepare(manifest, out / "store", seed=seed, progress=progress)
    bundles = []
    for family, settings in MODELS.items():
        _print(f"3/5  train {family}")
        model_settings = get_family(family).settings_type.build({**settings, "seed": seed})
        bundles.append(train_once(store, family, out / family, model_settings, progress=progress))
    _print("4/5  evaluate: on held-out artists")
    evaluations = [evaluate(bundle, store, progress=progress) for bundle in bundles]
    for evaluation in evaluations:
        save_evaluation(evaluation, out / f"{evaluation.family}-report", store)
    report = write_report(evaluations, out / "report.html", "genretree: quickstart")
    _print("5/5  predict: a track by a held-out artist")
    track = int(np.flatnonzero(np.array(store.split().parts) == "test")[0])
    show_prediction(predict_file(bundles[0], store.tracks["file"][track]))
    _print(f"     true path: {store.tracks['genre'][track]}")
    show_evaluations(evaluations)
    _print(f"Report: {report}")
    command = _command()
    _print(
        f"Done in {time.monotonic() - began:.0f} s. Classify your own music: {command} predict {out / 'cnn'} YOUR_MUSIC"
    )
    _print(f"or start the web page: {command} serve {out / 'cnn'}")


def _command() -> str:
    """Return the command that runs this program; `make` installs into a folder that is not on the PATH."""
    if shutil.which("genretree"):
        return "genretree"
    return sys.argv[0] if Path(sys.argv[0]).name == "genretree" else f"{sys.executable} -m genretree"


def _print(text: str) -> None:
    click.echo(printable_text(text))
