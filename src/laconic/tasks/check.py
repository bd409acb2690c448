"""Try a task before anything is computed, and tell everything that is wrong with it at once."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, default_collate

from laconic.core import structure
from laconic.core.answers import Ambiguous, Answers, OutOfRange, stand_in
from laconic.core.batches import count, join_targets, padding, plain_target, sizes_of
from laconic.core.errors import BadInput, Mistakes
from laconic.core.part import Part
from laconic.core.plan import out_of_range
from laconic.core.program import as_call
from laconic.core.task import Task
from laconic.tasks import metrics
from laconic.tasks.axes import BATCH, USERS, dynamic_of, leaves_of
from laconic.tasks.data import loader, no_dataset
from laconic.tasks.scan import SECONDS, Scan, answered, scan, told

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
    for name, plan in (("plan", task.plan), ("recovery", task.recovery)):
        mistakes += [f"{name}: {mistake}" for mistake in out_of_range(plan)]
    batches = {name: _first(task, name, data, mistakes) for name, data in _datasets(task)}
    differing = dict(_differences(task, batches))
    mistakes += differing.values()
    valid = batches.get("valid")
    outputs = _outputs(task, valid, mistakes)
    if outputs is not None and valid is not None:
        mistakes += _part(task, valid)
        seen = _scanned(task, {name: batch for name, batch in batches.items() if name not in differing}, valid)
        mistakes += [f"{name}: {passed.mistake}" for name, passed in seen.items() if passed.mistake]
        valid, outputs = _telling(task, valid, outputs, spec)
        mistakes += _against(task, outputs, valid, spec, seen)
    if mistakes:
        raise Mistakes(f"the task '{task.name}' has {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}:", mistakes)


def _scanned(task: Task, batches: dict[str, _Batch | None], valid: _Batch) -> dict[str, Scan]:
    """Look through the datasets of which there is a first batch."""
    dynamic = {} if task.part is not None else dynamic_of(task)
    return {
        name: scan(
            task, getattr(task, name), dynamic, lambda inputs: answered(task, inputs), valid.inputs if batch.size == valid.size else None
        )
        for name, batch in batches.items()
        if batch is not None
    }


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
    if (why := no_dataset(data)) is not None:
        mistakes.append(f"{name}: {why}")
        return None
    size = min(task.batch_size, len(data))
    try:
        batch = next(iter(loader(data, size, shuffle=False, seed=0, collate=task.collate)))
        inputs, target = task.split(batch)
        return _Batch(inputs, target, plain_target(target, size), size)
    except USERS as error:
        mistakes.append(f"{name}: no batch can be made of it: {told(error)}")
        return None


def _differences(task: Task, batches: dict[str, _Batch | None]) -> Iterator[tuple[str, str]]:
    """Yield the datasets that differ, and how train and test data look otherwise than the valid data."""
    valid = batches.get("valid")
    if valid is None:
        return
    expected = _look(task, valid)
    for name in ("train", "test"):
        batch = batches.get(name)
        if batch is not None and (look := _look(task, batch)) != expected:
            hint = "" if task.dynamic else "; a dimension that may vary is told by Task(dynamic={input: {dimension: name}})"
            yield name, f"{name}: one example has {look}; one of the valid data has {expected}{hint}"


def _look(task: Task, batch: _Batch) -> str:
    """Describe one example's inputs: shapes and types, dynamic dimensions by name; beside integers a dimension may vary where batches are padded."""
    dynamic = {} if task.part is not None else dynamic_of(task)  # of a part it names its own inputs
    try:
        leaves = leaves_of(task.build(), batch.inputs)
    except USERS:
        leaves = {str(number): leaf for number, leaf in enumerate(tree_leaves(batch.inputs)) if isinstance(leaf, Tensor)}
    if len(leaves) > 1 or any(not leaf.is_floating_point() for leaf in leaves.values()):
        return ", ".join(f"{leaf.dim() - 1} dimensions {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves.values())
    return ", ".join(
        f"shape {_shape(leaf, dynamic.get(name, {}))} {str(leaf.dtype).removeprefix('torch.')}" for name, leaf in leaves.items()
    )


def _shape(leaf: Tensor, dynamic: Mapping[int, str]) -> str:
    """Write the shape beside the batch as a tuple prints, with names for what is dynamic."""
    shape: list[Any] = list(leaf.shape)
    batch = 0
    for axis, name in dynamic.items():
        if -len(shape) <= axis < len(shape):
            shape[axis] = name
            batch = axis if name == BATCH else batch
    del shape[batch : batch + 1]
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


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
        spec.read(task.logits(outputs), spec.pick(batch.target))
    except Ambiguous:
        return True
    except USERS:
        return False
    return False


def _outputs(task: Task, batch: _Batch | None, mistakes: list[str]) -> Any:
    """Return the model's answers to the first valid batch; None, and a mistake noted, where it has none."""
    if batch is None:
        return None
    try:
        model = task.build()
    except USERS as error:
        mistakes.append(f"model: it cannot be made: {told(error)}")
        return None
    training, random = model.training, torch.get_rng_state()
    try:
        with torch.no_grad():
            args, kwargs = as_call(batch.inputs)
            outputs = model.eval()(*args, **kwargs)
        task.logits(outputs)
        return outputs
    except USERS as error:
        mend = _alone(task, batch)
        mistakes.append(f"model: it cannot answer the first batch of the valid data ({_look(task, batch)}): {told(error)}{mend}")
        return None
    finally:
        model.train(training)
        torch.set_rng_state(random)


def _part(task: Task, batch: _Batch) -> Iterator[str]:
    """Yield why the part of a model that a task names cannot be cut out."""
    if task.part is None:
        return
    try:
        Part(task.build(), task.part).check(batch.inputs)
    except USERS as error:
        yield told(error)


def _alone(task: Task, batch: _Batch) -> str:
    """Return the mend where the model answers one example and not several."""
    if batch.size == 1:
        return ""
    try:
        inputs, _ = task.split((task.collate or default_collate)([task.valid[0]]))
    except USERS:
        return ""
    return "" if answered(task, inputs) is None else ". It answers one example alone: say Task(dynamic_batch=False, batch_size=1)"


def _against(task: Task, outputs: Any, valid: _Batch, spec: metrics.MetricSpec | None, seen: dict[str, Scan]) -> Iterator[str]:
    """Yield what is wrong between the model's outputs, the targets, the metric and the loss."""
    logits = task.logits(outputs)
    targets = count(valid.target)
    if targets < 0:
        rule = f"hold different numbers of examples, in a batch of {valid.size}; give each part, or a list, one entry for each example"
        yield f"valid: the parts of a target {rule}"
        return
    if logits.dim() == 0 or targets != len(logits):
        rows = len(logits) if logits.dim() else "one number as"
        yield (
            f"valid: the model gives {rows} answers to {targets} targets; the first dimension of its output must be the batch: "
            "Task(logits=lambda outputs: …) brings it there"
        )
        return
    if not bool(logits.isfinite().all()):
        if not seen["valid"].mistake:
            broken = (~logits.isfinite()).reshape(len(logits), -1).any(1).nonzero().flatten().tolist()
            yield f"model: its answer to example {broken[0]} of the valid data is not finite ({len(broken)} of the first {len(logits)} are not)"
        return
    mistakes = [] if spec is None else list(_scored(task, spec, logits, valid, seen))
    yield from mistakes
    if task.loss is not None and not any(mistake.startswith("valid:") for mistake in mistakes):
        wrong = [name for name in seen if any(mistake.startswith(f"{name}:") for mistake in mistakes)]
        yield from _losses(task, outputs, valid, {name: passed for name, passed in seen.items() if name not in wrong})


def _losses(task: Task, outputs: Any, valid: _Batch, seen: dict[str, Scan]) -> Iterator[str]:
    """Yield what keeps the loss from being computed: with the first batch, or with the targets of another one of its form beside the same answers."""
    assert task.loss is not None
    try:
        value = task.loss(outputs, valid.raw)
        if not isinstance(value, Tensor) or value.dim() != 0:
            yield f"loss: it must return a scalar tensor; it returns {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
            return
    except USERS as error:
        yield f"loss: it cannot be computed: {told(error)}"
        return
    end = time.monotonic() + SECONDS
    for name, passed in seen.items():
        for start, size, target in passed.batches:
            if size > valid.size or time.monotonic() > end:
                break
            if _forms(target) == _forms(valid.raw) and (why := _refused(task, outputs, target, size, valid.size)) is not None:
                yield f"{name}: the loss cannot be computed of the examples {start} to {start + size - 1}: {told(why)}"
                break


def _forms(target: Any) -> list[Any]:
    """Return shapes beside the batch and types of a target's tensors: targets of one form fit the same answers."""
    return [(leaf.dtype, leaf.dim(), leaf.shape[1:]) for leaf in tree_leaves(target) if isinstance(leaf, Tensor)]


def _refused(task: Task, outputs: Any, target: Any, size: int, whole: int) -> Exception | None:
    """Return what the loss raises of a target beside the first answers; None where it takes it."""
    assert task.loss is not None
    random = torch.get_rng_state()
    try:
        rows = _first_rows(outputs, size, whole)
    except BadInput:  # answers in an object that cannot be opened
        return None
    try:
        task.loss(rows, target)
    except USERS as error:
        return error
    finally:
        torch.set_rng_state(random)
    return None


def _first_rows(outputs: Any, size: int, whole: int) -> Any:
    """Return a model's answers to the first examples of a batch of `whole`; answers of a class of the model's own become `structure.Fields`."""
    if size == whole:
        return outputs
    leaves: list[Tensor] = []
    nesting = structure.describe(outputs, leaves)
    return structure.build(nesting, iter([leaf[:size] if leaf.dim() and len(leaf) == whole else leaf for leaf in leaves]))


def _scored(task: Task, spec: metrics.MetricSpec, logits: Tensor, valid: _Batch, seen: dict[str, Scan]) -> Iterator[str]:
    """Yield what keeps the metric from being computed: from these answers, and with the targets of all datasets."""
    try:
        value = spec.score(logits, valid.target)
        if mistake := _uneven(spec, logits, valid.target, value):
            yield mistake
            return
    except (OutOfRange, metrics.Undefined):
        pass  # told below, of all targets
    except USERS as error:
        if not _has_broken(spec, valid.target):
            yield f"metric: '{spec.name}' cannot be computed from logits {tuple(logits.shape)}, {_kind(valid.target)}: {told(error)}"
            return
    if spec.read is None:
        return
    first = _read(spec, logits, spec.pick(valid.target))
    for name, passed in seen.items():
        if not passed.mistake:
            try:
                yield from _targets(task, name, passed, spec, logits, first)
            except USERS as error:
                yield f"{name}: {told(error)}"


def _has_broken(spec: metrics.MetricSpec, target: Any) -> bool:
    """Return whether a named metric's targets hold what is no finite number, which is told with its place."""
    if spec.read is None:
        return False
    try:
        picked = spec.pick(target)
    except USERS:
        return False
    return picked.is_floating_point() and not bool(picked.isfinite().all())


def _read(spec: metrics.MetricSpec, logits: Tensor, target: Tensor) -> Answers:
    """Read the first batch; where it holds what is no class or no number, read it as if it did not."""
    assert spec.read is not None
    try:
        return spec.read(logits, target)
    except BadInput:
        return spec.read(logits, torch.zeros_like(target))


def _uneven(spec: metrics.MetricSpec, logits: Tensor, target: Any, value: float) -> str | None:
    """Return a mistake where the mean of the scores by example, which a metric may bring, is not the metric; else None."""
    each = None if spec.per_example is None else spec.per_example(logits, target)
    if each is None or math.isclose(spec.scale * float(each.double().mean()), value, rel_tol=1e-6, abs_tol=1e-9):
        return None
    return f"metric: '{spec.name}' is {value:.6g}, the mean of its scores by example {spec.scale * float(each.double().mean()):.6g}; leave per_example out"


def _targets(task: Task, name: str, seen: Scan, spec: metrics.MetricSpec, logits: Tensor, first: Answers) -> Iterator[str]:
    """Yield what is wrong with a dataset's targets for a named metric: with all of those that are scored, with what was seen of the train data."""
    assert spec.read is not None
    if name == "train":
        for start, _, target in _alike(spec, seen):
            try:
                _stood_in(spec, logits, first, target)
            except BadInput as error:
                yield f"train: {error}{_place(error, target, start)}"
                return
        return
    target = _all_targets(task, getattr(task, name), seen, spec, logits, first)
    try:
        answers = spec.read(stand_in(first, logits, target), target)
    except BadInput as error:
        yield f"{name}: {error}{_place(error, target, 0)}"
        return
    if spec.undefined is not None and (why := spec.undefined(answers)):
        yield f"{name}: '{spec.name}' is not defined on these targets: {why}"


def _alike(spec: metrics.MetricSpec, seen: Scan) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the targets that were seen, each run of batches of one shape joined: where it starts, how many examples, the tensor."""
    run: list[Tensor] = []
    begin = 0
    for start, size, raw in seen.batches:
        target = spec.pick(plain_target(raw, size))
        if run and target.shape[1:] != run[0].shape[1:]:
            yield begin, start - begin, torch.cat(run)
            run, begin = [], start
        run.append(target)
    if run:
        yield begin, sum(map(len, run)), torch.cat(run)


def _place(error: BadInput, target: Tensor, start: int) -> str:
    """Return which example holds the number that is wrong, in brackets; nothing where no number is."""
    if isinstance(error, OutOfRange):
        wrong = target == error.value
    else:
        wrong = ~target.isfinite() if target.is_floating_point() else torch.zeros_like(target, dtype=torch.bool)
    rows = wrong.reshape(len(target), -1).any(1).nonzero()
    return f" (example {start + int(rows[0])})" if len(rows) else ""


def _stood_in(spec: metrics.MetricSpec, logits: Tensor, first: Answers, target: Tensor) -> Answers:
    """Read a batch of this target beside zeros, its classes where the first batch has them."""
    assert spec.read is not None
    return spec.read(stand_in(first, logits, target), target, first.axis if logits.dim() > 1 else None)


def _all_targets(task: Task, data: Any, seen: Scan, spec: metrics.MetricSpec, logits: Tensor, first: Answers) -> Tensor:
    """Return all targets, joined; what batches of different length are filled up with must not count."""
    targets, sizes = seen.targets, seen.sizes
    if not seen.whole:
        targets = [task.split(batch)[1] for batch in loader(data, task.batch_size, shuffle=False, seed=0, collate=task.collate)]
        sizes = sizes_of(len(data), task.batch_size)
    targets = [spec.pick(plain_target(target, size)) for target, size in zip(targets, sizes, strict=True)]

    def again() -> Any:
        raw = task.split(next(iter(loader(data, len(data), shuffle=False, seed=0, collate=task.collate))))[1]
        return spec.pick(plain_target(raw, len(data)))

    whole: Tensor = join_targets(targets, sizes, again)
    if whole.dim() < 2:
        return whole
    filled = padding(targets, sizes, whole)
    if len(filled):
        known = [int(_stood_in(spec, logits, first, part).known.sum()) for part in (whole, *targets)]
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
