"""Weights of mn04: fetched from the publishers' release or taken from a file, and stored as safetensors."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genretree.errors import BundleError, TrainingError
from genretree.files import atomic_path, sha256_file
from genretree.models.finite_weights import require_finite
from genretree.models.pretrained.mn04 import Mn04, build_mn04, read_published
from genretree.models.pretrained.musicnn_weights import digest
from genretree.models.pretrained.sources import MN04, MN04_FILE, find_source, mn04_path
from genretree.models.pretrained.weight_files import download_published

# Hash of names, shapes and numbers, so that what lies in the cache is known to be what was published.
DIGEST = "3305a68889cb2a54628f8e173e24c16c896b7039952cd708692f47d7950378c4"
_HOW = "get them with: genretree weights get mn04"


def load_mn04(where: str | Path | None = None) -> Mn04:
    """Load the network from the cache, or from a bundle's folder.

    Parameters
    ----------
    where : path, optional
        A folder with `mn04.safetensors`; by default the cache, whose content is checked to be what was published.

    Raises
    ------
    TrainingError
        If the weights are not there, can't be read, or are not those that were published.
    BundleError
        If they contain NaN or infinity.
    """
    path = mn04_path() if where is None else Path(where) / MN04_FILE
    if not path.is_file():
        raise TrainingError(f"the weights of mn04 are not on this machine ({path}); {_HOW}")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); {_HOW}") from error
    if where is None and digest(weights) != DIGEST:
        raise TrainingError(f"{path}: not the published weights (the hash differs); {_HOW}")
    require_finite(path, weights)
    return build_mn04(weights)


def save_mn04(network: Mn04, folder: Path) -> str:
    """Write the network to a bundle's folder, and return the file's name."""
    save_file(network.state_dict(), folder / MN04_FILE)
    return MN04_FILE


def get_mn04(file: Path | None = None) -> Path:
    """Put the weights into the cache, unless they are there.

    Parameters
    ----------
    file : path, optional
        The published checkpoint, `mn04_as_mAP_432.pt`; downloaded if not given.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    TrainingError
        If the checkpoint can't be downloaded or is not the published one.
    """
    source = find_source(MN04)
    assert source is not None
    path = mn04_path()
    if file is None:
        with suppress(TrainingError, BundleError):
            load_mn04()
            return path
        with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
            published = Path(folder) / Path(source.location).name
            download_published(source, published)
            return get_mn04(published)
    if not file.is_file():
        raise TrainingError(f"{file}: no such file; it is at {source.location}")
    found = sha256_file(file)
    if found != source.sha256:
        raise TrainingError(
            f"{file}: not the published checkpoint of mn04 (SHA-256 {found[:12]}... instead of "
            f"{str(source.sha256)[:12]}...); get it from {source.location}"
        )
    weights: dict[str, Tensor] = {name: value.contiguous() for name, value in read_published(file).items()}
    build_mn04(weights)
    with atomic_path(path) as temporary:
        save_file(weights, temporary)
    return path
