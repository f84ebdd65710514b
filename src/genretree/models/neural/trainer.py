"""Training of networks with transformers' Trainer: schedule, precision, stopping, checkpoints, several devices."""

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
from genretree.models.neural.fine_tuning import RAW_FILE, decay_by_layer, fine_tuning
from genretree.models.neural.linear_probe import fit_classifier
from genretree.models.neural.network import GenreNetwork, NetworkModel, count_parameters
from genretree.models.neural.precision import choose_by_trial
from genretree.models.neural.settings import NetworkSettings
from genretree.parallel import keep_allocated_pages, world_size
from genretree.progress import progress_bar

_KEPT_CHECKPOINTS = 2
_TRIED = 16  # slices of a trial step


def fit_network(
    build: Callable[[], GenreNetwork],
    train: SliceDataset,
    validation: SliceDataset | None,
    settings: NetworkSettings,
    context: FitContext,
) -> FitResult:
    """Train a network, taking up the newest whole checkpoint in `context.folder` if there is one.

    Parameters
    ----------
    build : function
        Makes the untrained network; called after seeding.
    train, validation : SliceDataset
        Without validation the last epoch is kept and nothing stops early.
    settings : NetworkSettings
    context : FitContext

    Returns
    -------
    FitResult
        The network of the epoch with the least validation loss; the history has epoch, step, learning_rate, train_loss,
        validation_loss, train_accuracy_LEVEL and validation_accuracy_LEVEL (shares, 0 to 1). The same rows are in
        `history.csv`, and in TensorBoard's form if that is installed.
    """
    if len(train) < 2:
        raise TrainingError(f"{len(train)} slices to train on; batch normalisation needs at least 2")
    set_seed(settings.seed)
    network = build()
    if settings.epochs == 0:
        return fit_classifier(NetworkModel(network), train, validation, context)
    network.balance_leaves(train.leaves)
    parts = [train] if validation is None else [train, validation]
    teacher_targets: list[NDArray[np.float32] | None] = [None] * len(parts)
    if settings.teacher != "none":
        heard = compute_teacher_targets(parts, settings.teacher_networks, settings.teacher_folder, context.progress)
        network.add_distillation_head(heard[0].shape[1])
        teacher_targets = [*heard]
    if torch.cuda.is_available() and world_size() > 1:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    learn = _TorchDataset(train, teacher_targets[0], learning=True, offset=settings.slice_offset)
    check = None if validation is None else _TorchDataset(validation, teacher_targets[1])
    history, facts = train_network(network, learn, check, settings, context)
    network.remove_distillation_head()
    model = NetworkModel(network.to("cpu"))
    if settings.classifier == "network":
        return FitResult(model, history, facts)
    fitted = fit_classifier(model, train, validation, context)
    # The network learned the training part's labels: only what is said of the validation part is like new music.
    held = None if fitted.held is None or validation is None else fitted.held.after(len(train))
    return FitResult(fitted.model, history, {**facts, **fitted.facts}, held)


