"""The number that may not be lost: named metrics, and a user's own function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.answers import Answers, read_answers, read_values
from laconic.core.batches import rows
from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.task import Direction, Task
from laconic.tasks import metric_functions
from laconic.tasks.metric_functions import WeightedMetric

Score = Callable[[Tensor, Any], float]
PerExample = Callable[[Tensor, Tensor], Tensor | None]
Resampled = Callable[[np.ndarray], float]
# What a function may raise on a resample that lacks a class; on all examples it was computed before.
_REFUSED = (ArithmeticError, LookupError, RuntimeError, ValueError)


class Undefined(BadInput):
    """A metric has no value on this target, whatever the answers are."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric.

    Attributes:
        name: of the metric.
        direction: whether ``max`` or ``min`` is better.
        scale: points in one unit of the raw metric: 100 for shares, which are told in percent; 1 for the rest.
        unit: of the score, ``%`` or empty.
        score: from logits (n, …) and target (n, …) to the score, scaled; `Undefined` where there is none. A user's own may also return NaN.
        per_example: each example's raw score, shape (n,), where the metric can be their mean; None where it is not for these shapes. Makes paired
            intervals exact and fast.
        bounds: the least and the largest score, scaled; None where there is no end.
        zero_one: whether an answer scores 0 or 1, so that examples of one answer do.
        read: brings logits and target into one form, `(logits, target, axis=None)` with the dimension of the classes where it is known; None for a user's
            own metric, which takes them as they are.
        resampled: from logits and target to a function from positions of examples, shape (k,), to their score, scaled; NaN where it is not defined.
        undefined: why there is no score, by the target alone; None where there is one.
    """

    name: str
    direction: Direction
    scale: float
    unit: str
    score: Score
    per_example: PerExample | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    zero_one: bool = False
    read: Callable[..., Answers] | None = None
    resampled: Callable[[Tensor, Any], Resampled] | None = None
    undefined: Callable[[Answers], str | None] | None = None

    @property
    def difference_unit(self) -> str:
        """The unit of the difference of two scores: points of percent, else the metric's own."""
        return "points" if self.unit == "%" else self.unit

    def resampler(self, logits: Tensor, target: Any) -> Resampled:
        """Return a function from positions of examples to their score, scaled; NaN where it is not defined."""
        if self.resampled is not None:
            return self.resampled(logits, target)

        def score(index: np.ndarray) -> float:
            try:
                return self.score(rows(logits, index), rows(target, index))
            except _REFUSED:
                return float("nan")

        return score


@dataclass(frozen=True)
class _Row:
    """A named metric: `function` computes it, `undefined` says why it has no value; `mean` says whether it can be a mean over examples."""

    name: str
    direction: Direction
    function: Callable[[Answers], WeightedMetric]
    percent: bool
    undefined: Callable[[Answers], str | None] = metric_functions.nothing_known
    mean: bool = False
    zero_one: bool = False
    bounds: tuple[float | None, float | None] = (0.0, 100.0)


_ROWS = (
    _Row("accuracy", "max", metric_functions.accuracy, True, mean=True, zero_one=True),
    _Row("balanced_accuracy", "max", metric_functions.balanced_accuracy, True),
    _Row("f1", "max", metric_functions.f1, True, metric_functions.without_yes),
    _Row("auroc", "max", metric_functions.auroc, True, metric_functions.one_sided),
    _Row("mse", "min", metric_functions.mse, False, mean=True, bounds=(0.0, None)),
    _Row("mae", "min", metric_functions.mae, False, mean=True, bounds=(0.0, None)),
    _Row("rmse", "min", metric_functions.rmse, False, bounds=(0.0, None)),
    _Row("r2", "max", metric_functions.r2, False, metric_functions.constant_output, bounds=(None, 1.0)),
)


