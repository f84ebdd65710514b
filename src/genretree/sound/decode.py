"""Decoding of audio files to mono float32 at one sample rate, in bounded memory.

FFmpeg's libraries decode (PyAV); no program needs to be installed. The content determines the format, never the name.
Decoders accept truncated files without an error, so completeness is checked separately, from the lengths that the file
declares. A file is decoded once and completely, or a `SoundError` says what is missing.
"""

from __future__ import annotations

import io
import logging
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Float32Array
from genretree.errors import SoundError
from genretree.files import describe_special, printable
from genretree.parallel import prefetch, processors_each
from genretree.settings import N_FFT, SAMPLE_RATE
from genretree.sound.comments import check_comments
from genretree.sound.complete import Layout, MissingPaddingError, TooManyPartsError, read_layout
from genretree.sound.containers import choose_demuxer, is_text, sniff
from genretree.sound.libav import (
    MAX_CHANNELS,
    Block,
    DamageError,
    FilePart,
    OtherFileError,
    ProtectedError,
    Stream,
    TooManyChannelsError,
    describe,
    find_stream,
    open_container,
)

SILENCE_PEAK = 1e-4  # -80 dBFS
MAX_AMPLITUDE = 1e6  # full scale is 1; a float file beyond this is damaged, and its power would overflow
_MIN_ENERGY_RATIO = 0.1  # the mix has 10 dB less energy than the channels: their correlation is below -0.8
_EDGE_SECONDS = 1.0  # seconds at each end where lossy coding fades a constant in and out
_SHORT_SECONDS = 3.0  # up to this length a file is judged including its ends
_ESTIMATED_DURATION = ("mp3", "aac")  # their duration may be an estimate from the bit rate

log = logging.getLogger(__name__)
AudioPath = str | os.PathLike[str]


@dataclass(frozen=True)
class SoundInfo:
    """Properties of an audio file, from its header.

    Parameters
    ----------
    path : Path
        The file.
    duration : float
        Seconds; an estimate for an mp3 without a Xing header, NaN if the file does not declare it.
    sr : int
        Native sample rate in Hz.
    channels : int
        Number of channels, 1 to 8.
    format : str
        Container, such as "wav" or "mp4".
    codec : str
        Audio codec, such as "pcm_s16le" or "aac".
    """

    path: Path
    duration: float
    sr: int
    channels: int
    format: str
    codec: str


@dataclass(frozen=True)
class _Source:
    """An opened file: its header, its native samples, and the number of trailing bytes outside its format."""

    info: SoundInfo
    blocks: Iterator[Block]
    trailing_bytes: int


# ---------------------------------------------------------------------------------------------------------------------
# Public


def iter_blocks(
    path: AudioPath, sr: int = SAMPLE_RATE, salvage: bool = False, max_seconds: float = math.inf
) -> Iterator[Float32Array]:
    """Decode a file block by block to mono (the mean of all channels), resampled with soxr HQ.

    Parameters
    ----------
    path : path-like
        An audio file of 1 to 8 channels, at any sample rate.
    sr : int
        Sample rate of the result in Hz.
    salvage : bool
        Decode what is left of a truncated file instead of raising an error.
    max_seconds : float
        Maximum duration; longer files are rejected, before decoding where the header is reliable.

    Yields
    ------
    ndarray, float32, shape (samples,)
        A few seconds of audio, full scale -1 to 1; at most about 6 s at a native rate of 44,100 Hz.

    Raises
    ------
    SoundError
        With `kind` not_found, unreadable, empty, not_audio, too_many_channels, too_long, truncated or not_finite as
        soon as it is detected; silence and too_short after the last block. A missing end of a FLAC file is detected
        only when it is reached.

    See Also
    --------
    decode : Decode a whole file into one array.
    """
    path = Path(path)
    with _open_binary(path) as file:
        source = _open(path, file, salvage)
        if source.trailing_bytes:
            what = f"{source.trailing_bytes:,} bytes, which are not part of the {source.info.format} stream"
            log.warning("%s: skipped the last %s", printable(path), what)
        yield from _to_mono(source, sr, salvage, max_seconds)


