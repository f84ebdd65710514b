from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import TrainingError
from genretree.models import get_family
from genretree.models.base import FitContext
from genretree.models.linear.logistic import fit_linear, group_folds, predict_out_of_fold
from genretree.models.pretrained import musicnn_features, musicnn_weights
from genretree.models.pretrained.musicnn import Musicnn, from_tensorflow
from genretree.models.pretrained.tensorflow_checkpoint import read_tensors
from genretree.training.data import slice_dataset
from genretree.training.train import train
from small_weights import write_musicnn

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights in a cache of the tests' own; skips where the package index can't be reached."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENRETREE_CACHE", str(folder))
        try:
            musicnn_weights.get_musicnn()
        except TrainingError as error:
            pytest.skip(f"the published weights can't be had here: {error}")
    return folder


# -- the published networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", musicnn_weights.MUSICNN_NAMES)
def test_outputs_equal_tensorflow(name: str, published: Path) -> None:
    golden = np.load(DATA / "musicnn_tensorflow.npz")
    network = Musicnn().eval()
    network.load_state_dict(load_file(published / f"musicnn-{name}.safetensors"))
    with torch.inference_mode():
        found = network(torch.from_numpy(golden["patches"].astype(np.float32)))
    for layer, values in found._asdict().items():
        np.testing.assert_allclose(values.numpy(), golden[f"{name}/{layer}"], rtol=1e-4, atol=1e-4, err_msg=layer)
    assert np.ptp(golden[f"{name}/tags"], axis=0).max() > 0.1  # outputs differ between the two patches


def test_published_weights_that_were_changed_are_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(published))
    weights = musicnn_weights.load_musicnn_weights("msd")
    changed = published.with_name("changed")
    changed.mkdir()
    weights["tags.bias"][0] += 1
    save_file(weights, changed / "musicnn-msd.safetensors")
    monkeypatch.setenv("GENRETREE_CACHE", str(changed))
    with pytest.raises(TrainingError, match="not the published weights"):
        musicnn_weights.load_musicnn_weights("msd")
    (changed / "musicnn-msd.safetensors").write_bytes(b"no")
    with pytest.raises(TrainingError, match="can't be read"):
        musicnn_weights.load_musicnn_weights("msd")


def test_missing_bundle_is_not_mistaken_for_audio(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "bundle"), "song.mp3"])
    assert "no such bundle" in result.output
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "empty"), "song.mp3"])
    assert "is not a bundle" in result.output
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "bundle")])
    assert "Missing argument" in result.output


# -- reading TensorFlow's checkpoints --------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = b""
    while number >= 128:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block whose keys share what they can with the one before."""
    out, last = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key)))
        out += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack("<II", 0, 1)


def _checkpoint(tensors: dict[str, np.ndarray], compressed: bool = False) -> tuple[bytes, bytes]:
    """Write a tensor bundle by the format's description, in blocks of three."""
    data, entries = b"", [(b"", _field(1, 1))]
    for name in sorted(tensors):
        array = tensors[name]
        shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
        kind = 1 if array.dtype == np.float32 else 9
        entry = _field(1, kind) + _field(2, shape) + _field(4, len(data)) + _field(5, array.nbytes)
        entries.append((name.encode(), entry + _varint(6 << 3 | 5) + b"\0\0\0\0"))
        data += array.tobytes()
    index, handles = b"", []
    for start in range(0, len(entries), 3):
        block = _block(entries[start : start + 3])
        handles.append((entries[min(start + 2, len(entries) - 1)][0], _varint(len(index)) + _varint(len(block))))
        index += block + bytes([compressed]) + b"\0\0\0\0"
    empty, top = _block([]), _block(handles)
    places = []
    for block in (empty, top):
        places.append(_varint(len(index)) + _varint(len(block)))
        index += block + b"\0\0\0\0\0"
    footer = b"".join(places).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    return index + footer, data


def test_every_array_of_a_checkpoint_is_read() -> None:
    rng = np.random.default_rng(0)
    shapes = {f"layer_{i}/kernel": (i + 1, 300 - i) for i in range(20)} | {"layer/bias": (7,), "power": ()}
    tensors = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    found = read_tensors(*_checkpoint({**tensors, "global_step": np.array(3)}))
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)


