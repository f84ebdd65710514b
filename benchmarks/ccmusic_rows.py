"""How long `genretree prepare` takes on a data set in the layout of ccmusic-database/music_genre, and how much memory.

    python benchmarks/ccmusic_rows.py [--rows 6000] [--copy] [--workers 2] [--folder /tmp]

Writes a replica of the data set into a temporary folder, from a few hundred distinct drawings, prepares it in a process
of its own, and samples the memory of that and all its workers together (proportional set size, so that shared pages
count once). With --copy it goes by a copy of the Arrow files that is mapped into memory, as from the Hub without
--stream. What it wrote is removed at the end; at full size it takes 16 GB for a while, and 5 more with --copy.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import psutil
from numpy.typing import NDArray
from whole_process import measure

from genretree.corpus.store import Store
from genretree.taxonomy import Taxonomy

ROWS = {"train": 29100, "validation": 3637, "test": 3638}
ROWS_A_SHARD = 3637  # 8 shards of the training part at full size, as published
DISTINCT = 256


def draw_jpegs(count: int) -> list[bytes]:
    """Return drawings of about 42 kB, as those of the data set: noise over bands and beats, in magma at 496x369."""
    return [_encode(_draw(np.random.default_rng(seed))) for seed in range(count)]


def _draw(rng: np.random.Generator) -> NDArray[np.float64]:
    bands = np.repeat(np.sort(rng.uniform(0.2, 0.9, 123)), 3)[:, None]
    beats = 0.15 * np.sin(np.arange(496) * rng.uniform(0.1, 0.5))[None, :]
    noise = np.repeat(0.05 * rng.standard_normal((123, 496)), 3, axis=0)
    drawing: NDArray[np.float64] = np.clip(bands + beats + noise, 0, 1)
    return drawing


def _encode(values: NDArray[np.float64]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(matplotlib.colormaps["magma"](values, bytes=True)[..., :3]).save(stream, "JPEG", quality=75)
    return stream.getvalue()


def write_replica(
    folder: Path,
    rows: dict[str, int],
    jpegs: list[bytes] | None = None,
    make_row: Callable[[int, list[bytes], Taxonomy], dict[str, Any]] | None = None,
) -> None:
    """Write Arrow shards and the card of a data set.

    `rows` are counts by part. `make_row` makes a row, from its number and the drawings `jpegs`, with a genre in turn.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    tree = Taxonomy.builtin("ccmusic")
    drawings, make = jpegs or draw_jpegs(DISTINCT), make_row or _make_row
    labels = {f"{name}_label": datasets.ClassLabel(names=list(tree.labels(i))) for i, name in enumerate(tree.levels)}
    features = datasets.Features({**{name: datasets.Image() for name in ("mel", "cqt", "chroma")}, **labels})
    for part, count in rows.items():
        shards = max(1, count // ROWS_A_SHARD)
        bounds = np.linspace(0, count, shards + 1).astype(int)
        for shard in range(shards):
            path = folder / "eval" / part / f"data-{shard:05d}-of-{shards:05d}.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
            with ArrowWriter(path=str(path), features=features, writer_batch_size=100) as writer:
                for row in range(bounds[shard], bounds[shard + 1]):
                    writer.write(make(row, drawings, tree))
                writer.finalize()
    splits = SplitDict({part: datasets.SplitInfo(name=part, num_examples=count) for part, count in rows.items()})
    card = DatasetCardData()
    DatasetInfosDict({"eval": datasets.DatasetInfo(features=features, splits=splits)}).to_dataset_card_data(card)
    files = [{"split": part, "path": f"eval/{part}/data-*.arrow"} for part in rows]
    MetadataConfigs({"eval": {"data_files": files}}).to_dataset_card_data(card)
    DatasetCard(f"---\n{card}\n---\n").save(folder / "README.md")


def _make_row(row: int, jpegs: list[bytes], tree: Taxonomy) -> dict[str, Any]:
    leaf = row % len(tree.leaves)
    images = {
        name: {"bytes": jpegs[(row * step) % len(jpegs)], "path": None}
        for step, name in ((1, "mel"), (3, "cqt"), (7, "chroma"))
    }
    labels = {f"{name}_label": int(tree.ancestors[leaf, level]) for level, name in enumerate(tree.levels)}
    return {**images, **labels}


def run(source: Path, store: Path, copy: bool, workers: int | None) -> tuple[float, float]:
    """Return seconds, and peak megabytes of all processes together."""
    call = f"prepare_dataset({str(source)!r}, {str(store)!r}, stream={not copy}, workers={workers})"
    code = f"from genretree.datasets.ccmusic import prepare_dataset; {call}"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(source.parent / "cache")}
    seconds, peak, _ = measure([sys.executable, "-c", code], environment)
    return seconds, peak


def _gigabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def main() -> None:
    """Write, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=sum(ROWS.values()), help="in all parts together")
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    given = parser.parse_args()
    rows = {part: max(1, count * given.rows // sum(ROWS.values())) for part, count in ROWS.items()}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_replica(folder / "music_genre", rows)
        print(f"replica: {sum(rows.values())} rows, {_gigabytes(folder / 'music_genre'):.2f} GB")
        seconds, peak = run(folder / "music_genre", folder / "store", given.copy, given.workers)
        slices = Store(folder / "store").n_slices
        print(f"store: {slices} slices, {_gigabytes(folder / 'store'):.2f} GB; {psutil.cpu_count()} processors")
        print(f"{seconds:.0f} s, {slices / seconds:.0f} rows/s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
