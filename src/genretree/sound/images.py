"""Reading of spectrogram images: magma or grey renderings and raw dB arrays, converted to the images of a store."""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, UInt8Array
from genretree.errors import ImageError
from genretree.files import is_lfs_pointer
from genretree.settings import CHROMA_BINS, CQT_BINS, N_MELS, TOP_DB, ImageSettings, Modality
from genretree.sound.slices import magma_levels, render_image, shrink
from genretree.sound.suffixes import SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ImageForm = Literal["auto", "drawn", "grey", "raw"]
IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy"])
BINS: dict[Modality, int] = {"mel": N_MELS, "cqt": CQT_BINS, "chroma": CHROMA_BINS}

_MAX_PIXELS = 40_000_000  # decoded, these take 120 MB
_MAX_BYTES = 200_000_000
_MAX_GREY_DISTANCE = 3.0  # mean distance of the channels from grey, 0 to 255
_MAX_MAGMA_DISTANCE = 8.0  # mean chroma distance from magma; see `colour_distance`
_EXACT_DISTANCE = 3.0  # up to this distance it is magma; above, a clearly closer colour map wins
_CLOSER_RATIO = 0.6
_BLOCK = 16  # pixels: the chroma of a JPEG is exact on average over such a square
_OTHER_COLOUR_MAPS = ("viridis", "inferno", "plasma", "cividis")
_FRAMES_TOLERANCE = 0.02  # share by which a raw slice may differ in length from the settings
_MAX_RANGE_DB = 300.0


def read_image(
    source: bytes | Path, modality: Modality, settings: ImageSettings, form: ImageForm = "auto", name: str = ""
) -> UInt8Array:
    """Read one image of one slice.

    Parameters
    ----------
    source : bytes or Path
        A rendered image of any size that Pillow reads, or a `.npy` array: floats in dB, shape (bins, frames), low
        frequencies first, 128, 84 or 12 bins for mel, CQT and chroma.
    modality : "mel", "cqt" or "chroma"
    settings : ImageSettings
        Size of the result in pixels and, for raw arrays, the length of a slice.
    form : "auto", "drawn", "grey" or "raw"
        `drawn` is a rendering in magma, `grey` one in grey levels (black is the minimum), `raw` an array. `auto`
        detects the form.
    name : str
        Name in error messages; by default the path.

    Returns
    -------
    ndarray, uint8, shape (size, size)
        Equal to `genretree.sound.slices.render_image` of the same slice, up to the rounding of the image format.

    Raises
    ------
    ImageError
        If it cannot be read, or shows something else; see its `kind`.
    """
    name = name or (f"the {modality} image" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else _read_bytes(source, name)
    _check_content(content, name)
    is_array = content.startswith(b"\x93NUMPY")
    if is_array and form not in ("auto", "raw"):
        raise ImageError("image", name, f"is a NumPy array, but the form is '{form}'; use raw or auto")
    if is_array:
        return _read_raw(content, modality, settings, name)
    if form == "raw":
        raise ImageError("image", name, "is not a NumPy array (.npy), but the form is 'raw'; use drawn, grey or auto")
    return _read_drawing(content, settings.size, form, name)


def is_image_content(content: bytes) -> bool:
    """Return whether the first bytes of a file are those of an image or a NumPy array."""
    pictures = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"\x93NUMPY")
    return content.startswith(pictures) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")


def image_hint(path: Path) -> str:
    """Return the hint for an image passed instead of audio; empty if the file is not an image."""
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except (OSError, ValueError):
        return ""
    if not is_image_content(head):
        return ""
    return "is an image, not audio; list images of spectra in a CSV with columns mel, cqt and chroma instead of path"


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        if not path.exists():
            raise ImageError("not_found", name, "no such file")
        if not path.is_file():
            raise ImageError("unreadable", name, "is not a regular file")
        if path.stat().st_size > _MAX_BYTES:
            detail = f"has {path.stat().st_size:,} bytes; the limit for an image of one slice is {_MAX_BYTES:,}"
            raise ImageError("too_large", name, detail)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", name, f"cannot be read ({error})") from error


def _check_content(content: bytes, name: str) -> None:
    if not content:
        raise ImageError("empty", name, "is empty (0 bytes)")
    if is_lfs_pointer(content):
        detail = "is a Git LFS pointer, not the image; download the content with: git lfs pull"
        raise ImageError("lfs_pointer", name, detail)
    suffix = Path(name).suffix.lower()
    sound = content[:4] in (b"fLaC", b"OggS", b"FORM") or content[:3] == b"ID3" or content[8:12] == b"WAVE"
    if not is_image_content(content) and (sound or suffix in SUFFIXES):
        detail = "is an audio file; pass an image (PNG, JPEG, .npy), or pass audio files without images"
        raise ImageError("sound", name, detail)


