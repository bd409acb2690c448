"""The learning-rate range test (Smith 2017, section 3.3): how the loss answers to a rate that grows from step to step."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from laconic.core.errors import BadInput, TrainingStopped
from laconic.core.plan import FitPlan
from laconic.core.progress import Silent
from laconic.core.schedule import exponential

_MEMORY = 0.9  # of the moving average over steps
_DIVERGED = 4.0  # times the best smoothed loss: there the test ends
_FEWEST = 10  # steps that a slope can be read from
_BELOW = 3.0  # below the edge: one step at a rate that many steps cannot bear does not show yet


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Attributes:
        rates: learning rates, step by step.
        losses: smoothed losses.
        proposal: the rate at which the loss falls fastest over the rate's logarithm.
        safe: a third of the largest rate at which the loss was still as low as it gets.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    proposal: float
    safe: float


class _Ended(Exception):
    pass


class _Losses(Silent):
    """Progress that keeps the loss of each step, and ends the training after so many or when it has diverged."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.plain: list[float] = []
        self.smoothed: list[float] = []
        self._mean = 0.0

    @property
    def seen(self) -> int:
        return len(self.smoothed)

    def advance(self, n: int = 1, **facts: Any) -> None:
        if "loss" not in facts:
            return
        self.plain.append(facts["loss"])
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * facts["loss"]
        self.smoothed.append(self._mean / (1 - _MEMORY ** (self.seen + 1)))
        diverged = self.seen > _FEWEST and self.smoothed[-1] > _DIVERGED * min(self.smoothed)
        if diverged or self.seen == self.steps:
            raise _Ended


def range_test(
    model: nn.Module, plan: FitPlan, fit: Callable[..., Any], *, examples: int, low: float = 1e-6, high: float = 1.0, steps: int = 100
) -> RangeTest:
    """Train a copy of the model while the rate rises from `low` to `high`, and propose a peak rate.

    Args:
        model: not changed.
        plan: its optimizer, batch size, teacher and so on; its epochs, rate and schedule are not used.
        fit: `(model, plan, rate=…, progress=…)` trains in place, as `laconic.fit` does.
        examples: in the train data.
        low: first learning rate.
        high: last one; the test ends before it where the loss has grown to four times its best.
        steps: at most.

    Raises:
        BadInput: the rates do not rise, or the loss diverged before ten steps.
    """
    if not 0 < low < high or steps < _FEWEST:
        raise BadInput(f"a range test rises from low to high in {_FEWEST} steps or more; given: {low:g}, {high:g}, {steps} steps")
    rate = exponential(low, high)
    epochs = math.ceil(steps / max(1, examples // plan.batch_size))
    plain = replace(plan, epochs=epochs, schedule="constant", warmup=0.0, accumulate=1, patience=None, average="none")
    told = _Losses(steps)
    with contextlib.suppress(_Ended, TrainingStopped):
        fit(copy.deepcopy(model), plain, rate=lambda _: rate(told.seen / (steps - 1)), progress=told)
    if told.seen < _FEWEST:
        raise BadInput(f"the loss diverged after {told.seen} steps of the range test: start lower than {low:g}, or give the rate (lr)")
    rates = [rate(index / (steps - 1)) for index in range(told.seen)]
    return RangeTest(tuple(rates), tuple(told.smoothed), _steepest(rates, told.smoothed), _edge(rates, told) / _BELOW)


def _steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest, before its lowest point."""
    lowest = max(2, int(np.argmin(losses)) + 1)
    slopes = np.gradient(np.array(losses[:lowest]), np.log(rates[:lowest]))
    return float(rates[int(np.argmin(slopes))])


def _edge(rates: Sequence[float], told: _Losses) -> float:
    """Return the largest rate at which the smoothed loss is at its lowest, within its noise: the deviation of steps, less what the moving average leaves of it.

    A moving average tells of earlier steps, on average so many as its memory is long.
    """
    smoothed = np.array(told.smoothed)
    noise = 1.4826 * np.median(np.abs(np.array(told.plain) - smoothed)) * math.sqrt((1 - _MEMORY) / (1 + _MEMORY))
    last = int(np.flatnonzero(smoothed <= smoothed.min() + noise)[-1])
    late = min(last // 2, round(_MEMORY / (1 - _MEMORY)))
    return float(rates[last - late])
