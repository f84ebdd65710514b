r"""The study's own training loops, reconstructed, against genretree: seconds of an epoch and validation accuracy.

    python benchmarks/published_loop.py [--models cnn ast efficientnet-b0 boosting] [--rows 4000] [--size 224]
        [--epochs 2] [--rounds 3] [--seconds 3600] [--workers 2] [--batch-size N] [--folder /tmp] [--json FILE]

Writes a replica of the data set (Arrow shards of JPEGs drawn in magma, a pattern for each genre under noise) and trains
each model on it in both ways by turns, each run in a process of its own, on the same machine:

- study: plain PyTorch and scikit-learn after the published notebooks. JPEGs are decoded in a DataLoader in every epoch
  (PIL, grey, resized), float32 on processors, mixed precision on CUDA, torch.optim.Adam, the scheduler stepped with the
  validation loss. The networks are written out here. Boosting: all images as one float32 array, StandardScaler,
  IncrementalPCA in batches of 512, HistGradientBoostingClassifier for each level.
- genretree: `MODEL-published` from a store, which `genretree prepare` makes once. For boosting with components by
  randomised iteration (`pca: randomized`), as fast as genretree goes with the study's trees; `--exact` takes
  IncrementalPCA there, too.

Everything from scratch: EfficientNet-B0 without ImageNet weights, which change no times. An epoch is all its training
batches and the validation part; a run of boosting counts as one. Building the network is part of the time in both ways,
importing libraries in neither. Printed are the ratio of median seconds (study : genretree) with its range over the
rounds, and the validation accuracy (plain mean of the levels) of the epoch with the least validation loss, by medians.
No round of a model begins after `--seconds` have passed in it. The seconds of `prepare` are printed apart: a user pays
them once, not in each training.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np
import torch
from ccmusic_rows import ROWS, write_replica
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

MODELS = ("cnn", "ast", "efficientnet-b0", "boosting")
LABELS = ("fst_level_label", "sec_level_label", "thr_level_label")
CLASSES = (2, 9, 16)
VARIANTS = 12  # drawings of each genre and modality
COMPONENTS, BOOSTING_SIZE, BOOSTING_BATCH, BOOSTING_ROUNDS = 512, 128, 512, 100
PATIENCE, LEAST_GAIN = 10, 1e-5

# -- the replica ---------------------------------------------------------------------------------------------


def draw_genre(leaf: int, modality: int, variant: int) -> bytes:
    """Return a JPEG of 496x369 pixels in magma: bands and beats of the genre under noise."""
    import matplotlib
    from PIL import Image

    own = np.random.default_rng((leaf, modality))
    noise = np.random.default_rng((leaf, modality, variant, 1))
    bands = np.repeat(0.5 + 0.25 * own.standard_normal(41), 9)[:, None]
    beats = 0.15 * np.sin(np.arange(496) * own.uniform(0.05, 0.5) + noise.uniform(0, 6))[None, :]
    grain = np.repeat(np.repeat(0.25 * noise.standard_normal((41, 62)), 9, axis=0), 8, axis=1)
    values = np.clip(bands + beats + grain, 0, 1)
    stream = io.BytesIO()
    Image.fromarray(matplotlib.colormaps["magma"](values, bytes=True)[..., :3]).save(stream, "JPEG", quality=75)
    return stream.getvalue()


def make_row(row: int, jpegs: list[bytes], tree: Any) -> dict[str, Any]:
    """Return a row of the data set; drawings lie in `jpegs` by genre, modality and variant."""
    leaf, variant = row % len(tree.leaves), np.random.default_rng(row).integers(0, VARIANTS, 3)
    images = {
        name: {"bytes": jpegs[(leaf * 3 + number) * VARIANTS + int(variant[number])], "path": None}
        for number, name in enumerate(("mel", "cqt", "chroma"))
    }
    labels = {name: int(tree.ancestors[leaf, level]) for level, name in enumerate(LABELS)}
    return {**images, **labels}


def open_part(replica: Path, part: str, columns: tuple[str, ...]) -> Any:
    """Return a part of the replica as the `datasets` library maps it into memory."""
    import datasets

    datasets.disable_progress_bars()
    shards = sorted((replica / "eval" / part).glob("*.arrow"))
    joined = datasets.concatenate_datasets([datasets.Dataset.from_file(str(shard)) for shard in shards])
    return joined.select_columns([*columns, *LABELS])


# -- the study's networks ------------------------------------------------------------------------------------


class StudyCnn(nn.Module):
    """The published residual network with squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
        width = 32
        for stage, wider in enumerate((64, 128, 256)):
            for block in range(2):
                layers.append(Residual(width, wider, 2 if stage and not block else 1, 0.3 if stage == 2 else 0.0))
                width = wider
            layers.append(Squeeze(wider, wider // 16, nn.ReLU()))
        layers += [nn.BatchNorm2d(256), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3)]
        self.layers = nn.Sequential(*layers)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, n)) for n in CLASSES
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Score images (n, 3, size, size)."""
        features = self.layers(images)
        return [head(features) for head in self.heads]


class Residual(nn.Module):
    """Pre-activation block whose shortcut takes the raw input."""

    def __init__(self, width: int, wider: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, wider, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(wider, wider, 3, 1, 1, bias=False),
        )
        same = stride == 1 and width == wider
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, wider, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the branch to the shortcut."""
        added: Tensor = self.branch(maps) + self.shortcut(maps)
        return added


