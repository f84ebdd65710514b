"""Commands that make bundles and figures: train, evaluate, compare, recipes, quickstart."""

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
@click.option(
    "--out", type=FOLDER, default=Path("quickstart"), show_default=True, help="Folder for everything it makes."
)
@click.option("--seed", default=0, show_default=True)
@quiet_option
def quickstart(out: Path, seed: int, quiet: bool) -> None:
    """Do the whole job on the built-in composed corpus, in a few minutes."""
    from genretree.cli.quickstart import run_quickstart

    run_quickstart(out, seed=seed, progress=not quiet)


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--model", "family", help="cnn, efficientnet-b0, ast, boosting, musicnn or ensemble.")
@click.option("--recipe", "recipe_name", help="Settings by name (see: genretree recipes) or a YAML file.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the bundle to make.")
@click.option("--split", "split_name", default="default", show_default=True, help="Which of the store's splits.")
@click.option("--epochs", type=int, help="Most epochs (iterations for boosting).")
@click.option(
    "--heads", type=click.Choice(["tree", "independent"]), help="independent: the published form, for comparison."
)
@click.option("--weights", help="For networks: file, folder, Hub name or a name from `weights list`; or none.")
@click.option("--seed", type=int, help="Of initial weights, order and augmentation.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any other setting; may be repeated.")
@click.option("--restart", is_flag=True, help="Don't go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
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
    **given: Any,
) -> None:
    """Train a model on STORE; after an interruption the same command goes on from the last checkpoint."""
    from genretree.corpus.store import Store
    from genretree.models import get_family
    from genretree.training.recipes import Recipe
    from genretree.training.train import train as train_bundle

    if (family is None) == (recipe_name is None):
        raise SettingsError("give either --model or --recipe")
    settings: dict[str, Any] = {}
    if recipe_name is not None:
        recipe = Recipe.load(recipe_name)
        family, settings = recipe.family, dict(recipe.settings)
    assert family is not None
    settings.update({name: value for name, value in given.items() if value is not None})
    settings.update(parse_assignments(assignments))
    kind = get_family(family)
    chosen = kind.settings_type.build(settings)
    bundle = train_bundle(
        Store(store), family, out, chosen, split=split_name, restart=restart, overwrite=overwrite, progress=not quiet
    )
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in bundle.training["facts"].items())
    echo(f"{out}: {family} trained in {bundle.training['seconds']:.0f} s ({facts}).")
    echo(f"Next: genretree evaluate {out} {store} --out REPORT")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="AUDIO...", type=click.Path(path_type=Path))
