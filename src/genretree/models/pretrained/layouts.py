"""Layouts of EfficientNet-B0 weights: mapping of torchvision's and timm's names to those of transformers.

transformers follows TensorFlow: strided convolutions are padded at the right and bottom only, and batch normalisation
has an epsilon of 1e-3. torchvision and timm's `efficientnet_b0` pad on all sides and use 1e-5. With `symmetric_config`
transformers' network computes the same as those two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from genretree.errors import TrainingError
from genretree.models.pretrained.weight_files import Checkpoint, explain_mismatch

Layout = Literal["torchvision", "timm", "transformers"]

_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage; the first stage has no expansion
_COUNTER = "num_batches_tracked"  # a counter that old files lack
_CLASSIFIER = "classifier."
_TENSORFLOW = "tf_"  # prefix of timm's names for ports with TensorFlow's padding
_STEM_PADDING = "stem_padding"
_SYMMETRIC = "symmetric"
_FIRST_ARRAYS: dict[Layout, str] = {
    "torchvision": "features.0.0.weight",
    "timm": "conv_stem.weight",
    "transformers": "embeddings.convolution.weight",
}


def find_layout(names: Iterable[str]) -> Layout | None:
    """Identify the layout by the names of the arrays; None if it is unknown."""
    known = set(names)
    for layout, first_array in _FIRST_ARRAYS.items():
        if first_array in known or (
            layout == "transformers" and any(name.endswith(f".{first_array}") for name in known)
        ):
            return layout
    return None


def has_tensorflow_padding(checkpoint: Checkpoint) -> bool:
    """Check whether timm's weights are ports from TensorFlow (`tf_efficientnet_b0`), with its padding and epsilon."""
    named = (checkpoint.config.get("architecture"), checkpoint.origin.get("file"))
    return any(isinstance(name, str) and name.startswith(_TENSORFLOW) for name in named)


def symmetric_config() -> dict[str, Any]:
    """Return arguments of `EfficientNetConfig` with which the network computes the same as torchvision and timm.

    `stem_padding` is an addition, which `apply_stem_padding` implements.
    """
    return {"batch_norm_eps": 1e-5, "depthwise_padding": list(range(sum(_REPEATS))), _STEM_PADDING: _SYMMETRIC}


def apply_stem_padding(backbone: Any) -> None:
    """Pad the first convolution on all sides if the configuration says so."""
    if getattr(backbone.config, _STEM_PADDING, None) == _SYMMETRIC:
        backbone.embeddings.padding = nn.ZeroPad2d(1)


def map_names(checkpoint: Checkpoint, layout: Layout, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's or timm's arrays to transformers' names, without the classifier.

    Parameters
    ----------
    checkpoint : Checkpoint
    layout : "torchvision" or "timm"
    target : mapping of str to tensor
        State dict of the network that the arrays are for.

    Raises
    ------
    TrainingError
        If arrays are missing, unknown or of another shape; the message has names as in the file.
    """
    modules = dict(_modules(layout))
    sources = {}
    for name in target:
        module, _, suffix = name.rpartition(".")
        sources[name] = f"{modules[module]}.{suffix}"
    weights = checkpoint.weights
    missing = [source for source in sources.values() if source not in weights and not source.endswith(_COUNTER)]
    known = set(sources.values())
    unexpected = [name for name in weights if name not in known and not name.startswith(_CLASSIFIER)]
    shapes = {
        source: (weights[source].shape, target[name].shape)
        for name, source in sources.items()
        if source in weights and weights[source].shape != target[name].shape
    }
    if missing or unexpected or shapes:
        expected = f"an EfficientNet-B0 in {layout}'s layout"
        raise TrainingError(f"{checkpoint.place}: {explain_mismatch(expected, missing, unexpected, shapes)}")
    return {name: weights[source] for name, source in sources.items() if source in weights}


def _modules(layout: Layout) -> Iterable[tuple[str, str]]:
    """Yield pairs of module names: transformers', and torchvision's or timm's."""
    torchvision = layout == "torchvision"
    yield "embeddings.convolution", "features.0.0" if torchvision else "conv_stem"
    yield "embeddings.batchnorm", "features.0.1" if torchvision else "bn1"
    yield "encoder.top_conv", f"features.{len(_REPEATS) + 1}.0" if torchvision else "conv_head"
    yield "encoder.top_bn", f"features.{len(_REPEATS) + 1}.1" if torchvision else "bn2"
    number = 0
    for stage, repeats in enumerate(_REPEATS):
        for block in range(repeats):
            ours = f"encoder.blocks.{number}"
            if torchvision:
                theirs, names = f"features.{stage + 1}.{block}.block", _torchvision_block(stage > 0)
            else:
                theirs, names = f"blocks.{stage}.{block}", _timm_block(stage > 0)
            yield from ((f"{ours}.{name}", f"{theirs}.{source}") for name, source in names.items())
            number += 1


def _torchvision_block(expands: bool) -> dict[str, str]:
    first = 1 if expands else 0  # position of the depthwise convolution in the sequence
    names = {
        "depthwise_conv.depthwise_conv": f"{first}.0",
        "depthwise_conv.depthwise_norm": f"{first}.1",
        "squeeze_excite.reduce": f"{first + 1}.fc1",
        "squeeze_excite.expand": f"{first + 1}.fc2",
        "projection.project_conv": f"{first + 2}.0",
        "projection.project_bn": f"{first + 2}.1",
    }
    return {"expansion.expand_conv": "0.0", "expansion.expand_bn": "0.1", **names} if expands else names


def _timm_block(expands: bool) -> dict[str, str]:
    norms = iter(("bn1", "bn2", "bn3"))
    names = {"expansion.expand_conv": "conv_pw", "expansion.expand_bn": next(norms)} if expands else {}
    return {
        **names,
        "depthwise_conv.depthwise_conv": "conv_dw",
        "depthwise_conv.depthwise_norm": next(norms),
        "squeeze_excite.reduce": "se.conv_reduce",
        "squeeze_excite.expand": "se.conv_expand",
        "projection.project_conv": "conv_pwl" if expands else "conv_pw",
        "projection.project_bn": next(norms),
    }
