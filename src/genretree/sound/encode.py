"""Encoding of audio samples as Ogg Vorbis, for pages with a player."""

from __future__ import annotations

import io

from genretree.arrays import Float32Array
from genretree.settings import SAMPLE_RATE


def encode_ogg(y: Float32Array, sr: int = SAMPLE_RATE) -> bytes:
    """Encode mono audio as Ogg Vorbis at about 60 kbit/s."""
    import soundfile

    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", sr, 1, format="OGG", subtype="VORBIS") as file:
        for at in range(0, len(y), sr):  # libsndfile keeps the samples of one call on the stack
            file.write(y[at : at + sr])
    return stream.getvalue()
