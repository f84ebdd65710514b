"""Backbones from transformers: built from checkpoints and bundles, with complete weights or an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
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
from genretree.models.pretrained.origin import read_pretrained_metadata
from genretree.models.pretrained.sources import PACKAGED, find_source
from genretree.models.pretrained.weight_files import Checkpoint, explain_mismatch, read_weights

# Limits on a network's configuration, well above those of any published network.
_MAX_CONFIG_BYTES = 1 << 20
_MAX_LAYERS = 1000  # also of the entries of a list
_MAX_WIDTH = 1 << 20
_COUNTER = "num_batches_tracked"  # a counter that old files lack
# Heads of other models in transformers on the same backbones, which are ignored.
_OTHER_HEADS = re.compile(r"(?:^|\.)(?:classifier|pooler|decoder|lm_head|head)\.")


def find_weights(weights: str, family: str, modalities: Sequence[str]) -> str:
    """Resolve a value of the setting `weights`: names of weights in the package become folders, others are unchanged.

    Parameters
    ----------
    weights : str
    family : str
    modalities : sequence of str
        Input images of the network that will take the weights.

    Raises
    ------
    TrainingError
        If there are no such weights for this family, or they are for other modalities or another order of them.
    """
    where = weights
    source = find_source(weights)
    if source is not None and weights not in PACKAGED and family not in source.families:
        raise TrainingError(
            f"the weights '{weights}' are for {', '.join(source.families) or 'no model family'}, not {family}; choose "
            "others from `genretree weights list`, or train from scratch with `weights='none'`"
        )
    if weights in PACKAGED:
        folder = resources.files("genretree") / PACKAGED[weights] / family
        if not folder.is_dir():
            raise TrainingError(f"genretree has no weights named '{weights}' for {family}; use `weights=FOLDER`")
        where = str(folder)
    seen = read_pretrained_metadata(where).get("settings", {}).get("modalities")
    if seen is not None and list(modalities) != seen:
        raise TrainingError(
            f"{where}: the weights are for {', '.join(seen)}, not {', '.join(modalities)}; use `modalities={seen}`"
        )
    return where


def load_pretrained(model_class: type[PreTrainedModel], name: str, **options: Any) -> PreTrainedModel:
    """Load a backbone from a file, a folder or the Hugging Face Hub, in transformers' layout.

    Parameters
    ----------
    model_class : type
        A transformers model class.
    name : str
        As for `open_checkpoint`.
    **options
        Passed to `from_pretrained`.

    Raises
    ------
    TrainingError
        If the weights can't be loaded, or are not those of such a model.
    """
    return build_pretrained(model_class, open_checkpoint(name), **options)


def build_pretrained(model_class: type[PreTrainedModel], checkpoint: Checkpoint, **options: Any) -> PreTrainedModel:
    """Build a backbone from a checkpoint in transformers' layout; all weights must be present.

    The backbone's `config.initial_weights` records their source.

    Raises
    ------
    TrainingError
        If arrays are missing, unknown or of another shape, or the configuration doesn't fit.
    """
    try:
        config = _config_of(model_class, checkpoint)
    except Exception as error:  # transformers raises many types of errors
        raise TrainingError(_explain_load(model_class, checkpoint.place, error)) from error
    backbone, info = load_state(model_class, config, checkpoint.weights, checkpoint.place, **options)
    missing = [name for name in info["missing_keys"] if not name.endswith(_COUNTER)]
    unexpected = [name for name in info["unexpected_keys"] if not _OTHER_HEADS.search(name)]
    shapes = {name: (found, requested) for name, found, requested in info["mismatched_keys"]}
    if missing or unexpected or shapes:
        expected = f"transformers' {model_class.__name__}"
        raise TrainingError(f"{checkpoint.place}: {explain_mismatch(expected, missing, unexpected, shapes)}")
    backbone.config.initial_weights = dict(checkpoint.origin)
    return backbone


def load_state(
    model_class: type[PreTrainedModel], config: Any, weights: Mapping[str, Tensor], place: str, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Build a model of transformers from a configuration and weights, in float32.

    Returns
    -------
    (PreTrainedModel, dict)
        The model, and the names of missing, unexpected and mismatched arrays as `from_pretrained` reports them.

    Raises
    ------
    TrainingError
        If transformers can't build it.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its warnings are replaced by errors
    try:
        loaded: Any = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **options,
        )
    except Exception as error:  # transformers raises many types of errors
        raise TrainingError(_explain_load(model_class, place, error)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    return loaded[0], loaded[1]


def _explain_load(model_class: type[PreTrainedModel], place: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{place}: can't be loaded as a {model_class.__name__} ({reason}); use weights of that model together with "
        "their config.json"
    )


def _config_of(model_class: type[PreTrainedModel], checkpoint: Checkpoint) -> Any:
    """Build the configuration from config.json; without one, transformers' defaults."""
    config_class: Any = model_class.config_class
    content = dict(checkpoint.config)
    if content.get("model_type", config_class.model_type) != config_class.model_type:
        raise ValueError(
            f"config.json describes a model of type '{content['model_type']}', not '{config_class.model_type}'"
        )
    return config_class.from_dict(content) if content else config_class()


