"""From a store to a bundle."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Int64Array
from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.checks import require_path, require_type
from genretree.corpus.manifest import ALONE
from genretree.corpus.names import fold_name, split_names
from genretree.corpus.prepare import add_features
from genretree.corpus.splits import Split
from genretree.corpus.store import Store
from genretree.errors import TrainingError
from genretree.files import write_text
from genretree.metrics.calibration import Calibration, fit_calibration
from genretree.models import get_family
from genretree.models.base import (
    Family,
    FitContext,
    FitResult,
    OutOfFoldPredictions,
    SliceDataset,
    predict_dataset,
    training_inputs,
)
from genretree.parallel import world_size
from genretree.progress import progress_bar
from genretree.settings import MODALITIES, Settings

_SECONDS_BETWEEN_NOTES = 5.0
_VERSIONS = ("genretree", "numpy", "librosa", "scikit-learn", "torch", "transformers")


def train(
    store: Store,
    family: str | type[Family],
    out: str | Path,
    settings: Mapping[str, Any] | Settings | None = None,
    *,
    split: str = "default",
    restart: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Bundle:
    """Train a model family on the training part of a store.

    Parameters
    ----------
    store : Store
    family : str or class
        Name of a registered family, such as `cnn` or `boosting`; or a family class, which is registered.
    out : path
        The bundle's folder. Checkpoints lie beside it in `OUT.partial`; after a kill the same call goes on from there.
    settings : mapping or Settings, optional
        The family's settings; unknown names are refused.
    split : str
        Name of the store's split.
    restart : bool
        Begin anew where an interrupted run lies.
    overwrite : bool
        Replace a bundle of that name.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    Bundle
        The trained bundle, saved in `out`.

    Raises
    ------
    TrainingError, SettingsError, CorpusError, BundleError

    See Also
    --------
    genretree.GenreClassifier : A scikit-learn estimator that prepares and trains.
    genretree.evaluate : Score the bundle on held-out tracks.

    Examples
    --------
    >>> import genretree
    >>> store = genretree.Store("STORE")
    >>> settings = {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2}
    >>> bundle = genretree.train(store, "boosting", "NEW", settings)
    >>> bundle.family
    'boosting'
    """
    require_type("store", store, Store, "use genretree.Store, or genretree.prepare")
    out = require_path("out", out)
    kind = get_family(family)
    family = kind.name
    chosen = settings if isinstance(settings, Settings) else kind.settings_type.build(settings)
    if out.exists() and not overwrite:
        raise TrainingError(f"{out}: exists already; give another name, or replace it with `overwrite=True`")
    if world_size() > 1 and not kind.distributed:
        raise TrainingError(f"{family} trains in one process; start it without torchrun")
    needed = training_inputs(chosen)
    store.check_modalities([name for name in MODALITIES if name in needed])
    if any(name not in MODALITIES for name in needed):
        with run_exclusively() as first:  # the others find what the first has added
            store = add_features(store if first else Store(store.folder), needed, progress=progress)
    parts = store.split(split)
    learn, check = slice_dataset(store, parts, "train"), slice_dataset(store, parts, "validation")
    if len(learn) == 0:
        raise TrainingError(f"{store.folder}: the split '{split}' has no training part")
    with run_exclusively():
        work = work_folder(out, _describe_run(store, family, chosen, parts), restart)
    with _clock(work / "seconds") as seconds:
        fitted = kind.fit(learn, check if len(check) else None, store.taxonomy, chosen, FitContext(work, progress))
        calibration = _calibrate(fitted, check, store, progress)
    from genretree.models.pretrained.backbones import (  # brings transformers, which not all need
        initial_weights,
        read_pretrained_metadata,
    )

    heard = read_pretrained_metadata(str(getattr(chosen, "weights", "")))
    started = initial_weights(fitted.model)
    training = {
        **_describe_data(store, parts),
        "heard_before": heard.get("tracks_seen", []),
        **({} if started is None else {"initial_weights": started}),
        "history": fitted.history,
        "facts": dict(fitted.facts),
        "seconds": round(seconds(), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in _VERSIONS},
    }
    with run_exclusively() as first:
        if first:
            bundle = Bundle(out, family, store.taxonomy, store.settings, chosen, fitted.model, training, calibration)
            _finish(bundle, work)
    return load_bundle(out)


def train_once(
    store: Store, family: str, out: str | Path, settings: Settings, *, split: str = "default", progress: bool = False
) -> Bundle:
    """Load the bundle that an earlier run of this very training left at `out`, or train and replace what lies there."""
    if not Path(out).exists():
        return train(store, family, out, settings, split=split, progress=progress)
    bundle = load_bundle(out)
    learned = bundle.training["split"]
    same_split = learned["name"] == split and learned.get("parts") == parts_digest(store.split(split))
    same_data = bundle.training["store"]["digest"] == store.facts.digest and same_split
    if same_data and bundle.settings == settings and bundle.family == family:
        return bundle
    return train(store, family, out, settings, split=split, overwrite=True, progress=progress)


def _calibrate(fitted: FitResult, validation: SliceDataset, store: Store, progress: bool) -> Calibration | None:
    """Fit the temperatures on what the model did not learn from; None where there is no such music."""
    held, source = fitted.held, "predictions out of fold"
    if held is None:
        if len(validation) == 0:
            return None
        with progress_bar(len(validation), "calibrate", "slice", progress) as tick:
            levels = predict_dataset(fitted.model, validation, tick)
        held, source = OutOfFoldPredictions(levels, validation.leaves, validation.tracks), "the validation part"
    if "recovered_track" in store.tracks:  # each slice is a track of its own there, but files will be whole ones
        guessed = np.unique(np.array(store.tracks["recovered_track"]), return_inverse=True)[1]
        held = replace(held, tracks=guessed[held.tracks])
    return fit_calibration(held, store.taxonomy, fitted.model.heads, source)


def _finish(bundle: Bundle, work: Path) -> None:
    """Put the bundle with its logs in its place, and clear away what training left."""
    made = work / "bundle"
    shutil.rmtree(made, ignore_errors=True)
    history = work / "history.csv"
    save_bundle(replace(bundle, folder=made), {history.name: history} if history.exists() else {})
    if (work / "tensorboard").is_dir():
        shutil.copytree(work / "tensorboard", made / "tensorboard")
    publish_folder(made, bundle.folder, work)


def publish_folder(made: Path, out: Path, work: Path) -> None:
    """Give a finished folder its name, in the place of what may be there, and clear away the work."""
    if out.exists():
        out.rename(work / "replaced")
    made.rename(out)
    shutil.rmtree(work)


@contextmanager
def _clock(path: Path) -> Iterator[Callable[[], float]]:
    """Count the seconds of a training, those of runs that were cut off included: noted in a file every few seconds."""
    try:
        before = float(path.read_text())
    except (OSError, ValueError):
        before = 0.0
    began, ended = time.monotonic(), threading.Event()

    def seconds() -> float:
        return before + time.monotonic() - began

    def note() -> None:
        while not ended.wait(_SECONDS_BETWEEN_NOTES):
            write_text(path, f"{seconds():.1f}")

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()


@contextmanager
def run_exclusively() -> Iterator[bool]:
    """Let the first of several training processes (torchrun) go before the others; True in the first or only one."""
    if world_size() == 1:
        yield True
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    with state.main_process_first():
        yield state.is_main_process


def slice_dataset(store: Store, split: Split, part: str) -> SliceDataset:
    """Take the labelled slices of one part of a store."""
    return slice_dataset_of(store, store.rows(part, split))


def slice_dataset_of(store: Store, rows: Int64Array) -> SliceDataset:
    """Take labelled slices of a store by their index."""
    tracks = store.slice_tracks[rows]
    return SliceDataset(
        store.images,
        rows,
        store.track_leaves[tracks],
        tracks,
        store.track_groups[tracks],
        store.features,
        store.folder / "cache",
    )


def unknown_groups(store: Store) -> NDArray[np.bool_]:
    """Say of which tracks the artist (album ...) isn't known, so that each is a group of its own: shape (n_tracks,)."""
    alone = np.array([str(name).startswith(ALONE) for name in store.tracks["group"]], dtype=bool)
    return alone & (store.facts.group_by != "track")


