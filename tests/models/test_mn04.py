"""The audio tagger mn04: its input against torch's STFT, its architecture against the published facts, its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from genretree.cli import main
from genretree.errors import TrainingError
from genretree.models.pretrained import mn04_weights, sources
from genretree.models.pretrained.mn04 import N_TAGS, Mn04, build_mn04
from genretree.models.pretrained.mn04_weights import get_mn04, load_mn04
from genretree.models.pretrained.musicnn_weights import digest
from genretree.sound.mel_32k import compute_mel_32k

pytestmark = pytest.mark.slow


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random network in the place of the published one, and an empty cache."""
    torch.manual_seed(0)
    path = tmp_path / "mn04_as_mAP_432.pt"
    weights = Mn04().state_dict()
    torch.save(weights, path)
    found = [source for source in sources.SOURCES if source.name != "mn04"]
    source = next(source for source in sources.SOURCES if source.name == "mn04")
    from dataclasses import replace

    from genretree.files import sha256_file

    changed = (*found, replace(source, sha256=sha256_file(path), location=path.as_uri()))
    monkeypatch.setattr(sources, "SOURCES", changed)
    monkeypatch.setattr(mn04_weights, "DIGEST", digest(weights))
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    return path


def test_the_mel_spectrogram_is_that_of_torch() -> None:
    y = np.random.default_rng(0).normal(0, 0.1, 32000 * 3).astype(np.float32)
    emphasised = torch.nn.functional.conv1d(torch.from_numpy(y)[None, None], torch.tensor([[[-0.97, 1.0]]]))[0]
    window = torch.hann_window(800, periodic=False)
    spectrum = torch.stft(emphasised, 1024, 320, 800, window, center=True, return_complex=True)[0]
    power = spectrum.abs().square().numpy()[:-1]
    mel_of_bin = 1127 * np.log(1 + np.arange(512) * 31.25 / 700)
    edges = np.linspace(0, 1127 * np.log(1 + 15000 / 700), 130)
    filters = np.stack([np.interp(mel_of_bin, edges[band : band + 3], [0, 1, 0]) for band in range(128)])
    expected = (np.log(filters @ power + 1e-5) + 4.5) / 5
    mel = compute_mel_32k(y)
    assert mel.dtype == np.float32
    assert mel.shape == (128, 300)
    np.testing.assert_allclose(mel, expected, atol=1e-4)
    with pytest.raises(ValueError, match="at least 514 samples"):
        compute_mel_32k(y[:513])


def test_the_architecture_is_the_published_one() -> None:
    network = Mn04().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 983_599
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["features.1.block.1.0.weight"] == (8, 8, 1, 1)  # the first block does not expand
    assert shapes["features.4.block.2.conc_se_layers.0.fc1.weight"] == (8, 32)
    assert shapes["features.15.block.1.0.weight"] == (384, 1, 5, 5)
    assert shapes["features.16.0.weight"] == (384, 64, 1, 1)
    assert shapes["classifier.5.weight"] == (N_TAGS, 512)
    with torch.inference_mode():
        for frames in (1000, 333, 33):
            logits, embedding = network(torch.zeros(2, 1, 128, frames))
            assert logits.shape == (2, 527)
            assert embedding.shape == (2, 384)


def test_weights_are_fetched_checked_and_stored_as_safetensors(published: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="genretree weights get mn04"):
        load_mn04()
    path = get_mn04()  # by its address
    assert path == tmp_path / "cache" / "mn04.safetensors"
    hidden = published.rename(published.with_suffix(".away"))
    assert get_mn04() == path  # it is there: nothing is downloaded
    hidden.rename(published)
    expected = torch.load(published, weights_only=True)
    for name, value in load_file(path).items():
        torch.testing.assert_close(value, expected[name])
    mel = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 128, 100)).astype(np.float32))
    with torch.inference_mode():
        torch.testing.assert_close(load_mn04()(mel).logits, build_mn04(expected)(mel).logits)
    path.unlink()
    result = CliRunner().invoke(main, ["weights", "get", "mn04", "--file", str(published)])
    assert result.exit_code == 0
    assert str(path) in result.output


def test_wrong_files_are_refused(published: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(published.read_bytes() + b" ")
    with pytest.raises(TrainingError, match="not the published checkpoint of mn04"):
        get_mn04(other)
    with pytest.raises(TrainingError, match="no such file"):
        get_mn04(tmp_path / "nothing.pt")
    path = get_mn04(published)
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(TrainingError, match="the hash differs"):
        load_mn04()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="cannot be read"):
        load_mn04()


def test_weights_of_another_network_are_refused() -> None:
    weights = Mn04().state_dict()
    del weights["features.0.0.weight"]
    with pytest.raises(TrainingError, match="not the weights of mn04"):
        build_mn04(weights)
