"""The learning-rate range test (Smith 2017, section 3.3): how the loss answers to a rate that grows from step to step."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from laconic.core.errors import BadInput, TrainingStopped
from laconic.core.schedule import exponential
from laconic.core.task import FitPlan, Silent
from laconic.train.engine import fit

_MEMORY = 0.9  # of the moving average over steps
_DIVERGED = 4.0  # times the best smoothed loss: there the test ends
_FEWEST = 10  # steps that a slope can be read from


@dataclass(frozen=True)
class RangeTest:
    """Learning rates and smoothed losses, step by step, and the rate at which the loss falls fastest over the rate's logarithm."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    proposal: float


class _Ended(Exception):
    pass


class _Losses(Silent):
    """Progress that keeps the smoothed loss of each step, and ends the training after so many or when it has diverged."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.smoothed: list[float] = []
        self._mean = 0.0

    @property
    def seen(self) -> int:
        return len(self.smoothed)

    def advance(self, n: int = 1, **facts: Any) -> None:
        if "loss" not in facts:
            return
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * facts["loss"]
        self.smoothed.append(self._mean / (1 - _MEMORY ** (self.seen + 1)))
        diverged = self.seen > _FEWEST and self.smoothed[-1] > _DIVERGED * min(self.smoothed)
        if diverged or self.seen == self.steps:
            raise _Ended


def range_test(
    model: nn.Module,
    plan: FitPlan,
    *,
    train: Dataset[Any],
    loss: Callable[[Any, Any], Any],
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    **more: Any,
) -> RangeTest:
    """Train a copy of the model while the rate rises from `low` to `high`, and propose a peak rate.

    Args:
        model: not changed.
        plan: its optimizer, batch size and so on; its epochs, rate and schedule are not used.
        train: examples.
        loss: `(outputs, target) -> scalar tensor`.
        low: first learning rate.
        high: last one; the test ends before it where the loss has grown to four times its best.
        steps: at most.
        more: of `fit`: split, collate, …

    Raises:
        BadInput: the rates do not rise, or the loss diverged before ten steps.
    """
    if not 0 < low < high or steps < _FEWEST:
        raise BadInput(f"a range test rises from low to high in {_FEWEST} steps or more; given: {low:g}, {high:g}, {steps} steps")
    rate = exponential(low, high)
    epochs = math.ceil(steps / max(1, len(train) // plan.batch_size))  # type: ignore[arg-type]
    plain = replace(plan, epochs=epochs, warmup=0.0, accumulate=1, patience=None, average="none", hints=(), distill=0.0)
    told = _Losses(steps)
    with contextlib.suppress(_Ended, TrainingStopped):
        fit(copy.deepcopy(model), plain, train=train, loss=loss, rate=lambda _: rate(told.seen / (steps - 1)), progress=told, **more)
    found = told.smoothed
    if len(found) < _FEWEST:
        raise BadInput(f"the loss diverged after {len(found)} steps: start lower than {low:g}")
    rates = [rate(index / (steps - 1)) for index in range(len(found))]
    return RangeTest(tuple(rates), tuple(found), _steepest(rates, found))


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Where the loss falls fastest, before its lowest point."""
    lowest = max(2, int(np.argmin(losses)) + 1)
    slopes = np.gradient(np.array(losses[:lowest]), np.log(rates[:lowest]))
    return float(rates[int(np.argmin(slopes))])
