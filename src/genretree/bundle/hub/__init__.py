"""Bundles on the Hugging Face Hub: names, cache, pull, push and model cards."""

from __future__ import annotations

from genretree.bundle.hub.download import Pulled, pull
from genretree.bundle.hub.find import find_bundle
from genretree.bundle.hub.upload import Pushed, push

__all__ = ["Pulled", "Pushed", "find_bundle", "pull", "push"]
