# The public names, for type checkers and, through lazy_loader, at run time.
from .bundle.bundle import Bundle, load_bundle
from .bundle.hub import pull, push
from .classifier import Classifier, Probabilities, load
from .corpus.dataset import Dataset
from .corpus.manifest import Manifest, read_manifest
from .corpus.prepare import prepare
from .corpus.store import Store
from .errors import ArgumentError, GenretreeError, SoundError
from .estimator import GenreClassifier
from .evaluation.evaluate import Evaluation, evaluate
from .explanation import Explanation, explain
from .prediction.predict import Prediction, PredictionError, predict, predict_file
from .settings import ImageSettings
from .taxonomy import Taxonomy
from .training.train import train

__version__: str

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
