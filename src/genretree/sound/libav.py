"""FFmpeg's libraries, through PyAV: native samples of one opened file, such that it makes them open no other one."""

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
_MIN_RATE = 1000  # Hz: fewer are never sound, and would take much memory to resample
_READ = 1 << 16
_OPENING_SECONDS = 2.0  # of processor time, for headers and tags
_MAX_FAILURES = 20_000  # packets without sound: real files have a few, and reading millions of them takes long
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI", b"Brava Software", b"<")
_PROTECTED = {"drms", "drmi", "enca", "aavd"}  # codec tags of encrypted tracks in mp4
# Seconds between frames that are a gap, where timestamps count samples or milliseconds of a recording without pauses.
_GAPS = {"ogg": 0.1, "flac": 0.1, "matroska": 0.5, "flv": 0.5, "mpegts": 0.1}
_BROADCAST = ("mpegts", "mpeg")  # streams that are joined midway: their first frames may lack what came before
_OWN_OPTIONS = {
    "mov": {"enable_drefs": "0", "use_absolute_path": "0"},
    # By default 35 ms go into finding out whether the samples of a wav are a DTS stream, which its first packets show.
    "wav": {"max_probe_packets": "2"},
    "w64": {"max_probe_packets": "2"},
    # The first frames say everything; of the tiniest frames FFmpeg would read 700,000 first.
    **{name: {"probesize": "262144"} for name in ("mp3", "aac", "ac3", "eac3")},
}
# How each sample format is stored: number type, value at silence, value at full scale.
_SCALES: dict[str, tuple[Any, float, float]] = {
    "u8": (np.uint8, 128, 1 << 7),
    "s16": (np.int16, 0, 1 << 15),
    "s32": (np.int32, 0, 1 << 31),
    "s64": (np.int64, 0, 1 << 63),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}


class DamageError(Exception):
    """The decoder met data that it can't decode, or the stream has a gap."""


class TooManyChannelsError(Exception):
    """Frames have more channels than are taken."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.channels = channels


class ProtectedError(Exception):
    """A track is encrypted."""


@dataclass(frozen=True)
class Block:
    """Decoded samples.

    Parameters
    ----------
    channels : list of ndarray, float32, shape (frames,)
        Full scale is -1 to 1.
    sr : int
        In Hz.
    """

    channels: list[Float32Array]
    sr: int


class FilePart(io.RawIOBase):
    """A part of an opened file, as a file object without a name.

    Parameters
    ----------
    file : io.FileIO
    start, end : int
        Positions in bytes.
    seekable : bool
        Whether FFmpeg may look at what comes later. Behind the sound of a wav it would walk over anything, 8 bytes at a
        time, for minutes.
    """

    def __init__(self, file: io.FileIO, start: int, end: int, seekable: bool = True) -> None:
        self._seekable = seekable
        self._file, self._start, self._length, self._at = file, start, end - start, 0
        self._latest = float("inf")
        self.late = False

    def begin_opening(self) -> None:
        """Start the time limit for headers and tags."""
        self._latest = time.thread_time() + _OPENING_SECONDS

    def opened(self) -> None:
        """End the time limit, which is for headers and tags alone."""
        self._latest = float("inf")

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return self._seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        at = (0, self._at, self._length)[whence] + offset
        if at < 0:  # asked for by the file's own numbers; an exception would look like a fault of the disk
            return -1
        self._at = at
        return at

    def tell(self) -> int:  # noqa: D102
        return self._at

    def read(self, count: int = -1) -> bytes:  # noqa: D102
        if self.late or time.thread_time() > self._latest:
            self.late = True  # FFmpeg would go on behind an exception, and PyAV print each one
            return b""
        left = max(0, self._length - self._at)
        count = left if count < 0 else min(count, left)
        data = read_at(self._file, self._start + self._at, count) if count else b""
        self._at += len(data)
        return data


class OtherFileError(Exception):
    """A file makes FFmpeg ask for another one."""


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise OtherFileError("it refers to another file")


def open_container(part: FilePart, demuxer: str, options: dict[str, str]) -> InputContainer:
    """Open a part of a file with the demuxer of this name.

    Playlists (HLS, DASH, concat ...) name other files, and FFmpeg guesses formats by content. So the demuxer is ours to
    choose, no other may be used, no protocol is allowed, and whatever FFmpeg asks to be opened is refused.

    FFmpeg looks for each tag among all that it has read already, so that some ten thousand tags take it minutes. It
    reads most of them as it goes, and opening therefore ends when it has taken too much processor time.

    Raises
    ------
    av.error.FFmpegError
        If it is not of this format.
    TooManyPartsError
        If opening it takes more than 2 s of processor time.
    """
    import av

    own = _OWN_OPTIONS.get(demuxer, {})
    safe = {"protocol_whitelist": "", "format_whitelist": demuxer}
    part.begin_opening()  # only now: the first import of PyAV takes time, too
    try:
        container = av.open(
            part,
            "r",
            format=demuxer,
            options={**options, **own, **safe},
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
        Its number among all streams.
    sr, channels : int
        As its header says; frames may differ.
    codec : str
    duration : float
        Seconds that the stream declares; NaN where it does not.
    """

    container: InputContainer
    demuxer: str
    index: int
    sr: int
    channels: int
    codec: str
    duration: float

    def find_end(self) -> int:
        """Find the byte behind the last packet that the container's index lists; 0 if it lists none."""
        stream: Any = self.container.streams[self.index]
        return max((entry.pos + entry.size for entry in stream.index_entries), default=0)

    def count_indexed_bytes(self) -> int:
        """Count the bytes of sound that the container's index lists; 0 if it has none."""
        stream: Any = self.container.streams[self.index]
        return sum(entry.size for entry in stream.index_entries)

    def read(self, salvage: bool, expected_packets: int = 0) -> Iterator[Block]:
        """Decode all packets once, in blocks.

        Raises
        ------
        DamageError
            Where a packet can't be decoded, packets are missing, or the stream ends early; with `salvage` never.
        """
        reader = _Reader(self, salvage)
        yield from reader.read()
        if not salvage:
            reader.check_end(expected_packets)


