"""Scores of answers and the paired difference between two models' answers to the same questions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from torch import Tensor

from laconic.core.batches import count
from laconic.core.records import Measurement
from laconic.core.task import Task
from laconic.measure import stats
from laconic.run.record import Record
from laconic.tasks.metrics import MetricSpec, Undefined


def measure(metric: MetricSpec, logits: Tensor, target: Any) -> Measurement:
    """Score answers; the value is None where it is not finite or not defined."""
    if not bool(logits.isfinite().all()):
        return Measurement.missing(metric.unit, "the answers are not finite")
    try:
        value = metric.score(logits, target)
    except Undefined as error:
        return Measurement.missing(metric.unit, str(error))
    if not math.isfinite(value):
        return Measurement.missing(
            metric.unit, f"the metric '{metric.name}' is {value} on {count(target)} examples, though the answers are finite"
        )
    return Measurement(value, metric.unit, n=count(target))


def compare(metric: MetricSpec, baseline: Tensor, candidate: Tensor, target: Any, seed: int = 0) -> Measurement:
    """Return by how much the candidate is worse than the baseline, in the unit of the metric's differences, with its 95 % interval, paired by example.

    Resamples in which the metric is not defined give NaN, which `stats.paired_bootstrap` leaves out and counts.

    Args:
        baseline: answers, shape (n, …).
        candidate: answers to the same n questions.
        target: of n examples, joined; see `core.batches`.
    """
    sign = 1.0 if metric.direction == "max" else -1.0
    if metric.per_example is not None:
        scores = [metric.per_example(logits, target) for logits in (baseline, candidate)]
        if scores[0] is not None and scores[1] is not None:
            ours, theirs = (sign * np.asarray(score, dtype=float) for score in scores)
            return _in_unit(metric, stats.paired_difference(ours, theirs, scale=metric.scale, seed=seed))
    before, after = (metric.resampler(logits, target) for logits in (baseline, candidate))
    difference = stats.paired_bootstrap(lambda index: sign * (before(index) - after(index)), count(target), seed=seed)
    return _in_unit(metric, difference)


def with_others(record: Record, task: Task) -> Record:
    """Return the record with a drop that knows how many test examples there are for each valid one, where both have a length."""
    parts: list[Any] = [task.valid, task.test]
    if record.drop is None or not all(hasattr(part, "__len__") for part in parts):
        return record
    valid, test = map(len, parts)
    return record.with_measured(drop=dataclasses.replace(record.drop, others=test / valid))


def _in_unit(metric: MetricSpec, difference: Measurement) -> Measurement:
    """Return a difference in points of a percentage, else in the metric's own unit; a zero has no sign."""
    value, low, high = (None if end is None else end + 0.0 for end in (difference.value, difference.low, difference.high))
    return dataclasses.replace(difference, unit=metric.difference_unit, value=value, low=low, high=high)
