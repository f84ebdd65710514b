"""Commands for bundles: predict, export, info."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.data import store_info
from genretree.cli.options import (
    FOLDER,
    download_option,
    images_option,
    quiet_option,
    require_folder,
    runtime_options,
    vocabulary_option,
    workers_option,
    write_or_print,
)
from genretree.cli.output import echo, echo_failures, echo_json, echo_skipped
from genretree.files import printable

if TYPE_CHECKING:
    from genretree.bundle.bundle import Bundle
    from genretree.models.families.tagger.model import TaggerModel
    from genretree.models.runtime.types import ExportFormat, Precision, RuntimeChoice
    from genretree.prediction.predict import Prediction, PredictionError
    from genretree.sound.images import ImageForm
    from genretree.sound.walk import SoundWalk


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[BUNDLE] PATHS...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="CSV file to write; '-' for standard output.")
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="Number of most probable nodes for each level."
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Minimum probability, 0 to 1; the path ends above the first node below it.",
)
@click.option(
    "--genres",
    "n_genres",
    type=click.IntRange(1),
    help="Maximum number of genres: the path, and other probable nodes of its level.",
)
@click.option("--salvage", is_flag=True, help="Use what can be decoded of truncated files.")
@workers_option
@click.option(
    "--tree",
    metavar="NAME|FILE",
    help="Genre tree to use without a bundle: general, ccmusic, or a YAML file.  [default: general]",
)
@vocabulary_option
@click.option(
    "--zero-shot",
    metavar="NAME",
    help="Without a bundle: compare the audio with text, by a CLAP checkpoint: clap, hf://USER/NAME, or a folder.",
)
@click.option(
    "--model", metavar="NAME", help="Ready model instead of BUNDLE: short for zoo:NAME (see: genretree models)."
)
@click.option("--prompt", help="Template of the texts for --zero-shot.  [default: This is {genre} music.]")
@click.option(
    "--force",
    is_flag=True,
    help="Predict a genre for files that are not music, too, such as speech; not for silence.",
)
@click.option("--check-music", is_flag=True, help="Detect files that are not music for BUNDLE; needs mn04's weights.")
@images_option
@click.option("--one-track", is_flag=True, help="Treat all images as slices of one track.")
@runtime_options("auto", "auto")
@download_option
@quiet_option
def predict(
    paths: Sequence[Path],
    as_json: bool,
    csv_file: Path | None,
    top: int,
    min_confidence: float,
    n_genres: int | None,
    salvage: bool,
    workers: int,
    tree: str | None,
    vocabulary: Path | None,
    zero_shot: str | None,
    model: str | None,
    prompt: str | None,
    force: bool,
    check_music: bool,
    image_form: ImageForm,
    one_track: bool,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    quiet: bool,
) -> None:
    """Predict the genre paths of all audio files in PATHS (files or folders) with BUNDLE.

    BUNDLE is a folder, a name on the Hub, or zoo:NAME for a ready model (see: genretree models).

    Without a bundle, genres are derived from the tags of the audio tagger mn04, for any genre tree whose names it knows
    (see: genretree vocabulary). This needs its weights: genretree weights get mn04. Speech, noise and silence are named
    as such.

    With --zero-shot, the audio is compared with one text for each genre of any tree. This needs a checkpoint: genretree
    weights get clap.

    PATHS may also be spectrogram images instead of audio: mel.png cqt.png chroma.png, or a folder of such files
    (song_mel.png, or mel/song.png), rendered in magma or grey, or raw dB values (.npy).

    Folders are searched for all audio formats; links are followed, and each file is classified once. Files that can't
    be used are reported, and the exit status is then 1.
    """
    from genretree.prediction.from_images import find_image_sets, predict_images
    from genretree.prediction.predict import PredictionError, format_csv, predict_found_files
    from genretree.progress import progress_bar
    from genretree.sound.walk import SoundWalk

    bundle, image_paths, audio_paths = _split_paths(paths, zero_shot, model, prompt)
    sets = find_image_sets(image_paths)
    if (one_track or image_form != "auto") and not sets:
        option = "--one-track" if one_track else "--images"
        raise click.UsageError(f"{option} needs images, and there are none in {', '.join(map(printable, audio_paths))}")
    walk = SoundWalk()
    files = _find_files(audio_paths, walk)
    if csv_file is not None and str(csv_file) != "-" and not csv_file.absolute().parent.is_dir():
        raise click.ClickException(f"{csv_file}: the folder does not exist; create it or choose another")
    if not files and not sets:
        echo_skipped(walk.skipped)
        raise click.ClickException(f"no audio files in {', '.join(map(printable, audio_paths))}")
    if zero_shot is not None:
        loaded = _load_zero_shot(zero_shot, tree, vocabulary, prompt, runtime, download)
    elif bundle is None:
        loaded = load_untrained(tree, vocabulary, runtime, precision)
    else:
        loaded = _load_bundle(bundle, tree, vocabulary, runtime, precision, download, quiet)
    tagger = _load_tagger() if check_music else None
    rows: list[Prediction | PredictionError] = []  # only for a table; other output is printed at once
    failed: list[PredictionError] = []
    total = len(files) + (1 if one_track else len(sets))
    with progress_bar(total, "predict", "file", not quiet and total > 1) as tick:
        options: dict[str, Any] = {"top": top, "min_confidence": min_confidence, "n_genres": n_genres}
        by_image = predict_images(loaded, sets, form=image_form, one_track=one_track, **options) if sets else ()
        by_sound = predict_found_files(
            loaded, files, salvage=salvage, workers=workers, music_only=not force, tagger=tagger, **options
        )
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
    if not as_json and loaded.training.get("note"):
        echo(str(loaded.training["note"]), err=True)
    echo_failures(failed, "--json" if csv_file is None else "the table")
    echo_skipped(walk.skipped)
    if failed:
        sys.exit(1)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--to", type=click.Choice(["openvino", "onnx"]), required=True, help="Format of the export.")
@click.option("--out", type=FOLDER, help="Folder to write to.  [default: inside the bundle]")
@click.option("--overwrite", is_flag=True, help="Replace an existing export.")
def export(bundle: Path, to: ExportFormat, out: Path | None, overwrite: bool) -> None:
    """Export the networks of BUNDLE to a runtime that is faster than torch.

    `genretree predict` uses an export inside the bundle automatically. Exported networks include all preprocessing;
    they take batches of stored images, uint8.
    """
    from genretree.bundle.export import export_bundle

    exported = export_bundle(require_folder(bundle), to, out, overwrite)
    echo(
        f"{exported.folder}: {', '.join(exported.files)} "
        f"(probabilities differ from torch by at most {exported.difference:.0e})."
    )


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the information as JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Show the contents of a store or a bundle: FOLDER, or a bundle in the cache by its Hub name or zoo:NAME."""
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
    echo_json(store_info(store), indent=1) if as_json else show_store(store)


