"""Collect what criteria look at: gradients of the loss and activations where weights read them, batch by batch.

Shapes: B examples of a batch, E of all batches, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from laconic.core.axes import batch_size
from laconic.core.context import Context
from laconic.core.errors import BadInput, nearest
from laconic.core.graph import module_path
from laconic.core.loss import borrowed, examples_of
from laconic.core.program import Program
from laconic.core.task import Task
from laconic.pruning.coupling import Coupling
from laconic.pruning.criteria import Evidence, criteria, named, pieces
from laconic.pruning.trace import Consumer

_KINDS = ("gradients", "activations")
_NAMED = 3  # groups that a note lists by name


def score(coupling: Coupling, criterion: str, context: Context, examples: int = 256, batch_size: int = 16) -> list[Tensor]:
    """Score the components of each of `coupling.groups`; data are looked at only where the criterion needs them.

    Groups in which the criterion has nothing to look at are scored by `l1`, and a line of the progress names them; where the criterion's scores are compared
    between groups, theirs are given the mean of the others.

    Returns:
        For each group (n,), float64, larger = keep.

    Raises:
        BadInput: an unknown criterion; data that it needs are missing or not finite.
    """
    row = named(criterion)
    evidence = collect(coupling, row.needs, context, examples, batch_size)
    blind = [group.name for group in coupling.groups if row.sees is not None and not row.sees(evidence, group)]
    if blind:
        names = ", ".join(blind[:_NAMED]) + (", …" if len(blind) > _NAMED else "")
        context.progress.log(f"{criterion} has nothing to look at in {len(blind)} of {len(coupling.groups)} groups ({names}): l1 there")
    scores = [row(evidence, group) for group in coupling.groups]
    return _leveled(scores, [group.name in blind for group in coupling.groups]) if blind and row.comparable else scores


def _leveled(scores: Sequence[Tensor], blind: Sequence[bool]) -> list[Tensor]:
    """Return scores in which blind groups have the mean of all components that are seen, or of 1 where none is."""
    seen = [score for score, is_blind in zip(scores, blind, strict=True) if not is_blind]
    level = torch.cat(seen).mean() if seen else 1.0
    return [
        score * (level / score.mean()) if is_blind and score.mean() > 0 else score for score, is_blind in zip(scores, blind, strict=True)
    ]


def collect(coupling: Coupling, needs: Collection[str], context: Context, examples: int = 256, batch_size: int = 16) -> Evidence:
    """Run the program in evaluation mode over examples of the train data and fold what is needed.

    The program is left as it was: its mode, which parameters are trained, their `.grad`.

    Args:
        needs: of ``gradients`` and ``activations``; nothing is run where it is empty.
        context: the task with train data and, for gradients, a loss; the seed that draws the examples.
        examples: how many are drawn.
        batch_size: of them at a time. The gradient of a batch is squared as a whole, so it matters to `Evidence.squares`.

    Raises:
        BadInput: the task, its train data or its loss is missing; there are no examples; a loss, gradient or activation is not finite.
    """
    unknown = [need for need in needs if need not in _KINDS]
    if unknown:
        raise BadInput(f"there is no evidence '{unknown[0]}'.{nearest(unknown[0], _KINDS)}")
    if not needs:
        return Evidence(coupling, seed=context.seed)
    task = task_with(context, needs, [name for name, row in criteria().items() if not row.needs])
    gradients = _Gradients(coupling) if "gradients" in needs else None
    readers = _readers(coupling) if "activations" in needs else {}
    loader = examples_of(task, context.seed, examples, coupling.program.interface.loading(batch_size))
    with borrowed(coupling.program, gradients.parameters if gradients else ()):
        run = _Watched(coupling.program, readers.values())
        context.progress.start("collecting " + " and ".join(kind for kind in _KINDS if kind in needs), len(loader))
        for batch in loader:
            inputs, target = task.split(batch)
            outputs = run.call(inputs)
            if gradients is not None:
                assert task.loss is not None
                gradients.fold(task.loss(outputs, target))
            context.progress.advance()
        context.progress.finish()
    return Evidence(
        coupling,
        *(gradients.finish() if gradients is not None else ({}, {})),
        pooled={i: torch.cat(reader.pooled) for i, reader in readers.items() if reader.pooled},
        magnitude={i: reader.magnitude / reader.count for i, reader in readers.items()},
        power={i: reader.power for i, reader in readers.items()},
        seed=context.seed,
    )


def task_with(context: Context, needs: Collection[str], without: Sequence[str]) -> Task:
    """Return the task of a context, which has train data and, for gradients, a loss.

    Args:
        context: of the step.
        needs: of ``gradients`` and ``activations``.
        without: names of the criteria that need neither, for the message.

    Raises:
        BadInput: it has not.
    """
    task = context.task
    mend = f"Give the Context a task that has it, or choose a criterion that looks at weights only ({', '.join(without)})."
    if task is None or task.train is None:
        raise BadInput(
            f"the criterion needs {' and '.join(sorted(needs))} on train data, and there is {'no task' if task is None else 'none'}. {mend}"
        )
    if "gradients" in needs and task.loss is None:
        raise BadInput(f"the criterion needs gradients, and the task '{task.name}' has no loss. {mend}")
    return task


# Gradients --------------------------------------------------------------------------------------------------------------------------------


class _Gradients:
    """Mean and mean square of the gradients of batches, for all parameters in which a group has slices."""

    def __init__(self, coupling: Coupling) -> None:
        result = {slot.tensor: None for group in coupling.groups for slot, _ in pieces(coupling, group)}
        self.names = list(result)
        tensors = [coupling.tensor(name) for name in self.names]
        self.parameters = [p for p in tensors if isinstance(p, nn.Parameter)]
        self.total = [torch.zeros_like(p, dtype=_sum_dtype(p), requires_grad=False) for p in self.parameters]
        self.squares = [torch.zeros_like(total) for total in self.total]
        self.batches = 0

    def fold(self, loss: Tensor) -> None:
        """Take in the loss of one batch.

        Raises:
            BadInput: the loss or a gradient is not finite.
        """
        if not bool(loss.isfinite()):
            raise BadInput(f"the loss of batch {self.batches + 1} is {loss.item()}. Look for bad examples or an overflow in the model.")
        result: Sequence[Tensor | None] = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for name, total, squares, gradient in zip(self.names, self.total, self.squares, result, strict=True):
            if gradient is None:
                continue
            if not bool(gradient.isfinite().all()):
                raise BadInput(f"the gradient of {name} is not finite in batch {self.batches + 1}. Look for a division by zero behind it.")
            total += gradient
            squares += gradient.to(squares.dtype).square()
        self.batches += 1

    def finish(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return mean gradients and mean squared gradients, by name."""
        means = ([value / self.batches for value in values] for values in (self.total, self.squares))
        first, second = (dict(zip(self.names, values, strict=True)) for values in means)
        return first, second


