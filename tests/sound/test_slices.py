"""Positions and rendering of slices, and reading of the data set's images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PilImage

from genretree.arrays import Float32Array
from genretree.errors import SettingsError, SoundError
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, ImageSettings
from genretree.sound.engines import import_librosa
from genretree.sound.slices import (
    SliceImages,
    iter_slices,
    overlaps,
    pad_slice,
    read_rendered_image,
    render_image,
    slice_starts,
    slice_track,
)
from genretree.sound.spectra import compute_spectra

FRAMES = ImageSettings().slice_frames


def render_as_authors(db: Float32Array, form: str = "jpg") -> bytes:
    """Render a slice as the data set's authors did."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure()
    import_librosa().display.specshow(db, cmap="magma")
    plt.axis("off")
    stream = io.BytesIO()
    plt.savefig(stream, format=form, bbox_inches="tight", pad_inches=0)
    plt.close(figure)
    return stream.getvalue()


@pytest.fixture(scope="module")
def slice_spectra(song: Float32Array) -> dict[str, Float32Array]:
    result = compute_spectra(song)
    return {name: getattr(result, name)[:, 300 : 300 + FRAMES] for name in ("mel", "cqt", "chroma")}


# -- positions of slices ----------------------------------------------------------------------------------------


def test_slice_starts_of_a_minute() -> None:
    frames = 1 + 60 * SAMPLE_RATE // HOP_LENGTH  # 2,584: five slices and 129 frames, 64 of them before the first
    assert slice_starts(frames, FRAMES).tolist() == [64, 555, 1046, 1537, 2028]


@given(st.integers(0, 100_000), st.integers(1, 3000))
def test_slice_starts(n_frames: int, slice_frames: int) -> None:
    starts = slice_starts(n_frames, slice_frames)
    assert len(starts) == n_frames // slice_frames
    assume(len(starts) > 0)
    before, after = starts[0], n_frames - starts[-1] - slice_frames
    assert 0 <= after - before <= 1
    assert (np.diff(starts) == slice_frames).all()


def test_a_slice_needs_frames() -> None:
    with pytest.raises(ValueError, match="slice_frames must be at least 1"):
        slice_starts(100, 0)


def test_fill_slice() -> None:
    y = np.arange(3, dtype=np.float32)
    assert pad_slice(y, 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert pad_slice(y, 3) is y
    with pytest.raises(ValueError, match="empty"):
        pad_slice(y[:0], 8)


# -- rendering -------------------------------------------------------------------------------------------------


@given(st.integers(1, 700), st.integers(1, 400))
def test_area_weights(cells: int, pixels: int) -> None:
    matrix = overlaps(cells, pixels)
    assert matrix.shape == (pixels, cells)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(axis=0), pixels / cells, rtol=1e-4)  # no cell counts more than another


@pytest.mark.parametrize(("cells", "pixels"), [(6, 3), (3, 6), (5, 3), (496, 224)])
def test_area_weights_by_painting(cells: int, pixels: int) -> None:
    """Against the slow method: each cell painted with many dots, and the dots of each pixel averaged."""
    row = np.random.default_rng(0).random(cells)
    dots = np.repeat(row, pixels).reshape(pixels, cells).mean(axis=1)
    np.testing.assert_allclose(overlaps(cells, pixels) @ row.astype(np.float32), dots, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 600)), elements=st.floats(-80, 0, width=32)),
    st.sampled_from([32, 128, 224]),
)
def test_rendering_stays_in_range(db: Float32Array, size: int) -> None:
    image = render_image(db, size)
    assert image.shape == (size, size)
    assert image.dtype == np.uint8
    if db.max() == db.min():
        assert not image.any()


