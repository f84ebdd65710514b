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
from genretree.sound.slices import iter_slices, skip_silent, stack_slices

_BATCH_SIZE = 32  # slices in memory at a time


@dataclass(frozen=True)
class FileEmbeddings:
    """Embeddings of the slices of a file.

    Parameters
    ----------
    file : str
    starts : float64 array, shape (n,)
        Start of each slice in seconds; silent slices are left out.
    embeddings : float32 array, shape (n, embedding_dim)
    """

    file: str
    starts: Float64Array
    embeddings: Float32Array

    @property
    def mean(self) -> Float32Array:
        """One vector for the file: the mean over its slices, shape (embedding_dim,)."""
        mean: Float32Array = self.embeddings.mean(axis=0)
        return mean


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
    require_integer("windows", windows)
    require_integer("workers", workers)
    loaded = backbone if isinstance(backbone, AudioBackbone) else load_backbone(find_checkpoint(backbone))
    settings = images or ImageSettings(slice_seconds=loaded.slice_seconds)
    return map_files(lambda file: _embed_file(loaded, file, settings, windows, salvage), files, workers)


def _embed_file(
    backbone: AudioBackbone, file: Path, settings: ImageSettings, windows: int, salvage: bool
) -> FileEmbeddings:
    name = backbone.input_feature
    slices = skip_silent(iter_slices(file, settings, salvage=salvage, features=[name]), file)
    starts: list[float] = []
    parts: list[Float32Array] = []
    while batch := list(islice(slices, _BATCH_SIZE)):
        starts += [float(item.start) for item in batch]
        parts.append(backbone.embed(stack_slices(batch)[name], windows))
    return FileEmbeddings(printable(file), np.array(starts), np.concatenate(parts))
