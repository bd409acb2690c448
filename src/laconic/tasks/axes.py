"""Which dimension of each input holds the examples, seen by collating one example twice and three times; and where lengths are not declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import default_collate

from laconic.core import structure
from laconic.core.errors import BadInput, LaconicError
from laconic.core.interface import argument_names, as_call
from laconic.core.task import Task

# What a user's code may raise; a keyboard interrupt is not among it.
USERS = (LaconicError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
BATCH = "batch"
_FEW = (2, 3)  # times that one example is repeated


def dynamic_of(task: Task) -> dict[str, dict[int, str]]:
    """Return the dynamic dimensions of a task's inputs, as of `capture`: those that it declares, and the batch where it is not dimension 0.

    One example is collated twice and three times. The dimension that grows is the batch; an input in which none does has none. Where the task's own `collate`
    or `split` does not take such a batch, only what is declared comes back.
    """
    declared = {name: dict(axes) for name, axes in (task.dynamic or {}).items()}
    if not task.dynamic_batch:
        return declared
    try:
        cut = task.cut()
        few, more = (leaves_of(cut.module, cut.inputs(_repeated(task, n))) for n in _FEW)
        found = {name: _grown(leaf, more[name]) for name, leaf in few.items()}
    except USERS:
        return declared
    if not any(found.values()):
        return declared
    for name, axes in found.items():
        own = {axis % few[name].dim(): label for axis, label in declared.get(name, {}).items()}
        if axes == [] and name not in declared:
            declared[name] = {}
        elif axes and len(axes) == 1 and axes != [0] and axes[0] not in own and BATCH not in own.values():
            declared[name] = own | {axes[0]: BATCH}
    return declared


def leaves_of(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Return the tensors in a model's inputs by the names under which `Task.dynamic` knows them.

    Raises:
        BadInput: the model cannot be called with them.
    """
    args, kwargs = as_call(inputs)
    values = dict(zip(argument_names(model, args, kwargs), [*args, *kwargs.values()], strict=True))
    leaves: list[Tensor] = []
    nesting = structure.describe(values, leaves)
    return dict(zip(structure.places(nesting, ""), leaves, strict=True))


def _grown(few: Tensor, more: Tensor) -> list[int] | None:
    """Return the dimensions that hold the examples; none where the two have one shape; None where it cannot be told."""
    if few.shape == more.shape:
        return []
    return [axis for axis, sizes in enumerate(zip(few.shape, more.shape, strict=True)) if sizes == _FEW] or None


def undeclared(task: Task, dynamic: Mapping[str, Mapping[int, str]], first: Any, other: Any) -> str | None:
    """Return what to declare where two batches of as many examples differ in a dimension that is not dynamic; None where they do not.

    Of a part of a model nothing is known: `dynamic` names its own inputs.

    Args:
        task: whose inputs they are.
        dynamic: dimensions that may differ, as `dynamic_of` returns them.
        first: inputs of a batch.
        other: inputs of another one.
    """
    if task.part is not None:
        return None
    try:
        ours, theirs = (leaves_of(task.build(), inputs) for inputs in (first, other))
    except BadInput:
        return None
    found: dict[str, dict[int, str]] = {}
    for name, leaf in ours.items():
        if name in theirs and theirs[name].dim() == leaf.dim():
            known = {axis % leaf.dim() for axis in dynamic.get(name, {}) if leaf.dim()} | (
                {0} if BATCH not in dynamic.get(name, {}).values() else set()
            )
            differing = [axis for axis, sizes in enumerate(zip(leaf.shape, theirs[name].shape, strict=True)) if sizes[0] != sizes[1]]
            new = {axis: f"length{i or ''}" for i, axis in enumerate(axis for axis in differing if axis not in known)}
            if new:
                found[name] = new
    return f"Task(dynamic={found})" if found else None


def _repeated(task: Task, n: int) -> Any:
    inputs, _ = task.split((task.collate or default_collate)([task.valid[0]] * n))
    return inputs
