"""The command `genretree`: one thin command for each stage."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.errors import GenretreeError, SettingsError
from genretree.files import printable

if TYPE_CHECKING:
    from genretree.corpus.manifest import Failure
    from genretree.corpus.store import Store
    from genretree.predict import Prediction, PredictionError

_FOLDER = click.Path(path_type=Path)


class _Group(click.Group):
    """Shows genretree's own errors as one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GenretreeError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            where = f"{printable(error.filename)}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="genretree")
def main() -> None:
    r"""Learn a tree of music genres from spectrogram images, and name any audio file's path in it.

    \b
    The main job:  genretree prepare MUSIC STORE
                   genretree train STORE --model cnn --out BUNDLE
                   genretree evaluate BUNDLE STORE --out REPORT
                   genretree predict BUNDLE song.mp3
    """
    # Threads that wait for work should sleep: on a machine that does other things too, waiting threads that spin take
    # the time of those that work. The OpenMP runtimes of torch and scikit-learn read this when they are first loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quiet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--quiet", is_flag=True, help="Show no progress bars.")(command)


@main.command()
@click.option(
    "--out", type=_FOLDER, default=Path("quickstart"), show_default=True, help="Folder for everything it makes."
)
@click.option("--seed", default=0, show_default=True)
@_quiet_option
def quickstart(out: Path, seed: int, quiet: bool) -> None:
    """Do the whole job on the built-in composed corpus, in a few minutes."""
    from genretree.quickstart import run_quickstart

    run_quickstart(out, seed=seed, progress=not quiet)


