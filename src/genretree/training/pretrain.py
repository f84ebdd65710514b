"""Pretraining by distillation: a network learns the outputs of MusiCNN, mn04 or both on unlabelled music.

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
from genretree.corpus.splits import Split
from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError
from genretree.files import printable, write_text
from genretree.models import get_family
from genretree.models.base import FitContext, FitResult, SliceDataset
from genretree.models.neural.network import NetworkModel
from genretree.models.neural.settings import TEACHER_FEATURES, NetworkSettings, Teacher
from genretree.models.pretrained.backbones import save_checkpoint
from genretree.models.pretrained.mn04_weights import load_mn04
from genretree.models.pretrained.musicnn_features import load_network
from genretree.models.pretrained.names import Weights
from genretree.models.pretrained.origin import METADATA_FILE
from genretree.sound.suffixes import SUFFIXES
from genretree.sound.walk import SoundWalk, is_sound_name
from genretree.taxonomy import Taxonomy
from genretree.training.data import slice_dataset_of
from genretree.training.sound_variants import VariantJob, write_variants
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
    "ema_decay": 0.99,
}
SPLIT = "pretraining"
_VALIDATION_FRACTION = 20  # one track of this many is held out for early stopping
_MAX_SECONDS = 120.0  # of a file that are used for each of its augmented versions
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
    variants: int = 0,
) -> dict[str, Any]:
    """Pretrain a network to predict a teacher's outputs from images, on unlabelled music.

    The teacher is MusiCNN, the audio tagger mn04 or both (`teacher` in `settings`).

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
        Name of a split, if the source is a store. Its test part is left out. The split of `prepare_music`,
        "pretraining", also chooses the tracks held out for early stopping; otherwise 5 % of the tracks are, at random.
    restart : bool, default False
        Discard the checkpoints of an interrupted run.
    overwrite : bool, default False
        Replace an existing folder.
    progress : bool, default False
        Show progress bars on standard error.
    variants : int, default 0
        Number of augmented versions of each file to train on as well, if the sources are audio files; see
        `prepare_music`.

    Returns
    -------
    dict
        The content of `pretrained.json` in the folder: data, settings, epochs, and `explained`, the share of the
        teacher's variance that the student explains on held-out tracks.

    Raises
    ------
    TrainingError
        If `out` exists, the teacher's weights are not on this machine, or training diverges.
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
        "variants": variants,
    }
    if variants and isinstance(music, Store):
        raise SettingsError("variants can't be made from a store; give audio files, or a store of `prepare_music`")
    require_teacher(network_settings)
    work = work_folder(out, run, restart)
    if isinstance(music, Store):
        store = music
    else:
        features = TEACHER_FEATURES[network_settings.teacher]
        store = _prepare_music(music, work / "store", features, variants, network_settings.seed, None, progress)
        split = SPLIT
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


