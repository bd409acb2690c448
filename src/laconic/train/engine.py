"""The training loop: one, readable, on Hugging Face Accelerate, so that it runs on a processor, a GPU, in bf16 and in several processes."""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from laconic.core.batches import join_targets, join_tensors, sizes_of
from laconic.core.errors import BadInput, need
from laconic.core.hook import Hook, StatefulHook
from laconic.core.plan import FitPlan
from laconic.core.program import Program, as_call
from laconic.core.progress import Progress, silent
from laconic.core.reader import Reader
from laconic.core.schedule import Schedule, plateau
from laconic.core.smoothing import smoothed
from laconic.core.task import Direction, default_logits, split_batch
from laconic.train import checkpoint as checkpoints
from laconic.train.augment import Augmenter
from laconic.train.average import SWA_FROM, Average, renew_batch_norm
from laconic.train.loop import Loop, Loss
from laconic.train.optim import TWO_WEIGHTS, build, planned
from laconic.train.regularize import REGULARIZERS, Regularizer

_PLATEAU: dict[str, Any] = {"factor": 0.3, "patience": 2}  # of the schedule of that name


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
    """All epochs, those before an interruption included; notes on classes without an example and on options that undo each other."""

    epochs: tuple[EpochRecord, ...]
    notes: tuple[str, ...] = ()


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
    direction: Direction = "max",
    rate: Schedule | None = None,
    inner: nn.Module | None = None,
    augment: Augmenter | None = None,
    groups: Sequence[Any] = (),
    logits: Callable[[Any], Tensor] = default_logits,
) -> FitRecord:
    """Train a module (or a Program) in place.

    Args:
        model: trained in train mode, left in eval mode.
        plan: epochs, optimizer, learning rate and its schedule, …
        train: map-style dataset.
        loss: `(outputs, target) -> scalar tensor`.
        split: `batch -> (inputs, target)`.
        valid: scored after each epoch, if there is a `score`.
        score: `(outputs, target) -> float` over the whole valid data; outputs and targets of batches are joined, see `core.batches`.
        collate: as of `DataLoader`.
        progress: told the loss at each step and the metric at each epoch.
        checkpoint: a folder; an epoch's end is written there, and training goes on from it. Interrupted and continued, it ends bit-equal to uninterrupted.
        hooks: called after each optimizer step; what those that are a `core.hook.StatefulHook` remember is in checkpoints.
        direction: of the score: whether more is better.
        rate: the learning rate over progress in [0, 1], instead of the plan's schedule; step k (from 0) of n has that at k / n.
        inner: the part of `model` that will be delivered, if it is not all: hooks and regularizers see it alone.
        augment: what changes the inputs of a batch, where `plan.augment` alone does not say it (a source of synonyms).
        groups: the coupled groups of structured pruning, for the regularizer ``group_lasso``.
        logits: `outputs -> (B, C, …)`, which label smoothing looks at.

    Raises:
        TrainingStopped: a loss or weights that are not numbers; names epoch and step. The checkpoint of the last epoch stays.
        BadInput: the plan makes no sense, or the data is empty.
    """
    optimizer, _ = build(model, plan)
    inner = model if inner is None else inner
    if plan.patience is not None and (valid is None or score is None):
        raise BadInput(f"patience: {plan.patience} waits for a better metric on the valid data: give fit `valid` and `score`")
    order = torch.Generator()
    loader = _loader(train, plan, collate, order, whole=isinstance(inner, Program) and inner.interface.fixed_batch is not None)
    with _quiet(), _random_state(plan.seed), _layout(model, plan.channels_last):
        accelerator = _accelerator()
        prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        loop = Loop(
            model=prepared,
            inner=inner,
            accelerator=accelerator,
            optimizer=optimizer,
            loader=loader,
            rate=rate or planned(plan, plan.epochs * math.ceil(len(loader) / plan.accumulate)),
            plan=plan,
            loss=smoothed(loss, plan.label_smoothing, logits),
            split=split,
            hooks=hooks,
            progress=progress,
            augmenter=augment or (Augmenter(plan.augment) if plan.augment else None),
            regularizer=Regularizer(plan.regularize, inner, groups) if plan.regularize else None,
            average=None if plan.average == "none" else Average(model, plan.average, plan.ema_decay),
        )
        scored = None
        if valid is not None and score is not None:
            scored = functools.partial(_score, model, valid, plan.batch_size, split, score, collate, accelerator.device)
        training = _Training(model, loop, _History(direction, plan.patience, _first_delivered(plan)), order, scored, checkpoint)
        training.resume()
        training.run()
        return training.deliver()


