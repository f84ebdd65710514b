"""Family `boosting`: standardised images, their principal components, histogram gradient boosting.

Images at 128x128, laid end to end, are projected on their components; a classifier of the leaves or one for each level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.errors import BundleError, TrainingError
from genretree.files import atomic_path
from genretree.models.base import (
    FitContext,
    FitResult,
    LevelProbabilities,
    SliceDataset,
    check_inputs,
    write_history,
)
from genretree.models.families.boosting.checked_trees import CheckedTrees
from genretree.models.families.boosting.feature_extractor import FeatureExtractor
from genretree.models.families.boosting.settings import BoostingSettings
from genretree.models.families.boosting.tree_files import (
    draft_file,
    fit_classifier,
    load_trees,
    read_draft,
    record_history,
    trees_file,
)
from genretree.models.features.incremental_pca import fit_incremental
from genretree.models.features.pca import StreamingPCA
from genretree.models.finite_weights import require_finite
from genretree.models.neural.settings import Pixels
from genretree.models.pretrained.musicnn_features import load_network
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner
from genretree.progress import progress_bar
from genretree.settings import MODALITIES, Heads
from genretree.sound.features import IMAGES, Inputs
from genretree.sound.luminance import magma_luminance
from genretree.taxonomy import Taxonomy

PROJECTION_FILE = "projection.safetensors"
_REDUCED_FILE = "reduced.bytes"
_WHITE = np.float32(255)  # the projection is of pixels from 0 to 1


class BoostingFamily:
    """PCA and gradient boosting. With the recipe `boosting-published` it is the study's pipeline."""

    name: ClassVar[str] = "boosting"
    summary: ClassVar[str] = "principal components of the images and histogram gradient boosting"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[BoostingSettings]] = BoostingSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Fit the projection, then the classifiers; held-out slices decide how many trees are grown."""
        chosen: BoostingSettings = settings
        if len(train) < 3:
            raise TrainingError(f"{len(train)} slices to train on; the principal components need at least 3")
        seeing, features, facts = _fit_features(train, chosen, context)
        parts = {"train": (features, train.leaves)}
        if validation is not None:
            parts["validation"] = seeing.transform_dataset(validation, context.progress), validation.leaves
        classifiers = []
        targets = _targets(taxonomy, chosen.heads)
        with progress_bar(len(targets) * chosen.epochs, "boost (at most)", "iteration", context.progress) as tick:
            for number, nodes in enumerate(targets):
                draft = context.folder / draft_file(number)
                begun = read_draft(draft, nodes)
                tick(getattr(begun, "n_iter_", 0))
                held = None if validation is None else (parts["validation"][0], nodes[validation.leaves])
                classifiers.append(fit_classifier(features, nodes[train.leaves], held, chosen, begun, draft, tick))
        trees = [CheckedTrees.from_classifier(classifier) for classifier in classifiers]
        model = BoostingModel(seeing, trees, taxonomy, chosen)
        facts["iterations"] = [int(classifier.n_iter_) for classifier in classifiers]
        history = record_history(classifiers, parts, taxonomy, chosen)
        write_history(context.folder / "history.csv", history)
        return FitResult(model, history, facts)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> BoostingModel:
        """Read a fitted model; every index in its trees is checked."""
        chosen: BoostingSettings = settings
        seeing = _FeaturePipeline.load(folder, chosen)
        targets = _targets(taxonomy, chosen.heads)
        trees = [load_trees(folder, number, target, seeing.width) for number, target in enumerate(targets)]
        return BoostingModel(seeing, trees, taxonomy, chosen)


class BoostingModel:
    """Features and classifiers behind the contract of every family."""

    def __init__(
        self, seeing: _FeaturePipeline, classifiers: list[CheckedTrees], taxonomy: Taxonomy, settings: BoostingSettings
    ) -> None:
        self.seeing = seeing
        self.input_features = seeing.describer.input_features
        self.classifiers = classifiers
        self.taxonomy = taxonomy
        self.settings = settings
        self.heads = settings.heads

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Give the MusiCNN networks, if the trees see what they hear."""
        return self.seeing.describer.graphs()

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Let another runtime hear."""
        self.seeing.describer.set_backend(runners)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Give the probabilities of every node: a list of (n, n_nodes) float64 arrays by level."""
        check_inputs(self, inputs)
        if len(inputs[IMAGES]) == 0:
            return [np.zeros((0, len(self.taxonomy.nodes(level)))) for level in range(self.taxonomy.depth)]
        return self._classify(self.seeing.see(inputs))

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the features that the trees see: shape (n, width)."""
        return self.seeing.see(inputs)

    def predict_dataset(self, examples: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Score stored slices; what was heard before is not heard again."""
        found = self._classify(self.seeing.transform_dataset(examples))
        if tick is not None:
            tick(len(examples))
        return found

    def _classify(self, features: Float32Array) -> LevelProbabilities:
        widths = [len(self.taxonomy.nodes(level)) for level in range(self.taxonomy.depth)]
        if self.heads == "tree":
            return self.taxonomy.sum_levels(_spread(self.classifiers[0], features, widths[-1]))
        remaining = iter(self.classifiers)
        return [
            _spread(next(remaining), features, width) if width > 1 else np.ones((len(features), 1)) for width in widths
        ]

    def save(self, folder: Path) -> list[str]:
        """Write what the features need and the trees of each classifier, all as safetensors."""
        names = [trees_file(i) for i in range(len(self.classifiers))]
        for name, classifier in zip(names, self.classifiers, strict=True):
            classifier.save(folder / name)
        return [*self.seeing.save(folder), *names]


