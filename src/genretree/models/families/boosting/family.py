"""Family `boosting`: histogram gradient boosting on principal components of the images.

The images are downsampled, by default to 128x128 pixels, flattened and projected on principal components. There is one
classifier of the leaves, or one for each level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
from genretree.models.finite_weights import require_finite
from genretree.models.neural.settings import Pixels
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner
from genretree.progress import progress_bar
from genretree.settings import MODALITIES, Heads
from genretree.sound.features import IMAGES, Inputs
from genretree.sound.luminance import magma_luminance
from genretree.taxonomy import Taxonomy

if TYPE_CHECKING:
    from genretree.models.pretrained.musicnn import Musicnn
    from genretree.models.pretrained.names import MusicnnName

PROJECTION_FILE = "projection.safetensors"
_REDUCED_FILE = "reduced.bytes"
_WHITE = np.float32(255)  # the projection takes pixels in [0, 1]


class BoostingFamily:
    """PCA and gradient boosting; the recipe `boosting-published` is the study's pipeline."""

    name: ClassVar[str] = "boosting"
    summary: ClassVar[str] = "histogram gradient boosting on principal components of the images"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[BoostingSettings]] = BoostingSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Fit the projection, then the classifiers, with early stopping on held-out slices."""
        boosting_settings: BoostingSettings = settings
        if len(train) < 3:
            raise TrainingError(
                f"the training part has {len(train)} slices, but the principal components need at least 3; add tracks"
            )
        pipeline, features, metadata = _fit_features(train, boosting_settings, context)
        parts = {"train": (features, train.leaves)}
        if validation is not None:
            parts["validation"] = pipeline.transform_dataset(validation, context.progress), validation.leaves
        classifiers = []
        targets = _targets(taxonomy, boosting_settings.heads)
        with progress_bar(
            len(targets) * boosting_settings.epochs, "boost (at most)", "iteration", context.progress
        ) as tick:
            for number, nodes in enumerate(targets):
                draft = context.folder / draft_file(number)
                started = read_draft(draft, nodes)
                tick(getattr(started, "n_iter_", 0))
                validation_data = None if validation is None else (parts["validation"][0], nodes[validation.leaves])
                classifiers.append(
                    fit_classifier(
                        features, nodes[train.leaves], validation_data, boosting_settings, started, draft, tick
                    )
                )
        trees = [CheckedTrees.from_classifier(classifier) for classifier in classifiers]
        model = BoostingModel(pipeline, trees, taxonomy, boosting_settings)
        metadata["iterations"] = [int(classifier.n_iter_) for classifier in classifiers]
        history = record_history(classifiers, parts, taxonomy, boosting_settings)
        write_history(context.folder / "history.csv", history)
        return FitResult(model, history, metadata)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> BoostingModel:
        """Load a fitted model; every index in its trees is checked."""
        boosting_settings: BoostingSettings = settings
        pipeline = _FeaturePipeline.load(folder, boosting_settings)
        targets = _targets(taxonomy, boosting_settings.heads)
        trees = [load_trees(folder, number, target, pipeline.width) for number, target in enumerate(targets)]
        return BoostingModel(pipeline, trees, taxonomy, boosting_settings)


class BoostingModel:
    """Feature pipeline and gradient boosting classifiers."""

    def __init__(
        self,
        pipeline: _FeaturePipeline,
        classifiers: list[CheckedTrees],
        taxonomy: Taxonomy,
        settings: BoostingSettings,
    ) -> None:
        self.pipeline = pipeline
        self.input_features = pipeline.extractor.input_features
        self.classifiers = classifiers
        self.taxonomy = taxonomy
        self.settings = settings
        self.heads = settings.heads

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the MusiCNN networks, if the feature `musicnn` is used."""
        return self.pipeline.extractor.graphs()

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the MusiCNN networks with another runtime."""
        self.pipeline.extractor.set_backend(runners)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) float64 arrays by level."""
        check_inputs(self, inputs)
        if len(inputs[IMAGES]) == 0:
            return [np.zeros((0, len(self.taxonomy.nodes(level)))) for level in range(self.taxonomy.depth)]
        return self._classify(self.pipeline.transform(inputs))

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the features of the classifiers: shape (n, width)."""
        return self.pipeline.transform(inputs)

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices, with cached features."""
        found = self._classify(self.pipeline.transform_dataset(dataset))
        if tick is not None:
            tick(len(dataset))
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
        """Write the feature pipeline and the trees of each classifier as safetensors."""
        names = [trees_file(i) for i in range(len(self.classifiers))]
        for name, classifier in zip(names, self.classifiers, strict=True):
            classifier.save(folder / name)
        return [*self.pipeline.save(folder), *names]


# -- features ------------------------------------------------------------------------------------------------


