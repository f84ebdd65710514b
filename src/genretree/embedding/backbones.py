"""Embeddings of audio files from a pretrained backbone, without training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genretree.checks import require_integer
from genretree.embedding.embedders import BackboneEmbedder, FileEmbedding
from genretree.files import printable
from genretree.models.pretrained.audio_backbones import AudioBackbone
from genretree.parallel import FILE_WORKERS
from genretree.prediction.predict import FileOrFiles, PredictionError, map_files
from genretree.settings import ImageSettings


@dataclass(frozen=True)
class FileEmbeddings(FileEmbedding):
    """Embeddings of the slices of a file, and its name."""

    file: str = ""


def embed_files(
    files: FileOrFiles,
    backbone: str | AudioBackbone,
    *,
    images: ImageSettings | None = None,
    windows: int = 1,
    salvage: bool = False,
    workers: int = FILE_WORKERS,
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
    >>> from genretree.embedding.backbones import embed_files
    >>> [song] = embed_files("song.mp3", "clap")  # doctest: +SKIP
    >>> song.mean.shape  # doctest: +SKIP
    (512,)
    """
    require_integer("workers", workers)
    embedder = BackboneEmbedder(backbone, images, windows)

    def embed(file: Path) -> FileEmbeddings:
        embedding = embedder.embed_file(file, salvage)
        return FileEmbeddings(embedding.starts, embedding.vectors, printable(file))

    return map_files(embed, files, workers)
