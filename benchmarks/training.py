r"""Training steps, side by side with the published loops in plain float32.

    python benchmarks/training.py STORE [--models efficientnet-b0 ast cnn] [--batch-size 32] [--steps 60] [--json FILE]

Each family is trained from one start by two ways, each in a process of its own:

- ours: what `genretree train` runs (memory-mapped batches, the Trainer, channels_last, the precision that a trial finds
  faster, pages kept by the allocator);
- published: a PyTorch loop as in the study's notebooks, but for the JPEGs: a data set that gives one slice at a time
  (as float32 tensor, normalised, SpecAugment slice by slice) to a DataLoader, contiguous float32 through and through,
  the allocator as it is. The network is the same, which for EfficientNet-B0 is transformers'.

Settings are those of the recipes `MODEL-published` but for the batch size (published are 64, 128 and 32), from scratch.
The ways take turns, `--turn` steps each, and learn from the same batches in the same order. A step is all from fetching
a batch to the update of the weights; the first turn is not counted. What is printed is the ratio of median seconds
(published : ours) with its range over the turns, the shares of our step spent on fetching the batch and on changing it
(averaging down, augmenting, normalising), and how far apart the loss curves lie: the mean distance of their moving
averages, next to that of two of ours with other seeds (other weights, order and masks).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, get_constant_schedule, get_cosine_schedule_with_warmup, set_seed

from genretree.corpus.store import Store
from genretree.models import get_family
from genretree.models.base import FitContext, SliceDataset
from genretree.models.neural.network import GenreNetwork
from genretree.training.data import slice_dataset_of
from genretree.training.recipes import Recipe

MODELS = ("efficientnet-b0", "ast", "cnn")
SMOOTHING = 10  # steps of the moving average of a loss curve
MOST_BATCHES = 20  # an epoch


@dataclass(frozen=True)
class Task:
    """What both ways train."""

    store: str
    family: str
    batch_size: int
    epochs: int
    seed: int
    image_size: int

    def settings(self) -> Any:
        """Give the published settings, from scratch, at the benchmark's batch and epochs."""
        values = dict(Recipe.load(f"{self.family}-published").settings)
        values |= {"weights": "none", "batch_size": self.batch_size, "epochs": self.epochs, "seed": self.seed}
        return get_family(self.family).settings_type.build({**values, "image_size": self.image_size})

    def examples(self) -> SliceDataset:
        """Take whole batches of the store's slices."""
        store = Store(self.store)
        rows = store.rows()
        return slice_dataset_of(store, rows[: self.batches * self.batch_size])

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return min(MOST_BATCHES, len(Store(self.store).rows()) // self.batch_size)

    def build(self) -> GenreNetwork:
        """Make the seeded network."""
        set_seed(self.seed)
        module = import_module(get_family(self.family).__module__)
        network: GenreNetwork = module.build_network(Store(self.store).taxonomy, self.settings())
        return network


# -- one way, in a process of its own ------------------------------------------------------------------------


class Over(Exception):  # noqa: N818
    """There are no more turns."""


@dataclass
class Gate:
    """Lets a way go on when the other has had its turn, and says what it did: lines of JSON on standard streams."""

    steps: int = 0
    began: float = 0.0
    losses: list[float] = field(default_factory=list)
    fetching: float = 0.0
    changing: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    given: deque[list[int]] = field(default_factory=deque)

    def wait(self) -> None:
        """Report a turn that is over, and wait for the next."""
        if self.steps == len(self.losses):
            self.report()
            order = json.loads(sys.stdin.readline() or "null")
            if order is None:
                raise Over
            self.steps, self.losses, self.batches = order["steps"], [], []
            self.given.extend(order["batches"])
            self.fetching = self.changing = 0.0
            self.began = time.perf_counter()

    def report(self) -> None:
        """Say how the turn went."""
        seconds = time.perf_counter() - self.began
        print(
            json.dumps(
                {
                    "seconds": seconds,
                    "losses": self.losses,
                    "fetching": self.fetching,
                    "changing": self.changing,
                    "batches": self.batches,
                }
            ),
            flush=True,
        )


@dataclass(frozen=True)
class Watched(SliceDataset):
    """Examples that note what is read of them, and how long that takes."""

    gate: Gate = field(default_factory=Gate)
    read: dict[int, list[int]] = field(default_factory=dict)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images."""
        began = time.perf_counter()
        images = super().take(positions)
        self.gate.fetching += time.perf_counter() - began
        self.read[images.ctypes.data] = positions.tolist()
        return images


def train_ours(task: Task) -> None:
    """Train as the command does, stopping at the gate before each turn."""
    gate = Gate()
    known = task.examples()
    watched = Watched(**{name: getattr(known, name) for name in SliceDataset.__dataclass_fields__}, gate=gate)
    step = Trainer.training_step

    def gated(trainer: Any, model: Any, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        gate.wait()
        gate.batches.append(watched.read[inputs["images"].data_ptr()])
        loss: Tensor = step(trainer, model, inputs, *rest)
        gate.losses.append(float(loss))
        return loss

    def timed(change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            began = time.perf_counter()
            changed = change(*given)
            gate.changing += time.perf_counter() - began
            return changed

        return run

    setattr(Trainer, "training_step", gated)  # noqa: B010
    for name in ("_downsample", "_augment", "_normalise", "_mask"):
        setattr(GenreNetwork, name, timed(getattr(GenreNetwork, name)))
    with tempfile.TemporaryDirectory() as folder:
        settings = task.settings()
        get_family(task.family).fit(watched, None, Store(task.store).taxonomy, settings, FitContext(Path(folder)))
    gate.wait()


class Slices(Dataset[tuple[Tensor, int]]):
    """The study's data set: a slice at a time, as a normalised tensor, masked where the recipe says so."""

    def __init__(self, known: SliceDataset, network: GenreNetwork, settings: Any, gate: Gate) -> None:
        self.images = known.take(np.arange(len(known)))
        self.leaves = known.leaves
        self.network = network
        self.settings = settings
        self.gate = gate
        self.mean, self.scale = network.mean[0].clone(), network.scale[0].clone()

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        began = time.perf_counter()
        image = torch.from_numpy(self.images[position][self.network.channels])
        pixels = (image.float() / 255 - self.mean) / self.scale
        if torch.rand(1).item() < self.settings.mask_probability:
            self._mask(pixels)
        self.gate.fetching += time.perf_counter() - began
        return pixels, int(self.leaves[position])

    def _mask(self, pixels: Tensor) -> None:
        share = self.settings.image_size / 224
        for count, widest, axis in (
            (self.settings.time_masks, self.settings.time_mask_width, 2),
            (self.settings.frequency_masks, self.settings.frequency_mask_width, 1),
        ):
            for _ in range(count):
                width = int(torch.randint(0, round(widest * share) + 1, (1,)))
                start = int(torch.randint(0, pixels.shape[axis] - width + 1, (1,)))
                pixels.narrow(axis, start, width).zero_()


def train_published(task: Task) -> None:
    """Train by a plain loop, on the batches that the other way had."""
    gate, settings = Gate(), task.settings()
    network = task.build().train()
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = round(min(settings.warmup_epochs, settings.epochs / 4) * task.batches)
    if settings.schedule == "study":  # reacts to the validation loss, and there is no validation here
        schedule = get_constant_schedule(optimizer)
    else:
        schedule = get_cosine_schedule_with_warmup(optimizer, warmup, settings.epochs * task.batches)

    def order() -> Iterator[list[int]]:
        while True:
            gate.wait()
            yield gate.given.popleft()

    slices = Slices(task.examples(), network, settings, gate)
    for pixels, leaves in DataLoader(slices, batch_sampler=order()):
        scores = network.backbone.classify(network.backbone.features(pixels.contiguous()))  # type: ignore[operator]
        loss = network.head.loss(scores, leaves)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_gradient_norm)
        optimizer.step()
        schedule.step()
        gate.losses.append(loss.item())


