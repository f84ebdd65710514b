"""Training of networks with transformers' Trainer: schedules, precision, early stopping and checkpoints."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers import logging as transformers_logging
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from genretree.errors import TrainingError
from genretree.models.base import FitContext, FitResult, SliceDataset, write_history
from genretree.models.neural.cpu_kernels import enable_cpu_kernels
from genretree.models.neural.distillation import compute_teacher_targets
from genretree.models.neural.epoch_accuracy import EpochAccuracy
from genretree.models.neural.fine_tuning import RAW_FILE, decay_by_layer, fine_tuning_callbacks
from genretree.models.neural.linear_probe import fit_classifier
from genretree.models.neural.network import GenreNetwork, NetworkModel, count_parameters
from genretree.models.neural.precision import choose_by_trial
from genretree.models.neural.settings import NetworkSettings
from genretree.parallel import available_processors, keep_allocated_pages, world_size
from genretree.progress import progress_bar

_MAX_CHECKPOINTS = 2
_TRIAL_BATCH_SIZE = 16
_MAX_LOADER_PROCESSES = 8


def fit_network(
    build: Callable[[], GenreNetwork],
    train: SliceDataset,
    validation: SliceDataset | None,
    settings: NetworkSettings,
    context: FitContext,
) -> FitResult:
    """Train a network, resuming from the newest complete checkpoint in `context.folder`.

    Parameters
    ----------
    build : function
        Creates the untrained network; called after seeding.
    train, validation : SliceDataset
        Without validation data the last epoch is used, without early stopping.
    settings : NetworkSettings
    context : FitContext

    Returns
    -------
    FitResult
        The network of the epoch with the minimum validation loss. The history has the columns epoch, step,
        learning_rate, train_loss, validation_loss, train_accuracy_LEVEL and validation_accuracy_LEVEL (in [0, 1]). The
        same rows are written to `history.csv`, and to TensorBoard if it is installed.

    Raises
    ------
    TrainingError
        If there are fewer than two slices, or the training diverges.
    """
    if len(train) < 2:
        raise TrainingError(
            f"the training part has {len(train)} slices, but batch normalisation needs at least 2; add tracks"
        )
    set_seed(settings.seed)
    network = build()
    if settings.epochs == 0:
        return fit_classifier(NetworkModel(network), train, validation, context)
    network.balance_leaves(train.leaves)
    parts = [train] if validation is None else [train, validation]
    teacher_targets: list[NDArray[np.float32] | None] = [None] * len(parts)
    if settings.teacher != "none":
        targets = compute_teacher_targets(
            parts, settings.teacher_networks, settings.teacher_folder, context.progress, settings.teacher
        )
        network.add_distillation_head(targets[0].shape[1])
        teacher_targets = [*targets]
    if torch.cuda.is_available() and world_size() > 1:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    train_set = _TorchDataset(train, teacher_targets[0], training=True, offset=settings.slice_offset)
    validation_set = None if validation is None else _TorchDataset(validation, teacher_targets[1])
    history, metadata = train_network(network, train_set, validation_set, settings, context)
    network.remove_distillation_head()
    model = NetworkModel(network.to("cpu"))
    if settings.classifier == "network":
        return FitResult(model, history, metadata)
    fitted = fit_classifier(model, train, validation, context)
    # The network was trained on the training part, so only predictions for the validation part are out of fold.
    out_of_fold = None if fitted.out_of_fold is None or validation is None else fitted.out_of_fold.after(len(train))
    return FitResult(fitted.model, history, {**metadata, **fitted.metadata}, out_of_fold)


def train_network(
    network: nn.Module,
    train_set: Dataset[Any],
    validation_set: Dataset[Any] | None,
    settings: NetworkSettings,
    context: FitContext,
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train a module whose `forward` returns a loss; returns history and metadata.

    The data sets return whole batches (`__getitems__`), as dicts of `forward`'s parameters including `labels`.
    """
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    keep_allocated_pages()
    parameters = count_parameters(network)
    enable_cpu_kernels(network)
    # The weights need this format as well as the inputs: gradients of convolutions take three times as long otherwise.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trial_positions = list(range(min(_TRIAL_BATCH_SIZE, settings.batch_size, len(train_set))))  # type: ignore[arg-type]
    precision = choose_by_trial(
        settings.precision,
        network,
        lambda: train_set.__getitems__(trial_positions),  # type: ignore[attr-defined]
        context.folder / "precision",
    )
    arguments = _arguments(train_set, validation_set is not None, precision, settings, context)
    history = _HistoryCallback(context.folder / "history.csv")
    checkpoint = find_checkpoint(_checkpoints(context), RAW_FILE if settings.ema_decay else None)
    trainer = _Trainer(
        model=network,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=_collate,
        optimizer_cls_and_kwargs=_optimizer(network, settings),
        callbacks=[
            *fine_tuning_callbacks(network, settings, checkpoint),
            history,
            _ProgressBar(context.progress),
            *_tensorboard(context.folder / "tensorboard"),
            *context.callbacks,
        ],
    )
    if isinstance(network, GenreNetwork):
        network.accuracy = trainer.accuracy = EpochAccuracy()
        trainer.levels = network.head.taxonomy.levels
    if settings.schedule == "study":
        trainer.rate_factor = partial(study_rate_factor, warmup_epochs=settings.warmup_epochs, epochs=settings.epochs)
    trainer.min_improvement = settings.min_improvement
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if validation_set is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience, settings.min_improvement))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if isinstance(network, GenreNetwork):
        network.accuracy = None
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise TrainingError("training diverged: the weights contain NaN or infinity; try a lower learning_rate")
    if validation_set is not None and not _is_finite(trainer.state.best_metric):
        raise TrainingError("training diverged: the validation loss is NaN or infinite; try a lower learning_rate")
    metadata = {
        "parameters": parameters,
        "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32",
        "devices": arguments.world_size,
        "best_validation_loss": trainer.state.best_metric,
    }
    return _join_epochs(trainer.state.log_history), metadata


