"""What the published MusiCNN networks hear in slices, and the images' statistics; computed once and kept."""

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
from genretree.models.pretrained.names import CACHED, MusicnnName
from genretree.models.runtime.graph import Graph, wrap_runner
from genretree.models.runtime.types import Runner
from genretree.sound.features import MEL_16K
from genretree.sound.mel_16k import compress

Layer = Literal["tags", "mean_pool", "max_pool", "penultimate", "images"]
LAYERS: tuple[Layer, ...] = ("tags", "mean_pool", "max_pool", "penultimate")
IMAGES: Layer = "images"  # no layer of a network but the statistics of the images
WIDTHS: dict[str, int] = {"tags": 50, "mean_pool": 753, "max_pool": 753, "penultimate": 200, IMAGES: STATISTICS}
_PATCHES_AT_A_TIME = 3  # the largest array between layers then stays below what the allocator keeps
_LEAST_TAG = 1e-4


Backend = Callable[[torch.Tensor], MusicnnOutput]  # a network, or what runs it in torch's place


def extract_features(
    networks: Mapping[MusicnnName, Backend],
    mel_16k: Float16Array,
    patches: int,
) -> dict[str, Float32Array]:
    """Give what networks say of slices, by `network/layer`: arrays (n, width), the mean over each slice's patches.

    Parameters
    ----------
    networks : mapping of name to network
    mel_16k : array, shape (n, frames, 96)
        Mel power, as `genretree.sound.mel_16k` computes it; what is shorter than a patch of 187 frames is repeated.
    patches : int
        How many to hear of each slice, spread evenly.
    """
    found: dict[str, list[Float32Array]] = {f"{name}/{layer}": [] for name in networks for layer in LAYERS}
    known: dict[tuple[str, bytes], MusicnnOutput] = {}
    for piece in mel_16k:
        chosen = cut_patches(compress(piece), patches)
        with torch.inference_mode():
            for name, network in networks.items():
                for layer, values in _extract_patches(name, network, chosen, known).items():
                    found[f"{name}/{layer}"].append(values)
    return {
        key: np.stack(rows) if rows else np.zeros((0, WIDTHS[key.split("/")[1]]), np.float32)
        for key, rows in found.items()
    }


def cut_patches(mel_16k: Float32Array, patches: int) -> Float32Array:
    """Cut evenly spread patches from one slice: shape (patches, 187, 96); one if it is no longer than that."""
    frames = len(mel_16k)
    if frames < PATCH_FRAMES:
        mel_16k, frames = np.resize(mel_16k, (PATCH_FRAMES, mel_16k.shape[1])), PATCH_FRAMES
    starts = np.unique(np.linspace(0, frames - PATCH_FRAMES, patches).round().astype(int))
    return np.stack([mel_16k[start : start + PATCH_FRAMES] for start in starts])


def pool_patches(heard: MusicnnOutput, slices: int) -> dict[str, torch.Tensor]:
    """Average each layer over the patches of each slice: shape (slices, width)."""
    # Probabilities crowd at 0; their log odds are what a linear classifier can use.
    layers = heard._replace(tags=torch.logit(heard.tags, _LEAST_TAG))
    return {layer: getattr(layers, layer).unflatten(0, (slices, -1)).mean(dim=1) for layer in LAYERS}


def network_graphs(networks: Mapping[MusicnnName, Musicnn]) -> dict[str, Graph]:
    """Give the networks from patches of log mel power, (n, 187, 96), to all layers."""
    shape = (2, PATCH_FRAMES, BANDS)
    example = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return {
        graph_name(name): Graph(network, example, MusicnnOutput._fields, bf16=False)
        for name, network in networks.items()
    }


def run_networks(networks: Mapping[MusicnnName, Musicnn], runners: Mapping[str, Runner]) -> dict[MusicnnName, Backend]:
    """Give what runs the networks in torch's place."""
    return {name: _as_backend(runners[graph_name(name)]) for name in networks}


def graph_name(network: MusicnnName) -> str:
    """Name of a network's graph."""
    return f"musicnn-{network}"


def _as_backend(run: Runner) -> Backend:
    given = wrap_runner(run)
    return lambda patches: MusicnnOutput(*given(patches))


