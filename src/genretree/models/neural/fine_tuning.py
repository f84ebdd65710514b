"""Fine-tuning of networks: layer-wise learning rates, a frozen backbone, and a moving average of the weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from genretree.files import atomic_path
from genretree.models.neural.settings import NetworkSettings

RAW_FILE = "raw.safetensors"
_HEADS = ("backbone.scores.", "student.")
_EMBEDDINGS = ("embeddings", "stem")
_NUMBERED = re.compile(r"\.(?:blocks|layer|layers|stages)\.(\d+)\.")


def fine_tuning_callbacks(network: Any, settings: NetworkSettings, checkpoint: Path | None) -> list[TrainerCallback]:
    """Create the callbacks for the settings `frozen_epochs` and `ema_decay`; freeze the backbone if it never learns."""
    callbacks: list[TrainerCallback] = []
    if settings.frozen_epochs >= settings.epochs:
        network.freeze(True)
        for parameter in _backbone(network):
            parameter.requires_grad_(False)
    elif settings.frozen_epochs:
        callbacks.append(_FreezeBackbone(network, settings.frozen_epochs))
    if settings.ema_decay:
        callbacks.append(_AverageWeights(network, settings.ema_decay, checkpoint))
    return callbacks


def decay_by_layer(network: Any, settings: NetworkSettings) -> list[dict[str, Any]]:
    """Group the parameters by layer, with learning rates that decrease by `layer_decay` from the head downwards.

    This is the layer-wise decay of ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022). Biases and normalisations
    get no weight decay.
    """
    names = dict(network.named_parameters())
    depths = {name: _depth(name) for name in names}
    top = max((depth for depth in depths.values() if depth is not None), default=0) + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in names.items():
        depth = depths[name]
        groups.setdefault((_depth_above(name, top) if depth is None else depth, parameter.ndim > 1), []).append(
            parameter
        )
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * settings.layer_decay ** (top + 1 - depth),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (depth, decays), parameters in groups.items()
    ]


def _depth(name: str) -> int | None:
    """Return a parameter's layer, counted from the input; None after the numbered layers."""
    if any(f".{first}." in name for first in _EMBEDDINGS):
        return 0
    numbered = _NUMBERED.search(name)
    return None if numbered is None else int(numbered[1]) + 1


def _depth_above(name: str, top: int) -> int:
    """Return the depth of the backbone's last layer, or of the head, which is one above."""
    return top + 1 if name.startswith(_HEADS) else top


def _backbone(network: Any) -> list[nn.Parameter]:
    return [p for name, p in network.named_parameters() if not name.startswith(_HEADS)]


class _FreezeBackbone(TrainerCallback):
    """Freeze the backbone for the first epochs.

    Its gradients are computed and then dropped, since all processes of a distributed training must agree on which
    parameters have gradients.
    """

    def __init__(self, network: Any, epochs: int) -> None:
        self.network = network
        self.epochs = epochs
        for parameter in _backbone(network):
            # The hook acts before the gradients are clipped to their common norm.
            parameter.register_hook(self._zero_if_frozen)  # type: ignore[no-untyped-call]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.network.freeze(state.epoch < self.epochs)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.network.frozen:
            for parameter in _backbone(self.network):
                parameter.grad = None  # with a gradient of 0 the weights would still decay

    def _zero_if_frozen(self, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if self.network.frozen else gradient


class _AverageWeights(TrainerCallback):
    """Exponential moving average of all weights (Polyak and Juditsky 1992), which is validated and saved.

    Between epochs the network holds the average. The raw weights are restored when the next epoch begins, and are saved
    next to the average in every checkpoint.
    """

    def __init__(self, network: Any, decay: float, checkpoint: Path | None) -> None:
        self.network = network
        self.decay = decay
        self.checkpoint = checkpoint
        self.raw: dict[str, Tensor] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average = self._copy()
        if self.checkpoint is not None:
            self.raw = load_file(self.checkpoint / RAW_FILE)  # restored if another epoch follows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.raw is not None:
            self.network.load_state_dict(self.raw)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A faster average at first, so that the random initial weights don't persist.
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.raw = self._copy()
        self.network.load_state_dict(self.average)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.raw is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with atomic_path(folder / RAW_FILE) as temporary:
                save_file({name: value.contiguous() for name, value in self.raw.items()}, temporary)

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}
