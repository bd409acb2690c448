"""Scores of answers and the paired difference between two models' answers to the same questions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from torch import Tensor

from laconic.core.records import Measurement
from laconic.measure import stats
from laconic.tasks.metrics import MetricSpec


def measure(metric: MetricSpec, logits: Tensor, target: Tensor) -> Measurement:
    """The metric of these answers; its value is None where it is not finite."""
    if not bool(logits.isfinite().all()):
        return Measurement.missing(metric.unit, "the answers are not finite")
    value = metric.score(logits, target)
    if not math.isfinite(value):
        return Measurement.missing(metric.unit, "the metric is not finite")
    return Measurement(value, metric.unit, n=len(target))


def compare(metric: MetricSpec, baseline: Tensor, candidate: Tensor, target: Tensor, seed: int = 0) -> Measurement:
    """By how much the candidate is worse than the baseline, in points of a percentage or the metric's own unit, with its paired 95 % interval.

    Args:
        baseline: answers, shape (n, …).
        candidate: answers to the same n questions.
        target: shape (n, …).
    """
    sign = 1.0 if metric.direction == "max" else -1.0
    if metric.per_example is not None:
        scores = [np.asarray(metric.per_example(logits, target), dtype=float) for logits in (baseline, candidate)]
        return _in_unit(stats.paired_difference(sign * scores[0], sign * scores[1], scale=metric.scale, seed=seed), metric)

    def drop(index: np.ndarray) -> float:
        return sign * (metric.score(baseline[index], target[index]) - metric.score(candidate[index], target[index]))

    return _in_unit(stats.paired_bootstrap(drop, len(target), seed=seed), metric)


def _in_unit(drop: Measurement, metric: MetricSpec) -> Measurement:
    """The drop in the unit of what it is a difference of: points of a percentage, else the metric's own. A zero has no sign."""
    value, low, high = (None if end is None else end + 0.0 for end in (drop.value, drop.low, drop.high))
    return dataclasses.replace(drop, unit="points" if metric.scale == 100 else metric.unit, value=value, low=low, high=high)
