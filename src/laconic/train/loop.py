"""One epoch of training: batches to steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from laconic.core.errors import TrainingStopped
from laconic.core.hook import Hook
from laconic.core.norms import refusals_told
from laconic.core.plan import FitPlan
from laconic.core.program import as_call
from laconic.core.progress import Progress
from laconic.train.augment import Augmenter, Mix
from laconic.train.average import Average
from laconic.train.classes import Classes
from laconic.train.optim import TWO_WEIGHTS, buffers_kept, normalize_gradients, sharpened
from laconic.train.regularize import Regularizer

Loss = Callable[[Any, Any], Tensor]
_ADVICE = "The last epoch's checkpoint is kept. Lower the learning rate, set grad_clip, or look for bad values in the data."


@dataclass(frozen=True)
class Example:
    """A batch as the model sees it."""

    inputs: Any
    target: Any
    mix: Mix | None


@dataclass(frozen=True)
class Loop:
    """What one epoch needs.

    `rate` is the learning rate over progress: step k (from 0) of all n has that at k / n. `loss` holds all that the plan adds to the task's. `inner` is the
    part of the model that will be delivered, `shown` are figures that stay on the progress bar, `classes` counts what it learns from.
    """

    model: nn.Module
    inner: nn.Module
    accelerator: Any
    optimizer: Any
    loader: Any
    rate: Callable[[float], float]
    plan: FitPlan
    loss: Loss
    split: Callable[[Any], tuple[Any, Any]]
    hooks: Sequence[Hook]
    progress: Progress
    augmenter: Augmenter | None
    regularizer: Regularizer | None
    average: Average | None
    shown: dict[str, Any] = field(default_factory=dict)
    classes: Classes = field(default_factory=Classes)

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return math.ceil(len(self.loader) / self.plan.accumulate)

    def epoch(self, epoch: int, slowed: float = 1.0) -> tuple[float, float]:
        """Pass once over the data, every learning rate multiplied by `slowed`; return the mean loss and the last learning rate."""
        self.model.train()
        if self.plan.optimizer in TWO_WEIGHTS:
            self.optimizer.optimizer.train()
        total, lr, steps = torch.zeros(()), self.plan.lr, self.plan.epochs * self.steps
        for index, batches in enumerate(_windows(self.loader, self.plan.accumulate)):
            done = epoch * self.steps + index
            lr = self.rate(done / steps) * slowed
            number = self._step([self._example(batch) for batch in batches], lr, f"epoch {epoch + 1}, step {index + 1} of {self.steps}")
            progress = (done + 1) / steps
            # averages are of what hooks leave: weights that a mask holds at zero are zero in them too
            for hook in self.hooks:
                hook(self.inner, progress)
            if self.average is not None:
                self.average.update(progress)
            total += number * len(batches)
            self.progress.advance(len(batches), loss=number, **self.shown)
        if self.plan.optimizer in TWO_WEIGHTS:
            self.optimizer.optimizer.eval()
        self._check(epoch)
        return float(self.accelerator.reduce(total.to(self.accelerator.device), "mean")) / len(self.loader), lr

    def _example(self, batch: Any) -> Example:
        inputs, target = self.split(batch)
        inputs, mix = (inputs, None) if self.augmenter is None else self.augmenter(inputs)
        return Example(channels_last(inputs) if self.plan.channels_last else inputs, target, mix)

    def _step(self, examples: Sequence[Example], lr: float, place: str) -> float:
        """Take one optimizer step at this learning rate; return the mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        number = self._gradients(examples, lr, place)
        if self.plan.sam:
            with sharpened(self.model, self.plan.sam), buffers_kept(self.model):
                self._gradients(examples, lr, place)
        if self.plan.gradients != "plain":
            normalize_gradients(self.model, self.plan.gradients)
        if self.plan.grad_clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.plan.grad_clip)
        self.optimizer.step()
        if self.regularizer is not None:
            self.regularizer.proximal(lr)
        return number

    def _gradients(self, examples: Sequence[Example], lr: float, place: str) -> float:
        """Compute fresh gradients of the mean loss, which is returned."""
        self.optimizer.zero_grad()
        total = 0.0
        for example in examples:
            value = self._loss(example)
            number = float(value.detach())
            if not math.isfinite(number):
                raise TrainingStopped(f"the loss is {number} at {place} (learning rate {lr:.3g}). {_ADVICE}")
            self.accelerator.backward(value / len(examples) if len(examples) > 1 else value)
            total += number / len(examples)
        return total

    def _loss(self, example: Example) -> Tensor:
        args, kwargs = as_call(example.inputs)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            with refusals_told():
                outputs = self.model(*args, **kwargs)
            value = self.loss(outputs, example.target)
            self.classes.add(outputs, example.target)
            if example.mix is not None:
                order, share = example.mix.order, example.mix.share
                other = tree_map(lambda t: t[order] if isinstance(t, Tensor) else t, example.target)
                value = share * value + (1 - share) * self.loss(outputs, other)
        penalty = None if self.regularizer is None else self.regularizer.penalty()
        return value if penalty is None else value + penalty

    def _check(self, epoch: int) -> None:
        """Raise where a step broke the weights after the last loss was seen."""
        for name, p in self.model.named_parameters():
            if not bool(p.detach().isfinite().all()):
                raise TrainingStopped(f"{name} holds values that are no numbers after epoch {epoch + 1}. {_ADVICE}")


def _windows(loader: Any, size: int) -> Iterator[list[Any]]:
    batches = iter(loader)
    while window := list(itertools.islice(batches, size)):
        yield window


def channels_last(inputs: Any) -> Any:
    """Lay pictures (B, C, H, W) out pixel by pixel; leave the rest as it is."""
    return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.dim() == 4 else x, inputs)
