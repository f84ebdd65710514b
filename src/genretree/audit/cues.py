"""Cues that are not music: long-term spectrum, level, bandwidth, file format, length, slice position, image artefacts.

Each cue is a small table of features by track, read from the audio files if they are there, otherwise from the images.
`music` is the reference: statistics of images whose long-term spectrum has been matched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float32Array, Float64Array, UInt8Array
from genretree.corpus.store import Store
from genretree.errors import SoundError
from genretree.metrics.calibration import average_by
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.settings import MODALITIES, N_MELS, SAMPLE_RATE
from genretree.sound.decode import iter_blocks, probe
from genretree.sound.mel_scale import mel_frequencies

STEEP_EDGE = 20.0  # dB over 300 Hz; the long-term spectrum of music without a codec falls by up to 12
_MAX_SECONDS = 120.0  # of a file
_BANDS = np.geomspace(50.0, 20000.0, 31)  # Hz
BAND_CENTRES = np.sqrt(_BANDS[1:] * _BANDS[:-1])  # Hz, of the spectrum of a file
_EDGE_HERTZ, _LOWEST_EDGE = 300.0, 3000.0
_SILENT = 60.0  # dB below the loudest frame
_FLOOR = 1e-14
_POOLED_ROWS = 56
_LAGS = (2, 3, 4, 6, 8, 11, 14, 18, 22, 27, 33, 40)
_MEL_BANDS = 28
_MIN_FILES_FOR_PROCESSES = 64
_JPEG_BLOCK = 8
_DRAWN = "drawn"  # engine of a store that was made from images


@dataclass(frozen=True)
class Cue:
    """Features of all tracks that have nothing to do with music, or little.

    Parameters
    ----------
    name : str
    description : str
    features : tuple of str
        Names with units.
    values : float64 array, shape (n_tracks, n_features)
    source : "audio" or "images" or "table"
    """

    name: str
    description: str
    features: tuple[str, ...]
    values: Float64Array
    source: str


def read_cues(store: Store, progress: bool = False) -> list[Cue]:
    """Measure the cues of all tracks of a store.

    Parameters
    ----------
    store : Store
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    list of Cue
        Bandwidth and file format only if at least half of the audio files can be read; then what comes from the
        others is NaN, and otherwise spectrum and level come from the images.
    """
    images = _measure_images(store, progress)
    cues = []
    audio = _measure_files(store, progress)
    if audio is None:
        mel = images["spectrum"]
        hertz = mel_hertz(_MEL_BANDS)
        names = tuple(f"level at {round(frequency)} Hz (grey levels)" for frequency in hertz)
        cues.append(Cue("spectrum", "long-term spectrum (mastering curve)", names, mel, "images"))
        names = ("mean (grey levels)", "standard deviation (grey levels)", "10th percentile", "90th percentile")
        cues.append(Cue("level", "level and dynamics", names, images["level"], "images"))
    else:
        names = tuple(f"level at {round(frequency)} Hz (dB)" for frequency in BAND_CENTRES)
        cues.append(Cue("spectrum", "long-term spectrum (mastering curve)", names, audio["spectrum"], "audio"))
        names = ("peak (dBFS)", "level (dBFS)", "crest factor (dB)", "range of levels (dB)", "quietest frames (dBFS)")
        cues.append(Cue("level", "level, dynamics and noise floor", names, audio["level"], "audio"))
        names = ("steep edge (0 or 1)", "frequency of a steep edge (kHz)", "steepest fall (dB)", "sample rate (kHz)")
        cues.append(Cue("bandwidth", "bandwidth and codec edge", names, audio["bandwidth"], "audio"))
        cues.append(_formats(audio["format"]))
    seconds = np.array([float(value or 0) for value in store.tracks.get("sliced_seconds", [0] * store.n_tracks)])
    if audio is not None:
        seconds = audio["seconds"]
    if np.nanmax(seconds) > np.nanmin(seconds):
        cues.append(Cue("length", "length of the file", ("seconds",), seconds[:, None], "table"))
    if np.ptp(store.starts) > 0:
        cues.append(_positions(store))
    if store.metadata.engine.startswith(_DRAWN):  # images that were computed from audio have no artefacts
        cues.append(Cue("image artefacts", "JPEG blocks and borders", _ARTEFACTS, images["artefacts"], "images"))
    cues.append(Cue("music", "music, its long-term spectrum matched", (), images["music"], "images"))
    return cues


_ARTEFACTS = tuple(
    f"{name} of {modality}" for modality in MODALITIES for name in ("block edges", "border rows", "border columns")
)


def mel_hertz(bands: int) -> Float64Array:
    """Return the centre frequencies of equal groups of mel bands in Hz (Slaney's scale), shape (bands,)."""
    frequencies = mel_frequencies(N_MELS, SAMPLE_RATE / 2)
    return np.array([part.mean() for part in np.array_split(frequencies, bands)])


def _positions(store: Store) -> Cue:
    """Where in the file the slices come from: first, mean and last start, and the number of slices."""
    counts = np.bincount(store.slice_tracks, minlength=store.n_tracks)
    first, last = np.full(store.n_tracks, np.inf), np.zeros(store.n_tracks)
    np.minimum.at(first, store.slice_tracks, store.starts)
    np.maximum.at(last, store.slice_tracks, store.starts)
    first[counts == 0] = 0
    values = np.stack([first, last, counts], axis=1).astype(float)
    names = ("start of the first slice (s)", "start of the last slice (s)", "number of slices")
    return Cue("slice position", "position and number of slices", names, values, "table")


# -- files ------------------------------------------------------------------------------------------------------------


def _formats(values: Float64Array) -> Cue:
    """One-hot codecs, channels and bit rate."""
    codecs = sorted({int(code) for code in values[:, 0] if np.isfinite(code)})
    one_hot = [(values[:, 0] == code).astype(float) for code in codecs]
    names = (*(f"{_name_codec(code)} (0 or 1)" for code in codecs), "channels", "bit rate (kbit/s)")
    columns = np.stack([*one_hot, values[:, 1], values[:, 2]], axis=1)
    return Cue("file format", "codec, channels and bit rate of the file", names, columns, "audio")


_CODECS: dict[str, int] = {}


def _name_codec(code: int) -> str:
    return next((name for name, number in _CODECS.items() if number == code), str(code))


def _measure_files(store: Store, progress: bool) -> dict[str, Float64Array] | None:
    """Measure all audio files, NaN for those that can't be read; None if these are more than half."""
    files = [str(path or "") for path in store.tracks.get("file", ())]
    if 2 * sum(Path(path).is_file() for path in files) < max(len(files), 1):
        return None
    measured: list[dict[str, Any] | None] = []
    with progress_bar(len(files), "cues", "file", progress) as tick:
        if len(files) < _MIN_FILES_FOR_PROCESSES or available_processors() < 2:
            for path in files:
                measured.append(_try_to_measure(path))
                tick()
        else:
            with worker_pool(available_processors()) as pool:
                for found in pool.map(_try_to_measure, files, chunksize=4):
                    measured.append(found)
                    tick()
    known = [found for found in measured if found is not None]
    if 2 * len(known) < len(files):
        return None
    for found in known:
        _CODECS.setdefault(found["codec"], len(_CODECS))
        found["format"] = [_CODECS[found["codec"]], found["channels"], found["kilobits"]]
    rows = [row for row, found in enumerate(measured) if found is not None]
    table = {}
    for name in ("spectrum", "level", "bandwidth", "format", "seconds"):
        values = np.array([found[name] for found in known], dtype=float)
        table[name] = np.full((len(files), *values.shape[1:]), np.nan)
        table[name][rows] = values
    return table


def _try_to_measure(path: str) -> dict[str, Any] | None:
    """Measure an audio file; None if it is missing or can't be decoded."""
    try:
        return measure_file(path) if Path(path).is_file() else None
    except (OSError, SoundError):
        return None


def measure_file(path: str) -> dict[str, Any]:
    """Measure the cues of an audio file, in at most its first two minutes.

    Raises
    ------
    SoundError
        If it can't be decoded.
    """
    info = probe(path)
    blocks, seconds = [], 0.0
    for block in iter_blocks(path, info.sr, salvage=True):
        blocks.append(block)
        seconds += len(block) / info.sr
        if seconds > _MAX_SECONDS:
            break
    length = info.duration if np.isfinite(info.duration) else seconds
    measured = measure_samples(np.concatenate(blocks), info.sr)
    kilobits = Path(path).stat().st_size * 8 / 1000 / max(length, 0.1)
    return {**measured, "codec": info.codec, "channels": info.channels, "kilobits": kilobits, "seconds": length}


def measure_samples(y: Float32Array, sr: int) -> dict[str, Float64Array]:
    """Measure spectrum, level and bandwidth of mono samples.

    Returns
    -------
    dict
        `spectrum`: relative levels of 30 bands from 50 Hz to 20 kHz in dB, their mean removed; `level`: peak and level
        in dBFS, crest factor, range of levels, level of the quietest frames; `bandwidth`: whether the long-term
        spectrum has a steep edge, its frequency in kHz (0 without one), its height in dB, and the sample rate in kHz.
    """
    size = 2048 if sr <= 30000 else 4096
    if len(y) < size:
        y = np.pad(y, (0, size - len(y)))
    frames = y[: len(y) // size * size].reshape(-1, size).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)) ** 2 / size + _FLOOR
    energy = 10 * np.log10((frames**2).mean(axis=1) + _FLOOR)
    power = power[energy > energy.max() - _SILENT].mean(axis=0)
    hertz = np.fft.rfftfreq(size, 1 / sr)
    bands = np.digitize(hertz, _BANDS)
    levels = []
    for band in range(1, len(_BANDS)):
        inside = power[bands == band]
        levels.append(10 * np.log10(inside.mean()) if len(inside) else np.nan)
    spectrum = np.array(levels)
    known = np.isfinite(spectrum)
    spectrum = np.where(known, spectrum, spectrum[known].min(initial=0.0))
    peak, rms = 20 * np.log10(np.abs(y).max() + 1e-7), 10 * np.log10((y.astype(float) ** 2).mean() + _FLOOR)
    low, high = np.percentile(energy, [5, 95])
    return {
        "spectrum": spectrum - spectrum.mean(),
        "level": np.array([peak, rms, peak - rms, high - low, max(low, -120.0)]),
        "bandwidth": np.array([*_find_edge(10 * np.log10(power), sr / size), sr / 1000]),
    }


def _find_edge(decibels: Float64Array, step: float) -> tuple[float, float, float]:
    """Find the steepest fall of a spectrum: whether it is steep, its frequency in kHz, and its height in dB."""
    width = max(2, round(_EDGE_HERTZ / step))
    total = np.concatenate([[0.0], np.cumsum(decibels)])
    centers = np.arange(width + round(_LOWEST_EDGE / step), len(decibels) - width - 4)
    if not len(centers):
        return 0.0, 0.0, 0.0
    above = (total[centers + 3 + width] - total[centers + 3]) / width
    below = (total[centers] - total[centers - width]) / width
    falls = below - above
    best = int(falls.argmax())
    steep = float(falls[best] >= STEEP_EDGE)
    return steep, steep * float(centers[best]) * step / 1000, float(falls[best])


# -- images -----------------------------------------------------------------------------------------------------------


def _measure_images(store: Store, progress: bool) -> dict[str, Float64Array]:
    """Measure all slices, and average by track."""
    functions: Mapping[str, Callable[[UInt8Array], Float64Array]] = {
        "spectrum": _image_spectrum,
        "level": _image_level,
        "artefacts": _image_artefacts,
        "music": matched_statistics,
    }
    found: dict[str, list[Float64Array]] = {name: [] for name in functions}
    rows = store.rows()
    with progress_bar(len(rows), "cues", "slice", progress) as tick:
        for row in rows.tolist():
            image = np.asarray(store.images[row])
            for name, function in functions.items():
                found[name].append(function(image))
            tick()
    tracks = store.slice_tracks[rows]
    return {name: average_by(np.stack(values), tracks, store.n_tracks) for name, values in found.items()}


def _pool(image: UInt8Array, rows: int) -> Float64Array:
    """Average neighbouring rows of an image: shape (rows, columns)."""
    return np.stack([part.mean(axis=0) for part in np.array_split(image.astype(np.float32), rows)]).astype(float)


def _image_spectrum(image: UInt8Array) -> Float64Array:
    spectrum = _pool(image[0][::-1], _MEL_BANDS).mean(axis=1)  # images have high frequencies at the top
    centered: Float64Array = spectrum - spectrum.mean()
    return centered


def _image_level(image: UInt8Array) -> Float64Array:
    mel = image[0].astype(float)
    return np.array([mel.mean(), mel.std(), *np.percentile(mel, [10, 90])])


def _image_artefacts(image: UInt8Array) -> Float64Array:
    """Excess of steps at multiples of 8 pixels (JPEG), and steps at the border, for each image."""
    values = []
    for plane in image.astype(float):
        scale = plane.std() + 1.0
        columns, rows = np.abs(np.diff(plane, axis=1)).mean(axis=0), np.abs(np.diff(plane, axis=0)).mean(axis=1)
        at_block = np.arange(len(columns)) % _JPEG_BLOCK == _JPEG_BLOCK - 1
        values.append((columns[at_block].mean() - columns[~at_block].mean()) / scale)
        values.append((rows[[0, -1]].mean() - rows[1:-1].mean()) / scale)
        values.append((columns[[0, -1]].mean() - columns[1:-1].mean()) / scale)
    return np.array(values)


def matched_statistics(image: UInt8Array) -> Float64Array:
    """Compute statistics of a slice that its long-term spectrum does not change.

    Bands of mel and CQT are standardised over time; what remains are changes in time, the shape of the distribution,
    rhythm, and correlations of bands. Of chroma: contrast, and correlations between pitch classes.

    Parameters
    ----------
    image : uint8 array, shape (3, size, size)

    Returns
    -------
    float64 array, shape (n_features,)
    """
    parts = []
    for plane in image[:2]:
        bands = _pool(plane, _POOLED_ROWS)
        z = (bands - bands.mean(axis=1, keepdims=True)) / (bands.std(axis=1, keepdims=True) + 4)
        mean = z.mean(axis=0) - z.mean()
        rhythm = [(mean[lag:] * mean[:-lag]).mean() if lag < len(mean) else 0.0 for lag in _LAGS]
        parts += [np.abs(np.diff(z, axis=1)).mean(axis=1), (z**3).mean(axis=1), np.minimum((z**4).mean(axis=1), 20)]
        parts.append(np.array(rhythm) / (mean.var() + 1e-3))
        parts += [(z[:-shift:6] * z[shift::6]).mean(axis=1) for shift in (1, 2, 4, 8)]
    chroma = _pool(image[2], 12)
    profile = chroma.mean(axis=1) - chroma.mean()
    turned = [(profile * np.roll(profile, step)).mean() for step in range(7)]
    parts.append(np.array(turned) / (profile.var() + 1))
    parts.append(np.array([chroma.std(axis=1).mean(), np.abs(np.diff(chroma, axis=1)).mean()]))
    return np.concatenate(parts)
