"""Features by name: the mapping that models take, the registry, and what a store keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile as sf

from genretree.bundle.bundle import Bundle
from genretree.corpus import prepare as prepare_module
from genretree.corpus.manifest import Manifest, read_manifest
from genretree.corpus.prepare import add_features, prepare
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, CorpusError, SettingsError
from genretree.explanation import explain
from genretree.models.base import FitContext, FitResult, Model
from genretree.settings import SAMPLE_RATE, ImageSettings, Settings
from genretree.sound import features
from genretree.sound.features import Inputs, SliceInputs, feature_names, get_feature, register_feature
from genretree.sound.slices import iter_slices
from genretree.testing import check_family
from genretree.training.train import train
from small_corpus import synthesise
from small_weights import write_musicnn

SMALL = ImageSettings(slice_seconds=2.0, size=32)


def compute_energy(y: np.ndarray, sr: int) -> np.ndarray:
    return np.array([np.square(y).mean(), len(y) / sr], np.float64)


@pytest.fixture
def energy() -> Iterator[str]:
    register_feature("energy", compute_energy, shape=(2,))
    yield "energy"
    del features._registered["energy"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("music")
    rows = []
    for number, leaf in enumerate(("Drone", "Drone", "Bells", "Bells")):
        seconds = 5.0 if number else 1.5  # the first is shorter than a slice
        sf.write(folder / f"{number}.wav", synthesise(leaf, number, seconds), SAMPLE_RATE)
        rows.append(f"{number}.wav,{leaf},artist {number}")
    (folder / "tracks.csv").write_text("\n".join(["path,genre,artist", *rows, ""]))
    return read_manifest(folder / "tracks.csv")


def test_inputs_are_read_when_asked_for() -> None:
    images = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
    inputs = SliceInputs({"images": images, "other": np.arange(5)}, np.array([3, 1]))
    assert not inputs._read
    np.testing.assert_array_equal(inputs["cqt"], images[[3, 1], 1])
    np.testing.assert_array_equal(inputs["other"], [3, 1])
    assert list(inputs) == ["images", "other"]
    assert "chroma" in inputs
    assert "mel_16k" not in inputs
    assert "mel" not in SliceInputs({"other": np.arange(5)})
    for name in ("mel_16k", "tempo"):
        with pytest.raises(KeyError, match=name):
            inputs[name]


def test_features_register_by_name(energy: str) -> None:
    assert feature_names()[:5] == ["images", "mel", "cqt", "chroma", "mel_16k"]
    assert energy in feature_names()
    register_feature("energy", compute_energy, shape=(2,))  # again, as when a module is imported twice
    with pytest.raises(ArgumentError, match="already registered"):
        register_feature("energy", lambda y, sr: y[:2], shape=(2,))
    for name in ("mel", "images", "mel_16k"):
        with pytest.raises(ArgumentError, match="already registered"):
            register_feature(name, compute_energy, shape=(2,))
    for name in ("Energy", "../x", "", "a.b"):
        with pytest.raises(ArgumentError, match="lower-case letters"):
            register_feature(name, compute_energy, shape=(2,))
    with pytest.raises(ArgumentError, match="NumPy type"):
        register_feature("other", compute_energy, shape=(2,), dtype="floaty")
    with pytest.raises(ArgumentError, match="numeric"):
        register_feature("other", compute_energy, shape=(2,), dtype="object")
    with pytest.raises(SettingsError, match="did you mean 'energy'"):
        get_feature("enery")


def test_a_feature_of_another_shape_is_refused(energy: str, manifest: Manifest) -> None:
    register_feature("wrong", compute_energy, shape=(3,))
    try:
        with pytest.raises(ArgumentError, match=r"'wrong' has shape \(2,\); registered: \(3,\)"):
            next(iter_slices(manifest.tracks[1].path, SMALL, features=["wrong"]))
    finally:
        del features._registered["wrong"]


def _half_undefined(y: np.ndarray, sr: int) -> np.ndarray:
    return np.array([1.0, np.nan])


def test_wrong_shapes_and_values_that_are_not_finite_are_refused(manifest: Manifest) -> None:
    for shape in (3, None, (0,), ("x",)):
        with pytest.raises(ArgumentError, match="shape"):
            register_feature("wrong", compute_energy, shape=shape)  # type: ignore[arg-type]
    register_feature("undefined", _half_undefined, shape=(2,))
    try:
        with pytest.raises(ArgumentError, match="'undefined' contains NaN"):
            next(iter_slices(manifest.tracks[1].path, SMALL, features=["undefined"]))
    finally:
        del features._registered["undefined"]


def test_a_store_keeps_what_was_asked_for_and_more_is_added_later(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, energy: str
) -> None:
    whole = prepare(manifest, tmp_path / "whole", SMALL, workers=1, features=["mel_16k"])
    assert list(whole.features) == ["mel_16k"]
    store = prepare(manifest, tmp_path / "store", SMALL, workers=1, features=["images"])
    assert not store.features
    np.testing.assert_array_equal(store.images, whole.images)
    images = (tmp_path / "store/images.npy").stat().st_mtime_ns

    monkeypatch.setattr(prepare_module, "images_file", None)  # drawing a track again would fail
    added = prepare(manifest, tmp_path / "store", SMALL, workers=1, features=["images", "mel_16k", energy])
    assert sorted(added.features) == ["energy", "mel_16k"]
    np.testing.assert_array_equal(added.features["mel_16k"], whole.features["mel_16k"])
    assert (tmp_path / "store/images.npy").stat().st_mtime_ns == images
    assert not (tmp_path / "store.partial").exists()
    again = prepare(manifest, tmp_path / "store", SMALL, workers=1, features=["images"])
    assert sorted(again.features) == ["energy", "mel_16k"]  # nothing is taken away

    for track in range(added.n_tracks):
        pieces = list(iter_slices(manifest.tracks[track].path, SMALL, features=["energy", "mel_16k"]))
        rows = added.slice_tracks == track
        for name in ("energy", "mel_16k"):
            values = np.stack([piece.features[name] for piece in pieces])
            np.testing.assert_array_equal(added.features[name][rows], values)
    seconds = (SMALL.slice_frames - 1) * 512 / SAMPLE_RATE
    np.testing.assert_allclose(added.features["energy"][:, 1], seconds, rtol=1e-6)


def test_a_feature_is_not_added_where_a_file_has_changed(tmp_path: Path, manifest: Manifest) -> None:
    store = prepare(manifest, tmp_path / "store", SMALL, workers=1, features=["images"])
    path = manifest.tracks[2].path
    before, stat = path.read_bytes(), path.stat()
    try:
        path.write_bytes(before[:-2] + b"\x01\x01")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(CorpusError, match=r"cannot add mel_16k: 1 of 4 tracks failed.*has changed since the store"):
            prepare(manifest, store.folder, SMALL, workers=1, features=["mel_16k"])
        assert sorted(file.name for file in store.folder.glob("*.npy")) == ["images.npy"]
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "mel_16k" in prepare(manifest, store.folder, SMALL, workers=1, features=["mel_16k"]).features


def test_an_unknown_feature_is_refused_before_any_work(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(SettingsError, match="did you mean 'mel_16k'"):
        prepare(manifest, tmp_path / "store", SMALL, features=["mel_16"])
    assert not list(tmp_path.iterdir())


class EnergySettings(Settings):
    """None."""


class EnergyModel:
    """Takes nothing but a feature of its own."""

    heads = "tree"
    input_features = ("energy",)

    def __init__(self, means: np.ndarray, taxonomy: Any) -> None:
        self.means, self.taxonomy = means, taxonomy

    def predict_proba(self, inputs: Inputs) -> list[np.ndarray]:
        scores = np.exp(-np.abs(inputs["energy"][:, :1].astype(np.float64) - self.means[None]))
        return self.taxonomy.sum_levels(scores / scores.sum(axis=1, keepdims=True))

    def save(self, folder: Path) -> list[str]:
        np.save(folder / "means.npy", self.means)
        return ["means.npy"]


class EnergyFamily:
    """A family on a registered feature."""

    name: ClassVar[str] = "energy"
    summary: ClassVar[str] = "mean energy"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[Settings]] = EnergySettings

    @staticmethod
    def fit(train: Any, validation: Any, taxonomy: Any, settings: Any, context: FitContext) -> FitResult:
        values = train.inputs()["energy"][:, 0]
        means = [values[train.leaves == leaf].mean() for leaf in range(len(taxonomy.leaves))]
        return FitResult(EnergyModel(np.array(means), taxonomy), [])

    @staticmethod
    def load(folder: Path, taxonomy: Any, settings: Any) -> Model:
        from genretree.errors import BundleError

        try:
            return EnergyModel(np.load(folder / "means.npy", allow_pickle=False), taxonomy)
        except (OSError, ValueError) as error:
            raise BundleError(str(error)) from error


def test_a_family_may_take_a_feature_of_its_own(energy: str) -> None:
    check_family(EnergyFamily)


def test_a_model_of_registered_features_only_is_not_explained(energy: str, manifest: Manifest) -> None:
    model = EnergyModel(np.zeros(2), manifest.taxonomy)
    bundle = Bundle(
        folder=Path("bundle"),
        family="energy",
        taxonomy=manifest.taxonomy,
        images=SMALL,
        settings=Settings(),
        model=model,
    )
    with pytest.raises(SettingsError, match=r"explanations cover images, mel, .* takes energy"):
        explain(bundle, manifest.tracks[1].path)
    both = type("Both", (EnergyModel,), {"input_features": ("mel", "energy")})(np.zeros(2), manifest.taxonomy)
    reason = explain(replace(bundle, model=both), manifest.tracks[1].path, node="Drone").reasons[0]
    np.testing.assert_allclose(reason.log_odds, reason.baseline, atol=1e-6)  # nothing but the constant energy counts


def test_a_family_that_names_no_known_feature_fails_the_check() -> None:
    with pytest.raises(AssertionError, match="energy, which is not registered"):
        check_family(_WithoutFeature)


class _WithoutFeature(EnergyFamily):
    @staticmethod
    def fit(train: Any, validation: Any, taxonomy: Any, settings: Any, context: FitContext) -> FitResult:
        return FitResult(EnergyModel(np.zeros(len(taxonomy.leaves)), taxonomy), [])


@pytest.mark.slow
def test_a_store_holds_only_what_was_asked_for_and_training_adds_the_rest(manifest: Manifest, tmp_path: Path) -> None:
    store = prepare(manifest, tmp_path / "store", SMALL, workers=1)
    assert not store.features
    before = (store.folder / "images.npy").stat().st_mtime_ns
    settings = {"patches": 1, "Cs": [0.1], "weights": str(write_musicnn(tmp_path / "weights"))}
    bundle = train(store, "musicnn", tmp_path / "bundle", settings)
    assert "mel_16k" in bundle.model.input_features
    whole = prepare(manifest, tmp_path / "whole", SMALL, workers=1, features=["mel_16k"])
    np.testing.assert_array_equal(Store(store.folder).features["mel_16k"], whole.features["mel_16k"])
    assert (store.folder / "images.npy").stat().st_mtime_ns == before


def test_a_store_of_images_alone_can_get_no_features(manifest: Manifest, tmp_path: Path) -> None:
    store = prepare(manifest, tmp_path / "store", SMALL, workers=1)
    store.tracks["file"] = [""] * store.n_tracks
    with pytest.raises(CorpusError, match="was made from images, and mel_16k is computed from audio"):
        add_features(store, ["mel_16k"])
