"""Teach a network that sees images what MusiCNN hears, on any music; no genres are needed.

What comes of it is a folder of weights to start from: `genretree train STORE --model cnn --weights FOLDER`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.corpus.manifest import Failure, Manifest, Track
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError, TrainingError
from genretree.files import printable, write_text
from genretree.models import get_family
from genretree.models.base import FitContext, FitResult, SliceDataset
from genretree.models.neural.network import NetworkModel
from genretree.models.neural.settings import NetworkSettings
from genretree.models.pretrained.backbones import FACTS_FILE, save_checkpoint
from genretree.sound.features import MEL_16K
from genretree.sound.suffixes import SUFFIXES
from genretree.sound.walk import SoundWalk, is_sound_name
from genretree.taxonomy import Taxonomy
from genretree.training.train import publish_folder, slice_dataset_of, work_folder

# What is learned with unless other settings are given: every slice otherwise in each epoch, and no genres.
DEFAULTS: dict[str, Any] = {
    "weights": "none",
    "modalities": ["mel", "cqt", "chroma"],
    "image_size": 112,
    "teacher": "musicnn",
    "genre_weight": 0.0,
    "slice_offset": True,
    "pitch_change": 0.5,
    "tempo_change": 0.05,
    "equaliser": 0.05,
    "level_jitter": 0.05,
    "mask_probability": 0.5,
    "dropout": 0.1,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "warmup_epochs": 2,
    "epochs": 10,
    "patience": 10,
    "batch_size": 32,
    "averaging": 0.99,
}
_HELD_OUT = 20  # one track in so many tells when to stop
_UNLABELLED = Taxonomy.from_paths([("music",), ("other",)])  # every network has a head; this one's is thrown away


def pretrain(
    sources: Sequence[str | Path],
    family: str,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    split: str | None = None,
    restart: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Teach a network of a family what MusiCNN hears in music.

    Parameters
    ----------
    sources : sequence of path
        Sound files and folders of them; or one store.
    family : str
        `cnn`, `ast` or `efficientnet-b0`.
    out : path
        The folder of weights to make. Work lies beside it in `OUT.partial`; after a kill the same call goes on from
        there.
    settings : mapping, optional
        Of the family, in the place of `DEFAULTS`.
    split : str, optional
        For a store: learn from all but the test part of this split, which so stays unheard.
    restart : bool
        Begin anew where an interrupted run lies.
    overwrite : bool
        Replace what is there.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    dict
        What `pretrained.json` in the folder says: data, settings, epochs, and the share of the teacher's variance that
        the student explains on tracks held out.

    Raises
    ------
    TrainingError, SettingsError, CorpusError
    """
    out = Path(out)
    chosen = _settings(family, settings)
    if out.exists() and not overwrite:
        raise TrainingError(f"{out}: exists already; give another name, or replace it with `overwrite=True`")
    found = _find(sources)
    run = {
        "family": family,
        "settings": chosen.model_dump(mode="json"),
        "sources": [str(path) for path in sources],
        "split": split,
        "contents": _digest(found),
    }
    work = work_folder(out, run, restart)
    store = found if isinstance(found, Store) else prepare(found, work / "store", features=[MEL_16K], progress=progress)
    learn, check = _part(store, split, chosen.seed)
    fitted = get_family(family).fit(learn, check, _UNLABELLED, chosen, FitContext(work, progress))
    facts = _describe(store, split, family, chosen, learn, fitted)
    made = work / "weights"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    model = fitted.model
    assert isinstance(model, NetworkModel)
    save_checkpoint(model.network.backbone, made)
    write_text(made / FACTS_FILE, json.dumps(facts, indent=1, ensure_ascii=False))
    publish_folder(made, out, work)
    return facts


