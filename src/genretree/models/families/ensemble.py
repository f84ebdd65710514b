"""Family `ensemble`: a weighted product of several families' probabilities, with cross-validated weights.

Stacking (Wolpert 1992; Breiman 1996, with non-negative weights): every member predicts the training slices in
cross-validation over groups. The members' leaf probabilities are pooled as a weighted product (a logarithmic opinion
pool, Heskes 1998), with the weights that maximise the likelihood of these predictions. As only one weight for each
member is fitted, little data is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.errors import BundleError, SettingsError
from genretree.files import atomic_path
from genretree.models.base import (
    Family,
    FitContext,
    FitResult,
    LevelProbabilities,
    Model,
    OutOfFoldPredictions,
    SliceDataset,
    embed_slices,
    predict_dataset,
    shuffle_weights,
    training_inputs,
)
from genretree.models.finite_weights import require_finite
from genretree.models.linear.logistic import group_folds
from genretree.models.registry import get_family
from genretree.models.runtime.graph import Graph, HasGraphs
from genretree.models.runtime.types import Runner
from genretree.settings import Heads, Settings
from genretree.sound.features import Inputs
from genretree.taxonomy import Taxonomy

_WEIGHTS_FILE = "weights.safetensors"
_MIN_PROBABILITY = 1e-4  # with a probability of 0, one member would overrule all others


class EnsembleSettings(Settings):
    """Settings of the `ensemble` family."""

    members: dict[str, dict[str, Any]] = Field(
        {"musicnn": {}, "boosting": {}}, min_length=1, description="member families with their settings"
    )
    folds: int = Field(5, ge=2, le=20, description="number of cross-validation folds for fitting the weights")
    heads: Heads = Field("tree", description="only tree is supported")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the features that any member needs."""
        needed = [training_inputs(own) for _, _, own in _members(self)]
        return tuple(dict.fromkeys(name for names in needed for name in names))

    @field_validator("members")
    @classmethod
    def _known(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, settings in value.items():
            if name == EnsembleFamily.name:
                raise ValueError("an ensemble can't be a member of an ensemble; list its members instead")
            try:
                get_family(name).settings_type.build(settings)
            except SettingsError as error:
                raise ValueError(f"{name}: {error}") from error
            if settings.get("heads", "tree") != "tree":
                raise ValueError(f"{name}: members must have the tree head; set heads=tree")
        return value

    @field_validator("heads")
    @classmethod
    def _tree(cls, value: Heads) -> Heads:
        if value != "tree":
            raise ValueError(f"an ensemble needs heads=tree, got {value}")
        return value


class EnsembleFamily:
    """Weighted combinations of several families."""

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "weighted combination of several families, with cross-validated weights"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[EnsembleSettings]] = EnsembleSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Train every member on each fold and on all slices, and fit the weights; resumable."""
        ensemble_settings: EnsembleSettings = settings
        members, predictions, metadata = [], [], {}
        for name, family, member_settings in _members(ensemble_settings):
            predictions.append(
                _predict_out_of_fold(name, member_settings, train, validation, taxonomy, ensemble_settings, context)
            )
            fitted = family.fit(train, validation, taxonomy, member_settings, _subcontext(context, name))
            members.append(fitted.model)
            metadata[name] = dict(fitted.metadata)
        weights = fit_member_weights(np.stack(predictions), train.leaves, train.tracks)
        metadata["weights"] = {
            name: round(float(weight), 3) for name, weight in zip(ensemble_settings.members, weights, strict=True)
        }
        out_of_fold = None
        if group_folds(train.leaves, train.groups, ensemble_settings.seed, ensemble_settings.folds):
            out_of_fold = OutOfFoldPredictions(
                taxonomy.sum_levels(combine_members(np.stack(predictions), weights)), train.leaves, train.tracks
            )
        return FitResult(EnsembleModel(members, weights, taxonomy, ensemble_settings), [], metadata, out_of_fold)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load all members."""
        ensemble_settings: EnsembleSettings = settings
        try:
            weights = load_file(folder / _WEIGHTS_FILE)["weights"]
        except (OSError, SafetensorError, KeyError) as error:
            path = folder / _WEIGHTS_FILE
            raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
        if weights.shape != (len(ensemble_settings.members),):
            raise BundleError(
                f"{folder / _WEIGHTS_FILE}: has {len(weights)} weights for {len(ensemble_settings.members)} members; "
                "copy or train the bundle again"
            )
        require_finite(folder / _WEIGHTS_FILE, {"weights": weights})
        members = [family.load(folder / name, taxonomy, own) for name, family, own in _members(ensemble_settings)]
        return EnsembleModel(members, weights, taxonomy, ensemble_settings)


