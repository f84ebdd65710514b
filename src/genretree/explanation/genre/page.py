"""Writing the explanation of a genre: class.json, class.png and class.html."""

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
from genretree.explanation.result import join_rows
from genretree.files import write_bytes, write_text
from genretree.parallel import command_line

_BANDS = 6  # listed per view


def save_genre(view: GenreView, store: Store, out: str | Path) -> Path:
    """Write `class.json`, `class.png` and `class.html` into a folder.

    Parameters
    ----------
    view : GenreView
    store : Store
        Store of the tracks; supplies the spectrograms of the listed tracks.
    out : path

    Returns
    -------
    Path
        Path of the self-contained page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    picture = draw_genre(view)
    write_text(out / "class.json", json.dumps(view.to_json(), indent=1, ensure_ascii=False))
    write_bytes(out / "class.png", picture)
    largest = max(map(abs, view.shares.values()), default=0.0) or 1.0
    page = render(
        "class.html.j2",
        view=view,
        picture=data_url(picture),
        shares=[(TITLES[name], share, 100 * abs(share) / largest) for name, share in view.shares.items()],
        bands=_list_top_bands(view),
        typical=[_render_track(store, *item) for item in view.typical],
        untypical=[_render_track(store, *item) for item in view.untypical],
        command=command_line(),
    )
    write_text(out / "class.html", page)
    return out / "class.html"


def _list_top_bands(view: GenreView) -> list[dict[str, Any]]:
    """List the bands of each view with the most positive and the most negative relevance."""
    strongest = []
    for name, values in view.bands.items():
        joined = sorted(join_rows(frequency_axis(name), values), key=lambda band: -band["relevance"])
        strongest.append(
            {
                "title": TITLES[name],
                "for": [band for band in joined if band["relevance"] > 0][:_BANDS],
                "against": [band for band in joined[::-1] if band["relevance"] < 0][:_BANDS],
            }
        )
    return strongest


def _render_track(store: Store, name: str, probability: float) -> dict[str, Any]:
    """Render a track as its name and the spectrograms of its middle slice."""
    number = [str(path) for path in store.tracks["path"]].index(name)
    rows = np.flatnonzero(store.slice_tracks == number)
    picture = draw_strip(np.asarray(store.images[int(rows[len(rows) // 2])]))
    return {"name": name, "chance": probability, "picture": data_url(picture)}
