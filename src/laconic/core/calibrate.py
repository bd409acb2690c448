"""Run a program over the calibration data and let observers see what passes; nothing is stored but what they fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.graph import module_path
from laconic.core.program import Program
from laconic.core.progress import Progress
from laconic.core.reader import reader_of
from laconic.core.task import calibration_subset

Batch = tuple[Tensor, ...]


class Watcher(Protocol):
    """Whatever folds tensors."""

    def fold(self, x: Tensor) -> None:
        """Take in one batch."""


def calibration_batches(context: Context, examples: int, batch_size: int, program: Program) -> list[Batch]:
    """Return flat inputs of examples drawn from the train data (the valid data where there is none), in batches.

    Raises:
        BadInput: there is no task to draw from, or a float input is not finite.
    """
    task = context.task
    if task is None:
        raise BadInput("the step needs data to calibrate with: give it a task (or a Context that holds one)")
    data = task.train if task.train is not None else task.valid
    subset = calibration_subset(data, examples, context.seed)
    loader = reader_of(task, subset).loader(collate=task.collate, **program.interface.loading(batch_size))
    return [_checked(program, program.flatten_inputs(task.split(batch)[0])) for batch in loader]


def _checked(program: Program, leaves: Batch) -> Batch:
    for spec, leaf in zip(program.inputs, leaves, strict=True):
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise BadInput(f"the calibration data holds values that are not finite, in the input '{spec.name}'. Remove those examples.")
    return leaves


class _Watched(fx.Interpreter):
    """Runs the graph node by node and shows the watched ones' results."""

    def __init__(self, module: fx.GraphModule, watchers: Mapping[fx.Node, Sequence[Watcher]]) -> None:
        super().__init__(module)
        self.watchers = watchers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for watcher in self.watchers.get(n, ()):
            _show(watcher, result, n)
        return result


def _show(watcher: Watcher, result: Any, node: fx.Node) -> None:
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.numel() == 0:
        return
    try:
        watcher.fold(result)
    except FloatingPointError as error:
        raise BadInput(
            f"calibration met values that are not finite at the output of {module_path(node) or node.name} ({node.target}): {error}. "
            "Look for bad examples or an overflow in the model."
        ) from error


@torch.no_grad()
def observe(
    program: Program, watchers: Mapping[fx.Node, Sequence[Watcher]], batches: Iterable[Batch], progress: Progress, name: str = "calibrating"
) -> None:
    """Run the program over the batches and show the results of nodes to their watchers.

    Raises:
        BadInput: a value is not finite; names the layer.
    """
    runner = _Watched(program.graph_module, watchers)
    batches = list(batches)
    progress.start(name, len(batches))
    with _channels_last(program):
        for leaves in batches:
            runner.run(*(leaf.contiguous(memory_format=torch.channels_last) if leaf.dim() == 4 else leaf for leaf in leaves))
            progress.advance()
    progress.finish()


class _channels_last:
    """Convolution kernels laid out as the processor's library likes them; given back as they were."""

    def __init__(self, program: Program) -> None:
        self.kernels = [p for p in program.parameters() if p.dim() == 4]

    def __enter__(self) -> None:
        self.before = [p.data for p in self.kernels]
        for p in self.kernels:
            p.data = p.data.contiguous(memory_format=torch.channels_last)

    def __exit__(self, *_: object) -> None:
        for p, data in zip(self.kernels, self.before, strict=True):
            p.data = data