def fingerprint(text: str) -> str:
    """Hash a group's name, so that a bundle can tell known artists without naming them."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def group_fingerprints(store: Store, track: int) -> set[str]:
    """Hash the names by which a track's group is known: the store's, its source's spelling, and each artist's.

    Two stores may call the group of the same artist by different names, where it was joined with others or spelt
    otherwise; any name in common tells that it is known.
    """
    group_by = store.facts.group_by
    names = {str(store.tracks["group"][track])}
    value = str(store.tracks[group_by][track] or "") if group_by in store.tracks else ""
    if value:
        names |= {f"{group_by}:{value}", *(f"{group_by}:{fold_name(name)}" for name in split_names(value, group_by))}
    return {fingerprint(name) for name in names}


def parts_digest(split: Split) -> str:
    """Hash which track or slice is in which part: a split that was made anew under its old name has another."""
    return hashlib.sha256("".join(split.parts).encode()).hexdigest()[:16]


def _describe_run(store: Store, family: str, settings: Settings, split: Split) -> dict[str, Any]:
    """Say what makes a training this very one."""
    return {
        "family": family,
        "settings": settings.model_dump(mode="json"),
        "store": store.facts.digest,
        "split": split.name,
        "parts": parts_digest(split),
    }


def work_folder(out: Path, run: Mapping[str, Any], restart: bool) -> Path:
    """Give the folder for the work on `out`, emptied if what lies there is of another run."""
    work = out.with_name(f"{out.name}.partial")
    identity = work / "run.json"
    try:
        same = json.loads(identity.read_text(encoding="utf-8")) == run
    except (OSError, ValueError):
        same = False
    if work.exists() and (restart or not same):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_text(identity, json.dumps(run))
    return work


def _describe_data(store: Store, split: Split) -> dict[str, Any]:
    """Say what was learned from, so that an evaluation can tell whether it has been seen."""
    seen = np.unique(np.concatenate([store.slice_tracks[store.rows(part, split)] for part in ("train", "validation")]))
    return {
        "store": {"folder": str(store.folder), "source": store.facts.source, "digest": store.facts.digest},
        "split": {
            "name": split.name,
            "protocol": split.protocol,
            "seed": split.seed,
            "note": split.note,
            "parts": parts_digest(split),
        },
        "group_by": store.facts.group_by,
        "slices": {part: len(store.rows(part, split)) for part in ("train", "validation", "test")},
        "unknown_groups": int(unknown_groups(store)[seen].sum()),
        "tracks_seen": sorted({store.tracks["sha256"][track] for track in seen}),
        "groups_seen": sorted({mark for track in seen for mark in group_fingerprints(store, track)}),
    }
