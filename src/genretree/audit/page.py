"""An audit as files: audit.json, labels.csv, and one page with the copies side by side."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.audit.findings import COPIES, KINDS, Audit, Doubt, Place
from genretree.corpus.store import Store
from genretree.files import atomic_path, write_text
from genretree.settings import MODALITIES

PICTURED = 40  # pairs of copies that the page shows; all are in audit.json
LISTED = 200  # rows of a table on the page
_SIDE = 128  # pixels of a thumbnail
_GAP = 6
_COLOURS = {"mel": "magma", "cqt": "magma", "chroma": "cividis"}


def save_audit(found: Audit, store: Store, out: str | Path, command: str = "") -> Path:
    """Write `audit.json`, `audit.html` and, if labels were checked, `labels.csv` into a folder.

    Parameters
    ----------
    found : Audit
    store : Store
        For the pictures.
    out : path
    command : str
        What made it, to be shown.

    Returns
    -------
    Path
        The page's path.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "audit.json", json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    if found.doubts is not None:
        write_labels(found.doubts, out / "labels.csv")
    return write_page(found, store, out / "audit.html", command)


def write_labels(doubts: Sequence[Doubt], path: Path) -> None:
    """Write a row for each track, the most doubtful label first."""
    columns = list(Doubt.__dataclass_fields__)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows([getattr(doubt, name) for name in columns] for doubt in doubts)


def write_page(found: Audit, store: Store, path: Path, command: str = "") -> Path:
    """Write one self-contained HTML page: pictures inside, no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genretree", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    copies = [item for item in found.findings if item.kind in COPIES]
    pairs = [
        {"finding": item, "pictures": [_picture(store, place) for place in item.places]} for item in copies[:PICTURED]
    ]
    flagged = [doubt for doubt in found.doubts or () if doubt.flagged]
    page = environment.get_template("audit.html.j2").render(
        found=found,
        kinds=KINDS,
        copies=copies,
        pairs=pairs,
        others=[item for item in found.findings if item.kind not in COPIES],
        flagged=flagged[:LISTED],
        n_flagged=len(flagged),
        command=command,
    )
    write_text(path, page)
    return path


def _picture(store: Store, place: Place) -> dict[str, Any]:
    """Draw a slice as a strip: mel, CQT and chroma from left to right."""
    names = ", ".join(name.upper() if name == "cqt" else name for name in MODALITIES)
    return {
        "url": "data:image/png;base64," + base64.b64encode(draw_strip(store.images[place.row])).decode(),
        "alt": f"{names} of {place.path}, slice from {place.start:.1f} s",
    }


def draw_strip(images: NDArray[np.uint8]) -> bytes:
    """Draw one slice's images, uint8 (3, size, size), side by side as PNG."""
    from PIL import Image

    strip = Image.new("RGB", (len(images) * (_SIDE + _GAP) - _GAP, _SIDE), (128, 128, 128))
    for number, (name, image) in enumerate(zip(MODALITIES, np.asarray(images), strict=True)):
        small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        coloured = _palette(_COLOURS[name])[np.asarray(small)]
        strip.paste(Image.fromarray(coloured), (number * (_SIDE + _GAP), 0))
    stream = io.BytesIO()
    # A palette of 128 colours can't be told from all of them here, and takes a third of the room.
    strip.quantize(128, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


@cache
def _palette(name: str) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    colours: NDArray[np.uint8] = (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return colours