class Squeeze(nn.Module):
    """Squeeze-and-excitation by 1x1 convolutions with bias."""

    def __init__(self, width: int, narrow: int, activation: nn.Module) -> None:
        super().__init__()
        gate = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, narrow, 1), activation, nn.Conv2d(narrow, width, 1)]
        self.gate = nn.Sequential(*gate, nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        """Scale the channels."""
        scaled: Tensor = maps * self.gate(maps)
        return scaled


class StudyTransformer(nn.Module):
    """The published transformer, of torch's own layers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 384, 16, 16)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, 384), std=0.02))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + (size // 16) ** 2, 384), std=0.02))
        self.dropout = nn.Dropout(0.4)
        layer = nn.TransformerEncoderLayer(384, 6, 1536, 0.4, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(384, n) for n in CLASSES)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Score images (n, 1, size, size)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1) + self.positions
        token = self.encoder(self.dropout(tokens))[:, 0]
        return [head(token) for head in self.heads]


class StudyEfficientNet(nn.Module):
    """EfficientNet-B0 as torchvision builds it, with the study's heads."""

    # expansion, kernel, stride, width, blocks
    STAGES = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        width, number, total = 32, 0, sum(stage[-1] for stage in self.STAGES)
        for expansion, kernel, stride, wider, blocks in self.STAGES:
            for block in range(blocks):
                drop = 0.2 * number / total
                layers.append(Inverted(width, wider, expansion, kernel, 1 if block else stride, drop))
                width, number = wider, number + 1
        layers += [_convolution(width, 1280, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3)]
        self.layers = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(1280, n) for n in CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Score images (n, 3, size, size)."""
        features = self.layers((images - self.get_buffer("mean")) / self.get_buffer("std"))
        return [head(features) for head in self.heads]


class Inverted(nn.Module):
    """Mobile inverted bottleneck with squeeze-and-excitation and stochastic depth."""

    def __init__(self, width: int, wider: int, expansion: int, kernel: int, stride: int, drop: float) -> None:
        super().__init__()
        hidden = width * expansion
        layers: list[nn.Module] = [_convolution(width, hidden, 1, 1)] if expansion > 1 else []
        layers += [_convolution(hidden, hidden, kernel, stride, hidden), Squeeze(hidden, width // 4, nn.SiLU())]
        layers += [nn.Conv2d(hidden, wider, 1, bias=False), nn.BatchNorm2d(wider)]
        self.branch = nn.Sequential(*layers)
        self.adds, self.drop = stride == 1 and width == wider, drop

    def forward(self, maps: Tensor) -> Tensor:
        """Run the block."""
        changed: Tensor = self.branch(maps)
        if not self.adds:
            return changed
        if self.training and self.drop:
            keep = torch.empty(len(maps), 1, 1, 1, device=maps.device).bernoulli_(1 - self.drop)
            changed = changed * keep / (1 - self.drop)
        return maps + changed


def _convolution(width: int, wider: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, wider, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(wider), nn.SiLU())


# -- the study's loops ---------------------------------------------------------------------------------------


class JpegSlices(Dataset[tuple[Tensor, Tensor]]):
    """Rows decoded one by one: grey images of 0 to 1, masked (SpecAugment) where asked, and their labels."""

    def __init__(self, rows: Any, columns: tuple[str, ...], size: int, masked: bool) -> None:
        self.rows, self.columns, self.size, self.masked = rows, columns, size, masked

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        row = self.rows[place]
        pixels = torch.from_numpy(np.stack([grey(row[name], self.size) for name in self.columns]))
        if self.masked and torch.rand(()) < 0.8:
            for axis, widest in ((1, 24), (1, 24), (2, 36), (2, 36)):
                width = int(torch.randint(0, min(widest, self.size) + 1, ()))
                start = int(torch.randint(0, self.size - width + 1, ()))
                pixels.narrow(axis, start, width).zero_()
        return pixels, torch.tensor([row[name] for name in LABELS])


def grey(image: Any, size: int) -> NDArray[np.float32]:
    """Return a drawing as the study reads it: PIL's grey, resized, 0 to 1."""
    resized = np.asarray(image.convert("L").resize((size, size)), dtype=np.float32)
    return resized / np.float32(255)


def train_study(model: str, replica: Path, size: int, epochs: int, batch: int, workers: int, seed: int) -> list[Any]:
    """Run the loop; returns seconds, validation loss and overall validation accuracy of each epoch."""
    from genretree.training.recipes import Recipe

    settings = Recipe.load(f"{model}-published").settings  # checked against the study's facts by the tests
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    columns = tuple(settings["modalities"])
    began = time.perf_counter()
    builders: dict[str, Callable[[], nn.Module]] = {
        "cnn": StudyCnn,
        "ast": partial(StudyTransformer, size),
        "efficientnet-b0": StudyEfficientNet,
    }
    network = builders[model]().to(device)
    rows = {part: open_part(replica, part, columns) for part in ("train", "validation")}
    load = partial(DataLoader, batch_size=batch, num_workers=workers)
    learn = load(JpegSlices(rows["train"], columns, size, model == "ast"), shuffle=True)
    check = load(JpegSlices(rows["validation"], columns, size, False))
    smoothing = settings["label_smoothing"]
    optimizer = torch.optim.Adam(network.parameters(), settings["learning_rate"], weight_decay=settings["weight_decay"])
    warmup, total = settings["warmup_epochs"], settings["epochs"]
    scheduler: Any = (
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1.0, (epoch + 1) / warmup))
        if warmup
        else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    found, best, since = [], float("inf"), 0
    for _ in range(epochs):
        network.train()
        for images, labels in learn:
            if len(images) == 1:
                continue  # batch normalisation needs two
            optimizer.zero_grad()
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                loss = level_loss(network(images.to(device)), labels.to(device), smoothing)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
        loss_sum, right, count = 0.0, 0.0, 0
        network.eval()
        with torch.no_grad():
            for images, labels in check:
                scores, labels = network(images.to(device)), labels.to(device)
                loss_sum += float(level_loss(scores, labels, smoothing)) * len(images)
                chosen = torch.stack([level.argmax(1) for level in scores], dim=1)
                right, count = right + float((chosen == labels).float().mean(1).sum()), count + len(images)
        validation = loss_sum / count
        scheduler.step(validation)
        found.append((time.perf_counter() - began, validation, right / count))
        began = time.perf_counter()
        best, since = (validation, 0) if validation < best - LEAST_GAIN else (best, since + 1)
        if since >= PATIENCE:
            break
    return found


