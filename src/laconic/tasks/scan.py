"""One pass over a dataset before work begins: values that are not finite, examples of which no batch can be made, lengths that were not declared.

It ends after some seconds where the data is large; what it saw is checked, and the rest as it is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import default_collate

from laconic.core.batches import sizes_of
from laconic.core.errors import LaconicError
from laconic.core.interface import as_call
from laconic.core.task import Task
from laconic.tasks.axes import BATCH, USERS, leaves_of, undeclared
from laconic.tasks.data import loader

SECONDS = 1.0  # that a pass may take where nothing needs the whole
# What PyTorch says where examples make no batch, and the usual mend.
_REMEDIES = (
    (
        "equal size",
        "The examples have different shapes: pad them in Task(collate=…), and name the dimension that varies, Task(dynamic={input: {dimension: name}})",
    ),
    ("default_collate", "Give Task(collate=…) that makes tensors of the examples, or a dataset that returns tensors, arrays and numbers"),
    ("must have the same dtype", "Give inputs in the type of the model's weights: x.float() in the dataset or in Task(split=…)"),
    ("expected target dtype to be", "Give targets in that type: y.long() in the dataset or in Task(split=…)"),
    ("not enough values to unpack", "Give Task(split=lambda batch: (inputs, target))"),
    ("too many values to unpack", "Give Task(split=lambda batch: (inputs, target))"),
)
Dynamic = Mapping[str, Mapping[int, str]]


@dataclass
class Scan:
    """What a pass saw: the targets of batches as the data gives them, the examples in each, whether it came to the end, and what is wrong."""

    targets: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    whole: bool = False
    mistake: str = ""

    @property
    def batches(self) -> Iterator[tuple[int, int, Any]]:
        """Each batch: the place of its first example, how many it holds, its target."""
        start = 0
        for size, target in zip(self.sizes, self.targets, strict=True):
            yield start, size, target
            start += size


def told(error: BaseException) -> str:
    """Return the first line of what somebody's code raised, with its kind and the usual mend."""
    first = (str(error).strip().splitlines() or [""])[0][:400]
    mend = next((f". {mend}" for pattern, mend in _REMEDIES if pattern in str(error)), "")
    return first if isinstance(error, LaconicError) else f"{type(error).__name__}: {first.removesuffix('.') if mend else first}{mend}"


def scan(
    task: Task, data: Any, dynamic: Dynamic, answers: Callable[[Any], Tensor | None], first: Any = None, seconds: float = SECONDS
) -> Scan:
    """Look at a dataset's batches, in order, until something is wrong or the time is over.

    Args:
        task: whose data it is.
        data: with a length.
        dynamic: dimensions that may differ from batch to batch, as of `axes.dynamic_of`.
        answers: from inputs to the model's logits; None where it gives none. Values that are not finite are wrong where its answers are not either.
        first: inputs of a batch with which shapes are compared; None: they are not.
        seconds: after which it ends.
    """
    seen, start, end = Scan(), 0, time.monotonic() + seconds
    sizes = sizes_of(len(data), task.batch_size)
    parts = iter(loader(data, task.batch_size, shuffle=False, seed=0, collate=task.collate))
    for number, size in enumerate(sizes):
        try:
            inputs, target = task.split(next(parts))
        except USERS as error:
            seen.mistake = _unreadable(task, data, start, size, error)
            return seen
        seen.mistake = _not_finite(task, inputs, start, size, dynamic, answers) or (
            _other_shape(task, dynamic, first, inputs) if first is not None and size == sizes[0] else ""
        )
        if seen.mistake:
            return seen
        seen.targets.append(target)
        seen.sizes.append(size)
        start += size
        if time.monotonic() > end and number + 1 < len(sizes):
            return seen
    seen.whole = True
    return seen


def _unreadable(task: Task, data: Any, start: int, size: int, error: BaseException) -> str:
    """Name the example that cannot be read, or the batch where each of its examples can."""
    for index in range(start, start + size):
        try:
            task.split((task.collate or default_collate)([data[index]]))
        except USERS as alone:
            return f"example {index} cannot be read: {told(alone)}"
    return f"no batch can be made of the examples {start} to {start + size - 1}: {told(error)}"


def _not_finite(task: Task, inputs: Any, start: int, size: int, dynamic: Dynamic, answers: Callable[[Any], Tensor | None]) -> str:
    leaves = [leaf for leaf in _tensors(inputs) if leaf.is_floating_point()]
    if all(bool(leaf.isfinite().all()) for leaf in leaves):
        return ""
    logits = answers(inputs)
    if logits is not None and bool(logits.isfinite().all()):  # a mask of minus infinity, or a model that knows what is missing
        return ""
    try:
        named = leaves_of(task.build(), inputs)
    except USERS:
        named = {f"input {number}": leaf for number, leaf in enumerate(_tensors(inputs))}
    for name, leaf in named.items():
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            axis = next((axis for axis, label in dynamic.get(name, {}).items() if label == BATCH), 0)
            value = "NaN" if bool(leaf.isnan().any()) else "infinite"
            wrong = leaf.isnan() if value == "NaN" else leaf.isinf()
            rows = wrong.movedim(axis, 0).flatten(1).any(1) if leaf.dim() > 1 else wrong.reshape(-1)
            place = f"example {start + int(rows.nonzero()[0])}" if len(rows) == size else f"the examples {start} to {start + size - 1}"
            return f"{place} holds a value that is {value} (input '{name}'), and the model's answer to it is not finite. Mend or leave out such examples"
    return ""


def _tensors(inputs: Any) -> Iterator[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None, inputs)
    yield from found


def _other_shape(task: Task, dynamic: Dynamic, first: Any, inputs: Any) -> str:
    mend = undeclared(task, dynamic, first, inputs)
    return "" if mend is None else f"batches have inputs of different shapes; say which dimension varies: {mend}"


def answered(task: Task, inputs: Any) -> Tensor | None:
    """Return the logits of the task's model in eval mode; None where it cannot answer."""
    model = task.build()
    training, random = model.training, torch.get_rng_state()
    try:
        with torch.no_grad():
            args, kwargs = as_call(inputs)
            return task.logits(model.eval()(*args, **kwargs))
    except USERS:
        return None
    finally:
        model.train(training)
        torch.set_rng_state(random)