# -- features ------------------------------------------------------------------------------------------------


class _FeaturePipeline:
    """All that the trees see of a slice: components, then statistics and layers."""

    def __init__(
        self,
        projection: tuple[Float32Array, Float32Array] | None,
        describer: FeatureExtractor,
        settings: BoostingSettings,
    ) -> None:
        self.projection = projection
        self.describer = describer
        self.settings = settings

    @property
    def width(self) -> int | None:
        """The number of features, if it is known without any images."""
        if self.projection is None or len(self.settings.features) > 1:
            return None
        return len(self.projection[1])

    def see(self, inputs: Inputs) -> Float32Array:
        """Give the features of slices, shape (n, width)."""
        size, images = self.settings.batch_size, inputs[IMAGES]
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return self._join(parts, self.describer.describe(inputs))

    def transform_dataset(self, examples: SliceDataset, progress: bool = False) -> Float32Array:
        """Give the features of stored slices, shape (n, width)."""
        described = self.describer.extract_dataset(examples, progress)
        return self._join(examples.batches(self.settings.batch_size), described)

    def _join(self, batches: Iterable[UInt8Array], described: Sequence[Float32Array]) -> Float32Array:
        found = list(described)
        if self.projection is not None:
            found.insert(0, np.concatenate([_project(part, *self.projection, self.settings) for part in batches]))
        return np.concatenate(found, axis=1)

    def save(self, folder: Path) -> list[str]:
        """Write what there is."""
        names = self.describer.save(folder)
        if self.projection is not None:
            weights, offset = self.projection
            save_file({"weights": weights, "offset": offset}, folder / PROJECTION_FILE)
            names.append(PROJECTION_FILE)
        return names

    @classmethod
    def load(cls, folder: Path, settings: BoostingSettings) -> Self:
        """Read what `save` wrote."""
        projection = _read_projection(folder / PROJECTION_FILE, settings) if "components" in settings.features else None
        try:
            describer = FeatureExtractor.load(folder, settings.features, settings.networks)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BundleError(f"{folder}: can't be read ({error}); copy or train the bundle again") from error
        return cls(projection, describer, settings)


def _read_projection(path: Path, settings: BoostingSettings) -> tuple[Float32Array, Float32Array]:
    try:
        arrays = load_file(path)
        weights, offset = arrays["weights"], arrays["offset"]
        pixels = len(settings.modalities) * settings.image_size**2
        if offset.ndim != 1 or weights.shape != (pixels, len(offset)):
            raise ValueError(f"a projection of shape {weights.shape} doesn't fit {pixels} pixels")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
    require_finite(path, arrays)
    return weights, offset


def _fit_features(
    train: SliceDataset, settings: BoostingSettings, context: FitContext
) -> tuple[_FeaturePipeline, Float32Array, dict[str, Any]]:
    """Fit what is to be fitted; gives the training slices' features too."""
    facts: dict[str, Any] = {}
    projection = None
    if "components" in settings.features:
        weights, offset, explained = _fit_or_read_projection(train, settings, context)
        projection = weights, offset
        facts = {"components": int(weights.shape[1]), "explained_variance": round(float(explained), 4)}
    wanted = settings.networks if "musicnn" in settings.features else ()
    describer = FeatureExtractor(settings.features, {name: load_network(name, settings.weights) for name in wanted})
    seeing = _FeaturePipeline(projection, describer, settings)
    return seeing, seeing.transform_dataset(train, context.progress), facts