# -- both ways, by turns -------------------------------------------------------------------------------------


class RuntimeConfig:
    """A way in its process."""

    def __init__(self, name: str, task: Task) -> None:
        words = [sys.executable, __file__, json.dumps(task.__dict__), "--way", name]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()  # it stands at the gate

    def run(self, steps: int, batches: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
        """Let it make some steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"steps": steps, "batches": batches}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """End it."""
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a way of training failed with status {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


def compare(task: Task, turns: int, turn: int) -> dict[str, Any]:
    """Let both ways take turns."""
    ours, published = RuntimeConfig("ours", task), RuntimeConfig("published", task)
    rounds = []
    for _ in range(turns):
        first = ours.run(turn)
        rounds.append((first, published.run(turn, first["batches"])))
    ours.stop()
    published.stop()
    counted = rounds[1:]
    seconds = [[way["seconds"] / turn for way in ways] for ways in counted]
    return {
        "ours": [pair[0] for pair in seconds],
        "published": [pair[1] for pair in seconds],
        "fetching": sum(way["fetching"] for way, _ in counted) / sum(way["seconds"] for way, _ in counted),
        "changing": sum(way["changing"] for way, _ in counted) / sum(way["seconds"] for way, _ in counted),
        "published_fetching": sum(way["fetching"] for _, way in counted) / sum(way["seconds"] for _, way in counted),
        "losses": {
            "ours": [[loss for way, _ in rounds for loss in way["losses"]]],
            "published": [loss for _, way in rounds for loss in way["losses"]],
        },
    }


def learn_alone(task: Task, turns: int, turn: int) -> list[float]:
    """Give our losses, untimed."""
    ours = RuntimeConfig("ours", task)
    losses: list[float] = [loss for _ in range(turns) for loss in ours.run(turn)["losses"]]
    ours.stop()
    return losses


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean distance of two loss curves' moving averages."""
    window = np.ones(min(SMOOTHING, len(one))) / min(SMOOTHING, len(one))
    return float(np.abs(np.convolve(np.subtract(one, other), window, "valid")).mean())


def measure(task: Task, turns: int, turn: int, seeds: int) -> dict[str, Any]:
    """Compare the ways on one family, and its curves with those of other seeds."""
    found = compare(task, turns, turn)
    curves = found["losses"]["ours"]
    for seed in range(1, seeds):
        curves.append(learn_alone(Task(**{**task.__dict__, "seed": task.seed + seed}), turns, turn))
    pairs = [(one, other) for place, one in enumerate(curves) for other in curves[:place]]
    return {
        "family": task.family,
        "batch_size": task.batch_size,
        "steps": turns * turn,
        "apart": distance(curves[0], found["losses"]["published"]),
        "seeds_apart": [distance(*pair) for pair in pairs],
        **found,
    }


def ratios(row: dict[str, Any]) -> tuple[float, float, float]:
    """Ratio of medians, and the least and greatest ratio of a turn."""
    each = [usual / ours for usual, ours in zip(row["published"], row["ours"], strict=True)]
    return statistics.median(row["published"]) / statistics.median(row["ours"]), min(each), max(each)


def line(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    middle, low, high = ratios(row)
    usual, ours = (row["batch_size"] / statistics.median(row[way]) for way in ("published", "ours"))
    seeds = row["seeds_apart"]
    cells = [
        f"{row['family']}, batch {row['batch_size']}",
        f"{usual:.1f}",
        f"{ours:.1f}",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{row['fetching']:.1%}",
        f"{row['changing']:.1%}",
        f"{row['apart']:.3f}",
        f"{min(seeds):.3f} to {max(seeds):.3f}" if seeds else "-",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| family | published, slices/s | ours, slices/s | ratio (range) | fetching | changing | curves apart "
    "| seeds apart |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turn", type=int, default=4, help="steps of one way before the other's turn")
    parser.add_argument("--seeds", type=int, default=3, help="of ours, to compare loss curves with")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=["ours", "published"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        with suppress(Over):
            (train_ours if given.way == "ours" else train_published)(Task(**json.loads(given.store)))
        return
    turns = max(2, given.steps // given.turn)
    rows = []
    print(HEAD, flush=True)
    for family in given.models:
        task = Task(given.store, family, given.batch_size, 1, 0, given.image_size)
        if not task.batches:
            raise SystemExit(f"{given.store}: holds fewer slices than a batch; give a larger store")
        epochs = -(-turns * given.turn // task.batches) + 1  # one more than is run: the gate is before a step
        rows.append(measure(Task(**{**task.__dict__, "epochs": epochs}), turns, given.turn, given.seeds))
        print(line(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
