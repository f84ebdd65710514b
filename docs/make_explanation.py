"""Draw the pictures of docs/explain.md, on composed music.

Where a model that tells music with a hi-hat from music without hears it:

    python benchmarks/explain.py planted --out DIR
    python docs/make_explanation.py planted DIR/cnn DIR/audio/With-0.wav docs/pictures

Why four tracks by artists never heard are what they are said to be, and what the model takes Rock for:

    genretree quickstart
    genretree train quickstart/store --recipe cnn-ours --out BUNDLE
    python docs/make_explanation.py genres BUNDLE quickstart/store docs/pictures
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.explanation import explain
from genretree.explanation.genre.view import draw_genre, view_genre
from genretree.explanation.render.figures import draw_reason, draw_tree

# Of the composed tree, what comes nearest to classical, electronic, pop and rock: a picture's name, and a node.
GENRES = {
    "classical": "Symphony",
    "electronic": "Contemporary_dance_pop",
    "pop": "Teen_pop",
    "rock": "Uplifting_anthemic_rock",
}
LEVEL = 2


def save(png: bytes, path: Path, width: int = 880, colours: int = 64) -> None:
    """Write a picture smaller."""
    with Image.open(io.BytesIO(png)) as picture:
        smaller = picture.convert("RGB").resize((width, round(width * picture.height / picture.width)))
        smaller.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_planted(bundle: str, sound: str, out: Path) -> None:
    """Draw the reason and the tree of a planted piece."""
    found = explain(load_bundle(bundle), sound)
    save(draw_reason(found), out / "explain-reason.png")
    (out / "explain-tree.png").write_bytes(draw_tree(found))
    sys.stdout.write(f"{found.prediction.shown}\n")


def draw_genres(folder: str, store: Store, out: Path) -> None:
    """Draw why the first held-out track of each genre is named as it is at the second level, and what Rock is."""
    bundle = load_bundle(folder)
    tracks = np.unique(store.slice_tracks[store.rows("test")]).tolist()
    for name, genre in GENRES.items():
        track = next(track for track in tracks if store.taxonomy.leaves[store.track_leaves[track]][-1] == genre)
        found = explain(bundle, f"#{track}", store=store, level=LEVEL)
        save(draw_reason(found), out / f"explain-{name}.png")
        sys.stdout.write(f"{name}: {store.tracks['path'][track]}: {found.prediction.shown}\n")
    save(draw_genre(view_genre(bundle, store, "Rock", max_tracks=6)), out / "explain-class.png", colours=128)


if __name__ == "__main__":
    what, bundle, source, target = sys.argv[1:]
    if what == "planted":
        draw_planted(bundle, source, Path(target))
    else:
        draw_genres(bundle, Store(source), Path(target))
