"""Commands for data: compose, prepare, split."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.options import FILE, FOLDER, images_option, quiet_option, refuse
from genretree.cli.output import echo, echo_failures, echo_json, echo_skipped
from genretree.errors import CorpusError, SettingsError

if TYPE_CHECKING:
    from genretree.corpus.copies import Copies
    from genretree.corpus.manifest import Manifest
    from genretree.corpus.multiple_genres import MultipleGenres
    from genretree.corpus.store import Store
    from genretree.settings import ImageSettings
    from genretree.sound.images import ImageForm
    from genretree.taxonomy import Taxonomy


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--seed", default=0, show_default=True, help="Seed; the same seed generates the same music.")
@click.option("--artists", type=int, help="Number of artists for each of the 16 leaves.")
@click.option("--tracks", type=int, help="Number of tracks for each artist.")
@click.option("--seconds", type=float, help="Length of a track in seconds.")
@click.option("--format", "audio_format", type=click.Choice(["flac", "wav", "ogg"]), help="Audio file format.")
@click.option("--workers", type=int, help="Number of processes.  [default: one for each processor]")
@quiet_option
def compose(out: Path, seed: int, workers: int | None, quiet: bool, audio_format: str | None, **numbers: Any) -> None:
    """Generate synthetic music for the 16 leaves of the ccmusic tree: audio files and a tracks.csv in OUT."""
    from genretree.datasets.composed import ComposeSettings, compose_corpus

    options = {"seed": seed, "format": audio_format, **numbers}
    settings = ComposeSettings.build({name: value for name, value in options.items() if value is not None})
    csv_path = compose_corpus(out, settings, workers=workers, progress=not quiet)
    echo(f"Wrote {csv_path}. Next: genretree prepare {csv_path} STORE --group artist")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("store", type=FOLDER)
@click.option("--tree", help="Genre tree: a YAML file or 'ccmusic'.  [default: inferred from folders or columns]")
@click.option("--group", help="Column that a split never divides: artist, album or another.")
@click.option("--levels", help="Level columns of a CSV, top level first, with commas.  [default: level_1,level_2 ...]")
@click.option("--depth", type=click.IntRange(1, 4), help="Number of folder levels that are genres.")
@click.option(
    "--multiple-genres",
    type=click.Choice(["ask", "first", "skip", "keep"]),
    default="ask",
    show_default=True,
    help="Action for CSV rows with several genres, such as 'Rock;Pop' or 'Pop, Rock': stop with an error, use the "
    "first genre, skip the row, or treat the text as one name.",
)
@click.option("--size", type=int, help="Height and width of the images in pixels.  [default: 224]")
@click.option("--slice-seconds", type=float, help="Length of a slice in seconds.  [default: 11.4]")
@click.option(
    "--features",
    default="",
    help="Audio features to store as well as the images, separated by commas, such as mel_16k, which musicnn needs. "
    "Features that STORE lacks are added.",
)
@click.option(
    "--engine", default="auto", show_default=True, help="Engine for the spectra, or ray to use a Ray cluster."
)
@click.option("--address", help="Address of a Ray cluster; by default Ray starts on this machine.")
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@click.option("--stream", is_flag=True, help="Stream a Hub data set instead of storing 4.6 GB of Arrow files.")
@click.option("--recover-tracks", is_flag=True, help="Group the data set's slices into tracks by their images.")
@click.option("--audit", "audit_file", type=FILE, help="Audit whose copies to group; needs --recover-tracks.")
@click.option(
    "--columns", help="Columns of an image data set: mel=COLUMN,cqt=COLUMN,label=COLUMN,track=COLUMN,artist=COLUMN ..."
)
@images_option
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: one for each processor]")
@click.option("--seed", default=0, show_default=True, help="Seed of the default split.")
@click.option("--overwrite", is_flag=True, help="Replace a store of another source or other settings.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if a track failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
def prepare(
    source: Path,
    store: Path,
    tree: str | None,
    group: str | None,
    levels: str | None,
    depth: int | None,
    multiple_genres: MultipleGenres,
    size: int | None,
    slice_seconds: float | None,
    features: str,
    engine: str,
    address: str | None,
    salvage: bool,
    stream: bool,
    recover_tracks: bool,
    audit_file: Path | None,
    columns: str | None,
    image_form: ImageForm,
    workers: int | None,
    seed: int,
    overwrite: bool,
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compute the mel, CQT and chroma images of all tracks in SOURCE (a folder of genres or a CSV) into STORE.

    SOURCE may also be ccmusic-database/music_genre or a copy of that data set's folder, whose images are read. Its
    track ids are not published: --recover-tracks groups the slices into tracks by their images, and an audit (written
    to STORE/audit, or passed with --audit) merges groups that hold copies, also under different labels. Images may also
    come from a CSV with the columns mel, cqt, chroma, genre (and track, artist), or from any image data set with
    --columns; rows of one track are its slices.

    Images are always stored. To add a feature to a store, repeat the command with its name in --features; training a
    family that needs a feature adds it as well.

    To resume after an interruption, repeat the command. Files that can't be used are listed at the end and left out.
    """
    from genretree.corpus.image_rows import is_image_csv, is_image_dataset, parse_columns
    from genretree.corpus.prepare import prepare as prepare_store
    from genretree.datasets.ccmusic import is_dataset, prepare_dataset
    from genretree.settings import ImageSettings
    from genretree.sound.walk import Skipped
    from genretree.taxonomy import Taxonomy

    image_options = {"size": size, "slice_seconds": slice_seconds}
    settings = ImageSettings.build({name: value for name, value in image_options.items() if value is not None})
    if address is not None and engine != "ray":
        raise click.UsageError("--address needs --engine ray")
    skipped = Skipped()
    common: dict[str, Any] = {"workers": workers, "overwrite": overwrite, "progress": not quiet}
    column_names = parse_columns(columns)
    if audit_file is not None and not recover_tracks:
        raise click.UsageError("--audit needs --recover-tracks; for a split only, use: genretree split --audit")
    find_copies = partial(_find_copies, audit_file, not quiet)
    is_csv = is_image_csv(source, column_names)
    if is_csv or column_names or (not is_dataset(source) and is_image_dataset(source, column_names)):
        refuse(
            "images",
            features=features,
            engine=engine != "auto",
            salvage=salvage,
            stream=stream,
            depth=depth,
            levels=levels,
        )
        refuse("images", **{"multiple-genres": multiple_genres != "ask"})
        taxonomy = None if tree is None else Taxonomy.load(tree)
        common |= {"columns": columns, "form": image_form, "tree": taxonomy, "group": group, "seed": seed}
        prepared = _prepare_images(source, store, settings, find_copies if recover_tracks else None, **common)
    elif is_dataset(source):
        image_dataset = "a data set of images"
        refuse(image_dataset, images=image_form != "auto")
        refuse(image_dataset, tree=tree not in (None, "ccmusic"), group=group, levels=levels, depth=depth)
        refuse(image_dataset, **{"multiple-genres": multiple_genres != "ask"})
        refuse(image_dataset, features=features, engine=engine != "auto", salvage=salvage, seed=seed)
        common["find_copies"] = find_copies
        prepared = prepare_dataset(source, store, settings, stream=stream or None, regroup=recover_tracks, **common)
    else:
        for_images = {"stream": stream, "recover-tracks": recover_tracks, "images": image_form != "auto"}
        refuse("music in files", audit=audit_file, **for_images)
        taxonomy = None if tree is None else Taxonomy.load(tree)
        level_columns = None if levels is None else [name.strip() for name in levels.split(",")]
        manifest = _read_music(source, taxonomy, group, level_columns, depth, not quiet, multiple_genres)
        if engine == "ray":
            from genretree.corpus.on_ray import prepare_on_ray

            engine, common["run_jobs"] = "auto", prepare_on_ray(address)
        skipped = manifest.skipped
        names = [name.strip() for name in features.split(",") if name.strip()]
        common |= {"features": names, "engine": engine, "salvage": salvage, "seed": seed}
        prepared = prepare_store(manifest, store, settings, **common)
    if as_json:
        echo_json({**store_info(prepared), "skipped": asdict(skipped)})
    else:
        echo(
            f"{prepared.folder}: {prepared.n_tracks} tracks, {prepared.n_slices} slices, "
            f"grouped by {prepared.metadata.group_by}, {len(prepared.failures)} failed."
        )
        _echo_recovered(prepared)
        _echo_unknown(prepared)
        echo_failures(prepared.failures, f"genretree info --json {prepared.folder}")
        echo_skipped(skipped)
        _echo_empty_parts(prepared)
    if strict and prepared.failures:
        sys.exit(1)


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--name", default=None, help="Name of the split.  [default: default, folds or slices]")
@click.option(
    "--protocol",
    type=click.Choice(["group", "slice"]),
    default="group",
    show_default=True,
    help="slice: split slices at random, as the published study did; leaks, for comparison only.",
)
@click.option("--folds", type=click.IntRange(2), help="Number of cross-validation splits, NAME-0 to NAME-(k-1).")
@click.option("--test", "test_share", type=float, help="Share of the test part.  [default: 0.2; 0.1 by slices]")
@click.option(
    "--validation", "validation_share", type=float, help="Share of the validation part.  [default: 0.15; 0.1 by slices]"
)
@click.option("--audit", "audit_file", type=FILE, help="audit.json whose copies to keep on one side.")
@click.option("--seed", default=0, show_default=True, help="Seed for shuffling.")
def split(
    store: Path,
    name: str | None,
    protocol: str,
    folds: int | None,
    test_share: float | None,
    validation_share: float | None,
    audit_file: Path | None,
    seed: int,
) -> None:
    """Split STORE into train, validation and test parts without dividing a group.

    --audit first merges groups that hold copies of each other; `genretree audit STORE` finds copies.
    """
    from genretree.audit.evidence import read_copies
    from genretree.corpus.copies import count_joined, join_copies
    from genretree.corpus.splits import RECOVERED, fold_groups, split_groups, split_slices
    from genretree.corpus.store import Store
    from genretree.recovery.regroup import summarise_blocks

    opened = Store(store)
    leaves, groups = opened.track_leaves, opened.track_groups
    if protocol == "slice" and folds:
        raise SettingsError("--folds goes with the protocol 'group'")
    if protocol == "slice" and audit_file is not None:
        raise SettingsError("--audit goes with the protocol 'group'")
    if protocol == "group" and opened.metadata.group_by == "slice":
        raise SettingsError(
            f"{store}: slices have no known track or artist, so no split is group-disjoint; to group them by their "
            "images, repeat prepare with --recover-tracks"
        )
    joined = None
    if audit_file is not None:
        copies = read_copies(audit_file, opened)
        groups = join_copies(groups, copies.pairs)
        joined = count_joined(copies, opened.track_groups, groups)
        echo(f"{joined}.")
    # Options that are not passed keep the functions' defaults: 80/10/10 by slices, as published.
    if name is None and protocol == "group" and not folds and opened.metadata.group_by == RECOVERED:
        name = "recovered"  # `default` is the published one
    passed = {"test": None if folds else test_share, "validation": validation_share, "name": name}
    options: dict[str, Any] = {key: value for key, value in passed.items() if value is not None}
    if protocol == "slice":
        splits = [split_slices(leaves[opened.slice_tracks], seed=seed, **options)]
    elif folds:
        splits = fold_groups(leaves, groups, folds=folds, seed=seed, **{"name": "folds", **options})
    else:
        splits = [split_groups(leaves, groups, seed=seed, **options)]
    if protocol == "group" and opened.metadata.group_by == RECOVERED:
        recovery = summarise_blocks(leaves, groups, opened.taxonomy)
        splits = [replace(item, protocol="recovered", recovery=recovery) for item in splits]
    for item in splits:
        item = replace(item, copies=joined)
        item.save(store / "splits")
        counts = ", ".join(f"{item.parts.count(part)} {part}" for part in ("train", "validation", "test"))
        unit = "tracks" if item.protocol == "group" else "slices"
        echo(f"{item.name}: {counts} ({unit}). {item.note}")


