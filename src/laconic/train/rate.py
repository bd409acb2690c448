"""The learning-rate range test of `core.rate`, on the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from laconic.core import rate
from laconic.core.plan import FitPlan
from laconic.core.rate import RangeTest
from laconic.train.engine import fit


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
        plan: its optimizer, batch size and so on; its epochs, rate and schedule are not used, and it has no teacher here.
        train: examples.
        loss: `(outputs, target) -> scalar tensor`.
        low: first learning rate.
        high: last one; the test ends before it where the loss has grown to four times its best.
        steps: at most.
        more: of `fit`: split, collate, …

    Raises:
        BadInput: the rates do not rise, or the loss diverged before ten steps.
    """

    def trained(copied: nn.Module, plain: FitPlan, **given: Any) -> None:
        fit(copied, plain, train=train, loss=loss, **given, **more)

    examples = len(train)  # type: ignore[arg-type]
    return rate.range_test(model, replace(plan, hints=(), distill=0.0), trained, examples=examples, low=low, high=high, steps=steps)
