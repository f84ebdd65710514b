"""Contract checks for model families of other packages, like scikit-learn's `check_estimator`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from genretree.arrays import Array
from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.bundle.manifest import DESCRIPTION
from genretree.errors import BundleError, SettingsError
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.methods.registry import METHODS, compute_maps
from genretree.explanation.slices import TrackSlices
from genretree.explanation.target import make_target
from genretree.models.base import Family, FitContext, FitResult, LevelProbabilities, Model, SliceDataset
from genretree.models.differentiable import DifferentiableModel, find_obstacle
from genretree.models.registry import check_attributes, temporary_registration
from genretree.models.runtime.graph import Graph, HasGraphs, run_torch
from genretree.models.runtime.types import Runner
from genretree.settings import MEL_16K_BANDS, ImageSettings, Settings
from genretree.sound.features import IMAGES, MEL_16K, Inputs, feature_names, requested_features
from genretree.sound.mel_16k import mel_16k_frames
from genretree.taxonomy import Taxonomy

_TREE = Taxonomy.from_nested({"Calm": ["Drone", "Bells"], "Busy": {"Beat": ["Slow", "Fast"], "Noise": None}})
_IMAGES = ImageSettings(slice_seconds=2.0, size=32)
_GROUPS, _TRACKS, _SLICES = 4, 2, 3  # groups of each leaf, tracks of each group, slices of each track


def check_family(family: type[Family], settings: Mapping[str, Any] | None = None) -> None:
    """Check that a model family meets the contract that genretree relies on.

    Trains the family on a small synthetic data set, saves and loads the model, and runs the optional members that it
    has. The family is registered only during the check.

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
        If an attribute is missing or of the wrong type, or another family has this name.

    Examples
    --------
    >>> from genretree.models.families.boosting.family import BoostingFamily
    >>> check_family(BoostingFamily, {"components": 8, "epochs": 5, "image_size": 32, "min_samples_leaf": 2})
    """
    check_attributes(family)
    with temporary_registration(family):
        _check_registered(family, settings)


def _check_registered(family: type[Family], settings: Mapping[str, Any] | None) -> None:
    _expect(bool(family.summary), "summary is empty")
    checked = family.settings_type.build(settings)
    _check_settings(family.settings_type, checked)
    training, held_out = _synthesise_examples(0), _synthesise_examples(1)
    with tempfile.TemporaryDirectory(prefix="genretree-check-") as work:
        folder = Path(work)
        model = _fit(family, training, held_out, checked, folder / "fit")
        _check_features(model)
        _check_probabilities(model, held_out)
        _check_batches(model, held_out)
        _check_learning(model, training)
        _check_optional(model, held_out)
        _check_saving(family, model, checked, folder, held_out)
        again = _fit(family, training, held_out, checked, folder / "again")
        for one, other in zip(_score(model, held_out), _score(again, held_out), strict=True):
            _expect(np.allclose(one, other, atol=1e-5), "training twice with the same seed gives different models")


def _fit(
    family: type[Family], training: SliceDataset, held_out: SliceDataset, settings: Settings, folder: Path
) -> Model:
    folder.mkdir()
    fitted = _call("fit", family.fit, training, held_out, _TREE, settings, FitContext(folder))
    _expect(isinstance(fitted, FitResult), f"fit must return a FitResult, got {type(fitted).__name__}")
    rows = fitted.history
    valid = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    _expect(valid, f"the history of a FitResult must be a list of dicts, which may be empty, got {rows!r}")
    _expect(
        isinstance(fitted.metadata, Mapping), f"the metadata of a FitResult must be a dict, got {fitted.metadata!r}"
    )
    for name, value in (("history", rows), ("metadata", dict(fitted.metadata))):
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise AssertionError(
                f"the {name} of a FitResult can't be written as JSON: {error}; use float(), int() or .tolist()"
            ) from error
    for one, other in ((training, _synthesise_examples(0)), (held_out, _synthesise_examples(1))):
        kept = {name: np.array_equal(one.features[name], values) for name, values in other.features.items()}
        changed = [
            name for name, equal in {**kept, IMAGES: np.array_equal(one.images, other.images)}.items() if not equal
        ]
        _expect(not changed, f"fit overwrites {', '.join(changed)} of its data set; work on a copy")
    _check_model("fit must return a FitResult whose model", fitted.model)
    model: Model = fitted.model
    return model


def _load(family: type[Family], folder: Path, settings: Settings) -> Model:
    loaded: Model = _call("load, of the files that save has written,", family.load, folder, _TREE, settings)
    _check_model("load must return a model that", loaded)
    return loaded


def _check_model(what: str, model: Any) -> None:
    missing = [name for name in ("heads", "input_features", "predict_proba", "save") if not hasattr(model, name)]
    _expect(not missing, f"{what} has {', '.join(missing)}, got {type(model).__name__}")


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
    return _check_levels(_call("predict_proba", model.predict_proba, _select_inputs(model, examples, rows)))


def _check_levels(levels: Any, name: str = "predict_proba") -> LevelProbabilities:
    must = f"{name} must return a list of arrays, one for each level"
    _expect(isinstance(levels, list | tuple), f"{must}, got {type(levels).__name__}")
    for level in levels:
        _expect(isinstance(level, np.ndarray), f"{must}, got a list of {type(level).__name__}")
        _expect(level.dtype.kind == "f", f"{must}, of floats, got {level.dtype}")
    return list(levels)


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
    inputs = _select_inputs(model, examples, slice(None))
    before = {name: values.copy() for name, values in inputs.items()}
    levels = _check_levels(_call("predict_proba", model.predict_proba, inputs))
    _check_unchanged("predict_proba", inputs, before)
    shapes = [(len(examples), len(_TREE.nodes(level))) for level in range(_TREE.depth)]
    found = [level.shape for level in levels]
    _expect(found == shapes, f"predict_proba must return arrays of shapes {shapes}, got {found}")
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


def _check_unchanged(name: str, inputs: Inputs, before: Inputs) -> None:
    changed = [feature for feature, values in before.items() if not np.array_equal(inputs[feature], values)]
    _expect(not changed, f"{name} overwrites its inputs ({', '.join(changed)}); work on a copy")


def _check_optional(model: Model, examples: SliceDataset) -> None:
    embed: Callable[..., Any] | None = getattr(model, "embed", None)
    if embed is not None:
        inputs = _select_inputs(model, examples, slice(4))
        before = {name: values.copy() for name, values in inputs.items()}
        vectors = _call("embed", embed, inputs)
        _check_unchanged("embed", inputs, before)
        is_numeric = isinstance(vectors, np.ndarray) and vectors.dtype.kind in "fiu"
        _expect(is_numeric, f"embed must return an array of floats, got {type(vectors).__name__}")
        _expect(
            vectors.ndim == 2 and len(vectors) == 4, f"embed must return shape (n, n_features), got {vectors.shape}"
        )
        _expect(bool(np.isfinite(vectors).all()), "embed returns NaN or infinity")
    torch_module: Callable[..., Any] | None = getattr(model, "torch_module", None)
    if torch_module is not None:
        from torch import nn

        module = _call("torch_module", torch_module)
        is_module = isinstance(module, nn.Module)
        _expect(is_module, f"torch_module must return a torch.nn.Module, got {type(module).__name__}")
    _check_graphs(model)
    own: Callable[..., Any] | None = getattr(model, "predict_dataset", None)
    if own is not None:
        levels = _check_levels(_call("predict_dataset", own, examples, None), "predict_dataset")
        for one, other in zip(_score(model, examples), levels, strict=True):
            _expect(
                one.shape == other.shape and np.allclose(one, other, atol=1e-4),
                "predict_dataset and predict_proba give different probabilities",
            )
    shuffle: Callable[..., Any] | None = getattr(model, "shuffle_weights", None)
    if shuffle is not None:
        shuffled = _call("shuffle_weights", shuffle, np.random.default_rng(0))
        unshuffled = _score(model, examples, slice(9))[-1]
        if shuffled is not None:
            _expect(
                not np.allclose(_score(shuffled, examples, slice(9))[-1], unshuffled), "shuffle_weights changes nothing"
            )
            _expect(
                np.array_equal(_score(model, examples, slice(9))[-1], unshuffled),
                "shuffle_weights changes the original",
            )


def _check_saving(family: type[Family], model: Model, settings: Settings, folder: Path, examples: SliceDataset) -> None:
    saved = folder / "model"
    saved.mkdir()
    names = _call("save", model.save, saved)
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _expect(valid, f"save must return a list of the names of its files, got {names!r}")
    written = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file())
    _expect(
        sorted(names) == written, f"save must return the names of the files it writes: {written}, got {sorted(names)}"
    )
    for name in names:
        pickled = (saved / name).read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        _expect(not pickled, f"{name} is a pickle or a zip of pickles; use safetensors or JSON")
    loaded = _load(family, saved, settings)
    for one, other in zip(_score(model, examples), _score(loaded, examples), strict=True):
        # Not exactly: training may use other kernels, whose rounding differs.
        message = "the loaded model's predictions differ from the saved model's"
        _expect(one.shape == other.shape and np.allclose(one, other, atol=1e-3), message)
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
    _check_bundle(family, loaded, settings, folder / "bundle", examples)
    _check_backend(loaded, examples)


def _check_graphs(model: Model) -> dict[str, Graph]:
    members = [name for name in ("graphs", "set_backend") if hasattr(model, name)]
    if not members:
        return {}
    _expect(isinstance(model, HasGraphs), f"{members[0]} needs graphs and set_backend, both; define the other one, too")
    graphs = _call("graphs", model.graphs, _IMAGES.size)  # type: ignore[attr-defined]
    valid = isinstance(graphs, dict) and all(isinstance(graph, Graph) for graph in graphs.values())
    _expect(valid, f"graphs must return a dict of names and genretree.models.runtime.graph.Graph, got {graphs!r}")
    return dict(graphs)


def _check_backend(model: Model, examples: SliceDataset) -> None:
    """Check `graphs` and `set_backend` of a loaded model, which keeps the backend afterwards."""
    graphs = _check_graphs(model)
    if not graphs:
        return
    calls: list[str] = []

    def record(name: str, run: Runner) -> Runner:
        def recorded(batch: Array) -> tuple[Array, ...]:
            calls.append(name)
            return run(batch)

        return recorded

    before = _score(model, examples)
    runners = {name: record(name, run_torch(graph, bf16=False)) for name, graph in graphs.items()}
    _call("set_backend", model.set_backend, runners)  # type: ignore[attr-defined]
    for one, other in zip(before, _score(model, examples), strict=True):
        _expect(
            np.allclose(one, other, atol=1e-4), "predict_proba changes when set_backend gets the networks of graphs"
        )
    unused = [name for name in graphs if name not in calls]
    _expect(not unused, f"predict_proba does not call {', '.join(unused)}, which set_backend got")
    _check_explanations(model, examples)  # torch computes gradients whatever the backend


def _check_explanations(model: Model, examples: SliceDataset) -> None:
    """Run the methods that a model declares on a slice, and compare `log_probabilities` with `predict_proba`."""
    declared = getattr(model, "explain_methods", ())
    valid = isinstance(declared, tuple) and all(isinstance(name, str) for name in declared)
    _expect(valid, f"explain_methods must be a tuple of names, got {declared!r}")
    for method in declared:
        _expect(method in METHODS, f"explain_methods names {method!r}; the methods are: {', '.join(METHODS)}")
    methods = [name for name in METHODS if name in declared and name != "occlusion"]
    for method in methods:
        obstacle = _call(f"a check of {method}", find_obstacle, model, method)
        remedy = "see genretree.models.differentiable.DifferentiableModel, or remove the name"
        _expect(obstacle is None, f"explain_methods names {method!r}, but {obstacle}; {remedy}")
    if not methods:
        return
    import torch

    from genretree.explanation.methods.gradients import as_tensors

    own = TrackSlices("synthetic", examples.images[:2], {}, np.arange(2.0), _IMAGES.slice_seconds)
    differentiable = cast(DifferentiableModel, model)
    images, constants = _call("constant_features", as_tensors, differentiable, own)
    arguments = [images] if constants is None else [images, constants]
    levels = _call("log_probabilities", differentiable.log_probabilities, *arguments)
    valid = isinstance(levels, list | tuple) and all(isinstance(level, torch.Tensor) for level in levels)
    _expect(valid, "log_probabilities must return a list of tensors, one for each level")
    expected = _score(model, examples, slice(2))
    shapes = [level.shape for level in expected]
    found = [tuple(level.shape) for level in levels]
    _expect(found == shapes, f"log_probabilities must return tensors of shapes {shapes}, got {found}")
    for level, probabilities in zip(levels, expected, strict=True):
        _expect(
            np.allclose(level.detach().exp().numpy(), probabilities, atol=1e-3),
            "log_probabilities differ from the logarithms of predict_proba; is the network in evaluation mode?",
        )
    bundle = Bundle(folder=Path(), family="", taxonomy=_TREE, images=_IMAGES, settings=Settings(), model=model)
    for method in methods:
        if method != "rollout" and find_spec("captum") is None:
            continue
        maps = _call(
            f"an explanation by {method}",
            compute_maps,
            bundle,
            own,
            compute_baseline(own),
            [make_target(_TREE, 0, 0)],
            (),
            method,
        )
        finite = all(bool(np.isfinite(values).all()) for values in maps.values())
        _expect(finite, f"an explanation by {method} contains NaN or infinity")


def _check_bundle(family: type[Family], model: Model, settings: Settings, folder: Path, examples: SliceDataset) -> None:
    bundle = Bundle(folder=folder, family=family.name, taxonomy=_TREE, images=_IMAGES, settings=settings, model=model)
    _call("saving a bundle", save_bundle, bundle)
    _expect((folder / DESCRIPTION).is_file(), "the model can't be saved as a bundle")
    loaded = _call("loading a bundle", load_bundle, folder)
    for one, other in zip(_score(model, examples), _score(loaded.model, examples), strict=True):
        _expect(np.array_equal(one, other), "the predictions of the model in a bundle differ from the saved model's")
    _check_explanations(loaded.model, examples)


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a member of the family or its model; whatever it raises fails the check under the name of the member."""
    try:
        return function(*arguments)
    except Exception as error:  # a family may raise anything
        key = error.args[0] if isinstance(error, KeyError) and error.args else None
        hint = f"; declare {key!r} in input_features" if key in feature_names() else ""
        raise AssertionError(f"{name} raised {type(error).__name__}: {error}{hint}") from error


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
