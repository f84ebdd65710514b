from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from genretree.audit.evidence import read_copies
from genretree.cli import main
from genretree.corpus.splits import PARTS, RECOVERED
from genretree.corpus.store import Store
from genretree.datasets import ccmusic
from genretree.datasets.ccmusic import is_dataset, prepare_dataset
from genretree.errors import CorpusError, MissingExtraError, SettingsError
from genretree.evaluation import report
from genretree.evaluation.evaluate import evaluate
from genretree.recovery import regroup
from genretree.recovery.recover import recover_tracks
from genretree.settings import ImageSettings
from genretree.sound.slices import read_rendered_image
from genretree.taxonomy import Taxonomy
from genretree.training.recipes import Recipe
from genretree.training.train import train
from killing import kill_when
from small_weights import shrink_networks

pytestmark = pytest.mark.slow

datasets = pytest.importorskip("datasets")

ROWS = {"train": 24, "validation": 4, "test": 4}
SETTINGS = ImageSettings.build({"size": 32})
TREE = Taxonomy.builtin("ccmusic")
CLASSES = {f"{name}_label": list(TREE.labels(level)) for level, name in enumerate(TREE.levels)}

Row = dict[str, Any]


def draw_jpeg(seed: int, leaf: int) -> bytes:
    """An image in the format of the data set: 496x369 pixels in magma, brighter for a higher leaf."""
    rng = np.random.default_rng(seed)
    values = np.repeat(np.repeat(rng.uniform(0, 0.5 + leaf / 32, (41, 31)), 9, axis=0), 16, axis=1)
    stream = io.BytesIO()
    Image.fromarray(matplotlib.colormaps["magma"](values, bytes=True)[..., :3]).save(stream, "JPEG")
    return stream.getvalue()


def make_rows() -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for number, (part, count) in enumerate(ROWS.items()):
        rows[part] = []
        for i in range(count):
            leaf = (i * 5 + number) % 16
            seed = 1000 * number + 10 * i
            images = {
                name: {"bytes": draw_jpeg(seed + k, leaf), "path": None}
                for k, name in enumerate(("mel", "cqt", "chroma"))
            }
            labels = {name: int(TREE.ancestors[leaf, level]) for level, name in enumerate(CLASSES)}
            rows[part].append({**images, **labels})
    return rows


def write_replica(folder: Path, rows: dict[str, list[Row]], classes: dict[str, list[str]] = CLASSES) -> Path:
    """Write rows in the layout of the repository on the Hub: Arrow shards in `eval`, and a card that lists them."""
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    columns = next(iter(rows.values()))[0]
    features = datasets.Features(
        {name: datasets.ClassLabel(names=classes[name]) if name in classes else datasets.Image() for name in columns}
    )
    parts = datasets.DatasetDict(
        {part: datasets.Dataset.from_list(items, features=features) for part, items in rows.items()}
    )
    parts.save_to_disk(
        folder / "eval", num_shards={part: min(3, len(items)) if part == "train" else 1 for part, items in rows.items()}
    )
    splits = datasets.splits.SplitDict(
        {part: datasets.SplitInfo(name=part, num_examples=len(items)) for part, items in rows.items()}
    )
    card = DatasetCardData(license="cc-by-nc-nd-4.0")
    DatasetInfosDict({"eval": datasets.DatasetInfo(features=features, splits=splits)}).to_dataset_card_data(card)
    files = [{"split": part, "path": f"eval/{part}/data-*.arrow"} for part in rows]
    MetadataConfigs({"eval": {"data_files": files}}).to_dataset_card_data(card)
    DatasetCard(f"---\n{card}\n---\nA replica.\n").save(folder / "README.md")
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Redirect the cache of `datasets` from the home folder, also for subprocesses."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccmusic, "CHUNK", 5)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return make_rows()


