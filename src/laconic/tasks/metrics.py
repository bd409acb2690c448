"""The number that may not be lost: named metrics, and a user's own function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.answers import Answers, read_answers, read_values
from laconic.core.batches import rows
from laconic.core.errors import BadInput, LaconicError, nearest
from laconic.core.extensions import extended
from laconic.core.reading import told
from laconic.core.task import Direction, Task
from laconic.tasks import metric_functions
from laconic.tasks.metric_functions import WeightedMetric

Score = Callable[[Tensor, Any], float]
PerExample = Callable[[Tensor, Tensor], Tensor | None]
Resampled = Callable[[np.ndarray], float]
Chosen = Callable[[Any], Any] | str | int | None  # the part of a target, as of `Task.target`
# What a function may raise on a resample that lacks a class; on all examples it was computed before.
_REFUSED = (ArithmeticError, LookupError, RuntimeError, ValueError)


def _whole(target: Any) -> Any:
    return target


def leaf_of(target: Any, chosen: Chosen, name: str) -> Tensor:
    """Return the tensor of a target that a named metric looks at.

    Args:
        target: as the loss gets it, or joined: a tensor, or a mapping, tuple or list of parts.
        chosen: by `Task.target`: a function, or the key or position of a part; None: the target itself, or its only part.
        name: of the metric, for the message.

    Raises:
        BadInput: the target has several parts and none was chosen, there is no such part, or the part is no tensor.
    """
    if callable(chosen):
        picked = chosen(target)
    elif chosen is None or isinstance(target, Tensor):
        parts = list(_parts(target))
        picked = target if isinstance(target, Tensor) or len(parts) != 1 else parts[0][1]
    else:
        picked = dict(_parts(target)).get(chosen)
    if isinstance(picked, np.ndarray) and picked.dtype != object:
        return torch.as_tensor(picked)
    if isinstance(picked, Tensor):
        return picked
    raise BadInput(_which(target, picked, chosen, name))


def _parts(target: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(target, Mapping):
        yield from target.items()
    elif isinstance(target, (tuple, list)):
        yield from enumerate(target)


def _which(target: Any, picked: Any, chosen: Chosen, name: str) -> str:
    parts = [(key, part) for key, part in _parts(target)]
    tensors = [f"{key!r} {tuple(part.shape)}" for key, part in parts if isinstance(part, Tensor)]
    mend = "give a function as the metric, (logits, target) -> float with direction='max' or 'min', which gets the whole target"
    if isinstance(target, list) or not tensors:
        return f"'{name}' looks at one tensor of targets; these are {_described(target)}: {mend}"
    first = next(key for key, part in parts if isinstance(part, Tensor))
    asked = f", and Task(target={chosen!r}) gives {_described(picked)}" if chosen is not None else ""
    return f"'{name}' looks at one tensor of targets; this target has {', '.join(tensors)}{asked}. Say which, e.g. Task(target={first!r}), or {mend}"


def _described(value: Any) -> str:
    if isinstance(value, list):
        return f"a list with an entry for each example ({type(value[0]).__name__})" if value else "an empty list"
    return "nothing" if value is None else type(value).__name__


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
        read: brings logits and target, as `pick` returns it, into one form, `(logits, target, axis=None)` with the dimension of the classes where it is
            known; None for a user's own metric, which takes them as they are.
        resampled: from logits and target to a function from positions of examples, shape (k,), to their score, scaled; NaN where it is not defined.
        undefined: why there is no score, by the target alone; None where there is one.
        pick: the tensor of a whole target that is looked at; the other functions take the whole.
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
    pick: Callable[[Any], Any] = _whole

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
    chosen: Chosen = None

    @property
    def scale(self) -> float:
        return 100.0 if self.row.percent else 1.0

    def pick(self, target: Any) -> Tensor:
        return leaf_of(target, self.chosen, self.row.name)

    def read(self, logits: Tensor, target: Tensor, axis: int | None = None) -> Answers:
        if not self.row.percent:
            return read_values(logits, target, self.ignore)
        return read_answers(logits, target, self.ignore, self.class_axis if axis is None else axis)

    def weighted(self, logits: Tensor, target: Any) -> WeightedMetric:
        answers = self.read(logits, self.pick(target))
        if why := self.row.undefined(answers):
            raise Undefined(f"'{self.row.name}' is not defined here: {why}")
        return self.row.function(answers)

    def score(self, logits: Tensor, target: Any) -> float:
        return self.scale * self.weighted(logits, target).value(np.ones(len(self.pick(target))))

    def per_example(self, logits: Tensor, target: Any) -> Tensor | None:
        scores = self.weighted(logits, target).per_example
        return None if scores is None else torch.from_numpy(scores)

    def resampled(self, logits: Tensor, target: Any) -> Resampled:
        n, value = len(self.pick(target)), self.weighted(logits, target).value
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
            pick=self.pick,
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
        return _Named(_BY_NAME[task.metric], task.ignore, task.class_axis, task.target).spec()
    if callable(task.metric) or task.target is None:
        return spec
    return _of_part(spec, task.target)


def _of_part(spec: MetricSpec, chosen: Chosen) -> MetricSpec:
    """Return another package's metric that looks at one part of a target."""

    def pick(target: Any) -> Tensor:
        return leaf_of(target, chosen, spec.name)

    each, resampled = spec.per_example, spec.resampled
    return replace(
        spec,
        score=lambda logits, target: spec.score(logits, pick(target)),
        per_example=None if each is None else lambda logits, target: each(logits, pick(target)),
        resampled=None if resampled is None else lambda logits, target: resampled(logits, pick(target)),
        pick=pick,
    )


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
    return MetricSpec(_name(metric), direction, 1.0, "", _Own(metric))


class MetricFailed(BadInput):
    """A user's metric raised, or returned what is no number."""


@dataclass(frozen=True)
class _Own:
    """A user's function as a score: whatever it raises or returns, it is told by its name."""

    metric: Callable[[Any, Any], Any]

    def __call__(self, logits: Tensor, target: Any) -> float:
        name, n = _name(self.metric), len(logits)
        try:
            value = self.metric(logits, target)
        except (LaconicError, MemoryError):
            raise
        except Exception as error:
            raise MetricFailed(f"the metric '{name}' failed on {n} examples: {told(error)}") from error
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError
            return float(value.item() if isinstance(value, (Tensor, np.ndarray)) else value)
        except (TypeError, ValueError, RuntimeError):
            what = f"{type(value).__name__} of shape {tuple(value.shape)}" if isinstance(value, (Tensor, np.ndarray)) else repr(value)[:80]
            raise MetricFailed(f"the metric '{name}' must return one number for {n} examples; it returned {what}") from None


def _name(metric: Callable[..., Any]) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))