def decode(path: AudioPath, sr: int = SAMPLE_RATE, salvage: bool = False) -> Float32Array:
    """Decode a whole file to mono float32.

    Parameters
    ----------
    path : path-like
        An audio file of 1 to 8 channels, at any sample rate.
    sr : int
        Sample rate of the result in Hz.
    salvage : bool
        Decode what is left of a truncated file instead of raising an error.

    Returns
    -------
    ndarray, float32, shape (n_samples,)
        Mono audio at `sr` Hz, full scale -1 to 1; at least 2,048 samples.

    Raises
    ------
    SoundError
        As for `iter_blocks`.

    See Also
    --------
    iter_blocks : Decode block by block, in bounded memory.
    probe : Read the header only.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", np.sin(np.arange(44100) / 9), 44100)
    ...     decode(f"{folder}/a.wav").shape
    (22050,)
    """
    return np.concatenate(list(iter_blocks(path, sr, salvage)))


def probe(path: AudioPath) -> SoundInfo:
    """Read a file's header: duration, sample rate, channels, format and codec, without decoding it.

    Only decoding shows whether a file is complete, finite and not silent.

    Parameters
    ----------
    path : path-like
        An audio file.

    Returns
    -------
    SoundInfo

    Raises
    ------
    SoundError
        With `kind` not_found, unreadable, empty, not_audio or too_many_channels; truncated if nothing of the file can
        be opened because its end is missing.

    See Also
    --------
    decode : Decode a whole file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", np.zeros(44100), 44100)
    ...     info = probe(f"{folder}/a.wav")
    >>> info.duration, info.sr, info.channels, info.format
    (1.0, 44100, 1, 'wav')
    """
    path = Path(path)
    with _open_binary(path) as file:
        return _open(path, file, salvage=True).info


# ---------------------------------------------------------------------------------------------------------------------
# Conversion to mono and resampling


def _to_mono(source: _Source, sr: int, salvage: bool, max_seconds: float) -> Iterator[Float32Array]:
    info = source.info
    if info.duration > max_seconds and info.format not in _ESTIMATED_DURATION:  # an unknown duration is NaN
        raise _too_long(info.path, info.duration, max_seconds)
    levels = _Levels()
    blocks = _mix_down(source, levels)
    if processors_each() > 1:  # decoding takes as long as everything after it
        blocks = prefetch(blocks)
    resampler = _Resampler(sr)
    seconds, n_out = 0.0, 0
    for mono, native_sr in blocks:
        seconds += len(mono) / native_sr
        if seconds > max_seconds:
            raise _too_long(info.path, seconds, max_seconds)
        for out in resampler.add(mono, native_sr):
            n_out += len(out)
            yield out
    if not seconds:
        raise SoundError("empty", info.path, f"a {info.format} file without any samples")
    for out in resampler.finish():
        n_out += len(out)
        yield out
    if n_out < N_FFT:
        detail = f"only {n_out} samples ({1000 * n_out / sr:.0f} ms) of audio; at least {N_FFT} are required"
        raise SoundError("too_short", info.path, detail)
    levels.check(info.path)


class _Resampler:
    """Resamples mono blocks to one rate; the native rate may change midway, as in concatenated mp3 files."""

    def __init__(self, sr: int) -> None:
        self.sr = sr
        self._native_sr = 0
        self._stream: Any = None

    def add(self, mono: Float32Array, native_sr: int) -> Iterator[Float32Array]:
        """Resample a block."""
        import soxr

        if native_sr != self._native_sr:
            yield from self.finish()
            self._native_sr, self._stream = native_sr, None
            if native_sr != self.sr:
                self._stream = soxr.ResampleStream(native_sr, self.sr, 1, dtype="float32", quality="HQ")
        out = mono if self._stream is None else self._stream.resample_chunk(mono)
        if len(out):
            yield out

    def finish(self) -> Iterator[Float32Array]:
        """Yield what remains of the blocks of one native rate."""
        if self._stream is not None:
            out = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(out):
                yield out


def _too_long(path: Path, seconds: float, max_seconds: float) -> SoundError:
    return SoundError("too_long", path, f"has at least {seconds:.0f} s of audio; the limit is {max_seconds:g} s")


