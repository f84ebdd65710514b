"""Embeddings of audio files from a pretrained backbone, without training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array, Float64Array
from genretree.checks import require_integer
from genretree.files import printable
from genretree.models.pretrained.audio_backbones import AudioBackbone, load_backbone
from genretree.models.pretrained.backbone_checkpoints import find_checkpoint
from genretree.prediction.predict import FileOrFiles, PredictionError, map_files
from genretree.settings import ImageSettings
from genretree.sound.features import Inputs
from genretree.sound.slices import iter_slices, skip_silent, stack_slices

_BATCH_SIZE = 32  # slices in memory at a time


@dataclass(frozen=True)
class FileEmbeddings:
    """Embeddings of the slices of a file.

    Parameters
    ----------
    file : str
    starts : float64 array, shape (n_slices,)
        Start of each slice in seconds; silent slices are left out.
    vectors : float32 array, shape (n_slices, embedding_dim)
    """

    file: str
    starts: Float64Array
    vectors: Float32Array

    @property
    def mean(self) -> Float32Array:
        """The embedding of the file: the mean over its slices, shape (embedding_dim,)."""
        mean: Float32Array = self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


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
        require_integer("windows", windows)
        self.backbone = backbone if isinstance(backbone, AudioBackbone) else load_backbone(find_checkpoint(backbone))
        self.images = images or ImageSettings(slice_seconds=self.backbone.slice_seconds)
        self.windows = windows
        self.key = f"backbone-{self.backbone.fingerprint}-{self.images.slice_frames}-{windows}"

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbeddings:
        """Embed the slices of a file that are not silent; `salvage` uses what can be decoded of a truncated one.

        Raises
        ------
        SoundError
            If the file can't be used.
        """
        name = self.backbone.input_feature
        slices = skip_silent(iter_slices(path, self.images, salvage=salvage, features=[name]), path)
        starts: list[float] = []
        parts: list[Float32Array] = []
        while batch := list(islice(slices, _BATCH_SIZE)):
            starts += [float(item.start) for item in batch]
            parts.append(self.embed_inputs(stack_slices(batch)))
        return FileEmbeddings(printable(path), np.array(starts), np.concatenate(parts))

    def embed_inputs(self, inputs: Inputs) -> Float32Array:
        """Embed slices that have the network's input feature: shape (n_slices, embedding_dim)."""
        return self.backbone.embed(inputs[self.backbone.input_feature], self.windows)


def embed_files(
    files: FileOrFiles,
    backbone: str | AudioBackbone,
    *,
    images: ImageSettings | None = None,
    windows: int = 1,
    salvage: bool = False,
    workers: int = 2,
) -> Iterator[FileEmbeddings | PredictionError]:
    """Compute embeddings of audio files with a pretrained backbone, in order.

    Parameters
    ----------
    files : path or iterable of paths
        Audio files. Folders are searched for them.
    backbone : str or AudioBackbone
        `clap`, `maest`, `ast-audioset`, `hf://user/name@revision` or a folder; it must be on this machine.
    images : ImageSettings, optional
        Its `slice_seconds` is the length of a slice; by default that of the network's input, such as 10 s for CLAP and
        30 s for MAEST.
    windows : int
        Number of windows averaged where slices are longer than the network's input.
    salvage : bool
        Use what can be decoded of a truncated file.
    workers : int
        Files in work at a time, at most the number of processors.

    Returns
    -------
    iterator of FileEmbeddings or PredictionError
        One for each file. A bad file never stops the others.

    Raises
    ------
    TrainingError
        If the checkpoint is not on this machine or is damaged.
    ArgumentError
        If an argument has the wrong type.

    Examples
    --------
    >>> from genretree.prediction.backbone_embeddings import embed_files
    >>> [song] = embed_files("song.mp3", "clap")  # doctest: +SKIP
    >>> song.mean.shape  # doctest: +SKIP
    (512,)
    """
    require_integer("workers", workers)
    embedder = BackboneEmbedder(backbone, images, windows)
    return map_files(lambda file: embedder.embed_file(file, salvage), files, workers)
