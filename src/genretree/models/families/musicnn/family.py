"""Family `musicnn`: a linear classifier on the features of the published MusiCNN networks, for small collections.

The networks (Pons and Serra 2019) were trained on a quarter of a million songs and are frozen by default. A multinomial
logistic regression classifies their outputs, and optionally image statistics. Layers and regularisation are selected by
cross-validation over groups (artists) within the training part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from genretree.arrays import Float32Array
from genretree.errors import BundleError, TrainingError
from genretree.models.base import FitContext, FitResult, LevelProbabilities, Model, SliceDataset, check_inputs
from genretree.models.features.image_statistics import image_statistics
from genretree.models.finite_weights import require_finite
from genretree.models.linear.hierarchical import (
    HEAD_FILE,
    LabelledRows,
    LinearTree,
    choose_features,
    predict_out_of_fold_levels,
)
from genretree.models.linear.logistic import Regularisations
from genretree.models.neural.settings import NetworkSettings
from genretree.models.pretrained.musicnn import Musicnn
from genretree.models.pretrained.musicnn_features import (
    IMAGES,
    LAYERS,
    WIDTHS,
    Backend,
    Layer,
    extract_dataset_features,
    extract_features,
    load_network,
    load_networks,
    network_graphs,
    run_networks,
    save_networks,
)
from genretree.models.pretrained.names import MusicnnName, Weights
from genretree.models.runtime.devices import on_fastest_device
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner
from genretree.parallel import keep_allocated_pages
from genretree.settings import MODALITIES, Heads, Settings
from genretree.sound.features import MEL_16K, Inputs
from genretree.taxonomy import Taxonomy

_LAYER_NAMES = (*LAYERS, IMAGES)  # bundles store indices into this tuple
_FINE_TUNING_BATCH_SIZE = 16


class MusicnnSettings(Settings):
    """Settings of the `musicnn` family."""

    renamed: ClassVar[Mapping[str, str]] = {"balance": "class_weight_power", "strengths": "Cs"}

    networks: tuple[MusicnnName, ...] = Field(
        ("msd",), min_length=1, description="msd (Million Song Dataset), mtt (MagnaTagATune), or both"
    )
    weights: str = Field(
        Weights.CACHED.value,
        description="'cached': the published weights; or a folder with musicnn-msd.safetensors ...",
    )
    layers: tuple[tuple[Layer, ...], ...] = Field(
        (("tags", "penultimate"), ("tags", "penultimate", "images"), ("tags", "penultimate", "max_pool", "images")),
        min_length=1,
        description="candidate sets of layers; images: image statistics",
    )
    Cs: Regularisations = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1, description="candidate inverse regularisations"
    )
    patches: int = Field(4, ge=1, le=16, description="number of 3 s patches of each slice")
    fine_tuning_epochs: int = Field(
        0, ge=0, description="epochs of fine-tuning the networks; the result is used if it lowers the validation loss"
    )
    fine_tuning_rate: float = Field(1e-4, gt=0, description="learning rate of fine-tuning")
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: one for each level")
    class_weight_power: float = Field(
        0.0, ge=0, le=1, description="class weights are class frequencies to minus this power"
    )
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the features that the candidate layers need."""
        images = any(IMAGES in layers for layers in self.layers)
        return (MEL_16K, *(MODALITIES if images else ()))

    @field_validator("networks")
    @classmethod
    def _each_once(cls, value: tuple[MusicnnName, ...]) -> tuple[MusicnnName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must contain each network at most once")
        return value

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, value: tuple[tuple[Layer, ...], ...]) -> tuple[tuple[Layer, ...], ...]:
        if not all(layers and len(set(layers)) == len(layers) for layers in value):
            raise ValueError("each set must contain at least one layer, each at most once")
        return value


