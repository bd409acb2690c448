"""The mean loss of a program on examples of the train data: what a cut costs before anything recovers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from laconic.core.context import Context
from laconic.core.program import Program
from laconic.core.task import Task
from laconic.pruning.collect import batch_size, borrowed, examples_of

Batch = tuple[Any, Any]  # inputs and target


def train_batches(program: Program, context: Context, examples: int, size: int = 64) -> list[Batch]:
    """Return inputs and targets of examples of the train data that the context's seed draws; none without a task that has train data and a loss.

    Args:
        program: whose batches may have a fixed size.
        context: with the task.
        examples: how many, of them `size` in a batch.
    """
    task = context.task
    if task is None or task.train is None or task.loss is None:
        return []
    return [task.split(batch) for batch in examples_of(task, context.seed, examples, program.interface.loading(size))]


def mean_loss(program: Program, task: Task, batches: Iterable[Batch]) -> float:
    """Return the task's loss in evaluation mode, the mean of all examples; the program's mode stays as it was.

    Args:
        program: on the device of its example.
        task: with a loss.
        batches: one at least, see `train_batches`.
    """
    assert task.loss is not None
    total, count = 0.0, 0
    with borrowed(program, ()):  # which computes no gradients
        for inputs, target in batches:
            size = batch_size(program, program.flatten_inputs(inputs))
            total += size * float(task.loss(program.call(inputs), target))
            count += size
    return total / count
