"""The whole job on the built-in composed corpus: compose, prepare, train two models, evaluate, classify."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from genretree._evaluate import evaluate
from genretree._predict import predict_file
from genretree._train import train_once
from genretree.corpus.composed import ComposeSettings, compose_corpus
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.files import printable_text
from genretree.models import get_family
from genretree.report import save_evaluation, write_report
from genretree.tables import show_evaluations, show_prediction
from genretree.taxonomy import Taxonomy

# Chosen for time, on the validation part: many artists with short tracks, smaller images and fewer epochs than the
# defaults. In float32, as bf16 is not everywhere: the same figures, but for rounding, on every machine.
CORPUS: dict[str, Any] = {"artists": 12, "tracks": 2, "seconds": 24.0}
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"image_size": 112, "epochs": 16, "warmup_epochs": 2, "learning_rate": 1e-3, "precision": "float32"},
    "boosting": {"components": 128, "epochs": 60, "image_size": 64},
}


def run_quickstart(out: Path, seed: int = 0, progress: bool = True) -> None:
    """Do the main job in the folder `out`, printing tables at the end. Steps already done there are not done again."""
    began = time.monotonic()
    _say("1/5  compose: music for 16 sub-genres by artists made up for it")
    tracks = compose_corpus(out / "corpus", ComposeSettings.build({**CORPUS, "seed": seed}), progress=progress)
    _say("2/5  prepare: mel, CQT and chroma images of every 11.4 s")
    manifest = read_manifest(tracks, Taxonomy.builtin("ccmusic"), group="artist")
    store = prepare(manifest, out / "store", seed=seed, progress=progress)
    bundles = []
    for family, settings in MODELS.items():
        _say(f"3/5  train {family}")
        chosen = get_family(family).settings_type.build({**settings, "seed": seed})
        bundles.append(train_once(store, family, out / family, chosen, progress=progress))
    _say("4/5  evaluate: on artists never heard in training")
    evaluations = [evaluate(bundle, store, progress=progress) for bundle in bundles]
    for evaluation in evaluations:
        save_evaluation(evaluation, out / f"{evaluation.family}-report", store)
    report = write_report(evaluations, out / "report.html", "genretree: quickstart")
    _say("5/5  classify a track by an artist never heard in training")
    track = int(np.flatnonzero(np.array(store.split().parts) == "test")[0])
    show_prediction(predict_file(bundles[0], store.tracks["file"][track]))
    _say(f"     its true path: {store.tracks['genre'][track]}")
    show_evaluations(evaluations)
    _say(f"Report: {report}")
    command = _command()
    _say(f"Done in {time.monotonic() - began:.0f} s. Now your own: {command} predict {out / 'cnn'} YOUR_MUSIC")
    _say(f"or on a page to drop songs on: {command} serve {out / 'cnn'}")


def _command() -> str:
    """Give what must be typed to run this program again: `make` installs where shells don't look."""
    if shutil.which("genretree"):
        return "genretree"
    return sys.argv[0] if Path(sys.argv[0]).name == "genretree" else f"{sys.executable} -m genretree"


def _say(text: str) -> None:
    click.echo(printable_text(text))
