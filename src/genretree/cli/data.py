"""Commands that make stores: compose, prepare, split."""

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
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same music.")
@click.option("--artists", type=int, help="Artists for each of the 16 leaves.")
@click.option("--tracks", type=int, help="Tracks for each artist.")
@click.option("--seconds", type=float, help="Length of a track.")
@click.option("--format", "audio_format", type=click.Choice(["flac", "wav", "ogg"]), help="Sound file format.")
@click.option("--workers", type=int, help="Processes; by default one for each processor.")
@quiet_option
def compose(out: Path, seed: int, workers: int | None, quiet: bool, audio_format: str | None, **numbers: Any) -> None:
    """Compose music for all 16 leaves of the ccmusic tree into OUT, as sound files and a tracks.csv."""
    from genretree.datasets.composed import ComposeSettings, compose_corpus

    given = {"seed": seed, "format": audio_format, **numbers}
    settings = ComposeSettings.build({name: value for name, value in given.items() if value is not None})
    csv_path = compose_corpus(out, settings, workers=workers, progress=not quiet)
    echo(f"Wrote {csv_path}. Next: genretree prepare {csv_path} STORE --group artist")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("store", type=FOLDER)
@click.option("--tree", help="A tree file (YAML) or 'ccmusic'; by default it is inferred from folders or columns.")
@click.option("--group", help="What never stands on both sides of a split: artist, album or another column.")
@click.option("--levels", help="The CSV's level columns from the top down, with commas, where not level_1, level_2 ...")
@click.option("--depth", type=click.IntRange(1, 4), help="For a folder: how many folder levels are genres.")
@click.option(
    "--multiple-genres",
    type=click.Choice(["ask", "first", "skip", "keep"]),
    default="ask",
    show_default=True,
    help="For rows of a CSV such as 'Rock;Pop' or 'Pop, Rock': stop and ask, take the first genre, leave the rows out, "
    "or take the text for one name.",
)
@click.option("--size", type=int, help="Height and width of the stored images in pixels.  [default: 224]")
@click.option("--slice-seconds", type=float, help="Length of a slice.  [default: 11.4]")
@click.option(
    "--features",
    default="",
    help="Features of the audio to store next to the images, separated by commas, such as mel_16k, which musicnn "
    "needs. If STORE lacks one, it is added.",
)
@click.option("--engine", default="auto", show_default=True, help="Engine for the spectra; or ray: on a Ray cluster.")
@click.option("--address", help="Of a Ray cluster; without it Ray is started on this machine.")
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@click.option("--stream", is_flag=True, help="From the Hub: keep no copy of its 4.6 GB of Arrow files.")
@click.option("--recover-tracks", is_flag=True, help="Of drawn slices: guess from the images which are of one track.")
@click.option("--audit", "audit_file", type=FILE, help="With --recover-tracks: join the copies that this audit lists.")
@click.option("--columns", help="Of images: mel=COLUMN,cqt=COLUMN,label=COLUMN,track=COLUMN,artist=COLUMN ...")
@images_option
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each processor.")
@click.option("--seed", default=0, show_default=True, help="Of the default split.")
@click.option("--overwrite", is_flag=True, help="Replace a store that was made from something else.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if any track failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
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
    """Draw mel, CQT and chroma images of all music in SOURCE (a folder of genres or a CSV) into STORE.

    SOURCE may also be ccmusic-database/music_genre, or a copy of that data set's folder: its images are read instead.
    With --recover-tracks its slices, whose tracks aren't published, are grouped by the tracks they seem to be of, and
    an audit (written to STORE/audit, or given with --audit) joins the groups of copies, under other labels too.
    Images may also come from a CSV with the columns mel, cqt, chroma, genre (and track, artist), or from any data set
    with --columns: rows of one track are its slices.

    Images are always stored. To add a feature to a store, repeat the command with its name in --features; training a
    family that needs one adds it, too.

    Go on after an interruption by calling it again. Files that can't be used are listed at the end and left out.
    """
    from genretree.corpus.image_rows import is_image_csv, is_image_dataset, parse_columns
    from genretree.corpus.prepare import prepare as prepare_store
    from genretree.datasets.ccmusic import is_dataset, prepare_dataset
    from genretree.settings import ImageSettings
    from genretree.sound.walk import Skipped
    from genretree.taxonomy import Taxonomy

    given = {"size": size, "slice_seconds": slice_seconds}
    settings = ImageSettings.build({name: value for name, value in given.items() if value is not None})
    if address is not None and engine != "ray":
        raise click.UsageError("--address needs --engine ray")
    skipped = Skipped()
    common: dict[str, Any] = {"workers": workers, "overwrite": overwrite, "progress": not quiet}
    named = parse_columns(columns)
    if audit_file is not None and not recover_tracks:
        raise click.UsageError("--audit needs --recover-tracks; for a split alone: genretree split --audit")
    find_copies = partial(_find_copies, audit_file, not quiet)
    is_csv = is_image_csv(source, named)
    if is_csv or named or (not is_dataset(source) and is_image_dataset(source, named)):
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
        made = _prepare_images(source, store, settings, find_copies if recover_tracks else None, **common)
    elif is_dataset(source):
        refuse("a data set of drawn slices", images=image_form != "auto")
        drawn = "a data set of drawn slices"
        refuse(drawn, tree=tree not in (None, "ccmusic"), group=group, levels=levels, depth=depth)
        refuse(drawn, **{"multiple-genres": multiple_genres != "ask"})
        refuse(drawn, features=features, engine=engine != "auto", salvage=salvage, seed=seed)
        common["find_copies"] = find_copies
        made = prepare_dataset(source, store, settings, stream=stream or None, regroup=recover_tracks, **common)
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
        made = prepare_store(manifest, store, settings, **common)
    if as_json:
        echo_json({**describe_store(made), "skipped": asdict(skipped)})
    else:
        echo(
            f"{made.folder}: {made.n_tracks} tracks, {made.n_slices} slices, grouped by {made.facts.group_by}, "
            f"{len(made.failures)} failed."
        )
        _echo_recovered(made)
        _echo_unknown(made)
        echo_failures(made.failures, f"genretree info --json {made.folder}")
        echo_skipped(skipped)
        _echo_empty_parts(made)
    if strict and made.failures:
        sys.exit(1)


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--name", default=None, help="Name of the split.  [default: default, folds or slices]")
@click.option(
    "--protocol",
    type=click.Choice(["group", "slice"]),
    default="group",
    show_default=True,
    help="slice: cut slices at random as the published study did; leaks, for comparison only.",
)
@click.option("--folds", type=click.IntRange(2), help="Make k splits for cross-validation, NAME-0 to NAME-(k-1).")
@click.option("--test", "test_share", type=float, help="Share held out for test.  [default: 0.2; 0.1 by slices]")
@click.option("--validation", "validation_share", type=float, help="[default: 0.15; 0.1 by slices]")
@click.option("--audit", "audit_file", type=FILE, help="Keep the copies that this audit.json lists on one side.")
@click.option("--seed", default=0, show_default=True)
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
    """Cut STORE into train, validation and test; no group stands on both sides.

    With --audit groups that hold copies of each other are joined first; `genretree audit STORE` looks for copies.
    """
    from genretree.audit.evidence import read_copies
    from genretree.corpus.copies import count_joined, join_copies
    from genretree.corpus.splits import RECOVERED, fold_groups, split_groups, split_slices
    from genretree.corpus.store import Store

    opened = Store(store)
    leaves, groups = opened.track_leaves, opened.track_groups
    if protocol == "slice" and folds:
        raise SettingsError("--folds goes with the protocol 'group'")
    if protocol == "slice" and audit_file is not None:
        raise SettingsError("--audit goes with the protocol 'group'")
    if protocol == "group" and opened.facts.group_by == "slice":
        raise SettingsError(
            f"{store}: its slices carry no track or artist, so no split of it can be group-disjoint; the same call of "
            "prepare with --recover-tracks guesses the tracks from the images"
        )
    joined = None
    if audit_file is not None:
        copies = read_copies(audit_file, opened)
        groups = join_copies(groups, copies.pairs)
        joined = count_joined(copies, opened.track_groups, groups)
        echo(f"{joined}.")
    # What isn't given stays at the functions' own defaults: 80/10/10 by slices, as published.
    if name is None and protocol == "group" and not folds and opened.facts.group_by == RECOVERED:
        name = "recovered"  # `default` is the published one
    given = {"test": None if folds else test_share, "validation": validation_share, "name": name}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if protocol == "slice":
        made = [split_slices(leaves[opened.slice_tracks], seed=seed, **options)]
    elif folds:
        made = fold_groups(leaves, groups, folds=folds, seed=seed, **{"name": "folds", **options})
    else:
        made = [split_groups(leaves, groups, seed=seed, **options)]
    if protocol == "group" and opened.facts.group_by == RECOVERED:
        made = [replace(item, protocol="recovered") for item in made]
    for item in made:
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

    made = prepare_images(source, out, settings, progress=progress, **options)
    return made if find_copies is None else regroup_store(made, copies=find_copies(made), progress=progress)


def _read_music(
    source: Path,
    tree: Taxonomy | None,
    group: str | None,
    levels: Sequence[str] | None,
    depth: int | None,
    progress: bool,
    multiple_genres: MultipleGenres,
) -> Manifest:
    """Read a folder or a CSV; where it has images instead of sound, the error says so."""
    from genretree.corpus.manifest import read_manifest
    from genretree.prediction.from_images import holds_images

    try:
        return read_manifest(source, tree, group, levels, depth, progress, multiple_genres)
    except CorpusError as error:
        if not source.is_dir() or not holds_images(source):
            raise
        raise CorpusError(
            f"{source}: holds images and no sound; list the images in a CSV with the columns mel, cqt, chroma and "
            "genre (and track, artist), and prepare that"
        ) from error


def describe_store(store: Store) -> dict[str, Any]:
    """Give what `info --json` says of a store."""
    return {
        "folder": str(store.folder),
        "tracks": store.n_tracks,
        "slices": store.n_slices,
        "padded_slices": int(store.padded.sum()),
        "silent_slices": int(store.silent.sum()),
        "facts": asdict(store.facts),
        "images": store.settings.model_dump(),
        "taxonomy": store.taxonomy.to_json(),
        "splits": store.split_names(),
        "tracks_without_group": count_unknown(store),
        "failures": [asdict(failure) for failure in store.failures],
    }


def _find_copies(audit_file: Path | None, progress: bool, store: Store) -> Copies | None:
    """Read the audit that is given, or audit a store whose tracks have not been recovered yet."""
    from genretree.audit.evidence import find_copies, read_copies
    from genretree.corpus.splits import RECOVERED

    if audit_file is not None:
        return read_copies(audit_file, store)
    return None if store.facts.group_by == RECOVERED else find_copies(store, progress=progress)


def _echo_recovered(store: Store) -> None:
    from genretree.corpus.splits import PROTOCOL_NOTES, RECOVERED

    if store.facts.group_by != RECOVERED:
        return
    tracks, blocks = len(set(store.tracks["recovered_track"])), len(set(store.tracks["group"]))
    note = PROTOCOL_NOTES["recovered"]
    echo(f"{tracks} tracks recovered, kept together in {blocks} blocks. Split 'recovered': {note}.")
    joined = store.split("recovered").copies if "recovered" in store.split_names() else None
    if joined is not None:
        echo(f"{joined}.")


def count_unknown(store: Store) -> int:
    """Count the tracks whose artist (album ...) is not known; all of them where a store has no groups."""
    from genretree.corpus.manifest import ALONE
    from genretree.corpus.splits import WITHOUT_TRACKS

    if store.facts.group_by in WITHOUT_TRACKS:
        return store.n_tracks
    return sum(str(name).startswith(ALONE) for name in store.tracks["group"])


def _echo_unknown(store: Store) -> None:
    """Say for how many tracks no artist is known, and what that means for every split of the store."""
    from genretree.corpus.splits import WITHOUT_TRACKS

    group_by, unknown = store.facts.group_by, count_unknown(store)
    if group_by in WITHOUT_TRACKS or not unknown:
        return
    what, one = ("artist or album", "artist") if group_by == "track" else (group_by, group_by)
    echo(
        f"{unknown} of {store.n_tracks} tracks have no known {what}. Each counts as a group of its own, so one {one} "
        f"may lie in several parts of a split, and figures may be too high. Add the {what} to the files' tags or "
        "to the CSV and prepare again, or group by something else.",
        err=True,
    )


def _echo_empty_parts(store: Store) -> None:
    empty = [part for part in ("validation", "test") if part not in store.split().parts]
    if empty:
        echo(f"Too few groups to hold out a part for {' and '.join(empty)}.", err=True)
