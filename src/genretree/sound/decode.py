"""A sound file of any kind to mono float32 at one rate, in bounded memory, or a `SoundError` that says what is wrong.

FFmpeg's libraries decode (PyAV); no program has to be installed. The content decides what a file is, never its name.
Decoders forgive a file that ends early, so whether it is whole is checked separately, from the lengths that the
file itself declares. A file is decoded exactly once and whole, or an error says what is missing.
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
_LOUDEST = 1e6  # full scale is 1; a float file beyond this is damaged, and its powers would overflow
_CANCELLED = 0.1  # the mix has 10 dB less energy than the channels: their correlation is below -0.8
_EDGE = 1.0  # seconds at each end in which lossy coding makes a constant fade in and out
_SHORT = 3.0  # seconds, up to which a file is judged with its ends
_GUESSED = ("mp3", "aac")  # of these a length may be an estimate from the bit rate

log = logging.getLogger(__name__)
SampleFile = str | os.PathLike[str]


@dataclass(frozen=True)
class SoundInfo:
    """What a sound file's header says.

    Parameters
    ----------
    path : Path
        The file.
    duration : float
        Seconds; an estimate for an mp3 without a Xing header, NaN where the file doesn't say.
    sr : int
        Its own sample rate in Hz.
    channels : int
        Number of channels, 1 to 8.
    format : str
        Container, such as "wav" or "mp4".
    codec : str
        How the samples are coded, such as "pcm_16" or "aac".
    """

    path: Path
    duration: float
    sr: int
    channels: int
    format: str
    codec: str


@dataclass(frozen=True)
class _Source:
    """An opened file: its header, its native samples, and how many bytes behind them are not part of its format."""

    info: SoundInfo
    blocks: Iterator[Block]
    foreign: int


# ---------------------------------------------------------------------------------------------------------------------
# Public


def iter_blocks(
    path: SampleFile, sr: int = SAMPLE_RATE, salvage: bool = False, longest: float = math.inf
) -> Iterator[Float32Array]:
    """Decode a file block by block: mono (the mean of all channels), resampled by soxr HQ.

    Parameters
    ----------
    path : path-like
        A sound file of 1 to 8 channels, at any rate.
    sr : int
        Sample rate of the result in Hz.
    salvage : bool
        Take what decodes of a truncated file instead of refusing it.
    longest : float
        Seconds of sound beyond which a file is refused, at once where its header can be trusted.

    Yields
    ------
    ndarray, float32, shape (samples,)
        Some seconds of sound, full scale -1 to 1; at most about 6 s where the file's own rate is 44,100 Hz.

    Raises
    ------
    SoundError
        With kind not_found, unreadable, empty, not_audio, too_many_channels, too_long, truncated or
        not_finite as soon as it is known; silence and too_short after the last block. A FLAC file's missing end, too,
        shows only when it is reached.
    """
    path = Path(path)
    with _open_binary(path) as file:
        source = _open(path, file, salvage)
        if source.foreign:
            what = f"{source.foreign:,} bytes, which are not part of the {source.info.format} stream"
            log.warning("%s: skipped the last %s", printable(path), what)
        yield from _to_mono(source, sr, salvage, longest)


def decode(path: SampleFile, sr: int = SAMPLE_RATE, salvage: bool = False) -> Float32Array:
    """Decode a whole file; see `iter_blocks`.

    Returns
    -------
    ndarray, float32, shape (samples,)
        Mono samples at `sr` Hz, at least 2,048 of them.

    Raises
    ------
    SoundError
        As `iter_blocks`.
    """
    return np.concatenate(list(iter_blocks(path, sr, salvage)))


def probe(path: SampleFile) -> SoundInfo:
    """Read a file's header: duration, rate, channels, format and codec, without decoding it.

    Whether the file is whole, finite or silent only decoding tells.

    Raises
    ------
    SoundError
        With kind not_found, unreadable, empty, not_audio or too_many_channels; truncated if nothing of
        the file can be opened because its end is missing.
    """
    path = Path(path)
    with _open_binary(path) as file:
        return _open(path, file, salvage=True).info


# ---------------------------------------------------------------------------------------------------------------------
# Native samples to mono at a rate


def _to_mono(source: _Source, sr: int, salvage: bool, longest: float) -> Iterator[Float32Array]:
    info = source.info
    if info.duration > longest and info.format not in _GUESSED:  # a duration that isn't known is nan
        raise _too_long(info.path, info.duration, longest)
    levels = _Levels()
    blocks = _mix_down(source, levels)
    if processors_each() > 1:  # decoding takes as long as all that follows
        blocks = prefetch(blocks)
    resampler = _Resampler(sr)
    seconds, n_out = 0.0, 0
    for mono, own_rate in blocks:
        seconds += len(mono) / own_rate
        if seconds > longest:
            raise _too_long(info.path, seconds, longest)
        for out in resampler.add(mono, own_rate):
            n_out += len(out)
            yield out
    if not seconds:
        raise SoundError("empty", info.path, f"a {info.format} file without any samples")
    for out in resampler.finish():
        n_out += len(out)
        yield out
    if n_out < N_FFT:
        detail = f"only {n_out} samples ({1000 * n_out / sr:.0f} ms) of sound; at least {N_FFT} are needed"
        raise SoundError("too_short", info.path, detail)
    levels.check(info.path)


class _Resampler:
    """Mono blocks to one rate; their own rate may change midway, as in mp3 files that were joined."""

    def __init__(self, sr: int) -> None:
        self.sr = sr
        self._own_rate = 0
        self._stream: Any = None

    def add(self, mono: Float32Array, own_rate: int) -> Iterator[Float32Array]:
        """Resample a block."""
        import soxr

        if own_rate != self._own_rate:
            yield from self.finish()
            self._own_rate, self._stream = own_rate, None
            if own_rate != self.sr:
                self._stream = soxr.ResampleStream(own_rate, self.sr, 1, dtype="float32", quality="HQ")
        out = mono if self._stream is None else self._stream.resample_chunk(mono)
        if len(out):
            yield out

    def finish(self) -> Iterator[Float32Array]:
        """Give what is left of the blocks of one rate."""
        if self._stream is not None:
            out = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(out):
                yield out


def _too_long(path: Path, seconds: float, longest: float) -> SoundError:
    return SoundError("too_long", path, f"has {seconds:.0f} s of sound or more; at most {longest:g} s are taken here")


def _mix_down(source: _Source, levels: _Levels) -> Iterator[tuple[Float32Array, int]]:
    """Yield the mean of all channels and its rate, block by block; refuse what is not finite."""
    path, seconds = source.info.path, 0.0
    for block in source.blocks:
        sr = block.sr
        mono = _mean_of_channels(block.channels)
        loudest = np.abs(mono).max(initial=0)
        if not np.isfinite(loudest):
            at = seconds + int(np.argmin(np.isfinite(mono))) / sr
            raise SoundError(
                "not_finite", path, f"holds NaN or infinite samples, the first {at:.2f} s in; export it again"
            )
        if loudest > _LOUDEST:
            raise SoundError("not_finite", path, "holds samples a million times beyond full scale; export it again")
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
    """Level of the mono mix and of the channels, without their mean (a constant is not audible)."""

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
        """Take a block: its channels, their mean and their rate in Hz."""
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
        inner, self._end = y[: -int(_EDGE * sr)], y[-int(_EDGE * sr) :]
        missing = max(0, int((_EDGE - self._seconds) * sr))
        if missing and len(inner):
            self._begin.append(inner[:missing].copy())
        if len(inner) > missing:
            self.inner_peak = max(self.inner_peak, _peak(inner[missing:]))
        self._seconds += len(inner) / sr

    def check(self, path: Path) -> None:
        """Raise SoundError with kind silence if nothing is left to analyse."""
        if self.energy < _CANCELLED * self.channel_energy and self.channel_peak > SILENCE_PEAK:
            detail = "the channels are not silent but cancel out in the mono mix; invert the polarity of one of them"
            raise SoundError("silence", path, detail)
        if self.peak <= SILENCE_PEAK:
            detail = "nothing but silence: no sample is more than -80 dB of full scale away from the mean"
            raise SoundError("silence", path, detail)
        long = self._seconds + _EDGE > _SHORT
        if long and self.inner_peak <= SILENCE_PEAK and _is_constant([*self._begin, self._end]):
            detail = (
                f"nothing but a constant (DC): except for its first and last {_EDGE:g} s no sample is more than -80 dB "
                "of full scale away from the mean"
            )
            raise SoundError("silence", path, detail)


def _is_constant(ends: list[Float32Array]) -> bool:
    """Whether the ends of a file are a constant that is switched on and off: most energy is in means over 50 ms."""
    energy = sum(float(y @ y) for y in ends)
    n = max(1, len(ends[-1]) // 20)
    windows = [y[: len(y) // n * n].reshape(-1, n) for y in ends]
    return n * sum(float(np.square(y.mean(axis=1)).sum()) for y in windows) >= 0.5 * energy


def _mean(y: Float32Array) -> float:
    return float(np.dot(y, np.ones(len(y), np.float32))) / len(y)  # faster than samples.mean()


def _peak(y: Float32Array) -> float:
    """Largest distance from the mean."""
    mean = _mean(y)
    return max(float(y.max()) - mean, mean - float(y.min()))


def _energy(y: Float32Array) -> float:
    """Energy without the mean's."""
    return float(np.dot(y, y)) - len(y) * _mean(y) ** 2


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def _open_binary(path: Path) -> io.FileIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SoundError("unreadable", path, "is a folder, not a file")
        if special := describe_special(status.st_mode):
            raise SoundError("unreadable", path, f"is {special}, not a sound file")
        if status.st_size == 0:
            raise SoundError("empty", path, "the file has 0 bytes")
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise SoundError("not_found", path, "no such file") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _open(path: Path, file: io.FileIO, salvage: bool) -> _Source:
    size = os.fstat(file.fileno()).st_size
    try:
        container, start = sniff(file, size)
        if not container:  # FFmpeg doesn't get to guess: some formats are lists of other files
            raise SoundError("not_audio", path, _describe_unknown(file, start))
        demuxer = choose_demuxer(file, container, start)
        layout = read_layout(file, container, start, size)
        check_comments(file, container, layout.parts)
    except (MissingPaddingError, TooManyPartsError) as error:
        raise SoundError("not_audio", path, f"{error}; convert it to another format") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    stream = _open_part(path, file, container, demuxer, layout.parts[0], layout)
    whole = not layout.problem or (layout.foreign and 0 < stream.find_end() <= layout.foreign)
    if not whole and not salvage:
        raise _damaged(path, layout.problem)
    info = SoundInfo(path, stream.duration, stream.sr, stream.channels, container, stream.codec)
    if len(layout.parts) > 1:
        info = replace(info, duration=float("nan"))
    if info.channels > MAX_CHANNELS:
        raise _too_many_channels(path, info.channels)

    blocks = _read_parts(path, file, container, demuxer, stream, layout, salvage)
    return _Source(info, blocks, size - layout.foreign if whole and layout.foreign else 0)