def test_low_frequencies_are_at_the_bottom_and_time_runs_right() -> None:
    db = np.full((128, FRAMES), -80, np.float32)
    db[:32, : FRAMES // 2] = 0
    image = render_image(db, 224)
    assert (image[-50:, :100] == 255).all()
    assert not image[:-60].any()
    assert not image[:, -100:].any()


def test_each_slice_has_its_own_scale() -> None:
    db = np.linspace(-30, -20, 12 * FRAMES, dtype=np.float32).reshape(12, FRAMES)
    assert render_image(db, 32).min() < 20
    assert render_image(db, 32).max() > 235
    assert np.array_equal(render_image(db, 32), render_image(2 * db + 7, 32))


@pytest.mark.parametrize("shape", [(0, 491), (128, 0), (128,), (1, 128, 491)])
def test_invalid_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        render_image(np.zeros(shape, np.float32), 224)


# -- the data set's images ---------------------------------------------------------------------------------


# Mean absolute differences, in units of 0..255, of mel, CQT and chroma. Measured on this song: 0.29, 0.23 and 0.19 from
# PNG, from quantisation to the map's 256 colours, and 1.21, 1.07 and 0.51 from JPEG, the form of the data set.
@pytest.mark.parametrize(("form", "bounds"), [("png", (0.4, 0.3, 0.3)), ("jpg", (1.5, 1.4, 0.8))])
def test_a_rendering_reads_back_equal(
    slice_spectra: dict[str, Float32Array], form: str, bounds: tuple[float, ...]
) -> None:
    from PIL import Image

    for part, bound in zip(slice_spectra.values(), bounds, strict=True):
        rendering = render_as_authors(part, form)
        assert Image.open(io.BytesIO(rendering)).size == (496, 369)
        difference = read_rendered_image(rendering, 224).astype(float) - render_image(part, 224)
        assert np.abs(difference).mean() < bound
        assert abs(difference.mean()) < 0.2
        for edge in (difference[0], difference[-1], difference[:, 0], difference[:, -1]):  # no white margin, no shift
            assert np.abs(edge).mean() < 2.5


@pytest.mark.parametrize("size", [32, 128, 300])
def test_a_rendering_reads_back_at_any_size(slice_spectra: dict[str, Float32Array], size: int) -> None:
    rendering = render_as_authors(slice_spectra["mel"])
    assert (
        np.abs(read_rendered_image(rendering, size).astype(float) - render_image(slice_spectra["mel"], size)).mean() < 2
    )


def test_read_from_a_file(slice_spectra: dict[str, Float32Array], tmp_path: Path) -> None:
    rendering = render_as_authors(slice_spectra["chroma"])
    (tmp_path / "chroma.jpg").write_bytes(rendering)
    assert np.array_equal(read_rendered_image(tmp_path / "chroma.jpg", 64), read_rendered_image(rendering, 64))
    with pytest.raises(FileNotFoundError):
        read_rendered_image(tmp_path / "nothing.jpg", 64)


def test_damaged_images(slice_spectra: dict[str, Float32Array]) -> None:
    rendering = render_as_authors(slice_spectra["chroma"])
    with pytest.raises(ValueError, match="damaged"):
        read_rendered_image(rendering[: len(rendering) // 2], 64)
    for content in (b"", b"not an image at all", rendering[:10]):
        with pytest.raises(ValueError, match=r"not an image|damaged"):
            read_rendered_image(content, 64)


# -- from file to images -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def song_file(song: Float32Array, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slices") / "song.wav"
    sf.write(path, song, SAMPLE_RATE, subtype="FLOAT")
    return path


def same(ours: list[SliceImages], theirs: list[SliceImages]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(np.array_equal(a.images, b.images) and a.start == b.start and a.padded == b.padded for a, b in pairs)


def test_a_file_and_its_samples_give_the_same_slices(song: Float32Array, song_file: Path) -> None:
    result = list(iter_slices(song_file, ImageSettings()))
    assert same(result, list(slice_track(song, ImageSettings())))
    spectra = compute_spectra(song)
    starts = slice_starts(spectra.mel.shape[1], FRAMES)
    assert [track_slice.start for track_slice in result] == pytest.approx(starts * HOP_LENGTH / SAMPLE_RATE)
    for track_slice, start in zip(result, starts, strict=True):
        assert track_slice.images.shape == (3, 224, 224)
        assert track_slice.images.dtype == np.uint8
        assert not track_slice.padded
        assert not track_slice.silent
        for image, part in zip(track_slice.images, (spectra.mel, spectra.cqt, spectra.chroma), strict=True):
            assert np.array_equal(image, render_image(part[:, start : start + FRAMES], 224))


def test_settings_count(song: Float32Array) -> None:
    result = list(slice_track(song, ImageSettings(slice_seconds=5, size=64)))
    assert len(result) == 5
    assert result[0].images.shape == (3, 64, 64)
    with pytest.raises(SettingsError, match="unknown engine"):
        list(slice_track(song, ImageSettings(), engine="quick"))


@pytest.mark.parametrize("count", [2048, 3 * SAMPLE_RATE, (FRAMES - 1) * HOP_LENGTH - 1])
def test_a_short_track_is_repeated(song: Float32Array, count: int) -> None:
    (track_slice,) = slice_track(song[:count], ImageSettings())
    assert track_slice.padded
    assert track_slice.start == 0
    assert np.array_equal(
        track_slice.images[0], render_image(compute_spectra(np.resize(song[:count], 490 * HOP_LENGTH)).mel, 224)
    )


def test_the_shortest_track_that_fills_a_slice(song: Float32Array) -> None:
    (track_slice,) = slice_track(song[: (FRAMES - 1) * HOP_LENGTH], ImageSettings())
    assert not track_slice.padded


def test_a_silent_slice_is_marked(song: Float32Array) -> None:
    y = np.concatenate([song[: 12 * SAMPLE_RATE], np.zeros(30 * SAMPLE_RATE, np.float32)])
    result = list(slice_track(y, ImageSettings()))
    assert [track_slice.silent for track_slice in result] == [False, True, True]
    assert not result[2].images[0].any()


def test_errors_are_those_of_decoding(tmp_path: Path, song_file: Path) -> None:
    with pytest.raises(SoundError) as caught:
        list(iter_slices(tmp_path / "nothing.mp3", ImageSettings()))
    assert caught.value.kind == "not_found"
    short = tmp_path / "cut.wav"
    short.write_bytes(song_file.read_bytes()[:-1000])
    with pytest.raises(SoundError) as caught:
        list(iter_slices(short, ImageSettings()))
    assert caught.value.kind == "truncated"
    assert len(list(iter_slices(short, ImageSettings(), salvage=True))) == 2
    silent = tmp_path / "silent.wav"
    sf.write(silent, np.zeros(20 * SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(SoundError) as caught:
        list(iter_slices(silent, ImageSettings()))
    assert caught.value.kind == "silence"


def test_images_lie_row_by_row_in_memory() -> None:
    """Stores expect C-contiguous images."""
    db = np.random.default_rng(0).uniform(-80, 0, (128, 491)).astype(np.float32)
    assert render_image(db, 224).flags.c_contiguous
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (369, 496, 3), np.uint8)
    PilImage.fromarray(pixels).save(stream, "JPEG")
    assert read_rendered_image(stream.getvalue(), 224).flags.c_contiguous
