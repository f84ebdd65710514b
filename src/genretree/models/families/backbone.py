"""Family `backbone`: a linear classifier on embeddings of a large pretrained audio network, which stays frozen.

The network is a checkpoint of transformers: CLAP, MAEST, AST, HuBERT, wav2vec 2.0, WavLM or a Whisper encoder. A bundle
contains it, so that it works without the checkpoint; the checkpoint's licence therefore applies to the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.arrays import Array, Float32Array, Int64Array
from genretree.errors import BundleError
from genretree.models.base import FitContext, FitResult, LevelProbabilities, Model, SliceDataset, check_inputs
from genretree.models.features.cache import FeatureCache
from genretree.models.finite_weights import require_finite
from genretree.models.linear.hierarchical import (
    HEAD_FILE,
    LabelledRows,
    LinearTree,
    choose_features,
    predict_out_of_fold_levels,
)
from genretree.models.linear.logistic import Regularisations
from genretree.models.pretrained.audio_backbones import (
    AudioBackbone,
    find_input_feature,
    load_backbone,
    read_backbone,
)
from genretree.models.pretrained.backbone_checkpoints import find_checkpoint
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.parallel import keep_allocated_pages
from genretree.settings import Heads, Settings
from genretree.sound.features import MEL_16K, Inputs
from genretree.taxonomy import Taxonomy

_GRAPH = "backbone"
_SHAPE = "input_shape"  # of the feature of one slice


class BackboneSettings(Settings):
    """Settings of the `backbone` family."""

    backbone: str = Field(
        "clap",
        min_length=1,
        description="clap, maest, ast-audioset, hf://user/name@revision, or a folder with a checkpoint of transformers",
    )
    windows: int = Field(
        1, ge=1, le=8, description="number of windows averaged where slices are longer than the network's input"
    )
    Cs: Regularisations = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), min_length=1, description="candidate inverse regularisations"
    )
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: one for each level")
    class_weight_power: float = Field(
        0.0, ge=0, le=1, description="class weights are class frequencies to minus this power"
    )
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Name of the feature that the network takes. Raises TrainingError if the checkpoint is not on this machine."""
        return (find_input_feature(find_checkpoint(self.backbone)),)


class BackboneFamily:
    """Linear classifiers on frozen audio networks of transformers."""

    name: ClassVar[str] = "backbone"
    summary: ClassVar[str] = "linear classifier on a large pretrained audio network (CLAP, MAEST, AST ...)"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[BackboneSettings]] = BackboneSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Compute embeddings, then select the regularisation and fit the classifier, on both parts.

        The regularisation is selected by cross-validation over groups within them.
        """
        backbone_settings: BackboneSettings = settings
        keep_allocated_pages()
        backbone = load_backbone(find_checkpoint(backbone_settings.backbone))
        parts = [train] if validation is None else [train, validation]
        labelled = LabelledRows.of(parts, backbone_settings.class_weight_power)
        blocks = [
            np.concatenate(
                [embed_dataset(part, backbone, backbone_settings.windows, context.progress) for part in parts]
            )
        ]
        history, _, C = choose_features(
            [blocks], backbone_settings.Cs, labelled, len(taxonomy.leaves), backbone_settings.seed, context.progress
        )
        linear = LinearTree.fit(blocks, labelled, C, taxonomy, backbone_settings.heads)
        out_of_fold = predict_out_of_fold_levels(
            blocks, labelled, C, taxonomy, backbone_settings.heads, backbone_settings.seed
        )
        metadata = {
            "architecture": backbone.architecture,
            "embedding_dim": backbone.width,
            "C": C,
            "parameters": linear.parameters,
        }
        shape = train.features[backbone.input_feature].shape[1:]
        return FitResult(BackboneModel(backbone, linear, backbone_settings, shape), history, metadata, out_of_fold)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load network and classifier from a bundle."""
        backbone_settings: BackboneSettings = settings
        backbone = read_backbone(folder)
        path = folder / HEAD_FILE
        try:
            arrays = load_file(path)
            require_finite(path, arrays)
            linear = LinearTree.from_arrays(arrays, backbone.width, taxonomy, backbone_settings.heads)
            shape = tuple(int(size) for size in arrays[_SHAPE])
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
        return BackboneModel(backbone, linear, backbone_settings, shape)


