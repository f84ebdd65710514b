"""The commands `cross-validate` and `learning-curve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from genretree.cli.options import FOLDER, OUT_FOLDER, parse_assignments, quiet_option
from genretree.cli.output import echo, echo_json
from genretree.errors import SettingsError


@click.command("cross-validate")
@click.argument("store", type=FOLDER)
@click.option("--recipe", "recipes", multiple=True, metavar="NAME", help="Recipe or family; repeatable.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Output folder for predictions and the results table.")
@click.option("--folds", default=5, show_default=True, help="Number of folds.")
@click.option("--nested", is_flag=True, help="Choose among recipes and choices within the training folds.")
@click.option("--inner-folds", default=3, show_default=True, help="Folds of the inner cross-validation.")
@click.option("--seeds", default="0", show_default=True, help="Comma-separated seeds for folds and training.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Setting of all recipes; repeatable.")
@click.option(
    "--choose", "choices", multiple=True, metavar="NAME=[VALUE, ...]", help="Values to choose from; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print results.json.")
@quiet_option
def cross_validate(
    store: Path,
    recipes: Sequence[str],
    out: Path,
    folds: int,
    nested: bool,
    inner_folds: int,
    seeds: str,
    assignments: Sequence[str],
    choices: Sequence[str],
    as_json: bool,
    quiet: bool,
) -> None:
    """Cross-validate recipes on STORE by whole artists; resumes where it stopped.

    Every track is predicted by a model that saw neither it nor its artist. With --nested, the recipe and the values of
    --choose are chosen within the training folds, so that the reported accuracy is not that of the luckiest choice.
    """
    from genretree.corpus.store import Store
    from genretree.evaluation.cross_validate import cross_validate as run_cross_validation
    from genretree.evaluation.cross_validate import format_cross_validation

    result = run_cross_validation(
        Store(store),
        out,
        recipes,
        settings=parse_assignments(assignments),
        choices=parse_assignments(choices),
        folds=folds,
        nested=nested,
        inner_folds=inner_folds,
        seeds=_parse_numbers(seeds, "--seeds"),
        progress=not quiet,
    )
    if as_json:
        echo_json(result.to_json(), indent=1)
        return
    echo(format_cross_validation(result))


@click.command("learning-curve")
@click.argument("store", type=FOLDER)
@click.option("--recipe", required=True, metavar="NAME", help="Recipe or family.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Output folder for predictions, the table and the plot.")
@click.option("--sizes", help="Comma-separated numbers of artists in each class.  [default: powers of two]")
@click.option("--folds", default=5, show_default=True, help="Number of folds.")
@click.option("--seeds", default="0", show_default=True, help="Comma-separated seeds for folds, samples and training.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Another setting; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print curve.json.")
@quiet_option
def learning_curve(
    store: Path,
    recipe: str,
    out: Path,
    sizes: str | None,
    folds: int,
    seeds: str,
    assignments: Sequence[str],
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure accuracy against the number of artists in each class of STORE, and extrapolate; resumes where it stopped.

    Answers what more labelled artists would bring.
    """
    from genretree.corpus.store import Store
    from genretree.evaluation.learning_curve import format_curve
    from genretree.evaluation.learning_curve import learning_curve as measure_curve

    result = measure_curve(
        Store(store),
        out,
        recipe,
        settings=parse_assignments(assignments),
        sizes=None if sizes is None else _parse_numbers(sizes, "--sizes"),
        folds=folds,
        seeds=_parse_numbers(seeds, "--seeds"),
        progress=not quiet,
    )
    if as_json:
        echo_json(result.to_json(), indent=1)
        return
    echo(format_curve(result))
    echo(f"Plot: {out / 'curve.png'}")


def _parse_numbers(text: str, option: str) -> list[int]:
    """Parse comma-separated numbers of an option."""
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise SettingsError(f"{option} must be whole numbers such as 0,1,2, got '{text}'") from error
