"""Family `efficientnet-b0`: EfficientNet-B0 (Tan and Le 2019) from transformers, with ImageNet weights."""

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
from genretree.models.pretrained.names import Weights
from genretree.taxonomy import Taxonomy

# Mean and standard deviation of ImageNet's pixels, with which the weights were trained.
_IMAGENET_MEAN, _IMAGENET_SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_B0: dict[str, Any] = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280}
# transformers passes TensorFlow's momentum of 0.99 to some of PyTorch's layers, where it means the opposite: running
# statistics of little more than the last batch. This is PyTorch's default.
_NORM_MOMENTUM = 0.1
_LARGE_KERNEL = 5


class EfficientNetFamily:
    """EfficientNet-B0 with a linear head."""

    name: ClassVar[str] = "efficientnet-b0"
    summary: ClassVar[str] = "EfficientNet-B0 with ImageNet weights"
    distributed: ClassVar[bool] = True
    callback_type: ClassVar[str] = "transformers:TrainerCallback"
    settings_type: ClassVar[type[EfficientNetSettings]] = EfficientNetSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Fine-tune pretrained weights, or train from random ones with `weights="none"`."""
        from genretree.models.neural.trainer import fit_network  # imports the Trainer, which takes seconds

        efficientnet_settings = as_settings(settings, EfficientNetSettings)
        return fit_network(
            lambda: build_network(taxonomy, efficientnet_settings), train, validation, efficientnet_settings, context
        )

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load a trained network."""
        efficientnet_settings = as_settings(settings, EfficientNetSettings)
        backbone = build_from_config(EfficientNetModel, read_config(EfficientNetConfig, folder), folder)
        return load_model(_assemble(backbone, taxonomy, efficientnet_settings), folder)


def build_network(taxonomy: Taxonomy, settings: EfficientNetSettings) -> GenreNetwork:
    """Build a network with pretrained or random weights."""
    if settings.weights != Weights.NONE:
        where = find_weights(settings.weights, EfficientNetFamily.name, settings.modalities)
        # Default weights were not asked for by name, so they are not downloaded.
        backbone = load_backbone(where, download="weights" in settings.model_fields_set)
        backbone.embeddings.convolution = adapt_input(backbone.embeddings.convolution, len(settings.modalities))
        backbone.config.num_channels = len(settings.modalities)
        return _assemble(backbone, taxonomy, settings)
    config = EfficientNetConfig(**_B0, num_channels=len(settings.modalities), dropout_rate=settings.dropout)
    backbone = EfficientNetModel(config)
    initialise_weights(backbone)
    return _assemble(backbone, taxonomy, settings)


def load_backbone(name: str, *, download: bool = True) -> Any:
    """Load an EfficientNet from weights in the layout of torchvision, timm or transformers.

    The backbone computes the same features as the library of that layout.

    Parameters
    ----------
    name : str
        A file, a folder, a name from `genretree weights list`, or a name on the Hugging Face Hub.
    download : bool
        Download missing weights from the Hub.

    Raises
    ------
    TrainingError
        If the weights can't be loaded, or are not those of an EfficientNet.
    """
    checkpoint = open_checkpoint(name, download=download)
    layout = find_layout(checkpoint.weights)
    if layout is None:
        some = ", ".join(list(checkpoint.weights)[:4])
        raise TrainingError(
            f"{checkpoint.place}: not the weights of an EfficientNet in the layout of torchvision, timm or "
            f"transformers (the first arrays are {printable(some)}); give other weights"
        )
    origin = {**checkpoint.origin, "layout": layout}
    if layout == "transformers":
        described = checkpoint.config or _B0
        return build_pretrained(EfficientNetModel, replace(checkpoint, config=described, origin=origin))
    symmetric = layout == "torchvision" or not has_tensorflow_padding(checkpoint)
    config = EfficientNetConfig(**_B0, **(symmetric_config() if symmetric else {}))
    with torch.device("meta"):
        target = EfficientNetModel(config).state_dict()
    weights = map_names(checkpoint, layout, target)
    return build_pretrained(
        EfficientNetModel, replace(checkpoint, weights=weights, config=config.to_dict(), origin=origin)
    )


def initialise_weights(backbone: nn.Module) -> None:
    """Initialise as is usual for EfficientNets: He's normal for convolutions, one and zero for normalisations.

    transformers initialises all weights with a standard deviation of 0.02, including those of the batch normalisation
    around 0. From there the network doesn't learn.
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
    """A depthwise convolution that is trained in float32 on CPUs, even if the rest of the network uses bf16.

    oneDNN has no fast gradients in bf16 for depthwise kernels of 5x5 or with a stride of 2. With 32 images, these
    layers of EfficientNet-B0 take 0.6 s of a step's 1.4 s in bf16, and 0.2 s in float32.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps (n, channels, h, w)."""
        if not (self.training and maps.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(maps)
        with torch.autocast("cpu", enabled=False):
            return super().forward(maps.float()).to(maps.dtype)


def _replace_depthwise(backbone: nn.Module) -> None:
    """Replace each depthwise convolution that is slow in bf16 with a DepthwiseConv of the same weights."""
    for module in list(backbone.modules()):
        old = getattr(module, "depthwise_conv", None)
        if not isinstance(old, nn.Conv2d) or (old.kernel_size[0] < _LARGE_KERNEL and old.stride[0] == 1):
            continue
        channels, padding = old.in_channels, cast(Any, old.padding)
        replacement = DepthwiseConv(
            channels, channels, old.kernel_size[0], old.stride[0], padding, groups=channels, bias=False
        )
        replacement.weight = old.weight
        module.depthwise_conv = replacement


def _replace_dropout(backbone: nn.Module) -> None:
    """Drop whole residual branches instead of single values, with the same probabilities."""
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
