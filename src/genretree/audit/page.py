"""Writing an audit: audit.json, labels.csv, and a page with pairs of copies side by side."""

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

MAX_PAIRS = 40  # pairs of copies on the page; audit.json has all
MAX_ROWS = 200  # rows of a table on the page


def save_audit(result: Audit, store: Store, out: str | Path, command: str = "") -> Path:
    """Write `audit.json`, `audit.html` and, if labels were checked, `labels.csv` into a folder.

    Parameters
    ----------
    result : Audit
    store : Store
        The audited store; supplies the pictures.
    out : path
    command : str
        Command line shown on the page.

    Returns
    -------
    Path
        Path of the page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "audit.json", json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    if result.doubts is not None:
        write_labels(result.doubts, out / "labels.csv")
    else:
        (out / "labels.csv").unlink(missing_ok=True)  # from an earlier audit
    return write_page(result, store, out / "audit.html", command)


def write_labels(doubts: Sequence[LabelIssue], path: Path) -> None:
    """Write one row per track, the most doubtful label first."""
    columns = list(LabelIssue.__dataclass_fields__)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows([getattr(doubt, name) for name in columns] for doubt in doubts)


def write_page(result: Audit, store: Store, path: Path, command: str = "") -> Path:
    """Write a self-contained HTML page with embedded pictures."""
    copies = [item for item in result.findings if item.kind in COPIES]
    pairs = [
        {"finding": item, "pictures": [_picture(store, place) for place in item.places]} for item in copies[:MAX_PAIRS]
    ]
    flagged = [doubt for doubt in result.doubts or () if doubt.flagged]
    page = render(
        "audit.html.j2",
        audit=result,
        kinds=KINDS,
        copies=copies,
        pairs=pairs,
        others=[item for item in result.findings if item.kind not in COPIES],
        flagged=flagged[:MAX_ROWS],
        n_flagged=len(flagged),
        command=command,
    )
    write_text(path, page)
    return path


def _picture(store: Store, place: Place) -> dict[str, Any]:
    """Render a slice as a strip: mel, CQT and chroma from left to right."""
    names = ", ".join(name.upper() if name == "cqt" else name for name in MODALITIES)
    return {
        "url": data_url(draw_strip(np.asarray(store.images[place.row]))),
        "alt": f"{names} of {place.path}, slice from {place.start:.1f} s",
    }
