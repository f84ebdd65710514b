"""Family `efficientnet-b0`: the published EfficientNet-B0 (Tan and Le 2019) on ImageNet weights, by transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import EfficientNetConfig, EfficientNetModel

from genretree.errors import TrainingError
from genretree.files import printable
from genretree.models.base import FitContext, FitResult, Model, SliceDataset
from genretree.models.families.study_networks import StochasticDepth
from genretree.models.neural.linear_probe import load_model
from genretree.models.neural.network import GenreNetwork, build_head
from genretree.models.neural.settings import EfficientNetSettings, as_settings
from genretree.models.pretrained.backbones import (
    PooledBackbone,
    adapt_input,
    build_from_config,
    build_pretrained,
    find_weights,
    read_config,
)
from genretree.models.pretrained.download import open_checkpoint
from genretree.models.pretrained.layouts import (
    apply_stem_padding,
    find_layout,
    has_tensorflow_padding,
    map_names,
    symmetric_config,
)
from genretree.models.pretrained.names import NONE
from genretree.taxonomy import Taxonomy

# Mean and spread of ImageNet's pixels, which the weights were trained with.
_IMAGENET_MEAN, _IMAGENET_SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_B0: dict[str, Any] = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280}
# transformers hands TensorFlow's momentum of 0.99 on to some of PyTorch's layers, where it means the opposite: running
# statistics that forget all but the last batch. This is PyTorch's own default.
_NORM_MOMENTUM = 0.1
_LARGE_KERNEL = 5


class EfficientNetFamily:
    """EfficientNet-B0 with a linear head."""

    name: ClassVar[str] = "efficientnet-b0"
    summary: ClassVar[str] = "EfficientNet-B0 on ImageNet weights"
    distributed: ClassVar[bool] = True
    settings_type: ClassVar[type[EfficientNetSettings]] = EfficientNetSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Fine-tune from the checkpoint, or train from a seeded random start with `weights="none"`."""
        from genretree.models.neural.trainer import fit_network  # loads the Trainer and all it needs, for seconds

        chosen = as_settings(settings, EfficientNetSettings)
        return fit_network(lambda: build_network(taxonomy, chosen), train, validation, chosen, context)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Read a trained network; needs no checkpoint."""
        chosen = as_settings(settings, EfficientNetSettings)
        backbone = build_from_config(EfficientNetModel, read_config(EfficientNetConfig, folder), folder)
        return load_model(_assemble(backbone, taxonomy, chosen), folder)


def build_network(taxonomy: Taxonomy, settings: EfficientNetSettings) -> GenreNetwork:
    """Make a network on the checkpoint's weights, or a new one with the usual initialisation."""
    if settings.weights != NONE:
        where = find_weights(settings.weights, EfficientNetFamily.name, settings.modalities)
        # Nobody asked for the default weights by name, so they are not downloaded.
        backbone = load_backbone(where, download="weights" in settings.model_fields_set)
        backbone.embeddings.convolution = adapt_input(backbone.embeddings.convolution, len(settings.modalities))
        backbone.config.num_channels = len(settings.modalities)
        return _assemble(backbone, taxonomy, settings)
    config = EfficientNetConfig(**_B0, num_channels=len(settings.modalities), dropout_rate=settings.dropout)
    backbone = EfficientNetModel(config)
    initialise(backbone)
    return _assemble(backbone, taxonomy, settings)


def load_backbone(name: str, *, download: bool = True) -> Any:
    """Load an EfficientNet from weights in the layout of torchvision, timm or transformers.

    The backbone computes what the library computes whose layout it is.

    Parameters
    ----------
    name : str
        A file, a folder, a name from `genretree weights list`, or a name on the Hugging Face Hub.
    download : bool
        Download from the Hub what is not in its cache.

    Raises
    ------
    TrainingError
        If the weights can't be had, or are not an EfficientNet's.
    """
    checkpoint = open_checkpoint(name, download=download)
    layout = find_layout(checkpoint.weights)
    if layout is None:
        some = ", ".join(list(checkpoint.weights)[:4])
        raise TrainingError(
            f"{checkpoint.place}: not the weights of an EfficientNet in the layout of torchvision, timm or "
            f"transformers (its first arrays are {printable(some)})"
        )
    origin = {**checkpoint.origin, "layout": layout}
    if layout == "transformers":
        described = checkpoint.config or _B0
        return build_pretrained(EfficientNetModel, replace(checkpoint, config=described, origin=origin))
    symmetric = layout == "torchvision" or not has_tensorflow_padding(checkpoint)
    config = EfficientNetConfig(**_B0, **(symmetric_config() if symmetric else {}))
    with torch.device("meta"):
        wanted = EfficientNetModel(config).state_dict()
    weights = map_names(checkpoint, layout, wanted)
    return build_pretrained(
        EfficientNetModel, replace(checkpoint, weights=weights, config=config.to_dict(), origin=origin)
    )


def initialise(backbone: nn.Module) -> None:
    """Initialise as EfficientNets are: He's normal for convolutions, one and zero for normalisations.

    transformers draws every weight from a normal of spread 0.02, those of the batch normalisations around 0 too, which
    silences the network: it doesn't learn from there.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that learns in float32 where the rest of the network does in bf16, on processors.

    oneDNN has no fast gradients in bf16 for depthwise kernels of 5x5 or with a stride of 2: on 32 images these layers
    of EfficientNet-B0 alone took 0.6 s of a step's 1.4 s, and take 0.2 s in float32.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve (n, channels, h, w)."""
        if not (self.training and maps.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(maps)
        with torch.autocast("cpu", enabled=False):
            return super().forward(maps.float()).to(maps.dtype)


def _replace_depthwise(backbone: nn.Module) -> None:
    """Put a DepthwiseConv in the place of each convolution that is slow in bf16, with the same weights."""
    for module in list(backbone.modules()):
        old = getattr(module, "depthwise_conv", None)
        if not isinstance(old, nn.Conv2d) or (old.kernel_size[0] < _LARGE_KERNEL and old.stride[0] == 1):
            continue
        channels, padding = old.in_channels, cast(Any, old.padding)
        made = DepthwiseConv(
            channels, channels, old.kernel_size[0], old.stride[0], padding, groups=channels, bias=False
        )
        made.weight = old.weight
        module.depthwise_conv = made


def _replace_dropout(backbone: nn.Module) -> None:
    """Drop whole residual branches where transformers drops single values; probabilities stay as they are."""
    for module in backbone.modules():
        if getattr(module, "apply_dropout", False):
            module.dropout = StochasticDepth(cast(Any, module.dropout).p)


def _assemble(backbone: Any, taxonomy: Taxonomy, settings: EfficientNetSettings) -> GenreNetwork:
    apply_stem_padding(backbone)
    _replace_depthwise(backbone)
    if settings.stochastic_depth:
        _replace_dropout(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = _NORM_MOMENTUM
    head = build_head(taxonomy, settings)
    width = backbone.config.hidden_dim
    scored = PooledBackbone(backbone, _mean_over_image, width, settings.dropout, head.n_scores)
    if len(settings.modalities) == len(_IMAGENET_MEAN):
        return GenreNetwork(scored, head, settings, _IMAGENET_MEAN, _IMAGENET_SCALE)
    grey_mean, grey_scale = sum(_IMAGENET_MEAN) / 3, sum(_IMAGENET_SCALE) / 3
    return GenreNetwork(scored, head, settings, grey_mean, grey_scale)


def _mean_over_image(output: Any) -> Tensor:
    pooled: Tensor = output.last_hidden_state.mean(dim=(2, 3))
    return pooled