def _read_parts(
    path: Path, file: io.FileIO, container: str, demuxer: str, stream: Stream, layout: Layout, salvage: bool
) -> Iterator[Block]:
    """Decode the parts of a file one after another; the first is open."""
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
        raise _too_many_channels(path, error.channels) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _open_part(
    path: Path, file: io.FileIO, container: str, demuxer: str, part: tuple[int, int], layout: Layout
) -> Stream:
    """Open a part of a file that is a whole file of its own."""
    from av.error import FFmpegError

    reason = ""
    stream = None
    try:
        source = FilePart(file, *part, seekable="ignore_length" not in layout.options)
        stream = find_stream(open_container(source, demuxer, layout.options), demuxer)
    except TooManyPartsError as error:
        raise SoundError("not_audio", path, f"{error}; convert it to another format") from error
    except ProtectedError as error:
        detail = f"is protected (DRM, {error}) and cannot be decoded; get it from its seller without protection"
        raise SoundError("not_audio", path, detail) from error
    except (FFmpegError, OtherFileError, ValueError) as error:
        reason = f" ({describe(error)})"
    except OSError as error:
        raise _unreadable(path, error) from error
    if stream is None:
        if layout.problem:
            detail = f"is truncated or damaged: {layout.problem}; none of it can be decoded, so get the whole file"
            raise SoundError("truncated", path, detail)
        detail = f"starts like a {container} file but holds no sound that can be decoded{reason}"
        raise SoundError("not_audio", path, detail)
    return stream


def _describe_unknown(file: io.FileIO, start: int) -> str:
    if is_text(file):
        return "is text, not sound"
    if start:
        return f"an unsupported or unrecognised audio format follows its ID3 tags ({start:,} bytes)"
    return "unsupported or unrecognised audio format"


def _unreadable(path: Path, error: Exception) -> SoundError:
    return SoundError("unreadable", path, f"can't be read: {getattr(error, 'strerror', None) or error}")


def _damaged(path: Path, problem: str) -> SoundError:
    detail = f"is truncated or damaged: {problem}; get the whole file, or ask for salvage to take what is there"
    return SoundError("truncated", path, detail)


def _too_many_channels(path: Path, channels: int) -> SoundError:
    detail = f"has {channels} channels; at most {MAX_CHANNELS} are taken, so mix it down first"
    return SoundError("too_many_channels", path, detail)
