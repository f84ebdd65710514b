"""FFmpeg's libraries, through PyAV: native samples of one opened file, such that it makes them open no other one."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from genretree.sound.containers import FRAME_SIZES, read_at

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.packet import Packet

Samples = NDArray[np.float32]

BLOCK_FRAMES = 1 << 18  # 6 s at 44,100 Hz
_READ = 1 << 16
_MAX_FAILURES = 20_000
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI", b"Brava Software", b"<")
_PROTECTED = {"drms", "drmi", "enca", "aavd"}  # codec tags of encrypted tracks in mp4
_GAP_SECONDS = 0.1
# How each sample format is stored: number type, value at silence, value at full scale.
_SCALES: dict[str, tuple[type, float, float]] = {
    "u8": (np.uint8, 128, 1 << 7),
    "s16": (np.int16, 0, 1 << 15),
    "s32": (np.int32, 0, 1 << 31),
    "s64": (np.int64, 0, 1 << 63),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}


class DamageError(Exception):
    """The decoder met data that it can't decode, or the stream has a gap."""


class ProtectedError(Exception):
    """A track is encrypted."""


@dataclass(frozen=True)
class Block:
    """Decoded samples, shape (channels, frames), full scale -1 to 1, and their rate in Hz."""

    samples: Samples
    rate: int