class _Trainer(Trainer):
    """A Trainer that logs accuracies, saves weights in any memory format, and supports the study's schedule.

    With `rate_factor` the learning rate of an epoch depends on the last validation loss, as in the study's loop. A
    validation loss is an improvement only if it is lower by more than `min_improvement`.
    """

    rate_factor: Callable[[float], float] | None = None
    min_improvement = 0.0
    accuracy: EpochAccuracy | None = None
    levels: tuple[str, ...] = ()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the accuracy of each level with the losses of an epoch."""
        for loss, prefix in (("loss", ""), ("eval_loss", "eval_")):
            if self.accuracy is not None and loss in logs:
                reduce = partial(self.accelerator.reduce, reduction="sum") if self.args.world_size > 1 else None
                shares = self.accuracy.take(training=loss == "loss", reduce=reduce)
                logs.update(
                    {f"{prefix}accuracy_{name}": share for name, share in zip(self.levels, shares, strict=False)}
                )
        super().log(logs, start_time)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        factor = self.rate_factor
        if factor is None:
            return super().create_scheduler(num_training_steps, optimizer)
        chosen = optimizer if optimizer is not None else self.optimizer
        assert chosen is not None
        # The Trainer restores the state from a checkpoint, so that a resumed run has the same rates.
        self.lr_scheduler = LambdaLR(chosen, lambda step: factor(_last_validation_loss(self.state.log_history)))
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, and update the learning rate from the loss before the next epoch's first step."""
        metrics = super().evaluate(*args, **kwargs)
        if self.rate_factor is not None:
            # The scheduler's last step was before this validation.
            factor = self.rate_factor(_last_validation_loss(self.state.log_history))
            assert self.optimizer is not None
            assert self.lr_scheduler is not None
            for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.base_lrs, strict=True):
                group["lr"] = rate * factor
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best, loss = self.state.best_metric, metrics.get("eval_loss")
        if best is not None and loss is not None and not best - loss > self.min_improvement:
            return False
        return super()._determine_best_metric(metrics, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        assert self.model is not None
        weights = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: value.contiguous() for name, value in weights.items()})