# -- raw arrays ----------------------------------------------------------------------------------------------


def _read_raw(content: bytes, modality: Modality, settings: ImageSettings, name: str) -> UInt8Array:
    try:
        db = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError) as error:
        if b"'|O'" in content[:256]:
            detail = "contains pickled objects, which are not loaded; save a float array with numpy.save"
            raise ImageError("pickled", name, detail) from error
        raise ImageError("damaged", name, f"cannot be read as a NumPy array ({error})") from error
    bins, frames = BINS[modality], settings.slice_frames
    expected = f"expected floats in dB of shape ({bins}, {frames}), low frequencies first, for {modality}"
    if not np.issubdtype(db.dtype, np.floating):
        raise ImageError("dtype", name, f"contains {db.dtype}; {expected}")
    if db.ndim != 2 or db.shape[0] != bins:
        hint = " (transposed? pass array.T)" if db.ndim == 2 and db.shape[1] == bins else ""
        raise ImageError("shape", name, f"has shape {db.shape}; {expected}{hint}")
    if abs(db.shape[1] - frames) > max(1, _FRAMES_TOLERANCE * frames):
        detail = f"has {db.shape[1]} frames; {expected}; cut longer tracks into slices of {frames} frames, one per file"
        raise ImageError("shape", name, detail)
    if not np.isfinite(db).all():
        n_bad = np.count_nonzero(~np.isfinite(db))
        raise ImageError("not_finite", name, f"has {n_bad} NaN or infinite values; save finite dB values")
    db = np.asarray(db, np.float64)
    low, high = float(db.min()), float(db.max())
    if high - low > _MAX_RANGE_DB:
        detail = f"spans {high - low:.3g}, from {low:.3g} to {high:.3g}, too much for dB; convert it with power_to_db"
        raise ImageError("range", name, detail)
    if low >= 0 and high > 0 and np.median(db) < 0.02 * high:
        detail = f"looks like power, not dB (median {np.median(db):.3g}, max {high:.3g}); convert it with power_to_db"
        raise ImageError("range", name, detail)
    return render_image(np.asarray(np.maximum(db, high - TOP_DB), np.float32), settings.size)


# -- renderings ----------------------------------------------------------------------------------------------


def _read_drawing(content: bytes, size: int, form: ImageForm, name: str) -> UInt8Array:
    from PIL import Image as PilImage
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PilImage.DecompressionBombWarning)  # the limit below is lower
            with PilImage.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > _MAX_PIXELS:
                    detail = f"has {width}x{height} pixels; the limit is {_MAX_PIXELS:,}; save it smaller"
                    raise ImageError("too_large", name, detail)
                if min(width, height) < 8:
                    raise ImageError("too_small", name, f"has {width}x{height} pixels; at least 8x8 are required")
                grey, rgb = _decode(image, name)
    except UnidentifiedImageError as error:
        raise ImageError(
            "not_image", name, f"is not a supported image ({len(content)} bytes); use PNG or JPEG"
        ) from error
    except PilImage.DecompressionBombError as error:
        raise ImageError("too_large", name, f"has too many pixels ({error}); save it smaller") from error
    except (OSError, SyntaxError, ValueError, MemoryError, EOFError) as error:
        raise ImageError("damaged", name, f"is damaged ({error}); save it again") from error
    _check_border(grey, name)
    if rgb is not None and form != "grey":
        if form == "drawn" or not _is_grey(rgb):
            _check_magma(rgb, grey, name)
            return shrink(np.take(magma_levels(), grey), size)
    elif rgb is None and form == "drawn":
        detail = "has grey levels only, but the form is 'drawn' (magma); use grey or auto"
        raise ImageError("colours", name, detail)
    elif rgb is not None and not _is_grey(rgb):
        distance = grey_distance(rgb)
        detail = (
            f"has colours (mean distance from grey {distance:.0f} of 255), but the form is 'grey'; use drawn or auto"
        )
        raise ImageError("colours", name, detail)
    return shrink(np.asarray(grey, np.float32), size)


