"""Family `ensemble`: several families together, weighed by how right each is on groups it did not learn from.

Stacking (Wolpert 1992; Breiman 1996, with weights that can't be negative): every member predicts each part of the
training slices after learning from the others, no group on both sides. The members' leaf probabilities are then pooled
as a weighted product (a logarithmic opinion pool, Heskes 1998), with the weights that make those predictions likeliest.
A weight for each member is all that is learned here, so that little data is enough.
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
_LEAST = 1e-4  # a probability of 0 would let one member overrule all others


class EnsembleSettings(Settings):
    """Settings of the `ensemble` family."""

    members: dict[str, dict[str, Any]] = Field(
        {"musicnn": {}, "boosting": {}}, min_length=1, description="families, each with its settings"
    )
    folds: int = Field(5, ge=2, le=20, description="parts of the training slices for the weighing")
    heads: Heads = Field("tree", description="tree only")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the inputs that any member needs."""
        needed = [training_inputs(own) for _, _, own in _members(self)]
        return tuple(dict.fromkeys(name for names in needed for name in names))

    @field_validator("members")
    @classmethod
    def _known(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, settings in value.items():
            if name == EnsembleFamily.name:
                raise ValueError("an ensemble can't be a member of another")
            try:
                get_family(name).settings_type.build(settings)
            except SettingsError as error:
                raise ValueError(f"{name}: {error}") from error
            if settings.get("heads", "tree") != "tree":
                raise ValueError(f"{name}: members have the tree head")
        return value

    @field_validator("heads")
    @classmethod
    def _tree(cls, value: Heads) -> Heads:
        if value != "tree":
            raise ValueError("an ensemble has the tree head")
        return value


class EnsembleFamily:
    """Several families, weighed."""

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "several families, weighed by how right they are on unseen groups"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[EnsembleSettings]] = EnsembleSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Train every member once for each fold and once on all, and weigh them; goes on where it stopped."""
        chosen: EnsembleSettings = settings
        members, found, facts = [], [], {}
        for name, family, member_settings in _members(chosen):
            found.append(_predict_unseen(name, member_settings, train, validation, taxonomy, chosen, context))
            fitted = family.fit(train, validation, taxonomy, member_settings, _inside(context, name))
            members.append(fitted.model)
            facts[name] = dict(fitted.facts)
        weights = fit_member_weights(np.stack(found), train.leaves, train.tracks)
        facts["weights"] = {name: round(float(weight), 3) for name, weight in zip(chosen.members, weights, strict=True)}
        held = None
        if group_folds(train.leaves, train.groups, chosen.seed, chosen.folds):
            held = OutOfFoldPredictions(
                taxonomy.sum_levels(combine_members(np.stack(found), weights)), train.leaves, train.tracks
            )
        return FitResult(EnsembleModel(members, weights, taxonomy, chosen), [], facts, held)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Read all members."""
        chosen: EnsembleSettings = settings
        try:
            weights = load_file(folder / _WEIGHTS_FILE)["weights"]
        except (OSError, SafetensorError, KeyError) as error:
            path = folder / _WEIGHTS_FILE
            raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
        if weights.shape != (len(chosen.members),):
            raise BundleError(f"{folder / _WEIGHTS_FILE}: {len(weights)} weights for {len(chosen.members)} members")
        require_finite(folder / _WEIGHTS_FILE, {"weights": weights})
        members = [family.load(folder / name, taxonomy, own) for name, family, own in _members(chosen)]
        return EnsembleModel(members, weights, taxonomy, chosen)


class EnsembleModel:
    """Members and their weights behind the contract of every family."""

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
        """Give the networks of all members that have some."""
        return {
            f"{name}-{own}": graph
            for name, member in self._with_graphs()
            for own, graph in member.graphs(image_size).items()
        }

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Hand each member its own."""
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
        """Compute the features of all members, side by side: shape (n, width)."""
        return np.concatenate([embed_slices(member, inputs) for member in self.members], axis=1)

    def shuffle_weights(self, rng: np.random.Generator) -> EnsembleModel | None:
        """Copy the model with the weights of its members shuffled; None if no member has any."""
        shuffled = [shuffle_weights(member, rng) for member in self.members]
        if all(member is None for member in shuffled):
            return None
        members = [new or old for new, old in zip(shuffled, self.members, strict=True)]
        return EnsembleModel(members, self.weights, self.taxonomy, self.settings)

    def predict_dataset(self, examples: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Score stored slices, each member in its own way."""
        leaves = np.stack([predict_dataset(member, examples)[-1] for member in self.members])
        if tick is not None:
            tick(len(examples))
        return self.taxonomy.sum_levels(combine_members(leaves, self.weights))

    def save(self, folder: Path) -> list[str]:
        """Write the weights, and each member into a folder of its own."""
        save_file({"weights": np.ascontiguousarray(self.weights)}, folder / _WEIGHTS_FILE)
        names = [_WEIGHTS_FILE]
        for name, member in zip(self.settings.members, self.members, strict=True):
            (folder / name).mkdir()
            names += [f"{name}/{file}" for file in member.save(folder / name)]
        return names


def combine_members(leaves: Float64Array, weights: Float64Array) -> Float64Array:
    """Pool members' leaf probabilities, (members, n, n_leaves), into (n, n_leaves): a weighted product, normalised."""
    from scipy.special import softmax

    pooled: Float64Array = softmax(np.tensordot(weights, np.log(np.maximum(leaves, _LEAST)), axes=1), axis=1)
    return pooled


def fit_member_weights(leaves: Float64Array, truth: Int64Array, tracks: Int64Array) -> Float64Array:
    """Find the members' weights, none negative, that make the true leaves likeliest.

    Parameters
    ----------
    leaves : array, shape (members, n, n_leaves)
        Probabilities for slices that the members did not learn from.
    truth, tracks : array, shape (n,)
        Leaf and track of each slice; every track counts the same.

    Returns
    -------
    array, shape (members,)
        They need not sum to 1: less than that makes the pool less sure, more makes it surer.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logs = np.log(np.maximum(leaves, _LEAST))
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
    """Yield each member's name, family and settings; the ensemble's seed is theirs, unless they have their own."""
    for name, own in settings.members.items():
        family = get_family(name)
        yield name, family, family.settings_type.build({"seed": settings.seed, **own})


def _predict_unseen(
    name: str,
    settings: Settings,
    train: SliceDataset,
    validation: SliceDataset | None,
    taxonomy: Taxonomy,
    chosen: EnsembleSettings,
    context: FitContext,
) -> Float64Array:
    """Leaf probabilities of every training slice from a member that saw nothing of its group."""
    width = len(taxonomy.leaves)
    found = np.full((len(train), width), 1 / width)
    for number, (learn, check) in enumerate(group_folds(train.leaves, train.groups, chosen.seed, chosen.folds)):
        path = context.folder / f"{name}-{number}.npy"
        if not path.exists():
            inside = _inside(context, f"{name}-{number}")
            fitted = get_family(name).fit(train.select(learn), validation, taxonomy, settings, inside)
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, predict_dataset(fitted.model, train.select(check))[-1])
        found[check] = np.load(path, allow_pickle=False)
    return found


def _inside(context: FitContext, name: str) -> FitContext:
    folder = context.folder / name
    folder.mkdir(exist_ok=True)
    return FitContext(folder, context.progress)
