from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from forking import KillAtStep, run_in_child
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError, TrainingError
from genretree.evaluation.evaluate import evaluate
from genretree.models import get_family
from genretree.models.families import cnn
from genretree.models.neural import trainer
from genretree.models.neural.settings import CnnSettings
from genretree.training.pretrain import pretrain
from genretree.training.train import train
from small_corpus import TREE
from small_weights import shrink_networks, write_musicnn

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "epochs": 1,
    "image_size": 32,
    "batch_size": 16,
    "precision": "float32",
    "modalities": ["mel", "cqt", "chroma"],
}
_STEPS = 12  # of an epoch: 200 slices less those that check, in batches of 16


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings with a random teacher; all networks are small."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_networks(patch)
        yield {**QUICK, "teacher_folder": str(write_musicnn(tmp_path_factory.mktemp("teacher")))}


@pytest.fixture(scope="module")
def pretrained(
    store: Store, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Gives a family's pretrained weights (folder and facts), which several tests start from."""
    folder = tmp_path_factory.mktemp("pretrained")

    @cache
    def get(family: str) -> tuple[Path, dict[str, Any]]:
        out = folder / family / "weights"
        return out, pretrain([store.folder], family, out, quick)

    return get


@pytest.mark.parametrize("family", ["cnn", "efficientnet-b0", "ast"])
def test_training_starts_from_pretrained_weights(
    store: Store, tmp_path: Path, pretrained: Callable[[str], tuple[Path, dict[str, Any]]], family: str
) -> None:
    weights, facts = pretrained(family)
    assert facts["slices"] < store.n_slices
    assert facts["explained"] is not None
    assert json.loads((weights / "pretrained.json").read_text()) == facts
    assert not weights.with_name("weights.partial").exists()
    learned = load_file(weights / "model.safetensors")
    assert not any("student" in name or "scores" in name for name in learned)
    settings = {**QUICK, "weights": str(weights), "frozen_epochs": 1}
    bundle = train(store, family, tmp_path / "bundle", settings)  # nothing but the head has moved
    kept = bundle.model.network.backbone.state_dict()  # type: ignore[attr-defined]
    name = next(name for name in learned if name.endswith("weight") and learned[name].ndim == 4)
    found = next(value for other, value in kept.items() if other.endswith(name))
    torch.testing.assert_close(found, learned[name].float())


def test_transformer_adapts_to_other_image_sizes(
    store: Store, tmp_path: Path, pretrained: Callable[[str], tuple[Path, dict[str, Any]]]
) -> None:
    settings = {**QUICK, "weights": str(pretrained("ast")[0]), "image_size": 64}
    bundle = train(store, "ast", tmp_path / "bundle", settings)
    assert bundle.model.network.backbone.config.image_size == 64  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"the weights are for mel, cqt, chroma, not mel; use .modalities="):
        train(store, "ast", tmp_path / "other", {**settings, "modalities": ["mel"]})


def test_pretraining_on_files_and_folders(corpus: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    folder = tmp_path / "music" / "deeper"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(corpus.parent.glob("*.wav"))[:12]):
        (folder / f"{number}.wav").symlink_to(path)
    single = sorted(corpus.parent.glob("*.wav"))[20]
    settings = ["--set", f"teacher_folder={quick['teacher_folder']}", *_words({**QUICK, "batch_size": 2})]
    command = [
        "pretrain",
        str(tmp_path / "music"),
        str(single),
        "--model",
        "cnn",
        "--out",
        str(tmp_path / "w"),
        *settings,
    ]
    done = CliRunner().invoke(main, [*command, "--quiet"])
    assert done.exit_code == 0, done.output
    assert "trained on 13 tracks" in done.output
    again = CliRunner().invoke(main, [*command, "--quiet"])
    assert again.exit_code == 1
    assert "already exists" in again.output
    replaced = CliRunner().invoke(main, [*command, "--quiet", "--overwrite", "--json"])
    assert json.loads(replaced.output)["tracks"] == 13


