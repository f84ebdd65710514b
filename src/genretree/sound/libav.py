"""Safe decoding with FFmpeg's libraries (PyAV): native samples of one open file, which cannot open any other."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from genretree.arrays import Float32Array
from genretree.sound.complete import TooManyPartsError
from genretree.sound.containers import FRAME_SIZES, read_at

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.packet import Packet

log = logging.getLogger(__name__)

BLOCK_FRAMES = 1 << 18  # 6 s at 44,100 Hz
MAX_CHANNELS = 8
_MIN_SR = 1000  # Hz: lower rates are not audio, and would take much memory to resample
_READ = 1 << 16
_OPENING_SECONDS = 2.0  # CPU time limit for headers and tags
_MAX_FAILURES = 20_000  # packets without audio: real files have a few, and reading millions takes long
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI", b"Brava Software", b"<")
_PROTECTED = {"drms", "drmi", "enca", "aavd"}  # codec tags of encrypted tracks in mp4
# Minimum gap between frames in seconds, for formats with timestamps in samples or milliseconds and without pauses.
_GAPS = {"ogg": 0.1, "flac": 0.1, "matroska": 0.5, "flv": 0.5, "mpegts": 0.1}
_BROADCAST = ("mpegts", "mpeg")  # streams may begin midway: their first frames may depend on missing data
_DEMUXER_OPTIONS = {
    "mov": {"enable_drefs": "0", "use_absolute_path": "0"},
    # By default FFmpeg spends 35 ms on detecting a DTS stream in a wav, which the first packets show.
    "wav": {"max_probe_packets": "2"},
    "w64": {"max_probe_packets": "2"},
    # The first frames suffice; with tiny frames, FFmpeg would read 700,000 of them first.
    **{name: {"probesize": "262144"} for name in ("mp3", "aac", "ac3", "eac3")},
}
# Storage of each sample format: dtype, value of silence, value of full scale.
_SCALES: dict[str, tuple[Any, float, float]] = {
    "u8": (np.uint8, 128, 1 << 7),
    "s16": (np.int16, 0, 1 << 15),
    "s32": (np.int32, 0, 1 << 31),
    "s64": (np.int64, 0, 1 << 63),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}


class DamageError(Exception):
    """Data cannot be decoded, or the stream has a gap."""


class TooManyChannelsError(Exception):
    """Frames have more channels than the limit."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels)
        self.n_channels = n_channels


class ProtectedError(Exception):
    """A track is encrypted."""


@dataclass(frozen=True)
class Block:
    """Decoded samples.

    Parameters
    ----------
    channels : list of ndarray, float32, shape (n_frames,)
        Full scale is -1 to 1.
    sr : int
        Sample rate in Hz.
    """

    channels: list[Float32Array]
    sr: int


class FilePart(io.RawIOBase):
    """A part of an open file, as a file object without a name.

    Parameters
    ----------
    file : io.FileIO
    start, end : int
        Positions in bytes.
    seekable : bool
        Whether FFmpeg may read ahead. After the audio of a wav it would read 8 bytes at a time, for minutes.
    """

    def __init__(self, file: io.FileIO, start: int, end: int, seekable: bool = True) -> None:
        self._seekable = seekable
        self._file, self._start, self._length, self._at = file, start, end - start, 0
        self._deadline = float("inf")
        self.late = False

    def begin_opening(self) -> None:
        """Start the CPU time limit for headers and tags."""
        self._deadline = time.thread_time() + _OPENING_SECONDS

    def opened(self) -> None:
        """End the CPU time limit, which applies to headers and tags only."""
        self._deadline = float("inf")

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return self._seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        at = (0, self._at, self._length)[whence] + offset
        if at < 0:  # from numbers in the file; an exception would look like a disk error
            return -1
        self._at = at
        return at

    def tell(self) -> int:  # noqa: D102
        return self._at

    def read(self, count: int = -1) -> bytes:  # noqa: D102
        if self.late or time.thread_time() > self._deadline:
            self.late = True  # after an exception FFmpeg would continue, and PyAV would print each one
            return b""
        n_left = max(0, self._length - self._at)
        count = n_left if count < 0 else min(count, n_left)
        data = read_at(self._file, self._start + self._at, count) if count else b""
        self._at += len(data)
        return data


