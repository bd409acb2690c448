"""Schedules: progress in [0, 1] to a value. One type for learning rate, sparsity, temperature and bit width.

A progress outside [0, 1] is clamped, so that a schedule past its end stays at its last value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def _clamp(progress: float) -> float:
    return min(1.0, max(0.0, progress))


def constant(value: float) -> Schedule:
    """The same value throughout."""
    return lambda progress: value


def linear(start: float, end: float) -> Schedule:
    """A straight line.

    >>> linear(1.0, 0.0)(0.25)
    0.75
    """
    return lambda progress: start + (end - start) * _clamp(progress)


def cosine(start: float, end: float = 0.0) -> Schedule:
    """Half a cosine wave (Loshchilov & Hutter 2017, eq. 5, without restarts).

    >>> cosine(1.0)(0.5)
    0.5
    """
    return lambda progress: end + (start - end) * 0.5 * (1 + math.cos(math.pi * _clamp(progress)))


def polynomial(start: float, end: float, power: float) -> Schedule:
    """`end + (start - end)(1 - progress)^power`; power 3 is the sparsity schedule of Zhu & Gupta 2017, eq. 1."""
    return lambda progress: end + (start - end) * (1 - _clamp(progress)) ** power


def exponential(start: float, end: float) -> Schedule:
    """A constant factor per unit of progress; both ends positive.

    >>> exponential(1.0, 0.01)(0.5)
    0.1
    """
    return lambda progress: start * (end / start) ** _clamp(progress)


def step(value: float, gamma: float = 0.1, at: Sequence[float] = (0.5, 0.75)) -> Schedule:
    """Multiply by `gamma` at each of the progress points `at`.

    >>> step(1.0, 0.5, at=(0.5,))(0.6)
    0.5
    """
    return lambda progress: float(value * gamma ** sum(_clamp(progress) >= point for point in at))


def restarts(start: float, end: float = 0.0, cycles: int = 2) -> Schedule:
    """Half a cosine wave, several times over (Loshchilov & Hutter 2017, eq. 5, cycles of one length).

    >>> restarts(1.0, cycles=2)(0.5)
    1.0
    """
    wave = cosine(start, end)
    return lambda progress: wave(_clamp(progress) * cycles % 1.0 if progress < 1 else 1.0)


def triangular(low: float, high: float, cycles: int = 3, shrink: float = 1.0) -> Schedule:
    """Up and down between two values (Smith 2017, section 3); each cycle's height is `shrink` times the one's before: 0.5 is "triangular2".

    >>> triangular(0.0, 1.0, cycles=2, shrink=0.5)(0.75)
    0.5
    """

    def value(progress: float) -> float:
        position = _clamp(progress) * cycles
        cycle = min(int(position), cycles - 1)
        return float(low + (high - low) * (1 - abs(2 * (position - cycle) - 1)) * shrink**cycle)

    return value


def exp_range(low: float, high: float, cycles: int = 3, shrink: float = 0.1) -> Schedule:
    """Up and down between two values, the height falling by a constant factor to `shrink` at the end (Smith 2017, section 3)."""
    wave = triangular(0.0, 1.0, cycles)
    return lambda progress: float(low + (high - low) * wave(progress) * shrink ** _clamp(progress))


def one_cycle(peak: float, rise: float = 0.3, first: float = 1 / 25, last: float = 1e-4) -> Schedule:
    """From `first` of the peak up to it during `rise` of the way, then down to `last` of the first, both as half a cosine wave (Smith & Topin 2019)."""
    up, down = cosine(peak * first, peak), cosine(peak, peak * first * last)
    return lambda progress: up(progress / rise) if progress < rise else down((progress - rise) / (1 - rise))


def inverse_sqrt(value: float, span: float = 9.0) -> Schedule:
    """`value / √(1 + span · progress)`: after a warm-up of w steps and with span = (all steps - w) / w, that of Vaswani et al. 2017, eq. 3.

    >>> inverse_sqrt(1.0, 3.0)(1.0)
    0.5
    """
    return lambda progress: value / math.sqrt(1 + span * _clamp(progress))


def plateau(history: Sequence[float], factor: float = 0.1, patience: int = 10, threshold: float = 1e-4) -> float:
    """What a rate is multiplied by after these losses: `factor` more each time that none of `patience` + 1 epochs fell below (1 - threshold) of the best.

    Args:
        history: a figure of each epoch, less is better.
        threshold: relative to the best figure's size.

    >>> plateau([1.0, 0.9, 0.9, 0.9], factor=0.5, patience=1)
    0.5
    """
    best, waiting, found = math.inf, 0, 1.0
    for figure in history:
        better = best == math.inf or figure < best - threshold * abs(best)
        best, waiting = (figure, 0) if better else (best, waiting + 1)
        if waiting > patience:
            found, waiting = found * factor, 0
    return found


def warmup(schedule: Schedule, fraction: float) -> Schedule:
    """Rise linearly to the schedule's first value during `fraction` of the way, then run it over the rest.

    >>> warmup(constant(2.0), 0.5)(0.25)
    1.0
    """
    if fraction <= 0:
        return schedule

    def value(progress: float) -> float:
        progress = _clamp(progress)
        if progress < fraction:
            return schedule(0.0) * progress / fraction
        return schedule((progress - fraction) / (1 - fraction) if fraction < 1 else 1.0)

    return value
