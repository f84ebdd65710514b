"""Training of a model family on a store: the call `train`, which writes a bundle."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.bundle.manifest import DESCRIPTION
from genretree.checks import require_iterable, require_path, require_text, require_type
from genretree.corpus.prepare import add_features
from genretree.corpus.splits import Split
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, TrainingError
from genretree.metrics.calibration import Calibration, fit_calibration
from genretree.metrics.familiarity import describe_in_batches, fit_reference
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
from genretree.models.pretrained.origin import initial_weights, read_pretrained_metadata
from genretree.parallel import world_size
from genretree.progress import progress_bar
from genretree.settings import MODALITIES, Settings
from genretree.training.data import describe_data, parts_digest, slice_dataset
from genretree.training.work_folder import check_output, measure_seconds, publish_folder, run_exclusively, work_folder

_VERSIONS = ("genretree", "numpy", "librosa", "scikit-learn", "torch", "transformers")


def train(
    store: Store,
    family: str | type[Family],
    out: str | Path,
    settings: Mapping[str, Any] | Settings | None = None,
    *,
    split: str = "default",
    callbacks: Sequence[Any] = (),
    restart: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Bundle:
    """Train a model family on a store and write a bundle.

    The model learns from the training part. The validation part decides when to stop and calibrates the probabilities.

    Parameters
    ----------
    store : Store
        A prepared corpus.
    family : str or class
        Name of a registered family, such as `cnn` or `boosting`, or a family class, which is registered.
    out : path
        Folder of the bundle. Checkpoints are written to `OUT.partial`; after an interruption the same call resumes
        from there.
    settings : mapping or Settings, optional
        The family's settings. Unknown names raise an error.
    split : str, default "default"
        Name of a split of the store.
    callbacks : sequence of transformers.TrainerCallback, optional
        Callbacks of the training loop of a network (`cnn`, `efficientnet-b0`, `ast`), for example to log or to stop
        early. Other families refuse them.
    restart : bool, default False
        Discard the checkpoints of an interrupted run.
    overwrite : bool, default False
        Replace an existing bundle. Anything else at `out` is never replaced.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    Bundle
        The trained model, loaded from `out`.

    Raises
    ------
    ArgumentError
        If the family does not take callbacks, or one is of the wrong type.
    TrainingError
        If `out` exists, the split has no training part, or training diverges.
    SettingsError
        If the family or a setting is unknown, or a value is invalid.
    CorpusError
        If the store lacks the split, or features that the model needs.
    BundleError
        If the bundle can't be written or loaded.

    See Also
    --------
    genretree.prepare : Prepare a store from audio or images.
    genretree.load_bundle : Load a bundle that was trained before.
    genretree.GenreClassifier : A scikit-learn estimator that prepares and trains.
    genretree.evaluate : Evaluate a bundle on held-out tracks.

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
    family_type = get_family(family)
    family = family_type.name
    family_settings = settings if isinstance(settings, Settings) else family_type.settings_type.build(settings)
    require_type("settings", family_settings, family_type.settings_type, f"the settings of '{family}'")
    require_text("split", split)
    callbacks = _check_callbacks(family_type, callbacks)
    check_output(out, overwrite, DESCRIPTION, "a bundle")
    if world_size() > 1 and not family_type.distributed:
        raise TrainingError(f"{family} can't be trained in several processes; start it without torchrun")
    needed = training_inputs(family_settings)
    store.check_modalities([name for name in MODALITIES if name in needed])
    if any(name not in MODALITIES for name in needed):
        with run_exclusively() as is_main:  # the other processes read the features that the first one added
            store = add_features(store if is_main else Store(store.folder), needed, progress=progress)
    parts = store.split(split)
    train_slices, validation_slices = slice_dataset(store, parts, "train"), slice_dataset(store, parts, "validation")
    if len(train_slices) == 0:
        raise TrainingError(f"{store.folder}: the split '{split}' has no training part; choose or make another split")
    with run_exclusively():
        work = work_folder(out, _describe_run(store, family, family_settings, parts), restart)
    with measure_seconds(work / "seconds") as seconds:
        fitted = family_type.fit(
            train_slices,
            validation_slices if len(validation_slices) else None,
            store.taxonomy,
            family_settings,
            FitContext(work, progress, callbacks),
        )
        calibration = _calibrate(fitted, validation_slices, store, progress)
    reference = _fit_reference(store, parts, fitted.model.input_features)
    pretraining = read_pretrained_metadata(str(getattr(family_settings, "weights", "")))
    initial = initial_weights(fitted.model)
    training = {
        **describe_data(store, parts),
        "heard_before": pretraining.get("tracks_seen", []),
        **({} if initial is None else {"initial_weights": initial}),
        **({} if reference is None else {"reference": reference}),
        "history": fitted.history,
        "facts": dict(fitted.metadata),
        "seconds": round(seconds(), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in _VERSIONS},
    }
    with run_exclusively() as is_main:
        if is_main:
            bundle = Bundle(
                folder=out,
                family=family,
                taxonomy=store.taxonomy,
                images=store.settings,
                settings=family_settings,
                model=fitted.model,
                training=training,
                calibration=calibration,
            )
            _finish(bundle, work)
    return load_bundle(out)