@dataclass(frozen=True)
class _Named:
    """A named metric with what a task says of its targets: the entry that does not count, and the dimension of the classes."""

    row: _Row
    ignore: float | None = None
    class_axis: int | None = None

    @property
    def scale(self) -> float:
        return 100.0 if self.row.percent else 1.0

    def read(self, logits: Tensor, target: Tensor, axis: int | None = None) -> Answers:
        if not isinstance(target, Tensor):
            raise BadInput(
                f"'{self.row.name}' takes a tensor of targets; these are {type(target).__name__}. Give a function as the metric, or Task(split=…)"
            )
        if not self.row.percent:
            return read_values(logits, target, self.ignore)
        return read_answers(logits, target, self.ignore, self.class_axis if axis is None else axis)

    def weighted(self, logits: Tensor, target: Tensor) -> WeightedMetric:
        answers = self.read(logits, target)
        if why := self.row.undefined(answers):
            raise Undefined(f"'{self.row.name}' is not defined here: {why}")
        return self.row.function(answers)

    def score(self, logits: Tensor, target: Tensor) -> float:
        return self.scale * self.weighted(logits, target).value(np.ones(len(target)))

    def per_example(self, logits: Tensor, target: Tensor) -> Tensor | None:
        scores = self.weighted(logits, target).per_example
        return None if scores is None else torch.from_numpy(scores)

    def resampled(self, logits: Tensor, target: Tensor) -> Resampled:
        n, value = len(target), self.weighted(logits, target).value
        return lambda index: self.scale * value(np.bincount(index, minlength=n).astype(float))

    def spec(self) -> MetricSpec:
        row = self.row
        return MetricSpec(
            name=row.name,
            direction=row.direction,
            scale=self.scale,
            unit="%" if row.percent else "",
            score=self.score,
            per_example=self.per_example if row.mean else None,
            bounds=row.bounds,
            zero_one=row.zero_one,
            read=self.read,
            resampled=self.resampled,
            undefined=row.undefined,
        )


GROUP = "laconic.metrics"  # of entry points: each names a `MetricSpec`
METRICS: dict[str, MetricSpec] = {row.name: _Named(row).spec() for row in _ROWS}
_BY_NAME = {row.name: row for row in _ROWS}


def named_metrics() -> dict[str, MetricSpec]:
    """Return the metrics by name: `METRICS` and those of other packages.

    Raises:
        BadInput: an entry point takes a name that is there, or is no metric.
    """
    return {**METRICS, **_from_outside()}


@functools.cache
def _from_outside() -> dict[str, MetricSpec]:
    rows = {name: row for name, row in extended(METRICS, GROUP).items() if name not in METRICS}
    for name, row in rows.items():
        if not isinstance(row, MetricSpec):
            raise BadInput(f"'{name}' in the group {GROUP} is a {type(row).__name__}; it must be a tasks.metrics.MetricSpec")
    return rows


def of(task: Task) -> MetricSpec:
    """Return the task's metric, with what the task says of its targets.

    Raises:
        BadInput: as of `resolve`.
    """
    spec = resolve(task.metric, task.direction)
    if isinstance(task.metric, str) and task.metric in _BY_NAME and METRICS[task.metric] is spec:
        return _Named(_BY_NAME[task.metric], task.ignore, task.class_axis).spec()
    return spec


def resolve(metric: str | Callable[[Any, Any], float], direction: Direction | None = None) -> MetricSpec:
    """Return the metric of this name, or of a user's function `(logits, target) -> float`.

    Raises:
        BadInput: an unknown name, a function without a direction, or a direction that contradicts the metric.
    """
    if direction not in ("max", "min", None):
        raise BadInput(f"direction: {direction!r}; write 'max' where more is better, 'min' where less is")
    if isinstance(metric, str):
        known = named_metrics()
        if metric not in known:
            raise BadInput(f"'{metric}' is not a metric." + nearest(metric, known))
        spec = known[metric]
        if direction not in (None, spec.direction):
            raise BadInput(
                f"direction '{direction}' contradicts the metric '{metric}', of which {spec.direction} is better. Leave direction out."
            )
        return spec
    if not callable(metric):
        raise BadInput(f"the metric must be a name or a function (logits, target) -> float; it is {type(metric).__name__}")
    if direction is None:
        raise BadInput(f"the metric {_name(metric)} is a function: say with direction='max' or 'min' whether more or less is better")
    return MetricSpec(_name(metric), direction, 1.0, "", lambda logits, target: float(torch.as_tensor(metric(logits, target))))


def _name(metric: Callable[..., Any]) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))
