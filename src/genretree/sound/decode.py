"""A sound file of any kind to mono float32 at one rate, in bounded memory, or a `SoundError` that says what is wrong.

libsndfile reads what it can; the rest (m4a, aac, wma, ...) goes through the ffmpeg program if it is installed, and so
does Opus. What a file is, is decided by its content, never by its name. Decoders forgive a file that ends early, so
whether it is whole is checked apart, from the lengths that the file itself declares.
"""

from __future__ import annotations

import io
import math
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from genretree.errors import SoundError
from genretree.files import describe_special
from genretree.machine import ahead, processors_each
from genretree.settings import N_FFT, RATE
from genretree.sound.complete import TooManyPartsError, end_of_audio, missing_end
from genretree.sound.containers import FFMPEG_ONLY, choose_demuxer, corrected_id3, is_text, sniff
from genretree.sound.ffmpeg import has_ffmpeg, input_options, last_lines, last_words, run_ffprobe
from genretree.sound.unclosed import mend_wav
from genretree.sound.view import view

MAX_CHANNELS = 8
SILENCE_PEAK = 1e-4  # -80 dBFS
_LOUDEST = 1e6  # full scale is 1; a float file beyond this is damaged, and its powers would overflow
_BLOCK_FRAMES = 1 << 18  # 6 s at 44,100 Hz
_GUESSED = ("mp3", "aac")  # of these a length may be an estimate from the bit rate

_LIBSNDFILE_FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "SVX", "VOC", "NIST"}
Samples = NDArray[np.float32]
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
    rate : int
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
    rate: int
    channels: int
    format: str
    codec: str


class _CutShortError(Exception):
    """The decoder came to an early end."""


@dataclass(frozen=True)
class _Source:
    """An opened file: its facts and its native samples, blocks of (frames, channels) that are valid until the next."""

    info: SoundInfo
    blocks: Iterator[Samples]


# ---------------------------------------------------------------------------------------------------------------------
# Public


def iter_blocks(
    path: SampleFile, rate: int = RATE, salvage: bool = False, longest: float = math.inf
) -> Iterator[Samples]:
    """Decode a file block by block: mono (the mean of all channels), resampled by soxr HQ.

    Parameters
    ----------
    path : path-like
        A sound file of 1 to 8 channels, at any rate.
    rate : int
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
        With kind not_found, unreadable, empty, not_audio, needs_ffmpeg, too_many_channels, too_long, truncated or
        not_finite as soon as it is known; silence and too_short after the last block. A FLAC file's missing end, too,
        shows only when it is reached.
    """
    path = Path(path)
    with _open_binary(path) as file:
        source = _open(path, file, salvage)
        yield from _to_mono(source, rate, salvage, longest)


def decode(path: SampleFile, rate: int = RATE, salvage: bool = False) -> Samples:
    """Decode a whole file; see `iter_blocks`.

    Returns
    -------
    ndarray, float32, shape (samples,)
        Mono samples at `rate` Hz, at least 2,048 of them.

    Raises
    ------
    SoundError
        As `iter_blocks`.
    """
    return np.concatenate(list(iter_blocks(path, rate, salvage)))


def probe(path: SampleFile) -> SoundInfo:
    """Read a file's header: duration, rate, channels, format and codec, without decoding it.

    Whether the file is whole, finite or silent only decoding tells.

    Raises
    ------
    SoundError
        With kind not_found, unreadable, empty, not_audio, needs_ffmpeg or too_many_channels; truncated if nothing of
        the file can be opened because its end is missing.
    """
    path = Path(path)
    with _open_binary(path) as file:
        return _open(path, file, salvage=True).info


# ---------------------------------------------------------------------------------------------------------------------
# Native samples to mono at a rate


def _to_mono(source: _Source, rate: int, salvage: bool, longest: float) -> Iterator[Samples]:
    import soxr

    info = source.info
    if info.duration > longest and info.format not in _GUESSED:  # a duration that isn't known is nan
        raise _too_long(info.path, info.duration, longest)
    stream = None
    if info.rate != rate:
        stream = soxr.ResampleStream(info.rate, rate, 1, dtype="float32", quality="HQ")
    levels = _Levels()
    blocks = _mix_down(source, levels)
    if processors_each() > 1:  # decoding takes as long as all that follows
        blocks = ahead(blocks)
    n_in = n_out = 0
    cut = ""
    try:
        for mono in blocks:
            n_in += len(mono)
            if n_in > longest * info.rate:
                raise _too_long(info.path, n_in / info.rate, longest)
            out = mono if stream is None else stream.resample_chunk(mono)
            n_out += len(out)
            if len(out):
                yield out
    except _CutShortError as error:
        cut = str(error)
    if cut and not salvage:
        raise _truncated(info.path, cut)
    if n_in == 0:
        raise SoundError("empty", info.path, f"a {info.format} file without any samples")
    if stream is not None:
        out = stream.resample_chunk(np.zeros(0, np.float32), last=True)
        n_out += len(out)
        if len(out):
            yield out
    if n_out < N_FFT:
        detail = f"only {n_out} samples ({1000 * n_out / rate:.0f} ms) of sound; at least {N_FFT} are needed"
        raise SoundError("too_short", info.path, detail)
    levels.check(info.path)