def find_stream(container: InputContainer, demuxer: str) -> Stream | None:
    """Find the first audio stream that has a rate, channels and a decoder.

    Raises
    ------
    ProtectedError
        If the first one is encrypted.
    """
    for stream in container.streams.audio:
        context: Any = stream.codec_context
        if context is None:  # FFmpeg knows the codec, but has no decoder for it
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
        # FFmpeg adds what it reads to an index that is missing.
        self._indexed_bytes = stream.count_indexed_bytes() if stream.demuxer == "avi" else 0
        self.begin: int | None = None  # timestamp of the first frame
        self._failed: bytes | None = None  # beginning of a packet that could not be decoded since the last good one
        self._last: Packet[Any] | None = None
        self._expected: int | None = None  # timestamp of the next frame
        self._frame_size = FRAME_SIZES.get(stream.demuxer)

    def read(self) -> Iterator[Block]:
        """Decode every packet."""
        buffer: _Buffer | None = None
        for frame in self._frames():
            if buffer is None or not buffer.takes(frame):
                if buffer is not None:
                    yield from buffer.empty()
                buffer = _Buffer(frame)
            buffer.add(frame)
            self.seconds += frame.samples / buffer.sr
            if buffer.frames >= BLOCK_FRAMES:
                yield from buffer.empty()
        if buffer is not None:
            yield from buffer.empty()

    def _frames(self) -> Iterator[AudioFrame]:
        from av.error import FFmpegError

        audio: Any = self.stream.container.streams[self.stream.index]
        if not self.salvage:
            # On a wrong checksum the decoder of TTA only writes to the log, unless it is told to fail.
            explode = "+explode" if self.stream.codec == "tta" else ""
            audio.codec_context.options = {"err_detect": f"crccheck{explode}"}
        decode = audio.codec_context.decode
        for packet in self._demux():
            if self.failures > _MAX_FAILURES:
                break
            if packet.is_corrupt and not self.salvage and self.stream.demuxer == "mpegts" and self.seconds:
                raise DamageError(f"a packet of it lacks a part, {self.seconds:.1f} s in")
            try:
                decoded = decode(packet)
            except MemoryError:
                raise
            except FFmpegError as error:
                log.debug("a packet cannot be decoded, %.1f s in: %s", self.seconds, describe(error))
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
        except IndexError:  # PyAV, at the end: a stream began midway, as in ts. The packets of ours are behind us.
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
        """Go on behind packets that failed."""
        self._failed = None
        if not self.salvage and (self.seconds or self.stream.demuxer not in _BROADCAST):
            raise DamageError(f"a part of it cannot be decoded, {self.seconds:.1f} s in")

    def _check_frame(self, frame: AudioFrame) -> None:
        """Raise DamageError if a frame was decoded from damaged data, or does not follow the frame before."""
        if frame.is_corrupt and (self.seconds or self.stream.demuxer not in _BROADCAST):
            raise DamageError(f"a part of it is damaged, {self.seconds:.1f} s in")
        longest = _GAPS.get(self.stream.demuxer)
        if longest is None or frame.pts is None or frame.time_base is None:
            return
        if self.begin is None:
            self.begin = frame.pts
        if self._expected is not None:
            gap = float((frame.pts - self._expected) * frame.time_base)
            if gap > longest:
                raise DamageError(f"{gap:.1f} s of it are missing, {self.seconds:.1f} s in")
        self._expected = frame.pts + round(frame.samples / frame.sample_rate / frame.time_base)

    def check_end(self, expected_packets: int) -> None:
        """Raise DamageError if the stream ended early."""
        if self.failures > _MAX_FAILURES:
            raise DamageError(f"more than {_MAX_FAILURES:,} packets hold no sound")
        if self._frame_size is not None:
            self._check_last_frame(self._frame_size)
        elif self._failed is not None and self.seconds:
            raise DamageError(f"decoding stops after {self.seconds:.1f} s (damaged data)")
        if expected_packets and self.packets < expected_packets - 1:
            raise DamageError(f"it declares {expected_packets:,} frames of sound and holds {self.packets:,}")
        if self.bytes < self._indexed_bytes:
            raise DamageError(f"its index lists {self._indexed_bytes:,} bytes of sound and {self.bytes:,} can be read")
        declared = self.stream.duration
        if self.stream.demuxer in ("mp3", "aac", "ac3", "eac3", "dts", "mpegts", "mpeg", "avi"):  # estimates
            return
        if self.stream.demuxer == "flac":
            if self.begin:  # cut out of a longer stream, whose length the header still declares
                return
            slack = 0.0005
        else:
            slack = max(0.25, 0.002 * declared)
        if self.seconds < declared - slack:
            raise DamageError(f"it declares {declared:.1f} s of sound and ends after {self.seconds:.1f} s")

    def _check_last_frame(self, frame_size: Callable[[bytes, int], int]) -> None:
        """Raise DamageError if the last packet is less than the frame that its header declares, or failed."""
        failed, last = self._failed is not None, self._failed or b""
        if self._last is not None and not failed:
            last = bytes(self._last)
        size = frame_size(last.ljust(8, b"\0"), 0)
        fragment = len(last) < 8 and last[:1] == b"\xff" and last[1:2] >= b"\xe0"
        if (size and failed) or size > len(last) or fragment:
            raise DamageError(f"its last frame, number {self.packets + failed}, is cut off")