class _FeaturePipeline:
    """Features of a slice: principal components, then image statistics and MusiCNN layers."""

    def __init__(
        self,
        projection: tuple[Float32Array, Float32Array] | None,
        extractor: FeatureExtractor,
        settings: BoostingSettings,
    ) -> None:
        self.projection = projection
        self.extractor = extractor
        self.settings = settings

    @property
    def width(self) -> int | None:
        """Number of features; None if it isn't known in advance."""
        if self.projection is None or len(self.settings.features) > 1:
            return None
        return len(self.projection[1])

    def transform(self, inputs: Inputs) -> Float32Array:
        """Compute the features of slices, shape (n, width)."""
        size, images = self.settings.batch_size, inputs[IMAGES]
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return self._join(parts, self.extractor.extract(inputs))

    def transform_dataset(self, dataset: SliceDataset, progress: bool = False) -> Float32Array:
        """Compute the features of stored slices, shape (n, width)."""
        extracted = self.extractor.extract_dataset(dataset, progress)
        return self._join(dataset.batches(self.settings.batch_size), extracted)

    def _join(self, batches: Iterable[UInt8Array], extracted: Sequence[Float32Array]) -> Float32Array:
        found = list(extracted)
        if self.projection is not None:
            found.insert(0, np.concatenate([_project(part, *self.projection, self.settings) for part in batches]))
        return np.concatenate(found, axis=1)

    def save(self, folder: Path) -> list[str]:
        """Write the projection and the networks, if used."""
        names = self.extractor.save(folder)
        if self.projection is not None:
            weights, offset = self.projection
            save_file({"weights": weights, "offset": offset}, folder / PROJECTION_FILE)
            names.append(PROJECTION_FILE)
        return names

    @classmethod
    def load(cls, folder: Path, settings: BoostingSettings) -> Self:
        """Load what `save` wrote."""
        projection = _read_projection(folder / PROJECTION_FILE, settings) if "components" in settings.features else None
        try:
            extractor = FeatureExtractor.load(folder, settings.features, settings.networks)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BundleError(f"{folder}: can't be read ({error}); copy or train the bundle again") from error
        return cls(projection, extractor, settings)


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
    """Fit the feature pipeline; returns it with the training features and metadata."""
    metadata: dict[str, Any] = {}
    projection = None
    if "components" in settings.features:
        weights, offset, explained = _fit_or_read_projection(train, settings, context)
        projection = weights, offset
        metadata = {"components": int(weights.shape[1]), "explained_variance": round(float(explained), 4)}
    extractor = FeatureExtractor(settings.features, _load_networks(settings))
    pipeline = _FeaturePipeline(projection, extractor, settings)
    return pipeline, pipeline.transform_dataset(train, context.progress), metadata


def _load_networks(settings: BoostingSettings) -> Mapping[MusicnnName, Musicnn]:
    if "musicnn" not in settings.features:
        return {}
    from genretree.models.pretrained.musicnn_features import load_network

    return {name: load_network(name, settings.weights) for name in settings.networks}


def reduce_images(
    images: UInt8Array, modalities: tuple[str, ...], size: int, pixels: Pixels = "decibels"
) -> UInt8Array:
    """Select, downsample and flatten images: shape (n, modalities * size * size), grey levels 0 to 255."""
    selected = images[:, [MODALITIES.index(name) for name in modalities]]
    if pixels == "luminance":
        selected = magma_luminance()[selected]
    if selected.shape[-1] == size:
        return np.ascontiguousarray(selected).reshape(len(images), -1)
    return _average_areas(selected, size).reshape(len(images), -1)


def _average_areas(images: UInt8Array, size: int) -> UInt8Array:
    """Downsample as PyTorch's `interpolate(mode="area")` does, to the bit, without importing PyTorch.

    Each output pixel is the mean of the input pixels that it overlaps; their sum is an integer, exact in float32.
    """
    rows, columns = (_overlaps(length, size) for length in images.shape[-2:])
    sums = rows @ (images.astype(np.float32) @ columns.T)
    means = sums / rows.sum(axis=1)[:, None] / columns.sum(axis=1)
    averaged: UInt8Array = np.rint(means, out=means).astype(np.uint8)
    return averaged


@lru_cache(maxsize=8)
def _overlaps(length: int, size: int) -> Float32Array:
    """Return which of `length` input pixels each of `size` output pixels overlaps, as zeros and ones."""
    pixels, outputs = np.arange(length), np.arange(size)[:, None]
    overlaps: Float32Array = (
        (pixels >= outputs * length // size) & (pixels < -(-(outputs + 1) * length // size))
    ).astype(np.float32)
    return overlaps


def _fit_or_read_projection(
    train: SliceDataset, settings: BoostingSettings, context: FitContext
) -> tuple[Float32Array, Float32Array, float]:
    """Load the projection of an interrupted run, or fit and save it."""
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
    """Fit standardisation and PCA, combined to a matrix and an offset for pixels in [0, 1]."""
    rows = _reduce_all(train, settings, context)
    if settings.pca == "incremental":
        with progress_bar(2 * len(rows), "components", "slice", context.progress) as tick:
            weights, offset, explained = fit_incremental(rows, settings.components, settings.batch_size, tick)
        (context.folder / _REDUCED_FILE).unlink()
        return weights, offset, explained
    from genretree.models.features.pca import StreamingPCA  # loads torch

    pca = StreamingPCA(settings.components, batch_size=settings.batch_size, random_state=settings.seed)
    with progress_bar(pca.n_batches(*rows.shape), "components", "batch", context.progress) as tick:
        pca.set_params(on_batch=tick).fit(rows)
    (context.folder / _REDUCED_FILE).unlink()
    weights, offset = pca.affine()
    return weights * _WHITE, offset, float(pca.explained_variance_ratio_.sum())


def _reduce_all(train: SliceDataset, settings: BoostingSettings, context: FitContext) -> UInt8Array:
    """Downsample all training slices to a memory-mapped file, which is read several times; one byte for each pixel."""
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
    """Return the target of each classifier, as an array indexed by leaf."""
    if heads == "tree":
        return [np.arange(len(taxonomy.leaves))]
    levels = range(taxonomy.depth)
    return [taxonomy.ancestors[:, level] for level in levels if len(taxonomy.nodes(level)) > 1]


def _spread(classifier: CheckedTrees, features: Float32Array, width: int) -> Float64Array:
    """Spread a classifier's probabilities over `width` classes; classes absent from training get zero."""
    probabilities = np.zeros((len(features), width))
    probabilities[:, classifier.classes_] = classifier.predict_proba(features)
    return probabilities
