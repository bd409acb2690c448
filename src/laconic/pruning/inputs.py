"""Inputs of other sizes than the example's, made from it, since what a program computes at one batch size says little of others; and batches of the task."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laconic.core.axes import dynamic_sizes
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.folding import reestimate_batch_norm
from laconic.core.program import Program
from laconic.core.reader import reader_of
from laconic.core.task import Task, calibration_subset

_WANTED = 2
_REAL = 8  # examples of a batch of real data


@dataclass(frozen=True)
class Resized:
    """Inputs, flat, and how long their dynamic dimensions are."""

    sizes: Mapping[str, int]
    inputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        return ", ".join(f"{label} {size}" for label, size in self.sizes.items())


def resized(program: Program, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
    """Return the example with other sizes: its indices over and over, floating numbers a little changed, so that copies differ.

    Args:
        sizes: for labels of dynamic dimensions; others stay as in the example.
    """
    generator = torch.Generator().manual_seed(seed)
    result = []
    for spec, leaf in zip(program.inputs, program.example_inputs(), strict=True):
        for axis, label in enumerate(spec.shape):
            if isinstance(label, str) and label in sizes:
                leaf = leaf.index_select(axis, torch.arange(sizes[label], device=leaf.device) % leaf.shape[axis])
        if leaf.is_floating_point():
            leaf = leaf * (1 + 0.1 * torch.randn(leaf.shape, generator=generator)).to(leaf)
        result.append(leaf)
    return tuple(result)


def other_sizes(program: Program) -> tuple[Resized, ...]:
    """Return inputs of two other batch sizes, and of other lengths where lengths are dynamic, on which the program runs.

    A model may refuse some sizes (more tokens than it has places for, images that do not halve evenly), so several are tried. Empty where all sizes are fixed.

    Raises:
        BadInput: the program says that sizes are dynamic and runs at none but the example's.
    """
    given = dynamic_sizes(program.inputs, program.example_inputs())
    if not given:
        return ()
    trial = copy.deepcopy(program).eval().cpu()  # on an accelerator, an index out of range ends the process
    device = program.example_inputs()[0].device
    result: list[Resized] = []
    for sizes in _candidates(given):
        if len(result) == _WANTED:
            break
        inputs = resized(trial, sizes, seed=len(result) + 1)
        if _runs(trial, inputs):
            result.append(Resized(sizes, tuple(leaf.to(device) for leaf in inputs)))
    if not result:
        told = ", ".join(f"{label} {size}" for label, size in given.items())
        raise BadInput(
            f"the program declares dynamic sizes and runs at those of the example only ({told}): the model fixed a size while it was captured. "
            "Compute that size from the inputs' shapes in forward, or capture with dynamic_batch=False."
        )
    return tuple(result)


def _candidates(given: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Return sizes to try: all labels changed, then the batch alone."""
    choices = {label: _others(size) for label, size in given.items()}
    for i in range(max(len(result) for result in choices.values())):
        yield {label: result[i % len(result)] for label, result in choices.items()}
    if "batch" in given and len(given) > 1:
        yield from ({**given, "batch": size} for size in choices["batch"])


def _others(size: int) -> list[int]:
    """Return other sizes, near ones first; 1 is left out, for PyTorch takes it for a constant."""
    near = (size + 1, size - 1, 2 * size, size // 2, 3 * size, size // 4, 4 * size)
    return [n for n in dict.fromkeys(near) if n > 1 and n != size]


@torch.no_grad()
def _runs(program: Program, inputs: tuple[Tensor, ...]) -> bool:
    try:
        program.graph_module(*inputs)
    except Exception:  # noqa: BLE001 - whatever a size breaks, it is not for this program
        return False
    return True


def task_batches(program: Program, task: Task | None, seed: int = 0) -> list[tuple[Tensor, ...]]:
    """Return a few small batches of the task's valid data (where it has none: train data), flat and on the program's device; none without data."""
    data: Any = None if task is None else task.valid if task.valid is not None else task.train
    if task is None or data is None or not len(data):
        return []
    fixed = "batch" not in dynamic_sizes(program.inputs, program.example_inputs())
    size = program.example_inputs()[0].shape[0] if fixed and program.example_inputs()[0].dim() else _REAL
    subset = calibration_subset(data, _WANTED * size, seed)
    loader: Any = reader_of(task, subset).loader(size, task.collate, drop_last=fixed)
    device = program.example_inputs()[0].device
    return [tuple(leaf.to(device) for leaf in program.flatten_inputs(task.split(batch)[0])) for batch in loader]


def renew_statistics(pruned: Program, examples: int, batch_size: int, context: Context) -> None:
    """Estimate the statistics of batch-norms anew, where there is data for it."""
    task = context.task
    data: Any = None if task is None else task.train if task.train is not None else task.valid
    fixed = pruned.interface.fixed_batch
    if data is None or len(data) < 2 or fixed == 1:
        return
    assert task is not None
    subset = calibration_subset(data, max(2, examples), context.seed)
    size = max(2, min(batch_size, len(subset)))
    # batch-norm has no variance of one example
    loading = {"batch_size": size, "drop_last": len(subset) % size == 1} if fixed is None else pruned.interface.loading(fixed)
    loader: Any = reader_of(task, subset).loader(collate=task.collate, **loading)
    reestimate_batch_norm(pruned, (pruned.flatten_inputs(task.split(batch)[0]) for batch in loader))
