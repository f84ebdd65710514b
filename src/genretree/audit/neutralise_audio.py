"""Neutralisation of cues in audio: spectrum, level, bandwidth, noise floor and encoding are the same for all tracks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.bundle.bundle import Bundle
from genretree.metrics.scores import decode_levels
from genretree.progress import progress_bar
from genretree.settings import SAMPLE_RATE
from genretree.sound.decode import iter_blocks
from genretree.sound.slices import iter_input_slices, stack_slices

CUTOFF = 5000.0  # Hz; below the edges of common codecs
NOISE_FLOOR = 60.0  # dB below the maximum
_MAX_SECONDS = 60.0  # of a track
_MAX_LEVEL = 0.98  # peak of changed audio
_CHANGE_DB = 30.0  # of a band at most
_BANDS = np.geomspace(40.0, SAMPLE_RATE / 2, 31)  # Hz
_CENTRES = np.sqrt(_BANDS[1:] * _BANDS[:-1])
_FRAME = 2048
_KBITS = 32  # of the MP3; about the lowest that is used for music


def predict_changed_audio(
    bundle: Bundle, files: Sequence[str], progress: bool = False
) -> dict[str, tuple[str, Int64Array]]:
    """Predict the leaf of every track as it is and without each cue.

    Parameters
    ----------
    bundle : Bundle
    files : sequence of str
        Audio files; the first minute of each is used, as mono at 22,050 Hz.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    dict
        By the name of the cue, a description and leaf indices of shape (n_files,); the name is empty for unchanged
        audio.

    Raises
    ------
    SoundError
        If a file can't be decoded.
    """
    spectra, levels = [], []
    with progress_bar(len(files), "measure spectra", "file", progress) as tick:
        for path in files:
            y = read_start(path)
            spectra.append(band_levels(y))
            levels.append(_rms(y))
            tick()
    changes = _changes(np.mean(spectra, axis=0), float(np.median(levels)))
    found: dict[str, list[int]] = {name: [] for name in changes}
    with progress_bar(len(files) * len(changes), "neutralise", "track", progress) as tick:
        for path in files:
            y = read_start(path)
            for name, (_, change) in changes.items():
                found[name].append(_predict(bundle, change(y), path))
                tick()
    return {name: (description, np.array(found[name], np.int64)) for name, (description, _) in changes.items()}


def read_start(path: str) -> Float32Array:
    """Decode the first minute of a file: mono, 22,050 Hz."""
    blocks: list[Float32Array] = []
    for block in iter_blocks(path, salvage=True):
        blocks.append(block)
        if sum(map(len, blocks)) >= _MAX_SECONDS * SAMPLE_RATE:
            break
    return np.concatenate(blocks)[: int(_MAX_SECONDS * SAMPLE_RATE)]


def band_levels(y: Float32Array) -> Float64Array:
    """Return the long-term level of 30 bands in dB, the mean removed."""
    frames = y[: max(len(y) // _FRAME, 1) * _FRAME]
    frames = np.pad(frames, (0, -len(frames) % _FRAME)).reshape(-1, _FRAME) * np.hanning(_FRAME).astype(np.float32)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0) + 1e-9
    hertz = np.fft.rfftfreq(_FRAME, 1 / SAMPLE_RATE)
    decibels = 10 * np.log10(np.interp(_CENTRES, hertz, power))
    levels: Float64Array = decibels - decibels.mean()
    return levels


def _predict(bundle: Bundle, y: Float32Array, path: str) -> int:
    def decode_at(sr: int) -> Iterator[Float32Array]:
        yield y if sr == SAMPLE_RATE else _resample(y, sr)

    slices = iter_input_slices(decode_at, bundle.images, bundle.model.input_features, path)
    levels = bundle.average_slices(bundle.model.predict_proba(stack_slices(list(slices))))
    return int(decode_levels(bundle.taxonomy, bundle.model.heads, levels)[0, -1])


def _resample(y: Float32Array, sr: int) -> Float32Array:
    import soxr

    resampled: Float32Array = soxr.resample(y, SAMPLE_RATE, sr)
    return resampled


def _rms(y: Float32Array | Float64Array) -> float:
    return float(np.sqrt((y.astype(np.float64) ** 2).mean()))


def _changes(spectrum: Float64Array, level: float) -> dict[str, tuple[str, Callable[[Float32Array], Float32Array]]]:
    return {
        "": ("", lambda y: y),
        "spectrum": ("the long-term spectrum of every track is the mean of all", partial(match_spectrum, spectrum)),
        "level": ("every track has the same level", partial(match_level, level)),
        "bandwidth": (f"everything above {CUTOFF / 1000:g} kHz is cut off", low_pass),
        "noise floor": (f"noise {NOISE_FLOOR:g} dB below the peak is added", add_noise),
        "encoding": (f"every track is an MP3 of {_KBITS} kbit/s", encode),
    }


def match_spectrum(spectrum: Float64Array, y: Float32Array) -> Float32Array:
    """Filter audio, so that the levels of its bands are those given; a band changes by at most 30 dB."""
    gains = np.clip(spectrum - band_levels(y), -_CHANGE_DB, _CHANGE_DB)
    hertz = np.fft.rfftfreq(len(y), 1 / SAMPLE_RATE)
    decibels = np.interp(np.log(np.maximum(hertz, 1.0)), np.log(_CENTRES), gains)
    filtered = np.fft.irfft(np.fft.rfft(y) * 10 ** (decibels / 20), len(y))
    return _scale(filtered, _rms(y))


def match_level(level: float, y: Float32Array) -> Float32Array:
    """Scale audio to a root mean square."""
    return _scale(y.astype(np.float64), level)


def _scale(y: Float64Array, rms: float) -> Float32Array:
    gain = rms / max(_rms(y), 1e-9)
    gain = min(gain, _MAX_LEVEL / max(float(np.abs(y).max()), 1e-9))
    return (gain * y).astype(np.float32)


def low_pass(y: Float32Array) -> Float32Array:
    """Remove everything above 5 kHz."""
    spectrum = np.fft.rfft(y)
    spectrum[np.fft.rfftfreq(len(y), 1 / SAMPLE_RATE) > CUTOFF] = 0
    filtered: Float32Array = np.fft.irfft(spectrum, len(y)).astype(np.float32)
    return filtered


def add_noise(y: Float32Array) -> Float32Array:
    """Add white noise 60 dB below the peak, the same for all tracks."""
    noise = np.random.default_rng(0).standard_normal(len(y)) * np.abs(y).max() * 10 ** (-NOISE_FLOOR / 20)
    noisy: Float32Array = (y + noise).astype(np.float32)
    return noisy


def encode(y: Float32Array) -> Float32Array:
    """Encode audio as MP3 and decode it."""
    import soundfile

    stream = io.BytesIO()
    options = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.85}
    with soundfile.SoundFile(stream, "w", SAMPLE_RATE, 1, **options) as file:
        for at in range(0, len(y), SAMPLE_RATE):  # libsndfile keeps the samples of one call on the stack
            file.write(y[at : at + SAMPLE_RATE])
    stream.seek(0)
    decoded: Float32Array = soundfile.read(stream, dtype="float32")[0][: len(y)]
    return np.pad(decoded, (0, len(y) - len(decoded)))