class EnsembleModel:
    """Member models and their weights."""

    def __init__(
        self, members: Sequence[Model], weights: Float64Array, taxonomy: Taxonomy, settings: EnsembleSettings
    ) -> None:
        self.members = list(members)
        self.weights = weights
        self.taxonomy = taxonomy
        self.settings = settings
        self.heads: Heads = "tree"
        names = (name for member in members for name in member.input_features)
        self.input_features = tuple(dict.fromkeys(names))

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the networks of all members."""
        return {
            f"{name}-{own}": graph
            for name, member in self._with_graphs()
            for own, graph in member.graphs(image_size).items()
        }

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the members' networks with another runtime."""
        for name, member in self._with_graphs():
            own = {key.removeprefix(f"{name}-"): run for key, run in runners.items() if key.startswith(f"{name}-")}
            if own:
                member.set_backend(own)

    def _with_graphs(self) -> Iterator[tuple[str, HasGraphs]]:
        for name, member in zip(self.settings.members, self.members, strict=True):
            if isinstance(member, HasGraphs):
                yield name, member

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        leaves = np.stack([member.predict_proba(inputs)[-1] for member in self.members])
        return self.taxonomy.sum_levels(combine_members(leaves, self.weights))

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the embeddings of all members, joined along the last axis: shape (n, width)."""
        return np.concatenate([embed_slices(member, inputs) for member in self.members], axis=1)

    def shuffle_weights(self, rng: np.random.Generator) -> EnsembleModel | None:
        """Copy the model and shuffle the members' weights; None if no member supports this."""
        shuffled = [shuffle_weights(member, rng) for member in self.members]
        if all(member is None for member in shuffled):
            return None
        members = [new or old for new, old in zip(shuffled, self.members, strict=True)]
        return EnsembleModel(members, self.weights, self.taxonomy, self.settings)

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices with each member's `predict_dataset`."""
        leaves = np.stack([predict_dataset(member, dataset)[-1] for member in self.members])
        if tick is not None:
            tick(len(dataset))
        return self.taxonomy.sum_levels(combine_members(leaves, self.weights))

    def save(self, folder: Path) -> list[str]:
        """Write the weights, and each member to its own folder."""
        save_file({"weights": np.ascontiguousarray(self.weights)}, folder / _WEIGHTS_FILE)
        names = [_WEIGHTS_FILE]
        for name, member in zip(self.settings.members, self.members, strict=True):
            (folder / name).mkdir()
            names += [f"{name}/{file}" for file in member.save(folder / name)]
        return names


def combine_members(leaves: Float64Array, weights: Float64Array) -> Float64Array:
    """Combine leaf probabilities, (n_members, n, n_leaves), to (n, n_leaves) as a normalised weighted product."""
    from scipy.special import softmax

    pooled: Float64Array = softmax(np.tensordot(weights, np.log(np.maximum(leaves, _MIN_PROBABILITY)), axes=1), axis=1)
    return pooled


def fit_member_weights(leaves: Float64Array, truth: Int64Array, tracks: Int64Array) -> Float64Array:
    """Fit non-negative weights of the members by maximum likelihood.

    Parameters
    ----------
    leaves : array, shape (members, n, n_leaves)
        Out-of-fold probabilities.
    truth, tracks : array, shape (n,)
        Leaf and track of each slice; every track has the same weight.

    Returns
    -------
    array, shape (members,)
        Weights in [0, 3]. A sum below 1 makes the combination less confident, above 1 more confident.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logs = np.log(np.maximum(leaves, _MIN_PROBABILITY))
    share = 1 / np.bincount(tracks)[tracks]
    share /= share.sum()
    rows = np.arange(len(truth))

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        scores = log_softmax(np.tensordot(weights, logs, axes=1), axis=1)
        expected = (np.exp(scores)[None] * logs).sum(axis=2)
        gradient = -(share * (logs[:, rows, truth] - expected)).sum(axis=1)
        return float(-(share * scores[rows, truth]).sum()), gradient

    start = np.full(len(leaves), 1 / len(leaves))
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 3)] * len(leaves))
    weights: Float64Array = result.x
    return weights if weights.sum() > 0 else start


def _members(settings: EnsembleSettings) -> Iterator[tuple[str, type[Family], Settings]]:
    """Yield each member's name, family and settings; the default of their seed is the ensemble's."""
    for name, own in settings.members.items():
        family = get_family(name)
        yield name, family, family.settings_type.build({"seed": settings.seed, **own})


def _predict_out_of_fold(
    name: str,
    settings: Settings,
    train: SliceDataset,
    validation: SliceDataset | None,
    taxonomy: Taxonomy,
    ensemble_settings: EnsembleSettings,
    context: FitContext,
) -> Float64Array:
    """Predict leaf probabilities of all training slices out of fold, shape (n, n_leaves); folds are cached."""
    width = len(taxonomy.leaves)
    predictions = np.full((len(train), width), 1 / width)
    for number, (train_index, test_index) in enumerate(
        group_folds(train.leaves, train.groups, ensemble_settings.seed, ensemble_settings.folds)
    ):
        path = context.folder / f"{name}-{number}.npy"
        if not path.exists():
            subcontext = _subcontext(context, f"{name}-{number}")
            fitted = get_family(name).fit(train.select(train_index), validation, taxonomy, settings, subcontext)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, predict_dataset(fitted.model, train.select(test_index))[-1])
        predictions[test_index] = np.load(path, allow_pickle=False)
    return predictions


def _subcontext(context: FitContext, name: str) -> FitContext:
    folder = context.folder / name
    folder.mkdir(exist_ok=True)
    return FitContext(folder, context.progress)
