from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError, TrainingError
from genretree.models.neural.distillation import compute_teacher_targets
from genretree.models.pretrained.mn04 import Mn04
from genretree.models.pretrained.mn04_weights import load_mn04
from genretree.sound.decode import decode, probe
from genretree.training.data import slice_dataset_of
from genretree.training.pretrain import prepare_music, pretrain
from genretree.training.sound_variants import CODECS, VariantJob, write_variant, write_variants

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def versions(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path | None]:
    """Versions of a file with different seeds, and of a file that is not audio."""
    folder = tmp_path_factory.mktemp("versions")
    paths = sorted(corpus.parent.glob("*.wav"))
    jobs = [VariantJob(paths[0], paths[20], folder / f"{seed}", (seed,), 6.0) for seed in range(12)]
    return write_variants([*jobs, VariantJob(corpus, paths[0], folder / "csv", (0,), 6.0)], workers=1)


def test_versions_are_lossy_files_with_another_tempo(versions: list[Path | None]) -> None:
    written = [path for path in versions if path is not None]
    assert len(written) == 12
    assert versions[-1] is None
    assert {path.suffix for path in written} == {codec[0] for codec in CODECS}
    lengths = [probe(path).duration for path in written]
    assert 6 / 1.25 - 0.3 < min(lengths) < 5.7
    assert 6.3 < max(lengths) < 6 / 0.8 + 0.3
    levels = [float(np.abs(decode(path)).max()) for path in written]
    assert min(levels) > 0.5
    assert max(levels) < 1.2


def test_versions_are_reproducible_and_kept(versions: list[Path | None], corpus: Path, tmp_path: Path) -> None:
    paths = sorted(corpus.parent.glob("*.wav"))
    again = write_variant(VariantJob(paths[0], paths[20], tmp_path / "3", (3,), 6.0))
    assert again is not None
    assert versions[3] is not None
    np.testing.assert_allclose(decode(again), decode(versions[3]), atol=1e-3)
    before = again.stat().st_mtime_ns
    assert write_variant(VariantJob(paths[0], paths[20], tmp_path / "3", (3,), 6.0)) == again
    assert again.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def music_store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one version of each of 19 files, and with one more file."""
    sources = sorted(corpus.parent.glob("*.wav"))[:20]
    return prepare_music(sources, tmp_path_factory.mktemp("music") / "store", teacher="mn04", variants=1, workers=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random mn04."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    save_file(Mn04().state_dict(), folder / "mn04.safetensors")
    return str(folder)


def test_held_out_tracks_have_no_versions(music_store: Store) -> None:
    parts = music_store.split("pretraining").parts
    names = [Path(name) for name in music_store.tracks["path"]]
    held_out = [name for name, part in zip(names, parts, strict=True) if part == "validation"]
    assert len(held_out) == 1
    assert held_out[0].suffix == ".wav"
    assert len(names) == 20 + 19
    assert sum(name.parent.name.endswith("-variants") for name in names) == 19


def test_a_network_learns_from_mn04(music_store: Store, teacher: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"teacher": "mn04", "epochs": 1, "image_size": 32, "precision": "float32"}
    settings["teacher_folder"] = teacher
    metadata = pretrain([music_store.folder], "cnn", tmp_path / "w", settings, split="pretraining")
    assert metadata["teacher"] == ["mn04"]
    assert metadata["slices"] == len(music_store.rows("train", music_store.split("pretraining")))
    assert metadata["explained"] is not None
    with pytest.raises(SettingsError, match="variants can't be made from a store"):
        pretrain([music_store.folder], "cnn", tmp_path / "v", settings, variants=1)
    with pytest.raises(CorpusError, match="a store, which has no sound"):
        prepare_music([music_store.folder], tmp_path / "s")


def test_targets_of_mn04_are_voices_music_and_the_embedding(music_store: Store, teacher: str) -> None:
    part = slice_dataset_of(music_store, music_store.rows("all")[:6])
    (targets,) = compute_teacher_targets([part], ("msd",), teacher, teacher="mn04")
    assert targets.shape == (6, 38 + 146 + 384)
    network = load_mn04(teacher)
    mel = torch.from_numpy(np.asarray(music_store.features["mel_32k"][part.rows], np.float32))[:, None]
    with torch.inference_mode():
        outputs = network(mel)
    # Singing, music, scary music and the last of the embedding
    for column, output in (
        (27, outputs.logits[:, 27]),
        (38, outputs.logits[:, 137]),
        (183, outputs.logits[:, 282]),
        (-1, outputs.embedding[:, -1]),
    ):
        standardised = (output - output.mean()) / max(float(output.std(correction=0)), 1e-6)
        np.testing.assert_allclose(targets[:, column], standardised.clamp(-4, 4), atol=0.05)


def test_the_teacher_must_be_there_before_hours_of_preparation(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TrainingError, match="genretree weights get mn04"):
        pretrain([corpus.parent], "cnn", tmp_path / "w", {"teacher": "mn04"})
    assert not list(tmp_path.glob("w*"))