class MusicnnFamily:
    """Linear classifiers on the MusiCNN networks."""

    name: ClassVar[str] = "musicnn"
    summary: ClassVar[str] = "linear classifier on the published MusiCNN networks"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[MusicnnSettings]] = MusicnnSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Extract features, then select and fit a linear classifier, on the training and validation part.

        Features and regularisation are selected by cross-validation within them, and there is no early stopping that
        needs validation data. Fine-tuning keeps the validation part out.
        """
        musicnn_settings: MusicnnSettings = settings
        keep_allocated_pages()
        networks = {name: load_network(name, musicnn_settings.weights) for name in musicnn_settings.networks}
        parts = [train] if validation is None else [train, validation]
        labelled = LabelledRows.of(parts, musicnn_settings.class_weight_power)
        images = any(IMAGES in layers for layers in musicnn_settings.layers)
        with on_fastest_device(*networks.values()):
            by_part = [
                extract_dataset_features(part, networks, musicnn_settings.patches, images, context.progress)
                for part in parts
            ]
        outputs = {key: np.concatenate([features[key] for features in by_part]) for key in by_part[0]}
        candidates = [_blocks(outputs, musicnn_settings.networks, layers) for layers in musicnn_settings.layers]
        n_leaves = len(taxonomy.leaves)
        history, best, C = choose_features(
            candidates, musicnn_settings.Cs, labelled, n_leaves, musicnn_settings.seed, context.progress
        )
        layers, blocks = musicnn_settings.layers[best], candidates[best]
        linear = LinearTree.fit(blocks, labelled, C, taxonomy, musicnn_settings.heads)
        metadata: dict[str, Any] = {"layers": list(layers), "C": C, "parameters": linear.parameters}
        out_of_fold = predict_out_of_fold_levels(
            blocks, labelled, C, taxonomy, musicnn_settings.heads, musicnn_settings.seed
        )
        if musicnn_settings.fine_tuning_epochs:
            if validation is None:
                raise TrainingError("fine-tuning needs a validation part, but the split has none; make another split")
            from genretree.models.families.musicnn.fine_tuning import (  # imports the Trainer, which takes seconds
                FineTunedMusicnn,
                PatchTargets,
                fine_tune,
            )

            n = len(train)
            start = LinearTree.fit(
                [block[:n] for block in blocks], labelled.first(n), C, taxonomy, musicnn_settings.heads
            )
            model = FineTunedMusicnn(deepcopy(networks), layers, start.linear)
            train_targets = PatchTargets(train, start.classes(train.leaves), labelled.weights[:n])
            validation_targets = PatchTargets(validation, start.classes(validation.leaves), labelled.weights[n:])
            tuned = fine_tune(
                model,
                train_targets,
                validation_targets,
                musicnn_settings.patches,
                _fine_tuning_settings(musicnn_settings),
                context,
            )
            history += tuned.history
            metadata |= {"fine_tuned": tuned.helped, "before": tuned.before, "after": tuned.after}
            if tuned.helped:
                networks, linear = (
                    model.read_networks(),
                    LinearTree(model.read_heads(), taxonomy, musicnn_settings.heads),
                )
                out_of_fold = None  # the fine-tuned model was not trained on the validation part
        return FitResult(MusicnnModel(networks, layers, linear, musicnn_settings), history, metadata, out_of_fold)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load networks and classifier from a bundle."""
        musicnn_settings: MusicnnSettings = settings
        try:
            networks = load_networks(musicnn_settings.networks, folder)
            arrays = load_arrays(folder / HEAD_FILE)
            require_finite(folder / HEAD_FILE, arrays)
            layers = tuple(_LAYER_NAMES[i] for i in arrays["layers"])
            width = sum(WIDTHS[layer] * (1 if layer == IMAGES else len(networks)) for layer in layers)
            linear = LinearTree.from_arrays(arrays, width, taxonomy, musicnn_settings.heads)
        except (OSError, SafetensorError, KeyError, IndexError, RuntimeError, ValueError) as error:
            raise BundleError(
                f"{folder}: the weights can't be read ({error}); copy or train the bundle again"
            ) from error
        return MusicnnModel(networks, layers, linear, musicnn_settings)


class MusicnnModel:
    """MusiCNN networks and a linear classifier."""

    def __init__(
        self,
        networks: Mapping[MusicnnName, Musicnn],
        layers: Sequence[Layer],
        linear: LinearTree,
        settings: MusicnnSettings,
    ) -> None:
        self.networks = dict(networks)
        self.backends: Mapping[MusicnnName, Backend] | None = None
        self.layers = tuple(layers)
        self.input_features: tuple[str, ...] = (IMAGES, MEL_16K) if IMAGES in layers else (MEL_16K,)
        self.linear = linear
        self.settings = settings
        self.heads = settings.heads

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the MusiCNN networks."""
        return network_graphs(self.networks)

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the networks with another runtime."""
        self.backends = run_networks(self.networks, runners)

    def on_fastest_device(self) -> AbstractContextManager[None]:
        """Compute on the GPU during the block, if there is one and no other runtime is set."""
        return on_fastest_device(*self.networks.values()) if self.backends is None else nullcontext()

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        check_inputs(self, inputs)
        outputs = self._extract(inputs)
        return self.linear.predict(_blocks(outputs, self.settings.networks, self.layers))

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the network layers that the classifier uses: shape (n, width)."""
        outputs = self._extract(inputs)
        return np.concatenate([outputs[key] for key in sorted(outputs) if key.split("/")[-1] in self.layers], axis=1)

    def _extract(self, inputs: Inputs) -> dict[str, Float32Array]:
        features = extract_features(self.backends or self.networks, inputs[MEL_16K], self.settings.patches)
        if IMAGES in self.layers:
            features[IMAGES] = image_statistics(inputs[IMAGES])
        return features

    def shuffle_weights(self, rng: np.random.Generator) -> MusicnnModel:
        """Copy the model and shuffle the values within each weight array."""
        from genretree.models.neural.network import shuffle_network  # imports transformers, which takes seconds

        networks = {name: shuffle_network(network, rng) for name, network in self.networks.items()}
        return MusicnnModel(networks, self.layers, self.linear.shuffle(rng), self.settings)

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices, with cached features."""
        images = IMAGES in self.layers
        outputs = extract_dataset_features(
            dataset, self.networks, self.settings.patches, images, tick=tick, backends=self.backends
        )
        return self.linear.predict(_blocks(outputs, self.settings.networks, self.layers))

    def save(self, folder: Path) -> list[str]:
        """Write networks and classifier as safetensors."""
        layers = np.array([_LAYER_NAMES.index(layer) for layer in self.layers])
        save_arrays({"layers": layers, **self.linear.to_arrays()}, folder / HEAD_FILE)
        return [HEAD_FILE, *save_networks(self.networks, folder)]


def _blocks(outputs: Mapping[str, Float32Array], networks: Sequence[str], layers: Sequence[str]) -> list[Float32Array]:
    """Select feature blocks: the layers of each network, then image statistics."""
    blocks = [outputs[f"{name}/{layer}"] for name in networks for layer in layers if layer != IMAGES]
    return [*blocks, outputs[IMAGES]] if IMAGES in layers else blocks


def _fine_tuning_settings(settings: MusicnnSettings) -> NetworkSettings:
    """Build the settings of fine-tuning."""
    return NetworkSettings.build(
        {
            "epochs": settings.fine_tuning_epochs,
            "patience": settings.fine_tuning_epochs,
            "learning_rate": settings.fine_tuning_rate,
            "weight_decay": 0.0,
            "warmup_epochs": 0.5,
            "batch_size": _FINE_TUNING_BATCH_SIZE,
            "seed": settings.seed,
        }
    )