@main.command()
@click.argument("out", type=_FOLDER)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same music.")
@click.option("--artists", type=int, help="Artists for each of the 16 leaves.")
@click.option("--tracks", type=int, help="Tracks for each artist.")
@click.option("--seconds", type=float, help="Length of a track.")
@click.option("--format", "audio_format", type=click.Choice(["flac", "wav", "ogg"]), help="Sound file format.")
@click.option("--workers", type=int, help="Processes; by default one for each processor.")
@_quiet_option
def compose(out: Path, seed: int, workers: int | None, quiet: bool, audio_format: str | None, **numbers: Any) -> None:
    """Compose music for all 16 leaves of the ccmusic tree into OUT, as sound files and a tracks.csv."""
    from genretree.corpus.composed import ComposeSettings, compose_corpus

    given = {"seed": seed, "format": audio_format, **numbers}
    settings = ComposeSettings.build({name: value for name, value in given.items() if value is not None})
    csv_path = compose_corpus(out, settings, workers=workers, progress=not quiet)
    click.echo(f"Wrote {csv_path}. Next: genretree prepare {csv_path} STORE --group artist")


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("store", type=_FOLDER)
@click.option("--tree", help="A tree file (YAML) or 'ccmusic'; by default it is inferred from folders or columns.")
@click.option("--group", help="What never stands on both sides of a split: artist, album or another column.")
@click.option("--levels", help="The CSV's level columns from the top down, with commas, where not level_1, level_2 ...")
@click.option("--depth", type=click.IntRange(1, 4), help="For a folder: how many folder levels are genres.")
@click.option("--size", type=int, help="Height and width of the stored images in pixels.  [default: 224]")
@click.option("--slice-seconds", type=float, help="Length of a slice.  [default: 11.4]")
@click.option("--engine", default="auto", show_default=True, help="Engine for the spectra.")
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@click.option("--stream", is_flag=True, help="From the Hub: keep no copy of its 4.6 GB of Arrow files.")
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each processor.")
@click.option("--seed", default=0, show_default=True, help="Of the default split.")
@click.option("--overwrite", is_flag=True, help="Replace a store that was made from something else.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if any track failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@_quiet_option
def prepare(
    source: Path,
    store: Path,
    tree: str | None,
    group: str | None,
    levels: str | None,
    depth: int | None,
    size: int | None,
    slice_seconds: float | None,
    engine: str,
    salvage: bool,
    stream: bool,
    workers: int | None,
    seed: int,
    overwrite: bool,
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw mel, CQT and chroma images of all music in SOURCE (a folder of genres or a CSV) into STORE.

    SOURCE may also be ccmusic-database/music_genre, or a copy of that data set's folder: its images are read instead.
    Go on after an interruption by calling it again. Files that can't be used are listed at the end and left out.
    """
    from genretree.corpus.ccmusic import is_dataset, prepare_dataset
    from genretree.corpus.manifest import read_manifest
    from genretree.corpus.prepare import prepare as prepare_store
    from genretree.settings import ImageSettings
    from genretree.taxonomy import Taxonomy

    given = {"size": size, "slice_seconds": slice_seconds}
    settings = ImageSettings.build({name: value for name, value in given.items() if value is not None})
    common: dict[str, Any] = {"workers": workers, "overwrite": overwrite, "progress": not quiet}
    if is_dataset(source):
        drawn = "a data set of drawn slices"
        _refuse(drawn, tree=tree not in (None, "ccmusic"), group=group, levels=levels, depth=depth)
        _refuse(drawn, engine=engine != "auto", salvage=salvage, seed=seed)
        made = prepare_dataset(source, store, settings, stream=stream or None, **common)
    else:
        _refuse("music in files", stream=stream)
        taxonomy = None if tree is None else Taxonomy.load(tree)
        columns = None if levels is None else [name.strip() for name in levels.split(",")]
        manifest = read_manifest(source, taxonomy, group, columns, depth, progress=not quiet)
        made = prepare_store(manifest, store, settings, engine=engine, salvage=salvage, seed=seed, **common)
    if as_json:
        click.echo(json.dumps(_describe_store(made), ensure_ascii=False))
    else:
        click.echo(
            f"{made.folder}: {made.n_tracks} tracks, {made.n_slices} slices, grouped by {made.facts.group_by}, "
            f"{len(made.failures)} failed."
        )
        _echo_failures(made.failures)
        _echo_empty_parts(made)
    if strict and made.failures:
        sys.exit(1)


@main.command()
@click.argument("store", type=_FOLDER)
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
@click.option("--seed", default=0, show_default=True)
def split(
    store: Path,
    name: str | None,
    protocol: str,
    folds: int | None,
    test_share: float | None,
    validation_share: float | None,
    seed: int,
) -> None:
    """Cut STORE into train, validation and test; no group stands on both sides."""
    from genretree.corpus.splits import fold_groups, split_groups, split_slices
    from genretree.corpus.store import Store

    opened = Store(store)
    leaves, groups = opened.track_leaves, opened.track_groups
    if protocol == "slice" and folds:
        raise SettingsError("--folds goes with the protocol 'group'")
    if protocol == "group" and opened.facts.group_by == "slice":
        raise SettingsError(f"{store}: its slices carry no track or artist, so no split of it can be group-disjoint")
    # What isn't given stays at the functions' own defaults: 80/10/10 by slices, as published.
    given = {"test": None if folds else test_share, "validation": validation_share, "name": name}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if protocol == "slice":
        made = [split_slices(leaves[opened.slice_tracks], seed=seed, **options)]
    elif folds:
        made = fold_groups(leaves, groups, folds=folds, seed=seed, **{"name": "folds", **options})
    else:
        made = [split_groups(leaves, groups, seed=seed, **options)]
    for item in made:
        item.save(store / "splits")
        counts = ", ".join(f"{item.parts.count(part)} {part}" for part in ("train", "validation", "test"))
        unit = "slices" if item.protocol == "slice" else "tracks"
        click.echo(f"{item.name}: {counts} ({unit}). {item.note}")


@main.command()
@click.argument("store", type=_FOLDER)
@click.option("--model", "family", required=True, help="cnn, efficientnet-b0, ast or boosting.")
@click.option("--out", type=_FOLDER, required=True, help="Folder of the bundle to make.")
@click.option("--split", "split_name", default="default", show_default=True, help="Which of the store's splits.")
@click.option("--epochs", type=int, help="Most epochs (iterations for boosting).")
@click.option(
    "--heads", type=click.Choice(["tree", "independent"]), help="independent: the published form, for comparison."
)
@click.option("--weights", help="efficientnet-b0, ast: a checkpoint to start from (Hub name or folder), or none.")
@click.option("--seed", type=int, help="Of initial weights, order and augmentation.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any other setting; may be repeated.")
@click.option("--restart", is_flag=True, help="Don't go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@_quiet_option
def train(
    store: Path,
    family: str,
    out: Path,
    split_name: str,
    assignments: Sequence[str],
    restart: bool,
    overwrite: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a model on STORE; after an interruption the same command goes on from the last checkpoint."""
    from genretree.corpus.store import Store
    from genretree.models import get_family
    from genretree.train import train as train_bundle

    settings = {name: value for name, value in given.items() if value is not None}
    settings.update(_parse_assignments(assignments))
    kind = get_family(family)
    chosen = kind.settings_type.build(settings)
    bundle = train_bundle(
        Store(store), family, out, chosen, split=split_name, restart=restart, overwrite=overwrite, progress=not quiet
    )
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in bundle.training["facts"].items())
    click.echo(f"{out}: {family} trained in {bundle.training['seconds']:.0f} s ({facts}).")
    click.echo(f"Next: genretree evaluate {out} {store} --out REPORT")


@main.command()
@click.argument("bundle", type=_FOLDER)
@click.argument("store", type=_FOLDER)
@click.option("--part", type=click.Choice(["test", "validation", "train", "all"]), default="test", show_default=True)
@click.option(
    "--split", "split_name", help="Which of the store's splits; by default the one the bundle was trained with."
)
@click.option("--out", type=_FOLDER, required=True, help="Folder for metrics.json, report.html and pictures.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json too.")
@_quiet_option
def evaluate(
    bundle: Path, store: Path, part: str, split_name: str | None, out: Path, seed: int, as_json: bool, quiet: bool
) -> None:
    """Measure how right BUNDLE is on STORE, by slice and by track, with intervals over groups."""
    from genretree.bundle import load_bundle
    from genretree.corpus.store import Store
    from genretree.evaluate import evaluate as evaluate_bundle
    from genretree.report import save_evaluation
    from genretree.tables import show_evaluations

    found = evaluate_bundle(
        load_bundle(bundle), Store(store), part=part, split=split_name, seed=seed, progress=not quiet
    )
    report = save_evaluation(found, out)
    if as_json:
        click.echo((out / "metrics.json").read_text(encoding="utf-8"))
        return
    show_evaluations([found])
    click.echo(f"Report: {report}")


@main.command()
@click.argument("store", type=_FOLDER)
@click.option("--models", default="all", show_default=True, help="Families with commas between them, or all.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for bundles, reports and the results table.")
@click.option("--split", "split_name", default="default", show_default=True, help="Which of the store's splits.")
@click.option("--seed", default=0, show_default=True, help="Of training and of the bootstrap.")
@click.option("--set", "assignments", multiple=True, metavar="MODEL:NAME=VALUE", help="A family's setting; repeatable.")
@_quiet_option
def compare(
    store: Path, models: str, out: Path, split_name: str, seed: int, assignments: Sequence[str], quiet: bool
) -> None:
    """Train and evaluate several families on STORE and write the results table; goes on where it stopped."""
    from genretree.compare import compare as compare_families
    from genretree.compare import format_markdown
    from genretree.corpus.store import Store

    chosen = None if models == "all" else [name.strip() for name in models.split(",")]
    settings: dict[str, dict[str, Any]] = {}
    for text in assignments:
        family, colon, assignment = text.partition(":")
        if not colon:
            raise SettingsError(f"--set takes MODEL:NAME=VALUE here, not '{text}'")
        settings.setdefault(family, {}).update(_parse_assignments([assignment]))
    rows = compare_families(Store(store), out, chosen, settings, split=split_name, seed=seed, progress=not quiet)
    click.echo(format_markdown(rows))
    click.echo(f"Report: {out / 'results.html'}")


@main.command()
@click.argument("bundle", type=_FOLDER)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write a table; '-' for standard output.")
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="How many alternatives to give at each level."
)
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Files worked on at a time.")
@_quiet_option
def predict(
    bundle: Path,
    paths: Sequence[Path],
    as_json: bool,
    csv_file: Path | None,
    top: int,
    salvage: bool,
    workers: int,
    quiet: bool,
) -> None:
    """Name the genre path of every sound file in PATHS (files or folders).

    A bad file is reported and the others go on; the exit status is 1 if any failed.
    """
    from genretree.bundle import load_bundle
    from genretree.predict import PredictionError, find_files, write_csv
    from genretree.predict import predict as predict_files
    from genretree.progress import progress_bar

    files: list[Path] = []
    for path in paths:
        found = list(find_files([path]))
        if not found:
            click.echo(f"{printable(path)}: no sound files in this folder", err=True)
        files += found
    if csv_file is not None and str(csv_file) != "-" and not csv_file.absolute().parent.is_dir():
        raise click.ClickException(f"{csv_file}: there is no such folder to write into")
    if not files:
        raise click.ClickException(f"no sound files in {', '.join(map(str, paths))}")
    loaded = load_bundle(bundle)
    results: list[Prediction | PredictionError] = []
    with progress_bar(len(files), "predict", "file", not quiet and len(files) > 1) as tick:
        for result in predict_files(loaded, files, top=top, salvage=salvage, workers=workers):
            if as_json:
                click.echo(json.dumps(result.to_json(), ensure_ascii=False))
            results.append(result)
            tick()
    if csv_file is not None:
        _write_or_print(csv_file, write_csv(results, loaded.taxonomy.levels))
    elif not as_json:
        _show_predictions(results)
    failed = [result for result in results if isinstance(result, PredictionError)]
    for item in failed:
        click.echo(f"failed ({item.kind}): {item.message}", err=True)
    if failed:
        sys.exit(1)


