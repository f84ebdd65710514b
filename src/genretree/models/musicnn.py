"""Family `musicnn`: a linear classifier on what the published MusiCNN networks hear, for small collections.

It sees the statistics of the images too, where that helps.

The networks (Pons and Serra 2019) have learned from a quarter of a million songs what music sounds like; they stay as
they are. On their outputs a multinomial logistic regression learns the leaves; which layers it sees, and how strongly
it is regularised, is chosen by cross-validation over groups (artists) within the training part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from genretree.errors import BundleError, TrainingError
from genretree.files import atomic_path
from genretree.machine import keep_allocated_pages
from genretree.models.contract import Examples, FitContext, Fitted, LevelProbabilities, Model, balance_classes
from genretree.models.linear import LinearHead, fit_linear, out_of_fold, track_log_loss
from genretree.models.musicnn_network import PATCH_FRAMES, Musicnn
from genretree.models.musicnn_weights import Network, load_musicnn_weights
from genretree.models.statistics import STATISTICS, image_statistics
from genretree.progress import progress_bar
from genretree.settings import Heads, Settings
from genretree.sound.mel_16k import compress
from genretree.taxonomy import Taxonomy

Layer = Literal["tags", "mean_pool", "max_pool", "penultimate", "images"]
LAYERS: tuple[Layer, ...] = ("tags", "mean_pool", "max_pool", "penultimate")
IMAGES: Layer = "images"  # no layer of a network but the statistics of the images
_NUMBERED = (*LAYERS, IMAGES)  # as bundles count them
WIDTHS: dict[str, int] = {"tags": 50, "mean_pool": 753, "max_pool": 753, "penultimate": 200, IMAGES: STATISTICS}
CACHED = "cached"
_HEAD_FILE = "head.safetensors"
_PATCHES_AT_A_TIME = 3  # the largest array between layers then stays below what the allocator keeps
_LEAST_TAG = 1e-4

Floats = NDArray[np.float32]


class MusicnnSettings(Settings):
    """Settings of the `musicnn` family."""

    networks: tuple[Network, ...] = Field(
        ("msd",), min_length=1, description="msd (Million Song Dataset), mtt (MagnaTagATune), or both"
    )
    weights: str = Field(CACHED, description="'cached': as published; or a folder with musicnn-msd.safetensors ...")
    layers: tuple[tuple[Layer, ...], ...] = Field(
        (("tags", "penultimate"), ("tags", "penultimate", "images"), ("tags", "penultimate", "max_pool", "images")),
        min_length=1,
        description="sets of layers to choose from; images: the statistics of the images",
    )
    strengths: tuple[float, ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1), min_length=1, description="inverse regularisations to choose from"
    )
    patches: int = Field(4, ge=1, le=16, description="patches of 3 s heard in each slice")
    heads: Heads = Field("tree", description="tree: one consistent distribution; independent: one for each level")
    balance: float = Field(0.0, ge=0, le=1, description="weigh leaves by their share of slices to minus this")
    seed: int = Field(0, ge=0, lt=2**32)

    @field_validator("strengths")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("strengths must be greater than 0")
        return value


class MusicnnFamily:
    """A linear classifier on pretrained networks that know music."""

    name: ClassVar[str] = "musicnn"
    summary: ClassVar[str] = "linear classifier on the published MusiCNN networks"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[MusicnnSettings]] = MusicnnSettings

    @staticmethod
    def fit(
        train: Examples, validation: Examples | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> Fitted:
        """Listen to all slices once, then choose and fit the classifier. `validation` is learned from too.

        Nothing is stopped early here, and the choice is made within what is learned from; a part held back would be
        lost.
        """
        chosen: MusicnnSettings = settings
        keep_allocated_pages()
        networks = {name: load_network(name, chosen.weights) for name in chosen.networks}
        parts = [train] if validation is None else [train, validation]
        images = any(IMAGES in layers for layers in chosen.layers)
        outputs = [_hear_all(part, networks, chosen, images, context.progress) for part in parts]
        heard = {key: np.concatenate([output[key] for output in outputs]) for key in outputs[0]}
        leaves, tracks, groups = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("leaves", "tracks", "groups")
        )
        if len(np.unique(leaves)) < 2:
            raise TrainingError("all slices to train on have one and the same genre; check the split")
        weights = _weights(leaves, tracks, chosen.balance)
        history, layers, strength = _choose(heard, leaves, tracks, groups, weights, taxonomy, chosen, context)
        features, widths = _join(heard, chosen.networks, layers)
        heads = []
        for level in _levels(taxonomy, chosen.heads):
            truth = taxonomy.ancestors[leaves, level]
            several = len(np.unique(truth)) > 1
            heads.append(fit_linear(features, truth, strength, weights, widths) if several else None)
        facts = {
            "layers": list(layers),
            "strength": strength,
            "parameters": sum(head.weights.size + head.bias.size for head in heads if head is not None),
        }
        return Fitted(MusicnnModel(networks, layers, heads, taxonomy, chosen), history, facts)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Read networks and classifier from a bundle; nothing else is needed."""
        chosen: MusicnnSettings = settings
        networks = {}
        try:
            for name in chosen.networks:
                networks[name] = _make_network(load_file(folder / _network_file(name)))
            arrays = load_arrays(folder / _HEAD_FILE)
            layers = tuple(_NUMBERED[i] for i in arrays["layers"])
            heads = [
                LinearHead.from_arrays(arrays, f"level_{level}") if f"level_{level}.bias" in arrays else None
                for level in _levels(taxonomy, chosen.heads)
            ]
            width = sum(WIDTHS[layer] * (1 if layer == IMAGES else len(networks)) for layer in layers)
            if any(head is not None and head.weights.shape[1] != width for head in heads) or not any(heads):
                raise ValueError("the classifier is of another shape")
        except (OSError, SafetensorError, KeyError, IndexError, RuntimeError, ValueError) as error:
            raise BundleError(
                f"{folder}: the weights can't be read ({error}); copy or train the bundle again"
            ) from error
        return MusicnnModel(networks, layers, heads, taxonomy, chosen)


