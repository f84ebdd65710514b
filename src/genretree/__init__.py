"""Names, for any audio file, a path in a tree of music genres, with probabilities.

import genretree
bundle = genretree.load_bundle("my-bundle")  # a folder, or user/name on the Hub
for result in genretree.predict(bundle, ["song.mp3"]):
    print(result.path)
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genretree.bundle import Bundle, load, load_bundle
    from genretree.corpus.manifest import Manifest, read_manifest
    from genretree.corpus.prepare import prepare
    from genretree.corpus.store import Store
    from genretree.errors import GenretreeError, SoundError
    from genretree.evaluate import Evaluation, evaluate
    from genretree.explain import Explanation, explain
    from genretree.hub import pull, push
    from genretree.predict import Prediction, PredictionError, predict, predict_file
    from genretree.settings import ImageSettings
    from genretree.taxonomy import Taxonomy
    from genretree.train import train

__version__ = version("genretree")

# Imported when first asked for: the learning libraries take seconds to load, and `genretree --help` shouldn't.
_HOMES = {
    "Bundle": "bundle",
    "Evaluation": "evaluate",
    "Explanation": "explain",
    "GenretreeError": "errors",
    "ImageSettings": "settings",
    "Manifest": "corpus.manifest",
    "Prediction": "predict",
    "PredictionError": "predict",
    "SoundError": "errors",
    "Store": "corpus.store",
    "Taxonomy": "taxonomy",
    "evaluate": "evaluate",
    "explain": "explain",
    "load": "bundle",
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
    "Bundle",
    "Evaluation",
    "Explanation",
    "GenretreeError",
    "ImageSettings",
    "Manifest",
    "Prediction",
    "PredictionError",
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
