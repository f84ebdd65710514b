"""Pretraining by distillation: a network learns MusiCNN's outputs on unlabelled music.

The result is a folder of initial weights for training: `genretree train STORE --model cnn --weights FOLDER`.
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
from genretree.errors import CorpusError, SettingsError
from genretree.files import printable, write_text
from genretree.models import get_family
from genretree.models.base import FitContext, FitResult, SliceDataset
from genretree.models.neural.network import NetworkModel
from genretree.models.neural.settings import NetworkSettings
from genretree.models.pretrained.backbones import METADATA_FILE, save_checkpoint
from genretree.sound.features import MEL_16K
from genretree.sound.suffixes import SUFFIXES
from genretree.sound.walk import SoundWalk, is_sound_name
from genretree.taxonomy import Taxonomy
from genretree.training.data import slice_dataset_of
from genretree.training.work_folder import check_output, publish_folder, work_folder

# Default settings of pretraining: strong augmentation, and no genre loss.
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
_VALIDATION_FRACTION = 20  # one track of this many is held out for early stopping
_UNLABELLED = Taxonomy.from_paths([("music",), ("other",)])  # every network needs a head; this one is discarded


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
    """Pretrain a network to predict MusiCNN's outputs from images, on unlabelled music.

    Parameters
    ----------
    sources : sequence of path
        Audio files and folders with audio files, or one store.
    family : str
        Family of image networks: `cnn`, `efficientnet-b0`, `ast`, or a registered one with the same settings.
    out : path
        Folder for the weights. Checkpoints are written to `OUT.partial`; after an interruption the same call resumes
        from there.
    settings : mapping, optional
        Settings of the family that replace those in `DEFAULTS`.
    split : str, optional
        Name of a split, if the source is a store. Its test part is left out.
    restart : bool, default False
        Discard the checkpoints of an interrupted run.
    overwrite : bool, default False
        Replace an existing folder.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    dict
        The content of `pretrained.json` in the folder: data, settings, epochs, and `explained`, the share of the
        teacher's variance that the student explains on held-out tracks.

    Raises
    ------
    TrainingError
        If `out` exists, MusiCNN's weights are not on this machine, or training diverges.
    SettingsError
        If the family is not a network, or a setting is invalid.
    CorpusError
        If a source doesn't exist or has no audio files.

    Examples
    --------
    >>> from genretree.training.pretrain import pretrain
    >>> result = pretrain(["music"], "cnn", "weights", {"epochs": 5})  # doctest: +SKIP
    >>> result["explained"]  # doctest: +SKIP
    0.37
    """
    out = Path(out)
    network_settings = _settings(family, settings)
    check_output(out, overwrite, METADATA_FILE, "pretrained weights")
    music = _open_sources(sources)
    run = {
        "family": family,
        "settings": network_settings.model_dump(mode="json"),
        "sources": [str(path) for path in sources],
        "split": split,
        "contents": _digest(music),
    }
    work = work_folder(out, run, restart)
    store = music if isinstance(music, Store) else prepare(music, work / "store", features=[MEL_16K], progress=progress)
    train_slices, validation_slices = _part(store, split, network_settings.seed)
    fitted = get_family(family).fit(
        train_slices, validation_slices, _UNLABELLED, network_settings, FitContext(work, progress)
    )
    metadata = _describe(store, split, family, network_settings, train_slices, fitted)
    staging = work / "weights"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    if not isinstance(fitted.model, NetworkModel):
        raise SettingsError(f"can't pretrain the family '{family}': its model has no backbone that could be saved")
    save_checkpoint(fitted.model.network.backbone, staging)
    write_text(staging / METADATA_FILE, json.dumps(metadata, indent=1, ensure_ascii=False))
    publish_folder(staging, out, work)
    return metadata


def _settings(family: str, overrides: Mapping[str, Any] | None) -> NetworkSettings:
    settings_type = get_family(family).settings_type
    if not issubclass(settings_type, NetworkSettings):
        raise SettingsError(f"can't pretrain the family '{family}'; choose a family of image networks, such as cnn")
    network_settings = settings_type.build({**DEFAULTS, **(overrides or {})})
    if network_settings.teacher == "none":
        raise SettingsError("teacher is 'none', and pretraining needs a teacher; set teacher=musicnn")
    return network_settings


def _open_sources(sources: Sequence[str | Path]) -> Store | Manifest:
    """Open the store, or list the audio files."""
    paths = [Path(source) for source in sources]
    if not paths:
        raise CorpusError("no sources given; give audio files, folders or a store")
    stores = [path for path in paths if (path / "store.json").is_file()]
    if stores and len(paths) > 1:
        raise CorpusError(
            f"{stores[0]}: a store can't be combined with other sources; give one store, or audio files and folders"
        )
    if stores:
        return Store(stores[0])
    walk, rejected = SoundWalk(), list[Failure]()
    tracks = {path.absolute(): None for source in paths for path in _audio_files(source, walk, rejected)}
    listed = [
        Track(path=path, name=printable(path), leaf=0, group=f"folder:{printable(path.parent)}") for path in tracks
    ]
    return Manifest(
        source=paths[0],
        tracks=tuple(listed),
        taxonomy=_UNLABELLED,
        group_by="folder",
        rejected=tuple(rejected),
        skipped=walk.skipped,
    )


def _digest(music: Store | Manifest) -> str:
    """Hash the sources, so that a run on other music is not resumed."""
    if isinstance(music, Store):
        return music.metadata.digest
    stats = [(str(track.path), track.path.stat().st_size, track.path.stat().st_mtime_ns) for track in music.tracks]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


def _audio_files(source: Path, walk: SoundWalk, rejected: list[Failure]) -> list[Path]:
    if not source.exists():
        raise CorpusError(f"{printable(source)}: no such file or folder")
    if source.is_dir():
        seen_before = walk.covers(source)
        entries = list(walk.find([source]))
        if not entries and not seen_before:
            raise CorpusError(f"{printable(source)}: contains no audio files")
        for entry in entries:
            if entry.error:
                name = printable(entry.name)
                rejected.append(Failure(name, entry.error, f"{name}: {entry.message}"))
        return [Path(entry.name) for entry in entries if not entry.error]
    if not is_sound_name(source):
        raise CorpusError(
            f"{printable(source)}: not an audio file; supported suffixes are {', '.join(sorted(SUFFIXES))}"
        )
    return [source]


def _part(store: Store, split: str | None, seed: int) -> tuple[SliceDataset, SliceDataset | None]:
    """Split off the slices of some tracks for early stopping."""
    if split is None:
        rows = store.rows("all")
    else:
        parts = store.split(split)
        rows = np.union1d(store.rows("train", parts), store.rows("validation", parts))
    slices = slice_dataset_of(store, rows)
    slices = replace(slices, leaves=np.zeros_like(slices.leaves))  # labels are ignored
    tracks = np.random.default_rng(seed).permutation(np.unique(slices.tracks))
    held_out = tracks[: len(tracks) // _VALIDATION_FRACTION]
    is_held_out: NDArray[np.bool_] = np.isin(slices.tracks, held_out)
    train_slices = slices.select(np.flatnonzero(~is_held_out))
    validation_slices = slices.select(np.flatnonzero(is_held_out))
    return train_slices, validation_slices if len(validation_slices) else None


def _describe(
    store: Store,
    split: str | None,
    family: str,
    settings: NetworkSettings,
    train_slices: SliceDataset,
    fitted: FitResult,
) -> dict[str, Any]:
    loss = fitted.metadata["best_validation_loss"]
    return {
        "family": family,
        "version": version("genretree"),
        "teacher": [f"MusiCNN {name}" for name in settings.teacher_networks],
        "tracks": len(np.unique(train_slices.tracks)),
        "slices": len(train_slices),
        "store": store.metadata.digest,
        "split": split,
        "epochs": len(fitted.history),
        "explained": None if loss is None else round(1 - loss, 4),
        "tracks_seen": sorted({store.tracks["sha256"][track] for track in np.unique(train_slices.tracks)}),
        "failures": [asdict(failure) for failure in store.failures],
        "settings": settings.model_dump(mode="json"),
    }
