"""The steps that make a ready model: compose, prepare, train, evaluate, and write its model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genretree.bundle.bundle import Bundle, save_bundle
from genretree.bundle.hub.card import CARD, CardInfo, read_metrics, write_card
from genretree.bundle.manifest import read_description
from genretree.bundle.ready import ReadyModel, TrainingRecipe, find_ready_model, models_folder, read_catalogue
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.datasets.composed import ComposeSettings, compose_corpus
from genretree.errors import BundleError
from genretree.evaluation.evaluate import evaluate
from genretree.evaluation.report import save_evaluation
from genretree.files import write_text
from genretree.models import get_family
from genretree.prediction.untrained import untrained_bundle
from genretree.settings import Settings
from genretree.taxonomy import Taxonomy
from genretree.training.train import train, train_once

_TREE = "ccmusic"  # of the composed corpus


def make_model(
    name: str, *, overwrite: bool = False, progress: bool = False, show: Callable[[str], object] = lambda text: None
) -> Path:
    """Make the bundle of a ready model in the cache; finished steps of an interrupted call are not repeated.

    Parameters
    ----------
    name : str
    overwrite : bool
        Train again if the bundle exists; the music is kept.
    progress : bool
        Show progress bars on standard error.
    show : callable
        Called with a line of text before each step.

    Returns
    -------
    Path
        The bundle's folder, with its model card `README.md`. The evaluation is in `ReadyModel.report`.

    Raises
    ------
    BundleError
        If there is no such model, or another process makes one.
    TrainingError
        If pretrained weights that it needs are not on this machine.
    MissingExtraError
        If the synthetic music can't be rendered.
    """
    model = find_ready_model(name)
    with _only_process():
        complete = (model.made / CARD).is_file()
        if complete and not overwrite:
            return model.made
        report = None
        if model.train is None:
            show("1/1  tags: map the tags of mn04 to the genres of the tree")
            _write_untrained(model)
        else:
            report = model.report
            folder = _corpus_folder(model.train.corpus)
            store = make_store(model.train.corpus, folder, overwrite=True, progress=progress, show=show)
            show(f"3/4  train: {model.train.family}")
            run: Callable[..., Bundle] = train if complete else train_once
            more = {"overwrite": True} if complete else {}
            settings = training_settings(model.train)
            bundle = run(store, model.train.family, model.made, settings, progress=progress, **more)
            show("4/4  evaluate: on held-out artists")
            save_evaluation(evaluate(bundle, store, progress=progress), report, store)
        _write_card(model, report)
        return model.made


def make_store(
    corpus: str,
    folder: Path,
    *,
    seed: int | None = None,
    overwrite: bool = False,
    progress: bool,
    show: Callable[[str], object],
    steps: int = 4,
) -> Store:
    """Compose a corpus of the catalogue and prepare it, in `folder/corpus` and `folder/store`.

    Parameters
    ----------
    corpus : str
        Name in the catalogue.
    folder : Path
    seed : int, optional
        Seed of the corpus and of its split, instead of that of the catalogue.
    overwrite : bool
        Replace a store that was prepared from other files, such as music that was deleted and composed again.
    progress : bool
    show : callable
        Called with a line of text before each step.
    steps : int
        Total number of steps, for these lines.
    """
    settings = corpus_settings(corpus, seed)
    show(f"1/{steps}  compose: synthetic music for 16 sub-genres")
    tracks = compose_corpus(folder / "corpus", settings, progress=progress)
    show(f"2/{steps}  prepare: mel, CQT and chroma images of 11.4 s slices")
    manifest = read_manifest(tracks, Taxonomy.builtin(_TREE), group="artist")
    return prepare(manifest, folder / "store", seed=settings.seed, overwrite=overwrite, progress=progress)


def corpus_settings(corpus: str, seed: int | None = None) -> ComposeSettings:
    """Return the settings of a corpus of the catalogue."""
    values = read_catalogue().corpora[corpus].compose
    return ComposeSettings.build(values if seed is None else {**values, "seed": seed})


def training_settings(recipe: TrainingRecipe, seed: int | None = None) -> Settings:
    """Return the settings of the family."""
    values: dict[str, Any] = recipe.settings if seed is None else {**recipe.settings, "seed": seed}
    settings: Settings = get_family(recipe.family).settings_type.build(values)
    return settings


def _corpus_folder(corpus: str) -> Path:
    """Return the folder of a corpus in the cache; the models that are trained on it share it."""
    return models_folder() / "corpora" / f"{corpus}-{corpus_settings(corpus).digest}"


@contextmanager
def _only_process() -> Iterator[None]:
    path = models_folder() / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BundleError(f"{path.parent}: another process is making a model; wait until it has finished") from error
    try:
        yield
    finally:
        lock.release()


def _write_untrained(model: ReadyModel) -> None:
    assert model.untrained is not None
    bundle = untrained_bundle(model.untrained.tree)
    bundle.model.torch_module()  # type: ignore[attr-defined]  # missing weights end the call before anything is deleted
    shutil.rmtree(model.made, ignore_errors=True)
    save_bundle(replace(bundle, folder=model.made))


def _write_card(model: ReadyModel, report: Path | None) -> None:
    content = read_description(model.made)
    card_info = CardInfo(report=report, license=model.licence.lower(), data=_describe_data(model), limits=model.limits)
    card = write_card(content, card_info, model.place, read_metrics(report, content))
    write_text(model.made / CARD, card)


def _describe_data(model: ReadyModel) -> str:
    if model.train is None:
        return model.summary
    corpus = read_catalogue().corpora[model.train.corpus]
    return f"{corpus.summary}. Licence of the music: {corpus.licence}."
