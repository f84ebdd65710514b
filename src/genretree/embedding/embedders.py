"""Networks that embed audio files: mn04, MusiCNN, or the model of a bundle."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from genretree.arrays import Float32Array, Float64Array
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import read_description
from genretree.checks import require_integer
from genretree.errors import ArgumentError, SoundError, TrainingError
from genretree.explanation.bundle_weights import load_weights_for
from genretree.models.base import embed_slices
from genretree.models.pretrained.names import MusicnnName
from genretree.models.pretrained.sources import has_mn04
from genretree.models.runtime.types import EXPORT_FORMATS
from genretree.prediction.predict import iter_inputs
from genretree.settings import ImageSettings
from genretree.sound.decode import SILENCE_PEAK, iter_blocks
from genretree.sound.features import MEL_16K, MEL_32K, SliceInputs
from genretree.sound.mel_32k import MEL_32K_RATE, compute_mel_32k
from genretree.sound.slices import FeatureSlice, skip_silent, slice_feature_blocks, stack_slices

if TYPE_CHECKING:
    from genretree.models.pretrained.audio_backbones import AudioBackbone
    from genretree.models.pretrained.musicnn_features import Backend

_BATCH = 32  # slices computed before they are embedded
_WINDOW_SECONDS = 10.0  # what mn04 was trained on
_WINDOW_FRAMES = 1000
_MUSICNN_PATCHES = 4  # evenly spaced in each slice, as for predictions without a bundle
_NOT_WEIGHTS = (*EXPORT_FORMATS, "index")  # files of a bundle below these folders don't change its embeddings


@dataclass(frozen=True)
class FileEmbedding:
    """Embeddings of the slices of a file.

    Parameters
    ----------
    starts : float64 array, shape (n_slices,)
        Start of each slice in seconds, without silent slices.
    vectors : float32 array, shape (n_slices, embedding_dim)
    """

    starts: Float64Array
    vectors: Float32Array

    @cached_property
    def mean(self) -> Float32Array:
        """The embedding of the file: the mean over its slices, shape (embedding_dim,)."""
        mean: Float32Array = self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


def embed_batches(slices: Iterator[FeatureSlice], embed_inputs: Callable[[SliceInputs], Float32Array]) -> FileEmbedding:
    """Embed the slices of one track, at least one, in batches, so that memory doesn't grow with its length."""
    starts, vectors = [], []
    while batch := list(itertools.islice(slices, _BATCH)):
        starts += [item.start for item in batch]
        vectors.append(embed_inputs(stack_slices(batch)))
    return FileEmbedding(np.array(starts), np.concatenate(vectors))


class Embedder(Protocol):
    """Embeds audio files.

    Parameters
    ----------
    key : str
        Identifies the network, its weights and all settings that change the embeddings. Only embeddings with the same
        key can be compared.
    """

    key: str

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        """Embed the slices of a file; `salvage` uses what can be decoded of a truncated one.

        Raises
        ------
        SoundError
            If the file can't be used.
        """


