"""Contract checks for model families of other packages, like scikit-learn's `check_estimator`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Array
from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.bundle.manifest import DESCRIPTION
from genretree.errors import BundleError, SettingsError
from genretree.explanation.methods.registry import METHODS
from genretree.models.base import Family, FitContext, LevelProbabilities, Model, SliceDataset
from genretree.models.registry import check_attributes
from genretree.settings import MEL_16K_BANDS, ImageSettings, Settings
from genretree.sound.features import MEL_16K, Inputs, feature_names, requested_features
from genretree.sound.mel_16k import mel_16k_frames
from genretree.taxonomy import Taxonomy

_TREE = Taxonomy.from_nested({"Calm": ["Drone", "Bells"], "Busy": {"Beat": ["Slow", "Fast"], "Noise": None}})
_IMAGES = ImageSettings(slice_seconds=2.0, size=32)
_GROUPS, _TRACKS, _SLICES = 4, 2, 3  # groups of each leaf, tracks of each group, slices of each track


def check_family(family: type[Family], settings: Mapping[str, Any] | None = None) -> None:
    """Check that a model family meets the contract that genretree relies on.

    Trains the family on a small synthetic data set, and saves and loads the model.

    Parameters
    ----------
    family : class
        See `genretree.models.base.Family`.
    settings : mapping, optional
        Settings that make training short.

    Raises
    ------
    AssertionError
        If a check fails; the message says which.
    ArgumentError
        If an attribute is missing or of the wrong type.

    Examples
    --------
    >>> from genretree.models.families.boosting.family import BoostingFamily
    >>> check_family(BoostingFamily, {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2})
    """
    check_attributes(family)
    _expect(bool(family.summary), "summary is empty")
    checked = family.settings_type.build(settings)
    _check_settings(family.settings_type, checked)
    training, held_out = _synthesise_examples(0), _synthesise_examples(1)
    with tempfile.TemporaryDirectory(prefix="genretree-check-") as work:
        folder = Path(work)
        (folder / "fit").mkdir()
        fitted = family.fit(training, held_out, _TREE, checked, FitContext(folder / "fit"))
        model = fitted.model
        _check_features(model)
        _check_probabilities(model, held_out)
        _check_batches(model, held_out)
        _check_learning(model, training)
        _check_optional(model, held_out)
        _check_saving(family, model, checked, folder, held_out)
        (folder / "again").mkdir()
        again = family.fit(training, held_out, _TREE, checked, FitContext(folder / "again")).model
        for one, other in zip(_score(model, held_out), _score(again, held_out), strict=True):
            _expect(np.allclose(one, other, atol=1e-5), "training twice with the same seed gives different models")


def _synthesise_examples(seed: int) -> SliceDataset:
    """Synthesise slices whose genre shows in bright rows of images and mel power and the size of other features."""
    rng = np.random.default_rng(seed)
    n_leaves = len(_TREE.leaves)
    n = n_leaves * _GROUPS * _TRACKS * _SLICES
    leaves = np.repeat(np.arange(n_leaves), _GROUPS * _TRACKS * _SLICES)
    tracks = np.arange(n) // _SLICES
    size, frames = _IMAGES.size, mel_16k_frames(_IMAGES)
    images = rng.integers(0, 90, (n, 3, size, size), dtype=np.uint8)
    mel_16k = rng.uniform(0, 0.1, (n, frames, MEL_16K_BANDS)).astype(np.float16)
    for row, leaf in enumerate(leaves):
        images[row, :, leaf * size // n_leaves : (leaf + 1) * size // n_leaves] += np.uint8(150)
        mel_16k[row, :, leaf * MEL_16K_BANDS // n_leaves : (leaf + 1) * MEL_16K_BANDS // n_leaves] += np.float16(1)
    features: dict[str, Array] = {MEL_16K: mel_16k}
    for feature in requested_features(name for name in feature_names() if name != MEL_16K):
        values = rng.uniform(0, 0.1, (n, *feature.shape(_IMAGES)))
        features[feature.name] = (values.T + leaves).T.astype(feature.dtype)
    return SliceDataset(images, np.arange(n), leaves, tracks, tracks // _TRACKS, features)


def _score(model: Model, examples: SliceDataset, rows: Any = slice(None)) -> LevelProbabilities:
    return model.predict_proba(_select_inputs(model, examples, rows))


def _select_inputs(model: Model, examples: SliceDataset, rows: Any) -> Inputs:
    """Select the features that a model declares, as a plain dict, so that using any other fails."""
    inputs = examples.inputs(rows)
    return {name: inputs[name] for name in model.input_features}


def _check_settings(settings_type: type[Settings], settings: Settings) -> None:
    plain = settings.model_dump(mode="json")
    _expect(settings_type.build(plain) == settings, "settings change when written as JSON and read back")
    try:
        settings_type.build({"no_such_setting": 1})
    except SettingsError:
        return
    raise AssertionError("an unknown setting is accepted")


def _check_features(model: Model) -> None:
    names = getattr(model, "input_features", None)
    valid = isinstance(names, tuple) and bool(names) and all(isinstance(name, str) for name in names)
    _expect(valid, f"input_features must be a tuple of names of features, got {names!r}")
    unknown = [name for name in names or () if name not in feature_names()]
    _expect(not unknown, f"input_features names {', '.join(unknown)}, which is not registered; see register_feature")


def _check_probabilities(model: Model, examples: SliceDataset) -> None:
    levels = _score(model, examples)
    shapes = [(len(examples), len(_TREE.nodes(level))) for level in range(_TREE.depth)]
    _expect([level.shape for level in levels] == shapes, f"predict_proba must return arrays of shapes {shapes}")
    for level in levels:
        _expect(bool(np.isfinite(level).all()), "predict_proba returns NaN or infinity")
        _expect(bool((level >= 0).all()), "predict_proba returns negative probabilities")
        _expect(np.allclose(level.sum(axis=1), 1, atol=1e-5), "the probabilities of a level do not sum to 1")
    _expect(model.heads in ("tree", "independent"), f"heads must be 'tree' or 'independent', got {model.heads!r}")
    if model.heads == "tree":
        for level, summed in zip(levels, _TREE.sum_levels(levels[-1]), strict=True):
            message = "heads is 'tree', but a parent's probability is not the sum of its children's"
            _expect(np.allclose(level, summed, atol=1e-5), message)
    empty = _score(model, examples, slice(0))
    _expect(
        [len(level) for level in empty] == [0] * _TREE.depth,
        "predict_proba of no slices must return arrays with no rows",
    )


def _check_batches(model: Model, examples: SliceDataset) -> None:
    whole = _score(model, examples)[-1]
    single = np.concatenate([_score(model, examples, slice(row, row + 1))[-1] for row in range(5)])
    _expect(
        np.allclose(whole[:5], single, atol=1e-5), "a slice's probabilities depend on the other slices of its batch"
    )
    reversed_rows = _score(model, examples, slice(None, None, -1))[-1]
    _expect(
        np.allclose(reversed_rows[::-1], whole, atol=1e-5), "a slice's probabilities depend on the order of the batch"
    )


def _check_learning(model: Model, training: SliceDataset) -> None:
    accuracy = float((_score(model, training)[-1].argmax(axis=1) == training.leaves).mean())
    message = f"training accuracy is {accuracy:.0%}, no better than chance"
    _expect(accuracy > 1.5 / len(_TREE.leaves), message)


def _check_optional(model: Model, examples: SliceDataset) -> None:
    for method in getattr(model, "explain_methods", ()):
        _expect(method in METHODS, f"explain_methods names {method!r}; the methods are: {', '.join(METHODS)}")
    embed: Callable[..., Any] | None = getattr(model, "embed", None)
    if embed is not None:
        vectors = np.asarray(embed(_select_inputs(model, examples, slice(4))))
        _expect(
            vectors.ndim == 2 and len(vectors) == 4, f"embed must return shape (n, n_features), got {vectors.shape}"
        )
        _expect(bool(np.isfinite(vectors).all()), "embed returns NaN or infinity")
    shuffle: Callable[..., Any] | None = getattr(model, "shuffle_weights", None)
    if shuffle is not None:
        shuffled = shuffle(np.random.default_rng(0))
        before = _score(model, examples, slice(9))[-1]
        if shuffled is not None:
            _expect(
                not np.allclose(_score(shuffled, examples, slice(9))[-1], before), "shuffle_weights changes nothing"
            )
            _expect(
                np.array_equal(_score(model, examples, slice(9))[-1], before), "shuffle_weights changes the original"
            )


def _check_saving(family: type[Family], model: Model, settings: Settings, folder: Path, examples: SliceDataset) -> None:
    saved = folder / "model"
    saved.mkdir()
    names = model.save(saved)
    written = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file())
    _expect(
        sorted(names) == written, f"save must return the names of the files it writes: {written}, got {sorted(names)}"
    )
    for name in names:
        pickled = (saved / name).read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        _expect(not pickled, f"{name} is a pickle or a zip of pickles; use safetensors or JSON")
    loaded = family.load(saved, _TREE, settings)
    for one, other in zip(_score(model, examples), _score(loaded, examples), strict=True):
        _expect(np.array_equal(one, other), "the loaded model's predictions differ from the saved model's")
    for name in names:
        damaged = folder / "damaged"
        damaged.mkdir(exist_ok=True)
        for other_name in names:
            (damaged / other_name).parent.mkdir(exist_ok=True)
            content = (saved / other_name).read_bytes()
            (damaged / other_name).write_bytes(content[: len(content) // 2] if other_name == name else content)
        try:
            family.load(damaged, _TREE, settings)
        except BundleError:
            continue
        except Exception as error:
            raise AssertionError(
                f"loading a truncated {name} raises {type(error).__name__}, not BundleError"
            ) from error
        raise AssertionError(f"loading a truncated {name} raises no error")
    _check_bundle(family, model, settings, folder / "bundle", examples)


def _check_bundle(family: type[Family], model: Model, settings: Settings, folder: Path, examples: SliceDataset) -> None:
    from genretree.models import family_names, register_family

    if family.name not in family_names():
        register_family(family)
    save_bundle(
        Bundle(folder=folder, family=family.name, taxonomy=_TREE, images=_IMAGES, settings=settings, model=model)
    )
    _expect((folder / DESCRIPTION).is_file(), "the model can't be saved as a bundle")
    loaded = load_bundle(folder)
    for one, other in zip(_score(model, examples), _score(loaded.model, examples), strict=True):
        _expect(np.array_equal(one, other), "the predictions of the model in a bundle differ from the saved model's")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
