"""Mel power at 16 kHz, the input of the MusiCNN networks (Pons and Serra 2019).

96 mel bands, n_fft 512, hop_length 256, at 16 kHz. Values are not normalised by track, so loudness is preserved. They
are stored as float16, as in the original implementation, and compressed to log10(1 + 10,000 p) when used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np

from genretree.arrays import Float16Array, Float32Array
from genretree.settings import HOP_LENGTH, MEL_16K_BANDS, MEL_16K_FFT, MEL_16K_RATE, SAMPLE_RATE, ImageSettings
from genretree.sound.fast import frame_powers
from genretree.sound.filters import read_filters

MEL_16K_HOP = 256  # samples
_COMPRESSION = np.float32(10_000)
_MAX_POWER = np.float32(np.finfo(np.float16).max)  # far above the power of any file at full scale
_MAX_BYTES_IN_MEMORY = 32 << 20  # bytes; about 45 minutes of music
_CHUNK = 1 << 18  # samples transformed at a time


def mel_16k_frames(settings: ImageSettings) -> int:
    """Return the number of frames of a slice: 712 for 11.4 s."""
    return (settings.slice_frames - 1) * HOP_LENGTH * MEL_16K_RATE // (SAMPLE_RATE * MEL_16K_HOP) + 1


def compute_mel_16k(y: Float32Array, sr: int = SAMPLE_RATE) -> Float16Array:
    """Compute the mel power at 16 kHz of samples in memory.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono.
    sr : int
        Sample rate in Hz.

    Returns
    -------
    ndarray, float16, shape (1 + samples at 16 kHz // 256, 96)
        0 for silence, some hundreds for the loudest music.
    """
    with Mel16kTap(sr) as tap:
        for _ in tap.through([y]):
            pass
        return tap.read(0, tap.frames)


def compress(mel: Float16Array) -> Float32Array:
    """Compress mel power for the networks: float32, 0 for silence, about 6 for the loudest music."""
    compressed: Float32Array = np.log10(1 + _COMPRESSION * mel.astype(np.float32))
    return compressed


def decompress(compressed: Float32Array) -> Float16Array:
    """Undo `compress`, up to the rounding of float16."""
    power = (np.power(np.float32(10), compressed) - 1) / _COMPRESSION
    return to_half(np.clip(power, 0, _MAX_POWER))


def to_half(power: Float32Array) -> Float16Array:
    """Convert float32 to float16, bit for bit as `astype` does, for values of 0 or more.

    NumPy raises the processor's underflow flag for every value that loses bits in float16's subnormal range, as most
    power values of music do, which takes about thirty times as long as the conversion. Here these values are rounded
    first: floats from 0.5 to 1 have the same spacing as float16 subnormals, so adding 0.5 rounds half to even.
    """
    smallest_normal, half = np.float32(2**-14), np.float32(0.5)
    return np.where(power < smallest_normal, (power + half) - half, power).astype(np.float16)


class Mel16kTap:
    """Passes a track's blocks through and records their mel power, in bounded memory. Close it, or use `with`."""

    def __init__(self, sr: int = SAMPLE_RATE) -> None:
        import soxr

        self.frames = 0
        self._resampler = soxr.ResampleStream(sr, MEL_16K_RATE, 1, dtype="float32", quality="HQ")
        self._pending = [
            np.zeros(MEL_16K_FFT // 2, np.float32)
        ]  # frames are centred: half of the first precedes the track
        self._file = tempfile.SpooledTemporaryFile(_MAX_BYTES_IN_MEMORY, prefix="genretree-")  # noqa: SIM115 (closed by close)

    def through(self, blocks: Iterable[Float32Array]) -> Iterator[Float32Array]:
        """Yield the blocks unchanged; the mel power is complete once all have been consumed."""
        for block in blocks:
            for start in range(0, len(block), _CHUNK):
                self._add(self._resampler.resample_chunk(block[start : start + _CHUNK]))
            yield block
        self._add(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self._add(np.zeros(MEL_16K_FFT // 2, np.float32))

    def read(self, start: int, count: int) -> Float16Array:
        """Return `count` frames from `start`, shape (count, 96); shifted back if the track ends earlier.

        Raises
        ------
        ValueError
            If the track has fewer frames.
        """
        if count > self.frames:
            raise ValueError(f"cannot read {count} frames of a track that has {self.frames}")
        start = max(0, min(start, self.frames - count))
        self._file.seek(2 * MEL_16K_BANDS * start)
        content = self._file.read(2 * MEL_16K_BANDS * count)
        return np.frombuffer(content, np.float16).reshape(count, MEL_16K_BANDS)

    def close(self) -> None:
        """Release the memory and the temporary file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        self.close()

    def _add(self, y: Float32Array) -> None:
        self._pending.append(y)
        if sum(map(len, self._pending)) < MEL_16K_FFT:
            return
        y_pending = np.concatenate(self._pending)
        windows = np.lib.stride_tricks.sliding_window_view(y_pending, MEL_16K_FFT)[::MEL_16K_HOP]
        power = np.empty((len(windows), 1 + MEL_16K_FFT // 2), np.float32)
        frame_powers(windows, power)
        mel = power @ read_filters()["mel_16k"].T
        self._file.write(to_half(np.minimum(mel, _MAX_POWER)).tobytes())
        self.frames += len(mel)
        self._pending = [y_pending[len(mel) * MEL_16K_HOP :]]
