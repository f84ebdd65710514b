"""How long the published recipes take on the whole data set on this machine, from a few timed steps.

    python benchmarks/full_run.py [--steps 8] [--models cnn efficientnet-b0 ast] [--batch-size N]

Trains each network by its published recipe (from scratch: the weights don't change the time) on generated images for
one epoch and for three, and takes the difference, so that building and warming up don't count. Uses the GPU if
there is one. Prints slices a second, and hours for 29,100 slices and all epochs with the 3,637 slices of validation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from genretree.models import get_family
from genretree.models.contract import Examples, FitContext
from genretree.recipe import Recipe
from genretree.taxonomy import Taxonomy

TRAIN, VALIDATION = 29100, 3637


def time_steps(family: str, settings: dict[str, object], steps: int) -> float:
    """Return slices a second in training."""
    kind = get_family(family)
    batch = int(str(settings["batch_size"]))
    taxonomy = Taxonomy.builtin("ccmusic")
    n = steps * batch
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 224, 224), dtype=np.uint8)
    examples = Examples(images, np.arange(n), np.arange(n) % len(taxonomy.leaves), np.arange(n), np.arange(n))
    seconds = []
    for epochs in (1, 3):
        chosen = kind.settings_type.build({**settings, "epochs": epochs})
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            kind.fit(examples, None, taxonomy, chosen, FitContext(Path(folder)))
            seconds.append(time.perf_counter() - began)
    return 2 * n / (seconds[1] - seconds[0])


def count_operations(family: str, settings: dict[str, object]) -> float:
    """Return the floating-point operations (a multiply-add is two) of scoring one slice, in thousand millions."""
    from importlib import import_module

    kind = get_family(family)
    module = import_module(kind.__module__)
    network = module.build_network(Taxonomy.builtin("ccmusic"), kind.settings_type.build(settings)).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network(torch.zeros((1, 3, 224, 224), dtype=torch.uint8))
    return counter.get_total_flops() / 1e9


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--models", nargs="+", default=["cnn", "efficientnet-b0", "ast"])
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    given = parser.parse_args()
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
        speed = time_steps(family, settings, given.steps)
        epochs = int(settings["epochs"])
        hours = epochs * (TRAIN + VALIDATION / 3) / speed / 3600  # scoring costs about a third of a training step
        print(
            f"| {family} | {count_operations(family, settings):.2f} | {speed:.1f} | {epochs} | {hours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
