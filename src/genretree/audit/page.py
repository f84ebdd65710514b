"""An audit as files: audit.json, labels.csv, and one page with the copies side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genretree.audit.findings import COPIES, KINDS, Audit, LabelIssue, Place
from genretree.corpus.store import Store
from genretree.evaluation.plots import draw_strip
from genretree.evaluation.report import data_url, render
from genretree.files import atomic_path, write_text
from genretree.settings import MODALITIES

PICTURED = 40  # pairs of copies that the page shows; all are in audit.json
LISTED = 200  # rows of a table on the page


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
    else:
        (out / "labels.csv").unlink(missing_ok=True)  # of an earlier audit
    return write_page(found, store, out / "audit.html", command)


def write_labels(doubts: Sequence[LabelIssue], path: Path) -> None:
    """Write a row for each track, the most doubtful label first."""
    columns = list(LabelIssue.__dataclass_fields__)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows([getattr(doubt, name) for name in columns] for doubt in doubts)


def write_page(found: Audit, store: Store, path: Path, command: str = "") -> Path:
    """Write one self-contained HTML page: pictures inside, no network."""
    copies = [item for item in found.findings if item.kind in COPIES]
    pairs = [
        {"finding": item, "pictures": [_picture(store, place) for place in item.places]} for item in copies[:PICTURED]
    ]
    flagged = [doubt for doubt in found.doubts or () if doubt.flagged]
    page = render(
        "audit.html.j2",
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
        "url": data_url(draw_strip(np.asarray(store.images[place.row]))),
        "alt": f"{names} of {place.path}, slice from {place.start:.1f} s",
    }