def _too_long(path: Path, seconds: float, longest: float) -> SoundError:
    return SoundError("too_long", path, f"has {seconds:.0f} s of sound or more; at most {longest:g} s are taken here")


def _mix_down(source: _Source, levels: _Levels) -> Iterator[Samples]:
    """Yield the mean of all channels, block by block; refuse what is no sound."""
    info, count = source.info, 0
    for block in source.blocks:
        mono = _mean_of_channels(block)
        loudest = np.abs(mono).max(initial=0)
        if not np.isfinite(loudest):
            at = count + int(np.argmin(np.isfinite(mono)))
            detail = f"holds NaN or infinite samples, the first {at / info.rate:.2f} s in; export it again"
            raise SoundError("not_finite", info.path, detail)
        if loudest > _LOUDEST:
            detail = "holds samples a million times beyond full scale; export it again"
            raise SoundError("not_finite", info.path, detail)
        levels.add(block, mono)
        count += len(mono)
        yield mono


def _mean_of_channels(block: Samples) -> Samples:
    """Mean over the channels; adding columns is many times faster than `block.mean(axis=1)`."""
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0].copy()
    mono: Samples = block[:, 0] + block[:, 1]
    for channel in range(2, channels):
        mono += block[:, channel]
    mono *= np.float32(1 / channels)
    return mono


class _Levels:
    """Peaks of the mono mix and of the channels, until the first sound is met."""

    def __init__(self) -> None:
        self.mono = 0.0
        self.channels = 0.0

    def add(self, block: Samples, mono: Samples) -> None:
        if self.mono > SILENCE_PEAK or not len(mono):
            return
        self.mono = max(self.mono, float(np.abs(mono).max()))
        self.channels = max(self.channels, float(np.abs(block).max()))

    def check(self, path: Path) -> None:
        if self.mono > SILENCE_PEAK:
            return
        if self.channels > SILENCE_PEAK:
            detail = "the channels are not silent but cancel out in the mono mix; turn the phase of one of them round"
            raise SoundError("silence", path, detail)
        raise SoundError("silence", path, "nothing but silence: no sample exceeds -80 dB of full scale")


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
        return path.open("rb", buffering=0)  # libsndfile gets its descriptor, so positions must be real
    except FileNotFoundError as error:
        raise SoundError("not_found", path, "no such file") from error
    except (OSError, ValueError) as error:
        raise SoundError("unreadable", path, f"can't be read: {getattr(error, 'strerror', None) or error}") from error


def _open(path: Path, file: io.FileIO, salvage: bool) -> _Source:
    size = os.fstat(file.fileno()).st_size
    try:
        container, start = sniff(file, size)
        if not container:  # neither libsndfile nor FFmpeg gets to guess: some formats are lists of other files
            raise SoundError("not_audio", path, _describe_unknown(file, start))
        demuxer = choose_demuxer(file, container, start)
        problem = missing_end(file, container, start, size)
    except TooManyPartsError as error:
        raise SoundError("not_audio", path, f"{error}; convert it to another format") from error
    except OSError as error:
        raise SoundError("unreadable", path, f"can't be read: {error.strerror or error}") from error
    if problem and not salvage:
        raise _truncated(path, problem)
    source = None if container in FFMPEG_ONLY else _open_libsndfile(path, file, container, start, salvage)
    if source is None:
        if not demuxer:
            raise SoundError("not_audio", path, f"starts like a {container} file but cannot be decoded")
        source = _open_ffmpeg(path, file, container, demuxer, problem)
    if source.info.channels > MAX_CHANNELS:
        detail = f"has {source.info.channels} channels; at most {MAX_CHANNELS} are taken, so mix it down first"
        raise SoundError("too_many_channels", path, detail)
    return source


def _describe_unknown(file: io.FileIO, start: int) -> str:
    if is_text(file):
        return "is text, not sound"
    if start:
        return f"an unsupported or unrecognised audio format follows its ID3 tags ({start:,} bytes)"
    return "unsupported or unrecognised audio format"


def _truncated(path: Path, problem: str) -> SoundError:
    detail = f"is truncated: {problem}; get the whole file, or ask for salvage to take what is there"
    return SoundError("truncated", path, detail)


# ---------------------------------------------------------------------------------------------------------------------
# libsndfile


