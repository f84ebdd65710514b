"""The decoding worker: computes the images of an uploaded file's slices, in a process that may crash.

The service runs `python -P -m genretree.service.workers.decode SETUP`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Array, Float32Array
from genretree.corpus.file_tags import read_cover, read_tags
from genretree.errors import SoundError
from genretree.parallel import shared_by
from genretree.service.config import MAX_TAG_LENGTH
from genretree.service.workers import process
from genretree.service.workers.process import ReportProgress
from genretree.service.workers.protocol import Message, array_bytes
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.decode import iter_blocks, probe
from genretree.sound.features import IMAGES
from genretree.sound.slices import SliceImages, skip_silent, slice_blocks, slice_track, stack_slices

_COVER_SIZE = 160  # pixels
_MAX_COVER_PIXELS = 5000 * 5000


class _AudioTap:
    """Passes blocks of audio on, reports the progress, and optionally writes a copy as Ogg Vorbis."""

    def __init__(self, report: ReportProgress | None, seconds: float, copy: Path | None) -> None:
        self.report, self.seconds, self.copy = report, seconds, copy
        self.n_samples = 0

    def wrap(self, blocks: Iterable[Float32Array]) -> Iterator[Float32Array]:
        """Yield the blocks, at 22,050 Hz, unchanged."""
        import soundfile

        ogg_file: Any = None
        if self.copy is not None:
            ogg_file = soundfile.SoundFile(self.copy, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS")
        try:
            for block in blocks:
                self.n_samples += len(block)
                if self.report is not None and self.seconds > 0:  # an unknown length is NaN
                    self.report("decoding", self.n_samples / SAMPLE_RATE / self.seconds)
                if ogg_file is not None:
                    for at in range(0, len(block), SAMPLE_RATE):  # libsndfile puts a call's data on the stack
                        ogg_file.write(block[at : at + SAMPLE_RATE])
                yield block
        finally:
            if ogg_file is not None:
                ogg_file.close()


def work(message: Message, report: ReportProgress) -> Message:
    """Decode a file and compute the images and features of its slices, or cut a clip out of a decoded file."""
    if message.event == "clip":
        return _cut(message.header)
    header = message.header
    path = Path(header["path"])
    settings = ImageSettings.build(header["images"])
    with shared_by(header["n_sharing"]):
        seconds = probe(path).duration if header["progress"] else 0.0
        copy = Path(header["copy"]) if header["copy"] else None
        tap = _AudioTap(report if header["progress"] else None, seconds, copy)

        def decode_at(sr: int) -> Iterator[Float32Array]:
            blocks = iter_blocks(path, sr, header["salvage"], header["seconds"])
            return tap.wrap(blocks) if sr == SAMPLE_RATE else blocks

        slices = slice_blocks(decode_at, settings, features=header["features"])
        slice_inputs = list(_report_spectra(skip_silent(slices, path), report if header["progress"] else None))
    inputs = stack_slices(slice_inputs)
    images = inputs[IMAGES]
    features = {name: inputs[name] for name in inputs if name != IMAGES}
    arrays: list[Array] = [
        images,
        np.array([item.decibels for item in slice_inputs], np.float32),
        *features.values(),
    ]
    result = {
        "starts": [item.start for item in slice_inputs],
        "padded": slice_inputs[0].padded,
        "seconds": tap.n_samples / SAMPLE_RATE,
        "shapes": [array.shape for array in arrays],
    }
    blobs: list[Any] = [array_bytes(array) for array in arrays]
    if header["tags"]:
        result["tags"] = read_tags(path, max_length=MAX_TAG_LENGTH)
        blobs.append(_shrink_cover(read_cover(path)))
    return Message("decoded", result, blobs)


def _shrink_cover(picture: bytes) -> bytes:
    """Return a picture as a small PNG; empty if it can't be read."""
    from PIL import Image

    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > _MAX_COVER_PIXELS:
                return b""
            image.draft("RGB", (2 * _COVER_SIZE, 2 * _COVER_SIZE))
            image.thumbnail((_COVER_SIZE, _COVER_SIZE))
            image.convert("RGB").save(stream, "PNG", optimize=True)
    except Exception:  # Pillow raises many types for damaged pictures, and the audio is fine
        return b""
    return stream.getvalue()


def _cut(header: dict[str, Any]) -> Message:
    """Cut out a passage, filtered to a band if one is given, as WAV of 16 bits."""
    import soundfile

    from genretree.explanation.render.clips import cut_passage, keep_bands  # few workers ever need them

    start, end = (round(header[name] * SAMPLE_RATE) for name in ("start", "end"))
    with soundfile.SoundFile(header["path"]) as file:
        if start >= file.frames:
            raise SoundError("too_short", header["path"], f"the audio ends at {file.frames / SAMPLE_RATE:.1f} s")
        file.seek(start)
        y = file.read(end - start, dtype="float32")
    clip = cut_passage(y, 0.0, len(y) / SAMPLE_RATE)
    if header["hertz"] is not None:
        clip = keep_bands(clip, [header["hertz"]])[: len(y)]
    wav = io.BytesIO()
    soundfile.write(wav, clip, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return Message("cut", {}, [wav.getvalue()])


def _report_spectra(slices: Iterable[SliceImages], report: ReportProgress | None) -> Iterator[SliceImages]:
    for item in slices:
        if report is not None:
            report("spectra", 0.0)
        yield item


def main() -> None:
    """Process messages until the service ends."""
    setup = process.read_setup()
    channel = process.open_channel()
    process.set_up(threads=False)
    # Import everything and compute the tables before memory is limited and the first file comes.
    import av  # noqa: F401

    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    list(slice_track(0.1 * noise, ImageSettings(slice_seconds=1.0, size=32)))
    process.limit_resources(setup["memory"], setup["file_size"])
    process.serve_messages(channel, work, setup["processor_seconds"])


if __name__ == "__main__":
    main()
