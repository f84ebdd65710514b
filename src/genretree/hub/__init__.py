"""Bundles on the Hugging Face Hub: their names, those that were pulled, pulling, pushing and the model card."""

from __future__ import annotations

from genretree.hub.pull import Pulled, find_bundle, pull
from genretree.hub.push import Pushed, push

__all__ = ["Pulled", "Pushed", "find_bundle", "pull", "push"]