def _is_finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def study_rate_factor(loss: float, warmup_epochs: float, epochs: int) -> float:
    """Compute the factor of the learning rate in the study's training loop.

    The loop called `scheduler.step(validation_loss)`, so that its schedulers took the loss for the number of the epoch.
    With a warm-up of 5 epochs the factor was (loss + 1) / 5; without a warm-up it hardly changed.

    Parameters
    ----------
    loss : float
        The last validation loss; 0 before the first validation.
    warmup_epochs : float
    epochs : int
        Length of the cosine.

    Returns
    -------
    float
        Factor in [0, 1] for losses below `epochs`.
    """
    if loss < warmup_epochs:
        return (loss + 1) / warmup_epochs
    progress = (loss - warmup_epochs) / max(1.0, epochs - warmup_epochs)
    return (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _last_validation_loss(log: list[dict[str, Any]]) -> float:
    return next((float(line["eval_loss"]) for line in reversed(log) if "eval_loss" in line), 0.0)


def find_checkpoint(folder: Path, last: str | None = None) -> Path | None:
    """Find the newest complete checkpoint, which has the trainer's state and the file `last`; others are deleted."""
    numbered = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    for step in sorted(numbered, reverse=True):
        try:
            json.loads((numbered[step] / "trainer_state.json").read_text(encoding="utf-8"))
            is_complete = last is None or (numbered[step] / last).exists()
        except (OSError, ValueError):
            is_complete = False
        if not is_complete:
            # Incomplete; the one before it is complete. Another process may be deleting it, too.
            shutil.rmtree(numbered[step], ignore_errors=True)
            continue
        return numbered[step]
    return None


def _arguments(
    train_set: Any, validated: bool, precision: str, settings: NetworkSettings, context: FitContext
) -> TrainingArguments:
    steps = -(-len(train_set) // (settings.batch_size * world_size()))
    updates_per_epoch = max(1, -(-steps // settings.gradient_accumulation_steps))
    return TrainingArguments(
        output_dir=str(_checkpoints(context)),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_grad_norm=settings.max_gradient_norm,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=round(min(settings.warmup_epochs, settings.epochs / 4) * updates_per_epoch),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        eval_strategy="epoch" if validated else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=_MAX_CHECKPOINTS,
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=validated,
        metric_for_best_model="eval_loss" if validated else None,
        greater_is_better=False if validated else None,
        prediction_loss_only=True,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=_loader_processes(),
        dataloader_persistent_workers=_loader_processes() > 0,
        disable_tqdm=True,
        report_to=[],
    )


def _loader_processes() -> int:
    """Return the number of processes that read batches: none without a GPU, which waits for them."""
    if not torch.cuda.is_available():
        return 0
    return min(_MAX_LOADER_PROCESSES, available_processors() // world_size())


def _tensorboard(folder: Path) -> list[TrainerCallback]:
    """Create the callback for TensorBoard, if it is installed."""
    if find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(folder)))]  # type: ignore[no-untyped-call]


def _checkpoints(context: FitContext) -> Path:
    return context.folder / "checkpoints"


def _optimizer(network: nn.Module, settings: NetworkSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    optimizer_class = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if not torch.backends.mps.is_available():
        options["fused"] = True  # updates all weights in one pass
    if settings.layer_decay < 1:
        options["params"] = decay_by_layer(network, settings)
    elif settings.decay_biases:  # the Trainer's own parameter groups exclude biases
        options["params"] = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return optimizer_class, options


class _TorchDataset(Dataset[Any]):
    """Slices as a torch data set that returns whole batches, read from the memory map at once.

    When `training`, a batch of a single slice at the end of an epoch contains it twice, for batch normalisation. With
    `offset` the batches include the next slices.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        teacher_targets: NDArray[np.float32] | None = None,
        training: bool = False,
        offset: bool = False,
    ) -> None:
        self.dataset = dataset
        self.teacher_targets = teacher_targets
        self.training = training
        self.next_slices = dataset.next_slices() if offset else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> int:
        return position

    def __getitems__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        chosen = np.array(positions * 2 if self.training and len(positions) == 1 else positions)
        batch = {"images": self.dataset.take(chosen), "labels": self.dataset.leaves[chosen]}
        if self.next_slices is not None:
            batch["next_slices"] = self.dataset.take(self.next_slices[chosen])
        if self.teacher_targets is not None:
            batch["teacher_targets"] = self.teacher_targets[chosen]
            if self.training:
                after = chosen if self.next_slices is None else self.next_slices[chosen]
                batch["next_teacher_targets"] = self.teacher_targets[after]
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def _collate(batch: Any) -> dict[str, torch.Tensor]:
    """Return what `__getitems__` returned, which is a batch already."""
    collated: dict[str, torch.Tensor] = batch
    return collated


class _ProgressBar(TrainerCallback):
    """Progress bar over all updates."""

    def __init__(self, show: bool) -> None:
        self.show = show

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        show = self.show and state.is_world_process_zero
        self.bar = progress_bar(state.max_steps, "train", "step", show, initial=state.global_step)
        self.tick = self.bar.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tick()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.__exit__(None, None, None)


class _HistoryCallback(TrainerCallback):
    """Updates `history.csv`, with a row for each epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)

    def _write(self, state: Any) -> None:
        if state.is_world_process_zero:
            write_history(self.path, _join_epochs(state.log_history))


def _join_epochs(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Merge the Trainer's separate log entries of training and validation into one row for each epoch."""
    names = {"loss": "train_loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate"}
    rows: dict[int, dict[str, float]] = {}
    for line in log:
        row = {names[key]: float(value) for key, value in line.items() if key in names}
        for prefix, part in (("accuracy_", "train_accuracy_"), ("eval_accuracy_", "validation_accuracy_")):
            row |= {part + key[len(prefix) :]: value for key, value in line.items() if key.startswith(prefix)}
        if row:
            step = int(line["step"])
            rows.setdefault(step, {"epoch": round(float(line["epoch"]), 3), "step": step}).update(row)
    return [rows[step] for step in sorted(rows)]
