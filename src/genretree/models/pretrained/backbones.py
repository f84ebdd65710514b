"""Backbones from transformers: from a checkpoint, from a bundle, or new; never random in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

from genretree.errors import BundleError, TrainingError
from genretree.files import read_json_text
from genretree.models.pretrained.download import open_checkpoint
from genretree.models.pretrained.names import BACKBONE_FILE, WEIGHTS_FILE
from genretree.models.pretrained.sources import STUDENT, find_source
from genretree.models.pretrained.weight_files import Checkpoint, explain_mismatch, read_weights

FACTS_FILE = "pretrained.json"
# What a network's description may hold at most: far more than any that is published.
_MAX_CONFIG_BYTES = 1 << 20
_MAX_LAYERS = 1000  # and entries of a list
_MAX_WIDTH = 1 << 20
_COUNTER = "num_batches_tracked"  # lacks in old files, and only counts
# What other models in transformers put on the same backbone, and what ours leaves out.
_OTHER_HEADS = re.compile(r"(?:^|\.)(?:classifier|pooler|decoder|lm_head|head)\.")


def find_weights(weights: str, family: str, modalities: Sequence[str]) -> str:
    """Give the folder of the weights that come with the package for the name 'student'; other names as they are.

    Raises
    ------
    TrainingError
        If there are none for this family, or they learned to see other images than `modalities`, or in another order.
    """
    where = weights
    source = find_source(weights)
    if source is not None and weights != STUDENT and family not in source.families:
        raise TrainingError(
            f"the weights '{weights}' are for {', '.join(source.families) or 'track recovery'}, not {family}; choose "
            "others from: genretree weights list, or train from scratch with `weights='none'`"
        )
    if weights == STUDENT:
        folder = resources.files("genretree") / "students" / family
        if not folder.is_dir():
            raise TrainingError(f"no weights named '{STUDENT}' come with genretree for {family}; use `weights=FOLDER`")
        where = str(folder)
    seen = read_pretrained_metadata(where).get("settings", {}).get("modalities")
    if seen is not None and list(modalities) != seen:
        raise TrainingError(
            f"{where}: learned to see {', '.join(seen)}, not {', '.join(modalities)}; use `modalities={seen}`"
        )
    return where


def read_pretrained_metadata(where: str) -> dict[str, Any]:
    """Read what `genretree pretrain` wrote about weights; nothing of those from elsewhere."""
    try:
        content = json.loads((Path(where) / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def load_pretrained(kind: type[PreTrainedModel], name: str, **options: Any) -> PreTrainedModel:
    """Load a backbone from a file, a folder or the Hugging Face Hub, in transformers' layout.

    Parameters
    ----------
    kind : a transformers model class
    name : str
        As `open_checkpoint` takes it.
    options
        Passed to `from_pretrained`.

    Raises
    ------
    TrainingError
        If it can't be had or isn't the weights of such a model; says what to do.
    """
    return build_pretrained(kind, open_checkpoint(name), **options)


def build_pretrained(kind: type[PreTrainedModel], checkpoint: Checkpoint, **options: Any) -> PreTrainedModel:
    """Build a backbone from a checkpoint in transformers' layout; every weight must be there.

    The backbone's `config.initial_weights` records where they come from.

    Raises
    ------
    TrainingError
        If arrays are missing, unknown or of another shape, or the description doesn't fit.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what it reports is reported below
    try:
        both: Any = kind.from_pretrained(
            None,
            config=_config_of(kind, checkpoint),
            state_dict=dict(checkpoint.weights),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **options,
        )
    except Exception as error:  # transformers checks descriptions in many places, each with errors of its own
        raise TrainingError(
            f"{checkpoint.place}: can't be loaded as a {kind.__name__} ({str(error).strip().splitlines()[0]}); give "
            "weights of that model with the config.json that belongs to them"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    backbone: PreTrainedModel = both[0]
    missing = [name for name in both[1]["missing_keys"] if not name.endswith(_COUNTER)]
    unexpected = [name for name in both[1]["unexpected_keys"] if not _OTHER_HEADS.search(name)]
    shapes = {name: (found, wanted) for name, found, wanted in both[1]["mismatched_keys"]}
    if missing or unexpected or shapes:
        expected = f"transformers' {kind.__name__}"
        raise TrainingError(f"{checkpoint.place}: {explain_mismatch(expected, missing, unexpected, shapes)}")
    backbone.config.initial_weights = dict(checkpoint.origin)
    return backbone


def initial_weights(model: Any) -> dict[str, str] | None:
    """Tell which pretrained weights a trained model started from; None if it started from random ones.

    Returns
    -------
    dict of str to str, or None
        source, file, sha256, and revision and licence where they are known.
    """
    network = getattr(getattr(model, "model", model), "network", None)
    config = getattr(getattr(network, "backbone", None), "config", None)
    return getattr(config, "initial_weights", None)


def _config_of(kind: type[PreTrainedModel], checkpoint: Checkpoint) -> Any:
    """Make the description from config.json; without one, transformers' defaults for this model."""
    made: Any = kind.config_class
    given = dict(checkpoint.config)
    if given.get("model_type", made.model_type) != made.model_type:
        raise ValueError(f"config.json describes a model of type '{given['model_type']}', not '{made.model_type}'")
    return made.from_dict(given) if given else made()


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
    own = {name: value for name, value in backbone.state_dict().items() if not _of_head(name)}
    how = "give a folder that 'genretree pretrain' wrote for cnn, or `weights='none'`"
    try:
        weights = read_weights(folder, Path(folder)).weights
    except TrainingError as error:
        raise TrainingError(f"{error}; {how}") from error
    shapes = {
        name: (value.shape, own[name].shape)
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    }
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unexpected or shapes:
        expected = f"a cnn that sees {channels} images"
        raise TrainingError(f"{folder}: {explain_mismatch(expected, missing, unexpected, shapes)}; {how}")
    backbone.load_state_dict(dict(weights), strict=False)


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
        _check_numbers(json.loads(read_json_text(path, _MAX_CONFIG_BYTES)))
        config = kind.from_json_file(path)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
    if not isinstance(config, kind):
        raise BundleError(f"{path}: doesn't describe a {kind.__name__}")
    return config


def build_from_config(model: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, **options: Any) -> Any:
    """Build the network that a bundle describes, if the bundle has the weights of one of that size.

    Parameters
    ----------
    model : type
        The network's class.
    config : PreTrainedConfig
        As `read_config` gives it.
    folder : Path
        The bundle.
    **options
        Further arguments of the class.

    Raises
    ------
    BundleError
        If the described network is larger than the file of weights.
    """
    weights = folder / WEIGHTS_FILE
    with torch.device("meta"):  # without memory for the weights
        described = sum(parameter.numel() for parameter in model(config, **options).parameters())
    held = weights.stat().st_size if weights.is_file() else 0
    if described > held:  # a number takes one byte at least
        raise BundleError(
            f"{folder / BACKBONE_FILE}: describes a network of {described:,} weights, and {weights.name} has {held:,} "
            "bytes; copy or train the bundle again"
        )
    return model(config, **options)


def _check_numbers(content: Any) -> None:
    """Refuse numbers and lists in a network's description that would make it endless. Raises ValueError."""
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, int) and not isinstance(value, bool):
                most = _MAX_LAYERS if "layer" in name and "eps" not in name else _MAX_WIDTH
                if abs(value) > most:
                    raise ValueError(f"{name} is {value}, more than {most:,}")
            _check_numbers(value)
    elif isinstance(content, list):
        if len(content) > _MAX_LAYERS:
            raise ValueError(f"has a list of {len(content):,} values")
        for value in content:
            if isinstance(value, int) and abs(value) > _MAX_WIDTH:
                raise ValueError(f"has a value of {value}, more than {_MAX_WIDTH:,}")
            _check_numbers(value)


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
