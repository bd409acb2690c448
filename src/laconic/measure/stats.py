"""Intervals of what was measured in rounds, such as a ratio of latencies; those of scores and of seeds stand in `paired` and `seeds`.

All intervals are 95 % intervals of a median by order statistics (Hettmansperger & Sheather 1986): they ask nothing of the distribution but that rounds do not
depend on each other. Percentiles of a bootstrap, which resamples the rounds, miss the median of 15 rounds in 6 to 7 % of cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import median

import numpy as np

from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.measure.paired import paired_bootstrap, paired_difference, unseen_share
from laconic.measure.seeds import holm, over_seeds, paired_gain, paired_p

__all__ = [
    "holm",
    "median_of_rounds",
    "over_seeds",
    "paired_bootstrap",
    "paired_difference",
    "paired_gain",
    "paired_p",
    "ratio_of_rounds",
    "unseen_share",
]

LEVEL = 0.95
# With fewer rounds even their least and greatest value hold the median in less than 95 % of cases.
FEWEST_FOR_ORDER = 6
# Rounds whose quartiles lie so many times apart are not those of one state of the machine. Quiet ones lie within a few percent, busy ones within a half.
APART = 2.0
FIRST_QUARTILES = 4


def ratio_of_rounds(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Measurement:
    """Return how many times faster `other` is than `base`, from interleaved rounds.

    Each round yields one ratio, of the two medians; the value is the median of these. Rounds are the unit, not single runs, because runs within a round
    share the machine's state. One round has no interval. On a machine so busy that the rounds fall apart (a call on all cores waits for one that another
    process has) the median is that of the disturbance: the lower end of the interval stands for the value then, and the note says so.

    Args:
        base: times per round.
        other: times per round, of the same number of rounds.

    Raises:
        BadInput: the rounds do not pair, or there are none.
    """
    if len(base) != len(other) or not base:
        raise BadInput(f"the ratio needs the same number of rounds of both, at least one; there are {len(base)} and {len(other)}")
    ratios = [float(median(a) / median(b)) for a, b in zip(base, other, strict=True)]
    found = median_of_rounds(ratios, "x")
    lower, upper = np.quantile(ratios, (0.25, 0.75))
    if found.low is None or len(ratios) < FIRST_QUARTILES or upper <= APART * lower:
        return found
    return replace(
        found, value=found.low, note=f"the rounds fall apart, half of them lie outside {lower:,.2f} to {upper:,.2f}: the lower end"
    )


def median_of_rounds(values: Sequence[float], unit: str) -> Measurement:
    """Return the median of one positive figure per round, with its interval.

    Args:
        values: one of each round, above 0.
        unit: of the figure.
    """
    logs = np.sort(np.log(np.asarray(values, dtype=float)))
    value, n = float(np.median(values)), len(values)
    if n < 2:
        return Measurement(value, unit, n=n, note="one round has no interval")
    low, high = np.exp(_by_order(logs) if n >= FEWEST_FOR_ORDER else _by_student(logs))
    return Measurement(value, unit, n=n, low=min(float(low), value), high=max(float(high), value))


def _by_order(ordered: np.ndarray) -> np.ndarray:
    """Return the interval between two neighboring pairs of order statistics, interpolated so that it holds the median in 95 % of cases."""
    n = len(ordered)
    d, weight = _pair(n)
    ends = [(1 - weight) * ordered[d - 1] + weight * ordered[d], (1 - weight) * ordered[n - d] + weight * ordered[n - d - 1]]
    return np.array(ends)


@lru_cache
def _pair(n: int) -> tuple[int, float]:
    """Return the outer pair of n order statistics, by its place from the ends, and the weight of the inner one beside it."""
    d = next(k for k in range(n) if _cdf(k, n) >= (1 - LEVEL) / 2)  # the innermost pair that holds it in 95 % or more
    outer, inner = _between(d, n), _between(d + 1, n)
    share = (outer - LEVEL) / (outer - inner)
    return d, (n - d) * share / (d + (n - 2 * d) * share)


def _between(d: int, n: int) -> float:
    """Return how often the median of the distribution lies between the d-th least and the d-th greatest of n."""
    return 1 - 2 * _cdf(d - 1, n)


def _cdf(k: int, n: int) -> float:
    """Return how often n fair coins show k heads or fewer: counted, so that a machine that only times a file needs no SciPy."""
    return sum(math.comb(n, heads) for heads in range(k + 1)) / 2**n


def _by_student(logs: np.ndarray) -> np.ndarray:
    from scipy.stats import t

    half = t.ppf(0.5 + LEVEL / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return np.array([logs.mean() - half, logs.mean() + half])
