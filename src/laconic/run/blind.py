"""Does the metric see the model at all? Its score is compared with those of answers that know nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.batches import plain_target, rows
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.task import Task
from laconic.run.examples import Examples, batches
from laconic.run.record import Record
from laconic.tasks.metrics import MetricSpec

SHUFFLES = 20  # so that a metric that sees is not taken for a blind one by chance
_SAME = 1e-6  # relative: a user's float32 sums move by this much with their order
_USERS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def probed(record: Record, metric: MetricSpec, logits: Tensor, examples: Examples, task: Task, program: Program) -> Record:
    """Return the baseline's record with what the metric says of answers that know nothing: shuffled among the examples, negated, the same for all.

    - The metric is *blind* where all of them score the same as the model; or where shuffled and constant ones do, though by the loss the model's answers are
      better than shuffled ones. Where no loss can tell, metrics of one's own are then blind, and named ones if negated answers are not worse either or all
      answers lie between 0 and 1, as probabilities do.
    - It is *reversed* where none of them scores worse than the model, though by the loss its answers are better than shuffled ones.
    - A model that is bad by its loss too is noted, not refused: its metric may see well.

    Args:
        record: of the baseline.
        metric: how it was scored.
        logits: its answers to the examples, shape (n, …).
        examples: with targets.
        task: with its loss, if it has one.
        program: the model.

    Raises:
        BadInput: the metric is blind or reversed.
    """
    own = record.value("metric")
    if len(logits) < 2 or own is None:
        return record
    sign = 1.0 if metric.direction == "max" else -1.0
    shuffled = _shuffled(metric, logits, examples.target)
    scores = {
        "own": own,
        "shuffled": next(shuffled),
        "negated": _score(metric, _negated(logits), examples.target),
        "constant": _score(metric, _constant(logits), examples.target),
    }
    record = dataclasses.replace(record, probes=scores)
    ignorant = [scores[name] for name in ("shuffled", "constant")]
    if any(_worse(value, own, sign) for value in ignorant):
        return record
    more = list(shuffled)
    same = all(_same(value, own) for value in (*ignorant, *more))
    negated = scores["negated"]
    good = better_than_shuffled(task, program)
    sees = metric.read is not None and _worse(negated, own, sign) and not _squashed(logits)  # a named metric of a model that says one thing
    if same and (_same(negated, own) or good or (good is None and not sees)):
        raise BadInput(_told(metric, scores, "this metric cannot tell your model from a constant one"))
    if any(_worse(value, own, sign) for value in (negated, *more)):
        return record
    if good:
        raise BadInput(_told(metric, scores, "by this metric your model is no better than a constant one, though by its loss it is"))
    note = _told(metric, scores, "by this metric the model is no better than a constant one, so that little is kept by keeping its score")
    return dataclasses.replace(record, notes=(*record.notes, note))


def better_than_shuffled(task: Task, program: Program) -> bool | None:
    """Return whether the loss of the first valid batch is less than with its targets shuffled, each of `SHUFFLES` times; None where nothing tells."""
    if task.loss is None:
        return None
    try:
        inputs, raw = next(batches(task, task.valid))
        with torch.no_grad():
            cut = task.cut()
            outputs = cut.outputs(inputs, program.call(cut.inputs(inputs)))
            own = float(task.loss(outputs, raw))
            size = len(task.logits(outputs))
            target = plain_target(raw, size)
            others = [float(task.loss(outputs, rows(target, order))) for order in _orders(size)]
    except _USERS:
        return None
    if not all(map(math.isfinite, (own, *others))) or all(_same(other, own) for other in others):
        return None
    return all(_worse(other, own, -1.0) for other in others)


def _orders(n: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(SHUFFLES):
        yield rng.permutation(n)


def _shuffled(metric: MetricSpec, logits: Tensor, target: Any) -> Iterator[float]:
    for order in _orders(len(logits)):
        yield _score(metric, logits[torch.from_numpy(order)], target)


def _negated(logits: Tensor) -> Tensor:
    return ~logits if logits.dtype == torch.bool else -logits


def _squashed(logits: Tensor) -> bool:
    return bool(((logits >= 0) & (logits <= 1)).all())


def _constant(logits: Tensor) -> Tensor:
    """Return the mean answer for every example; of whole numbers the first one."""
    one = logits.double().mean(0).to(logits.dtype) if logits.is_floating_point() else logits[0]
    return one.expand(logits.shape).clone()


def _score(metric: MetricSpec, logits: Tensor, target: Any) -> float:
    """Return the score; NaN where the metric refuses such answers."""
    try:
        return metric.score(logits, target)
    except _USERS:
        return math.nan


def _same(value: float, own: float) -> bool:
    return abs(value - own) <= _SAME * max(abs(value), abs(own))


def _worse(value: float, own: float, sign: float) -> bool:
    """Return whether a score is worse than the model's own; so is one that is not finite, since the metric saw a difference."""
    return not math.isfinite(value) or (sign * value < sign * own and not _same(value, own))


def _told(metric: MetricSpec, probes: dict[str, float], why: str) -> str:
    scores = ", ".join(f"{value:.4g} {'of the model' if name == 'own' else name}" for name, value in probes.items())
    return (
        f"{why}: '{metric.name}' is {scores}. Look at the metric, its direction ('{metric.direction}'), and at what it takes: logits, not probabilities "
        "or class numbers (Task(logits=…)), in the order of the targets."
    )