def level_loss(scores: list[Tensor], labels: Tensor, smoothing: list[float]) -> Tensor:
    """Return the mean of the levels' cross-entropies."""
    losses = [
        functional.cross_entropy(level, labels[:, number], label_smoothing=smoothing[min(number, len(smoothing) - 1)])
        for number, level in enumerate(scores)
    ]
    return torch.stack(losses).mean()


def boost_study(replica: Path, size: int, components: int, rounds: int) -> list[Any]:
    """Run the study's pipeline of scikit-learn; returns seconds, 0 and the overall validation accuracy."""
    from sklearn.decomposition import IncrementalPCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.preprocessing import StandardScaler

    began = time.perf_counter()
    columns = ("mel", "cqt", "chroma")
    pixels, labels = {}, {}
    for part in ("train", "validation"):
        rows = open_part(replica, part, columns)
        pixels[part] = np.stack([np.concatenate([grey(row[name], size).ravel() for name in columns]) for row in rows])
        labels[part] = np.array([rows[name] for name in LABELS]).T
    scaler = StandardScaler()
    pca = IncrementalPCA(components, batch_size=BOOSTING_BATCH)
    learned = pca.fit_transform(scaler.fit_transform(pixels["train"]))
    unseen = pca.transform(scaler.transform(pixels["validation"]))
    shares = []
    for level in range(len(LABELS)):
        classifier = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=63, early_stopping=True, random_state=42, max_iter=rounds
        )
        classifier.fit(learned, labels["train"][:, level])
        shares.append((classifier.predict(unseen) == labels["validation"][:, level]).mean())
    return [(time.perf_counter() - began, 0.0, float(np.mean(shares)))]