class OtherFileError(Exception):
    """A file makes FFmpeg request another file."""


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise OtherFileError("it refers to another file")


def open_container(part: FilePart, demuxer: str, options: dict[str, str]) -> InputContainer:
    """Open a part of a file with a given demuxer and no other.

    Playlists (HLS, DASH, concat ...) name other files, and FFmpeg guesses formats from content. Therefore the caller
    chooses the demuxer, all protocols are disabled, and every request to open another file is rejected.

    FFmpeg compares each tag with all that it has already read, so tens of thousands of tags take minutes. Opening
    therefore has a CPU time limit.

    Raises
    ------
    av.error.FFmpegError
        If the part is not of this format.
    TooManyPartsError
        If opening takes more than 2 s of CPU time.
    """
    import av

    demuxer_options = _DEMUXER_OPTIONS.get(demuxer, {})
    safe = {"protocol_whitelist": "", "format_whitelist": demuxer}
    part.begin_opening()  # after the import, which takes time, too
    try:
        container = av.open(
            part,
            "r",
            format=demuxer,
            options={**options, **demuxer_options, **safe},
            metadata_errors="replace",
            buffer_size=_READ,
            io_open=_refuse,
        )
    finally:
        if part.late:
            raise TooManyPartsError("its headers or tags take too long to read")
        part.opened()
    return container


@dataclass(frozen=True)
class Stream:
    """The audio stream of an opened container.

    Parameters
    ----------
    container : InputContainer
    demuxer : str
    index : int
        Index among all streams.
    sr, channels : int
        Sample rate in Hz and number of channels in the header; frames may differ.
    codec : str
    duration : float
        Declared duration in seconds; NaN if unknown.
    """

    container: InputContainer
    demuxer: str
    index: int
    sr: int
    n_channels: int
    codec: str
    duration: float

    def find_end(self) -> int:
        """Return the end of the last packet in the container's index, in bytes; 0 without an index."""
        stream: Any = self.container.streams[self.index]
        return max((entry.pos + entry.size for entry in stream.index_entries), default=0)

    def count_indexed_bytes(self) -> int:
        """Return the number of audio bytes in the container's index; 0 without an index."""
        stream: Any = self.container.streams[self.index]
        return sum(entry.size for entry in stream.index_entries)

    def read(self, salvage: bool, expected_packets: int = 0) -> Iterator[Block]:
        """Decode all packets once, block by block.

        Raises
        ------
        DamageError
            If a packet cannot be decoded, packets are missing, or the stream ends early; never with `salvage`.
        """
        reader = _Reader(self, salvage)
        yield from reader.read()
        if not salvage:
            reader.check_end(expected_packets)


def find_stream(container: InputContainer, demuxer: str) -> Stream | None:
    """Return the first audio stream that has a sample rate, channels and a decoder; None if there is none.

    Raises
    ------
    ProtectedError
        If that stream is encrypted.
    """
    for stream in container.streams.audio:
        context: Any = stream.codec_context
        if context is None:  # FFmpeg recognises the codec, but has no decoder for it
            continue
        try:
            tag = context.codec_tag
        except UnicodeDecodeError:  # 0x00FF, AAC in avi
            tag = ""
        if tag in _PROTECTED:
            raise ProtectedError(f"codec tag {tag}")
        if not context.sample_rate or not context.channels:
            continue
        seconds = float("nan")
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration and len(container.streams) == 1:
            seconds = container.duration / 1e6
        codec = context.codec.canonical_name
        context.thread_count = 1
        return Stream(container, demuxer, stream.index, context.sample_rate, context.channels, codec, seconds)
    return None


