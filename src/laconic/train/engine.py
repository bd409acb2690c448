"""The training loop: one, readable, on Hugging Face Accelerate, so that it runs on a processor, a GPU, in bf16 and in several processes."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from laconic.core.errors import BadInput, TrainingStopped, need
from laconic.core.program import as_call
from laconic.core.task import FitPlan, Progress, silent, split_batch
from laconic.train import checkpoint as checkpoints
from laconic.train.optim import build

Loss = Callable[[Any, Any], Tensor]
Hook = Callable[[nn.Module, float], None]  # (model, progress in [0, 1]), called after each optimizer step


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean loss, learning rate at its end, metric on the valid data (if there is a score), seconds."""

    epoch: int
    loss: float
    lr: float
    metric: float | None
    seconds: float


@dataclass(frozen=True)
class FitRecord:
    """All epochs, those before an interruption included."""

    epochs: tuple[EpochRecord, ...]


def fit(
    model: nn.Module,
    plan: FitPlan,
    *,
    train: Dataset[Any],
    loss: Loss,
    split: Callable[[Any], tuple[Any, Any]] = split_batch,
    valid: Dataset[Any] | None = None,
    score: Callable[[Any, Any], float] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    hooks: Sequence[Hook] = (),
) -> FitRecord:
    """Train a module (or a Program) in place.

    Args:
        model: trained in train mode, left in eval mode.
        plan: epochs, optimizer, learning rate and its schedule, …
        train: map-style dataset.
        loss: `(outputs, target) -> scalar tensor`.
        split: `batch -> (inputs, target)`.
        valid: scored after each epoch, if there is a `score`.
        score: `(outputs, target) -> float` over the whole valid data; outputs of batches are joined as tensors.
        collate: as of `DataLoader`.
        progress: told the loss at each step and the metric at each epoch.
        checkpoint: a folder; an epoch's end is written there, and training goes on from it. Interrupted and continued, it ends bit-equal to uninterrupted.
        hooks: called after each optimizer step.

    Raises:
        TrainingStopped: a loss that is not a number; names epoch and step. The checkpoint of the last epoch stays.
        BadInput: the plan makes no sense, or the data is empty.
    """
    optimizer, rate = build(model, plan)
    order = torch.Generator()
    loader = _loader(train, plan, collate, order)
    start = checkpoint is not None and (checkpoint / checkpoints.FILE).exists()
    with _quiet(), _random_state(plan.seed), _layout(model, plan.channels_last):
        accelerator = _accelerator()
        prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        facts = checkpoints.load(checkpoint, model, optimizer.optimizer) if start and checkpoint is not None else None
        epochs = [EpochRecord(**item) for item in (facts or {"epochs": []})["epochs"]]
        loop = _Loop(prepared, accelerator, optimizer, loader, rate, plan, loss, split, hooks, progress)
        progress.start("training", plan.epochs * len(loader))
        progress.advance(len(epochs) * len(loader))
        for epoch in range(len(epochs), plan.epochs):
            began = time.perf_counter()
            order.manual_seed(
                plan.seed * 1_000_003 + epoch
            )  # by seed and epoch alone: a continued run sees what an uninterrupted one would
            mean, last = loop.epoch(epoch)
            if valid is not None and score is not None:
                loop.shown["metric"] = _score(model, valid, plan.batch_size, split, score, collate, accelerator.device)
            epochs.append(EpochRecord(epoch + 1, mean, last, loop.shown.get("metric"), time.perf_counter() - began))
            if checkpoint is not None and accelerator.is_main_process:
                checkpoints.save(checkpoint, model, optimizer.optimizer, {"epochs": [asdict(item) for item in epochs]})
        progress.finish(**({} if not epochs or epochs[-1].metric is None else {"metric": epochs[-1].metric}))
        model.to("cpu").eval()
    return FitRecord(tuple(epochs))


