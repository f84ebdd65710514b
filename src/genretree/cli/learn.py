"""The commands `quickstart`, `train`, `pretrain`, `evaluate`, `compare` and `recipes`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.options import (
    FOLDER,
    OUT_FOLDER,
    download_option,
    parse_assignments,
    quiet_option,
    runtime_options,
)
from genretree.cli.output import echo, echo_failures, echo_json
from genretree.errors import SettingsError

if TYPE_CHECKING:
    from genretree.models.runtime.types import Precision, RuntimeChoice


@click.command()
@click.option("--out", type=FOLDER, default=Path("quickstart"), show_default=True, help="Output folder.")
@click.option("--seed", default=0, show_default=True, help="Seed for the corpus and for training.")
@quiet_option
def quickstart(out: Path, seed: int, quiet: bool) -> None:
    """Run the full pipeline on a bundled synthetic corpus, in a few minutes."""
    from genretree.cli.quickstart import run_quickstart

    run_quickstart(out, seed=seed, progress=not quiet)


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--model", "family", help="Model family, such as cnn, boosting or musicnn; an unknown name lists all.")
@click.option(
    "--backbone",
    help="Train a linear classifier on a large pretrained network: clap, maest, ast-audioset, hf://USER/NAME@REVISION "
    "or a folder.",
)
@click.option("--recipe", "recipe_name", help="Recipe with settings: a name (see: genretree recipes) or a YAML file.")
@click.option("--out", type=FOLDER, required=True, help="Output folder for the bundle.")
@click.option("--split", "split_name", default="default", show_default=True, help="Split of the store.")
@click.option("--epochs", type=int, help="Maximum number of epochs (iterations for boosting).")
@click.option(
    "--heads", type=click.Choice(["tree", "independent"]), help="Tree head, or independent heads as published."
)
@click.option(
    "--weights", help="Initial weights of networks: file, folder, Hub name, a name from `weights list`, or none."
)
@click.option("--seed", type=int, help="Seed for initialisation, shuffling and augmentation.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Another setting; repeatable.")
@click.option("--restart", is_flag=True, help="Start over instead of resuming an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@quiet_option
def train(
    store: Path,
    family: str | None,
    recipe_name: str | None,
    out: Path,
    split_name: str,
    assignments: Sequence[str],
    restart: bool,
    overwrite: bool,
    quiet: bool,
    **settings_options: Any,
) -> None:
    """Train a model on STORE; after an interruption the same command resumes from the last checkpoint."""
    from genretree.corpus.store import Store
    from genretree.models import get_family
    from genretree.training.recipes import Recipe
    from genretree.training.train import train as train_bundle

    if settings_options["backbone"] is not None and recipe_name is None:
        family = family or "backbone"
    if (family is None) == (recipe_name is None):
        raise SettingsError("give either --model or --recipe")
    settings: dict[str, Any] = {}
    if recipe_name is not None:
        recipe = Recipe.load(recipe_name)
        family, settings = recipe.family, dict(recipe.settings)
    assert family is not None
    settings.update({name: value for name, value in settings_options.items() if value is not None})
    settings.update(parse_assignments(assignments))
    bundle = train_bundle(
        Store(store),
        family,
        out,
        get_family(family).settings_type.build(settings),
        split=split_name,
        restart=restart,
        overwrite=overwrite,
        progress=not quiet,
    )
    metadata = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in bundle.training["facts"].items())
    echo(f"{out}: {family} trained in {bundle.training['seconds']:.0f} s{f' ({metadata})' if metadata else ''}.")
    licence = bundle.training.get("initial_weights", {}).get("licence")
    if family == "backbone":
        echo(f"The bundle contains the network; its licence applies to the bundle: {licence}.")
    echo(f"Next: genretree evaluate {out} {store} --out REPORT")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="AUDIO...", type=click.Path(path_type=Path))
@click.option("--model", "family", required=True, help="Model family of an image network, such as cnn.")
@click.option(
    "--teacher",
    type=click.Choice(["musicnn", "mn04", "both"]),
    default="musicnn",
    show_default=True,
    help="Network to distil.",
)
@click.option(
    "--variants",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Augmented versions of each file to add: pitch, tempo, equaliser, mixtures, codecs.",
)
@click.option("--out", type=FOLDER, required=True, help="Output folder for the weights.")
@click.option("--split", "split_name", help="For a store: exclude the test part of this split.")
@click.option("--epochs", type=int, help="Maximum number of epochs.  [default: 10]")
@click.option("--weights", help="Initial weights: file, folder, name, or none.  [default: none]")
@click.option("--seed", type=int, help="Seed for initialisation, shuffling and augmentation.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Another setting; repeatable.")
@click.option("--restart", is_flag=True, help="Start over instead of resuming an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace an existing folder.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
@quiet_option
def pretrain(
    sources: Sequence[Path],
    family: str,
    teacher: str,
    variants: int,
    out: Path,
    split_name: str | None,
    assignments: Sequence[str],
    restart: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings_options: Any,
) -> None:
    """Pretrain an image network by distilling MusiCNN, mn04 or both on any music, labelled or not.

    AUDIO are audio files and folders of them, or one store. Continue with `genretree train --weights OUT`.
    """
    from genretree.corpus.manifest import Failure
    from genretree.models.pretrained.origin import METADATA_FILE
    from genretree.training.pretrain import pretrain as pretrain_network

    settings = {"teacher": teacher, **{name: value for name, value in settings_options.items() if value is not None}}
    settings.update(parse_assignments(assignments))
    metadata = pretrain_network(
        sources,
        family,
        out,
        settings,
        split=split_name,
        restart=restart,
        overwrite=overwrite,
        progress=not quiet,
        variants=variants,
    )
    if as_json:
        echo_json(metadata)
        return
    echo_failures([Failure(**failure) for failure in metadata["failures"]], f"{out / METADATA_FILE}")
    explained = metadata["explained"]
    share = (
        "" if explained is None else f"; explains {100 * explained:.0f} % of the teacher's variance on held-out tracks"
    )
    echo(f"{out}: trained on {metadata['tracks']} tracks ({metadata['slices']} slices){share}.")
    echo(f"Next: genretree train STORE --recipe {family}-ours --weights {out} --out BUNDLE")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("store", type=FOLDER)
@click.option("--part", type=click.Choice(["test", "validation", "train", "all"]), default="test", show_default=True)
@click.option("--split", "split_name", help="Split of the store; by default the one used for training.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Output folder for metrics.json, report.html and plots.")
@click.option("--against", type=FOLDER, metavar="BUNDLE", help="Another bundle to compare BUNDLE with.")
@click.option("--per-class", is_flag=True, help="Print precision, recall and F1 of every class.")
@click.option("--seed", default=0, show_default=True, help="Seed for the calibration error by chance.")
@runtime_options("torch", "float32")
@download_option
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
@quiet_option
def evaluate(
    bundle: Path,
    store: Path,
    part: str,
    split_name: str | None,
    out: Path,
    against: Path | None,
    per_class: bool,
    seed: int,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Evaluate BUNDLE on STORE, by slice and by track, with confidence intervals and calibration.

    Confidence intervals are over groups, and every metric states whether the music was in the training data. Writes
    metrics.json, tracks.csv (one row per track), report.html and the confusion matrices to OUT.
    """
    from genretree.bundle.bundle import load_bundle
    from genretree.bundle.hub import find_bundle
    from genretree.cli.tables import show_classes, show_differences, show_evaluations
    from genretree.corpus.store import Store
    from genretree.evaluation.evaluate import compare_evaluations, describe_pair
    from genretree.evaluation.evaluate import evaluate as evaluate_bundle
    from genretree.evaluation.report import save_evaluation

    evaluated_store = Store(store)
    folders = [find_bundle(each, download, not quiet) for each in ([bundle] if against is None else [bundle, against])]
    loaded = [load_bundle(each, runtime, precision) for each in folders]
    evaluations = [
        evaluate_bundle(each, evaluated_store, part=part, split=split_name, seed=seed, progress=not quiet)
        for each in loaded
    ]
    second = None if against is None else (evaluations[1], compare_evaluations(*evaluations))
    report = save_evaluation(evaluations[0], out, evaluated_store, second)
    if as_json:
        echo_json(json.loads((out / "metrics.json").read_text(encoding="utf-8")), indent=1)
        return
    show_evaluations(evaluations)
    if per_class:
        show_classes(evaluations[0])
    if second is not None:
        show_differences(describe_pair(*evaluations), second[1])
    echo(f"Report: {report}")


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--models", default="all", show_default=True, help="Comma-separated families, or all.")
@click.option("--out", type=FOLDER, required=True, help="Output folder for bundles, reports and the results table.")
@click.option("--split", "split_name", default="default", show_default=True, help="Split of the store.")
@click.option("--seed", default=0, show_default=True, help="Seed for training and for the calibration error by chance.")
@click.option(
    "--recipes",
    "variant",
    type=click.Choice(["published", "ours", "scratch"]),
    help="Recipes to use; by default the families' default settings.",
)
@click.option("--published", is_flag=True, help="Show the published results and the differences below each model's.")
@click.option(
    "--set", "assignments", multiple=True, metavar="MODEL:NAME=VALUE", help="Setting of a family; repeatable."
)
@quiet_option
def compare(
    store: Path,
    models: str,
    out: Path,
    split_name: str,
    seed: int,
    variant: str | None,
    published: bool,
    assignments: Sequence[str],
    quiet: bool,
) -> None:
    """Train and evaluate several families on STORE and write a results table; resumes where it stopped."""
    from genretree.corpus.store import Store
    from genretree.evaluation.compare import compare as compare_families
    from genretree.evaluation.compare import format_markdown
    from genretree.models import family_names
    from genretree.training.recipes import Recipe, recipe_names

    families = family_names() if models == "all" else [name.strip() for name in models.split(",")]
    settings: dict[str, dict[str, Any]] = {}
    if variant is not None:
        recipe_of = {name: f"{name}-{variant}" for name in families}
        missing = [name for name, recipe in recipe_of.items() if recipe not in recipe_names()]
        if models != "all" and missing:
            raise SettingsError(f"unknown recipe '{recipe_of[missing[0]]}'; choose from: {', '.join(recipe_names())}")
        families = [name for name in families if name not in missing]  # 'all': those that have such a recipe
        settings = {name: dict(Recipe.load(recipe_of[name]).settings) for name in families}
    for text in assignments:
        family, colon, assignment = text.partition(":")
        if not colon:
            raise SettingsError(f"cannot parse --set '{text}'; write MODEL:NAME=VALUE")
        settings.setdefault(family, {}).update(parse_assignments([assignment]))
    comparison = compare_families(
        Store(store), out, families, settings, split=split_name, seed=seed, published=published, progress=not quiet
    )
    echo(format_markdown(comparison, published))
    echo(f"Report: {out / 'results.html'}")
    if comparison.skipped:
        sys.exit(1)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes for `train --recipe`, or show the recipe NAME with its command, time and results."""
    from genretree.cli.tables import show_recipe, show_recipes
    from genretree.training.recipes import Recipe, recipe_names

    recipe_by_name = {each: Recipe.load(each) for each in ([name] if name else recipe_names())}
    if as_json:
        echo_json({each: recipe.model_dump(mode="json") for each, recipe in recipe_by_name.items()}, indent=1)
    elif name:
        show_recipe(name, recipe_by_name[name])
    else:
        show_recipes(recipe_by_name)
