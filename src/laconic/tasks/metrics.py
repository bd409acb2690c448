"""The number that may not be lost: named metrics through torchmetrics, and a user's own function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laconic.core.errors import BadInput, nearest, need
from laconic.core.task import Direction

Score = Callable[[Tensor, Tensor], float]
PerExample = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MetricSpec:
    """A metric.

    Attributes:
        name: of the metric.
        direction: whether ``max`` or ``min`` is better.
        scale: points in one unit of the raw metric: 100 for shares, which are told in percent; 1 for the rest.
        unit: of the score, ``%`` or empty.
        score: from logits (n, …) and target (n, …) to the score, scaled.
        per_example: each example's raw score, shape (n,), where the metric is their mean; makes paired intervals exact and fast.
    """

    name: str
    direction: Direction
    scale: float
    unit: str
    score: Score
    per_example: PerExample | None = None


def classes_of(logits: Tensor) -> Tensor:
    """The predicted class: of two-class logits without a class dimension (n,) or (n, 1) by their sign, else the largest along dimension 1."""
    if logits.dim() == 1 or logits.shape[1] == 1:
        return (logits.reshape(logits.shape[0], *logits.shape[2:]) > 0).long()
    return logits.argmax(1)


def _correct(logits: Tensor, target: Tensor) -> Tensor:
    return (
        (classes_of(logits) == target.reshape(classes_of(logits).shape))
        .double()
        .flatten(1 if logits.dim() > 2 else 0)
        .reshape(len(logits), -1)
        .mean(1)
    )


def _squared(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.double().reshape(target.shape) - target.double()).pow(2).reshape(len(target), -1).mean(1)


def _absolute(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.double().reshape(target.shape) - target.double()).abs().reshape(len(target), -1).mean(1)


def _classified(name: str, **options: Any) -> Score:
    """A classification metric of torchmetrics, in percent; binary or multiclass as the logits say."""

    def score(logits: Tensor, target: Tensor) -> float:
        functional = need("torchmetrics.functional.classification")
        if logits.dim() == 1 or logits.shape[1] == 1:
            return 100 * float(getattr(functional, f"binary_{name}")(logits.reshape(target.shape).float().sigmoid(), target.long()))
        return 100 * float(
            getattr(functional, f"multiclass_{name}")(logits.float().softmax(1), target.long(), num_classes=logits.shape[1], **options)
        )

    return score


def _regressed(name: str, **options: Any) -> Score:
    def score(logits: Tensor, target: Tensor) -> float:
        function = getattr(need("torchmetrics.functional.regression"), name)
        return float(function(logits.reshape(target.shape).double().flatten(), target.double().flatten(), **options))

    return score


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec("accuracy", "max", 100.0, "%", _classified("accuracy", average="micro"), _correct),
        MetricSpec("balanced_accuracy", "max", 100.0, "%", _classified("accuracy", average="macro")),
        MetricSpec("f1", "max", 100.0, "%", _classified("f1_score", average="macro")),
        MetricSpec("auroc", "max", 100.0, "%", _classified("auroc", average="macro")),
        MetricSpec("mse", "min", 1.0, "", _regressed("mean_squared_error"), _squared),
        MetricSpec("mae", "min", 1.0, "", _regressed("mean_absolute_error"), _absolute),
        MetricSpec("rmse", "min", 1.0, "", _regressed("mean_squared_error", squared=False)),
        MetricSpec("r2", "max", 1.0, "", _regressed("r2_score")),
    )
}


def resolve(metric: str | Callable[[Any, Any], float], direction: Direction | None = None) -> MetricSpec:
    """The metric of this name, or of a user's function `(logits, target) -> float`.

    Raises:
        BadInput: an unknown name, a function without a direction, or a direction that contradicts the metric.
    """
    if direction not in ("max", "min", None):
        raise BadInput(f"direction: {direction!r}; write 'max' where more is better, 'min' where less is")
    if isinstance(metric, str):
        if metric not in METRICS:
            raise BadInput(f"'{metric}' is not a metric." + nearest(metric, METRICS))
        found = METRICS[metric]
        if direction not in (None, found.direction):
            raise BadInput(
                f"direction '{direction}' contradicts the metric '{metric}', of which {found.direction} is better. Leave direction out."
            )
        return found
    if not callable(metric):
        raise BadInput(f"the metric must be a name or a function (logits, target) -> float; it is {type(metric).__name__}")
    if direction is None:
        raise BadInput(f"the metric {_name(metric)} is a function: say with direction='max' or 'min' whether more or less is better")
    return MetricSpec(_name(metric), direction, 1.0, "", lambda logits, target: float(torch.as_tensor(metric(logits, target))))


def _name(metric: Callable[..., Any]) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))