def _decode(image: Picture, name: str) -> tuple[UInt8Array, UInt8Array | None]:
    """Return the luminance and, unless the image is stored in grey, the RGB values."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        if image.mode == "F" or values.max(initial=0) > 65535 or values.min(initial=0) < 0:
            raise ImageError("dtype", name, "has 32-bit pixels; save raw values as .npy, or the image with 8 bits")
        # 16-bit images use different ranges: scale from minimum to maximum, as for any slice.
        low, high = values.min(), max(values.max(), values.min() + 1)
        return np.asarray(np.rint(255 * (values - low) / (high - low)), np.uint8), None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        transparent = float(np.mean(np.asarray(image.getchannel("A")) < 255))
        if transparent > 0.01:
            detail = (
                f"is transparent in {transparent:.0%} of its pixels; save it with an opaque background, without axes"
            )
            raise ImageError("transparent", name, detail)
        image = image.convert("RGB")
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L")), None
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(rgb.convert("L")), np.asarray(rgb)


def _check_border(luma: UInt8Array, name: str) -> None:
    """Reject an image with a white margin: axes, ticks and titles would be read as spectral energy."""
    edges = (luma[0], luma[-1], luma[:, 0], luma[:, -1])
    if all(float(np.mean(edge >= 252)) > 0.95 for edge in edges):
        detail = (
            "has a white margin on all sides; save it without axes and margins: axes.axis('off') and "
            "savefig(..., bbox_inches='tight', pad_inches=0)"
        )
        raise ImageError("margin", name, detail)


def grey_distance(rgb: UInt8Array) -> float:
    """Return the mean distance of the three channels from their mean, 0 to 255."""
    values = _subsample(rgb).astype(np.float32)
    return float(np.abs(values - values.mean(axis=-1, keepdims=True)).mean())


def _is_grey(rgb: UInt8Array) -> bool:
    return grey_distance(rgb) < _MAX_GREY_DISTANCE


def _check_magma(rgb: UInt8Array, luma: UInt8Array, name: str) -> None:
    distance = colour_distance(rgb, luma, "magma")
    if distance <= _EXACT_DISTANCE:
        return
    distances = {map_name: colour_distance(rgb, luma, map_name) for map_name in _OTHER_COLOUR_MAPS}
    closest = min(distances, key=lambda name: distances[name])
    other = distances[closest] < _CLOSER_RATIO * distance
    if distance <= _MAX_MAGMA_DISTANCE and not other:
        return
    hint = (
        f"; it looks like {closest} ({distances[closest]:.1f})"
        if other and distances[closest] < _MAX_MAGMA_DISTANCE
        else ""
    )
    detail = (
        f"is neither magma nor grey: mean colour distance {distance:.1f} from magma (limit {_MAX_MAGMA_DISTANCE:.0f}), "
        f"{grey_distance(rgb):.0f} from grey (limit {_MAX_GREY_DISTANCE:.0f}){hint}; render it with cmap='magma' or "
        "'gray', or pass the dB values as .npy"
    )
    raise ImageError("colours", name, detail)


def colour_distance(rgb: UInt8Array, luma: UInt8Array, colour_map: str) -> float:
    """Return the mean distance of an image's colours from a colour map at the same luminance.

    Parameters
    ----------
    rgb : ndarray, uint8, shape (height, width, 3)
    luma : ndarray, uint8, shape (height, width)
        Luminance of `rgb`.
    colour_map : str
        Name of a matplotlib colour map with increasing luminance.

    Returns
    -------
    float
        Mean length of the difference in Cb and Cr, 0 for the map itself, up to 255. Both are first averaged over
        squares of 16 pixels, because JPEG stores chroma at low resolution.
    """
    edge = max(1, min(_BLOCK, min(luma.shape) // 8))
    difference = _average(_chroma(rgb), edge) - _average(_map_chroma(colour_map)[luma], edge)
    return float(np.hypot(difference[..., 0], difference[..., 1]).mean())


def _chroma(rgb: NDArray[np.generic]) -> Float32Array:
    """Return Cb and Cr of ITU-R BT.601, centred on 0."""
    red, green, blue = (np.asarray(rgb[..., i], np.float32) for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack([(blue - luma) / 1.772, (red - luma) / 1.402], axis=-1).astype(np.float32)


@lru_cache(maxsize=8)
def _map_chroma(name: str) -> Float32Array:
    """Return the chroma of a colour map at each luminance 0..255, shape (256, 2)."""
    import matplotlib

    colours = 255 * np.asarray(matplotlib.colormaps[name](np.arange(256)))[:, :3]
    luma = np.maximum.accumulate(colours @ np.array([0.299, 0.587, 0.114]))
    chroma = _chroma(colours)
    levels = np.arange(256)
    return np.stack([np.interp(levels, luma, chroma[:, i]) for i in range(2)], axis=-1).astype(np.float32)


def _average(values: Float32Array, edge: int) -> Float32Array:
    rows, columns = values.shape[0] // edge, values.shape[1] // edge
    cut = values[: rows * edge, : columns * edge]
    return np.asarray(cut.reshape(rows, edge, columns, edge, -1).mean(axis=(1, 3)))


def _subsample(rgb: UInt8Array) -> UInt8Array:
    step = max(1, min(rgb.shape[:2]) // 128)
    return rgb[::step, ::step]