def reduce_images(
    images: UInt8Array, modalities: tuple[str, ...], size: int, pixels: Pixels = "decibels"
) -> UInt8Array:
    """Lay the chosen images, averaged down, end to end: shape (n, modalities * size * size), grey levels 0 to 255."""
    import torch
    from torch.nn import functional

    chosen = images[:, [MODALITIES.index(name) for name in modalities]]
    if pixels == "luminance":
        chosen = magma_luminance()[chosen]
    if chosen.shape[-1] == size:
        return np.ascontiguousarray(chosen).reshape(len(images), -1)
    smaller = functional.interpolate(torch.from_numpy(chosen).float(), size=(size, size), mode="area")
    reduced: UInt8Array = smaller.round_().byte().reshape(len(images), -1).numpy()
    return reduced


def _fit_or_read_projection(
    train: SliceDataset, settings: BoostingSettings, context: FitContext
) -> tuple[Float32Array, Float32Array, float]:
    """Take the projection that an interrupted run left, or fit it and leave it there."""
    path = context.folder / PROJECTION_FILE
    if path.exists():
        arrays = load_file(path)
        return arrays["weights"], arrays["offset"], float(arrays["explained"])
    weights, offset, explained = _fit_projection(train, settings, context)
    with atomic_path(path) as temporary:
        save_file({"weights": weights, "offset": offset, "explained": np.array(explained)}, temporary)
    return weights, offset, explained


def _fit_projection(
    train: SliceDataset, settings: BoostingSettings, context: FitContext
) -> tuple[Float32Array, Float32Array, float]:
    """Fit standardisation and principal components; both become one matrix and one offset, for pixels of 0 to 1."""
    rows = _reduce_all(train, settings, context)
    if settings.pca == "incremental":
        with progress_bar(2 * len(rows), "components", "slice", context.progress) as tick:
            weights, offset, explained = fit_incremental(rows, settings.components, settings.batch_size, tick)
        (context.folder / _REDUCED_FILE).unlink()
        return weights, offset, explained
    pca = StreamingPCA(settings.components, batch_size=settings.batch_size, random_state=settings.seed)
    with progress_bar(pca.n_batches(*rows.shape), "components", "batch", context.progress) as tick:
        pca.set_params(on_batch=tick).fit(rows)
    (context.folder / _REDUCED_FILE).unlink()
    weights, offset = pca.affine()
    return weights * _WHITE, offset, float(pca.explained_variance_ratio_.sum())


def _reduce_all(train: SliceDataset, settings: BoostingSettings, context: FitContext) -> UInt8Array:
    """Average all training slices down into a file, as they are gone through several times; a byte a pixel."""
    path = context.folder / _REDUCED_FILE
    with (
        path.open("wb") as stream,
        progress_bar(len(train), "reduce", "slice", context.progress) as tick,
    ):
        for images in train.batches(settings.batch_size):
            reduce_images(images, settings.modalities, settings.image_size, settings.pixels).tofile(stream)
            tick(len(images))
    return np.memmap(path, mode="r", shape=(len(train), len(settings.modalities) * settings.image_size**2))


def _project(
    images: UInt8Array, weights: Float32Array, offset: Float32Array, settings: BoostingSettings
) -> Float32Array:
    pixels = reduce_images(images, settings.modalities, settings.image_size, settings.pixels).astype(np.float32)
    pixels /= _WHITE
    projected: Float32Array = pixels @ weights + offset
    return projected


# -- classifiers ---------------------------------------------------------------------------------------------


def _targets(taxonomy: Taxonomy, heads: Heads) -> list[Int64Array]:
    """What each classifier learns, as a look-up by leaf."""
    if heads == "tree":
        return [np.arange(len(taxonomy.leaves))]
    levels = range(taxonomy.depth)
    return [taxonomy.ancestors[:, level] for level in levels if len(taxonomy.nodes(level)) > 1]


def _spread(classifier: CheckedTrees, features: Float32Array, width: int) -> Float64Array:
    """Put a classifier's probabilities at its classes' places; classes it never saw get zero."""
    probabilities = np.zeros((len(features), width))
    probabilities[:, classifier.classes_] = classifier.predict_proba(features)
    return probabilities
