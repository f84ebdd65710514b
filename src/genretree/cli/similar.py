"""The commands `embed` and `similar`, and playlists of similar tracks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genretree.cli.options import FILE, FOLDER, download_option, quiet_option, workers_option
from genretree.cli.output import echo, echo_failures, echo_json, echo_skipped
from genretree.files import printable

if TYPE_CHECKING:
    from genretree.embedding.embedders import Embedder
    from genretree.embedding.neighbours import SimilarTrack, TrackIndex
    from genretree.library.database.connection import Database

_MAX_FAILURES = 10  # of a library, on the terminal

_bundle = click.option(
    "--bundle", type=FOLDER, help="Bundle whose model makes the embeddings.  [default: mn04, or else MusiCNN]"
)
_backbone = click.option(
    "--backbone", metavar="NAME", help="Large pretrained network instead of a bundle: clap, maest, hf://USER/NAME ..."
)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATHS...")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write: .npy or .parquet.",
)
@_bundle
@_backbone
@click.option("--slices", is_flag=True, help="Write a row for each slice instead of the mean over a file.")
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@workers_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@download_option
@quiet_option
def embed(
    paths: Sequence[Path],
    out: Path,
    bundle: str | Path | None,
    backbone: str | None,
    slices: bool,
    salvage: bool,
    overwrite: bool,
    workers: int,
    as_json: bool,
    download: bool,
    quiet: bool,
) -> None:
    """Embed all audio files in PATHS (files or folders), and write one row for each file.

    Next to OUT.npy, OUT.paths.json lists the files of the rows; Parquet has them in its columns. After an interruption,
    the same command continues. Without a bundle, mn04 makes the embeddings: genretree weights get mn04.
    """
    from genretree.embedding.embedders import load_embedder
    from genretree.embedding.table import check_out, embed_files
    from genretree.prediction.predict import find_files
    from genretree.sound.walk import SoundWalk

    bundle = _choose(bundle, backbone)
    check_out(out, overwrite)  # before a model is loaded
    walk = SoundWalk()
    files = list(find_files(paths, walk))
    if not files:
        echo_skipped(walk.skipped)
        raise click.ClickException(f"no audio files in {', '.join(map(printable, paths))}")
    embedder = load_embedder(bundle, download)
    result = embed_files(
        embedder,
        files,
        out,
        slices=slices,
        salvage=salvage,
        workers=workers,
        overwrite=overwrite,
        progress=not quiet,
    )
    if as_json:
        failures = [error.to_json() for error in result.errors]
        content = {"out": printable(out), "model": embedder.key, "files": result.files, "resumed": result.resumed}
        echo_json(content | {"shape": [result.rows, result.dimensions], "failures": failures})
    else:
        echo_failures(result.errors, "--json")
        earlier = f", {result.resumed} of them by an earlier run" if result.resumed else ""
        echo(f"{out}: {result.files} files{earlier}; {result.rows} x {result.dimensions} float32 ({embedder.key})")
    echo_skipped(walk.skipped)
    if result.errors:
        sys.exit(1)


@click.command()
@click.argument("song", type=FILE)
@click.option(
    "--in",
    "where",
    type=click.Path(path_type=Path),
    help="Library database, embeddings (.npy or .parquet), or store.  [default: the library of genretree library]",
)
@click.option("-n", "n", type=click.IntRange(1), default=10, show_default=True, help="Number of tracks.")
@_bundle
@_backbone
@workers_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@download_option
@quiet_option
def similar(
    song: Path,
    where: Path | None,
    n: int,
    bundle: str | Path | None,
    backbone: str | None,
    workers: int,
    as_json: bool,
    download: bool,
    quiet: bool,
) -> None:
    """List the tracks that are most similar to SONG, by cosine similarity of their embeddings.

    SONG itself, its copies, and files with its artist and title are named as such and don't count. The first search in
    a library embeds its files, which takes a while and is saved; an interrupted search continues.
    """
    from genretree.embedding.table import is_embeddings

    bundle = _choose(bundle, backbone)
    if where is not None and is_embeddings(where):
        index, tracks = _find_in_embeddings(where, song, n, bundle, download)
    elif where is not None and where.is_dir():
        index, tracks = _find_in_store(where, song, n, bundle, download, quiet)
    else:
        index, tracks = find_in_library(where, song, n, bundle, workers, download, quiet)
    if as_json:
        content = {"file": printable(song), "model": index.model, "n_tracks": len(index)}
        echo_json(content | {"similar": [track.to_json() for track in tracks]})
    else:
        _show_tracks(song, tracks)


def _choose(bundle: str | Path | None, backbone: str | None) -> str | Path | None:
    """Return the bundle or the backbone that was given."""
    from genretree.embedding.embedders import BackboneName

    if backbone is None:
        return bundle
    if bundle is not None:
        raise click.UsageError("give either --bundle or --backbone")
    return BackboneName(backbone)


def _find_in_embeddings(
    path: Path, song: Path, n: int, bundle: str | Path | None, download: bool
) -> tuple[TrackIndex, list[SimilarTrack]]:
    from genretree.embedding.embedders import load_embedder_for
    from genretree.embedding.neighbours import TrackIndex, find_similar
    from genretree.embedding.table import read_embeddings

    index = TrackIndex.from_table(read_embeddings(path))
    row = index.find(song)
    if row is not None and bundle is None:
        return index, find_similar(index, song, index.vectors[row], n)
    embedder = load_embedder_for(index.model, bundle, download)
    if row is not None:
        return index, find_similar(index, song, index.vectors[row], n)
    return index, find_similar(index, song, embedder.embed_file(song).mean, n)


def _find_in_store(
    folder: Path, song: Path, n: int, bundle: str | Path | None, download: bool, quiet: bool
) -> tuple[TrackIndex, list[SimilarTrack]]:
    from genretree.corpus.store import Store
    from genretree.embedding.neighbours import find_similar
    from genretree.embedding.stores import embed_song, embed_store, load_store_embedder

    if not (folder / "store.json").is_file():
        shown = printable(folder)
        raise click.ClickException(
            f"{shown}: not a store; to search a folder of music, embed it first: genretree embed {shown} --out "
            "TRACKS.npy, then: --in TRACKS.npy"
        )
    store = Store(folder)
    embedder = load_store_embedder(store, bundle, download)
    index = embed_store(store, embedder, not quiet)
    return index, find_similar(index, song, embed_song(store, embedder, song), n)


def find_in_library(
    db: Path | None, song: Path, n: int, bundle: str | Path | None, workers: int, download: bool, quiet: bool
) -> tuple[TrackIndex, list[SimilarTrack]]:
    """Find the tracks of a library that are most similar to a song; embeds the files that are not embedded yet."""
    from genretree.embedding.embedders import load_embedder
    from genretree.embedding.neighbours import find_similar
    from genretree.library.database.connection import convert_errors, default_database, lock_database, open_database
    from genretree.library.scan.embed import has_unembedded, load_track_index

    path = db or default_database()
    with convert_errors(path), open_database(path, read_only=True) as database:
        embedder = load_embedder(bundle, download)
        complete = not has_unembedded(database, embedder.key)
        index = load_track_index(database, embedder.key) if complete else None
    if index is None:
        with convert_errors(path), lock_database(path, "similar"), open_database(path) as database:
            _embed_library(database, embedder, workers, quiet)
            index = load_track_index(database, embedder.key)
    row = index.find(song)
    vector = embedder.embed_file(song).mean if row is None else index.vectors[row]
    return index, find_similar(index, song, vector, n)


def _embed_library(database: Database, embedder: Embedder, workers: int, quiet: bool) -> None:
    from genretree.library.scan.embed import embed_library

    counts = embed_library(database, embedder, workers=workers, progress=not quiet)
    for path, kind, message in counts.failed[:_MAX_FAILURES]:
        echo(f"left out ({kind}): {printable(path)}: {message}", err=True)
    if len(counts.failed) > _MAX_FAILURES:
        echo(f"{len(counts.failed) - _MAX_FAILURES} more were left out", err=True)


def _show_tracks(song: Path, tracks: Sequence[SimilarTrack]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from genretree.cli.tables import make_console
    from genretree.embedding.neighbours import RELATIONS

    table = Table(title=escape(f"Similar to {printable(song)}"), title_justify="left")
    table.add_column("similarity", justify="right")
    for column in ("artist", "title", "file", "note"):
        table.add_column(column, overflow="fold")
    for track in tracks:
        notes = [RELATIONS[track.relation], f"{len(track.copies)} copies" if len(track.copies) > 1 else ""]
        notes.append(f"copy: {printable(track.copies[0])}" if len(track.copies) == 1 else "")
        cells = (track.artist or "-", track.title or "-", printable(track.path), "; ".join(filter(None, notes)))
        table.add_row(f"{track.similarity:.3f}", *(escape(printable(cell)) for cell in cells))
    make_console().print(table)