def _prepare_images(
    source: Path,
    out: Path,
    settings: ImageSettings,
    find_copies: Callable[[Store], Copies | None] | None,
    *,
    progress: bool,
    **options: Any,
) -> Store:
    from genretree.corpus.images import prepare_images
    from genretree.recovery.regroup import regroup_store

    store = prepare_images(source, out, settings, progress=progress, **options)
    return store if find_copies is None else regroup_store(store, copies=find_copies(store), progress=progress)


def _read_music(
    source: Path,
    tree: Taxonomy | None,
    group: str | None,
    levels: Sequence[str] | None,
    depth: int | None,
    progress: bool,
    multiple_genres: MultipleGenres,
) -> Manifest:
    """Read a folder or a CSV, with a specific error for a folder of images."""
    from genretree.corpus.manifest import read_manifest
    from genretree.prediction.from_images import holds_images

    try:
        return read_manifest(source, tree, group, levels, depth, progress, multiple_genres)
    except CorpusError as error:
        if not source.is_dir() or not holds_images(source):
            raise
        raise CorpusError(
            f"{source}: has images and no audio; list the images in a CSV with the columns mel, cqt, chroma and "
            "genre (and track, artist), and prepare the CSV"
        ) from error


def store_info(store: Store) -> dict[str, Any]:
    """Return the content of `info --json` for a store."""
    recovery = store.split("recovered").recovery if "recovered" in store.split_names() else None
    return {
        "folder": str(store.folder),
        "tracks": store.n_tracks,
        "slices": store.n_slices,
        "padded_slices": int(store.padded.sum()),
        "silent_slices": int(store.silent.sum()),
        "facts": asdict(store.metadata),
        "images": store.settings.model_dump(),
        "taxonomy": store.taxonomy.to_json(),
        "splits": store.split_names(),
        "tracks_without_group": count_unknown(store),
        **({} if recovery is None else {"recovery": asdict(recovery)}),
        "failures": [asdict(failure) for failure in store.failures],
    }