@pytest.fixture(scope="module")
def replica(rows: dict[str, list[Row]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_replica(tmp_path_factory.mktemp("hub") / "music_genre", rows)


@pytest.fixture(scope="module")
def prepared(replica: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare_dataset(replica, tmp_path_factory.mktemp("stores") / "store", SETTINGS, stream=False, workers=1)


def changed(rows: dict[str, list[Row]], part: str, index: int, **values: Any) -> dict[str, list[Row]]:
    """The rows with other values in one of them."""
    items = list(rows[part])
    items[index] = {**items[index], **values}
    return {**rows, part: items}


# -- what is read --------------------------------------------------------------------------------------------


def test_the_replica_has_the_published_layout(replica: Path) -> None:
    names = {path.relative_to(replica).as_posix() for path in replica.rglob("*.arrow")}
    assert names == {
        *(f"eval/train/data-{k:05d}-of-00003.arrow" for k in range(3)),
        "eval/validation/data-00000-of-00001.arrow",
        "eval/test/data-00000-of-00001.arrow",
    }
    assert {part: len(data) for part, data in datasets.load_dataset(str(replica)).items()} == ROWS


def test_store_matches_read_rendered_image(prepared: Store, rows: dict[str, list[Row]]) -> None:
    everything = [row for items in rows.values() for row in items]
    expected = [
        [read_rendered_image(row[name]["bytes"], SETTINGS.size) for name in ("mel", "cqt", "chroma")]
        for row in everything
    ]
    np.testing.assert_array_equal(prepared.images, np.array(expected))
    assert prepared.track_leaves.tolist() == [row["thr_level_label"] for row in everything]
    assert isinstance(prepared.images, np.memmap)
    assert not prepared.failures
    assert not prepared.silent.any()


def test_the_published_parts_are_kept(prepared: Store) -> None:
    split = prepared.split()
    assert split.protocol == "slice"
    assert "LEAKING" in split.note
    assert {part: len(prepared.rows(part)) for part in ROWS} == ROWS
    assert prepared.tracks["path"][:2] == ["train/000000", "train/000001"]
    assert prepared.tracks["path"][-1] == "test/000003"
    assert all(path.startswith(part) for path, part in zip(prepared.tracks["path"], split.parts, strict=True))


def test_each_row_is_a_track_of_its_own(prepared: Store) -> None:
    assert prepared.tracks["group"][3] == "slice:train/000003"
    assert prepared.tracks["genre"][0] == "Classic > Symphony"
    assert prepared.metadata.group_by == "slice"
    assert prepared.metadata.engine == "drawn"
    assert prepared.taxonomy == TREE
    assert len(set(prepared.track_groups)) == prepared.n_tracks == prepared.n_slices == sum(ROWS.values())


def test_the_same_image_twice_is_one_group(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    twice = changed(rows, "test", 0, mel=rows["train"][0]["mel"])
    made = prepare_dataset(write_replica(tmp_path / "set", twice), tmp_path / "store", SETTINGS, workers=1)
    assert made.track_groups[28] == made.track_groups[0]


def test_streamed_and_in_parallel_it_is_the_same(tmp_path: Path, replica: Path, prepared: Store) -> None:
    for stream in (True, False):
        made = prepare_dataset(replica, tmp_path / "store", SETTINGS, stream=stream, workers=2)
        np.testing.assert_array_equal(made.images, prepared.images)
        assert made.tracks == prepared.tracks
        assert made.split() == prepared.split()
        assert made.metadata == prepared.metadata
        shutil.rmtree(tmp_path / "store")


def test_the_commands_of_the_published_recipes_work_on_it(
    replica: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands as documented, in a folder with a copy of the data set; small models without pretrained weights."""
    shutil.copytree(replica, tmp_path / "ccmusic-database" / "music_genre")
    monkeypatch.chdir(tmp_path)
    # Drawing the confusion matrices takes longer than everything else; other tests draw them.
    for name in [name for name in dir(report) if name.startswith("draw_")]:
        monkeypatch.setattr(report, name, lambda *_, **__: b"")
    shrink_networks(monkeypatch)
    small = {
        "cnn-published": {"epochs": 1, "image_size": 32},
        "efficientnet-b0-published": {"epochs": 1, "image_size": 32, "weights": "none", "batch_size": 8},
        "ast-published": {"epochs": 1, "image_size": 32},
        "boosting-published": {"epochs": 2, "image_size": 16},
    }
    runner = CliRunner()
    for name, changes in small.items():
        for line in Recipe.load(name).command:
            words = shlex.split(line)[1:]
            if words[0] == "weights":
                continue  # a download
            words = [word.replace("BUNDLE", f"BUNDLE-{name}").replace("REPORT", f"REPORT-{name}") for word in words]
            if words[0] == "prepare":
                words += ["--size", "32", "--workers", "1"]
            if words[0] == "train":
                words += [f"--set={key}={value}" for key, value in changes.items()]
            result = runner.invoke(main, [*words, "--quiet"], catch_exceptions=False)
            assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / f"REPORT-{name}" / "metrics.json").read_text())
        assert "LEAKING" in metrics["protocol"]
        assert [level["name"] for level in metrics["slice"]["levels"]] == list(TREE.levels)
        assert metrics["heads"] == "independent"


def test_a_model_learns_from_it(tmp_path: Path, prepared: Store) -> None:
    bundle = train(prepared, "boosting", tmp_path / "bundle", {"epochs": 2})
    assert bundle.taxonomy == TREE
    assert "LEAKING" in bundle.training["split"]["note"]


# -- bad rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda row: {"cqt": {"bytes": row["cqt"]["bytes"][:3000], "path": None}},
            "image",
            "cqt: the image is damaged",
        ),
        (lambda row: {"mel": {"bytes": b"not a picture", "path": None}}, "image", "mel: the image is not an image"),
        (lambda row: {"chroma": None}, "image", "the chroma image is missing"),
        (lambda row: {"thr_level_label": -1}, "label", "thr_level_label is -1"),
        (lambda row: {"fst_level_label": None}, "label", "fst_level_label is None"),
        (lambda row: {"sec_level_label": (row["sec_level_label"] + 1) % 9}, "parent", "belongs to"),
    ],
)
def test_invalid_row_is_reported_and_skipped(
    tmp_path: Path, rows: dict[str, list[Row]], change: Callable[[Row], Row], kind: str, message: str
) -> None:
    few = {part: items[:3] for part, items in rows.items()}
    source = write_replica(tmp_path / "set", changed(few, "validation", 1, **change(few["validation"][1])))
    made = prepare_dataset(source, tmp_path / "store", SETTINGS, workers=1)
    assert [(failure.path, failure.kind) for failure in made.failures] == [("validation/000001", kind)]
    assert message in made.failures[0].message
    assert made.n_slices == len(made.split().parts) == 8
    assert made.split().parts.count("validation") == 2
    assert made.tracks["path"][4] == "validation/000002"


def test_constant_image_is_silent(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (496, 369), (0, 0, 4)).save(stream, "JPEG")
    flat = changed(rows, "train", 7, mel={"bytes": stream.getvalue(), "path": None})
    made = prepare_dataset(write_replica(tmp_path / "set", flat), tmp_path / "store", SETTINGS, workers=1)
    assert np.flatnonzero(made.silent).tolist() == [7]
    assert len(made.rows("train")) == 23


def test_no_valid_row_is_an_error(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    none = {part: [{**items[0], "mel": None}] for part, items in rows.items()}
    with pytest.raises(CorpusError, match="none of 3 rows is valid; the first: train/000000: the mel image is missing"):
        prepare_dataset(write_replica(tmp_path / "set", none), tmp_path / "store", SETTINGS, workers=1)


# -- other data sets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_classes_in_another_order_are_refused(tmp_path: Path, rows: dict[str, list[Row]], stream: bool) -> None:
    names = CLASSES["sec_level_label"]
    other = {**CLASSES, "sec_level_label": [names[1], names[0], *names[2:]]}
    few = {part: items[:1] for part, items in rows.items()}
    source = write_replica(tmp_path / "set", few, other)
    with pytest.raises(CorpusError, match=r"'sec_level_label'.*Symphony, Opera.*found Opera, Symphony"):
        prepare_dataset(source, tmp_path / "store", SETTINGS, stream=stream, workers=1)


def test_a_missing_column_is_refused(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    few = {part: [{k: v for k, v in items[0].items() if k != "cqt"}] for part, items in rows.items()}
    with pytest.raises(CorpusError, match=r"expected the columns mel, cqt.*missing: cqt"):
        prepare_dataset(write_replica(tmp_path / "set", few), tmp_path / "store", SETTINGS, workers=1)


def test_a_missing_part_is_refused(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    few = {part: items[:1] for part, items in rows.items() if part != "test"}
    with pytest.raises(CorpusError, match="expected the parts train, validation, test; found train, validation"):
        prepare_dataset(write_replica(tmp_path / "set", few), tmp_path / "store", SETTINGS, workers=1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("damage", ["pointer", "missing", "cut"])
def test_an_incomplete_copy_is_refused(tmp_path: Path, replica: Path, damage: str, stream: bool) -> None:
    copy = tmp_path / "set"
    shutil.copytree(replica, copy)
    shard = copy / "eval/train/data-00001-of-00003.arrow"
    content = shard.read_bytes()
    shard.unlink()
    if damage == "pointer":  # what git leaves without git-lfs
        shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 458000000\n")
    elif damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorpusError, match=r"cannot be read as a data set \(.*hf download"):
        prepare_dataset(copy, tmp_path / "store", SETTINGS, stream=stream, workers=1)
    assert not (tmp_path / "store").exists()


# -- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_finished_rows_are_not_converted_again(
    tmp_path: Path, replica: Path, prepared: Store, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    drawn = []
    real = ccmusic._convert_chunk

    def count(chunk: Any) -> int:
        drawn.append((chunk.part, chunk.start))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return real(chunk)

    monkeypatch.setattr(ccmusic, "_convert_chunk", count)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(replica, tmp_path / "store", SETTINGS, stream=stream, workers=1)
    made = prepare_dataset(replica, tmp_path / "store", SETTINGS, stream=stream, workers=1)
    assert drawn[2:] == [*[("train", start) for start in (10, 10, 15, 20)], ("validation", 0), ("test", 0)]
    np.testing.assert_array_equal(made.images, prepared.images)
    assert not (tmp_path / "store.partial").exists()


def test_killed_run_resumes(tmp_path: Path, replica: Path, prepared: Store) -> None:
    out = tmp_path / "store"
    code = (
        "import time; from genretree.datasets import ccmusic; from genretree.settings import ImageSettings\n"
        "ccmusic.CHUNK = 1; real = ccmusic._convert_chunk\n"
        "ccmusic._convert_chunk = lambda chunk: (time.sleep(0.05), real(chunk))[1]\n"
        f"ccmusic.prepare_dataset({str(replica)!r}, {str(out)!r}, ImageSettings(size=32), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    shards = tmp_path / "store.partial" / "rows"
    kill_when(lambda: len(list(shards.glob("*.json"))) >= 5, process)
    assert not out.exists()

    made = prepare_dataset(replica, out, SETTINGS, workers=1)
    np.testing.assert_array_equal(made.images, prepared.images)
    assert made.tracks == prepared.tracks


def test_repeated_call_keeps_the_store(replica: Path, prepared: Store) -> None:
    before = (prepared.folder / "store.json").stat().st_mtime_ns
    prepare_dataset(replica, prepared.folder, SETTINGS, stream=True)
    assert (prepared.folder / "store.json").stat().st_mtime_ns == before
    with pytest.raises(CorpusError, match="overwrite=True"):
        prepare_dataset(replica, prepared.folder, ImageSettings.build({"size": 64}))


# -- recovered tracks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regrouped(replica: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("stores") / "store"
    return prepare_dataset(replica, out, SETTINGS, stream=False, workers=1, regroup=True)


def test_recovered_tracks_are_added_to_the_published_columns(prepared: Store, regrouped: Store) -> None:
    assert regrouped.metadata.group_by == RECOVERED
    assert regrouped.metadata.digest == prepared.metadata.digest
    assert regrouped.split_names() == ["default", "recovered"]
    assert regrouped.split() == prepared.split()
    assert "LEAKING" in regrouped.split().note
    np.testing.assert_array_equal(regrouped.images, prepared.images)
    for name in ("path", "leaf", "sha256"):
        assert regrouped.tracks[name] == prepared.tracks[name]
    expected = recover_tracks(prepared.images, prepared.track_leaves)
    assert regrouped.tracks["recovered_track"] == expected.tracks.tolist()
    assert regrouped.tracks["recovered_confidence"] == np.round(expected.confidence, 3).tolist()
    assert len(set(regrouped.tracks["group"])) == expected.blocks.max() + 1


def test_recovered_split_keeps_groups_together_and_is_marked(regrouped: Store) -> None:
    split = regrouped.split("recovered")
    assert split.protocol == "recovered"
    assert "guessed" in split.note
    parts = np.array(split.parts)
    for group in np.unique(regrouped.track_groups):
        assert len(set(parts[regrouped.track_groups == group])) == 1
    assert {part: len(regrouped.rows(part, split)) for part in PARTS} == {p: int((parts == p).sum()) for p in PARTS}


def test_groups_are_added_to_a_finished_store_without_conversion(
    tmp_path: Path, replica: Path, regrouped: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"
    prepare_dataset(replica, out, SETTINGS, workers=1)
    stamp = (out / "images.npy").stat().st_mtime_ns
    monkeypatch.setattr(ccmusic, "_convert_chunk", None)
    added = prepare_dataset(replica, out, SETTINGS, workers=1, regroup=True)
    assert added.metadata == regrouped.metadata
    assert added.tracks == regrouped.tracks
    assert added.split("recovered") == regrouped.split("recovered")
    assert (out / "images.npy").stat().st_mtime_ns == stamp
    written = (out / "store.json").stat().st_mtime_ns
    for asked in (False, True):
        again = prepare_dataset(replica, out, SETTINGS, workers=1, regroup=asked)
        assert again.tracks == regrouped.tracks
    assert (out / "store.json").stat().st_mtime_ns == written


def test_interrupted_recovery_is_repeated(
    tmp_path: Path, replica: Path, regrouped: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(regroup, "write_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(replica, tmp_path / "store", SETTINGS, workers=1, regroup=True)
    assert Store(tmp_path / "store").metadata.group_by == "slice"
    made = prepare_dataset(replica, tmp_path / "store", SETTINGS, workers=1, regroup=True)
    assert made.tracks == regrouped.tracks


def test_recovering_and_splitting_from_the_command_line(tmp_path: Path, replica: Path) -> None:
    store = str(tmp_path / "store")
    words = ["prepare", str(replica), store, "--size", "32", "--workers", "1", "--quiet"]
    runner = CliRunner()
    assert runner.invoke(main, words).exit_code == 0
    refused = runner.invoke(main, ["split", store])
    assert refused.exit_code == 1
    assert "--recover-tracks" in refused.output
    outcome = runner.invoke(main, [*words, "--recover-tracks"])
    assert outcome.exit_code == 0, outcome.output
    assert "32 slices, grouped by recovered track, 0 failed." in outcome.output
    assert "tracks recovered, kept together in" in outcome.output
    outcome = runner.invoke(main, ["split", store, "--name", "mine", "--seed", "1"])
    assert outcome.exit_code == 0, outcome.output
    assert "(slices)" in outcome.output
    assert "guessed from the images" in outcome.output
    made = Store(store)
    assert made.split("mine").protocol == "recovered"
    recovery = made.split("mine").recovery
    assert recovery == made.split("recovered").recovery
    assert recovery is not None
    assert recovery.blocks == len(set(made.tracks["group"]))
    info = json.loads(runner.invoke(main, ["info", store, "--json"]).output)
    assert info["recovery"] == {**asdict(recovery), "whole": list(recovery.whole)}
    assert all(name in outcome.output for name in (*recovery.by_artist, *recovery.whole))
    assert runner.invoke(main, ["split", store, "--protocol", "slice"]).exit_code == 0
    assert Store(store).split("slices").protocol == "slice"


def test_audited_copies_with_two_labels_are_merged(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    # Equal pixels in different bytes: only the audit shows that the two rows are one recording.
    copy = {name: {"bytes": rows["train"][0][name]["bytes"] + b"\0", "path": None} for name in ("mel", "cqt", "chroma")}
    other = next(
        i for i, row in enumerate(rows["train"]) if row["thr_level_label"] != rows["train"][0]["thr_level_label"]
    )
    source = str(write_replica(tmp_path / "hub", changed(rows, "train", other, **copy)))
    store = str(tmp_path / "store")
    words = ["prepare", source, store, "--size", "32", "--workers", "1", "--quiet"]
    runner = CliRunner()
    assert runner.invoke(main, words).exit_code == 0
    regroup.regroup_store(Store(shutil.copytree(store, tmp_path / "alone")))
    alone = Store(tmp_path / "alone").tracks["group"]
    assert alone[0] != alone[other]

    outcome = runner.invoke(main, [*words, "--recover-tracks"])
    assert outcome.exit_code == 0, outcome.output
    audited = Path(store, "audit", "audit.json")
    assert f"of copies in {audited}: 2 groups joined into 1." in outcome.output
    made = Store(store)
    assert made.tracks["group"][0] == made.tracks["group"][other] == min(alone[0], alone[other])
    assert made.track_leaves[0] != made.track_leaves[other]
    split = made.split("recovered")
    assert split.parts[0] == split.parts[other]
    assert split.copies is not None
    assert split.copies.sha256 == hashlib.sha256(audited.read_bytes()).hexdigest()

    # A store that was grouped before is joined by an audit that is given; the same call again changes nothing.
    regroup.regroup_store(Store(tmp_path / "alone"), copies=read_copies(audited, Store(tmp_path / "alone")))
    assert Store(tmp_path / "alone").tracks["group"] == made.tracks["group"]
    assert runner.invoke(main, [*words, "--recover-tracks", "--audit", str(audited)]).exit_code == 0
    assert Store(store).tracks == made.tracks
    refused = runner.invoke(main, [*words, "--audit", str(audited)])
    assert refused.exit_code == 2
    assert "--audit needs --recover-tracks" in refused.output


def test_recovery_is_rejected_for_audio_files(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(main, ["prepare", str(tmp_path), str(tmp_path / "store"), "--recover-tracks"])
    assert outcome.exit_code == 1
    assert "--recover-tracks: not for music in files" in outcome.output


def test_reports_on_recovered_tracks_are_marked(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    # Labels of sixteen slices: of two, as elsewhere here, none could be held out.
    leaves = {part: [0 if i % 2 else 15 for i in range(len(items))] for part, items in rows.items()}
    labels = {name: TREE.ancestors[:, level] for level, name in enumerate(CLASSES)}
    wide = {
        part: [
            {**row, **{name: int(of[leaf]) for name, of in labels.items()}}
            for row, leaf in zip(items, leaves[part], strict=True)
        ]
        for part, items in rows.items()
    }
    made = prepare_dataset(write_replica(tmp_path / "set", wide), tmp_path / "store", SETTINGS, workers=1, regroup=True)
    bundle = train(made, "boosting", tmp_path / "bundle", {"epochs": 2}, split="recovered")
    assert "guessed" in bundle.training["split"]["note"]
    assert "guessed" in evaluate(bundle, made, part="test").protocol


# -- sources and the command line ----------------------------------------------------------------------------


def test_is_dataset(tmp_path: Path, replica: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_dataset("ccmusic-database/music_genre")
    assert is_dataset(replica)
    for source in ("music", "music/tracks.csv", "a/b/c", "/music/jazz", "./music/jazz", "../music", tmp_path):
        assert not is_dataset(source)
    (tmp_path / "music" / "jazz").mkdir(parents=True)
    (tmp_path / "music" / "README.md").write_text("My music. dataset_info: none\n")
    assert not is_dataset("music/jazz")
    assert not is_dataset("music")


def test_from_the_command_line(tmp_path: Path, replica: Path) -> None:
    words = ["prepare", str(replica), str(tmp_path / "store"), "--size", "32", "--workers", "1", "--quiet"]
    outcome = CliRunner().invoke(main, words)
    assert outcome.exit_code == 0, outcome.output
    assert "32 tracks, 32 slices, grouped by slice, 0 failed." in outcome.output
    outcome = CliRunner().invoke(main, [*words, "--group", "artist", "--salvage"])
    assert outcome.exit_code == 1
    assert "--group" in outcome.output or "--salvage" in outcome.output


def test_streaming_is_rejected_for_audio_files(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(main, ["prepare", str(tmp_path), str(tmp_path / "store"), "--stream"])
    assert outcome.exit_code == 1
    assert "--stream: not for music in files" in outcome.output


def test_the_length_of_a_slice_cannot_be_set(tmp_path: Path, replica: Path) -> None:
    with pytest.raises(SettingsError, match=r"11\.4 s"):
        prepare_dataset(replica, tmp_path / "store", ImageSettings.build({"slice_seconds": 5}))


def test_offline_error_explains_how_to_get_a_copy(tmp_path: Path) -> None:
    # In a subprocess, because the libraries read these variables at import.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    words = ["prepare", "ccmusic-database/music_genre", str(tmp_path / "store"), "--quiet"]
    command = [sys.executable, "-m", "genretree", *words]
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, cwd=tmp_path)
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    assert "ccmusic-database/music_genre: not a local path" in outcome.stderr
    assert "hf download ccmusic-database/music_genre --repo-type dataset" in outcome.stderr


def test_missing_datasets_package_names_the_extra(
    tmp_path: Path, replica: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"genretree\[hub\]"):
        prepare_dataset(replica, tmp_path / "store", SETTINGS)
