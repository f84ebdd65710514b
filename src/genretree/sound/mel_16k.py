"""Mel power at 16 kHz, as the MusiCNN networks hear music (Pons and Serra 2019).

96 mel bands from frames of 512 samples, 256 apart, of sound at 16 kHz. Nothing is scaled by the track: how loud the
music is stays in it. It is kept in float16, as the authors of the networks did, and compressed as log10(1 + 10,000 p)
when used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np

from genretree.arrays import Float16Array, Float32Array
from genretree.settings import HOP_LENGTH, MEL_16K_BANDS, MEL_16K_FFT, MEL_16K_RATE, SAMPLE_RATE, ImageSettings
from genretree.sound.fast import frame_powers
from genretree.sound.filters import read_filters

MEL_16K_HOP = 256  # samples
_COMPRESSION = np.float32(10_000)
_MOST = np.float32(np.finfo(np.float16).max)  # far above anything that a sound file at full scale gives
_IN_MEMORY = 32 << 20  # bytes; about 45 minutes of music
_CHUNK = 1 << 18  # samples transformed at a time


def mel_16k_frames(settings: ImageSettings) -> int:
    """Frames of a slice: 712 for 11.4 s."""
    return (settings.slice_frames - 1) * HOP_LENGTH * MEL_16K_RATE // (SAMPLE_RATE * MEL_16K_HOP) + 1


def compute_mel_16k(y: Float32Array, sr: int = SAMPLE_RATE) -> Float16Array:
    """Compute the mel power of sound in memory.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono.
    sr : int
        In Hz.

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
    """Compress mel power as the networks want it: float32, 0 for silence, about 6 for the loudest music."""
    compressed: Float32Array = np.log10(1 + _COMPRESSION * mel.astype(np.float32))
    return compressed


def decompress(compressed: Float32Array) -> Float16Array:
    """Undo `compress`, up to the rounding of float16."""
    power = (np.power(np.float32(10), compressed) - 1) / _COMPRESSION
    return to_half(np.clip(power, 0, _MOST))


def to_half(power: Float32Array) -> Float16Array:
    """Convert float32 to float16, bit for bit as `astype` does, for values of 0 or more.

    NumPy tells the processor of every value that loses bits among float16's subnormal numbers, as most powers of music
    do, which takes some thirty times what the conversion does. Here they are rounded beforehand: floats from 0.5 to 1
    are as far apart as those numbers, so that adding 0.5 rounds, half to even.
    """
    smallest_normal, half = np.float32(2**-14), np.float32(0.5)
    return np.where(power < smallest_normal, (power + half) - half, power).astype(np.float16)


class Mel16kTap:
    """Hands a track's sound on, and keeps its mel power, in bounded memory. Close it after use, or use `with`."""

    def __init__(self, sr: int = SAMPLE_RATE) -> None:
        import soxr

        self.frames = 0
        self._resampler = soxr.ResampleStream(sr, MEL_16K_RATE, 1, dtype="float32", quality="HQ")
        self._waiting = [
            np.zeros(MEL_16K_FFT // 2, np.float32)
        ]  # frames are centred: half of the first lies before the track
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="genretree-")  # noqa: SIM115 (closed by close)

    def through(self, blocks: Iterable[Float32Array]) -> Iterator[Float32Array]:
        """Yield the blocks as they come; the mel power is complete when they are at their end."""
        for block in blocks:
            for start in range(0, len(block), _CHUNK):
                self._add(self._resampler.resample_chunk(block[start : start + _CHUNK]))
            yield block
        self._add(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self._add(np.zeros(MEL_16K_FFT // 2, np.float32))

    def read(self, start: int, count: int) -> Float16Array:
        """Give `count` frames from `start` on, shape (count, 96); moved back into the track where it ends before.

        Raises
        ------
        ValueError
            If the whole track has fewer frames.
        """
        if count > self.frames:
            raise ValueError(f"{count} frames are not in a track of {self.frames}")
        start = max(0, min(start, self.frames - count))
        self._file.seek(2 * MEL_16K_BANDS * start)
        content = self._file.read(2 * MEL_16K_BANDS * count)
        return np.frombuffer(content, np.float16).reshape(count, MEL_16K_BANDS)

    def close(self) -> None:
        """Let go of what was kept."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _add(self, y: Float32Array) -> None:
        self._waiting.append(y)
        if sum(map(len, self._waiting)) < MEL_16K_FFT:
            return
        joined = np.concatenate(self._waiting)
        windows = np.lib.stride_tricks.sliding_window_view(joined, MEL_16K_FFT)[::MEL_16K_HOP]
        power = np.empty((len(windows), 1 + MEL_16K_FFT // 2), np.float32)
        frame_powers(windows, power)
        mel = power @ read_filters()["mel_16k"].T
        self._file.write(to_half(np.minimum(mel, _MOST)).tobytes())
        self.frames += len(mel)
        self._waiting = [joined[len(mel) * MEL_16K_HOP :]]