@dataclass
class _Training:
    """All epochs of one training: what `fit` prepared, and the epochs so far.

    Attributes:
        model: the module as it was given, in the place of which the loop runs what the accelerator made of it.
        loop: runs one epoch.
        history: the epochs so far.
        order: the generator that shuffles the loader's batches.
        score: gives the metric on the valid data; None where there is none.
        checkpoint: the folder of checkpoints.
        notes: for the record.
    """

    model: nn.Module
    loop: Loop
    history: _History
    order: torch.Generator
    score: Callable[[], float] | None
    checkpoint: Path | None
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> FitPlan:
        return self.loop.plan

    @property
    def renews(self) -> bool:
        """Whether batch-norms are estimated anew: no step was taken at the weights that are delivered."""
        return self.plan.average == "swa" or self.plan.optimizer in TWO_WEIGHTS

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one, and say what is still to do."""
        saved = None if self.checkpoint is None else checkpoints.load(self.checkpoint, self.model, self.loop.optimizer.optimizer)
        if saved is not None:
            self.history.restore(*saved)
            if self.loop.average is not None:
                self.loop.average.restore(_part(saved[1], "average."))
            for name, hook in self._stateful():
                hook.restore(_part(saved[1], name))
        self.loop.progress.start("training", self.plan.epochs * len(self.loop.loader))
        self.loop.progress.advance(len(self.history.epochs) * len(self.loop.loader))
        self.notes += _unwise(self.plan)

    def run(self) -> None:
        """Train the epochs that are left, until the plan's end or until patience ends."""
        first = len(self.history.epochs)
        for epoch in range(first, self.plan.epochs):
            if self.history.stopped:
                break
            self._epoch(epoch)
            if epoch == first and (missing := self.loop.classes.missing(self.loop.accelerator)):
                self.notes.append(missing)

    def _epoch(self, epoch: int) -> None:
        """Train one epoch, score it and write its checkpoint."""
        began, loop, history = time.perf_counter(), self.loop, self.history
        self.order.manual_seed(_order(self.plan, epoch))
        mean, last = loop.epoch(epoch, plateau(history.figures, **_PLATEAU) if self.plan.schedule == "plateau" else 1.0)
        with contextlib.nullcontext() if loop.average is None else loop.average.applied():
            if self.score is not None:
                if self.renews and epoch >= history.first:
                    self._renew_batch_norm()
                loop.shown["metric"] = self.score()
            history.add(EpochRecord(epoch + 1, mean, last, loop.shown.get("metric"), time.perf_counter() - began), self.model)
        if self.checkpoint is not None and loop.accelerator.is_main_process:
            average = {} if loop.average is None else loop.average.state()
            facts = {"epochs": [asdict(item) for item in history.epochs]}
            more = {**_prefixed("best.", history.best), **_prefixed("average.", average)}
            for name, hook in self._stateful():
                more |= _prefixed(name, hook.state())
            checkpoints.save(self.checkpoint, self.model, loop.optimizer.optimizer, facts, more)

    def _stateful(self) -> Iterator[tuple[str, StatefulHook]]:
        """Yield the hooks that remember something, each with the prefix of its tensors in checkpoints."""
        for index, hook in enumerate(self.loop.hooks):
            if isinstance(hook, StatefulHook):
                yield f"hooks.{index}.", hook

    def deliver(self) -> FitRecord:
        """Leave the weights in the model that the plan asks for: the best epoch's, the averages, or the last ones."""
        if self.history.best:
            self.model.load_state_dict(self.history.best)
        elif self.loop.average is not None:
            self.loop.average.deliver()
        if self.renews and not self.history.best:
            self._renew_batch_norm()
        self.loop.progress.finish(**self.history.facts())
        for note in self.notes:
            self.loop.progress.log(note)
        self.model.to("cpu").eval()
        return FitRecord(tuple(self.history.epochs), tuple(self.notes))

    def _renew_batch_norm(self) -> None:
        """Estimate batch-norms anew from the training data without augmentation; the random state stays as it is."""
        loop = self.loop
        with torch.random.fork_rng(devices=[]):
            self.order.manual_seed(_order(self.plan, self.plan.epochs))
            renew_batch_norm(loop.inner, (loop.split(_on(batch, loop.accelerator.device))[0] for batch in loop.loader))


def _first_delivered(plan: FitPlan) -> int:
    """Return the first epoch at whose end the weights are of the kind that is delivered: averages of the last quarter are not there before it."""
    return math.ceil(SWA_FROM * plan.epochs) - 1 if plan.average == "swa" else 0


