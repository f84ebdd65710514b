"""Hierarchical music genre classification: predicts a path such as `Rock > Soft rock` for any audio file.

>>> import genretree
>>> model = genretree.load("BUNDLE")  # a folder, or user/name on the Hugging Face Hub  # doctest: +SKIP
>>> model.predict("song.mp3").path  # doctest: +SKIP
('Non_classic', 'Rock', 'Soft_rock')
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genretree.bundle.bundle import Bundle, load_bundle
    from genretree.bundle.hub import pull, push
    from genretree.classifier import Classifier, Probabilities, load
    from genretree.corpus.dataset import Dataset
    from genretree.corpus.manifest import Manifest, read_manifest
    from genretree.corpus.prepare import prepare
    from genretree.corpus.store import Store
    from genretree.errors import ArgumentError, GenretreeError, SoundError
    from genretree.estimator import GenreClassifier
    from genretree.evaluation.evaluate import Evaluation, evaluate
    from genretree.explanation import Explanation, explain
    from genretree.prediction.predict import Prediction, PredictionError, predict, predict_file
    from genretree.settings import ImageSettings
    from genretree.taxonomy import Taxonomy
    from genretree.training.train import train

__version__ = version("genretree")

# Imported when first asked for: the learning libraries take seconds to load, and `genretree --help` shouldn't.
_HOMES = {
    "ArgumentError": "errors",
    "Bundle": "bundle.bundle",
    "Classifier": "classifier",
    "Dataset": "corpus.dataset",
    "Evaluation": "evaluation.evaluate",
    "Explanation": "explanation",
    "GenreClassifier": "estimator",
    "GenretreeError": "errors",
    "ImageSettings": "settings",
    "Manifest": "corpus.manifest",
    "Prediction": "prediction.predict",
    "PredictionError": "prediction.predict",
    "Probabilities": "classifier",
    "SoundError": "errors",
    "Store": "corpus.store",
    "Taxonomy": "taxonomy",
    "evaluate": "evaluation.evaluate",
    "explain": "explanation",
    "load": "classifier",
    "load_bundle": "bundle.bundle",
    "pull": "bundle.hub",
    "push": "bundle.hub",
    "predict": "prediction.predict",
    "predict_file": "prediction.predict",
    "prepare": "corpus.prepare",
    "read_manifest": "corpus.manifest",
    "train": "training.train",
}

__all__ = [
    "ArgumentError",
    "Bundle",
    "Classifier",
    "Dataset",
    "Evaluation",
    "Explanation",
    "GenreClassifier",
    "GenretreeError",
    "ImageSettings",
    "Manifest",
    "Prediction",
    "PredictionError",
    "Probabilities",
    "SoundError",
    "Store",
    "Taxonomy",
    "__version__",
    "evaluate",
    "explain",
    "load",
    "load_bundle",
    "predict",
    "predict_file",
    "prepare",
    "pull",
    "push",
    "read_manifest",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genretree' has no attribute '{name}'")
    found = getattr(import_module(f"genretree.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