@click.option("--model", "family", required=True, help="cnn, efficientnet-b0 or ast.")
@click.option(
    "--teacher", type=click.Choice(["musicnn"]), default="musicnn", show_default=True, help="What it learns from."
)
@click.option("--out", type=FOLDER, required=True, help="Folder of the weights to make.")
@click.option("--split", "split_name", help="For a store: learn from all but the test part of this split.")
@click.option("--epochs", type=int, help="Most epochs.  [default: 10]")
@click.option("--weights", help="File, folder or name of pretrained weights, or none.  [default: none]")
@click.option("--seed", type=int, help="Of initial weights, order and augmentation.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any other setting; may be repeated.")
@click.option("--restart", is_flag=True, help="Don't go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@quiet_option
def pretrain(
    sources: Sequence[Path],
    family: str,
    teacher: str,
    out: Path,
    split_name: str | None,
    assignments: Sequence[str],
    restart: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Teach a network that sees images what the published MusiCNN networks hear in any music, labelled or not.

    AUDIO are sound files and folders of them, or one store. `genretree train --weights OUT` starts from what it makes.
    """
    from genretree.corpus.manifest import Failure
    from genretree.models.pretrained.backbones import METADATA_FILE
    from genretree.training.pretrain import pretrain as pretrain_network

    settings = {"teacher": teacher, **{name: value for name, value in given.items() if value is not None}}
    settings.update(parse_assignments(assignments))
    facts = pretrain_network(
        sources,
        family,
        out,
        settings,
        split=split_name,
        restart=restart,
        overwrite=overwrite,
        progress=not quiet,
    )
    if as_json:
        echo_json(facts)
        return
    echo_failures([Failure(**failure) for failure in facts["failures"]], f"{out / METADATA_FILE}")
    explained = facts["explained"]
    share = "" if explained is None else f"; explains {100 * explained:.0f} % of what the teacher says of other tracks"
    echo(f"{out}: learned from {facts['tracks']} tracks ({facts['slices']} slices){share}.")
    echo(f"Next: genretree train STORE --recipe {family}-ours --weights {out} --out BUNDLE")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("store", type=FOLDER)
@click.option("--part", type=click.Choice(["test", "validation", "train", "all"]), default="test", show_default=True)
@click.option(
    "--split", "split_name", help="Which of the store's splits; by default the one the bundle was trained with."
)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder for metrics.json, report.html and pictures.")
@click.option("--against", type=FOLDER, metavar="BUNDLE", help="Another bundle, to say whether BUNDLE is better.")
@click.option("--per-class", is_flag=True, help="Print precision, recall and F1 of every class.")
@click.option("--seed", default=0, show_default=True, help="Seed for the bootstrap.")
@runtime_options("torch", "float32")
@download_option
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json too.")
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
    """Measure how right BUNDLE is on STORE, by slice and by track, and how far to trust that.

    Intervals are over groups; every figure says whether the music was new. OUT gets metrics.json, tracks.csv (what
    became of every track), report.html and the confusion matrices.
    """
    from genretree.bundle.bundle import load_bundle
    from genretree.bundle.hub import find_bundle
    from genretree.cli.tables import show_classes, show_differences, show_evaluations
    from genretree.corpus.store import Store
    from genretree.evaluation.evaluate import compare_evaluations, describe_pair
    from genretree.evaluation.evaluate import evaluate as evaluate_bundle
    from genretree.evaluation.report import save_evaluation

    opened = Store(store)
    places = [find_bundle(each, download, not quiet) for each in ([bundle] if against is None else [bundle, against])]
    loaded = [load_bundle(each, runtime, precision) for each in places]
    found = [
        evaluate_bundle(each, opened, part=part, split=split_name, seed=seed, progress=not quiet) for each in loaded
    ]
    second = None if against is None else (found[1], compare_evaluations(*found))
    report = save_evaluation(found[0], out, opened, second)
    if as_json:
        echo_json(json.loads((out / "metrics.json").read_text(encoding="utf-8")), indent=1)
        return
    show_evaluations(found)
    if per_class:
        show_classes(found[0])
    if second is not None:
        show_differences(describe_pair(*found), second[1])
    echo(f"Report: {report}")


@click.command()
@click.argument("store", type=FOLDER)
@click.option("--models", default="all", show_default=True, help="Families with commas between them, or all.")
@click.option("--out", type=FOLDER, required=True, help="Folder for bundles, reports and the results table.")
@click.option("--split", "split_name", default="default", show_default=True, help="Which of the store's splits.")
@click.option("--seed", default=0, show_default=True, help="Of training and of the bootstrap.")
@click.option(
    "--recipes",
    "kind",
    type=click.Choice(["published", "ours", "scratch"]),
    help="Which recipes to take; by default the families' own settings.",
)
@click.option("--published", is_flag=True, help="Show the study's figures, and the difference, below each model's.")
@click.option("--set", "assignments", multiple=True, metavar="MODEL:NAME=VALUE", help="A family's setting; repeatable.")
@quiet_option
def compare(
    store: Path,
    models: str,
    out: Path,
    split_name: str,
    seed: int,
    kind: str | None,
    published: bool,
    assignments: Sequence[str],
    quiet: bool,
) -> None:
    """Train and evaluate several families on STORE and write the results table; goes on where it stopped."""
    from genretree.corpus.store import Store
    from genretree.evaluation.compare import compare as compare_families
    from genretree.evaluation.compare import format_markdown
    from genretree.models import family_names
    from genretree.training.recipes import Recipe, recipe_names

    chosen = family_names() if models == "all" else [name.strip() for name in models.split(",")]
    settings: dict[str, dict[str, Any]] = {}
    if kind is not None:
        named = {name: f"{name}-{kind}" for name in chosen}
        lacking = [name for name, recipe in named.items() if recipe not in recipe_names()]
        if models != "all" and lacking:
            raise SettingsError(f"no recipe '{named[lacking[0]]}'; there are: {', '.join(recipe_names())}")
        chosen = [name for name in chosen if name not in lacking]  # 'all' means all that there is such a recipe for
        settings = {name: dict(Recipe.load(named[name]).settings) for name in chosen}
    for text in assignments:
        family, colon, assignment = text.partition(":")
        if not colon:
            raise SettingsError(f"--set takes MODEL:NAME=VALUE here, not '{text}'")
        settings.setdefault(family, {}).update(parse_assignments([assignment]))
    found = compare_families(
        Store(store), out, chosen, settings, split=split_name, seed=seed, published=published, progress=not quiet
    )
    echo(format_markdown(found, published))
    echo(f"Report: {out / 'results.html'}")
    if found.skipped:
        sys.exit(1)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes for `train --recipe`, or show the recipe NAME with its command, time and figures."""
    from genretree.cli.tables import show_recipe, show_recipes
    from genretree.training.recipes import Recipe, recipe_names

    found = {each: Recipe.load(each) for each in ([name] if name else recipe_names())}
    if as_json:
        echo_json({each: recipe.model_dump(mode="json") for each, recipe in found.items()}, indent=1)
    elif name:
        show_recipe(name, found[name])
    else:
        show_recipes(found)
