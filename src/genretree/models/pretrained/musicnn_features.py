"""Features of slices from the published MusiCNN networks, with a cache in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genretree.arrays import Float16Array, Float32Array, Int64Array
from genretree.errors import TrainingError
from genretree.models.base import SliceDataset
from genretree.models.features.cache import FeatureCache
from genretree.models.features.image_statistics import STATISTICS, dataset_statistics
from genretree.models.finite_weights import require_finite
from genretree.models.pretrained.musicnn import BANDS, PATCH_FRAMES, Musicnn, MusicnnOutput
from genretree.models.pretrained.musicnn_weights import load_musicnn_weights
from genretree.models.pretrained.names import MusicnnName, Weights
from genretree.models.runtime.devices import device_of
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.sound.features import MEL_16K
from genretree.sound.mel_16k import compress

Layer = Literal["tags", "mean_pool", "max_pool", "penultimate", "images"]
LAYERS: tuple[Layer, ...] = ("tags", "mean_pool", "max_pool", "penultimate")
IMAGES: Layer = "images"  # the image statistics, which are not a layer of a network
WIDTHS: dict[str, int] = {"tags": 50, "mean_pool": 753, "max_pool": 753, "penultimate": 200, IMAGES: STATISTICS}
_PATCH_BATCH_SIZE = 3  # keeps the largest activation below the size that the allocator caches
_MIN_TAG = 1e-4  # tag probabilities are clipped to [1e-4, 1 - 1e-4]


Backend = Callable[[torch.Tensor], MusicnnOutput]  # a network, or a function that replaces it


def extract_features(
    networks: Mapping[MusicnnName, Backend],
    mel_16k: Float16Array,
    patches: int,
) -> dict[str, Float32Array]:
    """Compute the networks' outputs for slices, averaged over the patches of each slice.

    Parameters
    ----------
    networks : mapping of name to network
    mel_16k : array, shape (n, frames, 96)
        Mel power, as computed by `genretree.sound.mel_16k`. Slices shorter than a patch of 187 frames are repeated.
    patches : int
        Number of evenly spaced patches of each slice.

    Returns
    -------
    dict of str to float32 array, shape (n, width)
        Outputs by `network/layer`.
    """
    features: dict[str, list[Float32Array]] = {f"{name}/{layer}": [] for name in networks for layer in LAYERS}
    computed: dict[tuple[str, bytes], MusicnnOutput] = {}
    for mel in mel_16k:
        slice_patches = cut_patches(compress(mel), patches)
        with torch.inference_mode():
            for name, network in networks.items():
                for layer, values in _extract_patches(name, network, slice_patches, computed).items():
                    features[f"{name}/{layer}"].append(values)
    return {
        key: np.stack(rows) if rows else np.zeros((0, WIDTHS[key.split("/")[1]]), np.float32)
        for key, rows in features.items()
    }


def cut_patches(mel_16k: Float32Array, patches: int) -> Float32Array:
    """Cut evenly spaced patches from a slice: shape (patches, 187, 96); fewer from a short slice."""
    frames = len(mel_16k)
    if frames < PATCH_FRAMES:
        mel_16k, frames = np.resize(mel_16k, (PATCH_FRAMES, mel_16k.shape[1])), PATCH_FRAMES
    starts = np.unique(np.linspace(0, frames - PATCH_FRAMES, patches).round().astype(int))
    return np.stack([mel_16k[start : start + PATCH_FRAMES] for start in starts])


def pool_patches(outputs: MusicnnOutput, slices: int) -> dict[str, torch.Tensor]:
    """Average each layer over the patches of each slice: shape (slices, width)."""
    # Linear classifiers work better on log odds than on probabilities, most of which are near 0.
    layers = outputs._replace(tags=torch.logit(outputs.tags, _MIN_TAG))
    return {layer: getattr(layers, layer).unflatten(0, (slices, -1)).mean(dim=1) for layer in LAYERS}


def network_graphs(networks: Mapping[MusicnnName, Musicnn]) -> dict[str, Graph]:
    """Return graphs of the networks, from patches of log mel power, (n, 187, 96), to all outputs."""
    shape = (2, PATCH_FRAMES, BANDS)
    example = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return {
        graph_name(name): Graph(network, example, MusicnnOutput._fields, bf16=False)
        for name, network in networks.items()
    }


def run_networks(networks: Mapping[MusicnnName, Musicnn], runners: Mapping[str, Runner]) -> dict[MusicnnName, Backend]:
    """Wrap runners as replacements of the networks."""
    return {name: _as_backend(runners[graph_name(name)]) for name in networks}


def graph_name(network: MusicnnName) -> str:
    """Return the name of a network's graph."""
    return f"musicnn-{network}"


def _as_backend(run: Runner) -> Backend:
    run_tensors = wrap_runner(run)
    return lambda patches: MusicnnOutput(*run_tensors(patches))


