"""Stores from images with labels: a CSV, and data sets in every form that `datasets` writes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from genretree.cli import main
from genretree.corpus import images
from genretree.corpus.images import prepare_images
from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError
from genretree.settings import MODALITIES, ImageSettings
from genretree.sound.images import read_image
from genretree.training.train import train

SETTINGS = ImageSettings.build({"size": 32})
GENRES = ("Calm/Drone", "Calm/Bells", "Busy/Beat")


def png(seed: int, colours: bool = True) -> bytes:
    values = np.repeat(np.random.default_rng(seed).uniform(0, 1, (12, 20)), 6, axis=1)
    pixels = matplotlib.colormaps["magma"](values, bytes=True)[..., :3] if colours else np.uint8(255 * values)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_csv(folder: Path, modalities: tuple[str, ...] = MODALITIES, **extra: Any) -> Path:
    """Two slices of each of 12 tracks, interleaved, of 6 artists and 3 genres."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for slice_number in range(2):
        for track in range(12):
            row = {"genre": GENRES[track % 3], "track": f"t{track}", "artist": f"a{track % 6}"}
            for place, name in enumerate(modalities):
                row[name] = f"{track}-{slice_number}_{name}.png"
                (folder / row[name]).write_bytes(png(100 * track + 10 * slice_number + place, track % 2 == 0))
            rows.append({**row, **extra})
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "images.csv"


def test_rows_of_one_track_are_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CHUNK", 5)
    made = prepare_images(write_csv(tmp_path / "in"), tmp_path / "store", SETTINGS, workers=1)
    assert (made.n_tracks, made.n_slices, made.metadata.group_by) == (12, 24, "artist")
    assert made.slice_tracks.tolist() == [track for track in range(12) for _ in range(2)]
    assert made.tracks["path"] == [f"t{track}" for track in range(12)]
    assert made.split().protocol == "group"
    parts: dict[str, set[str]] = {}
    for artist, part in zip(made.tracks["artist"], made.split().parts, strict=True):
        parts.setdefault(artist, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())
    for row, name in ((0, "0-0"), (3, "1-1")):
        for place, modality in enumerate(MODALITIES):
            expected = read_image(tmp_path / "in" / f"{name}_{modality}.png", modality, SETTINGS)
            assert np.array_equal(made.images[row, place], expected)