class _Reader:
    """One pass over a stream's packets."""

    def __init__(self, stream: Stream, salvage: bool) -> None:
        self.stream, self.salvage = stream, salvage
        self.seconds = 0.0
        self.packets = self.bytes = self.failures = 0
        # Where the index is missing, FFmpeg adds what it reads.
        self._indexed_bytes = stream.count_indexed_bytes() if stream.demuxer == "avi" else 0
        self.begin: int | None = None  # timestamp of the first frame
        self._failed: bytes | None = None  # beginning of a packet that could not be decoded since the last good one
        self._last: Packet[Any] | None = None
        self._expected: int | None = None  # timestamp of the next frame
        self._frame_size = FRAME_SIZES.get(stream.demuxer)
        self._max_gap = _GAPS.get(stream.demuxer)
        self._tick = 0.0  # seconds of a timestamp's unit

    def read(self) -> Iterator[Block]:
        """Decode every packet."""
        buffer: _Buffer | None = None
        for frame in self._frames():
            if buffer is None or not buffer.accepts(frame):
                if buffer is not None:
                    yield from buffer.flush()
                buffer = _Buffer(frame)
            buffer.add(frame)
            self.seconds += frame.samples / buffer.sr
            if buffer.frames >= BLOCK_FRAMES:
                yield from buffer.flush()
        if buffer is not None:
            yield from buffer.flush()

    def _frames(self) -> Iterator[AudioFrame]:
        from av.error import FFmpegError

        audio: Any = self.stream.container.streams[self.stream.index]
        if not self.salvage:
            # By default, the TTA decoder only logs a wrong checksum.
            explode = "+explode" if self.stream.codec == "tta" else ""
            audio.codec_context.options = {"err_detect": f"crccheck{explode}"}
        decode = audio.codec_context.decode
        for packet in self._demux():
            if self.failures > _MAX_FAILURES:
                break
            if packet.is_corrupt and not self.salvage and self.stream.demuxer == "mpegts" and self.seconds:
                raise DamageError(f"a packet is incomplete at {self.seconds:.1f} s")
            try:
                decoded = decode(packet)
            except MemoryError:
                raise
            except FFmpegError as error:
                log.debug("cannot decode a packet at %.1f s: %s", self.seconds, describe(error))
                self._fail(packet)
                continue
            if not decoded:
                self.failures += 1
            if packet.size:
                self.packets += 1
                self.bytes += packet.size
                self._last = packet
            for frame in decoded:
                if self._failed is not None:
                    self._resume()
                if not self.salvage:
                    self._check_frame(frame)
                yield frame

    def _demux(self) -> Iterator[Packet[Any]]:
        from av.error import FFmpegError

        container = self.stream.container
        try:
            yield from container.demux(container.streams[self.stream.index])
        except IndexError:  # from PyAV at the end, if another stream began midway, as in ts
            return
        except FFmpegError as error:
            log.debug("reading stops after %.1f s: %s", self.seconds, describe(error))
            if not self.salvage:
                raise DamageError(f"reading stops after {self.seconds:.1f} s ({describe(error)})") from error

    def _fail(self, packet: Packet[Any]) -> None:
        self.failures += 1
        if self._failed is None and not _is_padding(bytes(packet)):
            self._failed = bytes(packet)

    def _resume(self) -> None:
        """Continue after packets that failed."""
        self._failed = None
        if not self.salvage and (self.seconds or self.stream.demuxer not in _BROADCAST):
            raise DamageError(f"cannot decode the data at {self.seconds:.1f} s")

    def _check_frame(self, frame: AudioFrame) -> None:
        """Raise DamageError if a frame was decoded from damaged data, or does not follow the previous frame."""
        if frame.is_corrupt and (self.seconds or self.stream.demuxer not in _BROADCAST):
            raise DamageError(f"damaged data at {self.seconds:.1f} s")
        if self._max_gap is None or (pts := frame.pts) is None:
            return
        if not self._tick:  # the same for all frames of a stream; its arithmetic with fractions is slow
            if frame.time_base is None:
                return
            self._tick = float(frame.time_base)
        if self.begin is None:
            self.begin = pts
        if self._expected is not None:
            gap = (pts - self._expected) * self._tick
            if gap > self._max_gap:
                raise DamageError(f"{gap:.1f} s are missing at {self.seconds:.1f} s")
        self._expected = pts + round(frame.samples / frame.sample_rate / self._tick)

    def check_end(self, expected_packets: int) -> None:
        """Raise DamageError if the stream ended early."""
        if self.failures > _MAX_FAILURES:
            raise DamageError(f"more than {_MAX_FAILURES:,} packets contain no audio")
        if self._frame_size is not None:
            self._check_last_frame(self._frame_size)
        elif self._failed is not None and self.seconds:
            raise DamageError(f"decoding stops after {self.seconds:.1f} s (damaged data)")
        if expected_packets and self.packets < expected_packets - 1:
            raise DamageError(f"it declares {expected_packets:,} frames of audio and contains {self.packets:,}")
        if self.bytes < self._indexed_bytes:
            raise DamageError(f"its index lists {self._indexed_bytes:,} bytes of audio, only {self.bytes:,} readable")
        declared = self.stream.duration
        if self.stream.demuxer in ("mp3", "aac", "ac3", "eac3", "dts", "mpegts", "mpeg", "avi"):  # estimates
            return
        if self.stream.demuxer == "flac":
            if self.begin:  # cut from a longer stream, whose length the header still declares
                return
            slack = 0.0005
        else:
            slack = max(0.25, 0.002 * declared)
        if self.seconds < declared - slack:
            raise DamageError(f"it declares {declared:.1f} s of audio and ends after {self.seconds:.1f} s")

    def _check_last_frame(self, frame_size: Callable[[bytes, int], int]) -> None:
        """Raise DamageError if the last packet is shorter than its header declares, or cannot be decoded."""
        failed, last = self._failed is not None, self._failed or b""
        if self._last is not None and not failed:
            last = bytes(self._last)
        size = frame_size(last.ljust(8, b"\0"), 0)
        fragment = len(last) < 8 and last[:1] == b"\xff" and last[1:2] >= b"\xe0"
        if (size and failed) or size > len(last) or fragment:
            raise DamageError(f"its last frame, number {self.packets + failed}, is cut off")


