"""Try a task before anything is computed, and tell everything that is wrong with it at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from laconic.core import structure
from laconic.core.answers import Ambiguous, Answers, OutOfRange, stand_in
from laconic.core.batches import count, join_targets, padding, plain_target, sizes_of
from laconic.core.capture import argument_names
from laconic.core.errors import BadInput, LaconicError
from laconic.core.modes import evaluating
from laconic.core.program import as_call
from laconic.core.task import Task
from laconic.tasks import metrics
from laconic.tasks.data import loader

# What a user's code may raise; a keyboard interrupt is not among it.
_USERS = (LaconicError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_TRIED = 20  # batches at most that the model answers before work begins


@dataclass(frozen=True)
class _Batch:
    """The first batch of a dataset: inputs and target as the user gives them, the target in its joined form, the number of examples."""

    inputs: Any
    raw: Any
    target: Any
    size: int


def check_task(task: Task) -> None:
    """Run the first batch of each dataset through the model, the metric and the loss; of a named metric, look at all targets that will be scored.

    Raises:
        BadInput: every mistake, each with its place.
    """
    mistakes: list[str] = []
    spec = _metric(task, mistakes)
    if task.plan is not None and (task.train is None or task.loss is None):
        lacking = " and ".join(name for name, part in (("train data", task.train), ("a loss", task.loss)) if part is None)
        mistakes.append(f"plan: a plan of training is given, but the task has no {lacking}")
    batches = {name: _first(task, name, data, mistakes) for name, data in _datasets(task)}
    mistakes += _differences(task, batches)
    valid = batches.get("valid")
    outputs = _outputs(task, valid, mistakes)
    if outputs is not None and valid is not None:
        mistakes += _part(task, valid)
        valid, outputs = _telling(task, valid, outputs, spec)
        mistakes += _against(task, outputs, valid, spec, batches)
    if mistakes:
        plural = "s" * (len(mistakes) > 1)
        raise BadInput("\n".join([f"the task '{task.name}' has {len(mistakes)} mistake{plural}:", *(f"  {m}" for m in mistakes)]))


def _metric(task: Task, mistakes: list[str]) -> metrics.MetricSpec | None:
    try:
        return metrics.of(task)
    except BadInput as error:
        mistakes.append(f"metric: {error}")
        return None


def _datasets(task: Task) -> Iterator[tuple[str, Dataset[Any]]]:
    for name, data in (("train", task.train), ("valid", task.valid), ("test", task.test)):
        if data is not None or name == "valid":
            yield name, data  # type: ignore[misc]


def _first(task: Task, name: str, data: Any, mistakes: list[str]) -> _Batch | None:
    """Return the first batch, split; None, and a mistake noted, where there is none."""
    if not isinstance(data, Sized):
        mistakes.append(f"{name}: {type(data).__name__} has no length; give a map-style dataset")
        return None
    if len(data) == 0:
        mistakes.append(f"{name}: the dataset is empty")
        return None
    size = min(task.batch_size, len(data))
    try:
        batch = next(iter(loader(data, size, shuffle=False, seed=0, collate=task.collate)))  # type: ignore[arg-type]
        inputs, target = task.split(batch)
        return _Batch(inputs, target, plain_target(target, size), size)
    except _USERS as error:
        mistakes.append(f"{name}: no batch can be made of it: {_told(error)}")
        return None


def _differences(task: Task, batches: dict[str, _Batch | None]) -> Iterator[str]:
    """Yield how train and test data look otherwise than the valid data."""
    valid = batches.get("valid")
    if valid is None:
        return
    expected = _look(task, valid)
    for name in ("train", "test"):
        batch = batches.get(name)
        if batch is not None and (look := _look(task, batch)) != expected:
            hint = "" if task.dynamic else "; a dimension that may vary is told by Task(dynamic={input: {dimension: name}})"
            yield f"{name}: one example has {look}; one of the valid data has {expected}{hint}"


def _look(task: Task, batch: _Batch) -> str:
    """Describe one example's inputs: shapes and types, dynamic dimensions by name; beside integers a dimension may vary where batches are padded."""
    names = _input_names(task, batch.inputs)
    leaves = [leaf for leaf in tree_leaves(batch.inputs) if isinstance(leaf, Tensor)]
    if len(leaves) > 1 or any(not leaf.is_floating_point() for leaf in leaves):
        return ", ".join(f"{leaf.dim() - 1} dimensions {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves)
    return ", ".join(
        f"shape {_shape(leaf, (task.dynamic or {}).get(name, {}))} {str(leaf.dtype).removeprefix('torch.')}"
        for leaf, name in zip(leaves, names or [""] * len(leaves), strict=True)
    )


def _shape(leaf: Tensor, dynamic: dict[int, str]) -> str:
    """Write the shape beside the batch as a tuple prints, with names for what is dynamic."""
    shape: list[Any] = list(leaf.shape)
    for axis, name in dynamic.items():
        if -len(shape) <= axis < len(shape):
            shape[axis] = name
    return f"({', '.join(map(str, shape[1:]))}{',' * (len(shape) == 2)})"


def _input_names(task: Task, inputs: Any) -> list[str] | None:
    """Return the names of the tensors in inputs, in order, by which `Task.dynamic` knows them; None where the model cannot tell."""
    if not task.dynamic or task.part is not None:  # of a part, `dynamic` names its own inputs
        return None
    try:
        args, kwargs = as_call(inputs)
        values = dict(zip(argument_names(task.build(), args, kwargs), [*args, *kwargs.values()], strict=True))
        leaves: list[Tensor] = []
        names = list(structure.places(structure.describe(values, leaves), ""))
        same = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        return names if len(names) == len(same) and all(a is b for a, b in zip(leaves, same, strict=True)) else None
    except _USERS:
        return None


def _telling(task: Task, valid: _Batch, outputs: Any, spec: metrics.MetricSpec | None) -> tuple[_Batch, Any]:
    """Return the first batch (and its outputs) whose shape tells which dimension holds the classes: lengths may equal their number by chance.

    At most `_TRIED` batches are looked at; where none tells, the one given comes back.
    """
    if spec is None or spec.read is None or not task.dynamic or not _ambiguous(task, valid, outputs, spec):
        return valid, outputs
    sizes = sizes_of(len(task.valid), task.batch_size)  # type: ignore[arg-type]
    parts = loader(task.valid, task.batch_size, shuffle=False, seed=0, collate=task.collate)
    for item, size in itertools.islice(zip(parts, sizes, strict=True), 1, _TRIED):
        inputs, target = task.split(item)
        batch = _Batch(inputs, target, plain_target(target, size), size)
        answers = _outputs(task, batch, [])
        if answers is not None and not _ambiguous(task, batch, answers, spec):
            return batch, answers
    return valid, outputs


def _ambiguous(task: Task, batch: _Batch, outputs: Any, spec: metrics.MetricSpec) -> bool:
    try:
        assert spec.read is not None
        spec.read(task.logits(outputs), batch.target)
    except Ambiguous:
        return True
    except _USERS:
        return False
    return False


def _outputs(task: Task, batch: _Batch | None, mistakes: list[str]) -> Any:
    """Return the model's answers to the first valid batch; None, and a mistake noted, where it has none."""
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
            args, kwargs = as_call(batch.inputs)
            outputs = model.eval()(*args, **kwargs)
        task.logits(outputs)
        return outputs
    except _USERS as error:
        mistakes.append(f"model: it cannot answer the first batch of the valid data ({_look(task, batch)}): {_told(error)}")
        return None
    finally:
        model.train(training)
        torch.set_rng_state(random)


def _part(task: Task, batch: _Batch) -> Iterator[str]:
    """Yield why the part of a model that a task names cannot be cut out."""
    if task.part is None:
        return
    try:
        cut = task.cut()
        args, kwargs = as_call(cut.inputs(batch.inputs))
        with torch.no_grad(), evaluating(cut.module):
            cut.outputs(batch.inputs, cut.module(*args, **kwargs))
    except _USERS as error:
        yield _told(error)


def _against(task: Task, outputs: Any, valid: _Batch, spec: metrics.MetricSpec | None, batches: dict[str, _Batch | None]) -> Iterator[str]:
    """Yield what is wrong between the model's outputs, the targets, the metric and the loss."""
    logits = task.logits(outputs)
    targets = count(valid.target)
    if targets < 0:
        rule = f"hold different numbers of examples, in a batch of {valid.size}; give each part, or a list, one entry for each example"
        yield f"valid: the parts of a target {rule}"
        return
    if logits.dim() == 0 or targets != len(logits):
        rows = len(logits) if logits.dim() else "one number as"
        yield f"valid: the model gives {rows} answers to {targets} targets; the first dimension of its output must be the batch"
        return
    mistakes = [] if spec is None else list(_scored(task, spec, logits, valid, batches))
    yield from mistakes
    if task.loss is not None and not any(mistake.startswith("valid:") for mistake in mistakes):
        try:
            value = task.loss(outputs, valid.raw)
            if not isinstance(value, Tensor) or value.dim() != 0:
                yield f"loss: it must return a scalar tensor; it returns {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        except _USERS as error:
            yield f"loss: it cannot be computed: {_told(error)}"


def _scored(task: Task, spec: metrics.MetricSpec, logits: Tensor, valid: _Batch, batches: dict[str, _Batch | None]) -> Iterator[str]:
    """Yield what keeps the metric from being computed: from these answers, and with the targets of all datasets."""
    try:
        value = spec.score(logits, valid.target)
        if mistake := _uneven(spec, logits, valid.target, value):
            yield mistake
            return
    except (OutOfRange, metrics.Undefined):
        pass  # told below, of all targets
    except _USERS as error:
        yield f"metric: '{spec.name}' cannot be computed from logits {tuple(logits.shape)}, {_kind(valid.target)}: {_told(error)}"
        return
    if spec.read is None:
        return
    first = _read(spec, logits, valid.target)
    for name, batch in batches.items():
        if batch is not None:
            try:
                yield from _targets(task, name, batch, spec, logits, first)
            except _USERS as error:
                yield f"{name}: {_told(error)}"


def _read(spec: metrics.MetricSpec, logits: Tensor, target: Tensor) -> Answers:
    """Read the first batch; where it holds what is no class, read it as if it did not."""
    assert spec.read is not None
    try:
        return spec.read(logits, target)
    except OutOfRange:
        return spec.read(logits, torch.zeros_like(target))


def _uneven(spec: metrics.MetricSpec, logits: Tensor, target: Any, value: float) -> str | None:
    """Return a mistake where the mean of the scores by example, which a metric may bring, is not the metric; else None."""
    each = None if spec.per_example is None else spec.per_example(logits, target)
    if each is None or math.isclose(spec.scale * float(each.double().mean()), value, rel_tol=1e-6, abs_tol=1e-9):
        return None
    return f"metric: '{spec.name}' is {value:.6g}, the mean of its scores by example {spec.scale * float(each.double().mean()):.6g}; leave per_example out"


def _targets(task: Task, name: str, batch: _Batch, spec: metrics.MetricSpec, logits: Tensor, first: Answers) -> Iterator[str]:
    """Yield what is wrong with a dataset's targets for a named metric: with all of those that are scored, with the first batch of the train data."""
    assert spec.read is not None
    scored = name != "train"
    target = _all_targets(task, getattr(task, name), spec, logits, first) if scored else batch.target
    if not isinstance(target, Tensor):
        raise BadInput(f"{_kind(target)} is no tensor, as that of the valid data is")
    answers = spec.read(stand_in(first, logits, target), target) if scored else _stood_in(spec, logits, first, target)
    if scored and spec.undefined is not None and (why := spec.undefined(answers)):
        yield f"{name}: '{spec.name}' is not defined on these targets: {why}"


def _stood_in(spec: metrics.MetricSpec, logits: Tensor, first: Answers, target: Tensor) -> Answers:
    """Read a batch of this target beside zeros, its classes where the first batch has them."""
    assert spec.read is not None
    return spec.read(stand_in(first, logits, target), target, first.axis if logits.dim() > 1 else None)


def _all_targets(task: Task, data: Any, spec: metrics.MetricSpec, logits: Tensor, first: Answers) -> Any:
    """Return all targets, joined; what batches of different length are filled up with must not count."""
    targets = [task.split(batch)[1] for batch in loader(data, task.batch_size, shuffle=False, seed=0, collate=task.collate)]
    sizes = sizes_of(len(data), task.batch_size)
    whole = join_targets(
        targets, sizes, lambda: task.split(next(iter(loader(data, len(data), shuffle=False, seed=0, collate=task.collate))))[1]
    )
    if not isinstance(whole, Tensor) or whole.dim() < 2:
        return whole
    filled = padding(targets, sizes, whole)
    if len(filled):
        known = [int(_stood_in(spec, logits, first, part).known.sum()) for part in (whole, *map(plain_target, targets, sizes))]
        if known[0] != sum(known[1:]):
            raise BadInput(
                f"batches of different length are filled up with {', '.join(f'{value:g}' for value in filled.unique().tolist()[:3])}, which counts as a "
                f"target. Pad with -100 in Task(collate=…), or say Task(ignore={filled[0].item():g})"
            )
    return whole


def _kind(target: Any) -> str:
    if isinstance(target, Tensor):
        return f"target {tuple(target.shape)} {str(target.dtype).removeprefix('torch.')}"
    return f"target {type(target).__name__}"


def _told(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:400]
    return first if isinstance(error, LaconicError) else f"{type(error).__name__}: {first}"