def _find_files(paths: Sequence[Path], walk: SoundWalk) -> list[Path | PredictionError]:
    """Find audio files, and name folders without any."""
    from genretree.prediction.predict import find_files

    files: list[Path | PredictionError] = []
    for path in paths:
        searched = walk.covers(path)
        new_files = list(find_files([path], walk))
        if not new_files and not searched:
            echo(f"{printable(path)}: no audio files in this folder", err=True)
        files += new_files
    return files


def _split_paths(
    paths: Sequence[Path], zero_shot: str | None, model: str | None, prompt: str | None
) -> tuple[Path | None, list[Path], list[Path]]:
    """Separate the bundle, which is the first path or a ready model, from paths of images and of audio."""
    from genretree.bundle.ready import SCHEME
    from genretree.prediction.from_images import find_content

    content = {path: find_content(path) for path in dict.fromkeys(paths)}
    if prompt is not None and zero_shot is None:
        raise click.UsageError("--prompt needs --zero-shot")
    if model is not None and zero_shot is not None:
        raise click.UsageError("give either --model or --zero-shot")
    is_bundle = (paths[0] / "bundle.json").exists()
    instead = "--zero-shot" if model is None else "--model"
    if is_bundle and (zero_shot, model) != (None, None):
        raise click.UsageError(f"give either a bundle ({printable(paths[0])}) or {instead}")
    bundle, rest = (None if model is None else Path(f"{SCHEME}{model}")), paths
    if is_bundle or (content[paths[0]] is None and (zero_shot, model) == (None, None)):
        bundle, rest = paths[0], paths[1:]
    if not rest:
        raise click.UsageError("Missing argument 'PATHS...': pass audio files or folders after the bundle.")
    images = [path for path in rest if content[path] == "images"]
    return bundle, images, [path for path in rest if content[path] != "images"]