def test_a_subset_of_the_images_and_other_names(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in", ("mel",))
    text = table.read_text(encoding="utf-8").replace("genre,track,artist,mel", "style,piece,who,spectrogram", 1)
    table.write_text(text, encoding="utf-8")
    columns = "mel=spectrogram,label=style,track=piece"
    made = prepare_images(table, tmp_path / "store", SETTINGS, columns=columns, workers=1)
    assert made.metadata.group_by == "track"
    assert made.images[:, 0].any()
    assert not made.images[:, 1:].any()
    assert not made.silent.any()
    assert made.modalities == ("mel",)
    with pytest.raises(CorpusError, match=r"no images of cqt, chroma.*modalities=\['mel'\]"):
        train(made, "boosting", tmp_path / "bundle", {"image_size": 16})


def test_bad_rows_are_named_and_left_out(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in")
    (tmp_path / "in" / "0-0_cqt.png").unlink()
    (tmp_path / "in" / "1-0_mel.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].replace("Busy/Beat", "")
    lines[15] = lines[15].replace("Busy/Beat", "Calm/Bells").replace("t2", "t0")
    table.write_text("\n".join(lines), encoding="utf-8")
    made = prepare_images(table, tmp_path / "store", SETTINGS, workers=1)
    kinds = {failure.path: failure.kind for failure in made.failures}
    assert kinds == {
        "2-0_mel.png": "label",
        "2-1_mel.png": "label",
        "0-0_mel.png": "not_found",
        "1-0_mel.png": "lfs_pointer",
    }
    assert made.n_slices == 20


def test_a_source_without_labels_or_images_is_refused(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in")
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("genre,", "mood,", 1), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"has no labels.*columns=label=COLUMN"):
        prepare_images(table, tmp_path / "store", SETTINGS)
    with pytest.raises(CorpusError, match="has no column kind; it has: mood"):
        prepare_images(table, tmp_path / "store", SETTINGS, columns="label=kind")
    with pytest.raises(SettingsError, match="not 'sound=x'"):
        prepare_images(table, tmp_path / "store", SETTINGS, columns="sound=x")


def test_the_command_goes_from_images_to_a_store(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in")
    arguments = ["prepare", str(table), str(tmp_path / "store"), "--size", "32", "--workers", "1", "--quiet"]
    run = CliRunner().invoke(main, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["slices"] == 24
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0, again.output
    wrong = CliRunner().invoke(main, [*arguments[:-1], "--salvage", "--overwrite"])
    assert "--salvage: not for images" in wrong.output


def test_images_where_sound_is_expected(tmp_path: Path) -> None:
    write_csv(tmp_path / "in")
    folder = CliRunner().invoke(main, ["prepare", str(tmp_path / "in"), str(tmp_path / "a"), "--quiet"])
    assert folder.exit_code != 0
    assert "has images and no audio" in folder.output
    table = tmp_path / "in" / "tracks.csv"
    table.write_text("path,genre\n0-0_mel.png,Calm\n1-0_mel.png,Busy\n", encoding="utf-8")
    listed = CliRunner().invoke(main, ["prepare", str(table), str(tmp_path / "b"), "--workers", "1", "--quiet"])
    assert listed.exit_code != 0
    assert "is an image, not audio" in listed.output


# -- data sets -----------------------------------------------------------------------------------------------


def make_parts(with_track: bool = False) -> Any:
    datasets = pytest.importorskip("datasets")
    features = {name: datasets.Image() for name in ("spec", "cq")}
    features |= {"style": datasets.ClassLabel(names=["Calm", "Busy"])}
    features |= {"piece": datasets.Value("string")} if with_track else {}
    parts = {}
    for number, (part, count) in enumerate({"train": 8, "validation": 4, "test": 4}.items()):
        rows = []
        for i in range(count):
            row: dict[str, Any] = {
                name: {"bytes": png(1000 * number + 10 * i + place), "path": None}
                for place, name in enumerate(("spec", "cq"))
            }
            rows.append({**row, "style": i % 2, **({"piece": f"{part}-{i // 2 * 2 + i % 2}"} if with_track else {})})
        parts[part] = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    return datasets.DatasetDict(parts)


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "arrow"])
def test_data_sets_without_a_card_are_read(tmp_path: Path, form: str) -> None:
    parts = make_parts()
    source = tmp_path / "data"
    if form == "save_to_disk":
        parts.save_to_disk(source)
    elif form == "parquet":
        source.mkdir()
        for part, data in parts.items():
            data.to_parquet(source / f"{part}-00000-of-00001.parquet")
    else:
        for part, data in parts.items():
            data.save_to_disk(source / part)
            for extra in (source / part).glob("*.json"):
                extra.unlink()
    columns = "mel=spec,cqt=cq,label=style"
    made = prepare_images(source, tmp_path / "store", SETTINGS, columns=columns, workers=1)
    assert made.n_slices == 16
    assert made.metadata.group_by == "slice"
    assert list(made.split().parts) == ["train"] * 8 + ["validation"] * 4 + ["test"] * 4
    assert made.tracks["genre"][:2] == ["Calm", "Busy"]
    with pytest.raises(CorpusError, match="no column mel, cqt or chroma"):
        prepare_images(source, tmp_path / "other", SETTINGS)


def test_lfs_pointers_and_sound_in_the_place_of_data_are_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = tmp_path / "data"
    source.mkdir()
    (source / "train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(CorpusError, match="Git LFS pointer"):
        prepare_images(source, tmp_path / "store", SETTINGS)
    (source / "train.parquet").write_bytes(b"not parquet at all" * 100)
    with pytest.raises(CorpusError, match="cannot be read as a data set"):
        prepare_images(source, tmp_path / "store", SETTINGS)
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    sound = datasets.Dataset.from_list([{"mel": str(tmp_path / "song.wav"), "label": "Calm"}])
    sound.cast_column("mel", datasets.Audio()).save_to_disk(tmp_path / "sound")
    with pytest.raises(CorpusError, match="contains audio, not images"):
        prepare_images(tmp_path / "sound", tmp_path / "store", SETTINGS)


def test_tracks_of_a_data_set_are_kept_together(tmp_path: Path) -> None:
    make_parts(with_track=True).save_to_disk(tmp_path / "data")
    arguments = ["prepare", str(tmp_path / "data"), str(tmp_path / "store"), "--size", "32", "--workers", "1"]
    columns = ["--columns", "mel=spec,cqt=cq,label=style,track=piece", "--quiet", "--images", "drawn"]
    run = CliRunner().invoke(main, [*arguments, *columns])
    assert run.exit_code == 0, run.output
    assert "16 tracks, 16 slices, grouped by track" in run.output
    assert Store(tmp_path / "store").metadata.engine == "drawn (mel, cqt only)"
