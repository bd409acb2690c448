"""Schedules: progress in [0, 1] to a value. One type for learning rate, sparsity, temperature and bit width.

A progress outside [0, 1] is clamped, so that a schedule past its end stays at its last value. Step k (from 0) of n steps is at progress k / n, as PyTorch's
schedulers count: the first step has the first value, and the last one comes before the end, where many schedules are 0. Those whose paper or whose
counterpart in PyTorch counts whole steps take `steps` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]
_SAME = 1e-9  # of two progresses: k / n is rounded, and must not fall before the boundary that it is


def _clamp(progress: float) -> float:
    return min(1.0, max(0.0, progress))


def constant(value: float) -> Schedule:
    """Keep the same value throughout."""
    return lambda progress: value


def linear(start: float, end: float) -> Schedule:
    """Follow a straight line from `start` to `end`.

    >>> linear(1.0, 0.0)(0.25)
    0.75
    """
    return lambda progress: start + (end - start) * _clamp(progress)


def cosine(start: float, end: float = 0.0) -> Schedule:
    """Follow half a cosine wave (Loshchilov & Hutter 2017, eq. 5, without restarts).

    >>> cosine(1.0)(0.5)
    0.5
    """
    return lambda progress: end + (start - end) * 0.5 * (1 + math.cos(math.pi * _clamp(progress)))


def polynomial(start: float, end: float, power: float) -> Schedule:
    """Follow `end + (start - end)(1 - progress)^power`; power 3 is the sparsity schedule of Zhu & Gupta 2017, eq. 1."""
    return lambda progress: end + (start - end) * (1 - _clamp(progress)) ** power


def exponential(start: float, end: float) -> Schedule:
    """Multiply by a constant factor per unit of progress; both ends positive.

    >>> exponential(1.0, 0.01)(0.5)
    0.1
    """
    return lambda progress: start * (end / start) ** _clamp(progress)


def step(value: float, gamma: float = 0.1, at: Sequence[float] = (0.5, 0.75)) -> Schedule:
    """Multiply by `gamma` at each of the progress points `at`.

    >>> step(1.0, 0.5, at=(0.5,))(0.6)
    0.5
    """
    return lambda progress: float(value * gamma ** sum(_clamp(progress) >= point - _SAME for point in at))


def restarts(start: float, end: float = 0.0, cycles: int = 2) -> Schedule:
    """Follow half a cosine wave, several times over (Loshchilov & Hutter 2017, eq. 5, cycles of one length).

    >>> restarts(1.0, cycles=2)(0.5)
    1.0
    """
    wave = cosine(start, end)

    def value(progress: float) -> float:
        position = _clamp(progress) * cycles
        return wave(position - math.floor(position + _SAME) if progress < 1 else 1.0)

    return value


def triangular(low: float, high: float, cycles: int = 3, shrink: float = 1.0) -> Schedule:
    """Go up and down between two values (Smith 2017, section 3); each cycle's height is `shrink` times the one's before: 0.5 is "triangular2".

    >>> triangular(0.0, 1.0, cycles=2, shrink=0.5)(0.75)
    0.5
    """

    def value(progress: float) -> float:
        position = _clamp(progress) * cycles
        cycle = min(int(position), cycles - 1)
        return float(low + (high - low) * (1 - abs(2 * (position - cycle) - 1)) * shrink**cycle)

    return value


def exp_range(low: float, high: float, cycles: int = 3, shrink: float = 0.1) -> Schedule:
    """Go up and down between two values, the height falling by a constant factor to `shrink` at the end (Smith 2017, section 3)."""
    wave = triangular(0.0, 1.0, cycles)
    return lambda progress: float(low + (high - low) * wave(progress) * shrink ** _clamp(progress))


def one_cycle(peak: float, rise: float = 0.3, first: float = 1 / 25, last: float = 1e-4, steps: int | None = None) -> Schedule:
    """Rise from `first` of the peak up to it during `rise` of the way, then fall to `last` of the first, both as half a cosine wave (Smith & Topin 2019).

    Args:
        peak: the largest value.
        rise: share of the way, PyTorch's `pct_start`.
        first: of the peak: 1 over PyTorch's `div_factor`.
        last: of the first value: 1 over PyTorch's `final_div_factor`.
        steps: of the whole way; then step for step that of PyTorch's OneCycleLR, which is at the peak at step rise · steps - 1 and at the end in the last step.
            None: the limit of many steps.

    >>> one_cycle(1.0, rise=0.5, steps=10)(0.4)
    1.0
    """
    grain = 0.0 if steps is None else 1 / steps
    top, end = rise - grain, 1 - grain
    up, down = cosine(peak * first, peak), cosine(peak, peak * first * last)

    def value(progress: float) -> float:
        progress = _clamp(progress)
        return up(progress / top) if progress < top else down((progress - top) / (end - top))

    return value


def inverse_sqrt(value: float, span: float = 9.0, first: float = 1.0) -> Schedule:
    """Follow `value / √(first + span · progress)`.

    After a warm-up of w steps of n and with span = (n - w) / w and first = 1 + 1 / w, that of Vaswani et al. 2017, eq. 3, whose steps are counted from 1.

    >>> inverse_sqrt(1.0, 3.0)(1.0)
    0.5
    """
    return lambda progress: value / math.sqrt(first + span * _clamp(progress))


def plateau(history: Sequence[float], factor: float = 0.1, patience: int = 10, threshold: float = 1e-4) -> float:
    """Return the factor of a rate after these losses: `factor` more each time that none of `patience` + 1 epochs fell below (1 - threshold) of the best.

    Args:
        history: a figure of each epoch, less is better.
        threshold: relative to the best figure's size.

    >>> plateau([1.0, 0.9, 0.9, 0.9], factor=0.5, patience=1)
    0.5
    """
    best, waiting, product = math.inf, 0, 1.0
    for figure in history:
        better = best == math.inf or figure < best - threshold * abs(best)
        best, waiting = (figure, 0) if better else (best, waiting + 1)
        if waiting > patience:
            product, waiting = product * factor, 0
    return product


def warmup(schedule: Schedule, fraction: float, steps: int | None = None, top: float | None = None) -> Schedule:
    """Rise linearly to the schedule's first value during `fraction` of the way, then run it over the rest.

    Args:
        schedule: what follows.
        fraction: of the way.
        steps: of the whole way; then the rise takes `warm_steps` of them, the first of which is already above 0 and the last at the schedule's first value:
            (k + 1) / w of it in step k of w (Goyal et al. 2017, section 2.2, gradual warm-up). None: the limit of many steps, from 0.
        top: where it rises to, if that is not the schedule's first value.

    >>> warmup(constant(2.0), 0.5)(0.25)
    1.0
    >>> [warmup(constant(2.0), 0.5, steps=8)(k / 8) for k in range(5)]
    [0.5, 1.0, 1.5, 2.0, 2.0]
    """
    if fraction <= 0:
        return schedule
    grain = 0.0 if steps is None else 1 / steps
    rise = fraction if steps is None else warm_steps(fraction, steps) / steps

    def value(progress: float) -> float:
        progress = _clamp(progress)
        if progress < rise - _SAME:
            return (schedule(0.0) if top is None else top) * min(1.0, (progress + grain) / rise)
        return schedule((progress - rise) / (1 - rise) if rise < 1 else 1.0)

    return value


def warm_steps(fraction: float, steps: int) -> int:
    """Return how many of all steps a warm-up takes: none, or the nearest whole number, one at least.

    >>> warm_steps(0.1, 24)
    2
    """
    return 0 if fraction <= 0 else max(1, round(fraction * steps))
