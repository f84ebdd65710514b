from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genretree.bundle.bundle import load_bundle
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.errors import TrainingError
from genretree.models.families.cnn import build_network
from genretree.models.families.musicnn import fine_tuning
from genretree.models.families.musicnn.fine_tuning import FineTuningResult
from genretree.models.neural import precision
from genretree.models.neural.distillation import compute_teacher_targets
from genretree.models.neural.settings import CnnSettings
from genretree.models.pretrained.mn04 import Mn04
from genretree.training.data import slice_dataset, slice_dataset_of
from genretree.training.train import train
from small_corpus import SETTINGS, TREE, write_corpus
from small_weights import shrink_networks, write_musicnn

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"epochs": 2, "image_size": 32, "batch_size": 16, "precision": "float32", "warmup_epochs": 0}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with a random network, with short patches."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_networks(patch)
        patch.setattr(fine_tuning, "PATCH_FRAMES", 24)
        yield str(write_musicnn(tmp_path_factory.mktemp("teacher")))


def test_teacher_targets_are_standardised_by_the_first_part(store: Store, teacher: str) -> None:
    learn, check = (slice_dataset(store, store.split(), part) for part in ("train", "test"))
    teacher_targets, held = compute_teacher_targets([learn, check], ("msd",), teacher)
    assert teacher_targets.shape == (len(learn), 250)
    assert np.abs(teacher_targets.mean(axis=0)).max() < 0.1  # not 0: what lies far out is cut off
    assert np.abs(held.mean(axis=0)).max() > 0.1
    assert np.abs(teacher_targets).max() <= 4
    alone = compute_teacher_targets([learn.select(np.arange(len(learn))[::-1])], ("msd",), teacher)[0]
    np.testing.assert_allclose(alone[::-1], teacher_targets, atol=1e-4)


def test_next_slice_is_of_the_same_track(store: Store) -> None:
    part = slice_dataset(store, store.split(), "train")
    after = part.next_slices()
    moved = after != np.arange(len(part))
    np.testing.assert_array_equal(part.rows[after][moved], part.rows[moved] + 1)
    np.testing.assert_array_equal(part.tracks[after], part.tracks)
    last = np.append(part.tracks[1:] != part.tracks[:-1], True)
    np.testing.assert_array_equal(moved, ~last)
    order = np.random.default_rng(0).permutation(len(part))
    np.testing.assert_array_equal(part.select(order).rows[part.select(order).next_slices()], part.rows[after][order])


def test_targets_are_interpolated_between_slices(store: Store) -> None:
    settings = CnnSettings.build({**QUICK, "slice_offset": True, "mask_probability": 0.0, "genre_weight": 0.0})
    torch.manual_seed(0)
    network = build_network(TREE, settings).train()
    network.add_distillation_head(7)
    images = torch.from_numpy(np.array(store.images[:16]))
    next_slices = torch.from_numpy(np.array(store.images[1:17]))
    seen = []
    misheard = network._distillation_loss
    network._distillation_loss = lambda features, teacher_targets: (
        seen.append(teacher_targets),
        misheard(features, teacher_targets),
    )[1]  # type: ignore
    network(images, torch.zeros(16, dtype=torch.long), next_slices, torch.zeros(16, 7), torch.ones(16, 7))
    shares = seen[0]
    assert ((shares >= 0) & (shares <= 1)).all()
    assert float(shares.std()) > 0.1
    assert (shares[:, :1] == shares).all()
    network(images, torch.zeros(16, dtype=torch.long), images, torch.zeros(16, 7), torch.ones(16, 7))
    assert (seen[1] == 0).all()  # nothing follows: the slice stays


def test_network_learns_teacher_targets(store: Store, teacher: str, tmp_path: Path) -> None:
    settings = {**QUICK, "teacher": "musicnn", "teacher_folder": teacher, "genre_weight": 0.0, "epochs": 12}
    settings |= {"learning_rate": 3e-3, "mask_probability": 0.0, "dropout": 0.0, "slice_offset": True}
    bundle = train(store, "cnn", tmp_path / "b", settings)
    losses = [row["validation_loss"] for row in bundle.training["history"]]
    assert min(losses) < 0.8 * losses[0]