class FilePart(io.RawIOBase):
    """A part of an opened file, as a file object without a name.

    Parameters
    ----------
    file : io.FileIO
    start, end : int
        Positions in bytes.
    """

    def __init__(self, file: io.FileIO, start: int, end: int) -> None:
        self._file, self._start, self._length, self._at = file, start, end - start, 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:  # noqa: D102
        at = (0, self._at, self._length)[whence] + offset
        if at < 0:
            raise OSError(22, "cannot seek before the beginning")
        self._at = at
        return at

    def tell(self) -> int:  # noqa: D102
        return self._at

    def read(self, count: int = -1) -> bytes:  # noqa: D102
        left = max(0, self._length - self._at)
        data = read_at(self._file, self._start + self._at, left if count < 0 else min(count, left))
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

    Raises
    ------
    av.error.FFmpegError
        If it is not of this format.
    """
    import av

    own = {"enable_drefs": "0", "use_absolute_path": "0"} if demuxer == "mov" else {}
    safe = {"protocol_whitelist": "", "format_whitelist": demuxer}
    return av.open(
        part,
        "r",
        format=demuxer,
        options={**options, **own, **safe},
        metadata_errors="replace",
        buffer_size=_READ,
        io_open=_refuse,
    )


@dataclass(frozen=True)
class Stream:
    """The audio stream of an opened container.

    Parameters
    ----------
    container : InputContainer
    demuxer : str
    index : int
        Its number among all streams.
    rate, channels : int
        As its header says; frames may differ.
    codec : str
    duration : float
        Seconds that the stream declares; NaN where it does not.
    """

    container: InputContainer
    demuxer: str
    index: int
    rate: int
    channels: int
    codec: str
    duration: float

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
        tag = context.codec_tag
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
        context.options = {"err_detect": "crccheck"}
        return Stream(container, demuxer, stream.index, context.sample_rate, context.channels, codec, seconds)
    return None


class _Reader:
    """One pass over a stream's packets."""

    def __init__(self, stream: Stream, salvage: bool) -> None:
        self.stream, self.salvage = stream, salvage
        self.seconds = 0.0
        self.packets = self.failures = 0
        self.begin: int | None = None  # timestamp of the first frame
        self._failed: bytes | None = None  # beginning of a packet that could not be decoded since the last good one
        self._last: Packet[Any] | None = None
        self._expected: int | None = None  # timestamp of the next frame
        self._frame_size = FRAME_SIZES.get(stream.demuxer)

    def read(self) -> Iterator[Block]:
        from av.error import FFmpegError

        frames: list[AudioFrame] = []
        kind: tuple[int, int, str] | None = None
        count = 0
        packets = self._demux()
        audio: Any = self.stream.container.streams[self.stream.index]
        decode = audio.codec_context.decode
        ordered = self.stream.demuxer in ("ogg", "flac")  # timestamps count samples
        for packet in packets:
            try:
                decoded = decode(packet)
            except FFmpegError:
                self._fail(packet)
                if self.failures > _MAX_FAILURES:
                    break
                continue
            if packet.size:
                self.packets += 1
                self._last = packet
            for frame in decoded:
                if self._failed is not None:
                    self._resume()
                if ordered and not self.salvage:
                    self._check_time(frame)
                now = frame.sample_rate, frame.layout.nb_channels, frame.format.name
                if now != kind or count >= BLOCK_FRAMES:
                    if frames:
                        yield _join(frames)
                    frames, count, kind = [], 0, now
                frames.append(frame)
                count += frame.samples
                self.seconds += frame.samples / frame.sample_rate
        if frames:
            yield _join(frames)

    def _demux(self) -> Iterator[Packet[Any]]:
        from av.error import FFmpegError

        container = self.stream.container
        try:
            yield from container.demux(container.streams[self.stream.index])
        except FFmpegError as error:
            if not self.salvage:
                raise DamageError(f"reading stops after {self.seconds:.1f} s ({describe(error)})") from error

    def _fail(self, packet: Packet[Any]) -> None:
        self.failures += 1
        if self._failed is None and not _is_padding(bytes(packet)):
            self._failed = bytes(packet)

    def _resume(self) -> None:
        """Go on behind packets that failed; in front of the first frame they are the rest of an earlier stream."""
        self._failed = None
        if self.seconds and not self.salvage:
            raise DamageError(f"a part of it cannot be decoded, {self.seconds:.1f} s in")

    def _check_time(self, frame: AudioFrame) -> None:
        if frame.pts is None or frame.time_base is None:
            return
        if self.begin is None:
            self.begin = frame.pts
        if self._expected is not None:
            gap = float((frame.pts - self._expected) * frame.time_base)
            if gap > _GAP_SECONDS:
                raise DamageError(f"{gap:.1f} s of it are missing, {self.seconds:.1f} s in")
        self._expected = frame.pts + round(frame.samples / frame.sample_rate / frame.time_base)

    def check_end(self, expected_packets: int) -> None:
        """Raise DamageError if the stream ended early."""
        if self.failures > _MAX_FAILURES:
            raise DamageError(f"more than {_MAX_FAILURES:,} packets cannot be decoded")
        if self._frame_size is not None:
            self._check_last_frame(self._frame_size)
        elif self._failed is not None and self.seconds:
            raise DamageError(f"decoding stops after {self.seconds:.1f} s (damaged data)")
        if expected_packets and self.packets < expected_packets - 1:
            raise DamageError(f"it declares {expected_packets:,} frames of sound and holds {self.packets:,}")
        declared = self.stream.duration
        if self.stream.demuxer in ("mp3", "aac", "ac3", "eac3", "dts", "mpegts", "mpeg"):  # estimates
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


def _join(frames: list[AudioFrame]) -> Block:
    """Copy frames of one format into one array."""
    first = frames[0]
    name = first.format.name
    number, silence, full = _SCALES[name.removesuffix("p")]
    channels = first.layout.nb_channels
    out = np.empty((channels, sum(frame.samples for frame in frames)), np.float32)
    at = 0
    planar = name.endswith("p")
    for frame in frames:
        count = frame.samples
        target = out[:, at : at + count]
        planes = frame.planes
        if planar:
            for channel in range(channels):
                target[channel] = np.frombuffer(planes[channel], number, count)  # type: ignore[call-overload]
        else:
            packed = np.frombuffer(planes[0], number, count * channels)  # type: ignore[call-overload]
            target[:] = packed.reshape(count, channels).T
        at += count
    if silence:
        out -= np.float32(silence)
    if full != 1:
        out *= np.float32(1 / full)
    return Block(out, first.sample_rate)


def describe(error: Exception) -> str:
    """Give FFmpeg's own words for an error, without the number and the name of the input."""
    return str(getattr(error, "strerror", None) or error)
