"""Images as input instead of audio: reading, grouping, prediction and explanation."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from genretree.bundle.bundle import Bundle
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.corpus.triples import group_images
from genretree.errors import ImageError
from genretree.prediction.from_images import find_image_sets, predict_images
from genretree.prediction.predict import Prediction, PredictionError
from genretree.settings import MODALITIES, SAMPLE_RATE, Modality
from genretree.sound.images import read_image
from genretree.sound.slices import render_image
from genretree.sound.spectra import compute_spectra
from genretree.training.train import train
from small_corpus import SETTINGS, synthesise

FRAMES = SETTINGS.slice_frames


def spectra(genre: str = "Bells", seed: int = 3) -> dict[Modality, np.ndarray]:
    """The dB values of one slice of the small corpus."""
    predicted = compute_spectra(synthesise(genre, seed, 4.0))
    return {name: getattr(predicted, name)[:, 20 : 20 + FRAMES] for name in MODALITIES}


def rendering(db: np.ndarray, kind: str = "png", cmap: str = "magma", dpi: int = 100, stripped: bool = True) -> bytes:
    """Render as librosa.display.specshow does, on the default figure; without axes and margins if stripped."""
    figure = Figure(dpi=dpi)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.pcolormesh(db, cmap=cmap, shading="auto", rasterized=True)
    stream = io.BytesIO()
    if stripped:
        axes.axis("off")
        figure.savefig(stream, format=kind, bbox_inches="tight", pad_inches=0, dpi=dpi)
    else:
        figure.savefig(stream, format=kind, dpi=dpi)
    return stream.getvalue()


def write_image_files(folder: Path, name: str = "{}.png", genre: str = "Bells", seed: int = 3) -> list[Path]:
    """Write the three images of a slice; return their paths."""
    paths = []
    for modality, db in spectra(genre, seed).items():
        path = folder / name.format(modality)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rendering(db))
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = {"epochs": 3, "image_size": 16, "components": 20, "min_samples_leaf": 5}
    return train(store, "boosting", tmp_path_factory.mktemp("bundle") / "b", settings)


# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(
    ("options", "mean", "worst"),
    [
        ({}, 2, 8),
        ({"cmap": "gray"}, 2, 8),
        ({"dpi": 217}, 4, 40),
        ({"dpi": 61}, 5, 60),
        ({"kind": "jpeg"}, 3, 16),
        ({"kind": "jpeg", "cmap": "gray", "dpi": 150}, 4, 40),
    ],
)
def test_renderings_of_other_sizes_and_formats_read_back(
    modality: Modality, options: dict[str, Any], mean: float, worst: float
) -> None:
    # In grey levels of 255. At other sizes than the data set's, other cells share a pixel at the edges of cells.
    for genre in ("Bells", "Slow_beat"):
        db = spectra(genre)[modality]
        expected = render_image(db, SETTINGS.size).astype(float)
        difference = np.abs(read_image(rendering(db, **options), modality, SETTINGS) - expected)
        assert difference.mean() <= mean
        assert np.percentile(difference, 99) <= worst


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_raw_decibels_are_rendered_as_audio(dtype: str) -> None:
    for modality, db in spectra().items():
        stream = io.BytesIO()
        np.save(stream, db.astype(dtype))
        difference = np.abs(
            read_image(stream.getvalue(), modality, SETTINGS).astype(int) - render_image(db, SETTINGS.size)
        )
        assert difference.max() <= 1


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def wide() -> bytes:
    return bomb(9000)


def bomb(edge: int = 60000) -> bytes:
    """A PNG of a few bytes that declares very many pixels."""
    header = struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def photo() -> bytes:
    ramp = np.linspace(0, 255, 200)
    colours = np.stack([*np.meshgrid(ramp, ramp[::-1]), np.full((200, 200), 90.0)], axis=-1)
    stream = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def sound() -> bytes:
    stream = io.BytesIO()
    sf.write(stream, np.zeros(4000), SAMPLE_RATE, format="WAV")
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (LFS, "lfs_pointer", "git lfs pull"),
        (b"", "empty", "empty"),
        (b"GIF89a but not really", "not_image|damaged", ""),
        (rendering(spectra()["mel"])[:3000], "damaged", "save it again"),
        (sound(), "sound", "audio file"),
        (photo(), "colours", "neither magma nor grey: mean colour distance"),
        (rendering(spectra()["mel"], cmap="viridis"), "colours", "looks like viridis"),
        (rendering(spectra()["mel"], cmap="inferno"), "colours", "looks like inferno"),
        (rendering(spectra()["mel"], cmap="plasma", kind="jpeg"), "colours", "from magma"),
        (rendering(spectra()["mel"], cmap="jet"), "colours", "cmap='magma'"),
        (rendering(spectra()["mel"], stripped=False), "margin", "axis('off')"),
        (bomb(), "too_large", "too many pixels"),
        (wide(), "too_large", "9000x9000"),
        (npy(spectra()["mel"].T), "shape", "transposed"),
        (npy(spectra()["mel"][:, :20]), "shape", "has 20 frames"),
        (npy(spectra()["cqt"]), "shape", "(128, 86)"),
        (npy(spectra()["mel"].astype(int)), "dtype", "floats in dB"),
        (npy(spectra()["mel"] * np.nan), "not_finite", "NaN"),
        (npy(10 ** (spectra()["mel"] / 10)), "range", "power_to_db"),
        (npy(np.array([[{}]], dtype=object)), "pickled", "pickled"),
        (npy(spectra()["mel"])[:500], "damaged", "NumPy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_images_are_rejected(content: bytes, kind: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(content, "mel", SETTINGS)
    assert caught.value.kind in kind.split("|")
    assert message in str(caught.value)


@pytest.mark.parametrize(("cmap", "form"), [("magma", "grey"), ("magma", "raw"), ("gray", "raw"), ("gray", "drawn")])
def test_an_explicit_form_is_required(cmap: str, form: Any) -> None:
    with pytest.raises(ImageError, match=f"{form}|neither magma"):
        read_image(rendering(spectra()["mel"], cmap=cmap), "mel", SETTINGS, form)


# -- grouping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["a/song_{}.png", "a/song-{}.png", "a/{}.song.png", "a/{}/song.png", "a/song/{}.png", "a/{}/song_{}.png"]
)
def test_images_are_grouped_by_names_and_folders(tmp_path: Path, pattern: str) -> None:
    paths = [tmp_path / pattern.format(name, name) for name in MODALITIES]
    (predicted,) = group_images(paths)
    assert predicted.name == str(tmp_path / "a/song")
    assert predicted.files == {name: [path] for name, path in zip(MODALITIES, paths, strict=True)}


# -- predict -------------------------------------------------------------------------------------------------


def test_images_are_scored_as_slices_of_a_store_are(bundle: Bundle, tmp_path: Path) -> None:
    image_files = write_image_files(tmp_path, "song_{}.png")
    (predicted,) = predict_images(bundle, find_image_sets(image_files))
    assert isinstance(predicted, Prediction)
    read = [read_image(path, name, SETTINGS) for path, name in zip(image_files, MODALITIES, strict=True)]
    expected = bundle.calibrate(bundle.model.predict_proba({"images": np.stack(read)[None]}), "track")
    labels = bundle.taxonomy.labels(0)
    assert predicted.levels[0].probability == pytest.approx(
        expected[0][0, labels.index(predicted.levels[0].label)], abs=1e-6
    )
    assert len(predicted.timeline) == 1


def test_a_newcomer_with_three_png_files_gets_a_path(bundle: Bundle, tmp_path: Path) -> None:
    image_files = write_image_files(tmp_path)
    result = CliRunner().invoke(main, ["predict", str(bundle.folder), *map(str, image_files), "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["file"] == str(tmp_path)
    assert content["slices"] == 1
    assert len(content["path"]) >= 2


def test_a_folder_of_triples_and_one_track(bundle: Bundle, tmp_path: Path) -> None:
    write_image_files(tmp_path / "in", "one_{}.png")
    write_image_files(tmp_path / "in", "{}/two.png", seed=4)
    (tmp_path / "in" / "cover.jpg").write_bytes(photo())
    arguments = ["predict", str(bundle.folder), str(tmp_path / "in"), "--json", "--quiet"]
    each = CliRunner().invoke(main, arguments)
    assert each.exit_code == 0, each.output
    assert sorted(Path(json.loads(line)["file"]).name for line in each.stdout.splitlines()) == ["one", "two"]
    joined = CliRunner().invoke(main, [*arguments, "--one-track", "--images", "drawn"])
    assert json.loads(joined.stdout)["slices"] == 2


def test_faults_of_images_are_reported_and_the_others_go_on(bundle: Bundle, tmp_path: Path) -> None:
    good = write_image_files(tmp_path, "good_{}.png")
    lone = tmp_path / "lone_mel.png"
    shutil.copy(good[0], lone)
    cover = tmp_path / "cover.png"
    shutil.copy(good[0], cover)
    twice = tmp_path / "good_mel.npy"
    twice.write_bytes(npy(spectra()["mel"]))
    flat = write_image_files(tmp_path / "flat")
    for path in flat:
        Image.new("L", (80, 60), 7).save(path)
    sets = find_image_sets([lone, cover, *flat, tmp_path / "gone_mel.png", *good])
    results = list(predict_images(bundle, sets))
    kinds = [result.kind if isinstance(result, PredictionError) else "" for result in results]
    assert kinds == ["missing", "unnamed", "silence", "missing", ""]
    assert "cqt, chroma" in str(results[0])
    (ambiguous,) = predict_images(bundle, find_image_sets([*good, twice]))
    assert isinstance(ambiguous, PredictionError) and ambiguous.kind == "ambiguous"


def test_images_with_audio_and_options_without_images(bundle: Bundle, corpus: Path, tmp_path: Path) -> None:
    image_files = write_image_files(tmp_path)
    track = str(corpus.parent / "Bells-0-0.wav")
    both = CliRunner().invoke(main, ["predict", str(bundle.folder), track, *map(str, image_files), "--json", "--quiet"])
    assert both.exit_code == 0, both.output
    assert len(both.stdout.splitlines()) == 2
    refused = CliRunner().invoke(main, ["predict", str(bundle.folder), track, "--images", "raw"])
    assert refused.exit_code == 2
    assert "--images needs images" in refused.output


# -- explain -------------------------------------------------------------------------------------------------


def test_images_are_explained(bundle: Bundle, tmp_path: Path) -> None:
    image_files = [str(path) for path in write_image_files(tmp_path)]
    out = tmp_path / "page"
    run = CliRunner().invoke(
        main, ["explain", str(bundle.folder), *image_files, "--quiet", "--json", "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)
    assert list(out.glob("*.html"))
    clips = CliRunner().invoke(main, ["explain", str(bundle.folder), *image_files, "--clips", str(tmp_path / "clips")])
    assert clips.exit_code != 0
    assert "--clips: not for images" in clips.output
    cover = CliRunner().invoke(main, ["explain", str(bundle.folder), image_files[0]])
    assert cover.exit_code != 0
    assert "no image for cqt, chroma" in cover.output
    assert not isinstance(cover.exception, ImageError)