def save_checkpoint(backbone: Any, folder: Path) -> None:
    """Write a backbone's weights, without the head, to a folder that the setting `weights` accepts.

    Matrices are stored as float16, which halves the size and is precise enough for initial weights.
    """
    inner = getattr(backbone, "backbone", None)
    if inner is not None:
        (folder / "config.json").write_text(inner.config.to_json_string(), encoding="utf-8")
    weights = {name: value for name, value in (inner or backbone).state_dict().items() if not _of_head(name)}
    compressed = {name: value.half() if value.ndim > 1 else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in compressed.items()}, folder / WEIGHTS_FILE, {"format": "pt"})


def load_backbone_weights(backbone: nn.Module, folder: str, channels: int) -> None:
    """Load what `save_checkpoint` wrote into a backbone that is not from transformers.

    Raises
    ------
    TrainingError
        If the weights can't be read or have other shapes.
    """
    own = {name: value for name, value in backbone.state_dict().items() if not _of_head(name)}
    advice = "use a folder that 'genretree pretrain' wrote for cnn, or `weights='none'`"
    try:
        weights = read_weights(folder, Path(folder)).weights
    except TrainingError as error:
        raise TrainingError(f"{error}; {advice}") from error
    shapes = {
        name: (value.shape, own[name].shape)
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    }
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unexpected or shapes:
        expected = f"a cnn with {channels} input images"
        raise TrainingError(f"{folder}: {explain_mismatch(expected, missing, unexpected, shapes)}; {advice}")
    backbone.load_state_dict(dict(weights), strict=False)


def _of_head(name: str) -> bool:
    return name.startswith("scores.")


def read_config(config_class: type[PreTrainedConfig], folder: Path) -> Any:
    """Read the configuration of a bundle's backbone.

    Raises
    ------
    BundleError
        If the file is missing or not such a configuration.
    """
    path = folder / BACKBONE_FILE
    try:
        _check_numbers(json.loads(read_json_text(path, _MAX_CONFIG_BYTES)))
        config = config_class.from_json_file(path)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
    if not isinstance(config, config_class):
        raise BundleError(f"{path}: not the configuration of a {config_class.__name__}; copy or train the bundle again")
    return config


def build_from_config(model: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, **options: Any) -> Any:
    """Build the network of a bundle's configuration, unless it is larger than the file of weights.

    Parameters
    ----------
    model : type
        Class of the network.
    config : PreTrainedConfig
        Result of `read_config`.
    folder : Path
        Folder of the bundle.
    **options
        Further arguments for the class.

    Raises
    ------
    BundleError
        If the configured network has more weights than the file.
    """
    require_weights(model, config, folder, **options)
    return model(config, **options)


def require_weights(model: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, **options: Any) -> None:
    """Check that a bundle's configuration doesn't describe more weights than its file can hold.

    Raises
    ------
    BundleError
    """
    weights = folder / WEIGHTS_FILE
    with torch.device("meta"):  # allocates no memory
        n_weights = sum(parameter.numel() for parameter in model(config, **options).parameters())
    n_bytes = weights.stat().st_size if weights.is_file() else 0
    if n_weights > n_bytes:  # a weight takes at least one byte
        raise BundleError(
            f"{folder / BACKBONE_FILE}: describes a network with {n_weights:,} weights, but {weights.name} has only "
            f"{n_bytes:,} bytes; copy or train the bundle again"
        )


def _check_numbers(content: Any) -> None:
    """Check the size of numbers and lists in a network's configuration. Raises ValueError."""
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, int) and not isinstance(value, bool):
                limit = _MAX_LAYERS if "layer" in name and "eps" not in name else _MAX_WIDTH
                if abs(value) > limit:
                    raise ValueError(f"{name} is {value}, more than {limit:,}")
            _check_numbers(value)
    elif isinstance(content, list):
        if len(content) > _MAX_LAYERS:
            raise ValueError(f"contains a list of {len(content):,} values, more than {_MAX_LAYERS:,}")
        for value in content:
            if isinstance(value, int) and abs(value) > _MAX_WIDTH:
                raise ValueError(f"contains the value {value}, more than {_MAX_WIDTH:,}")
            _check_numbers(value)


def adapt_input(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Adapt an input convolution to another number of channels, with the same response to grey images.

    The new weights are the mean over the old channels, scaled by old / new, which preserves sums over equal channels.
    """
    if convolution.in_channels == channels:
        return convolution
    adapted = nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        mean = convolution.weight.mean(dim=1, keepdim=True) * (convolution.in_channels / channels)
        adapted.weight.copy_(mean.expand_as(adapted.weight))
        if adapted.bias is not None and convolution.bias is not None:
            adapted.bias.copy_(convolution.bias)
    return adapted


class PooledBackbone(nn.Module):
    """A transformers backbone with dropout and a linear layer for the scores of all heads."""

    def __init__(self, backbone: Any, pool: Callable[[Any], Tensor], width: int, dropout: float, n_scores: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.config = backbone.config
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(width, n_scores)
        self.width = width

    def features(self, images: Tensor) -> Tensor:
        """Compute the pooled features, shape (n, width)."""
        return self.pool(self.backbone(images))

    def classify(self, features: Tensor) -> Tensor:
        """Compute the scores of all heads, shape (n, n_scores)."""
        scores: Tensor = self.scores(self.dropout(features))
        return scores