# -- genretree -----------------------------------------------------------------------------------------------


def train_ours(model: str, store: Path, changes: dict[str, Any]) -> list[Any]:
    """Train by the published recipe; returns seconds (the mean), validation loss and overall accuracy of each epoch."""
    from genretree.corpus.store import Store
    from genretree.models import get_family
    from genretree.models.base import FitContext
    from genretree.training.data import slice_dataset
    from genretree.training.recipes import Recipe

    opened = Store(store)
    family = get_family(model)
    settings = family.settings_type.build({**Recipe.load(f"{model}-published").settings, **changes})
    if model != "boosting":
        import genretree.models.neural.trainer  # noqa: F401  (seconds of imports, which the study's loop has done too)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        split = opened.split()
        learn, check = slice_dataset(opened, split, "train"), slice_dataset(opened, split, "validation")
        history = family.fit(learn, check, opened.taxonomy, settings, FitContext(Path(folder))).history
        seconds = time.perf_counter() - began
    names = [f"validation_accuracy_{level}" for level in opened.taxonomy.levels]
    if model == "boosting":
        last = [next(row[name] for row in reversed(history) if name in row) for name in names]
        return [(seconds, 0.0, float(np.mean(last)))]
    return [
        (seconds / len(history), row["validation_loss"], float(np.mean([row[name] for name in names])))
        for row in history
    ]


# -- the race ------------------------------------------------------------------------------------------------