def train_network(
    network: nn.Module, learn: Dataset[Any], check: Dataset[Any] | None, settings: NetworkSettings, context: FitContext
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train any module whose `forward` gives a loss, with all that the settings ask for; gives history and facts.

    The datasets give whole batches (`__getitems__`), by the names of `forward`'s parameters, `labels` among them.
    """
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    keep_allocated_pages()
    parameters = count_parameters(network)
    enable_cpu_kernels(network)
    # Inputs in this form aren't enough: with weights in the other, gradients of convolutions take three times as long.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    some = list(range(min(_TRIED, settings.batch_size, len(learn))))  # type: ignore[arg-type]
    precision = choose_by_trial(
        settings.precision,
        network,
        lambda: learn.__getitems__(some),  # type: ignore[attr-defined]
        context.folder / "precision",
    )
    arguments = _arguments(learn, check is not None, precision, settings, context)
    history = _History(context.folder / "history.csv")
    checkpoint = find_checkpoint(_checkpoints(context), RAW_FILE if settings.ema_decay else None)
    trainer = _Trainer(
        model=network,
        args=arguments,
        train_dataset=learn,
        eval_dataset=check,
        data_collator=_collate,
        optimizer_cls_and_kwargs=_optimizer(network, settings),
        callbacks=[
            *fine_tuning(network, settings, checkpoint),
            history,
            _Progress(context.progress),
            *_tensorboard(context.folder / "tensorboard"),
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
    if check is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience, settings.min_improvement))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if isinstance(network, GenreNetwork):
        network.accuracy = None
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise TrainingError("training diverged, the weights are no numbers any more; try a lower learning_rate")
    if check is not None and not _is_finite(trainer.state.best_metric):
        raise TrainingError("training diverged, the validation loss is no number; try a lower learning_rate")
    facts = {
        "parameters": parameters,
        "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32",
        "devices": arguments.world_size,
        "best_validation_loss": trainer.state.best_metric,
    }
    return _join_epochs(trainer.state.log_history), facts


class _Trainer(Trainer):
    """A Trainer that can save weights in any memory format: safetensors takes contiguous ones only.

    With `rate_factor` the learning rate of an epoch depends on the last validation loss, as in the study's loop. A
    validation loss counts as the best only if it is lower by more than `min_improvement`.
    """

    rate_factor: Callable[[float], float] | None = None
    min_improvement = 0.0
    accuracy: EpochAccuracy | None = None
    levels: tuple[str, ...] = ()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the accuracy of each level to the losses of an epoch."""
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
        # The state comes back with a checkpoint, so that a resumed run has the same rates.
        self.lr_scheduler = LambdaLR(chosen, lambda step: factor(_last_validation_loss(self.state.log_history)))
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, and set the rate that follows from the loss before the next epoch's first step."""
        metrics = super().evaluate(*args, **kwargs)
        if self.rate_factor is not None:
            # The schedule's own last step was before this validation.
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
    """Compute what the study's loop multiplied its learning rate with.

    It called `scheduler.step(validation_loss)`, so that its schedulers took the loss for the epoch's number. With a
    warm-up of 5 epochs the rate was (loss + 1) / 5 of the one that was set; without a warm-up it hardly changed.

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
    """Find the newest checkpoint that was written to its end, which is the trainer's state and then the file `last`."""
    numbered = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    for step in sorted(numbered, reverse=True):
        try:
            json.loads((numbered[step] / "trainer_state.json").read_text(encoding="utf-8"))
            whole = last is None or (numbered[step] / last).exists()
        except (OSError, ValueError):
            whole = False
        if not whole:
            # Cut off while being written; the one before it is whole. Another process may be clearing it away too.
            shutil.rmtree(numbered[step], ignore_errors=True)
            continue
        return numbered[step]
    return None


def _arguments(
    learn: Any, validated: bool, precision: str, settings: NetworkSettings, context: FitContext
) -> TrainingArguments:
    steps = -(-len(learn) // (settings.batch_size * world_size()))
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
        save_total_limit=_KEPT_CHECKPOINTS,
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=validated,
        metric_for_best_model="eval_loss" if validated else None,
        greater_is_better=False if validated else None,
        prediction_loss_only=True,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )


def _tensorboard(folder: Path) -> list[TrainerCallback]:
    """Log in TensorBoard's form too where it is installed."""
    if find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(folder)))]  # type: ignore[no-untyped-call]


def _checkpoints(context: FitContext) -> Path:
    return context.folder / "checkpoints"


def _optimizer(network: nn.Module, settings: NetworkSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if not torch.backends.mps.is_available():
        options["fused"] = True  # one pass over all weights
    if settings.layer_decay < 1:
        options["params"] = decay_by_layer(network, settings)
    elif settings.decay_biases:  # the Trainer's own groups leave them out
        options["params"] = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return kind, options


class _TorchDataset(Dataset[Any]):
    """Slices by position, a whole batch at a time: the images of a batch are read from the memory map in one go.

    When `learning`, a slice that is left alone at the end of an epoch comes twice, as one can't be batch-normalised;
    with `offset` the following slices come too.
    """

    def __init__(
        self,
        examples: SliceDataset,
        teacher_targets: NDArray[np.float32] | None = None,
        learning: bool = False,
        offset: bool = False,
    ) -> None:
        self.examples = examples
        self.teacher_targets = teacher_targets
        self.learning = learning
        self.next_slices = examples.next_slices() if offset else None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> int:
        return position

    def __getitems__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        chosen = np.array(positions * 2 if self.learning and len(positions) == 1 else positions)
        batch = {"images": self.examples.take(chosen), "labels": self.examples.leaves[chosen]}
        if self.next_slices is not None:
            batch["next_slices"] = self.examples.take(self.next_slices[chosen])
        if self.teacher_targets is not None:
            batch["teacher_targets"] = self.teacher_targets[chosen]
            if self.learning:
                after = chosen if self.next_slices is None else self.next_slices[chosen]
                batch["next_teacher_targets"] = self.teacher_targets[after]
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def _collate(batch: Any) -> dict[str, torch.Tensor]:
    """Pass on what `__getitems__` made: a batch already."""
    collated: dict[str, torch.Tensor] = batch
    return collated


class _Progress(TrainerCallback):
    """One bar over all updates."""

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


class _History(TrainerCallback):
    """Keep `history.csv` up to date, a row for each epoch."""

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
    """Join the trainer's separate lines on training and on validation into one row for each epoch."""
    names = {"loss": "train_loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate"}
    rows: dict[int, dict[str, float]] = {}
    for line in log:
        found = {names[key]: float(value) for key, value in line.items() if key in names}
        for prefix, part in (("accuracy_", "train_accuracy_"), ("eval_accuracy_", "validation_accuracy_")):
            found |= {part + key[len(prefix) :]: value for key, value in line.items() if key.startswith(prefix)}
        if found:
            step = int(line["step"])
            rows.setdefault(step, {"epoch": round(float(line["epoch"]), 3), "step": step}).update(found)
    return [rows[step] for step in sorted(rows)]
