from __future__ import annotations

import csv
import math
import signal
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import TrainerCallback

from forking import START_METHOD, KillAtStep, run_in_child
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, SettingsError, TrainingError
from genretree.models.base import FitContext
from genretree.models.families.cnn import build_network
from genretree.models.neural import trainer
from genretree.models.neural.settings import CnnSettings
from genretree.models.neural.trainer import find_checkpoint, fit_network
from genretree.training.data import slice_dataset
from genretree.training.pretrain import pretrain
from genretree.training.train import train
from small_weights import shrink_networks

pytestmark = pytest.mark.slow

BASE = {"image_size": 32, "batch_size": 16, "precision": "float32", "patience": 50}


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shrink_networks(patch)
        yield


def _fit(
    store: Store, folder: Path, with_validation: bool = True, **values: object
) -> tuple[object, list[dict[str, float]]]:
    settings = CnnSettings.build({**BASE, **values})
    split = store.split()
    learn, check = slice_dataset(store, split, "train"), slice_dataset(store, split, "validation")
    fitted = fit_network(
        lambda: build_network(store.taxonomy, settings),
        learn,
        check if with_validation else None,
        settings,
        FitContext(folder),
    )
    return fitted, fitted.history


class _StopAfterFirst(TrainerCallback):
    """Stops after the first epoch."""

    epochs = 0

    def on_epoch_end(self, args: object, state: object, control: Any, **kwargs: object) -> Any:
        self.epochs += 1
        control.should_training_stop = True
        return control


def test_callbacks_are_called_and_can_stop_the_training(store: Store, tmp_path: Path) -> None:
    callback = _StopAfterFirst()
    bundle = train(store, "cnn", tmp_path / "bundle", {**BASE, "epochs": 3}, callbacks=[callback])
    assert callback.epochs == 1 and len(bundle.training["history"]) == 1