class BackboneModel:
    """A frozen audio network and a linear classifier."""

    def __init__(
        self, backbone: AudioBackbone, linear: LinearTree, settings: BackboneSettings, shape: Sequence[int]
    ) -> None:
        self.backbone = backbone
        self.linear = linear
        self.settings = settings
        self.heads = settings.heads
        self.input_features: tuple[str, ...] = (backbone.input_feature,)
        self.shape = tuple(shape)

    @property
    def initial_weights(self) -> dict[str, str] | None:
        """Source, revision, licence and hash of the network's weights; None after loading from a bundle."""
        return self.backbone.origin

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        return self.linear.predict([self.embed(inputs)])

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the network's embeddings: shape (n, embedding_dim)."""
        check_inputs(self, inputs)
        return self.backbone.embed(inputs[self.backbone.input_feature], self.settings.windows)

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices, with cached embeddings."""
        embeddings = embed_dataset(dataset, self.backbone, self.settings.windows)
        if tick is not None:
            tick(len(dataset))
        return self.linear.predict([embeddings])

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the network with its pooling, from preprocessed windows to embeddings."""
        rng = np.random.default_rng(0)
        example: Array = (
            rng.integers(-5000, 5000, (2, *self.shape), np.int16)
            if self.backbone.input_feature != MEL_16K
            else rng.random((2, *self.shape)).astype(np.float16)
        )
        batch, n_windows = self.backbone.prepare(example, self.settings.windows)
        pooling = self.backbone.pooling(self.shape[0]).to(torch.device("cpu"))
        return {_GRAPH: Graph(pooling, batch[::n_windows].contiguous(), ("slice_embedding",), bf16=False)}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the network with another runtime."""
        self.backbone.backend = wrap_runner(runners[_GRAPH])

    def shuffle_weights(self, rng: np.random.Generator) -> BackboneModel:
        """Copy the model and shuffle the values within each weight array."""
        from genretree.models.neural.network import shuffle_network  # imports the Trainer, which takes seconds

        backbone = AudioBackbone(
            self.backbone.architecture, shuffle_network(self.backbone.network, rng), self.backbone.preprocessor
        )
        return BackboneModel(backbone, self.linear.shuffle(rng), self.settings, self.shape)

    def save(self, folder: Path) -> list[str]:
        """Write network and classifier as safetensors, and the network's configuration as JSON."""
        arrays: dict[str, Array] = {_SHAPE: np.array(self.shape, np.int64), **self.linear.to_arrays()}
        save_file(arrays, folder / HEAD_FILE)
        return [HEAD_FILE, *self.backbone.save(folder)]


def embed_dataset(dataset: SliceDataset, backbone: AudioBackbone, windows: int, progress: bool = False) -> Float32Array:
    """Compute embeddings of stored slices, with a cache in the store: shape (n, embedding_dim).

    Embeddings of another runtime are neither read from the cache nor saved to it.

    Raises
    ------
    TrainingError
        If the store lacks the feature that the network takes.
    """
    name = backbone.input_feature
    values = dataset.require_feature(name, "this backbone")
    if backbone.backend is not None:
        return np.concatenate([_embed_rows(values, backbone, windows, rows) for rows in _batches(dataset.rows)])
    cache = FeatureCache(dataset, f"backbone-{backbone.fingerprint}-{windows}.npy", backbone.width)
    return cache.read(dataset.rows, partial(_embed_rows, values, backbone, windows), "embed", progress)


def _embed_rows(values: Array, backbone: AudioBackbone, windows: int, rows: Int64Array) -> Float32Array:
    return backbone.embed(np.asarray(values[rows]), windows)


def _batches(rows: Int64Array, size: int = 64) -> list[Int64Array]:
    return [rows[start : start + size] for start in range(0, max(1, len(rows)), size)]