class MusicnnModel:
    """Networks and classifier behind the contract of every family."""

    needs_sound = True

    def __init__(
        self,
        networks: Mapping[Network, Musicnn],
        layers: Sequence[Layer],
        heads: Sequence[LinearHead | None],
        taxonomy: Taxonomy,
        settings: MusicnnSettings,
    ) -> None:
        self.networks = dict(networks)
        self.layers = tuple(layers)
        self.linear = list(heads)
        self.taxonomy = taxonomy
        self.settings = settings
        self.heads = settings.heads

    def predict_levels(
        self, images: NDArray[np.uint8], mel_16k: NDArray[np.float16] | None = None
    ) -> LevelProbabilities:
        """Give the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        if mel_16k is None:
            raise BundleError("this model listens to sound, and there are only images")
        heard = hear(self.networks, mel_16k, self.settings.patches)
        if IMAGES in self.layers:
            heard[IMAGES] = image_statistics(images)
        return self._classify(heard)

    def score_examples(self, examples: Examples, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Score stored slices; what was heard before is not heard again."""
        heard = _hear_all(examples, self.networks, self.settings, IMAGES in self.layers, tick=tick)
        return self._classify(heard)

    def _classify(self, heard: Mapping[str, Floats]) -> LevelProbabilities:
        features, _ = _join(heard, self.settings.networks, self.layers)
        widths = [len(self.taxonomy.nodes(level)) for level in range(self.taxonomy.depth)]
        found = [
            np.ones((len(features), widths[level])) if head is None else head.predict(features, widths[level])
            for level, head in zip(_levels(self.taxonomy, self.heads), self.linear, strict=True)
        ]
        return self.taxonomy.sum_levels(found[0]) if self.heads == "tree" else found

    def save(self, folder: Path) -> list[str]:
        """Write networks and classifier as safetensors."""
        names = [_HEAD_FILE]
        arrays: dict[str, NDArray[Any]] = {"layers": np.array([_NUMBERED.index(layer) for layer in self.layers])}
        for level, head in zip(_levels(self.taxonomy, self.heads), self.linear, strict=True):
            if head is not None:
                arrays.update(head.to_arrays(f"level_{level}"))
        save_arrays(arrays, folder / _HEAD_FILE)
        for name, network in self.networks.items():
            save_file(network.state_dict(), folder / _network_file(name))
            names.append(_network_file(name))
        return names


