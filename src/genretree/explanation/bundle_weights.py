"""Loading the PyTorch weights of a bundle that runs an export, for gradients and embeddings."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import DESCRIPTION
from genretree.files import sha256_file
from genretree.models.differentiable import has_weights


def load_weights_for(bundle: Bundle) -> Bundle:
    """Load the network in PyTorch and float32 if the bundle runs an export; otherwise return the bundle.

    Raises
    ------
    BundleError
        If the folder of the bundle has changed and cannot be read.
    """
    if has_weights(bundle.model):
        return bundle
    return _load(bundle.folder, sha256_file(bundle.folder / DESCRIPTION))


@lru_cache(maxsize=2)  # the service calls this for every request
def _load(folder: Path, digest: str) -> Bundle:
    return load_bundle(folder, "torch", "float32")
