"""What a GPU would do, as far as it can be tested without one: device placement, memory format and precision.

On the device `meta`, PyTorch runs every operation without data, and most refuse tensors of two devices, as on a GPU;
what needs the data on the CPU, and would so make a GPU wait, fails.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from genretree.corpus.store import Store
from genretree.evaluation.evaluate import predict_rows
from genretree.models import get_family
from genretree.models.families import ast, cnn, efficientnet
from genretree.models.neural import precision, trainer
from genretree.models.neural.cpu_kernels import enable_cpu_kernels
from genretree.models.neural.network import GenreNetwork
from genretree.models.neural.precision import choose_by_trial, choose_precision
from genretree.taxonomy import Taxonomy
from genretree.training.train import train
from small_weights import shrink_networks

pytestmark = pytest.mark.slow

TREE = Taxonomy.from_nested({"A": ["a", "b"], "B": ["c", "d"]})
AUGMENTED = {"mixup": 0.2, "pitch_change": 2.0, "tempo_change": 0.2, "equaliser": 0.1, "level_jitter": 0.1}
N = 4


@pytest.fixture(params=[(cnn, "cnn"), (efficientnet, "efficientnet-b0"), (ast, "ast")], ids=lambda item: item[1])
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GenreNetwork:
    """A network with all augmentation, as the trainer prepares it, without data."""
    module: ModuleType
    module, name = request.param
    shrink_networks(monkeypatch)
    settings = get_family(name).settings_type.build({"image_size": 64, "weights": "none", **AUGMENTED})
    network: GenreNetwork = module.build_network(TREE, settings)
    network.add_distillation_head(5)
    enable_cpu_kernels(network)
    return network.to("meta", memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _batch(device: str) -> dict[str, torch.Tensor]:
    images = torch.empty((N, 3, 64, 64), dtype=torch.uint8, device=device)
    targets = torch.empty((N, 5), device=device)
    labels = torch.empty(N, dtype=torch.int64, device=device)
    batch = {"images": images, "labels": labels, "next_slices": images}
    return {**batch, "teacher_targets": targets, "next_teacher_targets": targets}


def test_a_training_step_needs_nothing_of_another_device(network: GenreNetwork) -> None:
    network.train()
    found = network(**_batch("meta"))
    found["loss"].backward()
    assert found["loss"].device.type == found["scores"].device.type == "meta"
    gradients = [each.grad for each in network.parameters() if each.requires_grad and each.grad is not None]
    assert gradients
    assert all(each.device.type == "meta" for each in gradients)


def test_images_reach_the_backbone_in_the_fast_memory_format(
    network: GenreNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    features = network.backbone.features

    def note(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        result: torch.Tensor = features(pixels)  # type: ignore[operator]
        return result

    monkeypatch.setattr(network.backbone, "features", note)
    network.eval()(_batch("meta")["images"])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_tensors_of_two_devices_are_refused(network: GenreNetwork) -> None:
    """The premise of these tests."""
    network.mean = torch.zeros((1, len(network.channels), 1, 1))
    with pytest.raises(RuntimeError, match="device"):
        network.eval()(_batch("meta")["images"])


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_has_the_precision_that_it_supports(
    supported: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    monkeypatch.setattr(precision, "_try_steps", lambda *_: pytest.fail("the trial is for CPUs"))
    assert choose_precision("auto") == expected
    assert choose_by_trial("auto", torch.nn.Linear(1, 1), dict, tmp_path / "note") == expected
    assert choose_by_trial("float32", torch.nn.Linear(1, 1), dict, tmp_path / "note") == "float32"


def test_batches_for_a_gpu_are_read_by_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "available_processors", lambda: 16)
    assert trainer._loader_processes() == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trainer._loader_processes() > 0


@pytest.mark.parametrize("classifier", ["network", "linear"])
def test_evaluation_uses_the_gpu_and_gives_it_back(
    classifier: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_networks(monkeypatch)
    settings = {"image_size": 32, "epochs": 1, "classifier": classifier, "Cs": [0.01]}
    bundle = train(store, "cnn", tmp_path / "cnn", settings)
    rows = store.rows("test")
    expected = predict_rows(bundle, store, rows)
    moves: list[str] = []
    monkeypatch.setattr(GenreNetwork, "to", lambda _, device: moves.append(device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = predict_rows(bundle, store, rows)
    assert moves == ["cuda", "cpu"]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(IndexError):
        predict_rows(bundle, store, rows + 10_000)
    assert moves == 2 * ["cuda", "cpu"], "an error leaves the network on the GPU"
    bundle.model.set_backend({"network": lambda images: [np.zeros((len(images), 1), np.float32)]})
    with bundle.model.on_fastest_device():
        assert len(moves) == 4, "another runtime takes arrays of the CPU"