def _settings(family: str, given: Mapping[str, Any] | None) -> NetworkSettings:
    kind = get_family(family).settings_type
    if not issubclass(kind, NetworkSettings):
        raise SettingsError(f"{family} is no network that could be taught; there are: cnn, efficientnet-b0, ast")
    chosen = kind.build({**DEFAULTS, **(given or {})})
    if chosen.teacher == "none":
        raise SettingsError("teacher is none; without one there is nothing to learn from")
    return chosen


def _find(sources: Sequence[str | Path]) -> Store | Manifest:
    """Open the store that is named, or list the sound files."""
    paths = [Path(source) for source in sources]
    if not paths:
        raise CorpusError("no music is named; give sound files, folders or a store")
    stores = [path for path in paths if (path / "store.json").is_file()]
    if stores and len(paths) > 1:
        raise CorpusError(f"{stores[0]}: a store goes alone; give its music too as files, or one store")
    if stores:
        return Store(stores[0])
    walk, rejected = SoundWalk(), list[Failure]()
    tracks = {path.absolute(): None for source in paths for path in _sound_files(source, walk, rejected)}
    listed = [Track(path, printable(path), 0, f"folder:{printable(path.parent)}") for path in tracks]
    return Manifest(paths[0], tuple(listed), _UNLABELLED, "folder", tuple(rejected), walk.skipped)


def _digest(found: Store | Manifest) -> str:
    """Hash what there is to hear, so that a run on other music isn't taken up."""
    if isinstance(found, Store):
        return found.facts.digest
    stats = [(str(track.path), track.path.stat().st_size, track.path.stat().st_mtime_ns) for track in found.tracks]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


def _sound_files(source: Path, walk: SoundWalk, rejected: list[Failure]) -> list[Path]:
    if not source.exists():
        raise CorpusError(f"{printable(source)}: no such file or folder")
    if source.is_dir():
        known = walk.covers(source)
        found = list(walk.find([source]))
        if not found and not known:
            raise CorpusError(f"{printable(source)}: no sound files below it")
        for item in found:
            if item.error:
                name = printable(item.name)
                rejected.append(Failure(name, item.error, f"{name}: {item.message}"))
        return [Path(item.name) for item in found if not item.error]
    if not is_sound_name(source):
        raise CorpusError(f"{printable(source)}: not a sound file; known are {', '.join(sorted(SUFFIXES))}")
    return [source]


def _part(store: Store, split: str | None, seed: int) -> tuple[SliceDataset, SliceDataset | None]:
    """Take the slices to learn from, and those of some tracks that tell when to stop."""
    if split is None:
        rows = store.rows("all")
    else:
        parts = store.split(split)
        rows = np.union1d(store.rows("train", parts), store.rows("validation", parts))
    known = slice_dataset_of(store, rows)
    known = replace(known, leaves=np.zeros_like(known.leaves))  # whatever genres it has
    tracks = np.random.default_rng(seed).permutation(np.unique(known.tracks))
    held = tracks[: len(tracks) // _HELD_OUT]
    checks: NDArray[np.bool_] = np.isin(known.tracks, held)
    learn, check = known.select(np.flatnonzero(~checks)), known.select(np.flatnonzero(checks))
    return learn, check if len(check) else None


def _describe(
    store: Store, split: str | None, family: str, settings: NetworkSettings, learn: SliceDataset, fitted: FitResult
) -> dict[str, Any]:
    loss = fitted.facts["best_validation_loss"]
    return {
        "family": family,
        "version": version("genretree"),
        "teacher": [f"MusiCNN {name}" for name in settings.teacher_networks],
        "tracks": len(np.unique(learn.tracks)),
        "slices": len(learn),
        "store": store.facts.digest,
        "split": split,
        "epochs": len(fitted.history),
        "explained": None if loss is None else round(1 - loss, 4),
        "tracks_seen": sorted({store.tracks["sha256"][track] for track in np.unique(learn.tracks)}),
        "failures": [asdict(failure) for failure in store.failures],
        "settings": settings.model_dump(mode="json"),
    }