def hear(
    networks: Mapping[Network, Musicnn],
    mel_16k: NDArray[np.float16],
    patches: int,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Floats]:
    """Give what networks say of slices, by `network/layer`: arrays (n, width), the mean over each slice's patches.

    Parameters
    ----------
    networks : mapping of name to network
    mel_16k : array, shape (n, frames, 96)
        Mel power, as `genretree.sound.mel_16k` computes it; what is shorter than a patch of 187 frames is repeated.
    patches : int
        How many to hear of each slice, spread evenly.
    tick : function, optional
        Called with the number of slices that are done.
    """
    found: dict[str, list[Floats]] = {f"{name}/{layer}": [] for name in networks for layer in LAYERS}
    for piece in mel_16k:
        chosen = torch.from_numpy(_cut_patches(compress(piece), patches))
        with torch.inference_mode():
            for name, network in networks.items():
                for layer, values in _hear_patches(network, chosen).items():
                    found[f"{name}/{layer}"].append(values)
        if tick is not None:
            tick(1)
    return {
        key: np.stack(rows) if rows else np.zeros((0, WIDTHS[key.split("/")[1]]), np.float32)
        for key, rows in found.items()
    }


def _cut_patches(mel_16k: Floats, patches: int) -> Floats:
    """Cut evenly spread patches from one slice: shape (patches, 187, 96); one if it is no longer than that."""
    frames = len(mel_16k)
    if frames < PATCH_FRAMES:
        mel_16k, frames = np.resize(mel_16k, (PATCH_FRAMES, mel_16k.shape[1])), PATCH_FRAMES
    starts = np.unique(np.linspace(0, frames - PATCH_FRAMES, patches).round().astype(int))
    return np.stack([mel_16k[start : start + PATCH_FRAMES] for start in starts])


def _hear_patches(network: Musicnn, patches: torch.Tensor) -> dict[str, Floats]:
    """Average each layer over the patches of one slice."""
    parts = [network(some) for some in torch.split(patches, _PATCHES_AT_A_TIME)]
    joined = {layer: torch.cat([getattr(part, layer) for part in parts]) for layer in LAYERS}
    # Probabilities crowd at 0; their log odds are what a linear classifier can use.
    joined["tags"] = torch.logit(joined["tags"], _LEAST_TAG)
    return {layer: values.mean(dim=0).numpy() for layer, values in joined.items()}


def _hear_all(
    examples: Examples,
    networks: Mapping[Network, Musicnn],
    settings: MusicnnSettings,
    images: bool,
    progress: bool = False,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Floats]:
    """Hear all slices of a part, but for those that were heard in an earlier training on the same store."""
    if examples.mel_16k is None:
        raise TrainingError(
            "musicnn needs sound, and this store has only images; prepare it anew, or choose another family"
        )
    found: dict[str, Floats] = {}
    for name, network in networks.items():
        width = sum(WIDTHS[layer] for layer in LAYERS)
        cache = _Cache(examples, f"musicnn-{_fingerprint(network)}-{settings.patches}.npy", width)
        missing = cache.missing(examples.rows)
        with progress_bar(len(missing), f"hear ({name})", "slice", progress and len(missing) > 0) as heard_one:
            for start in range(0, len(missing), 64):
                rows = missing[start : start + 64]
                heard = hear({name: network}, np.asarray(examples.mel_16k[rows]), settings.patches, heard_one)
                cache.add(rows, np.concatenate([heard[f"{name}/{layer}"] for layer in LAYERS], axis=1))
        if len(missing):
            cache.save()
        cuts = np.cumsum([WIDTHS[layer] for layer in LAYERS])[:-1]
        for layer, values in zip(LAYERS, np.split(cache.values[examples.rows], cuts, axis=1), strict=True):
            found[f"{name}/{layer}"] = values
    if images:
        none = np.zeros((0, STATISTICS), np.float32)
        found[IMAGES] = np.concatenate([none, *(image_statistics(some) for some in examples.batches(64))])
    if tick is not None:
        tick(len(examples))
    return found


