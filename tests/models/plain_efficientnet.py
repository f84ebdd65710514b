"""EfficientNet-B0 in plain torch, under the names of torchvision's and timm's state dicts, for comparison."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

# expansion, kernel, stride, input channels, output channels, blocks; Table 1 of Tan and Le (2019)
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def _convolution(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _unit(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> nn.Sequential:
    layers = [_convolution(n_in, n_out, kernel, stride, groups), nn.BatchNorm2d(n_out)]
    return nn.Sequential(*layers, nn.SiLU()) if active else nn.Sequential(*layers)


class Squeeze(nn.Module):
    """Squeeze-and-excitation whose two convolutions have the given names."""

    def __init__(self, width: int, narrow: int, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        self.add_module(names[0], nn.Conv2d(width, narrow, 1))
        self.add_module(names[1], nn.Conv2d(narrow, width, 1))

    def forward(self, maps: Tensor) -> Tensor:
        first, second = (getattr(self, name) for name in self.names)
        return maps * second(nn.functional.silu(first(maps.mean(dim=(2, 3), keepdim=True)))).sigmoid()


class TorchvisionBlock(nn.Module):
    def __init__(self, expansion: int, kernel: int, stride: int, n_in: int, n_out: int) -> None:
        super().__init__()
        wide = n_in * expansion
        layers: list[nn.Module] = [_unit(n_in, wide, 1)] if expansion > 1 else []
        layers += [_unit(wide, wide, kernel, stride, wide), Squeeze(wide, n_in // 4, ("fc1", "fc2"))]
        self.block = nn.Sequential(*layers, _unit(wide, n_out, 1, active=False))
        self.adds = stride == 1 and n_in == n_out

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.block(maps) if self.adds else self.block(maps)


class TorchvisionB0(nn.Module):
    """`features.0.0.weight`, `features.1.0.block.0.0.weight`, ..., `classifier.1.weight`."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [_unit(3, 32, 3, 2)]
        for expansion, kernel, stride, n_in, n_out, repeats in STAGES:
            first = TorchvisionBlock(expansion, kernel, stride, n_in, n_out)
            more = [TorchvisionBlock(expansion, kernel, 1, n_out, n_out) for _ in range(repeats - 1)]
            parts.append(nn.Sequential(first, *more))
        self.features = nn.Sequential(*parts, _unit(320, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def pooled(self, images: Tensor) -> Tensor:
        return self.features(images).mean(dim=(2, 3))


class TimmBlock(nn.Module):
    def __init__(self, expansion: int, kernel: int, stride: int, n_in: int, n_out: int) -> None:
        super().__init__()
        wide = n_in * expansion
        steps: list[tuple[str, nn.Module]] = []
        if expansion > 1:
            steps += [("conv_pw", _convolution(n_in, wide, 1)), ("bn1", nn.BatchNorm2d(wide)), ("act1", nn.SiLU())]
        norms = ("bn2", "bn3") if expansion > 1 else ("bn1", "bn2")
        steps += [("conv_dw", _convolution(wide, wide, kernel, stride, wide)), (norms[0], nn.BatchNorm2d(wide))]
        steps += [("act2", nn.SiLU()), ("se", Squeeze(wide, n_in // 4, ("conv_reduce", "conv_expand")))]
        last = "conv_pwl" if expansion > 1 else "conv_pw"
        steps += [(last, _convolution(wide, n_out, 1)), (norms[1], nn.BatchNorm2d(n_out))]
        self.order = [name for name, _ in steps]
        for name, module in steps:
            self.add_module(name, module)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, maps: Tensor) -> Tensor:
        changed = maps
        for name in self.order:
            changed = getattr(self, name)(changed)
        return maps + changed if self.adds else changed


class TimmB0(nn.Module):
    """`conv_stem.weight`, `blocks.0.0.conv_dw.weight`, ..., `classifier.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = _convolution(3, 32, 3, 2), nn.BatchNorm2d(32)
        stages = []
        for expansion, kernel, stride, n_in, n_out, repeats in STAGES:
            first = TimmBlock(expansion, kernel, stride, n_in, n_out)
            stages.append(
                nn.Sequential(first, *(TimmBlock(expansion, kernel, 1, n_out, n_out) for _ in range(repeats - 1)))
            )
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = _convolution(320, 1280, 1), nn.BatchNorm2d(1280)
        self.classifier = nn.Linear(1280, 1000)

    def pooled(self, images: Tensor) -> Tensor:
        maps = self.blocks(nn.functional.silu(self.bn1(self.conv_stem(images))))
        return nn.functional.silu(self.bn2(self.conv_head(maps))).mean(dim=(2, 3))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Randomise weights so that every normalisation, including its epsilon, affects the output."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.1, 1.5)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network.eval()


def without_counters(weights: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Remove the batch counters, which old checkpoints lack."""
    return OrderedDict((name, value) for name, value in weights.items() if not name.endswith("num_batches_tracked"))
