"""Weights of MusiCNN: download of the published wheel with a pinned hash, conversion and cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genretree.errors import TrainingError
from genretree.files import atomic_path, cache_folder, sha256_file
from genretree.models.pretrained.musicnn import from_tensorflow
from genretree.models.pretrained.names import MUSICNN_NAMES, MusicnnName
from genretree.models.pretrained.tensorflow_checkpoint import read_tensors

REQUIREMENT = "musicnn==0.1.0"
WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
PAGE = "https://pypi.org/project/musicnn/0.1.0/#files"
# Hashes of names, shapes and values, which verify the cached weights.
DIGESTS = {
    "msd": "aaf808dd9fc706f73ddbf760d3588fc9508db0a184e213f4daa9640dbb6115eb",
    "mtt": "dac428ac840994672a5809d9210ba4c7d4b3171548f570f600cd5dd04cc2bc88",
}


def weights_file(network: MusicnnName) -> Path:
    """Return the path of a network's weights in the cache."""
    return cache_folder() / f"musicnn-{network}.safetensors"


def load_musicnn_weights(network: MusicnnName) -> dict[str, Tensor]:
    """Load a network's weights from the cache.

    Raises
    ------
    TrainingError
        If the weights are missing or not the published ones.
    """
    path = weights_file(network)
    advice = "get them with `genretree weights get musicnn`"
    if not path.is_file():
        raise TrainingError(f"the weights of MusiCNN are not on this machine ({path}); {advice}")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: can't be read ({error}); {advice}") from error
    if digest(weights) != DIGESTS[network]:
        raise TrainingError(f"{path}: not the published weights (the hash differs); {advice}")
    return weights


def get_musicnn(wheel: str | Path | None = None) -> list[Path]:
    """Download or convert both networks' weights to the cache.

    Parameters
    ----------
    wheel : path, optional
        The published wheel. By default pip downloads it, with the user's settings.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    TrainingError
        If the wheel can't be downloaded or is not the published one.
    """
    if wheel is not None:
        return _unpack(Path(wheel))
    with suppress(TrainingError):
        for network in MUSICNN_NAMES:
            load_musicnn_weights(network)
        return [weights_file(network) for network in MUSICNN_NAMES]  # nothing to download
    with tempfile.TemporaryDirectory() as folder:
        return _unpack(_download(Path(folder)))


def digest(weights: dict[str, Tensor]) -> str:
    """Hash names, shapes and values of weights, independently of the file format."""
    content = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].contiguous().numpy()
        content.update(f"{name} {array.dtype} {array.shape}\n".encode())
        content.update(array.tobytes())
    return content.hexdigest()


def _download(folder: Path) -> Path:
    """Download the wheel without dependencies. None of its code is run or installed, and pip checks the hash, too."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        "--dest",
        str(folder),
        "--requirement",
        str(requirements),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        reason = (process.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise TrainingError(
            f"{REQUIREMENT} can't be downloaded ({reason}); download its wheel from {PAGE} and run "
            "`genretree weights get musicnn --file WHEEL`"
        )
    return wheels[0]


def _unpack(wheel: Path) -> list[Path]:
    if not wheel.is_file():
        raise TrainingError(f"{wheel}: no such file; download the wheel from {PAGE}")
    if sha256_file(wheel) != WHEEL_SHA256:
        raise TrainingError(
            f"{wheel}: not the published wheel of {REQUIREMENT} (the SHA-256 differs); download it from {PAGE}"
        )
    written = []
    with zipfile.ZipFile(wheel) as archive:
        for network in MUSICNN_NAMES:
            folder = f"musicnn/{network.upper()}_musicnn/"
            tensors = read_tensors(archive.read(f"{folder}.index"), archive.read(f"{folder}.data-00000-of-00001"))
            path = weights_file(network)
            with atomic_path(path) as temporary:
                save_file(from_tensorflow(tensors), temporary)
            written.append(path)
    return written
