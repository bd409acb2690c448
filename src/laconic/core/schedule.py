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