def _is_padding(data: bytes) -> bool:
    """Return whether a packet is zeros or a tag, which occur after and between the frames of raw streams."""
    return not any(data) or data.lstrip(b"\0").startswith(_TAGS)


class _Buffer:
    """Collects frames of one format into blocks."""

    def __init__(self, frame: AudioFrame) -> None:
        import av

        self.format, self.sr = frame.format.name, frame.sample_rate
        self.n_channels = frame.layout.nb_channels
        if not 0 < self.n_channels <= MAX_CHANNELS:
            raise TooManyChannelsError(self.n_channels)
        if self.sr < _MIN_SR:
            raise DamageError(f"a frame has a sample rate of {self.sr} Hz")
        self.frames = 0
        self._queue = av.AudioFifo()

    def accepts(self, frame: AudioFrame) -> bool:
        """Return whether a frame has the same format; the queue does not compare the number of channels."""
        return (
            frame.sample_rate == self.sr
            and frame.format.name == self.format
            and frame.layout.nb_channels == self.n_channels
        )

    def add(self, frame: AudioFrame) -> None:
        """Copy a frame's samples."""
        frame.pts = None  # the queue refuses gaps
        self._queue.write(frame)
        self.frames += frame.samples

    def flush(self) -> Iterator[Block]:
        """Yield the collected samples, if any."""
        frame = self._queue.read()
        if frame is None:
            return
        dtype, zero, full_scale = _SCALES[self.format.removesuffix("p")]
        planes: Any = frame.planes
        if self.format.endswith("p"):
            channels = [np.frombuffer(plane, dtype, self.frames) for plane in planes[: self.n_channels]]
        else:
            packed = np.frombuffer(planes[0], dtype, self.frames * self.n_channels)
            channels = [packed[channel :: self.n_channels] for channel in range(self.n_channels)]
        if dtype is not np.float32:
            with np.errstate(over="ignore"):  # infinite values raise an error later
                channels = [np.asarray(channel, np.float32) for channel in channels]
        if zero:
            channels = [channel - np.float32(zero) for channel in channels]
        if full_scale != 1:
            channels = [channel * np.float32(1 / full_scale) for channel in channels]
        self.frames = 0
        yield Block([np.ascontiguousarray(channel) for channel in channels], self.sr)


def describe(error: Exception) -> str:
    """Return FFmpeg's message for an error, without the number and the input's name."""
    return str(getattr(error, "strerror", None) or error)