def _extract_patches(
    name: str, network: Backend, patches: Float32Array, computed: dict[tuple[str, bytes], MusicnnOutput]
) -> dict[str, Float32Array]:
    """Average each layer over the patches of one slice; outputs of equal patches are reused.

    Explanations score many slices that differ in a second or two only.
    """
    keys = [(name, patch.tobytes()) for patch in patches]
    new = [place for place, key in enumerate(keys) if key not in computed]
    for at in range(0, len(new), _PATCH_BATCH_SIZE):
        places = new[at : at + _PATCH_BATCH_SIZE]
        inputs = torch.from_numpy(patches[places])
        outputs = network(inputs.to(device_of(network)) if isinstance(network, Musicnn) else inputs)
        for row, place in enumerate(places):
            computed[keys[place]] = MusicnnOutput(*(layer[row].cpu() for layer in outputs))
    joined = MusicnnOutput(*(torch.stack(layer) for layer in zip(*(computed[key] for key in keys), strict=True)))
    return {layer: values[0].numpy() for layer, values in pool_patches(joined, 1).items()}


def extract_dataset_features(
    dataset: SliceDataset,
    networks: Mapping[MusicnnName, Musicnn],
    patches: int,
    images: bool = False,
    progress: bool = False,
    tick: Callable[[int], None] | None = None,
    backends: Mapping[MusicnnName, Backend] | None = None,
    family: str = "musicnn",
) -> dict[str, Float32Array]:
    """Compute the networks' outputs for a data set, with a cache in the store.

    Outputs of `backends`, other runtimes of the same networks, are neither read from the cache nor saved to it.

    Raises
    ------
    TrainingError
        If the store lacks the feature `mel_16k`.
    """
    mel_16k = dataset.require_feature(MEL_16K, family)
    features: dict[str, Float32Array] = {}
    for name, network in networks.items():
        width = sum(WIDTHS[layer] for layer in LAYERS)
        cache_dataset = dataset if backends is None else replace(dataset, cache=None)
        cache = FeatureCache(cache_dataset, f"musicnn-{fingerprint_network(network)}-{patches}.npy", width)
        compute = partial(_extract_rows, name, network if backends is None else backends[name], mel_16k, patches)
        cached = cache.read(dataset.rows, compute, f"MusiCNN ({name})", progress)
        cuts = np.cumsum([WIDTHS[layer] for layer in LAYERS])[:-1]
        for layer, values in zip(LAYERS, np.split(cached, cuts, axis=1), strict=True):
            features[f"{name}/{layer}"] = values
    if images:
        features[IMAGES] = dataset_statistics(dataset, progress)
    if tick is not None:
        tick(len(dataset))
    return features


def _extract_rows(
    name: MusicnnName, network: Backend, mel_16k: Float16Array, patches: int, rows: Int64Array
) -> Float32Array:
    """Compute all layers for some rows of a store, joined along the last axis."""
    mel = np.asarray(mel_16k[rows])
    if isinstance(network, Musicnn) and device_of(network).type != "cpu":
        return _extract_on_accelerator(network, mel, patches)
    outputs = extract_features({name: network}, mel, patches)
    return np.concatenate([outputs[f"{name}/{layer}"] for layer in LAYERS], axis=1)


def _extract_on_accelerator(network: Musicnn, mel_16k: Float16Array, patches: int) -> Float32Array:
    """Compute all layers for slices in one batch, which needs more memory than `extract_features`."""
    slice_patches = np.concatenate([cut_patches(compress(mel), patches) for mel in mel_16k])
    with torch.inference_mode():
        outputs = network(torch.from_numpy(slice_patches).to(device_of(network)))
        pooled = pool_patches(outputs, len(mel_16k))
    joined: Float32Array = torch.cat([pooled[layer] for layer in LAYERS], dim=1).cpu().numpy()
    return joined


def save_networks(networks: Mapping[MusicnnName, Musicnn], folder: Path) -> list[str]:
    """Write networks to a bundle's folder, and return the file names."""
    for name, network in networks.items():
        save_file(network.state_dict(), folder / network_file(name))
    return [network_file(name) for name in networks]


def load_networks(names: Sequence[MusicnnName], folder: Path) -> dict[MusicnnName, Musicnn]:
    """Load what `save_networks` wrote. Raises OSError, SafetensorError, RuntimeError or BundleError."""
    networks = {}
    for name in names:
        path = folder / network_file(name)
        weights = load_file(path)
        networks[name] = build_musicnn(weights)
        require_finite(path, networks[name].state_dict())
    return networks


def network_file(name: str) -> str:
    """Return the file name of a network's weights."""
    return f"musicnn-{name}.safetensors"


def load_network(name: MusicnnName, weights: str = Weights.CACHED) -> Musicnn:
    """Load a network with the published weights ('cached'), or from a folder. Raises TrainingError."""
    if weights == Weights.CACHED:
        return build_musicnn(load_musicnn_weights(name))
    path = Path(weights) / network_file(name)
    try:
        return build_musicnn(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"{path}: not the weights of a MusiCNN network ({error}); give another folder, or '{Weights.CACHED}'"
        ) from error


def build_musicnn(weights: dict[str, torch.Tensor]) -> Musicnn:
    """Build a network with the given weights."""
    network = Musicnn().eval()
    network.load_state_dict(weights)
    return network


def fingerprint_network(network: torch.nn.Module) -> str:
    """Hash the values of a network's weights, for the names of cached features."""
    content = hashlib.sha256()
    for value in network.state_dict().values():
        content.update(value.cpu().numpy().tobytes())
    return content.hexdigest()[:12]
