"""Backbones from transformers: from a checkpoint, from a bundle, or new; never random in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

from genretree.errors import BundleError, TrainingError
from genretree.models.network import BACKBONE_FILE, WEIGHTS_FILE

FACTS_FILE = "pretrained.json"
STUDENT = "student"  # what `genretree pretrain` made of free music, and comes with the package


def find_weights(weights: str, family: str, modalities: Sequence[str]) -> str:
    """Give the folder of the weights that come with the package for the name 'student'; other names as they are.

    Raises
    ------
    TrainingError
        If there are none for this family, or they learned to see other images than `modalities`, or in another order.
    """
    where = weights
    if weights == STUDENT:
        folder = resources.files("genretree") / "students" / family
        if not folder.is_dir():
            raise TrainingError(f"no weights named '{STUDENT}' come with genretree for {family}; give --weights FOLDER")
        where = str(folder)
    seen = read_facts(where).get("settings", {}).get("modalities")
    if seen is not None and list(modalities) != seen:
        raise TrainingError(
            f"{where}: learned to see {', '.join(seen)}, not {', '.join(modalities)}; "
            f"add --set modalities='[{', '.join(seen)}]'"
        )
    return where


def read_facts(where: str) -> dict[str, Any]:
    """Read what `genretree pretrain` wrote about weights; nothing of those from elsewhere."""
    try:
        content = json.loads((Path(where) / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def load_pretrained(kind: type[PreTrainedModel], name: str, **options: Any) -> PreTrainedModel:
    """Load a backbone from the Hugging Face Hub or a local folder; safetensors only, and every weight must be there.

    Parameters
    ----------
    kind : a transformers model class
    name : str
        Hub name, or the path of a folder that `save_pretrained` wrote.
    options
        Handed on to `from_pretrained`.

    Raises
    ------
    TrainingError
        If it can't be had or lacks weights; says how to get it.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        both: Any = kind.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
        )
    except Exception as error:  # the Hub's client, the file system and the format each have errors of their own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        local = Path(name).exists() or Path(name).is_absolute()
        how = (
            "give a folder that save_pretrained wrote, with model.safetensors and config.json"
            if local
            else f"fetch them where there is a network (hf download {name}) and give the folder"
        )
        raise TrainingError(
            f"the weights '{name}' can't be had ({first.rstrip('.')}); {how} with --weights FOLDER (in a "
            "comparison --set FAMILY:weights=FOLDER), or train from scratch with --weights none"
        ) from error
    backbone: PreTrainedModel = both[0]
    missing = sorted(both[1]["missing_keys"])
    if missing:
        raise TrainingError(f"the weights '{name}' lack {len(missing)} parts of {kind.__name__}, first '{missing[0]}'")
    return backbone


def save_checkpoint(backbone: Any, folder: Path) -> None:
    """Write a backbone's weights, without the head's, in the form that `weights=FOLDER` takes up again.

    Matrices are stored as float16, which halves the folder: training starts from them, so nothing hangs on more digits.
    """
    inner = getattr(backbone, "backbone", None)
    if inner is not None:
        (folder / "config.json").write_text(inner.config.to_json_string(), encoding="utf-8")
    weights = {name: value for name, value in (inner or backbone).state_dict().items() if not _of_head(name)}
    packed = {name: value.half() if value.ndim > 1 else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in packed.items()}, folder / WEIGHTS_FILE, {"format": "pt"})


def load_plain(backbone: nn.Module, folder: str, channels: int) -> None:
    """Read what `save_checkpoint` wrote into a backbone that is not transformers'.

    Raises
    ------
    TrainingError
        If it can't be read, or is of another shape.
    """
    path = Path(folder) / WEIGHTS_FILE
    own = {name for name in backbone.state_dict() if not _of_head(name)}
    try:
        weights = load_file(path)
        if set(weights) != own:
            raise ValueError("weights of another model")
        backbone.load_state_dict(weights, strict=False)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"{path}: can't be used for a cnn that sees {channels} images ({first}); give a folder that "
            "'genretree pretrain --model cnn' wrote, or --weights none"
        ) from error


def _of_head(name: str) -> bool:
    return name.startswith("scores.")


def read_config(kind: type[PreTrainedConfig], folder: Path) -> Any:
    """Read what a bundle's backbone is made like.

    Raises
    ------
    BundleError
        If the file is missing or not such a description.
    """
    path = folder / BACKBONE_FILE
    try:
        config = kind.from_json_file(path)
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
    if not isinstance(config, kind):
        raise BundleError(f"{path}: doesn't describe a {kind.__name__}")
    return config


def adapt_input(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Make an input convolution of another number of channels that answers grey images as the old one did.

    The weights are the mean over the old channels, scaled by old / new, so the sum over equal channels stays the same.
    """
    if convolution.in_channels == channels:
        return convolution
    made = nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        mean = convolution.weight.mean(dim=1, keepdim=True) * (convolution.in_channels / channels)
        made.weight.copy_(mean.expand_as(made.weight))
        if made.bias is not None and convolution.bias is not None:
            made.bias.copy_(convolution.bias)
    return made


class PooledBackbone(nn.Module):
    """A transformers backbone, dropout, and one linear layer for the scores of all heads."""

    def __init__(self, backbone: Any, pool: Callable[[Any], Tensor], width: int, dropout: float, n_scores: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.config = backbone.config
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(width, n_scores)
        self.width = width

    def features(self, images: Tensor) -> Tensor:
        """Give the pooled features, shape (n, width)."""
        return self.pool(self.backbone(images))

    def classify(self, features: Tensor) -> Tensor:
        """Give the scores of all heads, side by side."""
        scores: Tensor = self.scores(self.dropout(features))
        return scores
