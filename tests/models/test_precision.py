from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genretree.models.families.efficientnet import DepthwiseConv, build_network
from genretree.models.neural import precision
from genretree.models.neural.precision import choose_by_trial, choose_precision
from genretree.models.neural.settings import EfficientNetSettings
from genretree.taxonomy import Taxonomy

pytestmark = pytest.mark.slow


class Sleeper(nn.Module):
    """A network that is slower in one of the two precisions."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(2)
        self.slow = slow

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        name = "bf16" if torch.is_autocast_enabled("cpu") else "float32"
        time.sleep(0.02 if name == self.slow else 0.0)
        return {"loss": self.layer(self.norm(rows + torch.rand(rows.shape))).mean()}


def _rows() -> dict[str, Tensor]:
    return {"rows": torch.randn(4, 2)}


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize(("slow", "chosen"), [("bf16", "float32"), ("float32", "bf16")])
def test_faster_precision_is_chosen(tmp_path: Path, slow: str, chosen: str) -> None:
    assert choose_by_trial("auto", Sleeper(slow), _rows, tmp_path / "note") == chosen


@pytest.mark.usefixtures("capable")
def test_resumed_training_uses_the_same_precision(tmp_path: Path) -> None:
    first = choose_by_trial("auto", Sleeper("bf16"), _rows, tmp_path / "note")
    assert choose_by_trial("auto", Sleeper("float32"), _rows, tmp_path / "note") == first


@pytest.mark.usefixtures("capable")
def test_trial_has_no_side_effects(tmp_path: Path) -> None:
    network = Sleeper("bf16")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = _rows()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    choose_by_trial("auto", network, lambda: batch, tmp_path / "note")
    torch.testing.assert_close(torch.rand(3), expected)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())


def test_explicit_precision_skips_the_trial(tmp_path: Path) -> None:
    def never() -> dict[str, Tensor]:
        raise AssertionError("no batch is needed")

    assert choose_by_trial("bf16", Sleeper("bf16"), never, tmp_path / "note") == "bf16"
    assert choose_precision("float32") == "float32"
    assert choose_precision("auto") in ("float32", "bf16", "fp16")


def test_no_trial_without_bf16_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_by_trial("auto", Sleeper("float32"), _rows, tmp_path / "note") == "float32"


def test_slow_depthwise_kernels_train_in_float32() -> None:
    old = nn.Conv2d(6, 6, 5, 2, groups=6, bias=False)
    made = DepthwiseConv(6, 6, 5, 2, groups=6, bias=False)
    made.weight = old.weight
    maps = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(made(maps), old(maps))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = maps.bfloat16()
        found = made(coarse)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), old(coarse.float()), atol=0.02, rtol=0.01)
    assert found.float().sub(old(coarse.float())).abs().max() > 0  # rounded at the end only


def test_efficientnet_keeps_the_names_of_its_weights() -> None:
    network = build_network(Taxonomy.builtin(), EfficientNetSettings(weights="none"))
    replaced = [name for name, module in network.named_modules() if isinstance(module, DepthwiseConv)]
    assert len(replaced) == 11  # of 16: those of 5x5, and of 3x3 with a stride of 2
    assert all(f"{name}.weight" in network.state_dict() for name in replaced)