def test_test_part_is_left_out(store: Store, tmp_path: Path, quick: dict[str, Any]) -> None:
    parts = store.split()
    unheard = len(store.rows("test", parts))
    facts = pretrain([store.folder], "cnn", tmp_path / "w", quick, split="default")
    checked = store.n_slices - unheard - facts["slices"]
    assert 0 < checked < 0.1 * store.n_slices
    assert facts["split"] == "default"


def test_bad_input_raises_one_line_errors(store: Store, tmp_path: Path, quick: dict[str, Any]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no music")
    for sources, message in [
        ([tmp_path / "none"], "no such file"),
        ([tmp_path / "empty"], "contains no audio files"),
        ([tmp_path / "notes.txt"], "not an audio file"),
        ([store.folder, tmp_path / "empty"], "a store can't be combined"),
        ([], "no sources given"),
    ]:
        with pytest.raises(CorpusError, match=message):
            pretrain(sources, "cnn", tmp_path / "out", quick)
        assert not list(tmp_path.glob("out*"))
    with pytest.raises(SettingsError, match="can't pretrain the family"):
        pretrain([store.folder], "boosting", tmp_path / "out")
    with pytest.raises(SettingsError, match="needs a teacher"):
        pretrain([store.folder], "cnn", tmp_path / "out", {"teacher": "none"})


def test_weights_that_do_not_fit_are_refused(
    store: Store, tmp_path: Path, pretrained: Callable[[str], tuple[Path, dict[str, Any]]]
) -> None:
    weights = pretrained("cnn")[0]
    for modalities in (["mel"], ["chroma", "cqt", "mel"]):
        with pytest.raises(TrainingError, match="the weights are for mel, cqt, chroma, not"):
            cnn.build_initial_network(TREE, CnnSettings.build({"weights": str(weights), "modalities": modalities}))
    with pytest.raises(TrainingError, match="genretree pretrain"):
        cnn.build_initial_network(TREE, CnnSettings.build({"weights": str(tmp_path)}))
    kind = get_family("efficientnet-b0")
    with pytest.raises(TrainingError, match="not the weights of an EfficientNet"):
        train(store, kind.name, tmp_path / "b", {**QUICK, "weights": str(weights)})


def _pretrain_and_be_killed(folder: Path, out: Path, settings: dict[str, Any]) -> None:
    patch = pytest.MonkeyPatch()
    shrink_networks(patch)
    patch.setattr(trainer, "_tensorboard", lambda folder: [KillAtStep(_STEPS + _STEPS // 2)])
    pretrain([folder], "cnn", out, settings)


@pytest.mark.posix
def test_interrupted_pretraining_resumes(store: Store, tmp_path: Path, quick: dict[str, Any]) -> None:
    settings = {**quick, "epochs": 3}
    assert run_in_child(_pretrain_and_be_killed, store.folder, tmp_path / "w", settings) == -signal.SIGKILL
    checkpoints = tmp_path / "w.partial" / "checkpoints"
    steps = [int(path.parent.name.split("-")[1]) for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    assert steps == [_STEPS]
    before = time.time()
    facts = pretrain([store.folder], "cnn", tmp_path / "w", settings)
    assert facts["epochs"] == 3
    assert time.time() - before < 120
    assert np.isfinite(facts["explained"])


def _words(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def test_pretraining_tracks_are_not_reported_as_new(
    store: Store, tmp_path: Path, pretrained: Callable[[str], tuple[Path, dict[str, Any]]]
) -> None:
    weights = pretrained("cnn")[0]
    linear = {"classifier": "linear", "epochs": 0, "Cs": [0.1], "statistics": False}
    bundle = train(store, "cnn", tmp_path / "b", {**QUICK, **linear, "weights": str(weights)})
    found = evaluate(bundle, store)
    assert found.disjoint == "seen in pretraining"
    assert "were used to pretrain its weights, without their genres" in found.protocol