class Mn04Embedder:
    """Embeds windows of 10 s with mn04: 384 dimensions.

    As published, windows begin every 10 s, and a shorter last window counts if it has at least 5 s.
    """

    def __init__(self) -> None:
        from genretree.models.pretrained.mn04_weights import DIGEST, load_mn04

        self.key = f"mn04-{DIGEST[:12]}"
        self._network = load_mn04()

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        """Embed the windows of a file that are not silent."""
        import torch

        starts, vectors = [], []
        with torch.inference_mode():
            for start, y in self._iter_windows(path, salvage):
                if np.abs(y).max() >= SILENCE_PEAK:
                    mel = torch.from_numpy(np.ascontiguousarray(compute_mel_32k(y)))
                    starts.append(start)
                    vectors.append(self._network(mel[None, None]).embedding[0].numpy())
        if not vectors:
            raise SoundError("silence", path, "silent but for less than 5 s at its end; nothing can be embedded")
        return FileEmbedding(np.array(starts), np.stack(vectors))

    def embed_inputs(self, inputs: SliceInputs) -> Float32Array:
        """Embed the first 10 s of slices that have the feature `mel_32k`: shape (n_slices, 384)."""
        import torch

        mel = np.asarray(inputs[MEL_32K], np.float32)[:, None, :, :_WINDOW_FRAMES]
        with torch.inference_mode():
            parts = [self._network(torch.from_numpy(mel[at : at + 4])).embedding for at in range(0, len(mel), 4)]
        embeddings: Float32Array = torch.cat(parts).numpy()
        return embeddings

    def _iter_windows(self, path: Path, salvage: bool) -> Iterator[tuple[float, Float32Array]]:
        n_samples = round(_WINDOW_SECONDS * MEL_32K_RATE)
        rest, n_windows = np.zeros(0, np.float32), 0
        for block in iter_blocks(path, MEL_32K_RATE, salvage):
            rest = np.concatenate([rest, block])
            while len(rest) >= n_samples:
                yield n_windows * _WINDOW_SECONDS, rest[:n_samples]
                rest, n_windows = rest[n_samples:], n_windows + 1
        if n_windows == 0 or 2 * len(rest) >= n_samples:
            yield n_windows * _WINDOW_SECONDS, rest


class MusicnnEmbedder:
    """Embeds slices of 11.4 s with the published MusiCNN networks: the last layers before the tags, 400 numbers."""

    def __init__(self) -> None:
        from genretree.models.pretrained.musicnn_features import load_network
        from genretree.models.pretrained.musicnn_weights import digest

        names: tuple[MusicnnName, ...] = ("msd", "mtt")
        self._networks: dict[MusicnnName, Backend] = {}
        hashes = []
        for name in names:
            network = load_network(name)
            self._networks[name] = network
            hashes.append(digest(network.state_dict()))
        self.key = f"pretrained-musicnn-{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:12]}"

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        """Embed the slices of a file that are not silent."""
        decode_at = partial(iter_blocks, path, salvage=salvage)
        slices = skip_silent(slice_feature_blocks(decode_at, ImageSettings(), (MEL_16K,)), path)
        return embed_batches(slices, self.embed_inputs)

    def embed_inputs(self, inputs: SliceInputs) -> Float32Array:
        """Embed slices that have the feature `mel_16k`: shape (n_slices, 400)."""
        from genretree.models.pretrained.musicnn_features import extract_features

        features = extract_features(self._networks, np.asarray(inputs[MEL_16K]), _MUSICNN_PATCHES)
        return np.concatenate([features[f"{name}/penultimate"] for name in self._networks], axis=1)