class _Cache:
    """What was computed of a store's slices, kept in the store: it takes longer than all of the rest."""

    def __init__(self, examples: Examples, name: str, width: int) -> None:
        self.path = None if examples.cache is None else examples.cache / name
        shape = (len(examples.images), width)
        self.values = np.full(shape, np.nan, np.float32)
        if self.path is not None and self.path.is_file():
            kept = np.load(self.path, allow_pickle=False)
            if kept.shape == shape and kept.dtype == np.float32:
                self.values = kept

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give those rows that are not known yet."""
        missing: NDArray[np.int64] = rows[np.isnan(self.values[rows, 0])]
        return missing

    def add(self, rows: NDArray[np.int64], values: Floats) -> None:
        """Take in the values of some rows."""
        self.values[rows] = values

    def save(self) -> None:
        """Keep all; a store that can't be written to is no obstacle."""
        if self.path is None:
            return
        try:
            with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
                np.save(stream, self.values)
        except OSError:
            return


def _choose(
    heard: Mapping[str, Floats],
    leaves: NDArray[np.int64],
    tracks: NDArray[np.int64],
    groups: NDArray[np.int64],
    weights: NDArray[np.float64],
    taxonomy: Taxonomy,
    settings: MusicnnSettings,
    context: FitContext,
) -> tuple[list[dict[str, float]], tuple[Layer, ...], float]:
    """Choose layers and strength by the log loss of the leaf on groups left out; returns all losses too."""
    history: list[dict[str, float]] = []
    pairs = [(layers, strength) for layers in settings.layers for strength in settings.strengths]
    if len(pairs) == 1:
        return history, *pairs[0]
    width = len(taxonomy.leaves)
    with progress_bar(len(pairs), "choose", "setting", context.progress) as tick:
        for number, (layers, strength) in enumerate(pairs):
            features, widths = _join(heard, settings.networks, layers)
            found = out_of_fold(features, leaves, groups, strength, width, settings.seed, weights, widths)
            loss = track_log_loss(found, leaves, tracks)
            history.append(
                {"iteration": float(number), "features": float(features.shape[1]), "strength": strength}
                | {"validation_loss": loss}
            )
            tick()
    best = min(range(len(pairs)), key=lambda number: history[number]["validation_loss"])
    return history, *pairs[best]


def _weights(leaves: NDArray[np.int64], tracks: NDArray[np.int64], balance: float) -> NDArray[np.float64]:
    """Weigh slices so that every track counts the same, whatever its length, and leaves as `balance` says; mean 1."""
    weights = balance_classes(leaves, balance) / np.bincount(tracks)[tracks]
    normal: NDArray[np.float64] = weights / weights.mean()
    return normal


def _join(heard: Mapping[str, Floats], networks: Sequence[str], layers: Sequence[str]) -> tuple[Floats, list[int]]:
    """Lay layers side by side; gives their widths too."""
    parts = [heard[f"{name}/{layer}"] for name in networks for layer in layers if layer != IMAGES]
    if IMAGES in layers:
        parts.append(heard[IMAGES])
    return np.concatenate(parts, axis=1), [part.shape[1] for part in parts]


def _levels(taxonomy: Taxonomy, heads: Heads) -> Sequence[int]:
    return [taxonomy.depth - 1] if heads == "tree" else range(taxonomy.depth)


def _network_file(name: str) -> str:
    return f"musicnn-{name}.safetensors"


def load_network(name: Network, where: str = CACHED) -> Musicnn:
    """Load a network from the cache of published weights, or from a folder that was named."""
    if where == CACHED:
        return _make_network(load_musicnn_weights(name))
    path = Path(where) / _network_file(name)
    try:
        return _make_network(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(f"{path}: no weights of a MusiCNN network ({error})") from error


def _make_network(weights: dict[str, torch.Tensor]) -> Musicnn:
    network = Musicnn().eval()
    network.load_state_dict(weights)
    return network


def _fingerprint(network: Musicnn) -> str:
    content = hashlib.sha256()
    for value in network.state_dict().values():
        content.update(value.numpy().tobytes())
    return content.hexdigest()[:12]