@main.command()
@click.argument("folder", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Say what a STORE or a BUNDLE holds."""
    from genretree.bundle import read_description
    from genretree.corpus.store import Store
    from genretree.tables import show_bundle, show_store

    if (folder / "bundle.json").exists():
        content = read_description(folder)
        click.echo(json.dumps(content, indent=1, ensure_ascii=False)) if as_json else show_bundle(folder, content)
        return
    if not (folder / "store.json").exists():
        raise click.ClickException(f"{folder}: neither a store nor a bundle")
    store = Store(folder)
    click.echo(json.dumps(_describe_store(store), indent=1, ensure_ascii=False)) if as_json else show_store(store)


def _refuse(source: str, **given: Any) -> None:
    """Refuse options that say nothing about this kind of source, rather than leave them out silently."""
    unfit = [f"--{name}" for name, value in given.items() if value]
    if unfit:
        raise SettingsError(f"{', '.join(unfit)}: not for {source}")


def _parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    import yaml

    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set takes NAME=VALUE, not '{text}'")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {name.strip()}: '{value}' is no value ({error})") from error
    return values


def _describe_store(store: Store) -> dict[str, Any]:
    from dataclasses import asdict

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
        "failures": [asdict(failure) for failure in store.failures],
    }


def _echo_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        click.echo(f"failed ({failure.kind}): {failure.message}", err=True)


def _echo_empty_parts(store: Store) -> None:
    empty = [part for part in ("validation", "test") if part not in store.split().parts]
    if empty:
        click.echo(f"Too few groups to hold out a part for {' and '.join(empty)}.", err=True)


def _write_or_print(path: Path, text: str) -> None:
    from genretree.files import write_text

    if str(path) == "-":
        click.echo(text, nl=False)
    else:
        write_text(path, text)


def _show_predictions(results: Sequence[Prediction | PredictionError]) -> None:
    from genretree.predict import Prediction
    from genretree.tables import show_prediction

    for result in results:
        if isinstance(result, Prediction):
            show_prediction(result)