def test_invalid_checkpoint_is_refused() -> None:
    index, data = _checkpoint({"a": np.ones(5, np.float32)})
    for strange, message in [
        (b"", "not the index"),
        (b"x" * 100, "not the index"),
        (index[:-1] + b"?", "not the index"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_tensors(strange, data)
    with pytest.raises(ValueError, match="is outside the data file"):
        read_tensors(index, data[:-1])
    with pytest.raises(ValueError, match="compressed"):
        read_tensors(_checkpoint({"a": np.ones(5, np.float32)}, compressed=True)[0], data)
    with pytest.raises(ValueError, match="not a checkpoint of a MusiCNN network"):
        from_tensorflow(read_tensors(index, data))


def test_a_wheel_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "musicnn-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("musicnn/models.py", "")
    result = CliRunner().invoke(main, ["weights", "get", "musicnn", "--file", str(wheel)])
    assert result.exit_code == 1
    assert "SHA-256" in result.output
    assert not (tmp_path / "cache").exists()
    result = CliRunner().invoke(main, ["weights", "get", "musicnn", "--file", str(tmp_path / "none.whl")])
    assert "no such file" in result.output


def test_offline_error_names_the_wheel_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    result = CliRunner().invoke(main, ["weights", "get", "musicnn"])
    assert result.exit_code == 1
    assert "https://pypi.org/project/musicnn" in result.output
    assert not list(tmp_path.iterdir())


# -- the family ------------------------------------------------------------------------------------------------


SETTINGS: dict[str, Any] = {"patches": 1, "Cs": [0.01, 1.0], "layers": [["penultimate"], ["tags"]]}


def test_features_are_cached_in_the_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SETTINGS, "patches": 2, "weights": str(write_musicnn(tmp_path / "weights"))}
    monkeypatch.setattr(musicnn_features, "PATCH_FRAMES", 24)
    first = train(store, "musicnn", tmp_path / "a", settings)
    assert list((store.folder / "cache").glob("musicnn-*-2.npy"))
    extract_features = musicnn_features.extract_features
    monkeypatch.setattr(musicnn_features, "extract_features", None)  # must not be called again
    again = train(store, "musicnn", tmp_path / "b", settings)
    monkeypatch.setattr(musicnn_features, "extract_features", extract_features)
    rows = slice(10)
    for one, other in zip(
        first.model.predict_proba({"images": store.images[rows], "mel_16k": store.features["mel_16k"][rows]}),
        again.model.predict_proba({"images": store.images[rows], "mel_16k": store.features["mel_16k"][rows]}),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_store_without_audio_features_is_refused(store: Store, tmp_path: Path) -> None:
    learn = replace(slice_dataset(store, store.split(), "train"), features={})
    settings = get_family("musicnn").settings_type.build(
        {**SETTINGS, "weights": str(write_musicnn(tmp_path / "weights"))}
    )
    with pytest.raises(TrainingError, match="needs the feature mel_16k"):
        get_family("musicnn").fit(learn, None, store.taxonomy, settings, FitContext(tmp_path))


def test_bundle_is_self_contained(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musicnn_features, "PATCH_FRAMES", 24)
    weights = write_musicnn(tmp_path / "weights", "msd", "mtt")
    settings = {**SETTINGS, "weights": str(weights), "networks": ["msd", "mtt"]}
    bundle = train(store, "musicnn", tmp_path / "b", settings)
    expected = bundle.model.predict_proba({"images": store.images[:5], "mel_16k": store.features["mel_16k"][:5]})[-1]
    for path in weights.iterdir():
        path.unlink()
    code = (
        "import sys, numpy as np, genretree; from genretree.models.pretrained import musicnn_features;"
        "musicnn_features.PATCH_FRAMES = 24; b = genretree.load_bundle(sys.argv[1]); s = genretree.Store(sys.argv[2]);"
        "np.save(sys.argv[3], b.model.predict_proba(s.inputs(np.arange(5)))[-1])"
    )
    out = tmp_path / "found.npy"
    subprocess.run([sys.executable, "-c", code, str(bundle.folder), str(store.folder), str(out)], check=True)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-9)


def test_selection_generalises_to_other_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 8)
    truth = groups % 3
    by_group = rng.standard_normal((30, 40))[groups]  # identifies the group, and so the class of known groups
    honest = np.eye(3)[truth] + 0.8 * rng.standard_normal((len(truth), 3))
    features = np.concatenate([by_group, honest], axis=1).astype(np.float32)
    for learn, check in group_folds(truth, groups):
        assert not set(groups[learn]) & set(groups[check])
    grouped = predict_out_of_fold(features, truth, groups, 10.0, 3)
    leaking = predict_out_of_fold(features, truth, np.arange(len(truth)), 10.0, 3)
    right = [(found.argmax(axis=1) == truth).mean() for found in (grouped, leaking)]
    assert right[1] > right[0] + 0.1


def test_linear_head_equals_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    features = rng.standard_normal((90, 12)).astype(np.float32) * 3 + 1
    for classes in ([0, 2, 3], [1, 3]):
        truth = np.array(classes)[rng.integers(0, len(classes), 90)]
        reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, tol=1e-3, max_iter=500)).fit(
            features, truth
        )
        found = fit_linear(features, truth, 0.3).predict(features, 5)
        np.testing.assert_allclose(found[:, classes], reference.predict_proba(features), atol=1e-4)
        assert found.sum(axis=1) == pytest.approx(1)
