from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genretree.models.families.ast import build_network
from genretree.models.families.study_networks import StudyTransformer
from genretree.models.neural.cpu_kernels import FastDropout, GlobalMean, enable_cpu_kernels
from genretree.models.neural.settings import AstSettings
from genretree.taxonomy import Taxonomy


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_dropout_rate_and_mean(kind: torch.dtype, share: float) -> None:
    torch.manual_seed(0)
    n = 200_001
    found = FastDropout(share)(torch.ones(n, dtype=kind)).float()
    dropped = float((found == 0).double().mean())
    assert dropped == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)
    assert found.max() == pytest.approx(1 / (1 - share), rel=0.005)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    gone = (FastDropout(0.5)(torch.ones(100_000)) == 0).float()
    for lag in range(1, 9):  # four draws come of one random word
        assert abs(float(torch.corrcoef(torch.stack([gone[:-lag], gone[lag:]]))[0, 1])) < 0.02


def test_dropout_gradient_matches_mask() -> None:
    values = torch.randn(5, 7, requires_grad=True)
    found = FastDropout(0.3)(values)
    found.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), found.detach())


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_extreme_rates(share: float, expected: float) -> None:
    assert FastDropout(share)(torch.ones(10)).tolist() == [expected] * 10


def test_dropout_is_off_at_inference() -> None:
    values = torch.randn(10)
    assert FastDropout(0.5).eval()(values) is values or torch.equal(FastDropout(0.5).eval()(values), values)


def test_cpu_kernels_preserve_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    settings = AstSettings(image_size=64, dropout=0.0, mask_probability=0.0)
    plain = build_network(Taxonomy.builtin(), settings)
    quick = copy.deepcopy(plain)
    enable_cpu_kernels(quick)
    assert sum(isinstance(module, FastDropout) for module in quick.modules()) > 6
    assert not any(type(module) is nn.Dropout for module in quick.modules())
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    labels = torch.arange(4)
    for network in (plain, quick):
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            network(images, labels)["loss"].backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), quick.named_parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        length = float(one.grad.norm())
        if name.endswith(
            ("k_proj.bias", "key.bias")
        ):  # adding to all keys changes nothing: this gradient is rounding alone
            continue
        assert float((one.grad - other.grad).norm()) < 0.03 * length + 1e-4, name
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(images)["scores"], quick.eval()(images)["scores"], rtol=0, atol=0)


def test_the_attention_of_the_study_uses_the_fast_dropout_in_training() -> None:
    torch.manual_seed(0)
    network = StudyTransformer(1, 64, 27, dropout=0.0)
    enable_cpu_kernels(network)
    assert all(isinstance(layer.attention_dropout, FastDropout) for layer in network.layers)
    images = torch.rand(3, 1, 64, 64)
    training = network.train().features(images)  # matrix products, and torch's attention at inference
    torch.testing.assert_close(training, network.eval().features(images), rtol=1e-4, atol=1e-5)
    network.train()
    for layer in network.layers:
        layer.attention_dropout.p = 0.4
    one, other = network.features(images), network.features(images)
    assert not torch.allclose(one, other)


def test_global_mean_equals_pytorch() -> None:
    for kind in (torch.contiguous_format, torch.channels_last):
        maps = torch.randn(2, 3, 5, 4).contiguous(memory_format=kind).requires_grad_()
        again = maps.detach().clone().requires_grad_()
        for mean, values in ((GlobalMean(), maps), (nn.AdaptiveAvgPool2d(1), again)):
            (values * torch.sigmoid(mean(values))).square().sum().backward()
        torch.testing.assert_close(GlobalMean()(maps), nn.AdaptiveAvgPool2d(1)(maps))
        torch.testing.assert_close(maps.grad, again.grad)