def test_a_bundle_needs_no_teacher(store: Store, teacher: str, tmp_path: Path) -> None:
    settings = {**QUICK, "teacher": "musicnn", "teacher_folder": teacher, "ema_decay": 0.9, "frozen_epochs": 1}
    train(store, "cnn", tmp_path / "b", {**settings, "teacher_networks": ["msd"]})
    assert not any("student" in name for name in load_file(tmp_path / "b" / "model.safetensors"))
    levels = load_bundle(tmp_path / "b").model.predict_proba({"images": np.asarray(store.images[:3])})
    np.testing.assert_allclose(levels[0].sum(axis=1), 1, atol=1e-5)


def test_a_teacher_needs_its_features(store: Store, teacher: str) -> None:
    deaf = replace(slice_dataset(store, store.split(), "train"), features={})
    with pytest.raises(TrainingError, match="needs the feature mel_16k"):
        compute_teacher_targets([deaf], ("msd",), teacher)


def test_both_teachers_have_half_of_the_loss(store: Store, teacher: str) -> None:
    save_file(Mn04().state_dict(), Path(teacher) / "mn04.safetensors")
    rows = store.rows("all")[:12]
    mel = np.random.default_rng(0).standard_normal((store.n_slices, 128, 40)).astype(np.float16)
    part = slice_dataset_of(store, rows)
    part = replace(part, features={**part.features, "mel_32k": mel}, cache=None)
    targets, *alone = (
        compute_teacher_targets([part], ("msd",), teacher, teacher=name)[0] for name in ("both", "musicnn", "mn04")
    )
    np.testing.assert_allclose(targets[:, :250], alone[0] * np.sqrt(818 / 500), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(targets[:, 250:], alone[1] * np.sqrt(818 / 1136), rtol=1e-4, atol=1e-6)
    halves = [np.square(targets[:, columns]).sum() / targets.size for columns in (slice(0, 250), slice(250, None))]
    np.testing.assert_allclose(halves, [np.square(one).mean() / 2 for one in alone], rtol=1e-3)
    with pytest.raises(TrainingError, match="needs the feature mel_32k"):
        compute_teacher_targets([replace(part, features={})], ("msd",), teacher, teacher="mn04")


def test_time_shifts_are_averaged(store: Store, tmp_path: Path) -> None:
    bundle = train(store, "cnn", tmp_path / "b", {**QUICK, "epochs": 1})
    images = np.asarray(store.images[:5])
    single = [bundle.model.predict_proba({"images": y})[-1] for y in (images, np.roll(images, 32, axis=3))]
    expected = (single[0] + single[1]) / 2
    bundle.model.network.settings = bundle.settings.model_copy(update={"n_tta_shifts": 2})  # type: ignore[attr-defined]
    np.testing.assert_allclose(bundle.model.predict_proba({"images": images})[-1], expected, atol=1e-6)


def test_fine_tuning_is_used_only_if_it_helps(teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_bf16", lambda: False)  # no trial of both precisions, which takes seconds
    music = write_corpus(tmp_path / "music", artists=4, tracks=1, seconds=5.0)  # few slices: a step takes seconds
    store = prepare(read_manifest(music, TREE), tmp_path / "store", SETTINGS, workers=1, features=["mel_16k"])
    quick = {"weights": teacher, "layers": [["tags", "penultimate", "images"]], "Cs": [0.003], "patches": 2}
    plain = train(store, "musicnn", tmp_path / "plain", quick)
    tuned = train(store, "musicnn", tmp_path / "tuned", {**quick, "fine_tuning_epochs": 1, "fine_tuning_rate": 1e-3})
    facts = tuned.training["facts"]
    published = load_file(tmp_path / "plain" / "musicnn-msd.safetensors")
    learned = load_file(tmp_path / "tuned" / "musicnn-msd.safetensors")
    assert facts["fine_tuned"] == (facts["after"] < facts["before"])
    changed = not torch.equal(published["dense.weight"], learned["dense.weight"])
    assert changed == facts["fine_tuned"]
    torch.testing.assert_close(published["dense_norm.running_mean"], learned["dense_norm.running_mean"])
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda *given: FineTuningResult([], before=0.5, after=0.6))
    worse = train(store, "musicnn", tmp_path / "worse", {**quick, "fine_tuning_epochs": 1})
    assert not worse.training["facts"]["fine_tuned"]
    rows = slice_dataset_of(store, store.rows("test"))
    for mine, theirs in zip(worse.model.predict_dataset(rows), plain.model.predict_dataset(rows), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
