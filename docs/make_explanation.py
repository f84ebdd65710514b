"""Draw the pictures of docs/explain.md: where a model that tells music with a hi-hat from music without hears it.

python benchmarks/explain.py planted --out DIR
python docs/make_explanation.py DIR/cnn DIR/audio/With-0.wav docs/pictures
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from genretree.bundle import load_bundle
from genretree.explain import explain
from genretree.explain.pictures import draw_reason, draw_tree

if __name__ == "__main__":
    found = explain(load_bundle(sys.argv[1]), sys.argv[2])
    out = Path(sys.argv[3])
    with Image.open(io.BytesIO(draw_reason(found))) as picture:
        smaller = picture.convert("RGB").resize((880, round(880 * picture.height / picture.width)))
        smaller.quantize(64, dither=Image.Dither.NONE).save(out / "explain-reason.png", optimize=True)
    (out / "explain-tree.png").write_bytes(draw_tree(found))
    sys.stdout.write(f"{found.prediction.shown}\n")