def run_apart(way: str, model: str, folder: Path, given: argparse.Namespace, seed: int) -> list[Any]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--models", model, "--folder", str(folder), "--seed", str(seed)]
    for name in ("size", "epochs", "workers", "batch_size", "components", "boosting_rounds"):
        if (value := getattr(given, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--exact"] if given.exact else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{model}, {way}: failed\n{done.stderr[-2000:]}")
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_here(given: argparse.Namespace) -> None:
    """Run one way and print its epochs as JSON."""
    from genretree.training.recipes import Recipe

    model = given.models[0]
    boosting = model == "boosting"
    size = min(given.size, BOOSTING_SIZE) if boosting else given.size
    batch = given.batch_size or Recipe.load(f"{model}-published").settings["batch_size"]
    if given.way == "study" and boosting:
        found = boost_study(given.folder / "music_genre", size, given.components, given.boosting_rounds)
    elif given.way == "study":
        replica = given.folder / "music_genre"
        found = train_study(model, replica, size, given.epochs, batch, given.workers, given.seed)
    elif boosting:
        pca = "incremental" if given.exact else "randomized"
        rounds, components = given.boosting_rounds, given.components
        changes = {"image_size": size, "components": components, "epochs": rounds, "pca": pca}
        found = train_ours(model, given.folder / "store", changes)
    else:
        changes = {"image_size": size, "epochs": given.epochs, "batch_size": batch, "seed": given.seed}
        if model == "efficientnet-b0":
            changes["weights"] = "none"
        found = train_ours(model, given.folder / "store", changes)
    print(json.dumps(found))


def summarise(model: str, runs: dict[str, list[list[Any]]]) -> dict[str, Any]:
    """Return medians and ratios of all runs of a model."""
    seconds = {way: [statistics.median(epoch[0] for epoch in run) for run in rounds] for way, rounds in runs.items()}
    accuracy = {
        way: statistics.median(min(run, key=lambda epoch: epoch[1])[2] for run in rounds)
        for way, rounds in runs.items()
    }
    ratios = [study / ours for study, ours in zip(seconds["study"], seconds["genretree"], strict=True)]
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "model": model,
        "rounds": len(ratios),
        "seconds": medians,
        "ratio": medians["study"] / medians["genretree"],
        "range": [min(ratios), max(ratios)],
        "accuracy": accuracy,
    }


def main() -> None:
    """Write the replica, run both ways by turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", type=int, default=4000, help="of all three parts together; published: 36,375")
    parser.add_argument("--size", type=int, default=224, help="of images, in pixels (boosting: at most 128)")
    parser.add_argument("--epochs", type=int, default=2, help="in each run of a network")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way")
    parser.add_argument("--seconds", type=float, default=3600, help="no round of a model begins after so long")
    parser.add_argument("--workers", type=int, default=2, help="of the study's DataLoader")
    parser.add_argument("--batch-size", type=int, help="of networks; by default the published ones")
    parser.add_argument("--components", type=int, default=COMPONENTS, help="of boosting")
    parser.add_argument("--boosting-rounds", type=int, default=BOOSTING_ROUNDS, help="at most")
    parser.add_argument("--exact", action="store_true", help="IncrementalPCA in genretree's boosting, too")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=["study", "genretree"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        run_here(given)
        return
    from genretree.datasets.ccmusic import prepare_dataset
    from genretree.settings import ImageSettings
    from genretree.taxonomy import Taxonomy

    leaves = len(Taxonomy.builtin("ccmusic").leaves)
    rows = {part: max(leaves, count * given.rows // sum(ROWS.values())) for part, count in ROWS.items()}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        jpegs = [draw_genre(leaf, image, n) for leaf in range(leaves) for image in range(3) for n in range(VARIANTS)]
        write_replica(folder / "music_genre", rows, jpegs, make_row)
        began = time.perf_counter()
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        size = ImageSettings.build({"size": given.size})
        prepare_dataset(folder / "music_genre", folder / "store", size, stream=True)
        print(f"{rows['train']} training rows; genretree prepare, once: {time.perf_counter() - began:.0f} s\n")
        print("| model | study, s an epoch | genretree | ratio (range) | accuracy, study | genretree |")
        print("| --- | --- | --- | --- | --- | --- |")
        results = []
        for model in given.models:
            runs: dict[str, list[list[Any]]] = {"study": [], "genretree": []}
            started = time.monotonic()
            for number in range(given.rounds):
                if number and time.monotonic() - started > given.seconds:
                    break
                for way in sorted(runs, reverse=number % 2 == 1):  # whoever goes first finds a cooler machine
                    runs[way].append(run_apart(way, model, folder, given, number))
            results.append(summarise(model, runs))
            print("| " + " | ".join(cells(results[-1])) + " |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def cells(result: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    seconds, accuracy, (low, high) = result["seconds"], result["accuracy"], result["range"]
    return [
        result["model"],
        f"{seconds['study']:.1f}",
        f"{seconds['genretree']:.1f}",
        f"{result['ratio']:.1f} ({low:.1f} to {high:.1f})",
        f"{accuracy['study']:.1%}",
        f"{accuracy['genretree']:.1%}",
    ]


if __name__ == "__main__":
    main()
