from __future__ import annotations

import json
import os
import subprocess
import sys
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

from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError, TrainingError
from genretree.evaluation.evaluate import evaluate
from genretree.models import get_family
from genretree.models.families import cnn, efficientnet
from genretree.models.neural.settings import CnnSettings
from genretree.models.pretrained import musicnn_features
from genretree.training.pretrain import pretrain
from genretree.training.train import train
from killing import kill_when
from small_corpus import TREE
from small_weights import write_musicnn

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "epochs": 1,
    "image_size": 32,
    "batch_size": 16,
    "precision": "float32",
    "modalities": ["mel", "cqt", "chroma"],
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings with a random teacher with short patches; EfficientNet gets fewer layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicnn_features, "PATCH_FRAMES", 24)
        thin = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
        patch.setattr(efficientnet, "_B0", {**efficientnet._B0, **thin})
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


def test_interrupted_pretraining_resumes(store: Store, tmp_path: Path, quick: dict[str, Any]) -> None:
    teacher = write_musicnn(tmp_path / "teacher")
    settings = {**QUICK, "teacher_folder": str(teacher), "epochs": 6}
    code = (
        "from genretree.models.pretrained import musicnn_features\n"
        "musicnn_features.PATCH_FRAMES = 24\n"
        "from genretree.training.pretrain import pretrain\n"
        f"pretrain([{str(store.folder)!r}], 'cnn', {str(tmp_path / 'w')!r}, {settings!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    kill_when(
        lambda: any((tmp_path / "w.partial" / "checkpoints").glob("checkpoint-*/trainer_state.json")), process, 120
    )
    before = time.time()
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "w.partial" / "checkpoints").glob("checkpoint-*")]
    facts = pretrain([store.folder], "cnn", tmp_path / "w", settings)
    assert steps
    assert facts["epochs"] == 6
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
    assert found.disjoint == "heard before"
    assert "were used to pretrain its weights, without their genres" in found.protocol
