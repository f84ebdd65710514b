"""How long the published recipes take on the whole data set on this machine, from timed steps.

    python benchmarks/full_run.py [--steps 12] [--models cnn efficientnet-b0 ast] [--batch-size N]

Trains each network by its published recipe (from scratch: the weights don't change the time) on generated images for
one epoch, and takes the median of the seconds from one batch to the next; the first ones, in which memory is allocated
and kernels are chosen, don't count. Uses the GPU if there is one. Prints slices a second, and hours for 29,100 slices
and all epochs with the 3,637 slices of validation. Where the middle half of the steps differ by more than half of the
median, as on a machine under other load, it prints no figures and exits with 1.

The recipes' own figures (`speed` in src/genretree/recipes, which `genretree recipes` and docs/reproduce.md show) were
measured with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from genretree.models import get_family
from genretree.models.base import FitContext, SliceDataset
from genretree.taxonomy import Taxonomy
from genretree.training.recipes import Recipe, Speed

FEWEST_STEPS = 5
WARM_UP = 3  # steps
MOST_SPREAD = 0.5  # of the middle half of the steps, as a share of their median


class UnreliableError(Exception):
    """The steps differ too much for their median to say anything."""


@dataclass(frozen=True)
class TimedExamples(SliceDataset):
    """Examples that note when each batch is taken."""

    taken: list[float] = field(default_factory=list)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read a batch, as `SliceDataset.take`."""
        self.taken.append(time.perf_counter())
        return super().take(positions)


def median_step(taken: Sequence[float]) -> float:
    """Return the median of the seconds between the times at which batches were taken; raises UnreliableError."""
    seconds = np.diff(taken)
    if len(seconds) < FEWEST_STEPS:
        raise UnreliableError(f"{len(seconds)} steps were timed, at least {FEWEST_STEPS} are needed")
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    if high - low > MOST_SPREAD * median:
        raise UnreliableError(
            f"half of the steps take {low:.2f} to {high:.2f} s each; run it on a machine without other load, or with "
            "more --steps"
        )
    return float(median)


def time_steps(family: str, settings: dict[str, object], steps: int) -> float:
    """Return slices a second in training; raises UnreliableError."""
    kind = get_family(family)
    batch = int(str(settings["batch_size"]))
    taxonomy = Taxonomy.builtin("ccmusic")
    n = (WARM_UP + steps + 1) * batch  # the last batch is only taken
    size = int(str(settings["image_size"]))
    images = np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    examples = TimedExamples(images, np.arange(n), np.arange(n) % len(taxonomy.leaves), np.arange(n), np.arange(n))
    chosen = kind.settings_type.build({**settings, "epochs": 1})
    with tempfile.TemporaryDirectory() as folder:
        kind.fit(examples, None, taxonomy, chosen, FitContext(Path(folder)))
    return batch / median_step(examples.taken[-(steps + 1) :])


def count_operations(family: str, settings: dict[str, object]) -> float:
    """Return the floating-point operations (a multiply-add is two) of scoring one slice, in thousand millions."""
    from importlib import import_module

    kind = get_family(family)
    module = import_module(kind.__module__)
    network = module.build_network(Taxonomy.builtin("ccmusic"), kind.settings_type.build(settings)).eval()
    counter = FlopCounterMode(display=False)
    size = int(str(settings["image_size"]))
    with counter, torch.inference_mode():
        network(torch.zeros((1, 3, size, size), dtype=torch.uint8))
    return counter.get_total_flops() / 1e9


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help=f"steps to time, at least {FEWEST_STEPS}")
    parser.add_argument("--models", nargs="+", default=["cnn", "efficientnet-b0", "ast"])
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    given = parser.parse_args()
    if given.steps < FEWEST_STEPS:
        parser.error(f"--steps is {given.steps}; give at least {FEWEST_STEPS}, so that their median means something")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(f"{device}\n")
    print("| model | GFLOP a slice, forward | slices/s in training | epochs | hours |\n| --- | --- | --- | --- | --- |")
    for family in given.models:
        recipe = Recipe.load(f"{family}-published")
        settings = dict(recipe.settings)
        if "weights" in settings:
            settings["weights"] = "none"
        if given.batch_size:
            settings["batch_size"] = given.batch_size
        try:
            speed = time_steps(family, settings, given.steps)
        except UnreliableError as error:
            sys.exit(f"{family}: not reliable, {error}")
        epochs = int(settings["epochs"])
        hours = Speed(slices_per_second=speed, machine="this one").hours(epochs)
        print(
            f"| {family} | {count_operations(family, settings):.2f} | {speed:.1f} | {epochs} | {hours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
