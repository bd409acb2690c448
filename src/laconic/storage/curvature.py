"""How sharply the loss bends along each weight: the diagonal of the empirical Fisher information, in place of the Hessian's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.reader import reader_of
from laconic.core.task import Task, calibration_subset

_BATCH = 8
_FLOOR = 0.1  # of a tensor's mean: few examples call many weights flat that are not


def curvature(program: Program, parameters: Sequence[nn.Parameter], context: Context, examples: int = 256) -> list[Tensor]:
    """Return for each weight about how much the loss rises with half the square of its change: the mean squared gradient of an example.

    Of batches of 8 examples the squared gradient, times 8, is taken: as much as the mean square over examples where gradients are 0 on average, as they are at
    the end of a training. A tenth of the tensor's mean is added, so that no weight is free.

    Args:
        program: in eval mode.
        parameters: of its own.
        context: with a task that has train data and a loss.
        examples: of the train data.

    Raises:
        BadInput: there is no train data or loss, or a gradient is not finite.
    """
    task = _task(context)
    program.interface.limits.check_trainable("curvature")
    total = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    batches = 0
    for inputs, target, size in _batches(program, task, task.train, examples, context.seed):
        with torch.enable_grad(), _differentiable(parameters):
            gradients = torch.autograd.grad(_loss(task, program, inputs, target), list(parameters), allow_unused=True)
        for sums, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                sums += gradient.square() * size
        batches += 1
    if not batches or not all(bool(sums.isfinite().all()) for sums in total):
        raise BadInput(
            "the loss's curvature is not finite on the train data, or there are none. Look for bad examples or an overflow in the model."
        )
    return [sums / batches + _FLOOR * (sums / batches).mean() for sums in total]


@torch.no_grad()
def mean_loss(program: Program, context: Context, examples: int = 256) -> float:
    """Return the mean loss over some examples of the valid data; of the train data where there are none.

    Raises:
        BadInput: there is no data or loss.
    """
    task = _task(context)
    data = task.train if task.valid is None else task.valid
    losses = [
        (float(_loss(task, program, inputs, target)), size)
        for inputs, target, size in _batches(program, task, data, examples, context.seed)
    ]
    return sum(loss * size for loss, size in losses) / sum(size for _, size in losses)


def _task(context: Context) -> Task:
    if context.task is None or context.task.train is None or context.task.loss is None:
        raise BadInput("what weights matter to the loss is measured on data: give the Context a task with train data and a loss")
    return context.task


def _loss(task: Task, program: Program, inputs: Any, target: Any) -> Tensor:
    assert task.loss is not None
    return task.loss(program.call(inputs), target)


@contextmanager
def _differentiable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let frozen parameters have gradients while the context is open."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_()
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _batches(program: Program, task: Task, data: Any, examples: int, seed: int) -> Iterator[tuple[Any, Any, int]]:
    """Yield inputs, target and size of batches of some examples."""
    size = program.interface.fixed_batch or _BATCH
    chosen = calibration_subset(data, max(examples, size), seed)
    generator = torch.Generator().manual_seed(seed)  # its own, so that the global one is not advanced
    loader = reader_of(task, chosen).loader(size, task.collate, generator=generator, drop_last=program.interface.fixed_batch is not None)
    for number, batch in enumerate(loader):
        inputs, target = task.split(batch)
        yield inputs, target, min(size, len(chosen) - number * size)
