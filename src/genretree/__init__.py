"""Hierarchical music genre classification: predicts a path such as `Rock > Soft rock` for any audio file.

>>> import genretree
>>> model = genretree.load("BUNDLE")  # a folder, or user/name on the Hugging Face Hub  # doctest: +SKIP
>>> model.predict("song.mp3").path  # doctest: +SKIP
('Non_classic', 'Rock', 'Soft_rock')
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
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
    "Bundle": "bundle",
    "Classifier": "classifier",
    "Dataset": "corpus.dataset",
    "Evaluation": "evaluate",
    "Explanation": "explain",
    "GenreClassifier": "estimator",
    "GenretreeError": "errors",
    "ImageSettings": "settings",
    "Manifest": "corpus.manifest",
    "Prediction": "predict",
    "PredictionError": "predict",
    "Probabilities": "classifier",
    "SoundError": "errors",
    "Store": "corpus.store",
    "Taxonomy": "taxonomy",
    "evaluate": "evaluate",
    "explain": "explain",
    "load": "classifier",
    "load_bundle": "bundle",
    "pull": "hub",
    "push": "hub",
    "predict": "predict",
    "predict_file": "predict",
    "prepare": "corpus.prepare",
    "read_manifest": "corpus.manifest",
    "train": "train",
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


class _Package(ModuleType):
    """Keeps `genretree.predict` and the like the functions they are: importing the modules they are in would hide them.

    Python sets each module that is imported as an attribute of its package.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        hides = isinstance(value, ModuleType) and _HOMES.get(name) == name
        super().__setattr__(name, getattr(value, name) if hides else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genretree' has no attribute '{name}'")
    found = getattr(import_module(f"genretree.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