class _History:
    """The epochs so far; with patience also the weights of the best one from epoch `first` on."""

    def __init__(self, direction: Direction, patience: int | None, first: int) -> None:
        self.sign, self.patience, self.first = (-1 if direction == "max" else 1), patience, first
        self.epochs: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}

    def restore(self, facts: dict[str, Any], more: dict[str, Tensor]) -> None:
        self.epochs = [EpochRecord(**item) for item in facts["epochs"]]
        self.best = _part(more, "best.")

    def add(self, epoch: EpochRecord, model: nn.Module) -> None:
        self.epochs.append(epoch)
        counted = self.figures[self.first :]
        if self.patience is not None and counted and counted[-1] <= min(counted):
            self.best = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @property
    def figures(self) -> list[float]:
        """Of each epoch, less is better: the metric where there is one, else the loss."""
        return [epoch.loss if epoch.metric is None else self.sign * epoch.metric for epoch in self.epochs]

    @property
    def stopped(self) -> bool:
        """Whether the metric has not become better for so many epochs."""
        counted = self.figures[self.first :]
        return self.patience is not None and bool(counted) and len(counted) - 1 - counted.index(min(counted)) >= self.patience

    def facts(self) -> dict[str, Any]:
        return {} if not self.epochs or self.epochs[-1].metric is None else {"metric": self.epochs[-1].metric}


def _unwise(plan: FitPlan) -> Iterator[str]:
    """Yield a sentence for options that undo each other."""
    sparse = [choice.name for choice in plan.regularize if REGULARIZERS[choice.name].proximal is not None]
    mixing = plan.average if plan.average != "none" else plan.optimizer if plan.optimizer in TWO_WEIGHTS else None
    if sparse and mixing is not None:
        yield f"{mixing} delivers means of weights: of the exact zeros that {' and '.join(sparse)} makes, few are left in them"


def _order(plan: FitPlan, epoch: int) -> int:
    """Return the seed of an epoch's order, by seed and epoch alone: a continued run sees what an uninterrupted one would."""
    return plan.seed * 1_000_003 + epoch


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _loader(
    data: Dataset[Any], plan: FitPlan, collate: Callable[[list[Any]], Any] | None, order: torch.Generator, whole: bool = False
) -> DataLoader[Any]:
    """Load shuffled batches. A last batch of one example is left out: batch-norm has no variance of it. So is any that is not `whole`, where that is asked."""
    size = len(data)  # type: ignore[arg-type]
    if size == 0:
        raise BadInput("the training data is empty")
    drop_last = whole or (size > plan.batch_size and size % plan.batch_size == 1)
    return Reader(data, "the train data").loader(plan.batch_size, collate, shuffle=True, drop_last=drop_last, generator=order)


@torch.no_grad()
def _score(
    model: nn.Module, valid: Dataset[Any], batch: int, split: Any, score: Callable[[Any, Any], float], collate: Any, device: torch.device
) -> float:
    model.eval()
    outputs, targets, n = [], [], len(valid)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # a loader draws a seed: training must not depend on whether it is scored
        for item in Reader(valid, "the valid data").loader(batch, collate):
            inputs, target = split(item)
            args, kwargs = as_call(_on(inputs, device))
            outputs.append(_on(model(*args, **kwargs), torch.device("cpu")))
            targets.append(target)
        joined = join_targets(targets, sizes_of(n, batch), lambda: split(next(iter(DataLoader(valid, n, collate_fn=collate))))[1])
    return score(_joined(outputs), joined)


@contextlib.contextmanager
def _layout(model: nn.Module, channels_last: bool) -> Iterator[None]:
    """Lay kernels of two dimensions out pixel by pixel while the context is open, and give them back as they were."""
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        if channels_last:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _on(value: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def _joined(outputs: list[Any]) -> Any:
    """Join outputs of batches: tensors are concatenated (shorter ones filled up with zeros), containers entry by entry."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return join_tensors(outputs)
    if isinstance(first, Mapping):
        return {key: _joined([out[key] for out in outputs]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_joined([out[i] for out in outputs]) for i in range(len(first)))
    return first


def _accelerator() -> Any:
    """Make the accelerator. Without a GPU the processor is asked for by name: several processes are seen only then.

    bf16 is not its business: it keeps one precision for the life of a process.
    """
    return need("accelerate").Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")


@contextlib.contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Seed torch while the context is open, and give the random state back."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of the libraries about each other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        yield
