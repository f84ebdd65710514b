"""The weights of a bundle that runs by an export: what asks for gradients or for features needs them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import DESCRIPTION
from genretree.files import sha256_file
from genretree.models.neural.exported_model import ExportedFeatures, ExportedNetwork


def load_weights_for(bundle: Bundle) -> Bundle:
    """Give the bundle with its network in torch, in float32, where an export runs it without; else as it is.

    Raises
    ------
    BundleError
        If its folder has changed since, and can't be read.
    """
    if not isinstance(bundle.model, ExportedNetwork | ExportedFeatures):
        return bundle
    return _load(bundle.folder, sha256_file(bundle.folder / DESCRIPTION))


@lru_cache(maxsize=2)  # a service asks again and again
def _load(folder: Path, digest: str) -> Bundle:
    return load_bundle(folder, "torch", "float32")