def _sum_dtype(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


# Activations ------------------------------------------------------------------------------------------------------------------------------


class _Reader:
    """Folds the values that a weight reads: sums over all positions, and a mean for each example.

    Args:
        consumer: which value, and which of its axes holds the channels.
        batch_axis: the axis that grows with the batch; None: no axis does, and nothing is pooled.
        channels: C.
    """

    def __init__(self, consumer: Consumer, batch_axis: int | None, channels: int) -> None:
        self.consumer, self.batch_axis = consumer, batch_axis
        self.magnitude, self.power = torch.zeros(2, channels, dtype=torch.float64)
        self.pooled: list[Tensor] = []
        self.count = 0

    def fold(self, x: Tensor, batch: int) -> None:
        """Take in the value of one batch of so many examples.

        Raises:
            BadInput: a number is not finite.
        """
        x = x.detach().double().movedim(self.consumer.axis, -1)
        flat = x.reshape(-1, x.shape[-1])
        power = flat.square().sum(0).cpu()
        if not bool(power.isfinite().all()):
            node = self.consumer.node
            raise BadInput(
                f"the activations that {module_path(node) or node.name} reads are not finite. Look for bad examples or an overflow in the model."
            )
        self.power += power
        self.magnitude += flat.abs().sum(0).cpu()
        self.count += len(flat)
        if self.batch_axis is not None:
            axis = self.batch_axis - (self.batch_axis > self.consumer.axis)
            self._pool(x.movedim(axis, 0), batch)

    def _pool(self, x: Tensor, batch: int) -> None:
        """x (B · blocks, …, C): the blocks of an example lie one after the other, as windows of an image do."""
        if len(x) % batch:
            self.batch_axis = None
            self.pooled = []
        else:
            self.pooled.append(x.reshape(batch, -1, x.shape[-1]).mean(1).cpu())


def _readers(coupling: Coupling) -> dict[int, _Reader]:
    """Return one reader for each consumer of channels that can be removed, by its position."""
    free = {(slot.tensor, slot.dim): len(slot.index) for group in coupling.groups for slot in group.slots}
    symbols = _batch_symbols(coupling.program)
    return {
        i: _Reader(consumer, _batch_axis(consumer.value, symbols), free[consumer.tensor, consumer.dim])
        for i, consumer in enumerate(coupling.consumers)
        if (consumer.tensor, consumer.dim) in free
    }


def _batch_symbols(program: Program) -> set[str]:
    """Return names of the sizes that the batch has in the graph; none where it was captured with a fixed batch."""
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    pairs = [
        pair for node, spec in zip(nodes, program.inputs, strict=True) for pair in zip(node.meta["val"].shape, spec.shape, strict=True)
    ]
    return {str(size) for size, label in pairs if label == "batch" and not isinstance(size, int)}


def _batch_axis(value: fx.Node, symbols: set[str]) -> int | None:
    """Return the first axis whose size depends on the batch; the first of all where the batch is fixed."""
    if value.op == "get_attr":
        return None
    if not symbols:
        return 0
    sizes = enumerate(value.meta["val"].shape)
    return next((i for i, s in sizes if not isinstance(s, int) and symbols & {str(x) for x in s.node.expr.free_symbols}), None)


class _Watched(fx.Interpreter):
    """Runs the program node by node and shows readers what their weights read, at the moment when they do (an operator in place may change it later)."""

    def __init__(self, program: Program, readers: Collection[_Reader]) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False  # of our own errors, too, it would become the message
        self.program, self.batch = program, 0
        self.readers: Mapping[fx.Node, list[_Reader]] = {
            node: [reader for reader in readers if reader.consumer.node is node] for node in {reader.consumer.node for reader in readers}
        }

    def call(self, inputs: Any) -> Any:
        """Return the program's outputs, nested as it returns them."""
        leaves = self.program.flatten_inputs(inputs)
        self.batch = batch_size(self.program.inputs, leaves) or int(leaves[0].shape[0])
        return self.program.unflatten_outputs(self.run(*leaves))

    def run_node(self, n: fx.Node) -> Any:
        for reader in self.readers.get(n, ()):
            reader.fold(self.env[reader.consumer.value], self.batch)
        return super().run_node(n)
