"""The worker that opens what strangers sent: a sound file to the images of its slices, in a process that may die of it.

The service starts it as `python -P -m genretree.service.decoder SETUP`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genretree.arrays import Array, Float32Array
from genretree.parallel import shared_by
from genretree.service import worker
from genretree.service.wire import Message, array_blob
from genretree.service.worker import Tell
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.decode import iter_blocks, probe
from genretree.sound.features import IMAGES
from genretree.sound.slices import SliceImages, skip_silent, slice_blocks, slice_track, stack_slices


class _Listening:
    """Sound on its way to the slices: how much has passed is told, and it may be written down."""

    def __init__(self, tell: Tell | None, seconds: float, copy: Path | None) -> None:
        self.tell, self.seconds, self.copy = tell, seconds, copy
        self.samples = 0

    def through(self, blocks: Iterable[Float32Array]) -> Iterator[Float32Array]:
        """Pass sound on."""
        import soundfile

        written: Any = None
        if self.copy is not None:
            written = soundfile.SoundFile(self.copy, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS")
        try:
            for block in blocks:
                self.samples += len(block)
                if self.tell is not None and self.seconds > 0:  # a length that isn't known is nan
                    self.tell("decoding", self.samples / SAMPLE_RATE / self.seconds)
                for at in (
                    range(0, len(block), SAMPLE_RATE) if written else ()
                ):  # libsndfile puts a whole call on the stack
                    written.write(block[at : at + SAMPLE_RATE])
                yield block
        finally:
            if written is not None:
                written.close()


def work(message: Message, tell: Tell) -> Message:
    """Decode a file and draw its slices."""
    facts = message.facts
    path = Path(facts["path"])
    settings = ImageSettings.build(facts["images"])
    with shared_by(facts["sharers"]):
        seconds = probe(path).duration if facts["progress"] else 0.0
        copy = Path(facts["copy"]) if facts["copy"] else None
        sound = _Listening(tell if facts["progress"] else None, seconds, copy)
        blocks = iter_blocks(path, SAMPLE_RATE, facts["salvage"], facts["seconds"])
        slices = slice_blocks(sound.through(blocks), settings, features=facts["features"])
        found = list(_told(skip_silent(slices, path), tell if facts["progress"] else None))
    inputs = stack_slices(found)
    images = inputs[IMAGES]
    features = {name: inputs[name] for name in inputs if name != IMAGES}
    arrays: list[Array] = [
        images,
        np.array([piece.decibels for piece in found], np.float32),
        *features.values(),
    ]
    told = {
        "starts": [piece.start for piece in found],
        "padded": found[0].padded,
        "seconds": sound.samples / SAMPLE_RATE,
        "shapes": [array.shape for array in arrays],
    }
    return Message("heard", told, [array_blob(array) for array in arrays])


def _told(slices: Iterable[SliceImages], tell: Tell | None) -> Iterator[SliceImages]:
    for piece in slices:
        if tell is not None:
            tell("spectra", 0.0)
        yield piece


def main() -> None:
    """Work until the service goes away."""
    given = worker.setup()
    channel = worker.take_channel()
    worker.start(threads=False)
    # All is loaded, and its tables computed, before memory is bounded and the first file comes.
    import av  # noqa: F401

    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    list(slice_track(0.1 * noise, ImageSettings(slice_seconds=1.0, size=32)))
    worker.bound(given["memory"], given["file_size"])
    worker.answer(channel, work, given["processor_seconds"])


if __name__ == "__main__":
    main()