def _is_padding(data: bytes) -> bool:
    """Whether a packet is zeros or a tag, which stand behind and between the frames of raw streams."""
    return not any(data) or data.lstrip(b"\0").startswith(_TAGS)


class _Buffer:
    """Gathers frames of one format."""

    def __init__(self, frame: AudioFrame) -> None:
        import av

        self.format, self.sr = frame.format.name, frame.sample_rate
        self.channels = frame.layout.nb_channels
        if not 0 < self.channels <= MAX_CHANNELS:
            raise TooManyChannelsError(self.channels)
        if self.sr < _MIN_RATE:
            raise DamageError(f"a part of it has a sample rate of {self.sr} Hz")
        self.frames = 0
        self._queue = av.AudioFifo()

    def takes(self, frame: AudioFrame) -> bool:
        """Whether a frame is of the same format; the queue itself doesn't compare the number of channels."""
        return (
            frame.sample_rate == self.sr
            and frame.format.name == self.format
            and frame.layout.nb_channels == self.channels
        )

    def add(self, frame: AudioFrame) -> None:
        """Copy a frame's samples."""
        frame.pts = None  # the queue refuses gaps
        self._queue.write(frame)
        self.frames += frame.samples

    def empty(self) -> Iterator[Block]:
        """Give all that was gathered, if anything was."""
        gathered = self._queue.read()
        if gathered is None:
            return
        number, silence, full = _SCALES[self.format.removesuffix("p")]
        planes: Any = gathered.planes
        if self.format.endswith("p"):
            rows = [np.frombuffer(plane, number, self.frames) for plane in planes[: self.channels]]
        else:
            packed = np.frombuffer(planes[0], number, self.frames * self.channels)
            rows = [packed[channel :: self.channels] for channel in range(self.channels)]
        if number is not np.float32:
            with np.errstate(over="ignore"):  # what becomes infinite is refused later
                rows = [np.asarray(row, np.float32) for row in rows]
        if silence:
            rows = [row - np.float32(silence) for row in rows]
        if full != 1:
            rows = [row * np.float32(1 / full) for row in rows]
        self.frames = 0
        yield Block([np.ascontiguousarray(row) for row in rows], self.sr)


def describe(error: Exception) -> str:
    """Give FFmpeg's own words for an error, without the number and the name of the input."""
    return str(getattr(error, "strerror", None) or error)
