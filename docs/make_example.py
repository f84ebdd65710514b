"""Make the example track of the service's page: composed, rendered and encoded to at most 60 kB.

python docs/make_example.py [OUT]
"""

from __future__ import annotations

import io
import sys
from importlib import resources
from pathlib import Path

import av
from mutagen.oggopus import OggOpus

from genretree.datasets.composed.compose import ComposeSettings
from genretree.datasets.composed.render import compose_track
from genretree.files import atomic_path

LEAF, ARTIST, TRACK, SECONDS = "Soft_rock", 1, 0, 24.0
RATE, BIT_RATE = 24_000, 17_500
MAX_BYTES = 60_000


def main(out: Path) -> None:
    """Write the example."""
    settings = ComposeSettings.build({"seconds": SECONDS, "rate": RATE})
    channels, metadata = compose_track(LEAF, ARTIST, TRACK, settings)
    stream = io.BytesIO()
    with av.open(stream, "w", format="ogg") as container:
        encoder = container.add_stream("libopus", RATE, bit_rate=BIT_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(channels[:1].astype("float32"), "flt", "mono")
        frame.sample_rate = RATE
        for packet in (*encoder.encode(frame), *encoder.encode(None)):
            container.mux(packet)
    with atomic_path(out) as temporary:
        temporary.write_bytes(stream.getvalue())
        tags = OggOpus(temporary)
        tags["title"], tags["artist"], tags["album"] = metadata.title, metadata.artist, metadata.album
        tags["comment"] = "Composed by genretree"
        tags.save()
    if out.stat().st_size > MAX_BYTES:
        sys.exit(f"{out}: larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    default = Path(str(resources.files("genretree") / "service" / "web" / "example.ogg"))
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
