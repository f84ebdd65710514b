"""Commands that use bundles: predict, export, info."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.data import describe_store
from genretree.cli.options import (
    FOLDER,
    download_option,
    images_option,
    quiet_option,
    runtime_options,
    write_or_print,
)
from genretree.cli.output import echo, echo_failures, echo_json, echo_skipped
from genretree.files import printable

if TYPE_CHECKING:
    from genretree.bundle.bundle import Bundle
    from genretree.models.runtime.types import Form, Precision, RuntimeChoice
    from genretree.prediction.predict import Prediction, PredictionError
    from genretree.sound.images import ImageForm


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[BUNDLE] PATHS...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write a table; '-' for standard output.")
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="How many alternatives to give at each level."
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Name the path only as far down as its probability reaches this, 0 to 1.",
)
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Files worked on at a time, at most one for each processor.",
)
@images_option
@click.option("--one-track", is_flag=True, help="Take all images for slices of one track.")
@runtime_options("auto", "auto")
@download_option
@quiet_option
def predict(
    paths: Sequence[Path],
    as_json: bool,
    csv_file: Path | None,
    top: int,
    min_confidence: float,
    salvage: bool,
    workers: int,
    image_form: ImageForm,
    one_track: bool,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    quiet: bool,
) -> None:
    """Name the genre path of every sound file in PATHS (files or folders), by BUNDLE (a folder, or a name on the Hub).

    Without a bundle the tags of the MusiCNN networks are read as genres, as far as they reach (once before that:
    genretree weights get musicnn).

    Instead of sound, images of the spectra: mel.png cqt.png chroma.png, or a folder of such files (song_mel.png, or
    mel/song.png). They are drawn in magma or grey, or raw dB values (.npy).

    Folders are searched for all sound formats; links are followed, and each file is classified once. A bad file is
    reported and the others go on; the exit status is 1 if any failed.
    """
    from genretree.bundle.hub import find_bundle
    from genretree.prediction.from_images import find_image_sets, predict_images
    from genretree.prediction.predict import PredictionError, find_files, format_csv, predict_found_files
    from genretree.progress import progress_bar
    from genretree.sound.walk import SoundWalk

    bundle, image_paths, audio_paths = _split_paths(paths)
    sets = find_image_sets(image_paths)
    if (one_track or image_form != "auto") and not sets:
        option = "--one-track" if one_track else "--images"
        raise click.UsageError(
            f"{option} goes with images, and there are none in {', '.join(map(printable, audio_paths))}"
        )
    files: list[Path | PredictionError] = []
    walk = SoundWalk()
    for path in audio_paths:
        known = walk.covers(path)
        found = list(find_files([path], walk))
        if not found and not known:
            echo(f"{printable(path)}: no sound files in this folder", err=True)
        files += found
    if csv_file is not None and str(csv_file) != "-" and not csv_file.absolute().parent.is_dir():
        raise click.ClickException(f"{csv_file}: there is no such folder to write into")
    if not files and not sets:
        echo_skipped(walk.skipped)
        raise click.ClickException(f"no sound files in {', '.join(map(printable, audio_paths))}")
    loaded = _load(None if bundle is None else find_bundle(bundle, download, not quiet), runtime, precision)
    rows: list[Prediction | PredictionError] = []  # of a table; all else is said at once, and not held
    failed: list[PredictionError] = []
    total = len(files) + (1 if one_track else len(sets))
    with progress_bar(total, "predict", "file", not quiet and total > 1) as tick:
        options: dict[str, Any] = {"top": top, "min_confidence": min_confidence}
        by_image = predict_images(loaded, sets, form=image_form, one_track=one_track, **options) if sets else ()
        by_sound = predict_found_files(loaded, files, salvage=salvage, workers=workers, **options)
        for result in chain(by_image, by_sound):
            if isinstance(result, PredictionError):
                failed.append(result)
            if csv_file is not None:
                rows.append(result if isinstance(result, PredictionError) else replace(result, timeline=()))
            if as_json:
                echo_json(result.to_json())
            elif csv_file is None and not isinstance(result, PredictionError):
                _show_prediction(result)
            tick()
    if csv_file is not None:
        write_or_print(csv_file, format_csv(rows, loaded.taxonomy.levels))
    echo_failures(failed, "--json" if csv_file is None else "the table")
    echo_skipped(walk.skipped)
    if failed:
        sys.exit(1)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--to", type=click.Choice(["openvino", "onnx"]), required=True, help="The form to write.")
@click.option("--out", type=FOLDER, help="A folder of its own; by default it becomes a part of the bundle.")
@click.option("--overwrite", is_flag=True, help="Replace an export that is there.")
def export(bundle: Path, to: Form, out: Path | None, overwrite: bool) -> None:
    """Write the networks of BUNDLE for a faster runtime than torch.

    As a part of the bundle, `genretree predict` takes them up by itself. All preparation of the images is in them: they
    take stored images, uint8, any number of them.
    """
    from genretree.bundle.export import export_bundle

    found = export_bundle(bundle, to, out, overwrite)
    echo(f"{found.folder}: {', '.join(found.files)} (at most {found.difference:.0e} away from torch).")


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Say what a STORE or a BUNDLE (a folder, or a name on the Hub that was pulled) holds."""
    from genretree.bundle.hub import find_bundle
    from genretree.bundle.manifest import read_description
    from genretree.cli.tables import show_bundle, show_store
    from genretree.corpus.store import Store

    folder = find_bundle(folder)
    if (folder / "bundle.json").exists():
        content = read_description(folder)
        echo_json(content, indent=1) if as_json else show_bundle(folder, content)
        return
    if not (folder / "store.json").exists():
        raise click.ClickException(f"{folder}: neither a store nor a bundle")
    store = Store(folder)
    echo_json(describe_store(store), indent=1) if as_json else show_store(store)


def _split_paths(paths: Sequence[Path]) -> tuple[Path | None, list[Path], list[Path]]:
    """Separate the bundle, which comes first if there is one, from paths of images and of audio."""
    from genretree.prediction.from_images import find_content

    content = {path: find_content(path) for path in dict.fromkeys(paths)}
    bundle = paths[0] if (paths[0] / "bundle.json").exists() or content[paths[0]] is None else None
    rest = paths if bundle is None else paths[1:]
    if not rest:
        raise click.UsageError("Missing argument 'PATHS...': name sound files or folders after the bundle.")
    images = [path for path in rest if content[path] == "images"]
    return bundle, images, [path for path in rest if content[path] != "images"]


def _load(bundle: Path | None, runtime: RuntimeChoice, precision: Precision) -> Bundle:
    if bundle is not None:
        from genretree.bundle.bundle import load_bundle

        return load_bundle(bundle, runtime, precision)
    if runtime not in ("auto", "torch"):
        raise click.UsageError(f"--runtime {runtime} needs a bundle with an export (see: genretree export --help)")
    from genretree.prediction.untrained import zero_shot_bundle

    return zero_shot_bundle()


def _show_prediction(prediction: Prediction) -> None:
    from genretree.cli.tables import show_prediction
    from genretree.progress import print_above_bars

    with print_above_bars():
        show_prediction(prediction)
