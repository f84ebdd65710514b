"""Family `musicnn`: a linear classifier on what the published MusiCNN networks hear, for small collections.

It sees the statistics of the images too, where that helps.

The networks (Pons and Serra 2019) have learned from a quarter of a million songs what music sounds like; they stay as
they are. On their outputs a multinomial logistic regression learns the leaves; which layers it sees, and how strongly
it is regularised, is chosen by cross-validation over groups (artists) within the training part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from genretree.models.linear.hierarchical import HEAD_FILE, LabelledRows, LinearTree, choose_features, hold_out
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
from genretree.models.pretrained.names import CACHED, MusicnnName
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import Runner
from genretree.parallel import keep_allocated_pages
from genretree.settings import MODALITIES, Heads, Settings
from genretree.sound.features import MEL_16K, Inputs
from genretree.taxonomy import Taxonomy

_NUMBERED = (*LAYERS, IMAGES)  # as bundles count them
_TUNED_AT_A_TIME = 16


class MusicnnSettings(Settings):
    """Settings of the `musicnn` family."""

    renamed: ClassVar[Mapping[str, str]] = {"balance": "class_weight_power", "strengths": "Cs"}

    networks: tuple[MusicnnName, ...] = Field(
        ("msd",), min_length=1, description="msd (Million Song Dataset), mtt (MagnaTagATune), or both"
    )
    weights: str = Field(CACHED, description="'cached': as published; or a folder with musicnn-msd.safetensors ...")
    layers: tuple[tuple[Layer, ...], ...] = Field(
        (("tags", "penultimate"), ("tags", "penultimate", "images"), ("tags", "penultimate", "max_pool", "images")),
        min_length=1,
        description="sets of layers to choose from; images: the statistics of the images",
    )
    Cs: Regularisations = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1, description="inverse regularisations to choose from"
    )
    patches: int = Field(4, ge=1, le=16, description="patches of 3 s heard in each slice")
    fine_tuning_epochs: int = Field(
        0, ge=0, description="epochs in which the networks learn too; kept if that makes the validation loss less"
    )
    fine_tuning_rate: float = Field(1e-4, gt=0, description="learning rate of those epochs")
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: one for each level")
    class_weight_power: float = Field(
        0.0, ge=0, le=1, description="weigh leaves by their share of slices to minus this"
    )
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def input_features(self) -> tuple[str, ...]:
        """Names of the inputs that the candidate layers need."""
        images = any(IMAGES in layers for layers in self.layers)
        return (MEL_16K, *(MODALITIES if images else ()))

    @field_validator("networks")
    @classmethod
    def _each_once(cls, value: tuple[MusicnnName, ...]) -> tuple[MusicnnName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name each network once")
        return value

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, value: tuple[tuple[Layer, ...], ...]) -> tuple[tuple[Layer, ...], ...]:
        if not all(layers and len(set(layers)) == len(layers) for layers in value):
            raise ValueError("each set names at least one layer, each once")
        return value


class MusicnnFamily:
    """A linear classifier on pretrained networks that know music."""

    name: ClassVar[str] = "musicnn"
    summary: ClassVar[str] = "linear classifier on the published MusiCNN networks"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[MusicnnSettings]] = MusicnnSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Listen to all slices once, then choose and fit the classifier. `validation` is learned from too.

        Nothing is stopped early there, and the choice is made within what is learned from; a part held back would be
        lost. Only fine-tuning needs it held back.
        """
        chosen: MusicnnSettings = settings
        keep_allocated_pages()
        networks = {name: load_network(name, chosen.weights) for name in chosen.networks}
        parts = [train] if validation is None else [train, validation]
        known = LabelledRows.of(parts, chosen.class_weight_power)
        images = any(IMAGES in layers for layers in chosen.layers)
        outputs = [extract_dataset_features(part, networks, chosen.patches, images, context.progress) for part in parts]
        heard = {key: np.concatenate([output[key] for output in outputs]) for key in outputs[0]}
        candidates = [_blocks(heard, chosen.networks, layers) for layers in chosen.layers]
        n_leaves = len(taxonomy.leaves)
        history, number, C = choose_features(candidates, chosen.Cs, known, n_leaves, chosen.seed, context.progress)
        layers, blocks = chosen.layers[number], candidates[number]
        linear = LinearTree.fit(blocks, known, C, taxonomy, chosen.heads)
        facts: dict[str, Any] = {"layers": list(layers), "strength": C, "parameters": linear.parameters}
        unseen = hold_out(blocks, known, C, taxonomy, chosen.heads, chosen.seed)
        if chosen.fine_tuning_epochs:
            if validation is None:
                raise TrainingError("fine-tuning needs a validation part to tell whether it helps; make another split")
            from genretree.models.families.musicnn.fine_tuning import (  # loads the Trainer, for seconds
                PatchTargets,
                TunedMusicnn,
                fine_tune,
            )

            n = len(train)
            start = LinearTree.fit([block[:n] for block in blocks], known.first(n), C, taxonomy, chosen.heads)
            model = TunedMusicnn(deepcopy(networks), layers, start.linear)
            learned = PatchTargets(train, start.classes(train.leaves), known.weights[:n])
            held = PatchTargets(validation, start.classes(validation.leaves), known.weights[n:])
            tuned = fine_tune(model, learned, held, chosen.patches, _tuning(chosen), context)
            history += tuned.history
            facts |= {"fine_tuned": tuned.helped, "before": tuned.before, "after": tuned.after}
            if tuned.helped:
                networks, linear = model.read_networks(), LinearTree(model.read_heads(), taxonomy, chosen.heads)
                unseen = None  # this one did not learn from the validation part
        return FitResult(MusicnnModel(networks, layers, linear, chosen), history, facts, unseen)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Read networks and classifier from a bundle; nothing else is needed."""
        chosen: MusicnnSettings = settings
        try:
            networks = load_networks(chosen.networks, folder)
            arrays = load_arrays(folder / HEAD_FILE)
            require_finite(folder / HEAD_FILE, arrays)
            layers = tuple(_NUMBERED[i] for i in arrays["layers"])
            width = sum(WIDTHS[layer] * (1 if layer == IMAGES else len(networks)) for layer in layers)
            linear = LinearTree.from_arrays(arrays, width, taxonomy, chosen.heads)
        except (OSError, SafetensorError, KeyError, IndexError, RuntimeError, ValueError) as error:
            raise BundleError(
                f"{folder}: the weights can't be read ({error}); copy or train the bundle again"
            ) from error
        return MusicnnModel(networks, layers, linear, chosen)


class MusicnnModel:
    """Networks and classifier behind the contract of every family."""

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
        """Give the MusiCNN networks."""
        return network_graphs(self.networks)

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Let another runtime hear."""
        self.backends = run_networks(self.networks, runners)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        check_inputs(self, inputs)
        heard = self._hear(inputs)
        return self.linear.predict(_blocks(heard, self.settings.networks, self.layers))

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute the layers that the classifier sees: shape (n, width)."""
        heard = self._hear(inputs)
        return np.concatenate([heard[key] for key in sorted(heard) if key.split("/")[-1] in self.layers], axis=1)

    def _hear(self, inputs: Inputs) -> dict[str, Float32Array]:
        found = extract_features(self.backends or self.networks, inputs[MEL_16K], self.settings.patches)
        if IMAGES in self.layers:
            found[IMAGES] = image_statistics(inputs[IMAGES])
        return found

    def shuffle_weights(self, rng: np.random.Generator) -> MusicnnModel:
        """Copy the model with the numbers within each array of weights shuffled."""
        from genretree.models.neural.network import shuffle_network  # loads the Trainer, for seconds

        networks = {name: shuffle_network(network, rng) for name, network in self.networks.items()}
        return MusicnnModel(networks, self.layers, self.linear.shuffle(rng), self.settings)

    def predict_dataset(self, examples: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Score stored slices; what was heard before is not heard again."""
        images = IMAGES in self.layers
        heard = extract_dataset_features(
            examples, self.networks, self.settings.patches, images, tick=tick, backends=self.backends
        )
        return self.linear.predict(_blocks(heard, self.settings.networks, self.layers))

    def save(self, folder: Path) -> list[str]:
        """Write networks and classifier as safetensors."""
        layers = np.array([_NUMBERED.index(layer) for layer in self.layers])
        save_arrays({"layers": layers, **self.linear.to_arrays()}, folder / HEAD_FILE)
        return [HEAD_FILE, *save_networks(self.networks, folder)]


def _blocks(heard: Mapping[str, Float32Array], networks: Sequence[str], layers: Sequence[str]) -> list[Float32Array]:
    """Choose the layers, network by network, and then the statistics of the images."""
    blocks = [heard[f"{name}/{layer}"] for name in networks for layer in layers if layer != IMAGES]
    return [*blocks, heard[IMAGES]] if IMAGES in layers else blocks


def _tuning(settings: MusicnnSettings) -> NetworkSettings:
    """How the networks are fine-tuned."""
    return NetworkSettings.build(
        {
            "epochs": settings.fine_tuning_epochs,
            "patience": settings.fine_tuning_epochs,
            "learning_rate": settings.fine_tuning_rate,
            "weight_decay": 0.0,
            "warmup_epochs": 0.5,
            "batch_size": _TUNED_AT_A_TIME,
            "seed": settings.seed,
        }
    )
