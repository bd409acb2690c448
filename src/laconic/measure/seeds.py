"""Figures over runs with different seeds: their mean, the gain of one variant over another, and the correction for many variants.

Runs are few, so intervals are Student's, on two seeds with one degree of freedom. Seeds that agree are luck or the figure's coarse steps (an accuracy of 360
examples moves by 0.28 points), never certainty: the standard deviation counts as at least what rounding to these steps leaves, step/√12 (Sheppard).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.measure.paired import POINTS

LEVEL = 0.975


def over_seeds(
    values: Sequence[float], unit: str, bounds: tuple[float, float] | None = None, resolution: float | None = None
) -> Measurement:
    """Return the mean over runs with Student's 95 % interval, which always has a width; one run has none.

    Args:
        values: the figure of each run.
        unit: of the figure.
        bounds: the least and greatest value that the figure can have; the interval ends there.
        resolution: the smallest step of the figure, e.g. 100/n points for an accuracy over n examples. None: where all runs agree, 1 % of the figure (0.1
            where it is 0).
    """
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Measurement(mean, unit, n=n)
    half = float(t.ppf(LEVEL, n - 1)) * _deviation(values, resolution) / math.sqrt(n)
    least, most = (-math.inf, math.inf) if bounds is None else bounds
    note = "all seeds agree; the interval is that of the figure's smallest step" if np.ptp(values) == 0 else ""
    return Measurement(mean, unit, n=n, low=min(max(mean - half, least), mean), high=max(min(mean + half, most), mean), note=note)


def paired_gain(
    values: Sequence[float],
    base: Sequence[float],
    *,
    direction: str = "max",
    unit: str = POINTS,
    bounds: tuple[float, float] | None = None,
    resolution: float | None = None,
) -> Measurement:
    """Return by how much one variant is better than another, paired by seed; a fall is the gain of a metric of which less is better.

    Args:
        values: the metric of each run.
        base: the metric of the other variant's runs with the same seeds.
        direction: ``max`` or ``min``.
        unit: of the gain.
        bounds: of the metric, not of the gain: a base of 97 % can gain 3 points at most.
        resolution: as for `over_seeds`.
    """
    gains = _gains(values, base, direction)
    mean = float(np.mean(base))
    ends = None if bounds is None else sorted((_sign(direction) * (bounds[0] - mean), _sign(direction) * (bounds[1] - mean)))
    return over_seeds(gains, unit, None if ends is None else (ends[0], ends[1]), resolution)


def paired_p(values: Sequence[float], base: Sequence[float], resolution: float | None = None) -> float:
    """Return the two-sided p-value of Student's paired test that two variants are equally good; NaN for one seed, which tells nothing.

    Args:
        values: the metric of each run.
        base: the metric of the other variant's runs with the same seeds.
        resolution: as for `over_seeds`.
    """
    from scipy.stats import t

    gains = _gains(values, base, "max")
    if len(gains) < 2:
        return math.nan
    statistic = float(np.mean(gains)) / (_deviation(gains, resolution) / math.sqrt(len(gains)))
    return float(2 * t.sf(abs(statistic), len(gains) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order given; NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _sign(direction: str) -> float:
    return 1.0 if direction == "max" else -1.0


def _gains(values: Sequence[float], base: Sequence[float], direction: str) -> list[float]:
    if len(values) != len(base) or not len(values):
        raise BadInput(f"a paired gain needs the same seeds of both variants, at least one; there are {len(values)} and {len(base)} runs")
    return [_sign(direction) * (value - other) for value, other in zip(values, base, strict=True)]


def _deviation(values: Sequence[float], resolution: float | None) -> float:
    deviation = float(np.std(values, ddof=1))
    if resolution is None and np.ptp(values) == 0:
        resolution = abs(float(values[0])) / 100 or 0.1
    return max(deviation, (resolution or 0.0) / math.sqrt(12))
