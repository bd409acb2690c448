"""Try a task before anything is computed, and tell everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from laconic.core.errors import BadInput, LaconicError
from laconic.core.program import as_call
from laconic.core.task import Task
from laconic.tasks import metrics
from laconic.tasks.data import loader

# What a user's code may raise; a keyboard interrupt is not among it.
_USERS = (LaconicError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def check_task(task: Task) -> None:
    """Run the first batch of each dataset through the model, the metric and the loss.

    Raises:
        BadInput: every mistake, each with its place.
    """
    mistakes: list[str] = []
    spec = _metric(task, mistakes)
    if task.fit is not None and (task.train is None or task.loss is None):
        lacking = " and ".join(name for name, part in (("train data", task.train), ("a loss", task.loss)) if part is None)
        mistakes.append(f"fit: a plan of training is given, but the task has no {lacking}")
    batches = {name: _first(task, name, data, mistakes) for name, data in _datasets(task)}
    mistakes += _differences(batches)
    outputs = _outputs(task, batches.get("valid"), mistakes)
    if outputs is not None:
        for name, batch in batches.items():
            if batch is not None:
                mistakes += _against(task, name, outputs if name == "valid" else None, batch[1], spec, outputs)
    if mistakes:
        plural = "s" * (len(mistakes) > 1)
        raise BadInput("\n".join([f"the task '{task.name}' has {len(mistakes)} mistake{plural}:", *(f"  {m}" for m in mistakes)]))


def _metric(task: Task, mistakes: list[str]) -> metrics.MetricSpec | None:
    try:
        return metrics.resolve(task.metric, task.direction)
    except BadInput as error:
        mistakes.append(f"metric: {error}")
        return None


def _datasets(task: Task) -> Iterator[tuple[str, Dataset[Any]]]:
    for name, data in (("train", task.train), ("valid", task.valid), ("test", task.test)):
        if data is not None or name == "valid":
            yield name, data  # type: ignore[misc]


def _first(task: Task, name: str, data: Any, mistakes: list[str]) -> tuple[Any, Any] | None:
    """The first batch, split; None and a mistake where there is none."""
    if not isinstance(data, Sized):
        mistakes.append(f"{name}: {type(data).__name__} has no length; give a map-style dataset")
        return None
    if len(data) == 0:
        mistakes.append(f"{name}: the dataset is empty")
        return None
    try:
        batch = next(iter(loader(data, min(task.batch_size, len(data)), shuffle=False, seed=0, collate=task.collate)))  # type: ignore[arg-type]
        inputs, target = task.split(batch)
        return inputs, target
    except _USERS as error:
        mistakes.append(f"{name}: no batch can be made of it: {_told(error)}")
        return None


def _differences(batches: dict[str, tuple[Any, Any] | None]) -> Iterator[str]:
    """Train and test data must look like the valid data."""
    if batches.get("valid") is None:
        return
    expected = _look(batches["valid"])
    for name in ("train", "test"):
        if batches.get(name) is not None and (found := _look(batches[name])) != expected:
            yield f"{name}: one example has {found}; one of the valid data has {expected}"


def _look(batch: tuple[Any, Any] | None) -> str:
    """Shapes and types of one example's inputs; a dimension beside the batch may vary between batches where it is padded."""
    assert batch is not None
    leaves = [leaf for leaf in tree_leaves(batch[0]) if isinstance(leaf, Tensor)]
    if len(leaves) > 1 or any(not leaf.is_floating_point() for leaf in leaves):
        return ", ".join(f"{leaf.dim() - 1} dimensions {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves)
    return ", ".join(f"shape {tuple(leaf.shape[1:])} {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves)


def _outputs(task: Task, batch: tuple[Any, Any] | None, mistakes: list[str]) -> Any:
    """The model's answers to the first valid batch; None and a mistake where it has none."""
    if batch is None:
        return None
    try:
        model = task.build()
    except _USERS as error:
        mistakes.append(f"model: it cannot be made: {_told(error)}")
        return None
    training, random = model.training, torch.get_rng_state()
    try:
        with torch.no_grad():
            args, kwargs = as_call(batch[0])
            outputs = model.eval()(*args, **kwargs)
        task.logits(outputs)
        return outputs
    except _USERS as error:
        mistakes.append(f"model: it cannot answer the first batch of the valid data ({_look(batch)}): {_told(error)}")
        return None
    finally:
        model.train(training)
        torch.set_rng_state(random)


def _against(task: Task, name: str, own: Any, target: Any, spec: metrics.MetricSpec | None, outputs: Any) -> Iterator[str]:
    """What is wrong between the model's outputs and a dataset's targets."""
    logits = task.logits(outputs)
    target = torch.as_tensor(target)
    whole = not target.is_floating_point()
    if whole and logits.dim() > 1 and logits.shape[1] > 1 and len(target):
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= logits.shape[1]:
            yield f"{name}: a target is {high if high >= logits.shape[1] else low}; the model knows the classes 0 to {logits.shape[1] - 1}"
            return
    if own is None:
        return
    if len(target) != len(logits):
        yield f"{name}: the model gives {len(logits)} answers to {len(target)} targets; the first dimension of its output must be the batch"
        return
    if spec is not None:
        try:
            spec.score(logits, target)
        except _USERS as error:
            shapes = f"logits {tuple(logits.shape)}, target {tuple(target.shape)} {str(target.dtype).removeprefix('torch.')}"
            yield f"metric: '{spec.name}' cannot be computed from {shapes}: {_told(error)}"
    if task.loss is not None:
        try:
            value = task.loss(outputs, target)
            if not isinstance(value, Tensor) or value.dim() != 0:
                yield f"loss: it must return a scalar tensor; it returns {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        except _USERS as error:
            yield f"loss: it cannot be computed: {_told(error)}"


def _told(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return first if isinstance(error, LaconicError) else f"{type(error).__name__}: {first}"