def _open_libsndfile(path: Path, file: io.FileIO, container: str, start: int, salvage: bool) -> _Source | None:
    """Open by libsndfile; None if it can't read the content."""
    file.seek(0)
    handle: int | IO[bytes] = file.fileno()  # never the name: its suffix would matter
    if container == "wav" and (mended := mend_wav(file)):
        handle = mended
    if container == "mp3" and (header := corrected_id3(file, start)):
        handle = view(file, header)
    size = os.fstat(file.fileno()).st_size
    if container == "flac" and (end := end_of_audio(file, size)) < size:  # libsndfile takes such tags for damage
        handle = view(file, end=end)
    file.seek(0)
    try:
        sound = sf.SoundFile(handle, closefd=False)
    except sf.LibsndfileError:
        return None
    if sound.format not in _LIBSNDFILE_FORMATS or (sound.format == "MP3" and container != "mp3"):
        sound.close()
        return None
    if sound.subtype == "OPUS" and has_ffmpeg():  # libsndfile 1.2 calls most whole Opus files malformed
        sound.close()
        return None
    known = 0 < sound.frames < 1 << 62
    info = SoundInfo(
        path=path,
        duration=sound.frames / sound.samplerate if known else float("nan"),
        rate=sound.samplerate,
        channels=sound.channels,
        format=container or sound.format.lower(),
        codec=sound.subtype.lower(),
    )
    return _Source(info, _read_libsndfile(sound, exact=sound.format == "FLAC" and known))


def _read_libsndfile(sound: sf.SoundFile, exact: bool) -> Iterator[Samples]:
    declared, known = sound.frames, sound.frames < 1 << 62
    count = 0
    buffer = np.empty((_BLOCK_FRAMES, sound.channels), np.float32)
    with sound:
        while True:
            # soundfile doesn't say how much of a block came before a decoder error. What was never written stays NaN.
            if sound.format == "FLAC":
                buffer.fill(np.nan)
            try:
                block = sound.read(out=buffer)
            except sf.LibsndfileError as error:
                missing = np.isnan(buffer[:, 0])
                got = int(missing.argmax()) if missing.any() else len(buffer)
                if got and sound.format == "FLAC":
                    yield buffer[:got]
                # A FLAC stream written into a pipe declares no length: libsndfile ends even a whole one by an error.
                if not known and "lost sync" not in str(error):
                    return
                at = (count + got) / sound.samplerate
                raise _CutShortError(
                    f"decoding stops after {at:.1f} s ({error.error_string or 'damaged data'})"
                ) from error
            if not len(block):
                break
            count += len(block)
            yield block
        if exact and count < declared:
            seconds = declared / sound.samplerate
            raise _CutShortError(
                f"it declares {seconds:.1f} s of sound and ends after {count / sound.samplerate:.1f} s"
            )


# ---------------------------------------------------------------------------------------------------------------------
# ffmpeg


def _open_ffmpeg(path: Path, file: io.FileIO, container: str, demuxer: str, problem: str) -> _Source:
    """Open with the ffmpeg program; `problem` is what is known to be missing from the file."""
    if not has_ffmpeg():
        if container not in FFMPEG_ONLY:
            raise SoundError("not_audio", path, f"starts like a {container} file but cannot be decoded")
        detail = f"is a {container} file that only ffmpeg can decode; install ffmpeg (its programs must be on PATH)"
        raise SoundError("needs_ffmpeg", path, detail)
    facts, complaint = run_ffprobe(file, demuxer)
    streams = facts.get("streams", [])
    found = (each for each in streams if each.get("codec_type") == "audio")
    sound = next((each for each in found if int(each.get("sample_rate", 0)) and int(each.get("channels", 0))), None)
    form = facts.get("format", {})
    if sound is None:
        if problem:
            raise _truncated(path, problem)
        detail = f"starts like a {container} file but holds no sound that can be decoded{complaint}"
        raise SoundError("not_audio", path, detail)
    declared = float(sound.get("duration") or (form.get("duration") if len(streams) == 1 else None) or "nan")
    info = SoundInfo(
        path=path,
        duration=float(sound.get("duration") or form.get("duration") or "nan"),
        rate=int(sound["sample_rate"]),
        channels=int(sound["channels"]),
        format=container,
        codec=str(sound.get("codec_name", "")),
    )
    # An aac stream's duration is only ever guessed from its bit rate.
    return _Source(info, _read_ffmpeg(info, file, demuxer, float("nan") if container == "aac" else declared))


def _read_ffmpeg(info: SoundInfo, file: io.FileIO, demuxer: str, declared: float) -> Iterator[Samples]:
    command = [
        *("ffmpeg", "-v", "error", "-nostdin", *input_options(demuxer)),
        *("-map", "0:a:0", "-f", "f32le", "-c:a", "pcm_f32le"),
        *("-ar", str(info.rate), "-ac", str(info.channels), "pipe:1"),
    ]
    width = 4 * info.channels
    count = 0
    with tempfile.TemporaryFile() as complaints:  # a pipe nobody empties would block ffmpeg
        file.seek(0)
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=complaints)
        assert process.stdout is not None
        try:
            while data := process.stdout.read(_BLOCK_FRAMES * width):
                frames = len(data) // width
                count += frames
                yield np.frombuffer(data, np.float32, frames * info.channels).reshape(frames, info.channels)
            code = process.wait()
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
        if code:
            lines = last_lines(complaints) or [f"exit code {code}"]
            raise _CutShortError(f"ffmpeg stops after {count / info.rate:.1f} s ({last_words(lines)})")
    seconds = count / info.rate
    if seconds < declared - max(0.25, 0.002 * declared):
        raise _CutShortError(f"it declares {declared:.1f} s of sound and ends after {seconds:.1f} s")
