"""A genre as files: class.json, class.png, and one page of what the model takes it for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from genretree.corpus.store import Store
from genretree.evaluation.plots import draw_strip
from genretree.evaluation.report import data_url, render
from genretree.explanation.coordinates import frequency_axis
from genretree.explanation.genre.view import GenreView, draw_genre
from genretree.explanation.render.canvas import TITLES
from genretree.explanation.render.page import write_bytes
from genretree.explanation.result import join_rows
from genretree.files import write_text
from genretree.parallel import command_line

_BANDS = 6  # of each view that are listed


def save_genre(view: GenreView, store: Store, out: str | Path) -> Path:
    """Write `class.json`, `class.png` and `class.html` into a folder.

    Parameters
    ----------
    view : GenreView
    store : Store
        Where its tracks are, for a slice's spectrograms of each that is listed.
    out : path

    Returns
    -------
    Path
        The page's path; everything it shows is inside.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    picture = draw_genre(view)
    write_text(out / "class.json", json.dumps(view.to_json(), indent=1, ensure_ascii=False))
    write_bytes(out / "class.png", picture)
    most = max(map(abs, view.shares.values()), default=0.0) or 1.0
    page = render(
        "class.html.j2",
        view=view,
        picture=data_url(picture),
        shares=[(TITLES[name], share, 100 * abs(share) / most) for name, share in view.shares.items()],
        bands=_strongest(view),
        typical=[_track(store, *item) for item in view.typical],
        untypical=[_track(store, *item) for item in view.untypical],
        command=command_line(),
    )
    write_text(out / "class.html", page)
    return out / "class.html"


def _strongest(view: GenreView) -> list[dict[str, Any]]:
    """Give the bands of each view of the sound that speak most for the genre, and most against it."""
    found = []
    for name, values in view.bands.items():
        joined = sorted(join_rows(frequency_axis(name), values), key=lambda band: -band["relevance"])
        found.append(
            {
                "title": TITLES[name],
                "for": [band for band in joined if band["relevance"] > 0][:_BANDS],
                "against": [band for band in joined[::-1] if band["relevance"] < 0][:_BANDS],
            }
        )
    return found


def _track(store: Store, name: str, chance: float) -> dict[str, Any]:
    """Give a track with the spectrograms of its middle slice."""
    number = [str(path) for path in store.tracks["path"]].index(name)
    rows = np.flatnonzero(store.slice_tracks == number)
    picture = draw_strip(np.asarray(store.images[int(rows[len(rows) // 2])]))
    return {"name": name, "chance": chance, "picture": data_url(picture)}