@pytest.mark.parametrize(
    ("family", "callbacks", "message"),
    [
        ("boosting", [TrainerCallback()], "'boosting' takes no callbacks"),
        ("cnn", [print], "each of callbacks must be a TrainerCallback"),
        ("cnn", [TrainerCallback], "each of callbacks must be a TrainerCallback"),
        ("cnn", TrainerCallback(), "callbacks must be a sequence"),
    ],
)
def test_callbacks_that_would_be_ignored_are_refused(
    store: Store, tmp_path: Path, family: str, callbacks: Any, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        train(store, family, tmp_path / "bundle", callbacks=callbacks)


def test_overwriting_replaces_bundles_only(store: Store, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").write_text("years of work")
    (tmp_path / "notes.txt").write_text("more of it")
    for name in ("documents", "notes.txt"):
        with pytest.raises(TrainingError, match="not a bundle, so it is not replaced"):
            train(store, "boosting", tmp_path / name, overwrite=True)
        with pytest.raises(TrainingError, match="not pretrained weights, so it is not replaced"):
            pretrain([tmp_path], "cnn", tmp_path / name, overwrite=True)
    assert (tmp_path / "documents" / "thesis.txt").read_text() == "years of work"


def test_learning_rate_warms_up_then_follows_cosine(store: Store, tmp_path: Path) -> None:
    epochs, warmup, peak = 8, 2, 1e-3
    _, history = _fit(store, tmp_path, epochs=epochs, warmup_epochs=warmup, learning_rate=peak)
    per_epoch = math.ceil(len(store.rows("train")) / 16)
    total, ramp = epochs * per_epoch, warmup * per_epoch
    assert len(history) == epochs
    for row in history:
        # The trainer logs the rate of the update it has just made.
        step = row["step"] - 1
        if step < ramp:
            expected = peak * step / ramp
        else:
            expected = peak * 0.5 * (1 + math.cos(math.pi * (step - ramp) / (total - ramp)))
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-3, abs=peak * 1e-3)
    assert max(row["learning_rate"] for row in history) > 0.9 * peak
    assert history[-1]["learning_rate"] < 0.01 * peak


def test_early_stopping_keeps_the_best_epoch(store: Store, tmp_path: Path) -> None:
    fitted, history = _fit(store, tmp_path, epochs=40, warmup_epochs=0, learning_rate=0.2, patience=3)
    losses = [row["validation_loss"] for row in history]
    best = int(np.argmin(losses))
    assert len(losses) == min(40, best + 1 + 3)
    split = store.split()
    check = slice_dataset(store, split, "validation")
    network = fitted.model.network
    with torch.inference_mode():
        scores = network(torch.from_numpy(check.take(np.arange(len(check)))))["scores"]
        loss = float(network.head.loss(scores, torch.from_numpy(check.leaves)))
    assert loss == pytest.approx(losses[best], rel=0.05)


def test_gradient_accumulation_equals_a_larger_batch(store: Store, tmp_path: Path) -> None:
    # Batch normalisation sees the small batches, so only the count of updates is the same to the digit.
    _, small = _fit(store, tmp_path / "a", epochs=2, batch_size=8, gradient_accumulation_steps=2, warmup_epochs=0)
    _, large = _fit(store, tmp_path / "b", epochs=2, batch_size=16, warmup_epochs=0)
    assert [row["step"] for row in small] == [row["step"] for row in large]
    assert small[0]["train_loss"] == pytest.approx(large[0]["train_loss"], rel=0.3)


def test_without_validation_every_epoch_runs(store: Store, tmp_path: Path) -> None:
    _, history = _fit(store, tmp_path, with_validation=False, epochs=3)
    assert len(history) == 3
    assert "validation_loss" not in history[0]


def test_history_and_tensorboard_have_every_epoch(store: Store, tmp_path: Path) -> None:
    _, history = _fit(store, tmp_path, epochs=3)
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    assert float(rows[-1]["validation_loss"]) == pytest.approx(history[-1]["validation_loss"])
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_every_precision_trains(store: Store, tmp_path: Path, precision: str) -> None:
    fitted, history = _fit(store, tmp_path, epochs=2, precision=precision)
    assert fitted.metadata["precision"] == precision
    assert all(math.isfinite(row["train_loss"]) for row in history)
    assert {parameter.dtype for parameter in fitted.model.network.parameters()} == {torch.float32}


def test_other_modalities_do_not_affect_the_output(store: Store) -> None:
    settings = CnnSettings.build({**BASE, "modalities": ["cqt"]})
    network = build_network(store.taxonomy, settings).eval()
    images = torch.from_numpy(np.array(store.images[:4]))
    changed = images.clone()
    changed[:, [0, 2]] = 0
    with torch.inference_mode():
        torch.testing.assert_close(network(images)["scores"], network(changed)["scores"])
        changed[:, 1] = 0
        assert not torch.allclose(network(images)["scores"], network(changed)["scores"])


def test_incomplete_checkpoint_is_skipped(tmp_path: Path) -> None:
    whole, cut, empty = tmp_path / "checkpoint-9", tmp_path / "checkpoint-10", tmp_path / "checkpoint-11"
    for folder in (whole, cut, empty):
        folder.mkdir()
    (whole / "trainer_state.json").write_text("{}")
    (cut / "trainer_state.json").write_text('{"epoch": 1')
    assert find_checkpoint(tmp_path) == whole
    assert find_checkpoint(tmp_path / "nowhere") is None


def _train_and_be_killed(folder: Path, out: Path, settings: dict[str, Any]) -> None:
    patch = pytest.MonkeyPatch()
    shrink_networks(patch)
    patch.setattr(trainer, "_tensorboard", lambda folder: [KillAtStep(12)])  # in the middle of the second epoch
    train(Store(folder), "cnn", out, settings)


@pytest.mark.posix
def test_killed_training_resumes_with_the_same_result(store: Store, tmp_path: Path) -> None:
    settings = {**BASE, "epochs": 3, "warmup_epochs": 1}
    undisturbed = train(store, "cnn", tmp_path / "whole", settings)
    out = tmp_path / "killed"
    assert run_in_child(_train_and_be_killed, store.folder, out, settings) == -signal.SIGKILL
    assert not out.exists()
    assert len(list((tmp_path / "killed.partial" / "checkpoints").glob("checkpoint-*/trainer_state.json"))) == 1

    resumed = train(store, "cnn", out, settings)
    steps = [int(row["step"]) for row in resumed.training["history"]]
    assert steps == [int(row["step"]) for row in undisturbed.training["history"]]
    images = np.asarray(store.images[:20])
    np.testing.assert_allclose(
        resumed.model.predict_proba({"images": images})[-1],
        undisturbed.model.predict_proba({"images": images})[-1],
        atol=1e-4,
    )
    assert not (tmp_path / "killed.partial").exists()


def test_too_few_slices_are_refused(store: Store, tmp_path: Path) -> None:
    settings = CnnSettings.build(BASE)
    few = slice_dataset(store, store.split(), "train")
    few = few.select(np.array([0]))
    with pytest.raises(TrainingError, match="has 1 slices"):
        fit_network(lambda: build_network(store.taxonomy, settings), few, None, settings, FitContext(tmp_path))


def test_an_existing_bundle_is_not_overwritten_unasked(store: Store, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(TrainingError, match="overwrite=True"):
        train(store, "cnn", tmp_path / "there", BASE)


def test_bundle_records_data_and_versions(store: Store, tmp_path: Path) -> None:
    bundle = train(store, "cnn", tmp_path / "b", {**BASE, "epochs": 1})
    training = load_bundle(bundle.folder).training
    assert training["split"]["protocol"] == "group"
    assert training["store"]["digest"] == store.metadata.digest
    assert training["slices"]["train"] == len(store.rows("train"))
    assert "torch" in training["versions"]
    assert (bundle.folder / "history.csv").exists()
    assert list((bundle.folder / "tensorboard").glob("events.*"))


# Without batch normalisation and chance, which each process has for itself, one process and two compute the same.
STEADY = {**BASE, "epochs": 3, "dropout": 0.0, "mask_probability": 0.0, "warmup_epochs": 1}


def _train_each(folder: Path, out: Path, runs: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    shrink_networks(pytest.MonkeyPatch())
    for family, settings in runs.items():
        words = [f"--set={name}={value}" for name, value in settings.items()]
        words = ["train", str(folder), "--model", family, "--out", str(out / family), "--quiet", *words]
        main(words, standalone_mode=False)


@pytest.fixture(scope="module")
def trained_in_two_processes(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles by family. One launch, by torchrun's launcher, trains them all."""
    folder = tmp_path_factory.mktemp("two-processes")
    runs = {"cnn": {**BASE, "epochs": 2, "batch_size": 8}, "ast": {**STEADY, "batch_size": 8}}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method=START_METHOD,
    )
    stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # the launcher sets its own handlers
    handlers = {number: signal.getsignal(number) for number in stopping}
    try:
        elastic_launch(config, _train_each)(store.folder, folder, runs)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return {family: load_bundle(folder / family) for family in runs}


def test_two_processes_train_one_bundle(store: Store, trained_in_two_processes: dict[str, Bundle]) -> None:
    bundle = trained_in_two_processes["cnn"]
    assert bundle.training["facts"]["devices"] == 2
    steps = [row["step"] for row in bundle.training["history"]]
    assert steps == [math.ceil(len(store.rows("train")) / 16) * epoch for epoch in (1, 2)]
    levels = bundle.model.predict_proba({"images": np.asarray(store.images[:4])})
    assert all(np.isfinite(level).all() for level in levels)


def test_two_processes_get_the_loss_of_one_with_the_same_global_batch(
    store: Store, tmp_path: Path, trained_in_two_processes: dict[str, Bundle]
) -> None:
    # A whole number of batches: a last one that can't be shared out evenly is filled up from the first.
    split = store.split("default")
    assert len(store.rows("train", split)) % 16 == 0
    one = train(store, "ast", tmp_path / "one", {**STEADY, "batch_size": 16})
    two = trained_in_two_processes["ast"]
    assert two.training["facts"]["devices"] == 2
    for name in ("train_loss", "validation_loss"):
        expected = [row[name] for row in one.training["history"]]
        assert [row[name] for row in two.training["history"]] == pytest.approx(expected, rel=1e-4)
    images = np.asarray(store.images[:20])
    for found, expected in zip(
        two.model.predict_proba({"images": images}), one.model.predict_proba({"images": images}), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_last_batch_of_one_slice_is_trained_on(store: Store, tmp_path: Path) -> None:
    assert len(store.rows("train")) == 128  # batches of 127 leave one
    _, history = _fit(store, tmp_path, epochs=1, batch_size=127)
    assert history[0]["step"] == 2
    assert math.isfinite(history[0]["validation_loss"])


def test_diverged_training_writes_no_bundle(store: Store, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged"):
        train(store, "cnn", tmp_path / "b", {**BASE, "epochs": 2, "learning_rate": 1e20, "warmup_epochs": 0})
    assert not (tmp_path / "b").exists()
    with pytest.raises(SettingsError, match="finite"):
        train(store, "cnn", tmp_path / "b", {**BASE, "learning_rate": math.inf})


def test_training_time_includes_interrupted_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("genretree.training.work_folder")
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    with module.measure_seconds(tmp_path / "seconds"):
        now += 60
    with module.measure_seconds(tmp_path / "seconds") as seconds:
        now += 5
        assert seconds() == 65


def test_training_time_is_saved_during_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("genretree.training.work_folder")
    saved = threading.Event()
    monkeypatch.setattr(module, "_SAVE_INTERVAL", 0.01)
    monkeypatch.setattr(module, "write_text", lambda path, text: saved.set())
    with module.measure_seconds(tmp_path / "seconds"):
        assert saved.wait(10)


def test_single_process_family_is_refused_under_torchrun(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="without torchrun"):
        train(store, "boosting", tmp_path / "b")


def test_patience_continues_after_an_interruption(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(TrainerCallback):
        def on_epoch_begin(self, args: object, state: Any, control: object, **kwargs: object) -> None:
            if state.epoch and state.epoch >= len(whole) - 1:
                raise KeyboardInterrupt

    settings = {"epochs": 40, "warmup_epochs": 0, "learning_rate": 0.2, "patience": 2, "batch_size": 64}
    _, whole = _fit(store, tmp_path / "whole", **settings)
    assert len(whole) < 40
    tensorboard = trainer._tensorboard
    monkeypatch.setattr(trainer, "_tensorboard", lambda folder: [Cut()])
    with pytest.raises(KeyboardInterrupt):
        _fit(store, tmp_path / "cut", **settings)
    monkeypatch.setattr(trainer, "_tensorboard", tensorboard)
    _, resumed = _fit(store, tmp_path / "cut", **settings)
    assert len(resumed) == len(whole)