def _load_bundle(
    bundle: Path,
    tree: str | None,
    vocabulary: Path | None,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    quiet: bool,
) -> Bundle:
    from genretree.bundle.bundle import load_bundle
    from genretree.bundle.hub import find_bundle

    if tree is not None or vocabulary is not None:
        option = "--vocabulary" if tree is None else "--tree"
        raise click.UsageError(f"{option} is for predictions without a bundle; {printable(bundle)} has its own tree")
    return load_bundle(find_bundle(bundle, download, not quiet), runtime, precision)


def _load_tagger() -> TaggerModel:
    from genretree.prediction.untrained import load_tagger

    return load_tagger()


def load_untrained(
    tree: str | None, vocabulary: Path | None, runtime: RuntimeChoice = "torch", precision: Precision = "auto"
) -> Bundle:
    """Load what predicts without a bundle; the network is loaded at once, so that missing weights end the command."""
    if precision == "bf16":
        raise click.UsageError(
            "mn04 runs in float32 only: bf16 changes its probabilities too much; leave --precision out"
        )
    if runtime == "onnxruntime":
        raise click.UsageError(
            f"--runtime {runtime} needs a bundle with an export; write one: genretree vocabulary "
            f"{tree or 'general'} --out BUNDLE, then: genretree export BUNDLE --to onnx"
        )
    from genretree.models.runtime.types import REFERENCE
    from genretree.prediction.untrained import GENERAL, untrained_bundle
    from genretree.vocabulary import Vocabulary

    known = Vocabulary.load(vocabulary)
    bundle = untrained_bundle(tree or GENERAL, known, "torch" if runtime == "torch" else "auto")
    if bundle.runtime != REFERENCE:
        return bundle
    if runtime == "openvino":
        raise click.ClickException(
            "the cache has no OpenVINO export of mn04 that can be used (missing, damaged, or OpenVINO not installed); "
            "write it: pip install 'genretree[openvino]', then: genretree weights get mn04"
        )
    bundle.model.torch_module()  # type: ignore[attr-defined]
    return bundle


def _load_zero_shot(
    backbone: str, tree: str | None, vocabulary: Path | None, prompt: str | None, runtime: RuntimeChoice, download: bool
) -> Bundle:
    if vocabulary is not None:
        raise click.UsageError("--vocabulary has no effect with --zero-shot; edit the names in --tree, or --prompt")
    if runtime not in ("auto", "torch"):
        raise click.UsageError(f"--runtime {runtime} needs a bundle with an export (see: genretree export --help)")
    from genretree.models.families.text_prompts import DEFAULT_PROMPT
    from genretree.prediction.text_prompts import text_prompt_bundle
    from genretree.prediction.untrained import GENERAL
    from genretree.taxonomy import Taxonomy

    return text_prompt_bundle(
        Taxonomy.load(tree or GENERAL),
        backbone,
        prompt or DEFAULT_PROMPT,
        download=download,
        show=lambda plan: echo(plan.text, err=True),
    )


def _show_prediction(prediction: Prediction) -> None:
    from genretree.cli.tables import show_prediction
    from genretree.progress import print_above_bars

    with print_above_bars():
        show_prediction(prediction)
