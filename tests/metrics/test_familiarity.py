"""Distance of files from the training data."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genretree.bundle.bundle import Bundle
from genretree.cli.tables import show_prediction
from genretree.corpus.store import Store
from genretree.metrics.familiarity import describe_inputs, fit_reference, measure_distance
from genretree.prediction.predict import as_prediction, format_csv, score_file, score_images
from genretree.training.train import train


def _tracks(rng: np.random.Generator, n: int, shift: float = 0.0) -> np.ndarray:
    artists = np.repeat(rng.standard_normal((n // 2, 32)), 2, axis=0)
    return artists + 0.5 * rng.standard_normal((n, 32)) + shift


def test_new_tracks_of_the_same_kind_are_within_one_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    tracks = np.arange(200)
    reference = fit_reference(_tracks(rng, 200), tracks, tracks // 2)
    assert reference is not None
    same = [measure_distance(reference, row[None]) for row in _tracks(rng, 200)]
    other = [measure_distance(reference, row[None]) for row in _tracks(rng, 50, shift=3.0)]
    assert 0.85 <= np.mean(np.array(same) <= 1) <= 1
    assert min(other) > 1


def test_too_few_tracks_have_no_reference_and_damaged_ones_no_distance() -> None:
    rng = np.random.default_rng(1)
    described = _tracks(rng, 30)
    assert fit_reference(described[:10], np.arange(10), np.arange(10)) is None
    assert fit_reference(described, np.arange(30), np.zeros(30, int)) is None
    reference = fit_reference(described, np.arange(30), np.arange(30))
    assert reference is not None
    assert measure_distance(None, described) is None
    assert measure_distance(reference, None) is None
    for damage in ({"scale": 0}, {"scale": "x"}, {"mean": [1.0]}, {"precision": "x"}, {"mean": None}):
        assert measure_distance({**reference, **damage}, described) is None
    assert measure_distance({"mean": []}, described) is None


def test_inputs_without_a_spectrum_are_not_described() -> None:
    assert describe_inputs({"wave_16k": np.zeros((2, 100))}) is None
    assert describe_inputs({"mel_16k": np.zeros((2, 30, 96))}).shape == (2, 32)  # type: ignore[union-attr]


def test_a_trained_bundle_measures_files_and_images(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 2, "image_size": 16, "components": 6, "min_samples_leaf": 2}
    bundle = train(store, "boosting", tmp_path / "b", settings)
    assert isinstance(bundle, Bundle)
    file = store.tracks["file"][0]
    scores = score_file(bundle, file)
    assert scores.training_distance is not None and scores.training_distance < 1.5
    rows = np.flatnonzero(store.slice_tracks == 0)
    from_images = score_images(bundle, np.asarray(store.images[rows])).training_distance
    assert from_images == pytest.approx(scores.training_distance, rel=0.05)
    far = score_images(bundle, np.full((2, 3, 64, 64), 255, np.uint8)).training_distance
    assert far is not None and far > 1
    shown = as_prediction(bundle, "x", replace(scores, training_distance=1.23456)).to_json()
    assert shown["training_distance"] == 1.235
    near = as_prediction(bundle, "x", replace(scores, training_distance=1.04))
    show_prediction(near)
    assert "(distance 1.04)" in capsys.readouterr().out
    unknown = as_prediction(bundle, "y", replace(scores, training_distance=None))
    rows = list(csv.DictReader(io.StringIO(format_csv([near, unknown], bundle.taxonomy.levels))))
    assert [row["training_distance"] for row in rows] == ["1.04", ""]
    old = replace(bundle, training={name: value for name, value in bundle.training.items() if name != "reference"})
    assert as_prediction(old, "x", score_file(old, file)).to_json()["training_distance"] is None