def prepare_music(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    teacher: Teacher = "musicnn",
    variants: int = 0,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> Store:
    """Prepare a store for pretraining several networks, with augmented versions of the music.

    An augmented version has another pitch (up to 3 semitones), tempo (0.8 to 1.25 times) and equaliser curve (up to 9
    dB in three bands), half of them are mixtures of two files, and each is a lossy file at a low bit rate (mp3, Opus or
    AAC). Teachers score what is audible in a version. One track of twenty is held out for early stopping; it gets no
    versions and is in no mixture. The split is saved under the name "pretraining".

    Parameters
    ----------
    sources : sequence of path
        Audio files and folders with audio files.
    out : path
        The store's folder; the versions are in `OUT-variants` next to it.
    teacher : {"musicnn", "mn04", "both"}
    variants : int, default 0
        Number of versions of each file, of at most 120 s.
    seed : int, default 0
        Seed of the changes and of the split.
    workers : int, optional
        Number of processes; by default the number of available processors.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    Store

    Raises
    ------
    CorpusError
        If a source doesn't exist, has no audio files, or is a store.

    Examples
    --------
    >>> from genretree.training.pretrain import prepare_music, pretrain
    >>> store = prepare_music(["music"], "STORE", teacher="both", variants=4)  # doctest: +SKIP
    >>> for family in ("cnn", "efficientnet-b0"):  # doctest: +SKIP
    ...     pretrain([store.folder], family, f"weights-{family}", {"teacher": "both"}, split="pretraining")
    """
    music = _open_sources(sources)
    if isinstance(music, Store):
        raise CorpusError(f"{music.folder}: a store, which has no sound; give audio files or folders")
    return _prepare_music(music, Path(out), TEACHER_FEATURES[teacher], variants, seed, workers, progress)


def _prepare_music(
    music: Manifest,
    out: Path,
    features: Sequence[str],
    variants: int,
    seed: int,
    workers: int | None,
    progress: bool,
) -> Store:
    tracks = list(music.tracks)
    order = np.random.default_rng(seed).permutation(len(tracks))
    held_out = {tracks[place].name for place in order[: len(tracks) // _VALIDATION_FRACTION]}
    if variants:
        tracks += _write_variants(
            [track for track in tracks if track.name not in held_out], out, variants, seed, workers, progress
        )
    manifest = replace(music, tracks=tuple(tracks))
    store = prepare(manifest, out, features=features, workers=workers, progress=progress)
    parts = ("validation" if name in held_out else "train" for name in store.tracks["path"])
    Split(name=SPLIT, protocol="group", seed=seed, parts=tuple(parts)).save(store.folder / "splits")
    return store


def _write_variants(
    tracks: Sequence[Track], out: Path, variants: int, seed: int, workers: int | None, progress: bool
) -> list[Track]:
    """Write the augmented versions of tracks, and list them as tracks."""
    folder = out.with_name(f"{out.name}-variants")
    folder.mkdir(parents=True, exist_ok=True)
    partners = np.random.default_rng((seed, 1)).integers(len(tracks), size=(len(tracks), variants))
    jobs = [
        VariantJob(
            track.path, tracks[partners[at, number]].path, folder / f"{at}-{number}", (seed, at, number), _MAX_SECONDS
        )
        for at, track in enumerate(tracks)
        for number in range(variants)
    ]
    paths = write_variants(jobs, workers, progress)
    originals = [track for track in tracks for _ in range(variants)]
    return [
        replace(track, path=path, name=printable(path))
        for track, path in zip(originals, paths, strict=True)
        if path is not None
    ]


def require_teacher(settings: NetworkSettings) -> None:
    """Check that the teacher's weights are on this machine, before hours of preparation. Raises TrainingError."""
    if settings.teacher in ("musicnn", "both"):
        for name in settings.teacher_networks:
            load_network(name, settings.teacher_folder)
    if settings.teacher in ("mn04", "both"):
        load_mn04(None if settings.teacher_folder == Weights.CACHED else settings.teacher_folder)


def _settings(family: str, overrides: Mapping[str, Any] | None) -> NetworkSettings:
    settings_type = get_family(family).settings_type
    if not issubclass(settings_type, NetworkSettings):
        raise SettingsError(f"can't pretrain the family '{family}'; choose a family of image networks, such as cnn")
    chosen = dict(overrides or {})
    current_names = {settings_type.renamed.get(name, name) for name in chosen}
    defaults = {name: value for name, value in DEFAULTS.items() if name not in current_names}
    network_settings = settings_type.build({**defaults, **chosen})
    if network_settings.teacher == "none":
        raise SettingsError("teacher is 'none', and pretraining needs a teacher; set teacher=musicnn, mn04 or both")
    return network_settings


def _name_teachers(settings: NetworkSettings) -> list[str]:
    names = [f"MusiCNN {name}" for name in settings.teacher_networks] if settings.teacher != "mn04" else []
    return [*names, "mn04"] if settings.teacher in ("mn04", "both") else names


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
    if split == SPLIT:
        parts = store.split(split)
        train_slices, validation_slices = (
            _unlabelled(slice_dataset_of(store, store.rows(part, parts))) for part in ("train", "validation")
        )
        return train_slices, validation_slices if len(validation_slices) else None
    if split is None:
        rows = store.rows("all")
    else:
        parts = store.split(split)
        rows = np.union1d(store.rows("train", parts), store.rows("validation", parts))
    slices = _unlabelled(slice_dataset_of(store, rows))
    tracks = np.random.default_rng(seed).permutation(np.unique(slices.tracks))
    held_out = tracks[: len(tracks) // _VALIDATION_FRACTION]
    is_held_out: NDArray[np.bool_] = np.isin(slices.tracks, held_out)
    train_slices = slices.select(np.flatnonzero(~is_held_out))
    validation_slices = slices.select(np.flatnonzero(is_held_out))
    return train_slices, validation_slices if len(validation_slices) else None


def _unlabelled(slices: SliceDataset) -> SliceDataset:
    return replace(slices, leaves=np.zeros_like(slices.leaves))


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
        "teacher": _name_teachers(settings),
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
