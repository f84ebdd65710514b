from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from safetensors.torch import load_file

from genretree.cli import main
from genretree.errors import BundleError
from genretree.files import sha256_file
from genretree.models.pretrained import mn04_weights
from genretree.models.pretrained.download import get_weights
from genretree.models.pretrained.mn04_export import FOLDER, export_mn04, open_mn04_export
from genretree.models.pretrained.musicnn_weights import digest
from genretree.prediction.untrained import load_tagger, untrained_bundle
from genretree.settings import SAMPLE_RATE
from genretree.sound.features import MEL_32K
from small_corpus import synthesise
from small_weights import write_mn04

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a random network in the place of the published one, and its export."""
    folder = write_mn04(tmp_path_factory.mktemp("exported") / "cache")
    with pytest.MonkeyPatch.context() as patch:
        _use(folder, patch)
        export_mn04()
    return folder


@pytest.fixture
def cache(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _use(exported, monkeypatch)
    return exported


def _use(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("GENRETREE_CACHE", str(folder))
    patch.setattr(mn04_weights, "DIGEST", digest(load_file(folder / "mn04.safetensors")))


def test_the_export_says_what_torch_says(cache: Path) -> None:
    mel_32k = np.random.default_rng(0).normal(size=(2, 128, 1000)).astype(np.float32)
    in_torch, exported = untrained_bundle("ccmusic"), untrained_bundle("ccmusic", runtime="auto")
    assert (in_torch.runtime, exported.runtime) == ("torch float32", "openvino float32")
    for one, other in zip(
        in_torch.model.predict_proba({MEL_32K: mel_32k}), exported.model.predict_proba({MEL_32K: mel_32k}), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_export_is_made_once(cache: Path) -> None:
    before = (cache / FOLDER / "export.json").stat().st_mtime_ns
    assert export_mn04() == [cache / FOLDER / "network.bin"]
    assert (cache / FOLDER / "export.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in cache.glob("[!.]*")) == ["mn04-openvino", "mn04.safetensors"]


@pytest.mark.parametrize("name", ["network.bin", "network.xml", "export.json"])
def test_a_damaged_or_missing_export_is_not_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copy = _copy(cache, tmp_path, monkeypatch)
    assert open_mn04_export() is not None
    damaged = copy / FOLDER / name
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert open_mn04_export() is None
    assert untrained_bundle("ccmusic", runtime="auto").runtime == "torch float32"
    if name == "network.bin":
        export_mn04()  # repairs it
        assert open_mn04_export() is not None


def _copy(cache: Path, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Copy the cache, to damage it, and use the copy."""
    copy = folder / "cache"
    (copy / FOLDER).mkdir(parents=True)
    for path in [*cache.glob("*.*"), *(cache / FOLDER).iterdir()]:
        if path.is_file():
            (copy / path.relative_to(cache)).write_bytes(path.read_bytes())
    _use(copy, patch)
    return copy


def test_an_intact_export_that_openvino_cannot_read_is_written_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copy(cache, tmp_path, monkeypatch) / FOLDER
    graph = (folder / "network.xml").read_text(encoding="utf-8")
    (folder / "network.xml").write_text(re.sub(r'(<net [^>]*version=")\d+', r"\g<1>99", graph), encoding="utf-8")
    description = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    description["files"]["network.xml"] = sha256_file(folder / "network.xml")
    (folder / "export.json").write_text(json.dumps(description), encoding="utf-8")
    assert open_mn04_export() is None
    assert get_weights("mn04")
    assert open_mn04_export() is not None


@pytest.mark.parametrize("name", ["network.bin", "network.xml"])
def test_a_description_that_lacks_a_file_is_not_trusted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = _copy(cache, tmp_path, monkeypatch) / FOLDER / "export.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    del description["files"][name]
    path.write_text(json.dumps(description), encoding="utf-8")
    assert open_mn04_export() is None


def test_an_export_of_other_weights_is_not_used(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_mn04(tmp_path / "cache", seed=1)
    (other / FOLDER).mkdir()
    for path in (cache / FOLDER).iterdir():
        (other / FOLDER / path.name).write_bytes(path.read_bytes())
    _use(other, monkeypatch)
    assert open_mn04_export() is None


def test_without_openvino_torch_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genretree.models.pretrained.mn04_export.find_spec", lambda name: None)
    assert export_mn04() == []
    assert untrained_bundle("ccmusic", runtime="auto").runtime == "torch float32"
    assert load_tagger().runs_torch


def test_the_command_says_how_to_get_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(write_mn04(tmp_path / "cache"), monkeypatch)
    sf.write(tmp_path / "song.wav", synthesise("Drone", 0, 12.0), SAMPLE_RATE)
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "song.wav"), "--runtime", "openvino"])
    assert result.exit_code == 1
    assert "genretree weights get mn04" in result.output


def test_a_prediction_without_a_bundle_does_not_import_torch(cache: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    sf.write(song, synthesise("Drone", 0, 12.0), SAMPLE_RATE)
    program = (
        "import sys; from genretree.prediction.predict import predict_file; "
        "from genretree.prediction.untrained import untrained_bundle; "
        f"print(predict_file(untrained_bundle(runtime='auto'), {str(song)!r}).runtime, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["openvino", "float32", "False"]


def test_weights_are_installed_even_if_no_export_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_mn04(tmp_path / "cache")
    _use(folder, monkeypatch)

    def fail(*arguments: object) -> float:
        raise BundleError("network: can't be exported")

    monkeypatch.setattr("genretree.models.runtime.convert.write_checked_graph", fail)
    assert get_weights("mn04") == [folder / "mn04.safetensors"]
    assert "mn04 runs in PyTorch" in caplog.text
    assert {path.name for path in folder.iterdir()} <= {"mn04.safetensors", ".mn04-openvino.lock"}


@pytest.mark.parametrize("kind", ["file", "draft"])
def test_leftovers_do_not_stop_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = write_mn04(tmp_path / "cache")
    _use(folder, monkeypatch)
    if kind == "file":
        (folder / FOLDER).write_text("something else")
    else:  # of a process that was killed
        (folder / f".{FOLDER}.draft").mkdir()
        (folder / f".{FOLDER}.draft" / "network.bin").write_text("half")
    export_mn04()
    assert open_mn04_export() is not None
    assert not (folder / f".{FOLDER}.draft").exists()


def test_bf16_is_refused_without_a_bundle(cache: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "song.wav", synthesise("Drone", 0, 12.0), SAMPLE_RATE)
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "song.wav"), "--precision", "bf16"])
    assert result.exit_code == 2
    assert "float32 only" in result.output


def test_silence_has_no_genre_even_if_one_is_asked_for(cache: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "silence.wav", np.zeros(12 * SAMPLE_RATE, np.float32), SAMPLE_RATE)
    for options in ([], ["--force"]):
        result = CliRunner().invoke(main, ["predict", str(tmp_path / "silence.wav"), *options])
        assert result.exit_code == 0
        assert "not music: silence" in result.output


def test_an_error_after_decoding_began_is_all_that_is_said(cache: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "silence.wav", np.zeros(30 * 44100, np.float32), 44100)
    np.save(tmp_path / "music.npy", np.zeros((1, 2), np.float32))
    command = [sys.executable, "-m", "genretree", "embed", str(tmp_path / "silence.wav"), "-o", str(tmp_path / "e.npy")]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "nanobind" not in found.stderr
