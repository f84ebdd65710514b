"""Run the full pipeline on a synthetic corpus: compose, prepare, train two models, evaluate, predict."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click
import numpy as np

from genretree.bundle.ready import find_ready_model
from genretree.cli.make_model import make_store, training_settings
from genretree.cli.tables import show_evaluations, show_prediction
from genretree.evaluation.evaluate import evaluate
from genretree.evaluation.report import save_evaluation, write_report
from genretree.files import printable_text
from genretree.prediction.predict import predict_file
from genretree.training.train import train_once

_MODELS = ("composed-cnn", "composed-boosting")  # both are trained on the same corpus


def run_quickstart(out: Path, seed: int = 0, progress: bool = True) -> None:
    """Run the full pipeline in the folder `out` and print the results; steps that are finished there are skipped."""
    began = time.monotonic()
    recipes = [recipe for name in _MODELS if (recipe := find_ready_model(name).train) is not None]
    store = make_store(recipes[0].corpus, out, seed=seed, progress=progress, show=_print, steps=5)
    bundles = []
    for recipe in recipes:
        _print(f"3/5  train {recipe.family}")
        settings = training_settings(recipe, seed)
        bundles.append(train_once(store, recipe.family, out / recipe.family, settings, progress=progress))
    _print("4/5  evaluate: on held-out artists")
    evaluations = [evaluate(bundle, store, progress=progress) for bundle in bundles]
    for evaluation in evaluations:
        save_evaluation(evaluation, out / f"{evaluation.family}-report", store)
    report = write_report(evaluations, out / "report.html", "genretree: quickstart", store=store)
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