def _mix_down(source: _Source, levels: _Levels) -> Iterator[tuple[Float32Array, int]]:
    """Yield the mean of all channels and its sample rate, block by block; raise an error if it is not finite."""
    path, seconds = source.info.path, 0.0
    for block in source.blocks:
        sr = block.sr
        mono = _mean_of_channels(block.channels)
        peak = np.abs(mono).max(initial=0)
        if not np.isfinite(peak):
            at = seconds + int(np.argmin(np.isfinite(mono))) / sr
            raise SoundError(
                "not_finite", path, f"contains NaN or infinite samples, the first at {at:.2f} s; export it again"
            )
        if peak > MAX_AMPLITUDE:
            raise SoundError("not_finite", path, "contains samples a million times full scale; export it again")
        levels.add(block.channels, mono, sr)
        seconds += len(mono) / sr
        yield mono, sr


def _mean_of_channels(channels: list[Float32Array]) -> Float32Array:
    if len(channels) == 1:
        return channels[0]
    mono: Float32Array = channels[0] + channels[1]
    for channel in channels[2:]:
        mono += channel
    mono *= np.float32(1 / len(channels))
    return mono


class _Levels:
    """Levels of the mono mix and of the channels, without their mean (a constant is inaudible)."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.channel_peak = 0.0
        self.energy = 0.0
        self.channel_energy = 0.0
        self.inner_peak = 0.0  # without the ends of the file
        self._seconds = 0.0
        self._begin: list[Float32Array] = []
        self._end = np.zeros(0, np.float32)

    def add(self, channels: list[Float32Array], mono: Float32Array, sr: int) -> None:
        """Add a block: its channels, their mean and the sample rate in Hz."""
        if not len(mono):
            return
        if self.peak <= SILENCE_PEAK:
            self.peak = max(self.peak, _peak(mono))
            self.channel_peak = max(self.channel_peak, *map(_peak, channels))
        if self.inner_peak <= SILENCE_PEAK:
            self._add_inner(mono, sr)
        if len(channels) > 1:
            self.energy += _energy(mono)
            self.channel_energy += sum(map(_energy, channels)) / len(channels)

    def _add_inner(self, mono: Float32Array, sr: int) -> None:
        y = np.concatenate([self._end, mono])
        inner, self._end = y[: -int(_EDGE_SECONDS * sr)], y[-int(_EDGE_SECONDS * sr) :]
        missing = max(0, int((_EDGE_SECONDS - self._seconds) * sr))
        if missing and len(inner):
            self._begin.append(inner[:missing].copy())
        if len(inner) > missing:
            self.inner_peak = max(self.inner_peak, _peak(inner[missing:]))
        self._seconds += len(inner) / sr

    def check(self, path: Path) -> None:
        """Raise a SoundError of kind `silence` if there is nothing to analyse."""
        if self.energy < _MIN_ENERGY_RATIO * self.channel_energy and self.channel_peak > SILENCE_PEAK:
            detail = "the channels are not silent but cancel out in the mono mix; invert the polarity of one channel"
            raise SoundError("silence", path, detail)
        if self.peak <= SILENCE_PEAK:
            detail = "silent: no sample deviates from the mean by more than -80 dB of full scale"
            raise SoundError("silence", path, detail)
        long = self._seconds + _EDGE_SECONDS > _SHORT_SECONDS
        if long and self.inner_peak <= SILENCE_PEAK and _is_constant([*self._begin, self._end]):
            detail = (
                f"constant (DC): except in the first and last {_EDGE_SECONDS:g} s, no sample deviates from the mean by "
                "more than -80 dB of full scale"
            )
            raise SoundError("silence", path, detail)


def _is_constant(ends: list[Float32Array]) -> bool:
    """Return whether the ends of a file are a constant switched on and off: most energy is in means over 50 ms."""
    energy = sum(float(y @ y) for y in ends)
    n = max(1, len(ends[-1]) // 20)
    windows = [y[: len(y) // n * n].reshape(-1, n) for y in ends]
    return n * sum(float(np.square(y.mean(axis=1)).sum()) for y in windows) >= 0.5 * energy


def _mean(y: Float32Array) -> float:
    return float(np.dot(y, np.ones(len(y), np.float32))) / len(y)  # faster than y.mean()


def _peak(y: Float32Array) -> float:
    """Return the largest distance from the mean."""
    mean = _mean(y)
    return max(float(y.max()) - mean, mean - float(y.min()))


def _energy(y: Float32Array) -> float:
    """Return the energy without that of the mean."""
    return float(np.dot(y, y)) - len(y) * _mean(y) ** 2


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def _open_binary(path: Path) -> io.FileIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SoundError("unreadable", path, "is a folder, not a file")
        if special := describe_special(status.st_mode):
            raise SoundError("unreadable", path, f"is {special}, not an audio file")
        if status.st_size == 0:
            raise SoundError("empty", path, "the file is empty (0 bytes)")
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise SoundError("not_found", path, "no such file") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _open(path: Path, file: io.FileIO, salvage: bool) -> _Source:
    size = os.fstat(file.fileno()).st_size
    try:
        container, start = sniff(file, size)
        if not container:  # FFmpeg must not guess: some formats are lists of other files
            raise SoundError("not_audio", path, _describe_unknown(file, start))
        demuxer = choose_demuxer(file, container, start)
        layout = read_layout(file, container, start, size)
        check_comments(file, container, layout.parts)
    except (MissingPaddingError, TooManyPartsError) as error:
        raise SoundError("not_audio", path, f"{error}; convert it to another format") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    stream = _open_part(path, file, container, demuxer, layout.parts[0], layout)
    whole = not layout.problem or (layout.trailing_start and 0 < stream.find_end() <= layout.trailing_start)
    if not whole and not salvage:
        raise _damaged(path, layout.problem)
    info = SoundInfo(path, stream.duration, stream.sr, stream.n_channels, container, stream.codec)
    if len(layout.parts) > 1:
        info = replace(info, duration=float("nan"))
    if info.channels > MAX_CHANNELS:
        raise _too_many_channels(path, info.channels)

    blocks = _read_parts(path, file, container, demuxer, stream, layout, salvage)
    return _Source(info, blocks, size - layout.trailing_start if whole and layout.trailing_start else 0)


def _read_parts(
    path: Path, file: io.FileIO, container: str, demuxer: str, stream: Stream, layout: Layout, salvage: bool
) -> Iterator[Block]:
    """Decode the parts of a file in order; the first is already open."""
    try:
        yield from stream.read(salvage, layout.frames)
        for part in layout.parts[1:]:
            try:
                further = _open_part(path, file, container, demuxer, part, layout)
            except SoundError:
                if not salvage:
                    raise
                continue
            yield from further.read(salvage)
    except DamageError as error:
        raise _damaged(path, str(error)) from error
    except TooManyChannelsError as error:
        raise _too_many_channels(path, error.n_channels) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _open_part(
    path: Path, file: io.FileIO, container: str, demuxer: str, part: tuple[int, int], layout: Layout
) -> Stream:
    """Open a part of a file that is a complete file in itself."""
    from av.error import FFmpegError

    reason = ""
    stream = None
    try:
        source = FilePart(file, *part, seekable="ignore_length" not in layout.options)
        stream = find_stream(open_container(source, demuxer, layout.options), demuxer)
    except TooManyPartsError as error:
        raise SoundError("not_audio", path, f"{error}; convert it to another format") from error
    except ProtectedError as error:
        detail = f"is protected (DRM, {error}) and cannot be decoded; get an unprotected copy from the seller"
        raise SoundError("not_audio", path, detail) from error
    except (FFmpegError, OtherFileError, ValueError) as error:
        reason = f" ({describe(error)})"
    except OSError as error:
        raise _unreadable(path, error) from error
    if stream is None:
        if layout.problem:
            detail = f"is truncated or damaged: {layout.problem}; nothing can be decoded; get the complete file"
            raise SoundError("truncated", path, detail)
        detail = f"has a {container} header but no audio that can be decoded{reason}"
        raise SoundError("not_audio", path, detail)
    return stream


def _describe_unknown(file: io.FileIO, start: int) -> str:
    if is_text(file):
        return "is a text file, not audio"
    if start:
        return f"an unsupported or unrecognised audio format follows its ID3 tags ({start:,} bytes)"
    return "unsupported or unrecognised audio format"


def _unreadable(path: Path, error: Exception) -> SoundError:
    return SoundError("unreadable", path, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _damaged(path: Path, problem: str) -> SoundError:
    detail = f"is truncated or damaged: {problem}; get the complete file, or use `salvage=True` to decode what is left"
    return SoundError("truncated", path, detail)


def _too_many_channels(path: Path, channels: int) -> SoundError:
    detail = f"has {channels} channels; at most {MAX_CHANNELS} are supported; mix it down first"
    return SoundError("too_many_channels", path, detail)