@dataclass(frozen=True)
class _Loop:
    """What one epoch needs; `shown` are figures that stay on the progress bar."""

    model: nn.Module
    accelerator: Any
    optimizer: Any
    loader: Any
    rate: Callable[[float], float]
    plan: FitPlan
    loss: Loss
    split: Callable[[Any], tuple[Any, Any]]
    hooks: Sequence[Hook]
    progress: Progress
    shown: dict[str, Any] = field(default_factory=dict)

    def epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the data; returns the mean loss and the last learning rate."""
        self.model.train()
        total, lr, steps = torch.zeros(()), self.plan.lr, self.plan.epochs * len(self.loader)
        for index, batch in enumerate(self.loader):
            done = epoch * len(self.loader) + index
            lr = self.rate(done / max(1, steps - 1))
            number = self._step(batch, lr, f"epoch {epoch + 1}, step {index + 1} of {len(self.loader)}")
            for hook in self.hooks:
                hook(self.model, (done + 1) / steps)
            total += number
            self.progress.advance(loss=number, **self.shown)
        return float(self.accelerator.reduce(total.to(self.accelerator.device), "mean")) / len(self.loader), lr

    def _step(self, batch: Any, lr: float, place: str) -> float:
        """One optimizer step at this learning rate; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        inputs, target = self.split(batch)
        args, kwargs = as_call(_channels_last(inputs) if self.plan.channels_last else inputs)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            value = self.loss(self.model(*args, **kwargs), target)
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingStopped(
                f"the loss is {number} at {place} (learning rate {lr:.3g}). The last epoch's checkpoint is kept. "
                "Lower the learning rate, set grad_clip, or look for bad values in the data."
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(value)
        if self.plan.grad_clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.plan.grad_clip)
        self.optimizer.step()
        return number


def _loader(data: Dataset[Any], plan: FitPlan, collate: Callable[[list[Any]], Any] | None, order: torch.Generator) -> DataLoader[Any]:
    """Shuffled batches. A last batch of one example is left out: batch-norm has no variance of it."""
    size = len(data)  # type: ignore[arg-type]
    if size == 0:
        raise BadInput("the training data is empty")
    drop_last = size > plan.batch_size and size % plan.batch_size == 1
    return DataLoader(data, plan.batch_size, shuffle=True, collate_fn=collate, drop_last=drop_last, generator=order)


@torch.no_grad()
def _score(
    model: nn.Module, valid: Dataset[Any], batch: int, split: Any, score: Callable[[Any, Any], float], collate: Any, device: torch.device
) -> float:
    model.eval()
    outputs, targets = [], []
    for item in DataLoader(valid, batch, collate_fn=collate):
        inputs, target = split(item)
        args, kwargs = as_call(_on(inputs, device))
        outputs.append(model(*args, **kwargs))
        targets.append(target)
    return score(_joined([_on(out, torch.device("cpu")) for out in outputs]), torch.cat([torch.as_tensor(t) for t in targets]))


@contextlib.contextmanager
def _layout(model: nn.Module, channels_last: bool) -> Iterator[None]:
    """Kernels of two dimensions pixel by pixel inside, as they were outside."""
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        if channels_last:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _channels_last(inputs: Any) -> Any:
    return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.dim() == 4 else x, inputs)


def _on(value: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def _joined(outputs: list[Any]) -> Any:
    """Outputs of batches as one output: tensors are concatenated, containers entry by entry."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs) if first.dim() else torch.stack(outputs)
    if isinstance(first, dict):
        return {key: _joined([out[key] for out in outputs]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_joined([out[i] for out in outputs]) for i in range(len(first)))
    return first


def _accelerator() -> Any:
    """Without a GPU the processor is asked for by name: several processes are found only then.

    bf16 is not its business: it keeps one precision for the life of a process.
    """
    return need("accelerate").Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")


@contextlib.contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Seeded inside, given back outside."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the libraries about each other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        yield
