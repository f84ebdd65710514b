"""Where the weights that a model started from came from; importing this loads no other library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METADATA_FILE = "pretrained.json"


def read_pretrained_metadata(where: str) -> dict[str, Any]:
    """Read the metadata that `genretree pretrain` writes with weights; empty for other weights."""
    try:
        content = json.loads((Path(where) / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def initial_weights(model: Any) -> dict[str, str] | None:
    """Return the source of the pretrained weights that a model was trained from; None for random initial weights.

    Returns
    -------
    dict of str to str, or None
        source, file, sha256, and revision and licence if known.
    """
    origin: dict[str, str] | None = getattr(model, "initial_weights", None)
    if origin is not None:
        return origin
    network = getattr(getattr(model, "model", model), "network", None)
    config = getattr(getattr(network, "backbone", None), "config", None)
    return getattr(config, "initial_weights", None)
