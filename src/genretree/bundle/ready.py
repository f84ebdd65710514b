"""The ready models: named bundles with their use, limits, licence and figures, as listed in `ready_models.yaml`."""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from genretree.checks import suggest
from genretree.errors import BundleError
from genretree.files import cache_folder
from genretree.settings import Settings

SCHEME = "zoo:"
_FILE = "ready_models.yaml"
_COMMIT = r"^[0-9a-f]{40}$"
_SHA256 = r"^[0-9a-f]{64}$"
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


class CorpusRecipe(Settings):
    """A synthetic corpus that ready models are trained on."""

    summary: str
    licence: str = Field(description="licence of the audio")
    compose: dict[str, Any] = Field(description="settings of `genretree compose`")


class TrainingRecipe(Settings):
    """The training of a ready model: a corpus of the catalogue, and a family with its settings."""

    corpus: str
    family: str
    settings: dict[str, Any]


class UntrainedRecipe(Settings):
    """A ready model that maps the tags of mn04 to a genre tree, without training."""

    tree: str


class MeasuredAccuracy(Settings):
    """Accuracy of a ready model by track, with its protocol and machine."""

    data: str
    split: str = Field(description="the split, and the number of test tracks and artists")
    machine: str
    seed: int = Field(ge=0)
    accuracy: dict[str, float] = Field(description="in %, by level")
    ci95: dict[str, tuple[float, float]] = Field(description="95 % confidence interval over artists, in %")


class ReadyModel(Settings):
    """A named bundle.

    Parameters
    ----------
    name : str
    summary : str
        What it is, in one sentence.
    use : str
        What it is right for.
    limits : list of str
        What it can't do.
    tree : str
        Name of its genre tree.
    licence : str
        Licence of the weights.
    size : int
        Size in bytes.
    results : list of MeasuredAccuracy
    train, untrained : TrainingRecipe or UntrainedRecipe
        How it is made; exactly one of them.
    needs : str, optional
        Command that must have run before the model is made.
    hub : str, optional
        `user/name` on the Hugging Face Hub; None if the model is not published. The same holds for the next two.
    commit : str, optional
        Full hash of the published commit.
    sha256 : str, optional
        SHA-256 of the description of the published bundle, which covers the hashes of all its files.
    """

    name: str
    summary: str
    use: str
    limits: tuple[str, ...] = Field(min_length=1)
    tree: str
    licence: str
    size: int = Field(gt=0)
    results: tuple[MeasuredAccuracy, ...] = Field(min_length=1)
    train: TrainingRecipe | None = None
    untrained: UntrainedRecipe | None = None
    needs: str | None = None
    hub: str | None = None
    commit: str | None = Field(None, pattern=_COMMIT)
    sha256: str | None = Field(None, pattern=_SHA256)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' must consist of lower-case letters and digits, with single hyphens")
        if (self.train is None) == (self.untrained is None):
            raise ValueError(f"{self.name}: give either 'train' or 'untrained'")
        if len({self.hub is None, self.commit is None, self.sha256 is None}) != 1:
            raise ValueError(f"{self.name}: give all of 'hub', 'commit' and 'sha256', or none")
        return self

    @property
    def is_published(self) -> bool:
        """Whether the model can be downloaded."""
        return self.hub is not None

    @property
    def pinned(self) -> str:
        """Name on the Hub with the commit; only of a published model."""
        return f"{self.hub}@{self.commit}"

    @property
    def place(self) -> str:
        """What commands and functions take in place of a bundle's folder: `zoo:NAME`."""
        return f"{SCHEME}{self.name}"

    @property
    def made(self) -> Path:
        """Folder in the cache of the bundle that was made on this machine; it need not exist."""
        return models_folder() / "made" / self.name

    @property
    def report(self) -> Path:
        """Folder in the cache of the evaluation of that bundle; it need not exist."""
        return models_folder() / "reports" / self.name

    @property
    def copied(self) -> Path:
        """Folder in the cache of a copy of the published bundle; it need not exist."""
        return models_folder() / "published" / str(self.sha256) / self.name


class Catalogue(Settings):
    """All ready models by name, and the corpora that they are trained on."""

    corpora: dict[str, CorpusRecipe] = Field(default_factory=dict)
    models: dict[str, ReadyModel]

    @model_validator(mode="before")
    @classmethod
    def _add_names(cls, values: Any) -> Any:
        models = {name: {**model, "name": name} for name, model in values["models"].items()}
        return {**values, "models": models}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for model in self.models.values():
            if model.train is not None and model.train.corpus not in self.corpora:
                raise ValueError(f"{model.name}: unknown corpus '{model.train.corpus}'")
        return self


@functools.cache
def read_catalogue() -> Catalogue:
    """Read the catalogue that comes with the package."""
    text = (resources.files("genretree") / "bundle" / _FILE).read_text(encoding="utf-8")
    return Catalogue.build(yaml.safe_load(text))


def find_ready_model(name: str) -> ReadyModel:
    """Return a ready model by name.

    Raises
    ------
    BundleError
        If there is none; names the closest.

    Examples
    --------
    >>> from genretree.bundle.ready import find_ready_model
    >>> find_ready_model("composed-cnn").place
    'zoo:composed-cnn'
    """
    models = read_catalogue().models
    if name in models:
        return models[name]
    raise BundleError(f"unknown ready model '{name}'; {suggest(name, models)}")


def parse_place(place: str | PurePath) -> str | None:
    """Return NAME of `zoo:NAME`, or None for anything else."""
    text = place.as_posix() if isinstance(place, PurePath) else place
    return text.removeprefix(SCHEME) if text.startswith(SCHEME) else None


def models_folder() -> Path:
    """Return the folder in the cache for ready models and the music that they are trained on."""
    return cache_folder() / "models"
