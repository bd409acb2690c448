"""The mean loss of a program on examples of the train data: what a cut costs before anything recovers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from laconic.core.axes import batch_size
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.reader import reader_of
from laconic.core.task import Task, calibration_subset

Batch = tuple[Any, Any]  # inputs and target


def examples_of(task: Task, seed: int, examples: int, loading: Mapping[str, Any]) -> DataLoader[Any]:
    """Return a loader of examples of the train data that a seed draws; the global random state stays as it is.

    Raises:
        BadInput: there are none, or none are asked for.
    """
    if examples < 1 or loading["batch_size"] < 1:
        raise BadInput(f"examples and batch_size must be 1 or more; they are {examples} and {loading['batch_size']}")
    assert task.train is not None
    subset = calibration_subset(task.train, examples, seed)
    if not len(subset):
        raise BadInput(f"the train data of the task '{task.name}' are empty: there is nothing to collect from")
    # a generator of its own, so that the global one is not advanced
    return reader_of(task, subset).loader(collate=task.collate, generator=torch.Generator().manual_seed(seed), **loading)


@contextmanager
def borrowed(program: Program, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Return the program in evaluation mode, with gradients for these parameters and no others; given back as it was."""
    trained = [(p, p.requires_grad) for p in program.parameters()]
    mode = program.training
    chosen = {id(p) for p in parameters}
    try:
        program.eval()
        for p, _ in trained:
            p.requires_grad_(id(p) in chosen)
        with torch.set_grad_enabled(bool(parameters)):
            yield
    finally:
        for p, was in trained:
            p.requires_grad_(was)
        program.train(mode)


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
            leaves = program.flatten_inputs(inputs)
            size = batch_size(program.inputs, leaves) or int(leaves[0].shape[0])
            total += size * float(task.loss(program.call(inputs), target))
            count += size
    return total / count
