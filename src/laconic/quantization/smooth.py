"""SmoothQuant as a step of its own: for who chooses weights' values before they are rounded, and so needs the ranges in their places before."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from laconic.core.calibrate import calibration_batches, observe
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.core.step import Stage, StepConfig, step
from laconic.core.task import Task
from laconic.quantization import correct
from laconic.quantization.layers import as_context
from laconic.quantization.options import ALPHA


@dataclass(frozen=True)
class SmoothNorms(StepConfig):
    """Ranges of what norms put out, moved into the weights of the linear layers behind them. What is computed stays.

    Args:
        alpha: the share of a range that moves: ``max|x|^alpha / max|w|^(1 - alpha)``.
        examples: of the train data, on which ranges are seen.
        batch_size: of them at a time.
    """

    stage: ClassVar[Stage] = "folding"
    calibrates: ClassVar[bool] = True

    alpha: float = ALPHA
    examples: int = 64
    batch_size: int = 8

    def __post_init__(self) -> None:
        mistakes = [] if 0 < self.alpha < 1 else [f"alpha: {self.alpha} must lie between 0 and 1"]
        mistakes += [f"{name}: {getattr(self, name)} must be 1 or more" for name in ("examples", "batch_size") if getattr(self, name) < 1]
        if mistakes:
            raise BadInput("smoothing so makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


@lru_cache(maxsize=8)
def can_be_smoothed(program: Program) -> bool:
    """Return whether there is a norm to be smoothed; of a program that does not change, looked at once."""
    return bool(correct.smoothing_watchers(program))


@step("smooth_norms", SmoothNorms)
def smooth_norms(program: Program, config: SmoothNorms | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Divide the channels of norms before linear layers by their ranges, and multiply the layers' columns (Xiao et al. 2023, eq. 4).

    `Quantize` does it by itself, unless weights lie on a grid already.

    Args:
        program: not changed.
        config: how far.
        context: or the task alone, on whose train data ranges are seen.

    Returns:
        A program that computes the same, and how many norms were smoothed: none where there is none before linear layers, each with weights of its own.

    Raises:
        BadInput: there is no task, or its data hold what is not finite.
    """
    config, context, result = config or SmoothNorms(), as_context(context), copy.deepcopy(program).eval()
    watchers = correct.smoothing_watchers(result)
    if watchers:
        observe(result, watchers, calibration_batches(context, config.examples, config.batch_size, result), context.progress, "smoothing")
    return result, Outcome("smooth_norms", {"norms": correct.smooth(result, watchers, config.alpha) if watchers else 0})