def train_once(
    store: Store, family: str, out: str | Path, settings: Settings, *, split: str = "default", progress: bool = False
) -> Bundle:
    """Load the bundle at `out` if an identical training run wrote it; otherwise train and replace it."""
    if not Path(out).exists():
        return train(store, family, out, settings, split=split, progress=progress)
    bundle = load_bundle(out)
    trained_split = bundle.training["split"]
    same_split = trained_split["name"] == split and trained_split.get("parts") == parts_digest(store.split(split))
    same_data = bundle.training["store"]["digest"] == store.metadata.digest and same_split
    if same_data and bundle.settings == settings and bundle.family == family:
        return bundle
    return train(store, family, out, settings, split=split, overwrite=True, progress=progress)


def _calibrate(fitted: FitResult, validation: SliceDataset, store: Store, progress: bool) -> Calibration | None:
    """Fit the temperatures on slices that the model did not learn from; None if there are none."""
    out_of_fold, source = fitted.out_of_fold, "predictions out of fold"
    if out_of_fold is None:
        if len(validation) == 0:
            return None
        with progress_bar(len(validation), "calibrate", "slice", progress) as tick:
            levels = predict_dataset(fitted.model, validation, tick)
        out_of_fold, source = OutOfFoldPredictions(levels, validation.leaves, validation.tracks), "the validation part"
    if "recovered_track" in store.tracks:  # such a store has one track per slice, but predictions are of whole files
        recovered = np.unique(np.array(store.tracks["recovered_track"]), return_inverse=True)[1]
        out_of_fold = replace(out_of_fold, tracks=recovered[out_of_fold.tracks])
    return fit_calibration(out_of_fold, store.taxonomy, fitted.model.heads, source)


def _fit_reference(store: Store, parts: Split, features: Sequence[str]) -> dict[str, Any] | None:
    """Fit the reference for the distance of files from the training data; None if the model reads no spectrum."""
    rows = np.concatenate([store.rows(part, parts) for part in ("train", "validation")])
    needed = set(features)

    def inputs_of(batch: slice) -> dict[str, Any]:
        inputs = store.inputs(rows[batch])
        return {
            name: inputs[name]
            for name in ("mel", "mel_16k", "mel_32k")
            if name in inputs and reads_spectrum(needed, name)
        }

    described = describe_in_batches(inputs_of, len(rows))
    if described is None:
        return None
    tracks = store.slice_tracks[rows]
    return fit_reference(described, tracks, store.track_groups[tracks])


def reads_spectrum(features: set[str], name: str) -> bool:
    """Whether a model that takes some features is given one; with any image, `predict` computes all three."""
    return name in features or (name == "mel" and bool(features & {"images", *MODALITIES}))


def _check_callbacks(family: type[Family], callbacks: Sequence[Any]) -> tuple[Any, ...]:
    """Check that a family calls callbacks of this type, so that none is ignored."""
    require_iterable("callbacks", callbacks, "callbacks")
    checked = tuple(callbacks)
    if not checked:
        return ()
    location: str | None = getattr(family, "callback_type", None)
    if location is None:
        raise ArgumentError(f"the family '{family.name}' takes no callbacks; omit `callbacks`, or train a network")
    module, _, name = location.partition(":")
    for each in checked:
        require_type("each of callbacks", each, getattr(import_module(module), name))
    return checked


def _finish(bundle: Bundle, work: Path) -> None:
    """Write the bundle and its logs to their final place, and delete the work folder."""
    staging = work / "bundle"
    shutil.rmtree(staging, ignore_errors=True)
    history = work / "history.csv"
    save_bundle(replace(bundle, folder=staging), {history.name: history} if history.exists() else {})
    if (work / "tensorboard").is_dir():
        shutil.copytree(work / "tensorboard", staging / "tensorboard")
    publish_folder(staging, bundle.folder, work)


def _describe_run(store: Store, family: str, settings: Settings, split: Split) -> dict[str, Any]:
    """Identify a training run, so that only the same run resumes from a work folder."""
    return {
        "family": family,
        "settings": settings.model_dump(mode="json"),
        "store": store.metadata.digest,
        "split": split.name,
        "parts": parts_digest(split),
    }