class BundleEmbedder:
    """Embeds slices with the model of a bundle: the input of its last layer."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = load_weights_for(bundle)
        self.key = f"{bundle.family}-{_weights_digest(read_description(bundle.folder))}"

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        """Embed the slices of a file that are not silent."""
        slices = iter_inputs(self.bundle, partial(iter_blocks, path, salvage=salvage), path)
        return embed_batches(slices, self.embed_inputs)

    def embed_inputs(self, inputs: SliceInputs) -> Float32Array:
        """Embed slices: shape (n_slices, embedding_dim)."""
        return embed_slices(self.bundle.model, inputs)


class BackboneName(str):
    """Name of a backbone, which distinguishes it from the folder or Hub name of a bundle.

    Examples
    --------
    >>> BackboneName("clap")
    'clap'
    """

    __slots__ = ()


class BackboneEmbedder:
    """Embeds audio files with a pretrained backbone.

    Parameters
    ----------
    backbone : str or AudioBackbone
        `clap`, `maest`, `ast-audioset`, `hf://user/name@revision` or a folder; it must be on this machine.
    images : ImageSettings, optional
        Its `slice_seconds` is the length of a slice; by default that of the network's input, such as 10 s for CLAP and
        30 s for MAEST.
    windows : int
        Number of windows averaged where slices are longer than the network's input.

    Attributes
    ----------
    key : str
        Identifies the network, its weights and the settings. Only embeddings with the same key can be compared.

    Raises
    ------
    TrainingError
        If the checkpoint is not on this machine or is damaged.
    """

    def __init__(self, backbone: str | AudioBackbone, images: ImageSettings | None = None, windows: int = 1) -> None:
        from genretree.models.pretrained.audio_backbones import AudioBackbone, load_backbone
        from genretree.models.pretrained.backbone_checkpoints import find_checkpoint

        require_integer("windows", windows)
        self.backbone = backbone if isinstance(backbone, AudioBackbone) else load_backbone(find_checkpoint(backbone))
        self.images = images or ImageSettings(slice_seconds=self.backbone.slice_seconds)
        self.windows = windows
        self.key = f"backbone-{self.backbone.fingerprint}-{self.images.slice_frames}-{windows}"

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        """Embed the slices of a file that are not silent; `salvage` uses what can be decoded of a truncated one.

        Raises
        ------
        SoundError
            If the file can't be used.
        """
        decode_at = partial(iter_blocks, path, salvage=salvage)
        slices = skip_silent(slice_feature_blocks(decode_at, self.images, (self.backbone.input_feature,)), path)
        return embed_batches(slices, self.embed_inputs)

    def embed_inputs(self, inputs: SliceInputs) -> Float32Array:
        """Embed slices that have the network's input feature: shape (n_slices, embedding_dim)."""
        return self.backbone.embed(inputs[self.backbone.input_feature], self.windows)


def _weights_digest(description: Mapping[str, Any]) -> str:
    """Hash everything in a bundle that changes its embeddings."""
    files = {
        name: digest
        for name, digest in description["files"].items()
        if Path(name).parts[0] not in _NOT_WEIGHTS and Path(name).suffix != ".csv"
    }
    identity = [{name: description.get(name) for name in ("family", "images", "settings")}, files]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def load_embedder(bundle: str | Path | None = None, download: bool = False) -> Embedder:
    """Load the network that embeds files.

    Parameters
    ----------
    bundle : path or str, optional
        Folder of a bundle, or its name on the Hub; or a `BackboneName`. Default: mn04 if its weights are on this
        machine, otherwise MusiCNN.
    download : bool
        Download a Hub bundle that is not in the cache.

    Raises
    ------
    BundleError
        If the bundle can't be read.
    TrainingError
        If no bundle is given and no weights are on this machine.
    """
    if isinstance(bundle, BackboneName):
        return BackboneEmbedder(bundle)
    if bundle is not None:
        return BundleEmbedder(load_bundle(bundle, download=download))
    if has_mn04():
        return Mn04Embedder()
    try:
        return MusicnnEmbedder()
    except TrainingError as error:
        raise TrainingError(
            "no network that embeds is on this machine; run: genretree weights get mn04; or name a bundle in `bundle`"
        ) from error


def load_embedder_for(key: str, bundle: str | Path | None = None, download: bool = False) -> Embedder:
    """Load the network that made some embeddings, so that a further file can be compared with them.

    Parameters
    ----------
    key : str
        Key of the embedder that made them.
    bundle, download
        As for `load_embedder`.

    Raises
    ------
    ArgumentError
        If the network is another one.
    BundleError, TrainingError
        As for `load_embedder`.
    """
    if bundle is None and key.startswith("mn04-"):
        embedder: Embedder = Mn04Embedder()
    elif bundle is None and key.startswith("pretrained-musicnn-"):
        embedder = MusicnnEmbedder()
    else:
        embedder = load_embedder(bundle, download)
    if embedder.key != key:
        raise ArgumentError(
            f"the embeddings were made by {key}, not by {embedder.key}; name the bundle that made them in `bundle`"
        )
    return embedder