def _find_copies(audit_file: Path | None, progress: bool, store: Store) -> Copies | None:
    """Read the audit file or, without one, audit a store whose tracks have not been recovered yet."""
    from genretree.audit.evidence import find_copies, read_copies
    from genretree.corpus.splits import RECOVERED

    if audit_file is not None:
        return read_copies(audit_file, store)
    return None if store.metadata.group_by == RECOVERED else find_copies(store, progress=progress)


def _echo_recovered(store: Store) -> None:
    from genretree.corpus.splits import PROTOCOL_NOTES, RECOVERED

    if store.metadata.group_by != RECOVERED:
        return
    tracks, blocks = len(set(store.tracks["recovered_track"])), len(set(store.tracks["group"]))
    split = store.split("recovered") if "recovered" in store.split_names() else None
    note = PROTOCOL_NOTES["recovered"] if split is None else split.note
    echo(f"{tracks} tracks recovered, kept together in {blocks} blocks. Split 'recovered': {note}.")
    if split is not None and split.copies is not None:
        echo(f"{split.copies}.")


def count_unknown(store: Store) -> int:
    """Count the tracks without a known artist (album ...); all tracks of a store without groups."""
    from genretree.corpus.manifest import ALONE
    from genretree.corpus.splits import WITHOUT_TRACKS

    if store.metadata.group_by in WITHOUT_TRACKS:
        return store.n_tracks
    return sum(str(name).startswith(ALONE) for name in store.tracks["group"])


def _echo_unknown(store: Store) -> None:
    """Warn about tracks without a known artist, which may leak across splits."""
    from genretree.corpus.splits import WITHOUT_TRACKS

    group_by, unknown = store.metadata.group_by, count_unknown(store)
    if group_by in WITHOUT_TRACKS or not unknown:
        return
    names, name = ("artist or album", "artist") if group_by == "track" else (group_by, group_by)
    echo(
        f"{unknown} of {store.n_tracks} tracks have no known {names}. Each counts as a group of its own, so one {name} "
        f"may be in several parts of a split, and metrics may be too high. Add the {names} to the files' tags or "
        "to the CSV and prepare again, or use another --group.",
        err=True,
    )


def _echo_empty_parts(store: Store) -> None:
    empty = [part for part in ("validation", "test") if part not in store.split().parts]
    if empty:
        echo(f"Too few groups for a {' and '.join(empty)} part.", err=True)