def _extract_patches(
    name: str, network: Backend, patches: Float32Array, known: dict[tuple[str, bytes], MusicnnOutput]
) -> dict[str, Float32Array]:
    """Average each layer over the patches of one slice; a patch that was heard before is not heard again.

    Explanations ask for many slices that differ in a second or two.
    """
    keys = [(name, patch.tobytes()) for patch in patches]
    new = [place for place, key in enumerate(keys) if key not in known]
    for at in range(0, len(new), _PATCHES_AT_A_TIME):
        places = new[at : at + _PATCHES_AT_A_TIME]
        heard = network(torch.from_numpy(patches[places]))
        for row, place in enumerate(places):
            known[keys[place]] = MusicnnOutput(*(layer[row] for layer in heard))
    joined = MusicnnOutput(*(torch.stack(layer) for layer in zip(*(known[key] for key in keys), strict=True)))
    return {layer: values[0].numpy() for layer, values in pool_patches(joined, 1).items()}


def extract_dataset_features(
    examples: SliceDataset,
    networks: Mapping[MusicnnName, Musicnn],
    patches: int,
    images: bool = False,
    progress: bool = False,
    tick: Callable[[int], None] | None = None,
    backends: Mapping[MusicnnName, Backend] | None = None,
) -> dict[str, Float32Array]:
    """Hear all slices of a part, but for those that were heard in an earlier training on the same store.

    What is heard by `backends`, other runtimes of the same networks, is neither taken from there nor kept.
    """
    sound = examples.features.get(MEL_16K)
    if sound is None:
        raise TrainingError(
            f"musicnn needs the feature {MEL_16K}, and this store does not have it; if it was made from audio, prepare "
            f"the same source into the same store with the feature {MEL_16K}, which adds it; or choose another family"
        )
    found: dict[str, Float32Array] = {}
    for name, network in networks.items():
        width = sum(WIDTHS[layer] for layer in LAYERS)
        kept_in = examples if backends is None else replace(examples, cache=None)
        cache = FeatureCache(kept_in, f"musicnn-{_fingerprint(network)}-{patches}.npy", width)
        listen = partial(_extract_rows, name, network if backends is None else backends[name], sound, patches)
        kept = cache.read(examples.rows, listen, f"hear ({name})", progress)
        cuts = np.cumsum([WIDTHS[layer] for layer in LAYERS])[:-1]
        for layer, values in zip(LAYERS, np.split(kept, cuts, axis=1), strict=True):
            found[f"{name}/{layer}"] = values
    if images:
        found[IMAGES] = dataset_statistics(examples, progress)
    if tick is not None:
        tick(len(examples))
    return found


def _extract_rows(
    name: MusicnnName, network: Backend, sound: Float16Array, patches: int, rows: Int64Array
) -> Float32Array:
    """Hear some rows of a store, all layers side by side."""
    heard = extract_features({name: network}, np.asarray(sound[rows]), patches)
    return np.concatenate([heard[f"{name}/{layer}"] for layer in LAYERS], axis=1)


def save_networks(networks: Mapping[MusicnnName, Musicnn], folder: Path) -> list[str]:
    """Write networks into a bundle's folder; gives the names of the files."""
    for name, network in networks.items():
        save_file(network.state_dict(), folder / network_file(name))
    return [network_file(name) for name in networks]


def load_networks(names: Sequence[MusicnnName], folder: Path) -> dict[MusicnnName, Musicnn]:
    """Read what `save_networks` wrote. Raises OSError, SafetensorError, RuntimeError or BundleError if it can't be."""
    networks = {}
    for name in names:
        path = folder / network_file(name)
        weights = load_file(path)
        networks[name] = build_musicnn(weights)
        require_finite(path, networks[name].state_dict())
    return networks


def network_file(name: str) -> str:
    """Name of the file of a network's weights, in a folder."""
    return f"musicnn-{name}.safetensors"


def load_network(name: MusicnnName, where: str = CACHED) -> Musicnn:
    """Load a network from the cache of published weights, or from a folder that was named."""
    if where == CACHED:
        return build_musicnn(load_musicnn_weights(name))
    path = Path(where) / network_file(name)
    try:
        return build_musicnn(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(f"{path}: no weights of a MusiCNN network ({error})") from error


def build_musicnn(weights: dict[str, torch.Tensor]) -> Musicnn:
    """Make a network of given weights."""
    network = Musicnn().eval()
    network.load_state_dict(weights)
    return network


def _fingerprint(network: Musicnn) -> str:
    content = hashlib.sha256()
    for value in network.state_dict().values():
        content.update(value.numpy().tobytes())
    return content.hexdigest()[:12]
